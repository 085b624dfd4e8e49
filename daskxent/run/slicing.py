"""What users say of slices: read from `by`, checked, and turned into groupings and arrays along the rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers.keys import Bins, Group, Predicted
from daskxent.numbers.scores import COLUMNS
from daskxent.numbers.statistics import VALUES
from daskxent.sources.align import Further, whole
from daskxent.sources.memory import Memory
from daskxent.sources.opening import again, call_of, open_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daskxent.numbers.keys import By, Slicing

LABEL, PREDICTION = "label", "prediction"  # words that stand for no path
CLUSTERS = "clusters"
NUMBERS = "numbers"  # which bins are of
BINNED = (COLUMNS - {"flags", "hit", "prediction"}) | set(VALUES)


@dataclass(frozen=True)
class Axis:
    """An axis of the positions, which groups rows by their index along it."""

    number: int


@dataclass(frozen=True)
class Binned:
    """Numbers that group rows by the bins they fall into."""

    of: Any
    edges: tuple[float, ...]


def axis(number: int) -> Axis:
    """Group rows by their index along an axis of the positions: the predictions' axes but that of the classes.

    Parameters
    ----------
    number : int
        Negative ones count from the last.

    Returns
    -------
    Axis
        For `by`.

    Examples
    --------
    >>> import daskxent as dx
    >>> logits = np.zeros((2, 3, 5))  # two sequences of three tokens
    >>> report = dx.evaluate(np.zeros((2, 3), int), logits, from_logits=True, by={"position": dx.axis(1)})
    >>> list(report.by("position"))
    [(0,), (1,), (2,)]
    """
    return Axis(whole(number, "axis"))


def bins(of: Any, edges: Iterable[float]) -> Binned:
    """Group rows by the bins that numbers fall into.

    Parameters
    ----------
    of : path or array along the rows, or str
        Numbers; or a value of the rows: "confidence", "loss", "crossentropy", "entropy", "brier", "label_probability",
        "margin", "above", "rank", "mrr", "peak", "second", "target", "total", "logsumexp", "z_loss", "sum_p2",
        "class_distance", "squared_class_distance".
    edges : iterable of float
        Increasing. Bin i holds ``edges[i] <= value < edges[i + 1]``, the last one its upper edge too. What lies
        outside, and NaN, are groups of their own.

    Returns
    -------
    Binned
        For `by`.

    Raises
    ------
    ValueError
        The edges do not increase, or are fewer than two.

    Examples
    --------
    >>> import daskxent as dx
    >>> report = dx.evaluate([0, 1], [[0.9, 0.1], [0.4, 0.6]], by={"sure": dx.bins("confidence", [0, 0.8, 1])})
    >>> report.by("sure").rows[0]["sure"]
    '[0, 0.8)'
    """
    try:
        found = Binned(of, tuple(map(float, edges)))
    except (TypeError, ValueError):
        raise TypeError(f"bins: expected edges, numbers that increase, got {edges!r}") from None
    Bins("", "", found.edges).check("bins")
    return found


def normalised(by: Any, name: str = "by") -> tuple[dict[str, Any], ...]:
    """Return the slicings of `by`, which is a mapping, or several of them."""
    several = [by] if isinstance(by, Mapping) else by
    if not isinstance(several, (list, tuple)) or not all(isinstance(each, Mapping) for each in several):
        raise TypeError(f"{name}: expected a mapping from names to what to group by, or a list of such; got {by!r}")
    found, seen = tuple(dict(each) for each in several), dict[str, Any]()
    for each in found:
        if not each:
            raise ValueError(f"{name}: expected at least one name to group by")
        for key, given in each.items():
            if not isinstance(key, str) or not key or "," in key:
                raise ValueError(f"{name}: expected names without commas, got {key!r}")
            if not _same(seen.setdefault(key, given), given):
                raise ValueError(f"{name}: {key!r} means two things")
    return found


def _same(one: Any, other: Any) -> bool:
    plain = (str, os.PathLike, Axis)
    return one is other or (isinstance(one, plain) and isinstance(other, plain) and one == other)


def slicings_of(by: Iterable[Mapping[str, Any]]) -> tuple[Slicing, ...]:
    """Return the slicings that the sums are kept by."""
    return tuple(tuple(_grouping(name, given) for name, given in each.items()) for each in by)


def _grouping(name: str, given: Any) -> By:
    if isinstance(given, Binned):
        return Bins(name, given.of if _is_column(given.of) else title(name), given.edges)
    if isinstance(given, str) and given == LABEL:
        return Group(name, "labels")
    return Predicted(name) if isinstance(given, str) and given == PREDICTION else Group(name, title(name))


def _is_column(of: Any) -> bool:
    return isinstance(of, str) and of in BINNED


def clusters_of(given: Any) -> By | None:
    """Return the grouping that clusters are."""
    return None if given is None else Group(CLUSTERS, CLUSTERS)


def title(name: str) -> str:
    """Return what messages and inputs call the array that a grouping is read from."""
    return f"by[{name!r}]"


def arrays_of(by: Iterable[Mapping[str, Any]], clusters: Any = None) -> Iterator[tuple[str, Any, str]]:
    """Yield the arrays along the rows that are to be read: their titles, what they are, and of which kind."""
    for name, given in {name: given for each in by for name, given in each.items()}.items():
        if isinstance(given, Binned):
            if not _is_column(given.of):
                yield title(name), given.of, NUMBERS
        elif not (isinstance(given, str) and given in (LABEL, PREDICTION)):
            yield title(name), given, "keys"
    if clusters is not None:
        yield CLUSTERS, clusters, "keys"


def opened(given: Any, name: str, kind: str, positions: tuple[int, ...]) -> Further:
    """Open an array along the rows."""
    if not isinstance(given, Axis):
        return Further(_open_numbers(given, name) if kind == NUMBERS else open_array(given, name), name, kind)
    ndim = len(positions)
    if not -ndim <= given.number < ndim:
        raise ValueError(f"{name}: axis {given.number} is out of range for labels of shape {positions}")
    at = given.number % ndim
    shape = [1] * at + [positions[at]]
    index = Memory(np.arange(positions[at]).reshape(shape), name)
    index.path = f"axis {at}"
    return Further(index, name, kind)


def _open_numbers(given: Any, name: str) -> Any:
    """Open what is put into bins; a word that is no path was meant as a value of the rows."""
    try:
        return open_array(given, name)
    except FileNotFoundError as error:
        if not isinstance(given, str) or not given.isidentifier():
            raise
        raise FileNotFoundError(f"{error}; bins take a path, an array, or {', '.join(sorted(BINNED))}") from None


def to_call(by: Iterable[Mapping[str, Any]]) -> list[Any] | None:
    """Return how to group by the same again, as JSON; None if that takes arrays that are not stored."""
    found = [[[name, one_to_call(given)] for name, given in each.items()] for each in by]
    return None if any(call is None for each in found for _, call in each) else found


def one_to_call(given: Any) -> Any:
    """Return how to group by one thing again, as JSON; None if it takes an array that is not stored."""
    if isinstance(given, Axis):
        return {"axis": given.number}
    if isinstance(given, Binned):
        of = given.of if _is_column(given.of) else call_of(given.of)
        return None if of is None else {"bins": of, "edges": list(map(str, given.edges))}
    call = given if isinstance(given, str) and given in (LABEL, PREDICTION) else call_of(given)
    return None if call is None else {"given": call}


def from_call(call: Iterable[Iterable[tuple[str, Any]]]) -> list[dict[str, Any]]:
    """Return what `to_call` describes."""
    return [{name: one_from_call(given) for name, given in each} for each in call]


def one_from_call(call: Any) -> Any:
    """Return what `one_to_call` describes."""
    if "axis" in call:
        return Axis(call["axis"])
    if "bins" in call:
        return Binned(again(call["bins"]), tuple(map(float, call["edges"])))
    return again(call["given"])
