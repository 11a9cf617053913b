"""Declares fastopt.h to cffi: the header as it stands, without its preprocessor lines and what is for C++ alone."""

import re
from pathlib import Path

import cffi

header = Path(__file__).with_name("fastopt.h").read_text()
header = re.sub(r"#ifdef __cplusplus\n.*?#endif\n", "", header, flags=re.DOTALL)
constants = re.findall(r"^#define (FASTOPT_\w+) \d+$", header, flags=re.MULTILINE)
declarations = "".join(line for line in header.splitlines(keepends=True) if not line.startswith("#"))
for name in constants:
    declarations = re.sub(rf"\[{name}\]", "[...]", declarations)

ffibuilder = cffi.FFI()
ffibuilder.cdef(declarations)
ffibuilder.set_source("fastopt._c", '#include "fastopt.h"')
