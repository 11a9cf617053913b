/* Sizes that both languages know: fastopt/sizes.py has the same. */
#ifndef FASTOPT_SIZES_H
#define FASTOPT_SIZES_H

enum {
    TILE = 256,    /* elements that are decoded, stepped and encoded before the next: whole blocks of every storage */
    CHUNK = 128,   /* the same where one function does all three */
    BLOCK = 16384, /* elements of a partial sum: whole tiles */
    LANES = 32,    /* sums that run side by side in a block */
    GRAIN = 65536, /* elements that are worth a thread: for fewer, waiting for it can cost more than it saves */
    AHEAD = 8,     /* short runs, such as rows of a table, that memory sends while another one is worked on */
    FETCH = 2048,  /* bytes after what a sum reads that memory is asked for: a loop that writes nothing leaves idle */
    LINE = 64      /* bytes of a cache line and of the widest vector register */
};

#endif
