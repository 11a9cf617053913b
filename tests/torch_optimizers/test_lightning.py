"""Lightning on a small model: the losses of torch's optimizer, with clipping, accumulation and a scheduler."""

import pytest
import torch

import fastopt.torch

lightning = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("default")  # those of other packages are not ours to mend


class Module(lightning.LightningModule):
    """A regression whose losses are kept."""

    def __init__(self, module, **arguments):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 1))
        self.module, self.arguments, self.losses = module, arguments, []

    def training_step(self, batch, _):
        (x,) = batch
        loss = (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = self.module.AdamW(self.parameters(), lr=0.02, **self.arguments)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40), "interval": "step"}
        ]


def fit(module, folder, epochs=2, checkpoint=None, **arguments):
    model = Module(module, **arguments)
    data = torch.utils.data.TensorDataset(torch.randn(64, 6, generator=torch.Generator().manual_seed(1)))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        gradient_clip_val=0.5,
        accumulate_grad_batches=2,
        enable_checkpointing=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=8), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return model


def test_losses_and_a_resumed_run(tmp_path):
    ours, theirs = (fit(module, tmp_path, epochs=4) for module in (fastopt.torch, torch.optim))
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-3)
    assert ours.losses[-1] < ours.losses[0]
    fit(fastopt.torch, tmp_path)
    resumed = fit(fastopt.torch, tmp_path, epochs=4, checkpoint=tmp_path / "2.ckpt")
    for p, q in zip(ours.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
