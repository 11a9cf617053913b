"""What begins with an underscore belongs to its module: no other one imports, calls, sets or names it by string."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from imports import imports, modules

TESTS = Path(__file__).parents[1]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def made(tree: ast.Module) -> set[str]:
    """The private names that a module gives to functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                found.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                found.update(ast.literal_eval(value))
    return set(filter(private, found))


def used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private names that a module imports, asks of an object, or hands to setattr and the like, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if private(name):
                yield node.lineno, name
            case ast.ImportFrom(names=names):
                yield from ((node.lineno, each.name) for each in names if private(each.name))
            case ast.Call(func=ast.Name(id=function) | ast.Attribute(attr=function), args=strings) if (
                "attr" in function
            ):
                yield from named(strings)
            case ast.Dict(keys=strings):  # as in vars(x).update({"_name": y})
                yield from named(strings)


def named(strings: list) -> Iterator[tuple[int, str]]:
    for each in strings:
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and private(each.value):
            yield each.lineno, each.value


def inherited(module: str) -> set[str]:
    """The private names of the modules whose classes a module extends."""
    bases = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.ClassDef):
            bases |= {base.id for base in node.bases if isinstance(base, ast.Name)}
    found = set()
    for each in imports():
        if each.importer == module and bases.intersection(each.names):
            found |= made(modules()[each.imported]) | inherited(each.imported)
    return found


OWNERS = {name: module for module, tree in modules().items() for name in made(tree)}


def others(tree: ast.Module, own: set[str]) -> str:
    """Which private names a file uses that only modules of the package have, and not the file itself."""
    found = {
        f"line {line}: {name} of {OWNERS[name]}" for line, name in used(tree) if name in OWNERS and name not in own
    }
    return "; ".join(sorted(found))


@pytest.mark.parametrize("module", sorted(modules()))
def test_no_module_uses_what_is_private_to_another(module):
    tree = modules()[module]
    assert not others(tree, made(tree) | inherited(module))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_hold_no_private_names(path):
    tree = ast.parse(path.read_text())
    assert not others(tree, made(tree))


def test_what_is_private_to_another_is_found():
    assert "_forget of fastopt.optimizer" in others(ast.parse("optimizer._forget()"), set())
    assert "_forget of fastopt.optimizer" in others(ast.parse("setattr(optimizer, '_forget', None)"), set())
