"""scikit-learn's multi-layer perceptrons, trained by a rule: ``MLPClassifier(optimizer=fastopt.AdamW(lr=1e-3))``.

All else is scikit-learn's: its loop over epochs and batches, its losses, early stopping, validation and messages. What
its loop calls for each batch is here: the gradient, the same to the last bit, in memory that is used again, and the
step. Needs scikit-learn 1.5 or newer.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import deepcopy
from operator import is_
from typing import Any, Self

import numpy as np
from sklearn import neural_network
from sklearn.neural_network._base import ACTIVATIONS, DERIVATIVES, LOSS_FUNCTIONS
from sklearn.utils.extmath import safe_sparse_dot

from fastopt import specs
from fastopt.buffers import FlatBuffer
from fastopt.errors import BackendError, InputError
from fastopt.optimizer import Optimizer
from fastopt.rule import Rule
from fastopt.schedules import Plateau

__all__ = ["MLPClassifier", "MLPRegressor"]

_FIELD = "optimizer__"


class _Rows(np.ndarray):
    """An array that scikit-learn takes for a data frame when it picks a batch: then it calls ``take``, and at once.

    The way to that which it goes for an array takes longer than a step.
    """

    iloc = None


def _plain(X: Any) -> Any:
    return X.view(np.ndarray) if isinstance(X, _Rows) else X


def _as_rule(optimizer: Rule | str) -> Rule:
    return specs.rule(optimizer) if isinstance(optimizer, str) else optimizer


class _Training:
    """What batches work on: weights, gradients and an optimizer. scikit-learn's loop takes it for one of its own."""

    def __init__(self, asked: Rule, optimizer: Optimizer) -> None:
        #: The rule as the user gave it.
        self.asked = asked
        self.optimizer = optimizer
        self.grads = self._params.zeros_like()
        #: Views of weights and gradients: those of every layer, then the intercepts of every layer.
        self.params = [*self._params.values()]
        layers = len(self.params) // 2
        self._weights, self._intercepts = self.params[:layers], self.params[layers:]
        gradients = [*self.grads.values()]
        self.coef_grads, self.intercept_grads = gradients[:layers], gradients[layers:]
        decayed = sum(weight.size for weight in self._weights)
        self._decayed = self.grads.flat[:decayed], self._params.flat[:decayed], np.empty(decayed, self.grads.dtype)
        self._room: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        self._evaluated: list[np.ndarray] = []

    def __reduce__(self) -> tuple:
        return type(self), (self.asked, self.optimizer)

    @property
    def _params(self) -> FlatBuffer:
        params = self.optimizer.params
        assert isinstance(params, FlatBuffer)
        return params

    @classmethod
    def start(cls, asked: Rule, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> Self:
        """Weights copied into one flat buffer, and an optimizer that has made no step."""
        named = {f"coefs_.{layer}": array for layer, array in enumerate(coefs)}
        named |= {f"intercepts_.{layer}": array for layer, array in enumerate(intercepts)}
        return cls(asked, _optimizer(FlatBuffer(named), deepcopy(asked)))  # a schedule that makes progress begins anew

    def goes_on_with(self, asked: Rule, arrays: Sequence[np.ndarray]) -> bool:
        """Whether the states can be kept with a rule and weights that may be others by now. Takes over the rule."""
        mine = [(array.shape, array.dtype) for array in self.params]
        if mine != [(array.shape, array.dtype) for array in arrays]:
            return False
        if asked != self.asked:
            try:
                self.optimizer.rule = deepcopy(asked)
            except (TypeError, ValueError):  # of another kind
                return False
            self.asked = asked
        return True

    # Averages, of rules that have some: a model is evaluated with these

    @property
    def averages(self) -> bool:
        return self.asked.averages

    def evaluation(self) -> AbstractContextManager[None]:
        """For a block in which the weights are those to evaluate the model with."""
        return self.optimizer.averaged() if self.averages else nullcontext()

    def evaluated(self) -> list[np.ndarray]:
        """Copies of these weights, read-only: no step follows what is written to them."""
        with self.evaluation():
            self._evaluated = [array.copy() for array in self.params]
        for array in self._evaluated:
            array.flags.writeable = False
        return self._evaluated

    def are_evaluated(self, arrays: Sequence[np.ndarray]) -> bool:
        """Whether weights are these copies, or come apart from the optimizer, in a pickle, have their values."""
        same = len(arrays) == len(self._evaluated) and all(map(is_, arrays, self._evaluated))
        return same or all(map(np.array_equal, arrays, self.evaluated()))

    # The gradient

    def gradient(
        self,
        X: Any,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        *,
        activation: str,
        last_activation: str,
        loss: Callable[..., float],
        alpha: float,
    ) -> float:
        """Writes the gradient over a batch; returns the loss with its penalty."""
        values, errors = self._rooms(X.shape[0])
        layers = len(values)
        for layer in range(layers):
            _dot(X if layer == 0 else values[layer - 1], self._weights[layer], values[layer])
            values[layer] += self._intercepts[layer]
            ACTIVATIONS[activation if layer < layers - 1 else last_activation](values[layer])
        weights = () if sample_weight is None else (sample_weight,)
        total = X.shape[0] if sample_weight is None else sample_weight.sum()
        squares = 0
        for weight in self._weights:
            flat = weight.reshape(-1)
            squares += np.dot(flat, flat)
        batch_loss = loss(y, values[-1], *weights) + (0.5 * alpha) * squares / total
        np.subtract(values[-1], y, out=errors[-1], casting="same_kind")
        if sample_weight is not None:
            errors[-1] *= sample_weight.reshape(-1, 1)
        for layer in reversed(range(layers)):
            _dot((X if layer == 0 else values[layer - 1]).T, errors[layer], self.coef_grads[layer])
            np.sum(errors[layer], axis=0, out=self.intercept_grads[layer])
            if layer > 0:
                _dot(errors[layer], self._weights[layer].T, errors[layer - 1])
                _derive(activation, values[layer - 1], errors[layer - 1])
        grads, params, decay = self._decayed
        grads += np.multiply(params, alpha, out=decay)
        self.grads.flat[...] /= total
        return batch_loss

    def _rooms(self, rows: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Memory for the outputs of every layer, and for their errors."""
        if not self._room[0] or len(self._room[0][0]) < rows:
            sizes = [intercept.size for intercept in self._intercepts]
            made = [[np.empty((rows, size), self.grads.dtype) for size in sizes] for _ in range(2)]
            self._room = made[0], made[1]
        values, errors = self._room
        return [array[:rows] for array in values], [array[:rows] for array in errors]

    # What scikit-learn's loop calls

    def update_params(self, params: Any, grads: Any) -> None:
        """A step: parameters and gradients are those that are here."""
        self.optimizer.step(self.grads)

    def iteration_ends(self, time_step: int) -> None:
        """After an epoch: nothing, as the rule says what the learning rate is."""

    def trigger_stopping(self, msg: str, verbose: bool) -> bool:
        """Whether training ends, now that it makes no progress."""
        if verbose:
            print(f"{msg} Stopping.")
        return True


def _optimizer(params: FlatBuffer, rule: Rule) -> Optimizer:
    """An optimizer; where nothing is asked for by C, which is there at once: numba would have to be imported."""
    if isinstance(rule.kernel, str) and not os.environ.get("FASTOPT_BACKEND"):
        with suppress(BackendError):
            return Optimizer(params, rule, backend="c")
    return Optimizer(params, rule)


def _dot(a: Any, b: np.ndarray, out: np.ndarray) -> None:
    """The product of a matrix, which may be sparse, and an array."""
    if isinstance(a, np.ndarray):
        np.matmul(a, b, out=out, casting="same_kind")
    else:
        out[...] = safe_sparse_dot(a, b)


def _derive(activation: str, values: np.ndarray, errors: np.ndarray) -> None:
    """Multiplies errors by an activation's derivative, given its values."""
    if activation == "relu":  # as scikit-learn's errors[values == 0] = 0, which takes twice as long
        np.putmask(errors, values == 0, 0)
    else:
        DERIVATIVES[activation](values, errors)


def _with_optimizer(base: Any) -> Callable[..., None]:
    """A constructor of a class of scikit-learn's that takes ``optimizer`` besides, by name; its signature says so."""

    def __init__(self: Any, *args: Any, optimizer: Rule | str | None = None, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        self.optimizer = optimizer

    signature = inspect.signature(base.__init__)
    optimizer = inspect.Parameter("optimizer", inspect.Parameter.KEYWORD_ONLY, default=None)
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), optimizer]
    )
    return __init__


