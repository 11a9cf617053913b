"""Modules at their old paths: the same modules, with a warning that names the new path and the line that imports."""

import pytest
from harness import python

MOVED = {"fastopt.train.errors": "fastopt.errors", "fastopt.train.specs": "fastopt.specs"}


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_new_module(old):
    python(
        """
        import importlib, sys, warnings
        old, new = sys.argv[1:]
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            exec(compile(f"import {old} as module", "its importer", "exec"))
        (warning,) = [each for each in found if "fastopt" in str(each.message)]
        assert warning.category is DeprecationWarning and str(warning.message) == f"{old} is {new} now"
        assert warning.filename == "its importer", warning.filename
        assert module is importlib.import_module(new) and module.__name__ == module.__spec__.name == new
        """,
        old,
        MOVED[old],
    )
