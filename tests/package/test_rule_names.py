"""Nothing outside ``fastopt/rules/`` knows a rule by its name: what is particular about one is declared by it."""

import ast

import pytest
from imports import imports, modules, room

import fastopt

#: The lists of public names, and modules that mean the classes of PyTorch and of other peers.
LISTS = {"fastopt", "fastopt.bench.peers", "fastopt.torch", "fastopt.torch.classes"}


@pytest.mark.parametrize("module", sorted(each for each in modules() if room(each) != "rules" and each not in LISTS))
def test_no_module_names_a_rule(module):
    found = {
        str(each) for each in imports() if each.importer == module and room(each.imported) == "rules" and each.names
    }
    for node in ast.walk(modules()[module]):
        match node:
            case ast.Name(id=name) if name in fastopt.RULES:
                found.add(f"line {node.lineno}: {name}")
            case ast.Attribute(attr=name, value=ast.Name(id="fastopt" | "rules")) if name in fastopt.RULES:
                found.add(f"line {node.lineno}: {name}")
    assert not found, "; ".join(sorted(found))
