"""Training small networks with fastopt: data, network, loop, reports. Needs ``fastopt[train]``.

The command line is ``fastopt train`` and ``fastopt landscape``; from Python::

    from fastopt.train import Run, Settings, load_data

    run = Run(load_data("digits"), Settings(optimizer="adam:lr=0.002"))
    run.train(epochs=20)
    run.history[-1]["val_accuracy"]
"""

from fastopt.errors import InputError
from fastopt.train.data.dataset import Dataset
from fastopt.train.data.load import load_data
from fastopt.train.loop import Run
from fastopt.train.network import Network
from fastopt.train.scores import Scores, scores
from fastopt.train.settings import Settings

__all__ = ["Dataset", "InputError", "Network", "Run", "Scores", "Settings", "load_data", "scores"]
