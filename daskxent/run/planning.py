"""Cut the rows into parts, by arithmetic alone: nothing is read and no Dask is involved.

A part is a range of steps along the lead axis of the positions: big enough that handing it out costs nothing
(about a second of work), aligned to what is stored as one (chunks, or shards), small enough that every thread
gets several. A plan of a million chunks is a handful of integers.
"""

from __future__ import annotations

import html
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskxent.sources.boxes import held_bytes, run_steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daskxent.numbers.question import Question
    from daskxent.sources import Inputs, Sizes

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
        Steps in a part, at most; parts begin at multiples of it.
    grid : int
        Steps that are stored as one along the lead axis; parts begin and end at multiples of it.
    parts : int
        Number of parts.
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
    grid: int
    parts: int
    rows_per_step: int
    threads: int
    nbytes: int
    chunks: int
    memory: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of parts."""
        return self.parts

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts as (start, stop) along the lead axis."""
        first = self.start // self.step
        for index in range(first, first + len(self)):
            yield max(self.start, index * self.step), min(self.stop, (index + 1) * self.step)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return (self.stop - self.start) * self.rows_per_step

    def lines(self) -> list[tuple[str, str]]:
        """Return (label, text) pairs: what the tables for terminals and notebooks show."""
        kind = "logits" if self.question.from_logits else "probabilities"
        stored = f" in {self.chunks:,} chunks" if self.chunks else ""
        return [
            ("metrics", ", ".join(self.question.metrics)),
            ("predictions", f"{self.shape} {self.dtype} {kind}, {self.question.classes:,} classes"),
            ("rows", f"{self.rows:,}"),
            ("to read", f"{show_bytes(self.nbytes)} decoded{stored}"),
            ("parts", f"{len(self):,} of up to {self.step * self.rows_per_step:,} rows"),
            (
                "at a time",
                f"{self.threads} thread{'s' * (self.threads != 1)}, {show_bytes(self.memory)} of memory per worker",
            ),
            *(("note", note) for note in self.notes),
        ]

    def __repr__(self) -> str:
        return "\n".join(["Plan", *(f"  {label:<11}  {text}" for label, text in self.lines())])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th><td>{html.escape(text)}</td></tr>"
            for label, text in self.lines()
        )
        return f"<table><caption>daskxent plan</caption>{cells}</table>"


def cut(inputs: Inputs, question: Question, threads: int, rows: tuple[int, int] | None = None) -> Plan:
    """Plan the evaluation of aligned inputs.

    Parameters
    ----------
    inputs : Inputs
    question : Question
    threads : int
        Parts that will be evaluated at a time.
    rows : (start, stop), optional
        Evaluate only these steps along the lead axis.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        `rows` is no range inside the array.
    """
    predictions, sizes = inputs.predictions, inputs.sizes
    at = inputs.lead + (inputs.lead >= inputs.axis)
    length = predictions.shape[at]
    start, stop = (0, length) if rows is None else _range(rows)
    if not 0 <= start < stop <= length:
        raise ValueError(f"rows: {start}:{stop} is not a range inside 0:{length}")
    blocks = predictions.blocks
    grid = blocks[at] if blocks else 1
    itemsize = predictions.dtype.itemsize
    step_bytes = inputs.rows_per_step * inputs.classes * itemsize
    total = (stop - start) * step_bytes
    # Rounded up, or a last part would be left of the few rows that no other one took.
    steps = min(-(-_part_bytes(total, threads, sizes) // step_bytes), sizes.part_rows // inputs.rows_per_step)
    step = max(1, round(steps / grid)) * grid
    block = math.prod(blocks) * itemsize if blocks else min(step * step_bytes, sizes.buffer_bytes)
    at_once = min(run_steps(inputs), step) * inputs.rows_per_step
    return Plan(
        question=question,
        shape=tuple(predictions.shape),
        dtype=str(predictions.dtype),
        start=start,
        stop=stop,
        step=step,
        grid=grid,
        parts=-(-stop // step) - start // step,
        rows_per_step=inputs.rows_per_step,
        threads=threads,
        nbytes=total,
        chunks=_chunks(predictions.shape, blocks, at, start, stop) if blocks else 0,
        memory=threads * 2 * block * _gathered(inputs, question, blocks)
        + sizes.buffer_bytes
        + held_bytes(inputs, threads, at_once),
        notes=_notes(inputs, question, blocks, block),
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
        Sorted, disjoint ranges of rows, as `State.covered` has them.
    """
    per = plan.rows_per_step
    gaps = [(start // per, stop // per) for start, stop in covered]
    for start, stop in plan:
        for done_start, done_stop in gaps:
            if done_stop <= start or done_start >= stop:
                continue
            if start < done_start:
                yield start, done_start
            start = done_stop
        if start < stop:
            yield start, stop


def show_bytes(n: int) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> show_bytes(1_500_000_000)
    '1.50 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n} B"


def _range(rows: tuple[int, int]) -> tuple[int, int]:
    try:
        start, stop = map(operator.index, rows)
    except (TypeError, ValueError):
        raise TypeError(f"rows: expected (start, stop), got {rows!r}") from None
    return start, stop


def _chunks(shape: tuple[int, ...], blocks: tuple[int, ...], at: int, start: int, stop: int) -> int:
    counts = [-(-length // block) for length, block in zip(shape, blocks, strict=True)]
    counts[at] = -(-stop // blocks[at]) - start // blocks[at]
    return math.prod(counts)


def _gathered(inputs: Inputs, question: Question, blocks: tuple[int, ...] | None) -> int:
    """Return how many blocks of classes are held at once."""
    return -(-inputs.classes // blocks[inputs.axis]) if blocks and question.whole_rows else 1


def _notes(inputs: Inputs, question: Question, blocks: tuple[int, ...] | None, block: int) -> tuple[str, ...]:
    if not blocks:
        return ()
    notes: list[str] = []
    if blocks[inputs.axis] < inputs.classes and question.whole_rows:
        labels = "dense" if inputs.dense else "smoothed"
        notes.append(f"{labels} labels need whole rows: the blocks of classes of a part are read together")
    if block < 1 << 16:
        notes.append(f"chunks of {show_bytes(block)} are small; chunks above 1 MB read faster")
    return tuple(notes)


def describe(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain Python objects."""
    return {
        "metrics": list(plan.question.metrics),
        "shape": list(plan.shape),
        "dtype": plan.dtype,
        "classes": plan.question.classes,
        "rows": plan.rows,
        "nbytes": plan.nbytes,
        "chunks": plan.chunks,
        "parts": len(plan),
        "threads": plan.threads,
        "memory": plan.memory,
        "notes": list(plan.notes),
    }
