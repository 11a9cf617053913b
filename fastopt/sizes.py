"""Sizes that both languages know: ``csrc/sizes.h`` has the same, but for ``GRAIN_AWAKE``, which callers hand over."""

#: Elements that are decoded, stepped and encoded before the next: whole blocks of every storage. They are so few that a
#: processor begins with the next before it has ended with these, and keeps memory busy.
TILE = 256

#: The same where one function decodes, steps and encodes.
CHUNK = 128

#: Elements of a partial sum: whole tiles.
BLOCK = 16384

#: Sums that run side by side in a block.
LANES = 32

#: Elements that are worth a thread: for fewer, waiting for it can cost more than it saves.
GRAIN = 65536

#: The same after backward in torch: the pool is awake, and what backward wrote lies in the caches of all processors.
GRAIN_AWAKE = 16384

#: Short runs of elements, such as rows of a table, that memory sends while another one is worked on.
AHEAD = 8

#: Bytes after what a sum reads that memory is asked for: a loop that writes nothing leaves memory idle otherwise.
FETCH = 2048

#: Bytes of a cache line and of the widest vector register.
LINE = 64
