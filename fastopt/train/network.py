"""A fully connected ReLU network in NumPy that writes its gradients straight into a flat buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

import fastopt
from fastopt.storages import STORAGES

EVALUATION_ROWS = 1024


@dataclass(frozen=True)
class Layer:
    """One layer: views into what the network computes with, weights as (outputs, inputs)."""

    weight: np.ndarray
    bias: np.ndarray
    weight_grad: np.ndarray
    bias_grad: np.ndarray


class Network:
    """A classifier: fully connected layers, ReLU between them, softmax cross-entropy.

    ``sizes`` is (features, hidden..., classes), at least two numbers. ``params`` and ``grads`` are
    FlatBuffers of one layout with the names ``fc1.weight`` (outputs, inputs), ``fc1.bias`` (outputs,),
    ``fc2.weight`` and so on. The same ``seed`` gives the same first parameters: weights from a normal
    distribution with variance 2 / inputs (He et al., ICCV 2015), biases zero.

    ``dtype`` is that of ``params``. With parameters in 16 bits the network computes in float32: with
    a copy of them, and ``grads`` is float32.

    Raises ValueError for a size below 1 or fewer than two sizes.
    """

    def __init__(self, sizes: Sequence[int], dtype: str = "float32", seed: int = 0) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be two or more whole numbers >= 1, not {tuple(sizes)}")
        self.sizes = tuple(sizes)
        self.params = fastopt.FlatBuffer(_first_parameters(self.sizes, seed), dtype=dtype)
        self.dtype = self.params.dtype
        computes = STORAGES[self.dtype.name].computes
        self.grads = fastopt.FlatBuffer.empty(self.params.layout, computes).zeros_like()
        self._decoded = self.params if computes == self.dtype else self.grads.zeros_like()
        self.layers = [self._layer(f"fc{number}") for number in range(1, len(sizes))]
        self._training = _Workspace(self.sizes, 0, computes)
        self._evaluation = _Workspace(self.sizes, 0, computes)

    def gradients(self, x: np.ndarray, y: np.ndarray) -> float:
        """Write the gradient of the mean loss over one batch into ``grads``; return that loss.

        ``x`` is (rows, features) in the dtype of ``grads``, ``y`` is (rows,) of class numbers.
        """
        rows = len(x)
        self._training = self._training.with_room_for(rows)
        with np.errstate(all="ignore"):  # divergence is told from the loss
            self._decode()
            logits = self._forward(x, self._training)
            loss = _softmax_loss(logits, y)
            logits[np.arange(rows), y] -= 1
            logits /= rows
            self._backward(x, logits, self._training)
        return loss / rows

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean loss over (rows, features) samples and the predicted class numbers (rows,)."""
        self._evaluation = self._evaluation.with_room_for(min(len(x), EVALUATION_ROWS))
        predicted = np.empty(len(x), dtype=np.int64)
        loss = 0.0
        with np.errstate(all="ignore"):
            self._decode()
            for start in range(0, len(x), EVALUATION_ROWS):
                part = slice(start, start + EVALUATION_ROWS)
                logits = self._forward(x[part], self._evaluation)
                predicted[part] = logits.argmax(axis=1)
                loss += _softmax_loss(logits, y[part])
        return loss / len(x), predicted

    def _layer(self, name: str) -> Layer:
        weight, bias = f"{name}.weight", f"{name}.bias"
        return Layer(self._decoded[weight], self._decoded[bias], self.grads[weight], self.grads[bias])

    def _decode(self) -> None:
        if self._decoded is not self.params:
            self._decoded.flat[...] = self.params.flat

    def _forward(self, x: np.ndarray, workspace: _Workspace) -> np.ndarray:
        last = len(self.layers) - 1
        inputs = x
        for number, layer in enumerate(self.layers):
            outputs = workspace.outputs[number][: len(x)]
            np.matmul(inputs, layer.weight.T, out=outputs)
            outputs += layer.bias
            if number < last:
                np.maximum(outputs, 0, out=outputs)
            inputs = outputs
        return inputs

    def _backward(self, x: np.ndarray, delta: np.ndarray, workspace: _Workspace) -> None:
        rows = len(x)
        for number in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[number]
            inputs = workspace.outputs[number - 1][:rows] if number else x
            np.matmul(delta.T, inputs, out=layer.weight_grad)
            np.add.reduce(delta, axis=0, out=layer.bias_grad)
            if number:
                before = workspace.deltas[number - 1][:rows]
                np.matmul(delta, layer.weight, out=before)
                before *= inputs > 0
                delta = before


class _Workspace:
    """Outputs of every layer and gradients of the hidden ones, for batches of up to ``rows``."""

    def __init__(self, sizes: tuple[int, ...], rows: int, dtype: np.dtype) -> None:
        self.sizes, self.rows, self.dtype = sizes, rows, dtype
        self.outputs = [np.empty((rows, size), dtype) for size in sizes[1:]]
        self.deltas = [np.empty((rows, size), dtype) for size in sizes[1:-1]]

    def with_room_for(self, rows: int) -> _Workspace:
        return self if rows <= self.rows else _Workspace(self.sizes, rows, self.dtype)


def _first_parameters(sizes: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 0])
    arrays = {}
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        arrays[f"fc{number}.weight"] = rng.normal(0.0, np.sqrt(2 / inputs), (outputs, inputs))
        arrays[f"fc{number}.bias"] = np.zeros(outputs)
    return arrays


def _softmax_loss(logits: np.ndarray, y: np.ndarray) -> float:
    """The summed cross-entropy of (rows, classes); turns ``logits`` into probabilities in place."""
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(y)), y]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    logits /= total[:, None]
    return float(np.sum(np.log(total) - chosen, dtype=np.float64))
