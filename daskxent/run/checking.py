"""Checks of options: each returns what was given in the form in which it is used, or says what was expected."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any


def flag(given: Any, name: str) -> bool:
    """Return True or False; anything else, which might well mean the other, is an error."""
    if type(given).__name__ not in ("bool", "bool_"):  # NumPy 1 calls its own bool_
        raise TypeError(f"{name}: expected True or False, got {given!r}")
    return bool(given)


def a_name(given: Any, name: str) -> str | None:
    """Return a name, or None."""
    if given is not None and not isinstance(given, str):
        raise TypeError(f"{name}: expected a name, got {given!r}")
    return given


def a_path(given: Any, name: str) -> Any:
    """Return a path or URL."""
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{name}: expected a path, got {given!r}")
    if not os.fspath(given):
        raise ValueError(f"{name}: expected a path, got an empty one")
    return given


def whole(given: Any, name: str) -> int:
    """Return an integer of any kind as an int."""
    from daskxent.sources.align import whole as checked

    return checked(given, name)


def one_of(*choices: str | None) -> Callable[[Any, str], Any]:
    """Return a check for what is one of some choices, which knows them."""

    def check(given: Any, name: str) -> Any:
        if not (given is None or isinstance(given, str)) or given not in choices:
            expected = ", ".join("None" if choice is None else choice for choice in choices)
            raise ValueError(f"{name}: expected one of {expected}; got {given!r}")
        return given

    check.choices = choices  # type: ignore[attr-defined]
    return check


def share(given: Any, name: str) -> float:
    """Return a number from 0 to 1."""
    if isinstance(given, bool) or not isinstance(given, Real) or not 0 <= float(given) <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {given!r}")
    return float(given)


def seconds(given: Any, name: str) -> float:
    """Return a time above 0."""
    if isinstance(given, bool) or not isinstance(given, Real) or not float(given) > 0:
        raise ValueError(f"{name}: expected seconds above 0, got {given!r}")
    return float(given)


def local_file(given: Any, name: str) -> str:
    """Return the path of a file of this machine."""
    from daskxent.sources.paths import place

    path = place(a_path(given, name))
    if "://" in path:
        raise ValueError(f"{name}: expected a file of this machine, got {path}")
    return path


def at_least(least: int) -> Callable[[Any, str], int]:
    """Return a check for an integer that is not too small."""

    def check(given: Any, name: str) -> int:
        if whole(given, name) < least:
            raise ValueError(f"{name}: expected at least {least}, got {given}")
        return int(given)

    return check


def ignored(given: Any, name: str = "ignore_class") -> tuple[int, ...]:
    """Return the classes to be ignored, which the int64 of compiled labels must hold, in order."""
    several = not isinstance(given, str) and _are_several(given)
    labels = sorted({whole(each, name) for each in (given if several else [given])})
    for label in labels:
        if not -(2**63) < label < 2**63 - 1:  # what stands for labels that do not fit
            raise ValueError(f"{name}: expected labels between -2**63 and 2**63 - 1, got {label}")
    return tuple(labels)


def _are_several(given: Any) -> bool:
    return isinstance(given, Iterable) and getattr(given, "ndim", 1) != 0


def _names(given: Any, name: str, least: int = 1) -> tuple[str, ...]:
    if not _are_several(given):
        raise TypeError(f"{name}: expected names, got {given!r}")
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    if len(names) < least:
        raise ValueError(f"{name}: expected at least one name")
    return names


def metric_names(given: Any, name: str = "metrics") -> tuple[str, ...]:
    """Return the names of metrics, each once, if they are known."""
    from daskxent.numbers import statistics

    names = _names(given, name)
    for each in names:
        statistics.metric("" if str(each).startswith("_") else each)
    return names


def statistic_names(given: Any, name: str) -> tuple[str, ...]:
    """Return the names of statistics, each once, if they are known."""
    from daskxent.numbers import statistics

    names = _names(given, name, 0)
    for each in names:
        if each not in statistics.VALUES:
            raise ValueError(f"{name}: {each!r} is not a value of rows; known are {', '.join(statistics.VALUES)}")
    return names


def units(given: Any, name: str) -> Any:
    """Return bytes or words: an array, or a number above 0, which an array without axes is too."""
    if getattr(given, "ndim", None) == 0:
        from daskxent.sources.memory import from_lists

        given = from_lists(given, name).item()
    if isinstance(given, (bool, float)):
        raise TypeError(f"{name}: expected an array or a whole number, got {given!r}")
    return at_least(1)(given, name) if isinstance(given, int) else given


def zero_division(given: Any, name: str) -> float:
    """Return 0, 1 or NaN."""
    if isinstance(given, bool) or not isinstance(given, Real) or not (given in (0, 1) or given != given):
        raise ValueError(f"{name}: expected 0, 1 or NaN, got {given!r}")
    return float(given)


def temperature(given: Any, name: str) -> float:
    """Return a number above 0."""
    if isinstance(given, bool) or not isinstance(given, Real) or not 0 < float(given) < float("inf"):
        raise ValueError(f"{name}: expected a finite number above 0, got {given!r}")
    return float(given)


def column_names(given: Any, name: str) -> tuple[str, ...]:
    """Return the names of columns of rows, each once, if they are known."""
    from daskxent.numbers.status import ROW_COLUMNS

    names = _names(given, name)
    for each in names:
        if each not in ROW_COLUMNS:
            raise ValueError(f"{name}: {each!r} is unknown; known are {', '.join(sorted(ROW_COLUMNS))}")
    return names


def steps(given: Any, name: str) -> slice:
    """Return a range of steps as a slice without a step; what only looks like two edges, as a set does, is none."""
    ordered = isinstance(given, (tuple, list)) or getattr(given, "ndim", None) == 1
    edges: Any = (given.start, given.stop) if isinstance(given, slice) else given if ordered else ()
    try:
        start, stop = edges
        found = slice(*(None if edge is None else operator.index(edge) for edge in (start, stop)))
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected (start, stop) or a slice, got {given!r}") from None
    if getattr(given, "step", None) not in (None, 1):
        raise ValueError(f"{name}: expected a slice without a step, got {given!r}")
    return found


def slices(given: Any, name: str) -> Any:
    """Return what to group by, as a tuple of dictionaries; an empty one for nothing."""
    if given == ():
        return given
    from daskxent.run.slicing import normalised

    return normalised(given, name)


def class_weights(given: Any, name: str) -> tuple[Any, ...]:
    """Return weights of classes in order, or pairs of some classes and theirs."""
    if isinstance(given, str) or not _are_several(given):
        raise TypeError(
            f"{name}: expected a weight for each class, or a mapping from classes to weights; got {given!r}"
        )
    several = list(given.items() if isinstance(given, Mapping) else given)
    if several and isinstance(several[0], (list, tuple)):
        return tuple(sorted((whole(each, name), _weight(weight, name)) for each, weight in several))
    return tuple(_weight(weight, name) for weight in several)


def _weight(given: Any, name: str) -> float:
    if not isinstance(given, Real) or not 0 <= float(given) < float("inf"):
        raise ValueError(f"{name}: expected finite weights that are not negative, got {given!r}")
    return float(given)


def storage_options(given: Any, name: str) -> Any:
    """Return what a file system takes, by name."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise TypeError(f"{name}: expected a mapping of names to values, got {given!r}")
    return dict(given)


def progress(given: Any, name: str) -> Any:
    """Return True, False or a callable."""
    if not isinstance(given, bool) and not callable(given):
        raise TypeError(f"{name}: expected True, False or a callable, got {given!r}")
    return given
