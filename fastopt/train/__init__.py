"""Training small networks with fastopt: data, network, loop, reports. Needs ``fastopt[train]``.

The command line is ``fastopt train`` and ``fastopt landscape``; from Python::

    from fastopt.train import Run, Settings, load_data

    run = Run(load_data("digits"), Settings(optimizer="adam:lr=0.002"))
    run.train(epochs=20)
    run.history[-1]["val_accuracy"]
"""

from fastopt.errors import InputError
from fastopt.train.data import Dataset, load_data
from fastopt.train.loop import Run, Settings
from fastopt.train.network import Network
from fastopt.train.scores import Scores, scores

__all__ = ["Dataset", "InputError", "Network", "Run", "Scores", "Settings", "load_data", "scores"]
