"""The compiled library for programs in C, C++, Cython, ctypes, cffi and JAX: where it is, and pointers into it."""

import ctypes
import os
from typing import Any

from fastopt.backend.choice import why_not
from fastopt.errors import BackendError, nearest

#: The entry points of ``fastopt.h`` that work on memory, each with its C type, which is the name of its capsule.
ENTRY_POINTS = {
    "fastopt_step": "int32_t (const fastopt_call *)",
    "fastopt_step_runs": "int32_t (const fastopt_call *, const fastopt_runs *)",
    "fastopt_blocks": "int64_t (const fastopt_call *)",
    "fastopt_sum_squares": "int32_t (const fastopt_call *, double, double *, double *)",
    "fastopt_measure": "int32_t (const fastopt_call *, int32_t, double *, double *)",
    "fastopt_create": "fastopt_optimizer *(const char *, int32_t, int64_t, int32_t *)",
    "fastopt_state": "void *(fastopt_optimizer *, int32_t)",
    "fastopt_update": "int32_t (fastopt_optimizer *, void *, const void *, const void *, int32_t, int32_t)",
    "fastopt_destroy": "void (fastopt_optimizer *)",
    "fastopt_abi": "int32_t (void)",
    "fastopt_kernel_at": "const fastopt_kernel *(int32_t)",
    "fastopt_find": "int32_t (const char *)",
    "fastopt_sum_at": "const fastopt_sum *(int32_t)",
    "fastopt_find_sum": "int32_t (const char *)",
    "fastopt_best_isa": "int32_t (void)",
    "fastopt_isa_name": "const char *(int32_t)",
    "fastopt_error": "const char *(int32_t)",
    "fastopt_pool": "const char *(void)",
}

# A function object of its own: all who ask ctypes.pythonapi for one share it, with the types of its arguments.
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_names: dict[str, bytes] = {}  # capsules do not copy their names


def get_include() -> str:
    """The folder of ``fastopt.h``, for a C compiler's ``-I``. BackendError if there is no C backend."""
    return os.path.join(_folder(), "include")


def get_library() -> str:
    """The path of the shared library, for a linker, ``dlopen`` or ctypes. BackendError if there is no C backend."""
    folder = os.path.join(_folder(), "lib")
    return next(os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("libfastopt."))


def address(name: str) -> int:
    """The address of an entry point of ``fastopt.h``, for Cython, cffi, ctypes and numba users.

    Raises ValueError if there is no such entry point, BackendError if there is no C backend.
    """
    if name not in ENTRY_POINTS:
        raise ValueError(f"name: no entry point {name!r}; {nearest(name, ENTRY_POINTS)}")
    function = getattr(ctypes.CDLL(get_library()), name)
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def capsule(name: str) -> Any:
    """A PyCapsule of an entry point, named by its C type as Cython's ``__pyx_capi__`` does it.

    Raises ValueError if there is no such entry point, BackendError if there is no C backend.
    """
    pointer = address(name)
    text = _names.setdefault(name, ENTRY_POINTS[name].encode())
    return _new_capsule(pointer, text, None)


def _folder() -> str:
    """Where the C backend's build has put the header and the library: beside the extension."""
    try:
        from fastopt import _c
    except ImportError as error:
        raise BackendError(f"backend 'c' is not available: {why_not('c', error)}") from error
    return os.path.dirname(_c.__file__)