class _TrainedByRule:
    """What stands before scikit-learn's classes: where there is a rule, batches are those of :class:`_Training`."""

    optimizer: Rule | str | None
    optimizer_: Optimizer
    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    _training: _Training

    # Parameters: those of the rule, too

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; if ``deep``, ``optimizer__lr`` and so on, too."""
        params = super().get_params(deep)  # type: ignore[misc]
        if deep and params["optimizer"] is not None:
            with suppress(InputError, TypeError):  # which fit will report
                params |= {f"{_FIELD}{name}": value for name, value in _as_rule(params["optimizer"])}
        return params

    def set_params(self, **params: Any) -> Self:
        """Sets parameters by name. ``optimizer__lr`` and so on replace hyperparameters of the rule."""
        changes = {name.removeprefix(_FIELD): params.pop(name) for name in [*params] if name.startswith(_FIELD)}
        if changes:
            optimizer = params.get("optimizer", self.optimizer)
            if optimizer is None:
                raise ValueError(f"{_FIELD}{next(iter(changes))}: there is no optimizer: give one, as optimizer='adam'")
            params["optimizer"] = _as_rule(optimizer).replace(**changes)
        return super().set_params(**params)  # type: ignore[misc]

    # Training

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimizer is not None:
            rule = _as_rule(self.optimizer)  # before anything is changed
            if self.solver == "lbfgs":  # type: ignore[attr-defined]
                raise ValueError("solver must be 'adam' or 'sgd' where an optimizer takes its place, not 'lbfgs'")
            scored = self.early_stopping  # type: ignore[attr-defined]
            if isinstance(rule.lr, Plateau) and rule.lr.mode == "max" and not scored:
                raise ValueError("early_stopping must be True for a Plateau with mode='max', which observes its scores")
        return super()._fit(*args, **kwargs)  # type: ignore[misc]

    def _fit_stochastic(self, *args: Any) -> None:
        X, *others = args
        if self.optimizer is None:
            for name in ("_training", "optimizer_"):
                self.__dict__.pop(name, None)
            return super()._fit_stochastic(*args)  # type: ignore[misc]
        self._prepare(_as_rule(self.optimizer), incremental=others[-1])
        super()._fit_stochastic(X.view(_Rows) if isinstance(X, np.ndarray) else X, *others)  # type: ignore[misc]
        if not self._training.averages:
            self._lay_out()  # early stopping puts other arrays there
        elif self.coefs_[0] is self._training.params[0]:  # it has not
            self._show(self._training.evaluated())
        return None

    def _prepare(self, rule: Rule, *, incremental: bool) -> None:
        """Makes an optimizer, or goes on with the one that is there."""
        arrays = self.coefs_ + self.intercepts_
        before = self.__dict__.get("_training") if incremental else None
        averages = before is not None and before.averages and before.are_evaluated(arrays)
        if before is not None and before.goes_on_with(rule, arrays):
            if averages:
                self._show(before.params)  # to go on from the weights that these are averages of
        else:
            self._training = _Training.start(rule, self.coefs_, self.intercepts_)
            self.optimizer_ = self._training.optimizer
        self._lay_out()

    def _lay_out(self) -> None:
        """Has the weights lie in the flat buffer, whoever put others in their place."""
        views = self._training.params
        for view, array in zip(views, self.coefs_ + self.intercepts_, strict=True):
            if array is not view:
                view[...] = array
        self._show(views)

    def _show(self, arrays: list[np.ndarray]) -> None:
        """Has the model have these weights: those of every layer, then the intercepts of every layer."""
        layers = len(arrays) // 2
        self.coefs_, self.intercepts_ = arrays[:layers], arrays[layers:]

    @property
    def _optimizer(self) -> Any:
        """What scikit-learn's loop calls. What it sets itself is used where there is no rule."""
        found = self.__dict__.get("_training" if self.optimizer is not None else "_optimizer")
        if found is None:
            raise AttributeError("_optimizer")
        return found

    @_optimizer.setter
    def _optimizer(self, theirs: Any) -> None:
        if self.optimizer is None:
            self.__dict__["_optimizer"] = theirs

    def _backprop(self, X: Any, y: np.ndarray, *others: Any) -> tuple[float, list[np.ndarray], list[np.ndarray]]:
        if self.optimizer is None:
            return super()._backprop(X, y, *others)  # type: ignore[misc]
        last = self.out_activation_  # type: ignore[attr-defined]
        loss = self.loss  # type: ignore[attr-defined]
        training = self._training
        batch_loss = training.gradient(
            _plain(X),
            y,
            others[0] if len(others) == 5 else None,  # weights of samples came with scikit-learn 1.7
            activation=self.activation,  # type: ignore[attr-defined]
            last_activation=last,
            loss=LOSS_FUNCTIONS["binary_log_loss" if (loss, last) == ("log_loss", "logistic") else loss],
            alpha=self.alpha,  # type: ignore[attr-defined]
        )
        return batch_loss, training.coef_grads, training.intercept_grads

    def _update_no_improvement_count(self, early_stopping: bool, X: Any, *others: Any) -> None:
        scored = self.optimizer is not None and early_stopping
        with self._training.evaluation() if scored else nullcontext():
            super()._update_no_improvement_count(early_stopping, _plain(X), *others)  # type: ignore[misc]
        if self.optimizer is not None and isinstance(schedule := self.optimizer_.rule.lr, Plateau):
            scores = self.validation_scores_  # type: ignore[attr-defined]
            schedule.observe(self.loss_curve_[-1] if schedule.mode == "min" else scores[-1])  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if "_training" in self.__dict__ and not self._training.averages:  # whose weights came apart from these
            self._lay_out()


