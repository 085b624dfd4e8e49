"""What rows are grouped by: each grouping gives every row a key, and sums are kept by key.

A *group* is a key read from an array along the rows; a *bin* is a key computed from a column of `Scores`; a class is a
key that is the label. To the sums they are all the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from daskxent.numbers import reading
from daskxent.numbers.scores import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.scores import Scores

# The name of a grouping and a value: what sums are kept by. () is everything.
Key = tuple[Any, ...]
TOTAL: Key = ()


class By(Protocol):
    """A grouping; pickles, and is equal to its like."""

    @property
    def name(self) -> str:
        """The first entry of its keys."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `Scores` that the keys are made of."""

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row, (n,) of integers, bool or strings.

        `along` holds the arrays along the rows by name; "labels" is always among them.
        """


class Group(NamedTuple):
    """The key is read from the array along the rows that has this name ("labels" are the classes themselves).

    Examples
    --------
    >>> Group("labels").keys(None, {"labels": np.array([2, 0])}).tolist()
    [2, 0]
    """

    name: str

    @property
    def needs(self) -> frozenset[str]:
        """None: what is read is no column."""
        return frozenset()

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row."""
        return along[self.name]


class Bins(NamedTuple):
    """The key is the number of the bin that a column's value falls into.

    Bin i holds ``edges[i] <= value < edges[i + 1]``. What lies below all edges is in bin -1, what lies above in bin
    ``len(edges) - 1``, and NaN in bin ``len(edges)``.

    Examples
    --------
    >>> from daskxent.numbers.scores import Scores
    >>> scores = Scores(None, confidence=np.array([0.5, 0.99, np.nan]))
    >>> Bins("confidence", (0.0, 0.5, 1.0)).keys(scores, {}).tolist()
    [1, 1, 3]
    """

    name: str
    edges: tuple[float, ...]

    @property
    def needs(self) -> frozenset[str]:
        """The column, which has the name of the grouping."""
        if self.name not in COLUMNS:
            raise ValueError(f"by: {self.name!r} is no column; there are {', '.join(sorted(COLUMNS))}")
        if not all(low < high for low, high in pairwise(self.edges)):  # NaN is not less than anything
            raise ValueError(f"by: the edges of {self.name!r} do not increase: {', '.join(map(str, self.edges))}")
        return frozenset({self.name})

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the number of the bin of each row."""
        values = np.asarray(getattr(scores, self.name), np.float64)
        found: NDArray[Any] = np.searchsorted(self.edges, values, side="right") - 1
        return np.where(np.isnan(values), len(self.edges), found)


def to_json(by: By) -> list[Any]:
    """Return a grouping as a plain list: what kind it is, and its fields.

    Examples
    --------
    >>> to_json(Bins("confidence", (0.5,)))
    ['Bins', 'confidence', [0.5]]
    """
    fields = [list(each) if isinstance(each, tuple) else each for each in by]  # type: ignore[attr-defined]
    return [type(by).__name__, *fields]


def from_json(data: Any) -> By:
    """Read what `to_json` wrote."""
    kind, *fields = reading.several(data, "by") or [None]
    kinds = {"Group": [str], "Bins": [str, list]}.get(kind if isinstance(kind, str) else "")
    if kinds != [type(each) for each in fields]:
        raise ValueError(f"by: {reading.brief(data)} is no grouping")
    for edge in fields[1] if kind == "Bins" else ():
        reading.one_of(edge, "by", int, float)
    made: By = _KINDS[kind](*(tuple(each) if isinstance(each, list) else each for each in fields))
    return made


_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Group, Bins)}
