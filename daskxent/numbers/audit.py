"""Which rows count, and what is exceptional about the others: one classification, on columns, for every path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import reading, scores, statistics
from daskxent.numbers.scores import CLIPPED, COARSE, EQUAL, INFINITE, LOST, NAN, SUM_TOLERANCE, UNNORMALISED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.numbers.scores import Scores

# What the audit looks for, with what it says about it.
AUDIT = {
    "label_out_of_range": "label outside [0, classes)",
    "label_not_finite": "label NaN or infinite; of one-hot or soft labels any of them",
    "ignored": "label is ignore_class",
    "masked": "weight is 0",
    "nan": "NaN among the predictions",
    "infinite": "+inf, or nothing but -inf, among the predictions",
    "loss_infinite": "loss infinite: the logit of the label is -inf, or probabilities sum to 0",
    "equal": "all predictions equal, as where nothing was written",
    "coarse": "float64 logits beyond 2**20, whose loss has fewer than 14 digits",
    "clipped": "probability of the label raised to 1e-7",
    "unnormalised": f"probabilities do not sum to 1 within {SUM_TOLERANCE:g}, or leave [0, 1]",
    "weight_not_finite": "weight is NaN or infinite",
    "weight_negative": "weight below 0",
    "weight_extreme": "weight beyond 1e200 or below 1e-200, whose product with a value has fewer than 16 digits",
    "prediction_missing": "predictions not stored, read as the fill value",
    "label_missing": "label not stored, read as the fill value",
    "weight_missing": "weight not stored, read as the fill value",
}
USUALLY_IGNORED = (-100, -1, 255)  # what torch, scikit-learn and segmentation maps have for labels that are none
# What stands for a weight that is not finite, and for the class of a row of dense labels if they are not: the first of
# them that is not. A code, as NaN would make equal reports differ and is no JSON.
NOT_FINITE = {-1: math.nan, -2: math.inf, -3: -math.inf}
FIRST = 10  # how many places of each finding are kept

# Bits of a status. A row that counts and has nothing exceptional about it has the status COUNTED.
COUNTED, IGNORED, MASKED, INVALID, HAS_NAN, IS_INFINITE, IS_CLIPPED, NOT_ONE, BAD_WEIGHT, NEGATIVE = (
    1 << bit for bit in range(10)
)
IS_LOST, ALL_EQUAL, IS_COARSE, EXTREME = (1 << bit for bit in range(10, 14))
HIDDEN = IGNORED | MASKED  # whatever the predictions of such a row hold, it does not count
KINDS = {
    "ignored": IGNORED,
    "masked": MASKED,
    "nan": HAS_NAN,
    "infinite": IS_INFINITE,
    "loss_infinite": IS_LOST,
    "equal": ALL_EQUAL,
    "coarse": IS_COARSE,
    "clipped": IS_CLIPPED,
    "unnormalised": NOT_ONE,
    "weight_not_finite": BAD_WEIGHT,
    "weight_negative": NEGATIVE,
    "weight_extreme": EXTREME,
}
# Magnitudes of weights between which no product with a loss leaves the range of float64.
LEAST_WEIGHT, MOST_WEIGHT = 1e-200, 1e200


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

    This is the only place where that is decided: `accumulate` calls it with columns, compiled code with one row after
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


@dataclass(frozen=True, slots=True)
class Finding:
    """How many rows have something in common, and the first of them as (row, value) pairs in order of the row."""

    count: int = 0
    first: tuple[tuple[int, float], ...] = ()

    def merge(self, other: Finding) -> Finding:
        """Combine the findings of different rows."""
        return Finding(self.count + other.count, tuple(sorted(self.first + other.first)[:FIRST]))


# What can be kept of every row: the columns of `Scores`, three more, and statistics; with their types.
ROW_COLUMNS = dict.fromkeys([*sorted(scores.COLUMNS), *statistics.KEPT], "float64") | {
    "flags": "uint8", "hit": "bool", "above": "int32", "prediction": "int64", "label": "int64", "weight": "float64",
    "counted": "bool",
}  # fmt: skip


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
        """Return one of `ROW_COLUMNS`."""
        if name == "label":
            return self.labels
        if name == "weight":
            return np.ones(len(self.labels)) if self.weights is None else self.weights
        if name == "counted":
            return np.asarray(self.status & COUNTED, bool)
        if name in statistics.KEPT:
            return statistics.statistic(name).value(self.scores, self.labels)
        return np.asarray(getattr(self.scores, name))

    def columns(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return some of `ROW_COLUMNS` by name."""
        return {name: self.column(name) for name in names}


