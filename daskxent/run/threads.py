"""Evaluate on this machine: parts on threads, or the chunks of dask arrays.

An engine plans, and then yields what is found of each part as soon as it is done. `cluster` has the engines for a
`distributed.Client`.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daskxent.numbers.state import merge_all
from daskxent.run import graph, planning
from daskxent.run.code import this_worker
from daskxent.run.driver import drive
from daskxent.run.parts import Done, Work
from daskxent.show.tables import amount

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from daskxent.numbers.question import Question
    from daskxent.run.planning import Part, Plan
    from daskxent.sources.align import Inputs

IN_FLIGHT = 3  # parts per thread: one running, the next ready, one for the way


class Threads:
    """Parts on threads of this process."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads or cores()
        self.where = amount(self.threads, "thread")

    def plan(self, inputs: Inputs, question: Question, steps: slice | None, page: int | None = None) -> Plan:
        """Cut the rows for this many threads, or for one where more would be slower."""
        threads = 1 if inputs.predictions.tiny(inputs.sizes.tiny_bytes) else self.threads
        return planning.cut(inputs, question, threads, steps, page)

    def states(self, work: Work, parts: Iterable[Part], plan: Plan) -> Generator[Done]:
        """Yield what is found of every part, as it is done."""
        threads = min(plan.threads, len(plan))
        return drive(_Threads(work, threads) if len(plan) > 1 else Caller(work), parts)


class _Threads:
    """A pool of threads that evaluate parts; for a plan of a single part, `Caller` takes its place."""

    least = 1

    def __init__(self, work: Work, threads: int) -> None:
        self._given_up = threading.Event()
        self._work, self.width = replace(work, given_up=self._given_up.is_set), threads * IN_FLIGHT
        self._announced: list[Part] = []
        self._pool = ThreadPoolExecutor(threads, "daskxent")
        self._pending: list[Future[Done]] = []

    def submit(self, items: list[Any]) -> None:
        """Hand items out; what they read is asked for ahead."""
        for item in items:
            self._work.announce(*item)
        self._announced = [*self._announced[-self.width :], *items]
        self._pending += [self._pool.submit(self._work, *item) for item in items]

    def results(self) -> Iterator[Done]:
        """Wait for an item, and yield all that are done, in the order in which they were handed out."""
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        self._pending, found = [f for f in self._pending if f not in done], [f for f in self._pending if f in done]
        yield from (future.result() for future in found)

    def close(self, seconds: float | None = None) -> None:
        """Give up what is under way: parts that have begun end at their next box."""
        self._given_up.set()
        self._pool.shutdown(seconds is None, cancel_futures=True)
        if seconds:
            wait([future for future in self._pending if not future.cancelled()], seconds)
        self._pending.clear()  # with the errors, and what they hold of the arrays
        self._work.withdraw(self._announced)


class Caller:
    """A pool without threads: the caller does the work, one item at a time."""

    width = least = 1

    def __init__(self, work: Callable[..., Done]) -> None:
        self._work = work
        self._items: list[Any] = []

    def submit(self, items: list[Any]) -> None:
        """Remember what is to be done."""
        self._items = items

    def results(self) -> Iterator[Done]:
        """Do it."""
        yield from (self._work(*item) for item in self._items)

    def close(self, seconds: float | None = None) -> None:
        """Do nothing: nothing is under way."""


class Graph(Threads):
    """One task per chunk of dask predictions, computed a group of chunks at a time."""

    def plan(self, inputs: Inputs, question: Question, steps: slice | None, page: int | None = None) -> Plan:
        """Describe the chunks; a part is one of them."""
        if steps is not None:
            raise ValueError("steps: slice dask arrays before they are evaluated")
        return graph.plan(inputs, question, self.threads)

    def states(self, work: Work, parts: Iterable[Part], plan: Plan) -> Generator[Done]:
        """Yield what is found of every group of chunks, as it is done."""
        size = self.threads * IN_FLIGHT
        return drive(_Groups(self.threads), ((group,) for group in graph.groups(work.inputs, work.question, size)))


class _Groups(Caller):
    """A pool that computes one group of chunks at a time, on threads that it waits for at the end.

    Where a task fails, Dask leaves others that have begun to its own threads.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(self._computed)
        self._pool = ThreadPoolExecutor(threads, "daskxent")

    def _computed(self, group: Any) -> Done:
        return Done(merge_all(group.compute(scheduler="threads", pool=self._pool).flat))

    def close(self, seconds: float | None = None) -> None:
        """Give up what is under way."""
        self._pool.shutdown(seconds is None, cancel_futures=True)


def cores() -> int:
    """Return how many cores this process may use; 1 inside a task of Dask's, which has a single thread for itself."""
    if this_worker() is not None:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
