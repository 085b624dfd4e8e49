"""The one loop that evaluates: hand out what there is, merge what comes back, report.

Threads, clusters and graphs differ in what they hand out and to whom: each is a `Pool`. What comes of a part does not
depend on where it ran, in which order, or how the rows were cut, so none of that shows in the reports.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from daskxent.numbers.audit import first_error
from daskxent.numbers.clock import COMPILATION
from daskxent.numbers.state import Running, State, merge_all
from daskxent.numbers.sums import Sums
from daskxent.run.failures import IncompleteResult

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from daskxent.report import Report
    from daskxent.run.journal import Journal
    from daskxent.run.parts import Done
    from daskxent.run.planning import Plan
    from daskxent.sources.align import Inputs

# How long an interrupt, and a stream that is closed or dropped, wait for what is under way: that may be a compilation,
# and the garbage collector drops streams in any thread, even in one that their parts wait for, as zarr's.
CLOSING_SECONDS = 1.0


class Pool(Protocol):
    """Who evaluates what is handed out: parts, or groups of chunks.

    Attributes
    ----------
    width : int
        How many items are under way at most.
    least : int
        How many there must be room for before more are handed out.
    """

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def least(self) -> int: ...  # noqa: D102

    def submit(self, items: list[Any]) -> None:
        """Hand items out."""

    def results(self) -> Iterator[Done | None]:
        """Wait for an item, and yield what was found of it and of others that are done; None for what was put aside."""

    def close(self, seconds: float | None = None) -> None:
        """Give up what is under way, and wait until it has ended, or only this long."""


def drive(pool: Pool, items: Iterable[Any]) -> Generator[Done]:
    """Hand out all items, a bounded number at a time, and what is left of them; yield what is found as it comes.

    When it has ended, however it did, nothing is under way, unless that takes longer than it may wait.
    """
    items, rest, under_way = iter(items), deque[Any](), 0
    seconds: float | None = None
    try:
        while True:
            room = pool.width - under_way
            if room >= pool.least or not under_way:
                some = [rest.popleft() for _ in range(min(room, len(rest)))]
                some += islice(items, room - len(some))
                pool.submit(some)
                under_way += len(some)
            if not under_way:
                return
            for done in pool.results():
                under_way -= 1
                if done is not None:
                    rest.extend(done.rest)
                    yield done
    except (GeneratorExit, KeyboardInterrupt):
        seconds = CLOSING_SECONDS
        raise
    finally:
        pool.close(seconds)


def _findings_of(state: State) -> State:
    """Return a state without its sums."""
    return replace(state, total=Sums(), tables={}, picked={})


def _complain(report: Report, done: State, bad: State, found: Iterator[Done], inputs: Inputs, plan: Plan) -> NoReturn:
    """Raise the error of the first bad row of all.

    It may be in a part that is still under way. Parts are handed out in order: those before are awaited, and then every
    run names the same row.
    """
    begin, seen = plan.start * plan.rows_per_step, [State(covered=done.covered), _findings_of(bad)]
    while True:
        state = merge_all(seen)
        reached = next((stop for start, stop in state.covered if start <= begin < stop), begin)
        first, more = first_error(report.question, state.audit, inputs.positions), None
        assert first is not None
        if first[0] >= reached:
            more = next(found, None)
        if more is None:
            raise first[1]
        seen = [state, _findings_of(more.state)]


def reports(
    report: Report, found: Generator[Done], inputs: Inputs, plan: Plan, journal: Journal | None
) -> Iterator[Report]:
    """Merge what is found into a report, write it into the journal before it counts, and yield a report for each part.

    The first row that is an error is raised. At the end the coverage is checked. Nothing more is looked for after that.
    """
    running = Running(report.state) if journal is None else journal.sums
    began, compiled = time.perf_counter(), COMPILATION.seconds
    known, retries = report.rows, report.retries

    def so_far() -> Report:
        state, took = running.merge(), time.perf_counter() - began - (COMPILATION.seconds - compiled)
        nbytes = (state.rows - known) * plan.nbytes // max(1, plan.rows)
        return replace(report, state=state, elapsed=took, nbytes=nbytes, retries=retries)

    try:
        last = report
        if known:
            yield report
        for done in found:
            if first_error(report.question, done.state.audit):
                _complain(report, running.merge(), done.state, found, inputs, plan)
            retries += done.retries
            if running.add(done.state) if journal is None else journal.append(done.state, done.versions):
                last = so_far()
                yield last
        if last.state is not running.merge() or not report.expected:
            last = so_far()
            yield last
        if not last.complete:
            missing = last.expected - last.rows
            raise IncompleteResult(f"{missing:,} of {last.expected:,} rows were not evaluated")
    except (IncompleteResult, OSError) as error:  # of a journal on a full disk, too
        ended: Any = error
        ended.report, ended.journal = so_far(), report.journal
        raise
    finally:
        try:
            found.close()  # first: what is under way may write columns, and a journal lets others in
        finally:
            if journal is not None:
                journal.close()
