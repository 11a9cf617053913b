"""Epochs of scikit-learn's MLPClassifier on the digits: its own Adam, and fastopt's in its place.

    python asv_bench/proofs/sklearn_epoch.py [--rounds 15] [--epochs 30]

Both are timed in turn; each line gives the medians and the median of the ratios, of the time of all threads, so that
other programs count less. The exit status is 0 if fastopt's epoch is at least 1.3 times as fast with the defaults, in
float64. Next to other programs threads of BLAS wait for each other: OPENBLAS_NUM_THREADS=1 helps.
"""

import argparse
import statistics
import sys
import time
import warnings

import numpy as np
from sklearn import neural_network
from sklearn.datasets import load_digits

import fastopt
from fastopt.sklearn import MLPClassifier

FASTER = 1.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = []
    for dtype in ("float64", "float32"):
        for hidden in ((100,), (64, 64)):
            ours, theirs, ratio = compare(dtype, hidden, options.rounds, options.epochs)
            print(f"{dtype}, layers {hidden}: {theirs:.2f} ms, with fastopt {ours:.2f} ms: {ratio:.2f} times as fast")
            found.append(ratio)
    return 0 if found[0] >= FASTER else 1


def compare(dtype: str, hidden: tuple[int, ...], rounds: int, epochs: int) -> tuple[float, float, float]:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(dtype)
    options = {"hidden_layer_sizes": hidden, "max_iter": epochs, "n_iter_no_change": epochs, "random_state": 0}
    estimators = MLPClassifier(**options, optimizer=fastopt.Adam()), neural_network.MLPClassifier(**options)
    times = [[milliseconds(each, x, y) / epochs for each in estimators] for _ in range(rounds + 1)][1:]
    ours, theirs = np.median(times, axis=0)
    return ours, theirs, statistics.median(their / our for our, their in times)


def milliseconds(estimator, x: np.ndarray, y: np.ndarray) -> float:
    start = time.process_time()
    estimator.fit(x, y)
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    sys.exit(main())
