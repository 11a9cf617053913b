"""Sparse gradients: kernels step the rows that they have. What torch does with them, and what it refuses."""

import numpy as np
import pytest
import torch
from variants import SPARSE, VARIANTS, assert_near, assert_same_bits, ids

import fastopt
import fastopt.torch

#: From within torch's optimizers.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

#: The classes of torch.optim whose steps by sparse gradients are those of kernels by rows, with arguments.
ALIKE = [
    (SPARSE, {}),
    (SPARSE, {"lr": 0.03, "betas": (0.7, 0.9), "eps": 1e-3, "maximize": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    ("SGD", {"lr": 0.1}),
]


class Embedded(torch.nn.Module):
    """Two tables and a layer with a dense gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(50, 6, sparse=True)
        self.bag = torch.nn.EmbeddingBag(20, 4, mode="sum", sparse=True)
        self.layer = torch.nn.Linear(10, 1)

    def forward(self, words, bags):
        return self.layer(torch.cat([self.words(words).mean(1), self.bag(bags)], 1))

    def tables(self):
        return [*self.words.parameters(), *self.bag.parameters()]


def train(model, optimizers, steps):
    losses = []
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        words = torch.randint(50, (8, 5), generator=generator)
        bags = torch.randint(20, (8, 3), generator=generator)
        loss = (model(words, bags).squeeze(1) - (words.sum(1) % 7 - bags.sum(1) % 3)).square().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def uses_kernels(optimizer):
    return bool(optimizer.explain().kernels) and not optimizer.explain().torch


@pytest.mark.parametrize(("name", "arguments"), ALIKE, ids=ids(ALIKE))
def test_an_embedding_is_trained_as_by_torch(name, arguments):
    models, found, tables = [Embedded(), Embedded()], [], []
    for module, model in zip((fastopt.torch, torch.optim), models, strict=True):
        tables.append(getattr(module, name)(model.tables(), **arguments))
        found.append(train(model, [tables[-1], torch.optim.Adam(model.layer.parameters(), lr=0.01)], 60))
    assert uses_kernels(tables[0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][-1] < found[0][0] or arguments.get("maximize")
    assert_near(*tables)


def coo(indices, values, shape):
    return torch.sparse_coo_tensor(torch.tensor([indices]), values, shape, check_invariants=True)


@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=ids(VARIANTS))
def test_every_class_steps_the_rows_and_no_others(name, arguments, coalesced):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.ones(9, 4)) for _ in range(2)]
    rows, dense = (getattr(fastopt.torch, name)([p], **arguments) for p in params)
    rule = rows.make_rule(rows.param_groups[0])
    if rule.torch_moves_all_rows:
        pytest.skip("torch steps it")
    values = torch.randn(3, 4)
    gradient = coo([7, 2, 7], values, (9, 4))
    if rule.starts_from_parameters and rule.sums is None:
        params[0].grad, params[1].grad = gradient, gradient.to_dense()
        with pytest.raises(RuntimeError, match="first step, so that one must be of all rows"):
            rows.step()
        params[0].grad = gradient.to_dense()
        rows.step()
        dense.step()
    if rule.sums is not None or rule.stage is not None:
        params[0].grad = gradient
        with pytest.raises(RuntimeError, match="sparse"):
            rows.step()
        return
    before = params[0].detach().clone()
    for _ in range(3):
        params[0].grad = gradient.coalesce() if coalesced else gradient
        params[1].grad = gradient.to_dense()
        rows.step()
        dense.step()
    assert uses_kernels(rows)
    here = torch.tensor([2, 7])
    others = torch.tensor([0, 1, 3, 4, 5, 6, 8])
    assert torch.equal(params[0][here], params[1][here])
    assert torch.equal(params[0][others], before[others])
    assert rows.state[params[0]].keys() == dense.state[params[1]].keys()
    for key, tensor in rows.state[params[0]].items():
        where = here if tensor.dim() else ...
        assert torch.equal(tensor[where], dense.state[params[1]][key][where]), key


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float64, {}),
        (torch.bfloat16, {}),
        (torch.float16, {"master": "float32"}),
        (torch.bfloat16, {"master": "split", "state_dtype": "bfloat16", "seed": 3}),
        (torch.bfloat16, {"state_dtype": "float32", "rounding": "stochastic"}),
        (torch.float32, {"state_dtype": "8bit"}),
    ],
    ids=str,
)
def test_every_storage_has_the_bits_of_a_dense_step(dtype, options):
    torch.manual_seed(0)
    start = torch.randn(32, 256).to(dtype)
    params = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [fastopt.torch.AdamW([p], lr=0.1, weight_decay=0.1, **options) for p in params]
    rows = torch.tensor([30, 4, 5])
    for _ in range(3):
        gradient = coo(rows.tolist(), torch.randn(3, 256).to(dtype), (32, 256))
        params[0].grad, params[1].grad = gradient, gradient.to_dense()
        for optimizer in optimizers:
            optimizer.step()
    assert uses_kernels(optimizers[0])
    assert torch.equal(params[0][rows], params[1][rows])
    others = np.setdiff1d(np.arange(32), rows)
    assert torch.equal(params[0][others], start[others])
    for name, tensor in optimizers[0].state[params[0]].items():
        if tensor.shape == start.shape:
            assert torch.equal(tensor[rows], optimizers[1].state[params[1]][name][rows]), name


def test_dense_and_sparse_gradients_take_turns():
    """In one group with others, some of which have no gradient; the scale of a GradScaler divides both."""
    torch.manual_seed(0)
    params = [[torch.nn.Parameter(torch.ones(shape)) for shape in ((9, 4), (5,), (6, 2))] for _ in range(2)]
    optimizers = [fastopt.torch.Adam(each, lr=0.1) for each in params]
    every = torch.arange(9)
    for step in range(8):
        values = torch.randn(9, 4)
        for each, sparse in zip(params, (True, False), strict=True):
            each[0].grad = coo(every.tolist(), values, (9, 4)) if sparse and step % 3 else values.clone()
            each[1].grad = None if step % 2 else torch.ones(5)
            each[2].grad = coo([5, 5], torch.ones(2, 2), (6, 2)) if step % 4 else None
        for optimizer in optimizers:
            optimizer.step()
    assert_same_bits(*optimizers)
    assert all(map(uses_kernels, optimizers))


@pytest.mark.parametrize("fused", [None, True])
def test_gradient_scaler(fused):
    found = []
    for scale in (1.0, 256.0):
        model = Embedded()
        optimizer = fastopt.torch.Adam(model.tables(), lr=0.1, **({} if fused is None else {"fused": fused}))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for seed in range(3):
            torch.manual_seed(seed)
            scaler.scale(model(torch.randint(50, (8, 5)), torch.randint(20, (8, 3))).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert uses_kernels(optimizer)
        found.append(torch.cat([p.detach().flatten() for p in model.tables()]))
    assert torch.equal(*found)


def test_state_dicts_go_to_torchs_and_come_back():
    models = [Embedded(), Embedded()]
    ours, theirs = fastopt.torch.SparseAdam(models[0].tables()), torch.optim.SparseAdam(models[1].tables())
    train(models[0], [ours], 5)
    train(models[1], [theirs], 5)
    first, second = ours.state_dict(), theirs.state_dict()
    assert first["state"].keys() == second["state"].keys()
    assert first["state"][0].keys() == second["state"][0].keys()
    assert second["param_groups"][0].items() <= first["param_groups"][0].items()
    ours.load_state_dict(second)
    theirs.load_state_dict(first)
    train(models[0], [ours], 5)
    train(models[1], [theirs], 5)
    assert_near(ours, theirs)


def test_accelerate():
    models = [Embedded(), Embedded()]
    optimizers = [torch.optim.SparseAdam(model.tables()) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, [optimizer], 3)
    ours = fastopt.torch.accelerate(optimizers[0])
    train(models[0], [ours], 3)
    train(models[1], [optimizers[1]], 3)
    assert uses_kernels(ours)
    assert_near(ours, optimizers[1])


def test_both_backends_have_the_same_bits(monkeypatch, backends):
    found = set()
    for backend in backends:
        monkeypatch.setenv("FASTOPT_BACKEND", backend)
        model = Embedded()
        optimizer = fastopt.torch.AdamW(model.parameters(), lr=0.03, state_dtype="bfloat16")
        train(model, [optimizer], 6)
        assert optimizer.explain().backend == backend
        found.add(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().tobytes())
    assert len(found) == 1


def test_norms_are_those_of_the_sums():
    found = []
    for sparse in (True, False):
        p, q = (torch.nn.Parameter(torch.ones(shape)) for shape in ((6, 2), (3,)))
        optimizer = fastopt.torch.SGD([p, q], lr=0.1, clip_grad_norm=0.5)
        gradient = coo([5, 1, 5], torch.ones(3, 2), (6, 2))
        p.grad, q.grad = gradient if sparse else gradient.to_dense(), torch.ones(3)
        optimizer.step()
        found.append((float(optimizer.grad_norm), p))
    assert found[0][0] == pytest.approx(13**0.5) == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_no_rows():
    p = torch.nn.Parameter(torch.ones(5, 2))
    optimizer = fastopt.torch.SparseAdam([p])
    p.grad = coo([], torch.empty(0, 2), (5, 2))
    optimizer.step()
    assert torch.equal(p, torch.ones(5, 2))
    assert optimizer.state[p]["step"] == 1


@pytest.mark.parametrize("index", [5, -1])
def test_indices_out_of_range_change_nothing(index):
    p, q = torch.nn.Parameter(torch.ones(5, 2)), torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.torch.SparseAdam([q, p])
    p.grad, q.grad = coo([1], torch.ones(1, 2), (5, 2)), torch.ones(3)
    optimizer.step()
    before = [p.clone(), q.clone()]
    p.grad = torch.sparse_coo_tensor(torch.tensor([[0, index]]), torch.ones(2, 2), (5, 2), check_invariants=False)
    with pytest.raises(ValueError, match=rf"\(5, 2\): indices must be from 0 to 4, not {index}"):
        optimizer.step()
    assert torch.equal(p, before[0])
    assert torch.equal(q, before[1])
    assert optimizer.state[q]["step"] == 1


def test_what_is_refused():
    p = torch.nn.Parameter(torch.ones(64, 100))
    p.grad = coo([1], torch.ones(1, 100), (64, 100))
    with pytest.raises(RuntimeError, match="has a sparse gradient, and a state in blocks of 256 elements"):
        fastopt.torch.AdamW([p], state_dtype="8bit").step()
    p.grad = torch.ones(64, 100).to_sparse()
    for name in ("Adam", "Lion"):
        with pytest.raises(RuntimeError, match="sparse"):
            getattr(fastopt.torch, name)([p]).step()
    transposed = torch.nn.Parameter(torch.ones(4, 6).t())
    transposed.grad = coo([1], torch.ones(1, 4), (6, 4))
    with pytest.raises(RuntimeError, match="rows do not lie in memory one after the other, and torch"):
        fastopt.torch.Lion([transposed]).step()
    assert torch.equal(p, torch.ones(64, 100))


def test_momentum_is_left_to_torch_which_moves_other_rows_too():
    results = []
    for module in (fastopt.torch, torch.optim):
        p = torch.nn.Parameter(torch.ones(6, 2))
        optimizer = module.SGD([p], lr=0.1, momentum=0.5)
        for index in (1, 3, 5):
            p.grad = coo([index], torch.ones(1, 2), (6, 2))
            optimizer.step()
        results.append(p)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", [name for name, rule in fastopt.RULES.items() if rule.rowwise])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float64, {}),
        (torch.float16, {"master": "float32"}),
        (torch.bfloat16, {"master": "split", "state_dtype": "bfloat16", "seed": 3}),
    ],
    ids=str,
)
def test_stages_that_go_by_rows_have_the_bits_of_a_dense_step(name, dtype, options):
    torch.manual_seed(0)
    start = torch.randn(9, 4, 2).to(dtype)
    params = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    rows, dense = (getattr(fastopt.torch, name)([p], lr=0.1, weight_decay=0.1, **options) for p in params)
    where = torch.tensor([[7, 2, 5, 4]])
    for _ in range(3):
        gradient = torch.sparse_coo_tensor(where, torch.randn(4, 4, 2).to(dtype), (9, 4, 2), check_invariants=True)
        params[0].grad, params[1].grad = gradient, gradient.to_dense()
        rows.step()
        dense.step()
    assert uses_kernels(rows)
    others = torch.tensor([0, 1, 3, 6, 8])
    assert torch.equal(params[0][where[0]], params[1][where[0]])
    assert torch.equal(params[0][others], start[others])
    assert torch.equal(rows.state[params[0]]["sum"], dense.state[params[1]]["sum"])
    before = params[0].detach().clone()
    params[0].grad = torch.zeros(9, 4, 2, dtype=dtype).to_sparse(1)
    rows.step()
    assert torch.equal(params[0], before)
    for shape in ((5, 0), (0, 3)):
        empty = torch.nn.Parameter(torch.ones(shape, dtype=dtype))
        empty.grad = torch.zeros(shape, dtype=dtype).to_sparse(1)
        getattr(fastopt.torch, name)([empty], **options).step()
