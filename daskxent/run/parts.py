"""Evaluate one part: read it, score it, add it up.

A part is a range of steps along the lead axis. It is read in boxes of positions, and each box in blocks of classes
where the class axis is split, so that memory holds one block and one small record per row.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from daskxent.numbers import records
from daskxent.numbers.state import State, merge_all
from daskxent.run import scoring
from daskxent.run.failures import Unreadable
from daskxent.run.scoring import Block, as_dense, as_rows, compiled_for
from daskxent.run.sink import Pages
from daskxent.sources.align import marked
from daskxent.sources.boxes import boxes, needed
from daskxent.sources.objects import retried as requests_retried
from daskxent.sources.prefetch import WINDOW, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.run.planning import Part
    from daskxent.run.sink import Sink
    from daskxent.sources.align import Inputs
    from daskxent.sources.boxes import Aligned
    from daskxent.sources.source import Box

T = TypeVar("T")

RETRIES = 4
FIRST_WAIT = 0.1  # seconds before the first retry; doubled for each further one
PATIENCE = 1.0  # seconds after which a part hands its rest back


class Done(NamedTuple):
    """What was found of a part, and what is left of it.

    Attributes
    ----------
    state : State
        Of the steps that were evaluated.
    retries : int
        How often reading had to be tried again.
    rest : tuple of Part
        The steps that were not evaluated.
    versions : tuple of (int, int, str)
        Of what was read for ranges of the steps that were evaluated: see `Inputs.version`.
    """

    state: State
    retries: int = 0
    rest: tuple[Part, ...] = ()
    versions: tuple[tuple[int, int, str], ...] = ()

    @classmethod
    def all(cls, several: Iterable[Done]) -> Done:
        """Join what was found of several parts."""
        states, retries, rest, versions = zip(*several, strict=True)
        return cls(merge_all(states), sum(retries), sum(rest, ()), sum(versions, ()))


class GivenUp(Exception):
    """Nobody waits for a part any more."""


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to evaluate any part.

    Parameters
    ----------
    inputs : Inputs
    question : Question
    sink : Sink, optional
        What keeps columns of the rows.
    patience : float
        Seconds after which the rest of a part is handed back, so that its sums are reported meanwhile.
    versions : bool
        Whether to keep by what to know, later, that something was written anew.
    given_up : callable, optional
        Says whether nobody waits any more; a part then ends at its next box, with `GivenUp`.
    """

    inputs: Inputs
    question: Question
    sink: Sink | None = None
    patience: float = PATIENCE
    versions: bool = False
    given_up: Callable[[], bool] | None = None

    def __call__(self, start: int, stop: int) -> Done:
        """Evaluate the steps ``start <= step < stop`` along the lead axis.

        When storage fails, the part is tried again, after a pause; other errors are the data's and are final.
        """
        per = self.inputs.rows_per_step
        done, retries = retried(lambda: self._evaluated(start, stop), f"rows {start * per} to {stop * per - 1}")
        return done._replace(retries=retries + requests_retried())

    def announce(self, start: int, stop: int) -> None:
        """Have the chunks of a part asked for that is evaluated later, if they are far away and there is room."""
        WINDOW.announce((id(self), start, stop), needed(self.inputs, start, stop))

    def withdraw(self, parts: Iterable[Part]) -> None:
        """Drop what was announced of parts."""
        WINDOW.forget((id(self), *part) for part in parts)

    def _evaluated(self, start: int, stop: int) -> Done:
        before = self.inputs.version(start, stop) if self.versions else None
        with reading(WINDOW, (id(self), start, stop), needed(self.inputs, start, stop)) as left:
            state, reached = evaluate_part(
                self.inputs, self.question, start, stop, self.sink, self.patience, self.given_up
            )
            rest = ((reached, stop),) if reached < stop else ()
            left += [(id(self), *part) for part in rest]
        return Done(state, 0, rest, self._versions(start, reached, stop, before))

    def _versions(self, start: int, reached: int, stop: int, before: str | None) -> tuple[tuple[int, int, str], ...]:
        """Return the version of what was read, if nothing was written meanwhile."""
        if before is None:
            return ()
        if reached == stop:
            return ((start, stop, before),)
        now = self.inputs.version(start, reached)
        return ((start, reached, str(now) if self.inputs.version(start, stop) == before else ""),)


