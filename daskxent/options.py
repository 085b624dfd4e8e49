"""Check options, before anything is read: an option that is not understood is an error that says what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from daskxent.numbers import statistics
from daskxent.sources import whole


def flag(given: Any, name: str) -> bool:
    """Return True or False; anything else, which might well mean the other, is an error."""
    if not isinstance(given, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {given!r}")
    return bool(given)


def one_of(given: Any, choices: tuple[str | None, ...], name: str) -> Any:
    """Return what is one of some choices."""
    if not (given is None or isinstance(given, str)) or given not in choices:
        expected = ", ".join("None" if choice is None else choice for choice in choices)
        raise ValueError(f"{name}: expected one of {expected}; got {given!r}")
    return given


def share(given: float, name: str) -> float:
    """Return a number from 0 to 1."""
    if not isinstance(given, Real) or not 0 <= given <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {given!r}")
    return float(given)


def seconds(given: float | None, name: str) -> float | None:
    """Return a time above 0, or None."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, Real) or not given > 0:
        raise ValueError(f"{name}: expected seconds above 0, got {given!r}")
    return float(given)


def ignored(given: Any) -> int | None:
    """Return the class to be ignored, which the int64 of compiled labels must hold."""
    if given is None:
        return None
    label = whole(given, "ignore_class")
    if not -(2**63) <= label < 2**63 - 1:  # unsigned labels that do not fit are held as 2**63 - 1
        raise ValueError(f"ignore_class: expected a label below 2**63 - 1, got {label}")
    return label


def metric_names(given: Iterable[str]) -> tuple[str, ...]:
    """Return the names of metrics, each once, if they are known."""
    if not isinstance(given, Iterable):
        raise TypeError(f"metrics: expected names, got {given!r}")
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    if not names:
        raise ValueError("metrics: expected at least one name")
    for name in names:
        statistics.metric(name)
    return names
