"""Evaluate one part: read it, score it, add it up.

A part is a range of steps along the lead axis. It is read in boxes of positions, and each box in blocks of classes
where the class axis is split, so that memory holds one block and one small record per row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from daskxent.numbers import records
from daskxent.numbers.keys import TOTAL
from daskxent.numbers.state import State, merge_all
from daskxent.run import scoring
from daskxent.run.scoring import MISSING, Block, as_dense, as_rows, compiled_for
from daskxent.sources.align import marked
from daskxent.sources.arrays import class_cuts
from daskxent.sources.boxes import boxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.sources import Inputs
    from daskxent.sources.arrays import Box
    from daskxent.sources.boxes import Aligned


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
    scorer, totals = compiled_for(question, (stop - start) * per, inputs.sizes)
    states = (block.state(scorer, totals) for block in read_blocks(inputs, question, start, stop))
    found = merge_all(state for state in states if state.sums or state.audit)
    if totals is not None:
        found = found.merge(State({TOTAL: totals.sums()}))
    return replace(found, covered=((start * per, stop * per),))


def read_blocks(inputs: Inputs, question: Question, start: int, stop: int) -> Iterator[Block]:
    """Read a part box by box; each block is good until the next one is asked for."""
    for aligned in boxes(inputs, question, start, stop):
        gaps: list[Box] | None = [] if question.on_missing == "fill" else None
        missing = {kind: aligned.missing(name) for kind, name in MISSING.items()}
        found, dense, values = None, None, None
        if question.whole_rows or len(class_cuts(inputs.predictions, inputs.axis)) == 2:
            whole = inputs.box(aligned.box, slice(0, inputs.classes))
            values = as_rows(inputs.predictions.read(whole, gaps), inputs.axis)
            if inputs.dense:
                label_gaps: list[Box] | None = None if question.on_missing == "raise" else []
                dense = as_dense(inputs.dense_labels.read(whole, label_gaps), inputs.axis)
                missing["label_missing"] = _rows_in(label_gaps, inputs, aligned.box)
        else:
            found = _scan_classes(inputs, question, aligned, gaps)
        missing["prediction_missing"] = _rows_in(gaps, inputs, aligned.box)
        known = {kind: rows for kind, rows in missing.items() if rows is not None}
        yield Block(question, aligned, inputs.positions, values, found, dense, known, inputs.sizes)


def _scan_classes(inputs: Inputs, question: Question, aligned: Aligned, gaps: list[Box] | None) -> records.Records:
    """Read and scan the predictions over a box, one block of classes after the other."""
    cuts = class_cuts(inputs.predictions, inputs.axis)
    assert aligned.labels is not None
    labels = aligned.labels

    def scan(first: int, stop: int) -> records.Records:
        box = inputs.box(aligned.box, slice(first, stop))
        rows = as_rows(inputs.predictions.read(box, gaps), inputs.axis)
        return scoring.scan(question, rows, labels, first, inputs.sizes)

    return reduce(records.merge, map(scan, cuts, cuts[1:]))


def _rows_in(gaps: list[Box] | None, inputs: Inputs, box: Box) -> NDArray[np.bool_] | None:
    """Return which rows of a box have any class in boxes of predictions or dense labels; None if there are none."""
    if not gaps:
        return None
    return marked([gap[: inputs.axis] + gap[inputs.axis + 1 :] for gap in gaps], box).reshape(-1)
