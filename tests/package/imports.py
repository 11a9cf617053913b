"""The modules of the package and what they import, read from their source."""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "fastopt"


class Import(NamedTuple):
    """An arrow: a module, the one that it imports, and the names that it takes from that."""

    importer: str
    imported: str
    names: tuple[str, ...]
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} -> {self.imported}"


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax trees of all modules, by dotted names; a package has the name of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(), str(path))
    return found


@cache
def imports() -> tuple[Import, ...]:
    """Every import of one module by another, in functions and for type checking, too."""
    found = []
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [Import(module, each.name, (), node.lineno) for each in node.names if each.name in modules()]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
                for each in node.names:
                    inner = f"{node.module}.{each.name}"
                    if inner in modules():
                        found.append(Import(module, inner, (), node.lineno))
                    elif node.module in modules() and inner != "fastopt._c":  # which is compiled
                        found.append(Import(module, str(node.module), (each.name,), node.lineno))
    return tuple(found)


def room(module: str) -> str:
    """The file or folder of the package in which a module is."""
    return module.split(".")[1] if "." in module else module
