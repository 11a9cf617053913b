"""What each storage is: its arrays, and its definition in NumPy. ``README.md`` describes the formats byte for byte."""

from fastopt.errors import did_you_mean
from fastopt.storage import Storage
from fastopt.storages.bfloat16 import bfloat16
from fastopt.storages.float8 import float8_signed, float8_unsigned
from fastopt.storages.float16 import float16
from fastopt.storages.native import float32, float64
from fastopt.storages.split import split

#: Every storage by name. The order is that of their numbers in both engines, as in ``csrc/codecs/all.h``.
STORAGES = {
    storage.name: storage for storage in (float32, float64, bfloat16, float16, split, float8_signed, float8_unsigned)
}

#: The number of each storage in both engines.
NUMBERS = {name: number for number, name in enumerate(STORAGES)}

#: Storages that hold every float32 exactly: rounding makes no difference.
EXACT = ("float32", "float64", "split")


def find(name: str, *, signed: bool = True) -> Storage:
    """The storage of a name as users write it: ``8bit`` is a format with or without a sign.

    ValueError if there is no such storage.
    """
    if name == "8bit":
        return float8_signed if signed else float8_unsigned
    names = (*(known for known in STORAGES if not known.startswith("float8")), "8bit")
    if name not in names:
        raise ValueError(f"storage must be one of {', '.join(names)}, not {name!r}{did_you_mean(name, names)}")
    return STORAGES[name]
