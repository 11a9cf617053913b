"""The scikit-learn door, next to scikit-learn's own classes: the same numbers but for the rule."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fastopt
from fastopt import schedules
from fastopt.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_digits(return_X_y=True)
X /= 16
WEIGHTED = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 7)  # has sample_weight


def targets(kind, dtype):
    if kind == "binary":
        return Y % 2
    if kind == "multilabel":
        return np.stack([Y % 2, Y > 4, Y % 3 == 0], axis=1).astype(int)
    if kind == "regression":
        return (Y / 10).astype(dtype)
    if kind == "two outputs":
        return np.stack([Y, Y % 3], axis=1).astype(dtype) / 10
    return Y


def weights(fitted):
    return [*fitted.coefs_, *fitted.intercepts_]


def same(one, other):
    pairs = zip(weights(one), weights(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs) and one.loss_curve_ == other.loss_curve_


def small(**options):
    return {"hidden_layer_sizes": (20, 7), "random_state": 1, "max_iter": 3, "batch_size": 64} | options


def are_views(fitted):
    flat = fitted.optimizer_.params.flat
    return all(np.shares_memory(flat, each) for each in weights(fitted)) and np.array_equal(
        flat, np.concatenate([each.ravel() for each in weights(fitted)])
    )


# The gradient: as scikit-learn's, to the last bit


KINDS = ("multiclass", "binary", "multilabel", "sparse", "weighted", "regression", "two outputs", "poisson")


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_descent_has_the_same_bits_as_scikit_learns(kind, activation, dtype):
    if kind in ("weighted", "poisson") and not WEIGHTED:
        pytest.skip("not in this version")
    name = "MLPRegressor" if kind in ("regression", "two outputs", "poisson") else "MLPClassifier"
    options = small(activation=activation, alpha=0.01, solver="sgd", learning_rate_init=0.01, momentum=0)
    options |= {"loss": "poisson"} if kind == "poisson" else {}
    data = X[:200].astype(dtype), targets("regression" if kind == "poisson" else kind, dtype)[:200]
    if kind == "sparse":
        data = scipy.sparse.csr_matrix(data[0]), data[1]
    if kind == "weighted":
        data = *data, np.linspace(0.5, 2, 200, dtype=dtype)
    theirs = getattr(neural_network, name)(**options).fit(*data)
    ours = globals()[name](**options, optimizer="sgd:lr=0.01").fit(*data)
    assert same(ours, theirs)
    assert are_views(ours) and ours.optimizer_.dtype == np.dtype(dtype)
    assert np.array_equal(ours.predict(data[0]), theirs.predict(data[0]))


def test_early_stopping_keeps_the_same_weights_as_scikit_learns():
    options = small(solver="sgd", learning_rate_init=0.5, momentum=0, early_stopping=True, max_iter=40)
    options |= {"n_iter_no_change": 2, "tol": 0.01}
    theirs = neural_network.MLPClassifier(**options).fit(X, Y)
    ours = MLPClassifier(**options, optimizer="sgd:lr=0.5").fit(X, Y)
    assert same(ours, theirs) and ours.validation_scores_ == theirs.validation_scores_
    assert ours.n_iter_ == theirs.n_iter_ < 40
    assert are_views(ours)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SciPy, about how older versions call L-BFGS
def test_without_an_optimizer_all_is_as_in_scikit_learn():
    theirs, ours = neural_network.MLPClassifier(**small()).fit(X, Y), MLPClassifier(**small()).fit(X, Y)
    assert same(ours, theirs) and not hasattr(ours, "optimizer_")
    for each in theirs, ours:
        each.partial_fit(X, Y)
    assert same(ours, theirs)
    ours.set_params(solver="lbfgs").fit(X[:100], Y[:100])
    assert same_weights(ours, neural_network.MLPClassifier(**small(solver="lbfgs")).fit(X[:100], Y[:100]))


def same_weights(one, other):
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_adam_learns_as_well_as_scikit_learns():
    train, rest = slice(0, 1400), slice(1400, None)
    theirs = neural_network.MLPClassifier((32,), random_state=0, max_iter=20).fit(X[train], Y[train])
    ours = MLPClassifier((32,), random_state=0, max_iter=20, optimizer=fastopt.Adam()).fit(X[train], Y[train])
    assert ours.score(X[rest], Y[rest]) > theirs.score(X[rest], Y[rest]) - 0.01
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-3)


# An estimator like any other


@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier((20,), optimizer=fastopt.AdamW(lr=0.01)),
        MLPRegressor(hidden_layer_sizes=(20,), optimizer="adam:lr=0.01"),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_scikit_learns_own_checks(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(estimator)


def test_hyperparameters_of_the_rule_are_parameters():
    estimator = MLPClassifier(optimizer="adam")
    assert estimator.get_params(deep=False)["optimizer"] == "adam"
    assert estimator.get_params()["optimizer__betas"] == (0.9, 0.999)
    estimator.set_params(optimizer__lr=0.01, alpha=0.1)
    assert estimator.optimizer == fastopt.Adam(lr=0.01) and estimator.alpha == 0.1
    estimator.set_params(optimizer=fastopt.Lion(), optimizer__lr=0.5)
    assert estimator.optimizer == fastopt.Lion(lr=0.5)
    assert clone(estimator).get_params() == estimator.get_params()
    pipeline = make_pipeline(StandardScaler(), estimator).set_params(mlpclassifier__optimizer__lr=0.25)
    assert pipeline[-1].optimizer.lr == 0.25


def test_what_is_wrong_with_hyperparameters_is_said_and_changes_nothing():
    estimator = MLPClassifier(optimizer=fastopt.Adam())
    with pytest.raises(TypeError, match="Adam has no argument 'lrr'; did you mean 'lr'"):
        estimator.set_params(optimizer__lrr=0.1, alpha=0.5)
    with pytest.raises(ValueError, match="lr must be a finite number >= 0"):
        estimator.set_params(optimizer__lr=-1, alpha=0.5)
    assert estimator.alpha == 0.0001
    with pytest.raises(ValueError, match="there is no optimizer"):
        MLPClassifier().set_params(optimizer__lr=0.1)
    estimator = MLPClassifier(optimizer="adma")
    with pytest.raises(ValueError, match="optimizer must be one of .*, not 'adma'; did you mean"):
        estimator.fit(X, Y)
    assert not hasattr(estimator, "coefs_") and "optimizer__lr" not in estimator.get_params()
    with pytest.raises(ValueError, match="'optimizer' parameter of MLPClassifier must be an instance of"):
        MLPClassifier(optimizer=3).fit(X, Y)
    with pytest.raises(ValueError, match="solver must be 'adam' or 'sgd'.*, not 'lbfgs'"):
        MLPClassifier(optimizer="adam", solver="lbfgs").fit(X, Y)


def test_a_grid_of_learning_rates():
    search = GridSearchCV(
        MLPClassifier((16,), optimizer=fastopt.AdamW(), random_state=0, max_iter=8), {"optimizer__lr": [1e-5, 1e-2]}
    )
    assert search.fit(X[:500], Y[:500]).best_params_ == {"optimizer__lr": 1e-2}
    assert search.best_estimator_.optimizer_.lr == 1e-2 and search.best_score_ > 0.4


# In parts, in copies, from files


def in_parts(estimator, parts, between=lambda estimator: estimator):
    for _ in range(parts):
        estimator = between(estimator.partial_fit(X, Y))
    return estimator


@pytest.mark.parametrize(
    "between", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["copied", "pickled"]
)
def test_parts_of_a_run_have_the_bits_of_the_whole(between):
    def made():
        return MLPClassifier(**small(shuffle=False), optimizer="nadam").partial_fit(X, Y, classes=range(10))

    whole, parts = in_parts(made(), 3), in_parts(made(), 3, between)
    assert same(whole, parts) and whole.optimizer_.step_count == 4 * 29
    assert are_views(parts) and are_views(whole)
    assert same(whole, MLPClassifier(**small(shuffle=False, max_iter=4), optimizer="nadam").fit(X, Y))


def test_weights_that_somebody_replaces_are_taken_over():
    ours = MLPClassifier(**small(), optimizer="adam").fit(X, Y)
    zeros = [np.zeros_like(each) for each in ours.coefs_]
    ours.coefs_ = zeros
    ours.set_params(optimizer__lr=0.0).partial_fit(X, Y)
    assert are_views(ours) and not any(each.any() for each in ours.coefs_)
    assert ours.optimizer_.step_count == 4 * 29 and ours.optimizer_.lr == 0.0
    ours.set_params(optimizer="lion").partial_fit(X, Y)  # of another kind: with states of its own
    assert ours.optimizer_.step_count == 29 and isinstance(ours.optimizer_.rule, fastopt.Lion)
    ours.set_params(optimizer=None).partial_fit(X, Y)
    assert not hasattr(ours, "optimizer_")


@pytest.mark.parametrize(
    "between",
    [lambda each: each, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))],
    ids=["as it is", "copied", "pickled"],
)
def test_schedule_free_weights_are_the_averages(between):
    whole = MLPClassifier(**small(shuffle=False, max_iter=4), optimizer="schedulefreeadamw:lr=0.01").fit(X, Y)
    with whole.optimizer_.averaged():
        assert all(map(np.array_equal, weights(whole), whole.optimizer_.params.values()))
    assert not any(map(np.array_equal, weights(whole), whole.optimizer_.params.values()))
    parts = MLPClassifier(**small(shuffle=False), optimizer="schedulefreeadamw:lr=0.01")
    parts.partial_fit(X, Y, classes=range(10))
    assert same_weights(whole, in_parts(parts, 3, between))
    early = MLPClassifier(**small(early_stopping=True), optimizer="schedulefreesgd:lr=0.3").fit(X, Y)
    assert early.best_validation_score_ == max(early.validation_scores_)
    with early.optimizer_.averaged():
        assert all(map(np.array_equal, weights(early), early.optimizer_.params.values()))  # the last ones are the best
    replaced = copy.deepcopy(parts)
    replaced.coefs_ = [np.zeros_like(each) for each in parts.coefs_]
    assert not same_weights(parts.partial_fit(X, Y), replaced.partial_fit(X, Y))


def test_a_warm_start_goes_on_from_the_weights():
    ours = MLPClassifier(**small(), optimizer="sgd:lr=0.1", warm_start=True).fit(X, Y)
    before = ours.loss_curve_[-1]
    ours.fit(X, Y)
    assert ours.loss_curve_[3] < before and ours.optimizer_.step_count == 3 * 29


def test_schedules_count_batches_and_begin_anew_in_every_fit():
    ours = MLPClassifier(**small(), optimizer=fastopt.SGD(lr=schedules.Linear(lr=0.1, steps=87, final=0.0))).fit(X, Y)
    assert ours.optimizer_.step_count == 87 and ours.optimizer_.lr == 0.0
    plateau = schedules.Plateau(lr=0.1, patience=0, threshold=0.9)
    ours = MLPClassifier(**small(), optimizer=fastopt.SGD(lr=plateau)).fit(X, Y)
    assert ours.optimizer_.lr == pytest.approx(1e-3) and plateau(1) == 0.1
    assert same(ours, clone(ours).fit(X, Y))
    plateau = schedules.Plateau(lr=0.1, patience=0, threshold=0.9, mode="max")
    ours = MLPClassifier(**small(), early_stopping=True, optimizer=fastopt.SGD(lr=plateau)).fit(X, Y)
    assert ours.optimizer_.rule.lr.progress()["best"] in ours.validation_scores_
    with pytest.raises(ValueError, match="early_stopping must be True for a Plateau with mode='max'"):
        MLPClassifier(**small(), optimizer=fastopt.SGD(lr=plateau)).fit(X, Y)


def test_a_state_is_saved_and_goes_on_elsewhere(tmp_path):
    ours = MLPClassifier(**small(), optimizer="adamw").fit(X, Y)
    ours.optimizer_.save(tmp_path / "mlp.safetensors")
    other = MLPClassifier(**small(max_iter=1, random_state=1), optimizer="adamw").fit(X, Y)
    other.optimizer_.load(tmp_path / "mlp.safetensors")
    for each in ours, other:
        each.partial_fit(X, Y)
    assert same_weights(ours, other)


def test_messages_are_scikit_learns(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        MLPClassifier(**small(max_iter=50, n_iter_no_change=1, tol=10.0), optimizer="sgd", verbose=True).fit(X, Y)
    assert (
        "Training loss did not improve more than tol=10.000000 for 1 consecutive epochs. Stopping."
        in capsys.readouterr().out
    )
