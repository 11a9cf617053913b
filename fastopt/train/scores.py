"""Accuracy, precision and recall from class numbers."""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """Shares between 0 and 1; precision and recall are means over the classes (macro)."""

    accuracy: float
    precision: float
    recall: float


def scores(truth: np.ndarray, predicted: np.ndarray, classes: int) -> Scores:
    """Score ``predicted`` (rows,) against ``truth`` (rows,), both class numbers below ``classes``.

    A class that is never predicted has precision 0. Classes found in neither array do not count.
    """
    confusion = np.bincount(truth * classes + predicted, minlength=classes * classes)
    confusion = confusion.reshape(classes, classes)
    hits = np.diagonal(confusion)
    actual, claimed = confusion.sum(axis=1), confusion.sum(axis=0)
    seen = (actual + claimed) > 0
    precision = hits[seen] / np.maximum(claimed[seen], 1)
    recall = hits[seen] / np.maximum(actual[seen], 1)
    return Scores(float(hits.sum() / len(truth)), float(precision.mean()), float(recall.mean()))
