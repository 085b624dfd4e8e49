"""Evaluate one part: read it, scan it, tally it.

A part is a range of steps along the lead axis. It is read in boxes of positions, and each box in blocks of classes
where the class axis is split, so that memory holds one block and one small record per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.boxes import Aligned, boxes
from daskxent.numbers import records as scanning
from daskxent.numbers.state import NOT_FINITE, Question, State, merge_all, tally
from daskxent.sources.align import marked
from daskxent.sources.arrays import class_cuts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskxent.kernels import Tally
    from daskxent.numbers.records import Rows
    from daskxent.sources import Inputs
    from daskxent.sources.arrays import Box

# Odd rows, and rows with dense or smoothed labels, are copied out this many bytes at a time.
ODD_BYTES = 4 << 20
# Below this many predictions NumPy is done before the compiled scans are loaded; both give the same bits.
FEW = 1 << 14
# The fields of records that have one entry, or one line, for each row.
PER_ROW = tuple(name for name in scanning.Rows._fields if name != "mass")


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to evaluate any part."""

    inputs: Inputs
    question: Question

    def __call__(self, start: int, stop: int) -> State:
        """Evaluate the steps ``start <= step < stop`` along the lead axis."""
        return evaluate_part(self.inputs, self.question, start, stop)


def evaluate_part(inputs: Inputs, question: Question, start: int, stop: int) -> State:
    """Return the state of the steps ``start <= step < stop`` along the lead axis."""
    per = inputs.rows_per_step
    quick = not question.whole_rows and len(class_cuts(inputs.predictions, inputs.axis)) == 2
    if quick and (stop - start) * per * inputs.classes >= FEW:
        from daskxent.kernels import Tally

        sums = Tally(question)
        odd = (_tally_box(inputs, sums, beside) for beside in boxes(inputs, question, start, stop))
        found = merge_all(state for state in odd if state is not None).merge(sums.state())
    else:
        found = merge_all(_evaluate_box(inputs, question, beside) for beside in boxes(inputs, question, start, stop))
    return replace(found, covered=((start * per, stop * per),))


@dataclass(frozen=True)
class _Place:
    """From the number of a row in a box to its number in the whole array."""

    shape: tuple[int, ...]
    box: Box
    positions: tuple[int, ...]

    def __call__(self, row: int) -> int:
        at = np.unravel_index(row, self.shape)
        whole = tuple(int(i) + s.start for i, s in zip(at, self.box, strict=True))
        return int(np.ravel_multi_index(whole, self.positions))


