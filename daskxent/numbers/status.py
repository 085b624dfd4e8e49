"""The status of a row: whether it counts, and what is exceptional about it; one rule, on columns, for every path."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import scores, statistics
from daskxent.numbers.scores import CLIPPED, COARSE, EQUAL, INFINITE, LOST, NAN, UNNORMALISED, UNRANKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.numbers.scores import Scores

# Bits of a status. A row that counts and has nothing exceptional about it has the status COUNTED.
COUNTED, IGNORED, MASKED, INVALID, HAS_NAN, IS_INFINITE, IS_CLIPPED, NOT_ONE, BAD_WEIGHT, NEGATIVE = (
    1 << bit for bit in range(10)
)
IS_LOST, ALL_EQUAL, IS_COARSE, EXTREME = (1 << bit for bit in range(10, 14))
HIDDEN = IGNORED | MASKED  # whatever the predictions of such a row hold, it does not count
# What stands for a weight that is not finite, and for the class of a row of dense labels if they are not: the first of
# them that is not. A code, as NaN would make equal reports differ and is no JSON.
NOT_FINITE = {-1: math.nan, -2: math.inf, -3: -math.inf}
# Magnitudes of weights between which no square of a product with a loss leaves the range of float64.
LEAST_WEIGHT, MOST_WEIGHT = 1e-140, 1e140


class Rules(NamedTuple):
    """What the classification must know of a question; whole numbers and booleans, so that it can be compiled.

    Where several classes are ignored, labels that are any of them are taken for the first.
    """

    classes: int
    has_ignore: bool
    ignore: int
    drop_invalid: bool
    drop_broken: bool


def rules_of(question: Question) -> Rules:
    """Return the rules of a question."""
    ignore = () if question.dense else question.ignore_class
    return Rules(
        question.classes,
        bool(ignore),
        ignore[0] if ignore else 0,
        question.on_invalid != "count",
        question.on_invalid == "skip",
    )


def classify(rules: Rules, flags: Any, label: Any, weight: Any) -> Any:
    """Say of a row, or of columns of rows, whether it counts and what is exceptional about it.

    This is the only place where that is decided: `Scored.of` calls it with columns, compiled code with one row after
    the other. With `flags` of 0 it says what label and weight alone decide.

    Parameters
    ----------
    rules : Rules
    flags : (n,) uint8, or one of them
        As in `Scores`.
    label : (n,) int64, or one of them
    weight : (n,) float64, or one of them
        1 where there are no weights.

    Returns
    -------
    (n,) int64, or one of them
        Bits of `COUNTED` to `EXTREME`.

    Examples
    --------
    >>> rules = Rules(classes=3, has_ignore=True, ignore=-1, drop_invalid=True, drop_broken=False)
    >>> [int(classify(rules, 0, label, 1.0)) for label in (2, -1, 3)] == [COUNTED, IGNORED, INVALID]
    True
    """
    ignored = np.logical_and(rules.has_ignore, label == rules.ignore)
    masked = np.logical_and(weight == 0.0, np.logical_not(ignored))
    shown = np.logical_not(np.logical_or(ignored, masked))
    invalid = np.logical_and(shown, np.logical_or(label < 0, label >= rules.classes))
    nan = np.logical_and(shown, (flags & NAN) != 0)
    infinite = np.logical_and(shown, (flags & INFINITE) != 0)
    lost = np.logical_and(shown, (flags & LOST) != 0)
    broken = np.logical_and(shown, (flags & (NAN | INFINITE | LOST)) != 0)
    dropped = np.logical_or(np.logical_and(rules.drop_invalid, invalid), np.logical_and(rules.drop_broken, broken))
    counts = np.logical_and(shown, np.logical_not(dropped))
    clipped = np.logical_and(counts, np.logical_and((flags & CLIPPED) != 0, np.logical_not(invalid)))
    size = np.abs(weight)
    extreme = np.logical_and(counts, np.logical_or(size < LEAST_WEIGHT, size > MOST_WEIGHT))
    return (
        counts * COUNTED
        + ignored * IGNORED
        + masked * MASKED
        + invalid * INVALID
        + nan * HAS_NAN
        + infinite * IS_INFINITE
        + clipped * IS_CLIPPED
        + np.logical_and(counts, (flags & UNNORMALISED) != 0) * NOT_ONE
        + lost * IS_LOST
        + np.logical_and(counts, (flags & EQUAL) != 0) * ALL_EQUAL
        + np.logical_and(counts, (flags & COARSE) != 0) * IS_COARSE
        + np.logical_not(np.isfinite(weight)) * BAD_WEIGHT
        + (weight < 0.0) * NEGATIVE
        + extreme * EXTREME
    )


# What can be kept of every row: the columns of `Scores`, three more, and statistics; with their types.
ROW_COLUMNS = dict.fromkeys([*sorted(scores.COLUMNS), *statistics.KEPT], "float64") | {
    "flags": "uint8", "hit": "bool", "above": "int32", "prediction": "int64", "label": "int64", "weight": "float64",
    "counted": "bool",
}  # fmt: skip


def unset(name: str) -> float:
    """Return what one of `ROW_COLUMNS` holds in rows that were not evaluated."""
    return {"prediction": -1, "label": -1, "above": UNRANKED}.get(
        name, math.nan if ROW_COLUMNS[name] == "float64" else 0
    )


def columns_for(names: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of `Scores` that some of `ROW_COLUMNS` are made of."""
    needs = {name for name in names if name in scores.COLUMNS}
    return tuple(sorted(needs.union(*(statistics.statistic(name).needs for name in names if name in statistics.KEPT))))


