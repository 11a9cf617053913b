"""Flat buffers and checkpoints: a hundred parameters, a million elements."""

import os
import tempfile

from . import yardstick


class Checkpoints:
    """Building a flat buffer, saving and loading a checkpoint of AdamW (three million elements)."""

    def setup(self):
        self.fastopt = yardstick.import_fastopt()
        if not hasattr(self.fastopt.Optimizer, "save"):
            raise NotImplementedError("this commit has no checkpoints")
        self.arrays = {f"p{index}": yardstick.random_array(10_000, "float32", index) for index in range(100)}
        params = self.fastopt.FlatBuffer(self.arrays)
        self.optimizer = self.fastopt.Optimizer(params, self.fastopt.AdamW(), backend="c")
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "checkpoint.safetensors")
        self.optimizer.save(self.path)

    def teardown(self):
        self.folder.cleanup()

    def time_build_flat_buffer(self):
        self.fastopt.FlatBuffer(self.arrays)

    def time_save(self):
        self.optimizer.save(self.path)

    def time_load(self):
        self.optimizer.load(self.path)
