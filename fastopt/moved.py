"""Modules that have moved: the old path stays for one version, says where the module is now, and is that module."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Old paths and the new ones.
MOVED = {
    "fastopt.train.errors": "fastopt.errors",
    "fastopt.train.specs": "fastopt.specs",
}


class _Moved:
    """A finder, asked when no other one has the module, and its loader. Their base classes take long to import."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, cls()) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is {MOVED[spec.name]} now", DeprecationWarning, stacklevel=3)
        self.module = import_module(MOVED[spec.name])
        self.spec = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already. Only what the import system has written over is put back."""
        module.__spec__ = self.spec


def install() -> None:
    """Has ``import`` know the old paths."""
    if _Moved not in sys.meta_path:
        sys.meta_path.append(_Moved)
