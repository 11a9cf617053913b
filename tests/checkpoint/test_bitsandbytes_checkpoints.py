"""8-bit states of bitsandbytes and torchao, moved into an optimizer here and back; their map by its definition."""

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError, checkpoint
from fastopt.checkpoint import dynamic

torch = pytest.importorskip("torch")

NESTED = "__bnb_optimizer_quant_state__"
SHAPES = {"w": (70, 128), "v": (64, 128), "b": (7,)}


def arrays(seed):
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def theirs(cls, **options):
    params = [torch.nn.Parameter(torch.from_numpy(each)) for each in arrays(0).values()]
    return cls(params, **options)


def parameters(optimizer):
    return dict(zip(SHAPES, optimizer.param_groups[0]["params"], strict=True))


def train(optimizer, steps):
    for step in steps:
        gradients = arrays(100 + step)
        if isinstance(optimizer, fastopt.Optimizer):
            optimizer.step(gradients)
            continue
        for name, p in parameters(optimizer).items():
            p.grad = torch.from_numpy(gradients[name])
        optimizer.step()


def ours(optimizer, rule, **options):
    held = {name: p.detach().numpy() for name, p in parameters(optimizer).items()}
    return fastopt.Optimizer(fastopt.FlatBuffer(held), rule, **options)


def distance(optimizer, other):
    """How far parameters are apart."""
    return max(np.abs(p.detach().numpy() - other.params[name]).max() for name, p in parameters(optimizer).items())


def test_the_maps_are_those_of_the_paper():
    signed, unsigned = dynamic.table(signed=True), dynamic.table(signed=False)
    for table in signed, unsigned:
        assert table.shape == (256,) and table.dtype == np.float32 and (np.diff(table) > 0).all()
    assert signed[127] == 0 and unsigned[0] == 0 and signed[-1] == unsigned[-1] == 1
    assert np.array_equal(-signed[:127], signed[128:-1][::-1])
    for code in range(1, 255):  # in closed form
        q = code + 1
        i = int(np.log2(q)) - 1
        f = q - 2 ** (i + 1)
        assert unsigned[code] == pytest.approx(10.0 ** (i - 6) * (0.1 + 0.9 * (f + 0.5) / 2 ** (i + 1)), rel=1e-6)
    assert signed[128] == pytest.approx(5.5e-7) and unsigned[1] == pytest.approx(3.25e-7)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 256 * 64, 256 * 64 + 1, 300_001])
