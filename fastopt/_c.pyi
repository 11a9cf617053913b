"""The extension that cffi makes of ``csrc/fastopt.h``."""

from typing import Any

ffi: Any
lib: Any
