"""Threads: torch's own pool and no other, as many as torch says, and the same bits for any number of them."""

import subprocess
import sys
import textwrap

import pytest
import torch

import fastopt.torch


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_step_starts_no_thread_that_torch_has_not_started():
    """After torch has run a parallel operation, a step adds neither an OpenMP library nor a thread to the process."""
    before, after, libraries, path = in_a_new_process(
        """
        import os, torch, fastopt.torch
        torch.set_num_threads(3)
        p = torch.nn.Parameter(torch.randn(4_000_000))
        p.grad = torch.randn_like(p)
        torch.optim.AdamW([p], fused=True).step()
        threads = lambda: len(os.listdir("/proc/self/task"))
        gomp = lambda: {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line or "libomp" in line}
        before, libraries = threads(), gomp()
        optimizer = fastopt.torch.AdamW([p])
        for _ in range(3):
            optimizer.step()
        assert optimizer.explain().backend == "c"
        assert gomp() == libraries
        print(before, threads(), len(libraries), *libraries)
        """
    )
    assert before == after
    assert int(before) >= 3
    assert libraries == "1"
    assert "/torch/" in path or "/torch.libs/" in path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("size", "threads", "used"), [(4_000_000, 1, 1), (4_000_000, 3, 3), (40_000, 3, 2)])
def test_as_many_threads_as_torch_says(size, threads, used):
    """Without a parallel operation of torch's, the step itself starts the threads: as many as the size is worth."""
    before, after = in_a_new_process(
        f"""
        import os, numpy, torch, fastopt.torch
        torch.set_num_threads({threads})
        zeros = lambda: torch.from_numpy(numpy.zeros({size}, "float32"))  # torch's own would start the threads
        p = torch.nn.Parameter(zeros())
        p.grad = zeros()
        optimizer = fastopt.torch.AdamW([p])
        optimizer.state[p] = dict(step=torch.tensor(0.0), exp_avg=zeros(), exp_avg_sq=zeros())
        threads = lambda: len(os.listdir("/proc/self/task"))
        before = threads()
        optimizer.step()
        print(before, threads())
        """
    )
    assert int(after) - int(before) == used - 1


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_same_bits_for_any_number_of_threads(name):
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            params = [torch.nn.Parameter(torch.randn(size)) for size in (300_001, 5, 70_003)]
            optimizer = getattr(fastopt.torch, name)(params)
            for _ in range(3):
                for p in params:
                    p.grad = torch.randn_like(p)
                optimizer.step()
            results.append(torch.cat([p.detach() for p in params]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_steps_from_several_python_threads():
    from concurrent.futures import ThreadPoolExecutor

    def train(seed):
        generator = torch.Generator().manual_seed(seed)
        p = torch.nn.Parameter(torch.randn(50_001, generator=generator))
        optimizer = fastopt.torch.Adam([p])
        for _ in range(20):
            p.grad = torch.randn(50_001, generator=generator)
            optimizer.step()
        return p.detach()

    alone = [train(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(train, range(4)))
    assert all(torch.equal(x, y) for x, y in zip(alone, together, strict=True))