@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_the_nearest_ones(signed, size):
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32) ** (3 if signed else 2)
    values[::7] = 0
    codes, scales, qmap = dynamic.encoded(values, signed=signed)
    found = np.asarray(dynamic.Coded(codes, scales, qmap))
    assert np.array_equal(found, qmap[codes] * np.repeat(scales, 256)[:size])
    again, *_ = dynamic.encoded(found, signed=signed)
    assert np.array_equal(again, codes)
    for block in range(0, size, 256):
        farthest = block + np.abs(values[block : block + 256]).argmax()
        assert found[farthest] == pytest.approx(values[farthest], rel=1e-6)
    assert not found[values == 0].any()
    chosen = np.random.default_rng(1).integers(0, size, 300)
    for value, number, scale in zip(values[chosen], found[chosen], scales[chosen // 256], strict=True):
        best = np.abs(qmap.astype(float) * scale - value).min()
        assert abs(number - value) <= best + 1e-6 * scale


@pytest.mark.parametrize("name", ["AdamW", "Lion", "AdEMAMix", "RMSprop", "Adagrad"])
@pytest.mark.parametrize("bits", [8, 32])
def test_a_run_goes_from_bitsandbytes_and_back(name, bits):
    bnb = pytest.importorskip("bitsandbytes")
    cls, rule = getattr(bnb.optim, f"{name}{bits}bit"), getattr(fastopt, name)
    alike = (
        {"lr": 1e-3}
        | ({"weight_decay": 0.0} if name != "Adagrad" else {})
        | ({"alpha": 0.9} if name == "RMSprop" else {})
    )
    stayed = theirs(cls, **alike)
    try:
        train(stayed, range(3))
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"not on the CPU: {error}")
    moved = ours(stayed, rule(**alike | {"lr": 0.5}))
    moved.load_state_dict(checkpoint.read(stayed.state_dict(), like=moved, names=[*SHAPES]))
    assert moved.step_count == 3 and moved.lr == 1e-3
    for number, kind in enumerate(moved.rule.states, 1):
        if len(moved.rule.states) < 3:
            entry = stayed.state_dict()["state"][0][NESTED]
            there = entry[f"state{number}"].numpy()
            if bits == 8:
                scales = np.repeat(entry[f"absmax{number}"].numpy(), 256)[: there.size].reshape(there.shape)
                there = entry[f"qmap{number}"].numpy()[there] * scales
            assert np.array_equal(moved.state[kind]["w"], there)
    back = theirs(cls, **alike)
    back.load_state_dict(checkpoint.to_bitsandbytes(moved, names=[*SHAPES], bits=bits))
    for position, entry in stayed.state_dict()["state"].items():
        there = back.state_dict()["state"][position]
        assert entry["step"] == there["step"]
        for key, value in entry[NESTED].items():
            if bits == 8 and key.startswith("state") and value.dtype == torch.uint8:
                assert torch.equal(value, there[NESTED][key]), key
            else:
                assert value.dtype == there[NESTED][key].dtype
                torch.testing.assert_close(value, there[NESTED][key], rtol=1e-6, atol=0)


def test_a_run_goes_on_as_it_would_have_in_bitsandbytes():
    bnb = pytest.importorskip("bitsandbytes")
    stayed = theirs(bnb.optim.AdamW32bit, lr=1e-2, weight_decay=0.1)
    train(stayed, range(5))
    moved = ours(stayed, fastopt.AdamW())
    moved.load_state_dict(checkpoint.read(stayed.state_dict(), like=moved, names=[*SHAPES]))
    for each in stayed, moved:
        train(each, range(5, 10))
    assert distance(stayed, moved) < 1e-5


def test_a_run_goes_from_torchao_without_torchao(tmp_path, monkeypatch):
    ao = pytest.importorskip("torchao.optim")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # which would take a minute
    stayed = theirs(ao.AdamW8bit, lr=1e-3)
    train(stayed, range(3))
    torch.save(stayed.state_dict(), tmp_path / "run.pt")
    moved, other = ours(stayed, fastopt.AdamW()), ours(stayed, fastopt.AdamW())
    moved.load_state_dict(checkpoint.read(tmp_path / "run.pt", like=moved, names=[*SHAPES]))
    other.load_state_dict(checkpoint.read(stayed.state_dict(), like=other, names=[*SHAPES]))
    for kind, buffer in moved.state.items():
        for position, name in enumerate(SHAPES):
            there = stayed.state_dict()["state"][position][kind]
            assert np.array_equal(buffer[name], (there.dequantize() if hasattr(there, "dequantize") else there).numpy())
            assert np.array_equal(buffer[name], other.state[kind][name])
    assert moved.step_count == 3


def written(rule, bits=8):
    """What is written here, which has the form that bitsandbytes gives it."""
    optimizer = fastopt.Optimizer(fastopt.FlatBuffer(arrays(0)), rule)
    train(optimizer, range(3))
    return optimizer, checkpoint.to_bitsandbytes(optimizer, bits=bits)


@pytest.mark.parametrize(
    "rule", [fastopt.AdamW(), fastopt.Lion(), fastopt.AdEMAMix()], ids=lambda rule: type(rule).__name__
)
def test_what_is_written_is_read(rule, tmp_path):
    optimizer, state_dict = written(rule, bits=32)
    torch.save(state_dict, tmp_path / "run.pt")
    again = fastopt.Optimizer(optimizer.params.copy(), rule.replace(lr=0.5))
    again.load_state_dict(checkpoint.read(tmp_path / "run.pt", like=again))
    assert again.rule == rule
    for kind, buffer in optimizer.state.items():
        assert np.array_equal(buffer.flat, again.state[kind].flat)
    optimizer, state_dict = written(rule)
    assert state_dict["state"][0][NESTED]["state1"].dtype == torch.uint8
    assert state_dict["state"][2][NESTED]["state1"].dtype == torch.float32  # it is small
    again.load_state_dict(checkpoint.read(state_dict, like=again))
    for kind, buffer in optimizer.state.items():
        for name in SHAPES:
            np.testing.assert_allclose(
                again.state[kind][name], buffer[name], rtol=0, atol=0.03 * np.abs(buffer[name]).max()
            )


def test_older_state_dicts_are_flat_and_damaged_ones_are_refused():
    optimizer, state_dict = written(fastopt.AdamW())
    flat = state_dict | {
        "state": {position: entry[NESTED] | {"step": entry["step"]} for position, entry in state_dict["state"].items()}
    }
    one, other = (checkpoint.read(each, like=optimizer) for each in (flat, state_dict))
    assert np.array_equal(np.asarray(one["state"]["w"]["exp_avg"]), np.asarray(other["state"]["w"]["exp_avg"]))
    flat["state"][0]["absmax1"] = flat["state"][0]["absmax1"][1:]
    with pytest.raises(CheckpointError, match="'w': state1 must have uint8 codes with a scale for each 256"):
        checkpoint.read(flat, like=optimizer)
    lion = fastopt.Optimizer(optimizer.params.copy(), fastopt.Lion())
    with pytest.raises(CheckpointError, match="'w' has 2 states, and here there are 1: exp_avg"):
        checkpoint.read(state_dict, like=lion)
    for names in (["w"], ["w", 3], ["w", "w"]):
        for write in (checkpoint.to_torch, checkpoint.to_bitsandbytes):
            with pytest.raises(ValueError, match="names must be the parameters"):
                write(optimizer, names=names)
