"""Hyperparameters as users write them into groups: numbers, tensors of one element, tuples of these."""

import math
from typing import Any

from torch import Tensor

from fastopt.declared import Flag, NumberOrCallable, Tuple, real


def is_constant(value: Any) -> bool:
    """Whether a hyperparameter stays what it is as long as it is the same object."""
    if isinstance(value, tuple):
        return all(map(is_constant, value))
    return value is None or isinstance(value, (float, int, str))


def number_of(value: Any) -> Any:
    """A hyperparameter without tensors: each is replaced by its only element."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"Tensor hyperparameters must have 1 element, not the shape {tuple(value.shape)}")
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(map(number_of, value))
    return value


def items_of(value: Any) -> tuple:
    """The items of a tuple or list, or a hyperparameter alone."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def as_given(name: str, domain: Any, value: Any) -> Any:
    """A hyperparameter that may lie outside its domain; TypeError if it is no number, ValueError if it is NaN."""
    if callable(value):
        domain.parse(name, math.nan)
    if isinstance(domain, Flag):
        return bool(value)  # anything may stand for one, as in torch
    if isinstance(domain, Tuple):
        if not isinstance(value, tuple) or len(value) != len(domain.items):
            domain.parse(name, value)
        pairs = enumerate(zip(domain.items, value, strict=True))
        return tuple(as_given(f"{name}[{index}]", item, each) for index, (item, each) in pairs)
    number = real(name, value, domain)
    if math.isnan(number) or (math.isinf(number) and isinstance(domain, NumberOrCallable)):
        domain.parse(name, number)
    return number
