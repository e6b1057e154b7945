"""Bounds of config fields, declared where the field is, and the check of all of them.

    steps: int = positive(100_000)

`check_bounds` walks a config and raises one line that names the field, its value and its bound.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jaxir.errors import UserError

T = TypeVar("T")
INFINITY = float("inf")


@dataclass(frozen=True)
class Bound:
    """The values that a field may have, and how a message names them."""

    holds: Callable[[Any], bool]
    text: str


def _bounded(default: T, holds: Callable[[Any], bool], text: str) -> T:
    # a type checker sees the default's type, a dataclass sees the field
    return field(default=default, metadata={"bound": Bound(holds, text)})  # type: ignore[return-value]


def positive(default: T) -> T:
    """Field that must be over 0 and finite."""
    return _bounded(default, lambda value: 0 < value < INFINITY, "positive")


def not_negative(default: T) -> T:
    """Field that must be 0 or more and finite."""
    return _bounded(default, lambda value: 0 <= value < INFINITY, "0 or more")


def under_one(default: T) -> T:
    """Field that must be at least 0 and under 1."""
    return _bounded(default, lambda value: 0 <= value < 1, "at least 0 and under 1")


def within(default: T, low: float, high: float) -> T:
    """Field that must be from `low` to `high`."""
    return _bounded(default, lambda value: low <= value <= high, f"from {low:,} to {high:,}")


def at_least(default: T, low: float) -> T:
    """Field that must be `low` or more."""
    return _bounded(default, lambda value: value >= low, f"{low} or more")


def one_of(default: T, *choices: T) -> T:
    """Field that must be one of the choices."""
    listed = ", ".join(repr(choice) for choice in choices)
    return _bounded(default, lambda value: value in choices, f"one of {listed}")


def require(holds: bool, name: str, value: object, bound: str) -> None:
    """Raise a `UserError` that names the field, its value and the bound, unless that holds."""
    if not holds:
        raise UserError(f"config.{name} = {value!r}: must be {bound}")


def check_bounds(config: Any, prefix: str = "") -> None:
    """Check every field of a config, or of a part of one, against its bound.

    Args:
        config: a dataclass; dataclasses in its fields, tuples and dicts are checked too.
        prefix: name of that part, with a dot at its end.

    Raises:
        UserError: names the field, its value and the bound it breaks.
    """
    for item in dataclasses.fields(config):
        name, value = prefix + item.name, getattr(config, item.name)
        bound = item.metadata.get("bound")
        if bound is not None:
            require(bound.holds(value), name, value, bound.text)
        for inner_name, part in _parts(name, value):
            check_bounds(part, f"{inner_name}.")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The dataclasses in a field, and what each is called."""
    if isinstance(value, tuple):
        named = [(f"{name}[{index}]", part) for index, part in enumerate(value)]
    elif isinstance(value, dict):
        named = [(f"{name}[{key}]", part) for key, part in value.items()]
    else:
        named = [(name, value)]
    yield from (pair for pair in named if dataclasses.is_dataclass(pair[1]))
