"""What was found among the rows, by kind: how many, the first of them, and which are errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import reading
from daskxent.numbers.scores import SUM_TOLERANCE
from daskxent.numbers.status import (
    ALL_EQUAL,
    BAD_WEIGHT,
    EXTREME,
    HAS_NAN,
    IGNORED,
    INVALID,
    IS_CLIPPED,
    IS_COARSE,
    IS_INFINITE,
    IS_LOST,
    MASKED,
    NEGATIVE,
    NOT_FINITE,
    NOT_ONE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.numbers.status import Scored

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
    "weight_extreme": "weight beyond 1e140 or below 1e-140, whose square is beyond float64 or has fewer than 16 digits",
    "prediction_missing": "predictions not stored, read as the fill value",
    "label_missing": "label not stored, read as the fill value",
    "weight_missing": "weight not stored, read as the fill value",
    "further_missing": "mask, grouping, clusters, bytes or words not stored, read as the fill value",
}
USUALLY_IGNORED = (-100, -1, 255)  # what torch, scikit-learn and segmentation maps have for labels that are none
FIRST = 10  # how many places of each finding are kept

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


@dataclass(frozen=True, slots=True)
class Finding:
    """How many rows have something in common, and the first of them as (row, value) pairs in order of the row."""

    count: int = 0
    first: tuple[tuple[int, float], ...] = ()

    def merge(self, other: Finding) -> Finding:
        """Combine the findings of different rows."""
        return Finding(self.count + other.count, tuple(sorted(self.first + other.first)[:FIRST]))


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


def renumbered(findings: Mapping[str, Finding], place: Callable[[int], int]) -> dict[str, Finding]:
    """Return findings whose rows have the numbers that `place`, an increasing function, gives them."""
    return {
        kind: Finding(each.count, tuple((place(row), value) for row, value in each.first))
        for kind, each in findings.items()
    }


def raise_first_error(question: Question, audit: Mapping[str, Finding], positions: tuple[int, ...] = ()) -> None:
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
    """Return the first row that is an error, and the error, as `raise_first_error` raises it; None if there is none."""
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
