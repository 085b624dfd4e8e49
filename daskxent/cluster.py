"""Hand out parts on the workers of a `distributed.Client`, and lose none.

The scheduler never sees more than a few parts per thread: each finished state is fetched and forgotten at once, so
that nothing grows with the length of the run and nothing finished dies with a worker. The window follows the
cluster as it is scaled up and down.

What goes wrong, and what comes of it:

* a worker dies: Dask runs its parts again elsewhere;
* a part seems to kill its workers (`KilledWorker`): it is put aside until the others are done, because innocent
  parts that shared a worker with a killer are suspected too. Then the suspects run one at a time; a killer is split
  until the smallest piece that kills is found and named, and the rest of it counted;
* the scheduler is lost: `ClusterLost`. Dask itself would end the loop as if nothing had happened;
* there are no workers for `worker_timeout` seconds: `Stalled`;
* the client is interrupted: what is in flight is cancelled, and the cluster is left clean.

Keys are unique to a run: Dask would answer for a dump that has been rewritten with what it remembers of the old one.
"""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from daskxent import planning
from daskxent.parts import Work
from daskxent.report import ClusterLost, Poisoned, Stalled
from daskxent.runners import IN_FLIGHT, Attempt, Done

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from daskxent.planning import Part, Plan
    from daskxent.sources import Inputs
    from daskxent.state import Question

LOOK_AROUND = 1.0  # seconds between looks at the workers
WORKER_TIMEOUT = 300.0
LAST_CHANCES = 2  # more tries for a piece that cannot be split


class Cluster:
    """Parts on the workers of a client.

    Parameters
    ----------
    client : distributed.Client
        Synchronous.
    worker_timeout : float
        Seconds without any worker after which the run is given up.
    """

    def __init__(self, client: Any, worker_timeout: float = WORKER_TIMEOUT) -> None:
        if client.asynchronous:
            raise TypeError("client: this one is asynchronous; use `await daskxent.aevaluate(...)`")
        self.client, self.worker_timeout = client, worker_timeout

    @property
    def threads(self) -> int:
        """Threads of all workers; 1 if there are none."""
        threads: dict[str, int] = self.client.nthreads()
        return max(1, sum(threads.values()))

    def plan(self, inputs: Inputs, question: Question, rows: tuple[int, int] | None) -> Plan:
        """Cut the rows for the threads of the cluster."""
        return planning.cut(inputs, question, self.threads, rows)

    def states(self, inputs: Inputs, question: Question, parts: Iterable[Part], plan: Plan) -> Iterator[Done]:
        """Yield what every part gave, as it is done."""
        window = _Window(self.client, inputs, question, self.worker_timeout)
        try:
            suspects = yield from window.drain(iter(parts), width=None)
            killers = yield from _sift(window, suspects, plan.grid)
        finally:
            window.close()
        if killers:
            raise Poisoned(_accuse(killers, inputs.rows_per_step))


def _sift(window: _Window, suspects: list[Part], grid: int) -> Generator[Done, None, list[Part]]:
    """Run suspects one at a time, split those that kill, and return the pieces that still do."""
    killers: list[Part] = []
    todo = deque((part, 0) for part in sorted(suspects))
    while todo:
        part, tries = todo.popleft()
        failed = yield from window.drain(iter([part]), width=1)
        if not failed:
            continue
        halves = split(part, grid)
        if len(halves) > 1:
            todo.extendleft((half, 0) for half in reversed(halves))
        elif tries < LAST_CHANCES:
            todo.appendleft((part, tries + 1))
        else:
            killers.append(part)
    return killers


