"""Cut a part into boxes, with what lies along the rows of each.

A part is a range of steps along the lead axis. Its boxes of positions follow the chunks of the predictions. Labels,
weights and further arrays are read once for many boxes, a run of steps, whatever their own chunks are.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from daskxent.sources.cache import most_bytes
from daskxent.sources.cuts import Even

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.sources.align import Inputs
    from daskxent.sources.chunks import Chunks
    from daskxent.sources.columns import Column
    from daskxent.sources.source import Box


MISSING = {"labels": "label_missing", "weights": "weight_missing"}  # by name of a column, the kind of the audit
QUICK = 0.25  # seconds; a run that took less is followed by one of twice as many steps


@dataclass(frozen=True)
class Aligned:
    """What lies along a box of positions.

    Attributes
    ----------
    box : tuple of slice
    columns : mapping of str to Column
        By the names of `Inputs.along`; rows are numbered over the box in C order.
    ends_run : bool
        Whether what lies along the next box has not been read yet.
    """

    box: Box
    columns: Mapping[str, Column]
    ends_run: bool = True

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the box."""
        return tuple(s.stop - s.start for s in self.box)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The labels, unless they are dense."""
        column = self.columns.get("labels")
        return None if column is None else column.values

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """The weights, if there are any."""
        column = self.columns.get("weights")
        return None if column is None else column.values

    def missing(self) -> dict[str, NDArray[np.bool_] | None]:
        """Return which rows of the columns are not stored, by kinds of the audit that there are."""
        found: dict[str, NDArray[np.bool_] | None] = {}
        for name, column in self.columns.items():
            if column.missing is not None:
                kind = MISSING.get(name, "further_missing")
                known = found.get(kind)
                found[kind] = column.missing if known is None else known | column.missing
        return found

    def over(self, box: Box) -> Aligned:
        """Return what lies along a box inside this one."""
        inside = tuple([slice(s.start - r.start, s.stop - r.start) for s, r in zip(box, self.box, strict=True)])
        shape = self.shape

        def cut(array: NDArray[Any]) -> NDArray[Any]:
            return array.reshape(shape)[inside].reshape(-1)

        last = all(s.stop == r.stop for s, r in zip(box, self.box, strict=True))
        return Aligned(box, {name: column.map(cut) for name, column in self.columns.items()}, last)


def boxes(inputs: Inputs, question: Question, start: int, stop: int) -> Iterator[Aligned]:
    """Cut a part into boxes, with what lies along each; it is good until the next box is asked for.

    Runs begin with a chunk of predictions and become longer as long as they are quick: a part may end after each.
    """
    cuts, most = inputs.predictions.stored(inputs.lead_axis), run_steps(inputs)
    steps = min(most, cuts.largest) if cuts else most
    while start < stop:
        began = time.monotonic()
        run = _run(inputs, start, min(stop, start + steps), stop)
        yield from map(_read(inputs, question, run).over, _boxes(inputs, run))
        start = run[inputs.lead].stop
        if time.monotonic() - began < QUICK:
            steps = min(most, 2 * steps)


def needed(inputs: Inputs, start: int, stop: int) -> Iterator[tuple[Chunks, tuple[int, ...]]]:
    """Yield the chunks that a part will read and that are worth asking for ahead, about in the order of reading."""
    run = _run(inputs, start, stop, stop)
    for along in inputs.along.values():
        if getattr(along.source, "far", False):  # which a dask array is not
            yield from along.source.encoded(along.within(run))
    several = [inputs.predictions, *([inputs.dense_labels] if inputs.dense else [])]
    several = [source for source in several if source.far]
    for box in _boxes(inputs, run) if several else ():
        for source in several:
            yield from source.encoded(inputs.box(box, slice(0, inputs.classes)))


def _read(inputs: Inputs, question: Question, run: Box) -> Aligned:
    """Read all arrays along a run of positions."""
    fill = question.on_missing != "raise"
    return Aligned(run, {name: along.read(run, fill) for name, along in inputs.along.items()})


def held_bytes(inputs: Inputs, threads: int, rows: int) -> int:
    """Estimate how many bytes of what lies along the rows are held at once, over all threads.

    A thread holds what it read for that many rows, and the last chunk of each array; chunks that reach over more rows,
    at most two of them in sequence, are kept up to a bound.
    """
    held, last, kept = threads * rows * len(inputs.along) * 8, 0, 0
    at = inputs.lead_axis
    dense = [(inputs.dense_labels, at)] if inputs.dense else []
    for source, lead in (*dense, *((along.source, along.at(inputs.lead)) for along in inputs.along.values())):
        if not hasattr(source, "pieces"):  # a dask array: its chunks are in other memory
            continue
        cuts = [source.pieces(axis) for axis in range(len(source.shape))]
        if None in cuts or not cuts:
            continue
        counts = [each.count(0, each.length) for each in cuts]
        chunk = math.prod(each.largest for each in cuts) * source.dtype.itemsize
        across = math.prod(count for axis, count in enumerate(counts) if axis != lead) * chunk
        behind = 1 if lead is None else counts[lead]
        last += min(threads * chunk, across * behind)
        kept += min(threads * min(2, behind), behind) * across
    return held + max(last, min(kept, most_bytes(threads)))


def joined_bytes(inputs: Inputs, predictions: int) -> int:
    """Estimate how many bytes of dense labels are put together for a box of so many predictions.

    None where such a box lies in one piece of the labels, of which it is a view.
    """
    labels = inputs.dense_labels
    if not hasattr(labels, "pieces"):  # there are none, or a dask array
        return 0
    cuts = [labels.pieces(axis) for axis in range(len(labels.shape))]
    across = any(each and each.count(0, each.length) > 1 for at, each in enumerate(cuts) if at != inputs.lead_axis)
    along = cuts[inputs.lead_axis]
    apart = across or (along is not None and along.largest * inputs.rows_per_step * inputs.classes < predictions)
    return predictions * int(labels.dtype.itemsize) if apart else 0


def run_steps(inputs: Inputs) -> int:
    """Return how many steps a run takes at most: some whole chunks of predictions, or one that is longer."""
    cuts = inputs.predictions.stored(inputs.lead_axis)
    return max(1, inputs.sizes.run_rows // inputs.rows_per_step, cuts.largest if cuts else 1)


def _run(inputs: Inputs, start: int, end: int, stop: int) -> Box:
    """Return the steps from `start` to about `end` as a box; it ends with a chunk, if there is one that ends there."""
    cuts = inputs.predictions.stored(inputs.lead_axis)
    if end < stop and cuts and cuts.floor(end) > start:
        end = cuts.floor(end)
    return tuple(slice(start, end) if axis == inputs.lead else slice(0, n) for axis, n in enumerate(inputs.positions))


def _boxes(inputs: Inputs, run: Box) -> Iterator[Box]:
    """Cut a run into boxes along the chunks of the predictions, or into pieces of a handy size; one if it is there."""
    predictions = inputs.predictions
    axes = [axis for axis in range(len(predictions.shape)) if axis != inputs.axis]
    cuts = [predictions.together(axis) for axis in axes]
    whole = run[inputs.lead]
    there = predictions.views and (not inputs.dense or inputs.dense_labels.views)
    if cuts[inputs.lead] is None and not there:
        step_bytes = inputs.rows_per_step * inputs.classes * predictions.dtype.itemsize
        count = -(-(whole.stop - whole.start) * step_bytes // inputs.sizes.piece_bytes)
        cuts[inputs.lead] = Even(inputs.positions[inputs.lead], -(-(whole.stop - whole.start) // count), -whole.start)
    ranges = [
        [s] if each is None else [slice(*edges) for edges in each.ranges(s.start, s.stop)]
        for s, each in zip(run, cuts, strict=True)
    ]
    return itertools.product(*ranges)