def findings(question: Question, rows: Scored) -> dict[str, Finding]:
    """Return the findings of rows, numbered from 0."""
    if not rows.exceptional.size:
        return {}
    status = rows.status[rows.exceptional]
    seen = int(np.bitwise_or.reduce(status))
    labels = rows.along.get("labels", rows.labels)
    values: dict[str, Any] = {"ignored": rows.labels, "clipped": rows.scores.target}
    values |= dict.fromkeys(("weight_not_finite", "weight_negative", "weight_extreme"), rows.weights)
    found = {}
    if seen & INVALID:
        at = rows.exceptional[(status & INVALID) != 0]
        lost = np.full(at.size, question.dense) | ~np.isfinite(labels[at])
        for kind, these in (("label_out_of_range", at[~lost]), ("label_not_finite", at[lost])):
            if these.size:
                found[kind] = _placed(these, labels, kind == "label_not_finite" and not question.dense)
    for kind, bit in KINDS.items():
        if seen & bit:
            at = rows.exceptional[(status & bit) != 0]
            found[kind] = _placed(at, values.get(kind), kind == "weight_not_finite")
    return joined(found, {})


def _placed(at: NDArray[Any], values: NDArray[Any] | None, coded: bool) -> Finding:
    """Return the finding of some rows, with the values of the first, or the codes of those that are not finite."""
    shown = np.zeros(min(FIRST, at.size)) if values is None else values[at[:FIRST]]
    if coded:
        shown = np.select([np.isnan(shown), shown > 0], [-1, -2], -3)
    elif shown.dtype.kind == "f":  # a number that JSON has, as which infinity is the largest
        shown = np.nan_to_num(shown)
    return Finding(int(at.size), tuple(zip(at[:FIRST].tolist(), shown.tolist(), strict=True)))


def from_json(data: Any) -> dict[str, Finding]:
    """Read findings as `State.to_json` writes them."""
    return {kind: _finding(kind, found) for kind, found in reading.mapping(data, "audit").items()}


def _finding(kind: str, data: Any) -> Finding:
    if kind not in AUDIT:
        raise ValueError(f"audit: {reading.brief(kind)} is unknown")
    read = reading.mapping(data, kind, "count", "first")
    count = reading.whole(read["count"], kind, 1)
    places = [reading.several(place, kind, 2) for place in reading.several(read["first"], kind, min(count, FIRST))]
    row = -1
    for place, value in places:
        row = reading.whole(place, kind, row + 1)
        reading.one_of(value, kind, int, float)
    return Finding(count, tuple((place, value) for place, value in places))


def missing(kind: str, rows: NDArray[np.bool_]) -> dict[str, Finding]:
    """Return the finding of rows that are not stored, (n,) bool; none if all are."""
    at = tuple((row, 0.0) for row in np.flatnonzero(rows)[:FIRST].tolist())
    return {kind: Finding(int(rows.sum()), at)} if at else {}


def joined(a: Mapping[str, Finding], b: Mapping[str, Finding]) -> dict[str, Finding]:
    """Merge the findings of different rows; they are listed in the order of `AUDIT`."""
    return {
        kind: a[kind].merge(b[kind]) if kind in a and kind in b else (a.get(kind) or b[kind])
        for kind in AUDIT
        if kind in a or kind in b
    }


def complain(question: Question, audit: Mapping[str, Finding], positions: tuple[int, ...] = ()) -> None:
    """Raise the first finding that is an error.

    Parameters
    ----------
    question : Question
    audit : mapping of str to Finding
    positions : tuple of int
        Shape of the positions; where there are several axes the message names the position with the row.

    Raises
    ------
    ValueError
        A label out of range or not finite (unless `on_invalid` says otherwise), or a weight that is not finite or is
        negative.
    """
    if found := first_error(question, audit, positions):
        raise found[1]


def first_error(
    question: Question, audit: Mapping[str, Finding], positions: tuple[int, ...] = ()
) -> tuple[int, ValueError] | None:
    """Return the first row that is an error, and the error, as `complain` raises it; None if there is none."""
    raised = ["weight_not_finite"]
    if not question.allow_negative_weights:
        raised.append("weight_negative")
    if question.on_invalid == "raise":
        raised += ["label_out_of_range", "label_not_finite"]
    found = [(audit[kind].first[0], kind) for kind in raised if kind in audit]
    if not found:
        return None
    (row, value), kind = min(found, key=lambda finding: finding[0][0])
    place = f"row {row}"
    if len(positions) > 1:
        place += f" (position {tuple(int(i) for i in np.unravel_index(row, positions))})"
    if kind == "label_out_of_range":
        outside = f"is outside [0, {question.classes})" if value == int(value) else "is not a whole number"
        label = int(value) if value == int(value) else value
        hint = f"; ignore_class={label} leaves such rows out" if label in USUALLY_IGNORED else ""
        what = f"y_true: label {label} at {place} {outside}{hint}"
    elif kind == "label_not_finite":
        hint = "; xarray makes NaN of a fill value: mask_and_scale=False keeps it" if int(value) == -1 else ""
        what = f"y_true: label {NOT_FINITE[int(value)]} at {place} is not finite{hint}"
    elif kind == "weight_not_finite":
        what = f"sample_weight: {NOT_FINITE[int(value)]} at {place}; weights must be finite"
    else:
        what = f"sample_weight: {value} at {place} is negative; allow_negative_weights=True takes it"
    return row, ValueError(what)
