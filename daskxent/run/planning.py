"""Cut the rows into parts, by arithmetic alone: nothing is read and no Dask is involved.

A part is a range of steps along the lead axis of the positions: big enough that handing it out costs nothing
(about a second of work), aligned to what is stored as one (chunks, or shards), small enough that every thread
gets several. A plan of a million chunks is a handful of integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskxent.show.tables import amount, as_html, as_text, show_bytes
from daskxent.sources.boxes import held_bytes, joined_bytes, run_steps
from daskxent.sources.cuts import Even
from daskxent.sources.prefetch import REQUESTS, WINDOW_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daskxent.numbers.question import Question
    from daskxent.sources.align import Inputs
    from daskxent.sources.cuts import Cuts
    from daskxent.sources.sizes import Sizes

Part = tuple[int, int]  # start and stop along the lead axis


@dataclass(frozen=True)
class Plan:
    """What an evaluation would read, in which parts, and what it would cost.

    Attributes
    ----------
    question : Question
        What would be asked.
    shape, dtype : tuple of int, str
        Of the predictions.
    start, stop : int
        Steps along the lead axis to be evaluated.
    step : int
        Steps in a part, about: parts end at the last cut before a multiple of it.
    cuts : Cuts
        Where what is stored as one begins along the lead axis.
    rows_per_step : int
        Rows in one step.
    threads : int
        Parts evaluated at a time.
    nbytes : int
        Bytes of predictions, decoded.
    chunks : int
        Chunks (or shards) of predictions to read; 0 where they are in memory.
    memory : int
        Bytes that evaluating needs at once, over all threads, beyond what is loaded already.
    notes : tuple of str
        What would make it slow.
    """

    question: Question
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int
    step: int
    cuts: Cuts
    rows_per_step: int
    threads: int
    nbytes: int
    chunks: int
    memory: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of parts."""
        even = isinstance(self.cuts, Even) and not self.cuts.phase and self.step % self.cuts.size == 0
        if even and self.start < self.stop:
            return -(-self.stop // self.step) - self.start // self.step
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts as (start, stop) along the lead axis."""
        return self.between(self.start, self.stop)

    def between(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the parts of a range of steps, of which the first and the last may be cut short."""
        while start < stop:
            end = self.cuts.floor((start // self.step + 1) * self.step)
            end = min(stop, end if end > start else self.cuts.ceil(start + 1))
            yield start, end
            start = end

    @property
    def rows(self) -> int:
        """Number of rows."""
        return (self.stop - self.start) * self.rows_per_step

    def lines(self) -> list[tuple[str, str]]:
        """Return (label, text) pairs: what the tables for terminals and notebooks show."""
        kind = "logits" if self.question.from_logits else "probabilities"
        kind = "log-probabilities" if self.question.log_probabilities else kind
        stored = f" in {amount(self.chunks, 'chunk')}" if self.chunks else ""
        most = max(self.step, self.cuts.largest) * self.rows_per_step
        return [
            ("metrics", ", ".join(self.question.metrics)),
            ("predictions", f"{self.shape} {self.dtype} {kind}, {self.question.classes:,} classes"),
            ("rows", f"{self.rows:,}"),
            ("to read", f"{show_bytes(self.nbytes)} decoded{stored}"),
            ("parts", f"{len(self):,} of up to {amount(most, 'row')}"),
            (
                "at a time",
                f"{self.threads} thread{'s' * (self.threads != 1)}, {show_bytes(self.memory)} of memory per worker",
            ),
            *(("note", note) for note in self.notes),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain Python objects."""
        return {
            "metrics": list(self.question.metrics),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "classes": self.question.classes,
            "rows": self.rows,
            "nbytes": self.nbytes,
            "chunks": self.chunks,
            "parts": len(self),
            "threads": self.threads,
            "memory": self.memory,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return as_text("Plan", self.lines())

    def _repr_html_(self) -> str:
        return as_html("daskxent plan", self.lines())


def cut(inputs: Inputs, question: Question, threads: int, steps: slice | None = None, page: int | None = None) -> Plan:
    """Plan the evaluation of aligned inputs.

    Parameters
    ----------
    inputs : Inputs
    question : Question
    threads : int
        Parts that will be evaluated at a time.
    steps : slice, optional
        Evaluate only these steps along the first axis of the positions.
    page : int, optional
        Parts begin and end at multiples of this, a multiple of the chunks of the predictions.

    Returns
    -------
    Plan
    """
    predictions, sizes = inputs.predictions, inputs.sizes
    at = inputs.lead_axis
    start, stop = clipped(steps, inputs, inputs.positions[inputs.lead])
    every = [predictions.stored(axis) for axis in range(len(predictions.shape))]
    itemsize = predictions.dtype.itemsize
    step_bytes = inputs.rows_per_step * inputs.classes * itemsize
    total = (stop - start) * step_bytes
    work = max(step_bytes, inputs.rows_per_step * sizes.row_bytes)
    # Rounded up, or a last part would be left of the few rows that no other one took.
    part = _part_bytes((stop - start) * work, threads, sizes)
    most = min(-(-part // work), sizes.part_rows // inputs.rows_per_step)
    stored = any(every)
    cuts = Even(inputs.positions[inputs.lead], page) if page else every[at] or Even(inputs.positions[inputs.lead], 1)
    step = max(1, round(most / cuts.largest)) * cuts.largest if isinstance(cuts, Even) else max(1, most)
    lengths = [each.largest if each else n for each, n in zip(every, predictions.shape, strict=True)]
    chunk = math.prod(lengths) * itemsize if stored else min(step * step_bytes, sizes.buffer_bytes)
    block = chunk * _gathered(inputs, question, every[inputs.axis])  # what is read as one
    at_once = min(run_steps(inputs), step) * inputs.rows_per_step
    return Plan(
        question=question,
        shape=tuple(predictions.shape),
        dtype=str(predictions.dtype),
        start=start,
        stop=stop,
        step=step,
        cuts=cuts,
        rows_per_step=inputs.rows_per_step,
        threads=threads,
        nbytes=total,
        chunks=_chunks(every, at, start, stop) if stored else 0,
        memory=threads * (2 * block + joined_bytes(inputs, block // itemsize))
        + sizes.buffer_bytes
        + held_bytes(inputs, threads, at_once)
        + (min(WINDOW_BYTES, total) if inputs.predictions.far else 0),
        notes=_notes(inputs, question, every[inputs.axis], chunk) if stored else (),
    )


def _part_bytes(total: int, threads: int, sizes: Sizes) -> int:
    """Return how much to read in a part: threads should have equally many of them."""
    if total <= sizes.smallest_part_bytes:
        return total
    each = min(sizes.parts_per_thread, max(1, total // (threads * sizes.smallest_part_bytes)))
    return min(sizes.part_bytes, -(-total // (threads * each)))


def remaining(plan: Plan, covered: Iterable[Part]) -> Iterator[Part]:
    """Yield what is left of the parts of a plan when some rows are covered already.

    Parameters
    ----------
    plan : Plan
    covered : iterable of (start, stop)
        Sorted, disjoint ranges of rows, as in `State.covered`.
    """
    per = plan.rows_per_step
    done, at = [(start // per, stop // per) for start, stop in covered], 0
    for start, stop in plan:
        while at < len(done) and done[at][1] <= start:
            at += 1
        inside = at
        while inside < len(done) and done[inside][0] < stop:
            if start < done[inside][0]:
                yield start, done[inside][0]
            start, inside = done[inside][1], inside + 1
        if start < stop:
            yield start, stop


def clipped(steps: slice | None, inputs: Inputs, length: int) -> tuple[int, int]:
    """Return the range of a lead axis of some length that steps of the first axis are, clipped like a Python slice."""
    start, stop, _ = (steps or slice(None)).indices(1 if inputs.lead else length)
    if inputs.lead:  # the first axis is of length 1: all of the lead axis is in its only step
        start, stop = (0, length) if start < stop else (0, 0)
    return start, max(start, stop)


def _chunks(every: list[Cuts | None], at: int, start: int, stop: int) -> int:
    counts = [1 if each is None else each.count(0, each.length) for each in every]
    cuts = every[at]
    return math.prod(counts[:at] + counts[at + 1 :]) * (1 if cuts is None else cuts.count(start, stop))


SUM_BYTES, KEY_BYTES = 24, 100  # of a cluster: of each sum, and of what it is known by


def _gathered(inputs: Inputs, question: Question, cuts: Cuts | None) -> int:
    """Return how many blocks of classes are held at once."""
    return cuts.count(0, inputs.classes) if cuts and question.whole_rows else 1


def _notes(inputs: Inputs, question: Question, cuts: Cuts | None, block: int) -> tuple[str, ...]:
    notes: list[str] = []
    if _gathered(inputs, question, cuts) > 1:
        what = "dense labels need" if inputs.dense else "smoothed labels need" if question.softened else "metrics need"
        notes.append(f"{what} whole rows: the blocks of classes of a part are read together")
    if inputs.predictions.far:
        notes.append(f"chunks are asked for ahead: up to {REQUESTS} requests, {show_bytes(WINDOW_BYTES)} encoded")
    if block < 1 << 16:
        notes.append(f"chunks of {show_bytes(block)} are small; chunks above 1 MB read faster")
    if question.clusters is not None:
        each = SUM_BYTES * (len(question.statistics) + (2 if "weights" in inputs.along else 0))
        notes.append(f"clusters may come in any order: each is kept to the end, in about {each + KEY_BYTES} bytes")
    elif len(inputs.positions) > 1:
        notes.append("rows are taken as independent; those of a sequence or an image are not: clusters=dx.axis(0)")
    return tuple(notes)
