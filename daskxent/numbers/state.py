"""What a set of rows contributes: exact totals, an audit of odd rows, and which rows were covered.

A `Question` says what is asked of every row. `tally` answers it for a block of scanned rows with a `State`;
`State.merge` adds states of different rows. Merging is associative and commutative to the last bit, `zero` is its
identity, and states that cover the same row refuse to merge, so no row can be counted twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import statistics
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.records import EPSILON, HAS_NAN, MOST_CLASSES, OUTSIDE_UNIT, Rows, total_probability

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

# What the audit looks for, with what it says about it.
AUDIT = {
    "label_out_of_range": "label outside [0, classes)",
    "label_not_finite": "NaN or infinity among one-hot or soft labels",
    "ignored": "label is ignore_class",
    "masked": "weight is 0",
    "nan": "NaN among the predictions",
    "infinite": "+inf, or nothing but -inf, among the logits",
    "clipped": "probability of the label raised to 1e-7",
    "unnormalised": "probabilities do not sum to 1 within 0.001, or leave [0, 1]",
    "weight_not_finite": "weight is NaN or infinite",
    "weight_negative": "weight below 0",
    "prediction_missing": "predictions not stored, read as the fill value",
    "label_missing": "label not stored, read as the fill value",
    "weight_missing": "weight not stored, read as the fill value",
}
# What stands for the class of a row of dense labels if they are not finite: the first of them that is not. A code, as
# NaN would make equal reports differ and is no JSON.
NOT_FINITE = {-1: math.nan, -2: math.inf, -3: -math.inf}
FIRST = 10  # how many places of each finding are kept
SUM_TOLERANCE = 1e-3
ON_INVALID = ("raise", "skip", "count")
ON_MISSING = (None, "raise", "fill")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every row.

    Parameters
    ----------
    metrics : tuple of str
        Names known to `statistics.find`.
    classes : int
        Number of classes.
    from_logits : bool
        Predictions are logits; otherwise probabilities.
    dense : bool
        Labels are one-hot or soft, one number per class.
    ignore_class : int or None
        Rows with this label are left out.
    label_smoothing : float
        Share of each label spread evenly over the classes.
    on_invalid : {"raise", "skip", "count"}
        What becomes of labels out of range or not finite and of rows with NaN or infinities; see `evaluate`.
    allow_negative_weights : bool
        Negative weights are an error otherwise.
    on_missing : {"raise", "fill"} or None
        What becomes of chunks that are not stored; None raises for predictions and fills labels and weights.
    """

    metrics: tuple[str, ...]
    classes: int
    from_logits: bool = False
    dense: bool = False
    ignore_class: int | None = None
    label_smoothing: float = 0.0
    on_invalid: str = "raise"
    allow_negative_weights: bool = False
    on_missing: str | None = None

    def __post_init__(self) -> None:
        if self.needs_loss and self.classes > MOST_CLASSES:
            raise ValueError(f"y_pred: {self.classes} classes; crossentropy adds up at most {MOST_CLASSES}")

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics of a row that the metrics need, each once."""
        return tuple(dict.fromkeys(statistics.find(name).statistic for name in self.metrics))

    @property
    def needs_loss(self) -> bool:
        """Whether any metric is made of the loss."""
        return statistics.LOSS in self.statistics

    @property
    def whole_rows(self) -> bool:
        """Whether a row is told with all its classes at once: with dense labels, and with smoothed ones."""
        return self.dense or bool(self.label_smoothing and self.needs_loss)

    @property
    def top(self) -> int:
        """How many of a row's largest values are needed."""
        return max(map(statistics.depth, self.statistics), default=0)


@dataclass(frozen=True, slots=True)
class Finding:
    """How many rows have one oddity, and the first of them as (row, value) pairs in order of the row."""

    count: int = 0
    first: tuple[tuple[int, float], ...] = ()

    def merge(self, other: Finding) -> Finding:
        """Combine the findings of different rows."""
        return Finding(self.count + other.count, tuple(sorted(self.first + other.first)[:FIRST]))


