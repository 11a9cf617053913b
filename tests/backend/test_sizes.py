"""The sizes of both languages: the same, and such that tiles, blocks and storages fit into each other."""

import re
from pathlib import Path

import pytest

from fastopt import sizes
from fastopt.storages import STORAGES

HEADER = Path(__file__).parents[2] / "csrc" / "sizes.h"


def test_both_languages_have_the_same():
    header = {name: int(value) for name, value in re.findall(r"^ +([A-Z]+) = (\d+)", HEADER.read_text(), flags=re.M)}
    assert set(header) == {"TILE", "CHUNK", "BLOCK", "LANES", "GRAIN", "AHEAD", "FETCH", "LINE"}
    assert header == {name: getattr(sizes, name) for name in header}


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_tiles_are_whole_blocks_of_every_storage(storage):
    assert sizes.TILE % storage.block == 0


def test_blocks_are_whole_tiles_and_tiles_whole_rows_of_lanes():
    assert sizes.BLOCK % sizes.TILE == 0
    assert sizes.TILE % sizes.LANES == 0
