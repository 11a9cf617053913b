"""Data sets that scikit-learn carries or makes."""

from sklearn.datasets import load_breast_cancer, load_digits, make_classification

from fastopt.train.data.dataset import Dataset
from fastopt.train.data.parts import split_arrays

BINARY_SEED = 42


def digits() -> Dataset:
    """1,797 handwritten digits, 8 x 8 pixels, ten classes (UCI, carried by scikit-learn)."""
    loaded = load_digits()
    return split_arrays("digits", loaded.data / 16, loaded.target, tuple("0123456789"), scale=False)


def breast_cancer() -> Dataset:
    """569 tumours, 30 measurements, malignant or benign (UCI, carried by scikit-learn)."""
    loaded = load_breast_cancer()
    classes = tuple(str(name) for name in loaded.target_names)
    return split_arrays("breast-cancer", loaded.data, loaded.target, classes, scale=True)


def binary() -> Dataset:
    """1,000 generated samples, 10 features of which 5 tell the two classes apart."""
    x, y = make_classification(1000, 10, n_informative=5, n_redundant=2, random_state=BINARY_SEED)
    return split_arrays("binary", x, y, ("0", "1"), scale=True)


BUILT_IN = {"digits": digits, "breast-cancer": breast_cancer, "binary": binary}