@dataclass(frozen=True, slots=True)
class State:
    """The exact sums over a set of rows.

    Parameters
    ----------
    totals : mapping of str to ExactSum
        Sum of weight times value for each statistic.
    weight : ExactSum
        Sum of weights of the counted rows.
    counted : int
        Number of rows in the sums.
    clipped_loss : ExactSum
        What the rows whose label's probability was clipped add to the loss.
    audit : mapping of str to Finding
        By the keys of `AUDIT`; kinds that were not found are absent.
    covered : tuple of (start, stop)
        The rows this state speaks of, as sorted, disjoint ranges of row numbers.

    Examples
    --------
    >>> half = State(weight=ExactSum.whole(5), counted=5, covered=((0, 5),))
    >>> half.merge(State(weight=ExactSum.whole(3), counted=3, covered=((5, 8),))).covered
    ((0, 8),)
    >>> half.merge(half)
    Traceback (most recent call last):
        ...
    ValueError: rows 0 to 4 are covered twice
    """

    totals: Mapping[str, ExactSum] = field(default_factory=dict)
    weight: ExactSum = field(default_factory=ExactSum)
    counted: int = 0
    clipped_loss: ExactSum = field(default_factory=ExactSum)
    audit: Mapping[str, Finding] = field(default_factory=dict)
    covered: tuple[tuple[int, int], ...] = ()

    @classmethod
    def zero(cls) -> State:
        """Return the state of no rows."""
        return cls()

    def merge(self, other: State) -> State:
        """Return the state of both sets of rows.

        Raises
        ------
        ValueError
            Some rows are covered by both.
        """
        return merge_all((self, other))

    def with_missing(self, kind: str, gone: NDArray[np.bool_]) -> State:
        """Return the state with rows that were not stored, (n,) bool, noted in its audit."""
        at = tuple((row, 0.0) for row in np.flatnonzero(gone)[:FIRST].tolist())
        return replace(self, audit={**self.audit, kind: Finding(int(gone.sum()), at)}) if at else self

    def with_values(self, kind: str, values: NDArray[Any]) -> State:
        """Return the state with the values of one finding taken from those of all its rows, (n,)."""
        found = self.audit.get(kind)
        if found is None:
            return self
        first = tuple((row, values[row].item()) for row, _ in found.first)
        return replace(self, audit={**self.audit, kind: Finding(found.count, first)})

    def placed(self, place: Callable[[int], int], covered: tuple[tuple[int, int], ...]) -> State:
        """Return the state with its rows renumbered by `place`, an increasing function, and its coverage set."""
        audit = {
            kind: Finding(found.count, tuple((place(row), value) for row, value in found.first))
            for kind, found in self.audit.items()
        }
        return replace(self, audit=audit, covered=covered)

    @property
    def rows(self) -> int:
        """Number of rows covered, counted or not."""
        return sum(stop - start for start, stop in self.covered)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain lists, numbers and strings, losslessly."""
        return {
            "totals": {name: total.to_json() for name, total in sorted(self.totals.items())},
            "weight": self.weight.to_json(),
            "counted": self.counted,
            "clipped_loss": self.clipped_loss.to_json(),
            "audit": {
                kind: {"count": found.count, "first": [list(place) for place in found.first]}
                for kind, found in sorted(self.audit.items())
            },
            "covered": [list(span) for span in self.covered],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """Read what `to_json` wrote."""
        return cls(
            totals={name: ExactSum.from_json(total) for name, total in data["totals"].items()},
            weight=ExactSum.from_json(data["weight"]),
            counted=data["counted"],
            clipped_loss=ExactSum.from_json(data["clipped_loss"]),
            audit={
                kind: Finding(found["count"], tuple((row, value) for row, value in found["first"]))
                for kind, found in data["audit"].items()
            },
            covered=tuple((start, stop) for start, stop in data["covered"]),
        )


def merge_all(states: Iterable[State]) -> State:
    """Merge states one after the other, in a time that grows with what they hold and not with the square of it.

    Raises
    ------
    ValueError
        Some rows are covered by two of them.
    """
    totals: dict[str, ExactSum] = {}
    audit: dict[str, Finding] = {}
    weight, counted, clipped_loss = ExactSum(), 0, ExactSum()
    covered: list[tuple[int, int]] = []
    for state in states:
        for name, total in state.totals.items():
            totals[name] = totals[name] + total if name in totals else total
        for kind, found in state.audit.items():
            audit[kind] = audit[kind].merge(found) if kind in audit else found
        weight += state.weight
        counted += state.counted
        clipped_loss += state.clipped_loss
        covered += state.covered
    return State(totals, weight, counted, clipped_loss, audit, _union(covered))


def tally(
    question: Question,
    rows: Rows,
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
    losses: NDArray[np.float64] | None,
) -> State:
    """Add up what scanned rows contribute to the answer.

    Parameters
    ----------
    question : Question
    rows : Rows
        n finished records.
    labels : (n,) int64
        For dense labels the class with the largest label, or a key of `NOT_FINITE`.
    weights : (n,) float64 or None
        None counts every row once.
    losses : (n,) float64 or None
        In nats; None when `question.needs_loss` is false.

    Returns
    -------
    State
        Its rows are numbered from 0 in the audit, and its coverage is left empty: see `State.placed`. Nothing is
        raised here; findings that are errors are raised by `complain`, which knows the row numbers.
    """
    sort = _sort(question, rows, labels, weights)
    used = sort["used"]
    if weights is None:
        weight = ExactSum.whole(int(used.sum()))
    else:
        weights = np.where(used, weights, 0.0)
        weight = ExactSum.of(weights)
    nan = (rows.flags & HAS_NAN).astype(bool)
    totals = {}
    for statistic in question.statistics:
        if statistic == statistics.LOSS:
            assert losses is not None
            known = np.where(sort["invalid"], np.nan, losses)
            totals[statistic] = _loss_total(known, weights, used)
        else:
            k = statistics.depth(statistic)
            hit = (rows.target >= rows.top[:, k - 1]) if k else (rows.best == labels)
            hit &= used & ~nan & ~sort["invalid"]
            totals[statistic] = ExactSum.whole(int(hit.sum())) if weights is None else ExactSum.of(weights[hit])
    clipped = ExactSum()
    if losses is not None and sort["clipped"].any():
        clipped = _loss_total(losses, weights, sort["clipped"])
    return State(totals, weight, int(used.sum()), clipped, _audit(sort, labels, weights, rows))


def complain(question: Question, state: State, positions: tuple[int, ...] = ()) -> None:
    """Raise the first finding of a state that is an error.

    Parameters
    ----------
    question : Question
    state : State
    positions : tuple of int
        Shape of the positions; where there are several axes the message names the position beside the row.

    Raises
    ------
    ValueError
        A label out of range or not finite (unless `on_invalid` says otherwise), or a weight that is not finite or is
        negative.
    """
    raised = ["weight_not_finite"]
    if not question.allow_negative_weights:
        raised.append("weight_negative")
    if question.on_invalid == "raise":
        raised += ["label_out_of_range", "label_not_finite"]
    found = [(state.audit[kind].first[0], kind) for kind in raised if kind in state.audit]
    if not found:
        return
    (row, value), kind = min(found, key=lambda finding: finding[0][0])
    place = f"row {row}"
    if len(positions) > 1:
        place += f" (position {tuple(int(i) for i in np.unravel_index(row, positions))})"
    if kind == "label_out_of_range":
        raise ValueError(f"y_true: label {int(value)} at {place} is outside [0, {question.classes})")
    if kind == "label_not_finite":
        raise ValueError(f"y_true: label {NOT_FINITE[int(value)]} at {place} is not finite")
    if kind == "weight_not_finite":
        raise ValueError(f"sample_weight: {value} at {place}; weights must be finite")
    raise ValueError(f"sample_weight: {value} at {place} is negative; allow_negative_weights=True takes it")


def _sort(
    question: Question, rows: Rows, labels: NDArray[np.int64], weights: NDArray[np.float64] | None
) -> dict[str, NDArray[np.bool_]]:
    """Say of every row whether it is used and which findings it belongs to."""
    n = len(labels)
    nobody = np.zeros(n, bool)
    ignored = nobody if question.ignore_class is None or question.dense else labels == question.ignore_class
    masked = nobody if weights is None else (weights == 0) & ~ignored
    invalid = ((labels < 0) | (labels >= question.classes)) & ~ignored & ~masked
    used = ~(ignored | masked)
    nan = (rows.flags & HAS_NAN).astype(bool) & used
    infinite = np.isinf(rows.peak) & ~nan & used
    if question.on_invalid != "count":
        used = used & ~invalid
    if question.on_invalid == "skip":
        used = used & ~nan & ~infinite
    sort = {"used": used, "invalid": invalid, "ignored": ignored, "masked": masked}
    sort["label_not_finite" if question.dense else "label_out_of_range"] = invalid
    sort |= {"nan": nan, "infinite": infinite, "clipped": nobody, "unnormalised": nobody}
    if weights is not None:
        sort["weight_not_finite"] = ~np.isfinite(weights)
        sort["weight_negative"] = weights < 0
    if not question.from_logits and question.needs_loss:
        sort["clipped"] = used & ~invalid & ~nan & (rows.target < EPSILON)
        far = np.abs(total_probability(rows) - 1) > SUM_TOLERANCE + question.classes * EPSILON
        sort["unnormalised"] = used & ~nan & (far | (rows.flags & OUTSIDE_UNIT).astype(bool))
    return sort


def _loss_total(losses: NDArray[np.float64], weights: NDArray[np.float64] | None, used: NDArray[np.bool_]) -> ExactSum:
    if weights is None:
        return ExactSum.of(losses[used])
    with np.errstate(over="ignore"):  # a product beyond float64 is infinite
        return ExactSum.of(losses[used] * weights[used])


def _audit(
    sort: dict[str, NDArray[np.bool_]],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
    rows: Rows,
) -> dict[str, Finding]:
    values: dict[str, Any] = {
        "label_out_of_range": labels,
        "label_not_finite": labels,
        "ignored": labels,
        "clipped": rows.target,
    }
    values |= {"weight_not_finite": weights, "weight_negative": weights}
    audit = {}
    for kind in AUDIT:
        found = sort.get(kind)
        if found is not None and found.any():
            at = np.flatnonzero(found)[:FIRST]
            value = values.get(kind)
            shown = np.zeros(len(at)) if value is None else value[at]
            audit[kind] = Finding(int(found.sum()), tuple(zip(at.tolist(), shown.tolist(), strict=True)))
    return audit


def _union(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if spans and start < spans[-1][1]:
            raise ValueError(f"rows {start} to {min(stop, spans[-1][1]) - 1} are covered twice")
        if spans and start == spans[-1][1]:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return tuple(spans)