class MLPClassifier(_TrainedByRule, neural_network.MLPClassifier):
    """:class:`sklearn.neural_network.MLPClassifier` with ``optimizer``, which takes the place of ``solver``.

    Parameters
    ----------
    optimizer
        A rule, ``fastopt.AdamW(lr=1e-3)``, or its text, ``"adamw:lr=1e-3"``; its hyperparameters can be set and
        searched as ``optimizer__lr`` and so on. Schedules count batches; a ``Plateau`` observes the training loss after
        every epoch or, with ``mode="max"``, the validation score. With a rule ``solver``, ``learning_rate``,
        ``learning_rate_init``, ``power_t``, ``momentum``, ``nesterovs_momentum``, ``beta_1``, ``beta_2`` and
        ``epsilon`` have no effect. If None, all is as in scikit-learn.

    The other parameters are scikit-learn's. A text that names a class, ``"package.module.Rule"``, imports it.

    Raises
    ------
    ValueError
        In ``fit``: the text is none of a rule, the solver is ``"lbfgs"``, a ``Plateau`` with ``mode="max"`` has no
        scores of ``early_stopping`` to observe; or what scikit-learn raises.

    Attributes
    ----------
    optimizer_
        The :class:`fastopt.Optimizer`. ``coefs_`` and ``intercepts_`` are views of its flat buffer
        ``optimizer_.params``, whose names are ``coefs_.0``, ``coefs_.1``, ..., ``intercepts_.0``, ... Of a
        schedule-free rule they are copies of its averages, which are what early stopping scores, too.

    Examples
    --------
    >>> MLPClassifier((64,), optimizer=fastopt.AdamW(lr=3e-3), random_state=0).fit(X, y)
    >>> GridSearchCV(MLPClassifier(optimizer="lion"), {"optimizer__lr": [1e-4, 3e-4]}).fit(X, y)
    """

    __init__ = _with_optimizer(neural_network.MLPClassifier)
    _parameter_constraints = neural_network.MLPClassifier._parameter_constraints | {"optimizer": [Rule, str, None]}


class MLPRegressor(_TrainedByRule, neural_network.MLPRegressor):
    """:class:`sklearn.neural_network.MLPRegressor` with ``optimizer``, as :class:`MLPClassifier` has it."""

    __init__ = _with_optimizer(neural_network.MLPRegressor)
    _parameter_constraints = neural_network.MLPRegressor._parameter_constraints | {"optimizer": [Rule, str, None]}