class Scored(NamedTuple):
    """Rows that are scored and classified, with what lies along them.

    Attributes
    ----------
    scores : Scores
        Of n rows, with `target` for probabilities.
    labels : (n,) int64
        For dense labels the class with the largest label, or a key of `NOT_FINITE`.
    weights : (n,) float64 or None
        None counts every row once.
    along : mapping of str to (n,) array
        Arrays along the rows by name, as they are stored: of labels if they do not fit int64, and of groups.
    status : (n,) uint16
        See `classify`.
    exceptional : (k,) integers
        The rows, in order, whose status is not just `COUNTED`.
    """

    scores: Scores
    labels: NDArray[np.int64]
    weights: NDArray[np.float64] | None
    along: Mapping[str, NDArray[Any]]
    status: NDArray[np.uint16]
    exceptional: NDArray[Any]

    @classmethod
    def of(
        cls,
        question: Question,
        scores: Scores,
        labels: NDArray[np.int64],
        weights: NDArray[np.float64] | None = None,
        along: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> Scored:
        """Classify scored rows."""
        status = classify(rules_of(question), scores.flags, labels, 1.0 if weights is None else weights)
        return cls(scores, labels, weights, along, status.astype(np.uint16), np.flatnonzero(status != COUNTED))

    def column(self, name: str) -> NDArray[Any]:
        """Return one of `ROW_COLUMNS`; of hidden rows, which not every scan looks at, only what lies along them."""
        if name == "label":
            return self.labels
        if name == "weight":
            return np.ones(len(self.labels)) if self.weights is None else self.weights
        if name == "counted":
            return np.asarray(self.status & COUNTED, bool)
        if name in statistics.KEPT:
            return self._shown(name, statistics.statistic(name).value(self.scores, self.labels))
        return self._shown(name, np.asarray(getattr(self.scores, name)))

    def _shown(self, name: str, column: NDArray[Any]) -> NDArray[Any]:
        """Return a column with nothing in rows that are hidden."""
        hidden = self.exceptional[(self.status[self.exceptional] & HIDDEN) != 0]
        if hidden.size:
            column = column.copy()
            column[hidden] = unset(name)
        return column

    def columns(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return some of `ROW_COLUMNS` by name."""
        return {name: self.column(name) for name in names}
