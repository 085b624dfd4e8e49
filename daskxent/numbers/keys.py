"""What rows are grouped by: each grouping gives every row a key, and sums are kept by key.

A *group* is a key read from an array along the rows; a *bin* is a key computed from a column of `Scores`, or from
numbers along the rows; a class is a key that is the label or the prediction. To the sums they are all the same. A
*slicing* is one grouping, or several whose observed combinations are the keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from daskxent.numbers import reading
from daskxent.numbers.scores import COLUMNS, UNRANKED
from daskxent.numbers.statistics import STATISTICS, statistic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
STRING = np.dtypes.StringDType()
NONE: frozenset[str] = frozenset()
INFINITE = {"inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Group:
    """The key is read from an array along the rows ("labels" are the classes themselves).

    Examples
    --------
    >>> Group("label", "labels").keys(None, {"labels": np.array([2, 0])}).tolist()
    [2, 0]
    """

    name: str
    array: str
    needs: ClassVar[frozenset[str]] = NONE

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row."""
        return along[self.array]


@dataclass(frozen=True)
class Computed:
    """The key is made of columns, and of labels, alone."""

    name: str
    array: ClassVar[str] = ""


class Predicted(Computed):
    """The key is the prediction.

    Examples
    --------
    >>> from daskxent.numbers.scores import Scores
    >>> Predicted("prediction").keys(Scores(None, prediction=np.array([2, 0])), {}).tolist()
    [2, 0]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"prediction"})

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row."""
        return scores.prediction


@dataclass(frozen=True)
class Bins:
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

    def check(self, title: str = "") -> None:
        """Raise if the edges do not increase; the message calls them by a title, or as bins of `by`."""
        if len(self.edges) < 2 or not all(low < high for low, high in pairwise(self.edges)):  # NaN is less than nothing
            shown = ", ".join(self._shown)
            title = title or f"by[{self.name!r}]"
            raise ValueError(f"{title}: expected at least two edges that increase, got {shown or 'none'}")

    @property
    def needs(self) -> frozenset[str]:
        """The column, or those of the statistic, if it is one."""
        return frozenset({self.of}) if self.of in COLUMNS else STATISTICS[self.of].needs if self._counts else NONE

    @property
    def array(self) -> str:
        """The array along the rows, if it is one."""
        return "" if self.of in COLUMNS or self._counts else self.of

    @property
    def _counts(self) -> bool:
        """Whether it is of a statistic."""
        return self.of in STATISTICS

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the number of the bin of each row."""
        values = np.asarray(self._values(scores, along), np.float64)
        found: NDArray[Any] = np.searchsorted(self.edges, values, side="right") - 1
        found = np.where(values == self.edges[-1], len(self.edges) - 2, found)
        return np.where(np.isnan(values), len(self.edges), found)

    def _values(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        if self.of in COLUMNS:
            found: NDArray[Any] = getattr(scores, self.of)
            return np.where(found == UNRANKED, np.nan, found) if self.of == "above" else found
        return along[self.of] if self.array else STATISTICS[self.of].value(scores, along["labels"])

    def label(self, key: int) -> str:
        """Return how a bin is written.

        Examples
        --------
        >>> [Bins("x", "loss", (0, 1, 5)).label(key) for key in (-1, 0, 1, 2, 3)]
        ['< 0', '[0, 1)', '[1, 5]', '> 5', 'missing']
        >>> Bins("x", "loss", (0.1, 1_000_000, 1_000_001)).label(1)
        '[1000000, 1000001]'
        """
        edges, last = self._shown, len(self.edges) - 1
        if key in (-1, last, last + 1):
            return {-1: f"< {edges[0]}", last: f"> {edges[-1]}"}.get(key, "missing")
        return f"[{edges[key]}, {edges[key + 1]}{']' if key == last - 1 else ')'}"

    @property
    def _shown(self) -> list[str]:
        """The edges as they are written: in 15 digits, or in 17 if these do not tell them from one another."""
        short = [f"{edge:.15g}" for edge in self.edges]
        return short if len(set(short)) == len(short) else [f"{edge:.17g}" for edge in self.edges]


@dataclass(frozen=True)
class Reliability(Computed):
    """The key is the number of the bin that a confidence falls into, of bins of equal width.

    Bin i holds ``edges[i] < confidence <= edges[i + 1]``, the first one also 0: scikit-learn's rule, by which nothing
    is left out. NaN is in bin ``bins``.

    Attributes
    ----------
    name : str
    bins : int
    place : int
        Of the inverse temperature in `shapes.BETAS`; -1 for the confidence as it is.

    Examples
    --------
    >>> from daskxent.numbers.scores import Scores
    >>> scores = Scores(None, confidence=np.array([0.5, 0.51, 1.0, np.nan]))
    >>> Reliability("confidence", 2).keys(scores, {}).tolist()
    [0, 1, 1, 2]
    """

    bins: int
    place: int = -1

    @property
    def needs(self) -> frozenset[str]:
        """The confidence, or the curve."""
        return frozenset({"confidence" if self.place < 0 else "curve"})

    @property
    def edges(self) -> NDArray[np.float64]:
        """The edges of the bins, (bins + 1,)."""
        return _edges(self.bins)

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the number of the bin of each row."""
        values = scores.confidence if self.place < 0 else scores.curve.confidence[self.place]
        return np.where(np.isnan(values), self.bins, _bin_of(values, self.bins))