def _tally_box(inputs: Inputs, sums: Tally, beside: Aligned) -> State | None:
    """Add a box of whole rows to the running sums; return what they leave out: the audit and the odd rows, if any."""
    question = sums.question
    absent: list[Box] | None = [] if question.on_missing == "fill" else None
    whole = inputs.box(beside.box, slice(0, inputs.classes))
    values = as_rows(inputs.predictions.read(whole, absent), inputs.axis)
    assert beside.labels is not None
    audit, odd = sums.add(values, beside.labels, beside.weights)
    if not (audit or odd.size or absent or beside.any_missing):
        return None
    state = State(audit=audit)
    some = max(1, ODD_BYTES // (inputs.classes * values.itemsize))
    for at in range(0, odd.size, some):
        state = state.merge(_judge(question, values, beside, odd[at : at + some]))
    state = _told(inputs, beside, state, absent, beside.missing("labels"))
    return None if state == State.zero() else state  # an odd row may count without being told of


def _judge(question: Question, values: NDArray[Any], beside: Aligned, odd: NDArray[np.int64]) -> State:
    """Return the state of some rows of a box, copied out and tallied by the general rules."""
    assert beside.labels is not None
    picked = values[odd // values.shape[2], :, odd % values.shape[2]][:, :, None]
    labels, weights = beside.labels[odd], None if beside.weights is None else beside.weights[odd]
    records = scan(question, picked, labels, 0)
    judged = tally(question, records, labels, weights, losses(question, records))
    return judged.placed(lambda row: int(odd[row]), ())


def _evaluate_box(inputs: Inputs, question: Question, beside: Aligned) -> State:
    """Return the state of a box, whatever its classes and labels look like."""
    absent: list[Box] | None = [] if question.on_missing == "fill" else None
    gone: list[Box] | None = None if question.on_missing == "raise" else []
    records, labels, losses = scan_box(inputs, question, beside, absent, gone)
    state = tally(question, records, labels, beside.weights, losses)
    return _told(
        inputs, beside, state, absent, _rows_in(gone, inputs, beside.box) if gone else beside.missing("labels")
    )


def _told(
    inputs: Inputs, beside: Aligned, state: State, absent: list[Box] | None, label_missing: NDArray[np.bool_] | None
) -> State:
    """Note in the state of a box what was stored, and what was not, and number its rows as in the whole array."""
    if absent:
        state = state.with_missing("prediction_missing", _rows_in(absent, inputs, beside.box))
    for kind, rows in (("label_missing", label_missing), ("weight_missing", beside.missing("weights"))):
        state = state if rows is None else state.with_missing(kind, rows)
    labels = beside.columns.get("labels")
    if labels is not None and labels.beyond is not None:
        state = state.with_values("label_out_of_range", labels.beyond)
    if not state.audit:
        return state
    return state.placed(_Place(beside.shape, beside.box, inputs.positions), ())


def _rows_in(gaps: list[Box], inputs: Inputs, box: Box) -> NDArray[np.bool_]:
    """Say which rows of a box have any class in boxes of predictions or dense labels."""
    return marked([gap[: inputs.axis] + gap[inputs.axis + 1 :] for gap in gaps], box).reshape(-1)


def scan_box(
    inputs: Inputs, question: Question, beside: Aligned, absent: list[Box] | None = None, gone: list[Box] | None = None
) -> tuple[Rows, NDArray[np.int64], NDArray[np.float64] | None]:
    """Read and scan the predictions over a box.

    Parameters
    ----------
    inputs, question
    beside : Aligned
        What lies along the box, flattened.
    absent, gone : list of boxes, optional
        Collect the boxes of predictions and of dense labels that are not stored; where None, they are an error.

    Returns
    -------
    (Rows, (n,) int64, (n,) float64 or None)
        The finished records, the labels (the largest of dense ones), and the losses if the question needs them.
    """
    labels: Any = beside.labels
    if question.whole_rows:
        whole = inputs.box(beside.box, slice(0, inputs.classes))
        values = as_rows(inputs.predictions.read(whole, absent), inputs.axis)
        if labels is None:
            labels = np.moveaxis(as_rows(inputs.dense_labels.read(whole, gone), inputs.axis), 1, -1)
            labels = labels.reshape(-1, question.classes)
        return scan_whole(question, values, labels)
    records: Rows | None = None
    for classes in _class_blocks(inputs):
        values = as_rows(inputs.predictions.read(inputs.box(beside.box, classes), absent), inputs.axis)
        block = scan(question, values, labels, classes.start)
        records = block if records is None else scanning.merge(records, block)
    assert records is not None
    return records, labels, losses(question, records)


def scan_whole(
    question: Question, values: NDArray[Any], labels: NDArray[Any]
) -> tuple[Rows, NDArray[np.int64], NDArray[np.float64] | None]:
    """Scan (before, classes, after) predictions of all classes.

    Parameters
    ----------
    question
    values : (before, classes, after) array
    labels : (n,) int64, or (n, classes) array
        Classes, or dense labels.

    Returns
    -------
    As `scan_box`.
    """
    sparse: NDArray[np.int64] = labels if labels.ndim == 1 else largest(labels)
    records = scan(question, values, sparse, 0)
    if question.whole_rows and question.needs_loss:
        return records, sparse, dense_losses(question, values, labels, records)
    return records, sparse, losses(question, records)


def scan(question: Question, values: NDArray[Any], labels: NDArray[np.int64], first: int) -> Rows:
    """Scan a (before, classes, after) block of predictions with what the question needs."""
    wants: Any = {"probabilities": not question.from_logits, "mass": question.needs_loss, "top": question.top}
    if values.size < FEW:
        whole = np.moveaxis(values, 1, -1).reshape(len(labels), values.shape[1])
        return scanning.scan(whole, labels, first, **wants)
    from daskxent import kernels

    return kernels.scan(values, labels, first, **wants)


def losses(question: Question, records: Rows) -> NDArray[np.float64] | None:
    """Return the crossentropy of finished records, if the question needs it."""
    if not question.needs_loss:
        return None
    if records.peak.size < FEW // 8:
        return scanning.losses(records, probabilities=not question.from_logits)
    from daskxent import kernels

    return kernels.losses(records, probabilities=not question.from_logits)


def largest(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class with the largest label of each row of dense labels, or a key of `NOT_FINITE`."""
    found: NDArray[np.int64] = labels.argmax(axis=1).astype(np.int64)
    if labels.dtype.kind in "biu":
        return found
    finite = np.isfinite(labels)
    bad = np.flatnonzero(~finite.all(axis=1))
    first = labels[bad, finite[bad].argmin(axis=1)].astype(np.float64)
    for code, value in NOT_FINITE.items():
        found[bad[np.isnan(first) if math.isnan(value) else first == value]] = code
    return found


def dense_losses(question: Question, values: NDArray[Any], labels: NDArray[Any], records: Rows) -> NDArray[np.float64]:
    """Return the crossentropy of (before, classes, after) predictions with (n, classes) labels, or (n,) classes.

    Rows are widened, and classes written out as one-hot labels, for a few rows at a time.
    """
    _, classes, after = values.shape
    found, some = np.empty(len(labels)), max(1, ODD_BYTES // (8 * classes))
    for at in range(0, len(labels), some):
        few = slice(at, min(at + some, len(labels)))
        number = np.arange(few.start, few.stop)
        own = {name: getattr(records, name)[few] for name in PER_ROW}
        with np.errstate(over="ignore", invalid="ignore"):  # of labels that are not finite, or nearly
            found[few] = scanning.dense_losses(
                values[number // after, :, number % after],
                labels[few] if labels.ndim == 2 else _one_hot(labels[few], classes),
                records._replace(mass=records.mass[:, few], **own),
                probabilities=not question.from_logits,
                smoothing=question.label_smoothing,
            )
    return found


def _one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Write classes out as dense labels; there is nothing in the rows of those that are out of range."""
    dense = np.zeros((len(labels), classes))
    inside = np.flatnonzero((labels >= 0) & (labels < classes))
    dense[inside, labels[inside]] = 1
    return dense


def as_rows(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return an array as (before, classes, after), where rows are numbered over before and after in C order."""
    shape = values.shape
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return values.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def _class_blocks(inputs: Inputs) -> Iterator[slice]:
    cuts = class_cuts(inputs.predictions, inputs.axis)
    return map(slice, cuts, cuts[1:])