def retried(read: Callable[[], T], what: str) -> tuple[T, int]:
    """Return what is read, and how often that failed before; an error that pauses do not help against is raised."""
    for retries in itertools.count():
        try:
            return read(), retries
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise
        except OSError as error:
            if retries == RETRIES:
                raise Unreadable(f"{what}: reading failed {retries + 1} times, last with: {error}") from error
            time.sleep(FIRST_WAIT * 2**retries)
    raise AssertionError  # the loop has no end


def evaluate_part(
    inputs: Inputs,
    question: Question,
    start: int,
    stop: int,
    sink: Sink | None = None,
    patience: float = math.inf,
    given_up: Callable[[], bool] | None = None,
) -> tuple[State, int]:
    """Return the state of the steps ``start <= step < stop`` along the lead axis, or of some of them.

    After `patience` seconds, counted from the first box, it ends where what lies along the rows was read no further,
    and between two pages of the sink.
    The second value is the step that it reached.
    """
    per = inputs.rows_per_step
    scorer, totals = compiled_for(question, (stop - start) * per, inputs.sizes)
    states, reached, ends, probable, largest, unshifted = [], stop, math.inf, True, -1, False
    pages = None if sink is None else Pages(sink, inputs, stop)
    for block in read_blocks(inputs, question, start, stop):
        if given_up is not None and given_up():
            raise GivenUp
        state = block.state(scorer, totals, pages, probable)
        probable = state.like_probabilities
        largest, unshifted = max(largest, state.largest), unshifted | state.unshifted
        states += [state] if state.audit or state.picked else []
        ends, step = min(ends, time.monotonic() + patience), block.aligned.box[inputs.lead].stop
        if time.monotonic() > ends and block.aligned.ends_run and (pages is None or pages.ends(step)):
            reached = step
            break
    if pages is not None:
        pages.flush()
    states.append(
        State(
            totals.sums(),
            totals.tables(),
            covered=((start * per, reached * per),),
            like_probabilities=probable,
            largest=largest,
            unshifted=unshifted,
        )
    )
    return merge_all(states), reached


def read_blocks(inputs: Inputs, question: Question, start: int, stop: int) -> Iterator[Block]:
    """Read a part box by box; each block is good until the next one is asked for."""
    for aligned in boxes(inputs, question, start, stop):
        gaps: list[Box] | None = [] if question.on_missing == "fill" else None
        missing = aligned.missing()
        found, dense, values = None, None, None
        if question.whole_rows or len(_class_blocks(inputs)) == 1:
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
    assert aligned.labels is not None
    labels = aligned.labels

    def scan(first: int, stop: int) -> records.Records:
        box = inputs.box(aligned.box, slice(first, stop))
        rows = as_rows(inputs.predictions.read(box, gaps), inputs.axis)
        return scoring.scan(question, rows, labels, first, inputs.sizes)

    return reduce(records.merge, (scan(*block) for block in _class_blocks(inputs)))


def _class_blocks(inputs: Inputs) -> list[tuple[int, int]]:
    """Return the ranges of classes that can be read one at a time."""
    cuts = inputs.predictions.pieces(inputs.axis)
    return [(0, inputs.classes)] if cuts is None else list(cuts.ranges(0, inputs.classes))


def _rows_in(gaps: list[Box] | None, inputs: Inputs, box: Box) -> NDArray[np.bool_] | None:
    """Return which rows of a box have any class in boxes of predictions or dense labels; None if there are none."""
    if not gaps:
        return None
    return marked([gap[: inputs.axis] + gap[inputs.axis + 1 :] for gap in gaps], box).reshape(-1)
