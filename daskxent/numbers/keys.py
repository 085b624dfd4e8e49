"""What rows are grouped by: each grouping gives every row a key, and sums are kept by key.

A *group* is a key read from an array along the rows; a *bin* is a key computed from a column of `Scores`, or from
numbers along the rows; a class is a key that is the label or the prediction. To the sums they are all the same. A
*slicing* is one grouping, or several whose observed combinations are the keys.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from daskxent.numbers import reading
from daskxent.numbers.scores import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.scores import Scores

Key = tuple[Any, ...]  # a value for each grouping of a slicing: what sums are kept by


class By(Protocol):
    """A grouping; pickles, and is equal to its like."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `Scores` that the keys are made of."""

    @property
    def array(self) -> str:
        """The array along the rows that the keys are made of, by its name in `Inputs.along`; "" for none."""

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row, (n,) of integers, bool or strings.

        `along` holds the arrays along the rows by name; "labels" is always among them.
        """


Slicing = tuple[By, ...]
INFINITE = {"inf": math.inf, "-inf": -math.inf}


class Group(NamedTuple):
    """The key is read from an array along the rows ("labels" are the classes themselves).

    Examples
    --------
    >>> Group("label", "labels").keys(None, {"labels": np.array([2, 0])}).tolist()
    [2, 0]
    """

    name: str
    array: str

    @property
    def needs(self) -> frozenset[str]:
        """None: what is read is no column."""
        return frozenset()

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row."""
        return along[self.array]


class Predicted(NamedTuple):
    """The key is the prediction.

    Examples
    --------
    >>> from daskxent.numbers.scores import Scores
    >>> Predicted("prediction").keys(Scores(None, prediction=np.array([2, 0])), {}).tolist()
    [2, 0]
    """

    name: str

    @property
    def needs(self) -> frozenset[str]:
        """The predictions."""
        return frozenset({"prediction"})

    @property
    def array(self) -> str:
        """None: what is predicted is no array along the rows."""
        return ""

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row."""
        return scores.prediction


class Bins(NamedTuple):
    """The key is the number of the bin that a value falls into: of a column of `Scores`, or of an array along the rows.

    Bin i holds ``edges[i] <= value < edges[i + 1]``; the last of them also holds its upper edge. What lies below all
    edges is in bin -1, what lies above in bin ``len(edges) - 1``, and NaN in bin ``len(edges)``.

    Examples
    --------
    >>> from daskxent.numbers.scores import Scores
    >>> scores = Scores(None, confidence=np.array([0.5, 0.99, 1.0, np.nan]))
    >>> Bins("sure", "confidence", (0.0, 0.5, 1.0)).keys(scores, {}).tolist()
    [1, 1, 1, 3]
    """

    name: str
    of: str
    edges: tuple[float, ...]

    def check(self) -> None:
        """Raise if the edges do not increase."""
        if len(self.edges) < 2 or not all(low < high for low, high in pairwise(self.edges)):  # NaN is less than nothing
            shown = ", ".join(f"{edge:g}" for edge in self.edges)
            raise ValueError(f"by[{self.name!r}]: expected at least two edges that increase, got {shown or 'none'}")

    @property
    def needs(self) -> frozenset[str]:
        """The column, if it is one."""
        return frozenset({self.of} & COLUMNS)

    @property
    def array(self) -> str:
        """The array along the rows, if it is one."""
        return "" if self.of in COLUMNS else self.of

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the number of the bin of each row."""
        values = np.asarray(along[self.of] if self.array else getattr(scores, self.of), np.float64)
        found: NDArray[Any] = np.searchsorted(self.edges, values, side="right") - 1
        found = np.where(values == self.edges[-1], len(self.edges) - 2, found)
        return np.where(np.isnan(values), len(self.edges), found)

    def label(self, key: int) -> str:
        """Return how a bin is written.

        Examples
        --------
        >>> [Bins("x", "loss", (0, 1, 5)).label(key) for key in (-1, 0, 1, 2, 3)]
        ['< 0', '[0, 1)', '[1, 5]', '> 5', 'missing']
        """
        edges, last = self.edges, len(self.edges) - 1
        if key in (-1, last, last + 1):
            return {-1: f"< {edges[0]:g}", last: f"> {edges[-1]:g}"}.get(key, "missing")
        return f"[{edges[key]:g}, {edges[key + 1]:g}{']' if key == last - 1 else ')'}"


def name_of(slicing: Slicing) -> str:
    """Return what a slicing is called: the names of its groupings.

    Examples
    --------
    >>> name_of((Group("language", "by language"), Predicted("prediction")))
    'language, prediction'
    """
    return ", ".join(by.name for by in slicing)


def to_json(slicing: Slicing) -> list[Any]:
    """Return a slicing as plain lists: of each grouping what kind it is, and its fields.

    Examples
    --------
    >>> to_json((Bins("sure", "confidence", (0.5, 1.0)),))
    [['Bins', 'sure', 'confidence', [0.5, 1.0]]]
    """
    return [[type(by).__name__, *map(_plain, by)] for by in slicing]  # type: ignore[call-overload]


def _plain(each: Any) -> Any:
    """Return a field as JSON has it, which knows no infinite edges."""
    if isinstance(each, tuple):
        return [edge if math.isfinite(edge) else str(edge) for edge in each]
    return each


def from_json(data: Any) -> Slicing:
    """Read what `to_json` wrote."""
    found = tuple(map(_from_json, reading.several(data, "by")))
    if not found:
        raise ValueError("by: a slicing has at least one grouping")
    return found


def _from_json(data: Any) -> By:
    kind, *fields = reading.several(data, "by") or [None]
    kinds = {"Group": [str, str], "Predicted": [str], "Bins": [str, str, list]}
    if kinds.get(kind if isinstance(kind, str) else "") != [type(each) for each in fields]:
        raise ValueError(f"by: {reading.brief(data)} is no grouping")
    if kind == "Bins":
        fields[2] = [INFINITE.get(edge, edge) if isinstance(edge, str) else edge for edge in fields[2]]
    for edge in fields[2] if kind == "Bins" else ():
        if edge not in INFINITE.values():
            reading.one_of(edge, "by", int, float)
    made: By = _KINDS[kind](*(tuple(each) if isinstance(each, list) else each for each in fields))
    if isinstance(made, Bins):
        made.check()
    return made


_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Group, Predicted, Bins)}