def _edges(bins: int) -> NDArray[np.float64]:
    return np.linspace(0.0, 1.0, bins + 1)


def _bin_of(values: NDArray[np.float64], bins: int) -> NDArray[Any]:
    """Return into which of some bins of equal width each value falls, those on an edge into the one below it."""
    found: NDArray[Any] = np.searchsorted(_edges(bins)[1:-1], values, side="left")
    return found


@dataclass(frozen=True)
class Classwise(Computed):
    """The keys are all classes of a row, each with the number of the bin that its probability falls into.

    Bins are those of `Reliability`. A row has as many keys as there are classes: ``class * bins + bin``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probabilities"})

    bins: int

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the keys of all classes of each row, (n, C)."""
        return _bin_of(scores.probabilities, self.bins) + self.bins * np.arange(scores.probabilities.shape[1])


@dataclass(frozen=True)
class Cells(Computed):
    """The key is a cell of a value of each row: its sign, its exponent and the first ten bits of its mantissa.

    There are 1,024 cells from each power of 2 to the next, so that a value is known within 2**-11 of it.

    Examples
    --------
    >>> from daskxent.numbers.scores import Scores
    >>> cells = Cells("loss", "crossentropy")
    >>> scores = Scores(None, loss=np.array([1.0, 1.0005, 1.001, -3.0]))
    >>> [cells.edges(key) for key in cells.keys(scores, {"labels": None}).tolist()]
    [(1.0, 1.0009765625), (1.0, 1.0009765625), (1.0009765625, 1.001953125), (-3.001953125, -3.0)]
    """

    of: str

    @property
    def needs(self) -> frozenset[str]:
        """Those of the statistic."""
        return statistic(self.of).needs

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the number of the cell of each row, which increases with its value; NaN is the last."""
        values = np.asarray(statistic(self.of).value(scores, along["labels"]), np.float64) + 0.0  # no -0.0
        cells = np.ascontiguousarray(values).view(np.int64) >> CELL_BITS
        cells = np.where(values < 0, -1 - (cells & CELL_MASK), cells)
        return np.where(np.isnan(values), NAN_CELL, cells)

    @staticmethod
    def edges(key: int) -> tuple[float, float]:
        """Return the lower and the upper edge of a cell."""
        if key == NAN_CELL:
            return math.nan, math.nan
        if key < 0:
            return -_from_bits(-key << CELL_BITS), -_from_bits((-1 - key) << CELL_BITS)
        return _from_bits(key << CELL_BITS), _from_bits((key + 1) << CELL_BITS)


def _from_bits(bits: int) -> float:
    return float(np.int64(min(bits, INFINITE_BITS)).view(np.float64))


CELL_BITS = 42  # of the mantissa that a cell leaves out
CELL_MASK = (1 << (63 - CELL_BITS)) - 1
INFINITE_BITS = 0x7FF << 52
NAN_CELL = (0x7FF << (52 - CELL_BITS)) + 1


class Ranks(Computed):
    """The key is how many classes are larger than the label's: up to `EXACT` itself, above only roughly.

    Above, there are 32 cells from each power of 2 to the next. A row without a rank has the key -1.

    Examples
    --------
    >>> from daskxent.numbers.scores import Scores
    >>> keys = Ranks("rank").keys(Scores(None, above=np.int32([0, 7, 4095, 4096, 5000, 250_000])), {})
    >>> [Ranks.least(key) for key in keys.tolist()]
    [0, 7, 4095, 4096, 4992, 249856]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"above"})

    def keys(self, scores: Scores, along: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the key of each row."""
        above = scores.above.astype(np.float64)
        beyond = (above.view(np.int64) >> RANK_BITS) - (_FIRST_BITS >> RANK_BITS) + EXACT
        found = np.where(above < EXACT, scores.above, beyond)
        return np.where(scores.above == UNRANKED, -1, found)

    @staticmethod
    def least(key: int) -> int:
        """Return the smallest number that has a key."""
        return key if key < EXACT else int(_from_bits((key - EXACT << RANK_BITS) + _FIRST_BITS))


EXACT = 4096  # ranks below are kept one by one
RANK_BITS = 47
_FIRST_BITS = int(np.float64(EXACT).view(np.int64))


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
    return [[type(by).__name__, *map(_plain, vars(by).values())] for by in slicing]


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
        raise ValueError(f"by: {reading.brief(data)} is not a grouping")
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


def key_column(values: Any) -> NDArray[Any]:
    """Read a list of keys of one grouping."""
    several = reading.several(values, "keys")
    kinds = {type(value) for value in several}
    if len(kinds) != 1 or not kinds <= {int, bool, str}:
        raise ValueError("keys: expected integers, booleans or strings, of one kind")
    large = kinds == {int} and max(several) > reading.MOST  # next to others these would become float64
    try:
        return np.array(several, STRING if kinds == {str} else np.uint64 if large else None)
    except OverflowError:
        raise ValueError("keys: expected integers of 64 bits") from None


def one_after_the_other(several: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate values of a grouping; with int64, uint64 would become float64."""
    if any(each.dtype == np.uint64 for each in several):
        if any(each.size and each.min() < 0 for each in several):
            raise ValueError("by: there are groups below 0 and groups that do not fit int64")
        several = [each.astype(np.uint64) for each in several]
    return np.concatenate(several)