def split(part: Part, grid: int) -> list[Part]:
    """Cut a part in two at a multiple of `grid`, or return it alone.

    Examples
    --------
    >>> split((0, 40), 10), split((20, 30), 10)
    ([(0, 20), (20, 40)], [(20, 30)])
    """
    start, stop = part
    middle = -(-(start + (stop - start) // 2) // grid) * grid
    return [(start, middle), (middle, stop)] if start < middle < stop else [part]


class _Window:
    """A bounded number of parts in flight."""

    def __init__(self, client: Any, inputs: Inputs, question: Question, worker_timeout: float) -> None:
        self.client, self.inputs, self.question = client, inputs, question
        self.worker_timeout = worker_timeout
        self.run = f"daskxent-{os.urandom(8).hex()}"
        self.submitted = 0
        self.pending: dict[Any, Part] = {}  # future -> part
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.looked = -LOOK_AROUND
        self.seen = time.monotonic()  # when there was a worker last
        self.width = 1

    def drain(self, parts: Iterator[Part], width: int | None) -> Generator[Done, None, list[Part]]:
        """Run all parts, yielding what they give; return the parts that killed workers."""
        suspects: list[Part] = []
        while True:
            self._look_around()
            wanted = (width or self.width) - len(self.pending)
            # Half a window at a time: one message to the scheduler for many parts.
            if wanted > (width or self.width) // 2 or not self.pending:
                self._submit(list(islice(parts, wanted)))
            if not self.pending:
                return suspects
            finished = self._finished()
            good = [future for future in finished if future.status == "finished"]
            for future in finished:
                if future.status == "error":
                    self._failed(future, suspects)
                elif future.status != "finished":
                    raise ClusterLost("the connection to the scheduler was lost")
            for future, done in zip(good, self._gathered(good), strict=True):
                if self.pending.pop(future, None) is not None:  # a part that comes back twice counts once
                    yield done
            for future in finished:
                future.release()

    def close(self) -> None:
        """Cancel what is in flight."""
        if self.pending and self.client.status == "running":
            self.client.cancel(list(self.pending), force=True)
        self.pending.clear()

    def _submit(self, parts: list[Part]) -> None:
        if not parts:
            return
        works = [Attempt(Work(self.inputs.window(*part), self.question)) for part in parts]
        keys = [(self.run, self.submitted + i) for i in range(len(parts))]
        self.submitted += len(parts)
        starts, stops = zip(*parts, strict=True)
        futures = self.client.map(_call, works, starts, stops, key=keys, pure=False)
        self.pending.update(zip(futures, parts, strict=True))
        for future in futures:
            future.add_done_callback(self.ready.put)

    def _finished(self) -> list[Any]:
        """Wait for a part that is done; return it and all others that are."""
        while True:
            try:
                found = [self.ready.get(timeout=LOOK_AROUND)]
                break
            except queue.Empty:
                self._look_around()
        while not self.ready.empty():
            found.append(self.ready.get())
        return [future for future in found if future in self.pending]

    def _gathered(self, futures: list[Any]) -> list[Done]:
        if not futures:
            return []
        try:
            return list(self.client.gather(futures))
        except OSError as error:
            # distributed's CommClosedError and TimeoutError are OSErrors, too
            raise ClusterLost(f"the connection to the scheduler was lost: {error}") from error

    def _failed(self, future: Any, suspects: list[Part]) -> None:
        from distributed import KilledWorker

        part = self.pending.pop(future)
        error = future.exception()
        if not isinstance(error, KilledWorker):
            raise error
        suspects.append(part)

    def _look_around(self) -> None:
        """Count the threads, once in a while, and give up if there have been none for too long."""
        now = time.monotonic()
        if now - self.looked < LOOK_AROUND:
            return
        self.looked = now
        if self.client.status != "running":
            raise ClusterLost(f"the connection to the scheduler was lost: the client is {self.client.status}")
        threads = sum(self.client.nthreads().values())
        self.width = max(1, threads * IN_FLIGHT)
        if threads:
            self.seen = now
        elif now - self.seen > self.worker_timeout:
            raise Stalled(f"there were no workers for {self.worker_timeout:g} seconds")


def _call(work: Attempt, start: int, stop: int) -> Done:
    return work(start, stop)


def _accuse(killers: list[Part], rows_per_step: int) -> str:
    shown = ", ".join(f"{start * rows_per_step} to {stop * rows_per_step - 1}" for start, stop in killers[:3])
    more = f" and {len(killers) - 3} more ranges" if len(killers) > 3 else ""
    return f"rows {shown}{more} kill the workers that evaluate them"
