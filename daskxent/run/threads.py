"""Hand out parts on this machine: to threads, or as a dask graph.

A runner plans, and then yields what each part gave as soon as it is done, in any order, with a bounded number of
parts under way. `cluster` has the runner for a `distributed.Client`.
"""

from __future__ import annotations

import itertools
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from daskxent.numbers.state import merge_all
from daskxent.report import Unreadable
from daskxent.run import planning
from daskxent.run.parts import Work
from daskxent.sources import tiny, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daskxent.numbers.question import Question
    from daskxent.numbers.state import State
    from daskxent.run.planning import Part, Plan
    from daskxent.sources import Inputs

IN_FLIGHT = 3  # parts per thread: one running, the next ready, one for the way
RETRIES = 4
FIRST_WAIT = 0.1  # seconds before the first retry; doubled for each further one


class Done(NamedTuple):
    """What a part gave, and how often reading it had to be tried again."""

    state: State
    retries: int = 0


@dataclass(frozen=True)
class Attempt:
    """Work that is tried again, after a pause, when storage fails; other errors are the data's and are final."""

    work: Work

    def __call__(self, start: int, stop: int) -> Done:
        """Evaluate the steps ``start <= step < stop`` along the lead axis."""
        for retries in itertools.count():
            try:
                return Done(self.work(start, stop), retries)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
                raise
            except OSError as error:
                if retries == RETRIES:
                    per = self.work.inputs.rows_per_step
                    rows = f"rows {start * per} to {stop * per - 1}"
                    raise Unreadable(f"{rows}: reading failed {retries + 1} times, last with: {error}") from error
                time.sleep(FIRST_WAIT * 2**retries)
        raise AssertionError  # the loop has no end


class Threads:
    """Parts on threads of this process."""

    def __init__(self, threads: int | None) -> None:
        if threads is not None and whole(threads, "threads") < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}")
        self.threads = threads or cores()

    def plan(self, inputs: Inputs, question: Question, rows: tuple[int, int] | None) -> Plan:
        """Cut the rows for this many threads, or for one where more would be slower."""
        threads = 1 if tiny(inputs.predictions, inputs.sizes.tiny_bytes) else self.threads
        return planning.cut(inputs, question, threads, rows)

    def states(self, inputs: Inputs, question: Question, parts: Iterable[Part], plan: Plan) -> Iterator[Done]:
        """Yield what every part gave, as it is done."""
        work, parts = Attempt(Work(inputs, question)), iter(parts)
        if len(plan) == 1:
            yield from (work(*part) for part in parts)
            return
        pool, waits = ThreadPoolExecutor(min(plan.threads, len(plan)), "daskxent"), True
        pending: list[Future[Done]] = []
        try:
            while True:
                more = islice(parts, plan.threads * IN_FLIGHT - len(pending))
                pending += [pool.submit(work, *part) for part in more]
                if not pending:
                    return
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                # In the order in which they were handed out: with one thread it is always the same.
                yield from (future.result() for future in pending if future in done)
                pending = [future for future in pending if future not in done]
        except GeneratorExit:
            # The garbage collector drops streams in any thread, even in one that their parts wait for, as zarr's.
            waits = False
            raise
        finally:
            pool.shutdown(waits, cancel_futures=True)


class Graph:
    """One task per chunk of dask predictions, computed a group of chunks at a time."""

    def __init__(self, threads: int | None) -> None:
        self.threads = Threads(threads).threads

    def plan(self, inputs: Inputs, question: Question, rows: tuple[int, int] | None) -> Plan:
        """Describe the chunks; a part is one of them."""
        from daskxent.run import graph

        if rows is not None:
            raise ValueError("rows: slice dask arrays before they are evaluated")
        return graph.plan(inputs, question, self.threads)

    def groups(self, inputs: Inputs, question: Question) -> Iterator[Any]:
        """Yield dask arrays of the states of some chunks each."""
        from daskxent.run import graph

        return graph.groups(inputs, question, self.threads * IN_FLIGHT)

    def states(self, inputs: Inputs, question: Question, parts: Iterable[Part], plan: Plan) -> Iterator[Done]:
        """Yield what every group of chunks gave, as it is done."""
        for group in self.groups(inputs, question):
            yield Done(merge_all(group.compute(scheduler="threads", num_workers=self.threads).flat))


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
