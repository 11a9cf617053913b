"""The Trainer of Hugging Face Transformers on a small model built from a config: the losses of torch's optimizer."""

import pytest
import torch

import fastopt.torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("default")  # those of other packages are not ours to mend


def model():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0)
    config.attn_pdrop = config.embd_pdrop = 0.0
    return transformers.GPT2LMHeadModel(config)


def train(make_optimizer, folder, resume=None, steps=12):
    network = model()
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(50, (64, 16), generator=generator)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        logging_steps=1,
        save_steps=6,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        warmup_steps=3,
        seed=0,
        data_seed=0,
    )
    trainer = transformers.Trainer(
        network,
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in words],
        optimizers=(make_optimizer(network), None),
    )
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], network


def test_losses_and_a_resumed_run(tmp_path):
    def ours(network):
        return fastopt.torch.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)

    def theirs(network):
        return torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)

    losses, network = train(ours, tmp_path / "ours")
    expected, _ = train(theirs, tmp_path / "theirs")
    assert losses == pytest.approx(expected, rel=1e-3)
    assert losses[-1] < losses[0]
    _, resumed = train(ours, tmp_path / "resumed", resume=str(tmp_path / "ours" / "checkpoint-6"))
    for p, q in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
    # A checkpoint of torch's optimizer goes on with ours.
    _, crossed = train(ours, tmp_path / "crossed", resume=str(tmp_path / "theirs" / "checkpoint-6"))
    for p, q in zip(network.parameters(), crossed.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)
