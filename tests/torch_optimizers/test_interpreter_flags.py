"""Without docstrings and assertions, ``python -OO``; and whatever NumPy is told to do about floating-point errors."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from variants import VARIANTS, ids, make, parameters, train

import fastopt.torch

EVERYTHING = """
    import copy, io, pickle, sys
    import torch
    import fastopt
    import fastopt.torch as ft
    from fastopt.bench import training_step

    assert False, "this is not run without assertions"
    assert ft.AdamW.__doc__ is None or sys.exit("there are docstrings")
    for name in fastopt.RULES:
        p, q = torch.nn.Parameter(torch.ones(7, 3)), torch.nn.Parameter(torch.ones(4, 1))
        optimizer = getattr(ft, name)([{"params": [p]}, {"params": [q], "lr": 0.1}])
        for _ in range(6):  # the first five of ScheduleFreeRAdam move nothing
            p.grad, q.grad = 0.1 + torch.rand(7, 3), 0.1 + torch.rand(4, 1)  # so that every step size grows
            optimizer.step()
        saved = io.BytesIO()
        torch.save(optimizer.state_dict(), saved)
        saved.seek(0)
        optimizer.load_state_dict(torch.load(saved))
        for each in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            each.step()
        if (p == 1).any() or (q == 1).any():
            sys.exit(f"{name} made no step")
        repr(optimizer)
        if hasattr(torch.optim, name):
            ft.accelerate(getattr(torch.optim, name)([q])).step()
            half = torch.nn.Parameter(torch.ones(3, 1, dtype=torch.bfloat16))
            half.grad = torch.ones_like(half)
            getattr(ft, name)([half]).step()
    for arguments in (["--help"], ["--rounds", "1", "--steps", "1", "--model", "two-layer net"]):
        try:
            code = training_step.main(arguments)
        except SystemExit as end:
            code = end.code
        if code:
            sys.exit(code)
"""


def test_everything_runs_without_docstrings_and_assertions():
    command = [sys.executable, "-OO", "-W", "error", "-c", textwrap.dedent(EVERYTHING)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and "two-layer net" in done.stdout.partition("usage:")[2]


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=ids(VARIANTS))
@pytest.mark.parametrize("scales", [[0.0], [1e30, 0.0, 1e-30, 1.0]], ids=["zero", "mixed"])
def test_what_numpy_does_about_floating_point_errors_does_not_matter(name, arguments, scales):
    """A scale for each parameter in turn: rules that compute sums have them of one parameter each."""
    optimizer = make(getattr(fastopt.torch, name), arguments)
    with np.errstate(all="raise"):
        for first in range(0, 300, 100):  # over these steps NAdam's product of momenta underflows
            train(optimizer, first, first + 2)
            for p, scale in zip(parameters(optimizer), itertools.cycle(scales), strict=False):
                p.grad = torch.full_like(p, scale)
            for _ in range(98):
                optimizer.step()
