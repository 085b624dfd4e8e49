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

import itertools
import os
import pickle
import queue
import time
import traceback
from collections import deque
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers.state import merge_all
from daskxent.report import ClusterLost, Poisoned, Stalled
from daskxent.run import planning
from daskxent.run.parts import Work
from daskxent.run.threads import IN_FLIGHT, Attempt, Done, Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from daskxent.numbers.question import Question
    from daskxent.run.planning import Part, Plan
    from daskxent.sources import Inputs

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
            raise TypeError("client: this one is asynchronous; use `await daskxent.evaluate(...)`")
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
        window = Window(self.client, _submitter(self.client, inputs, question), self.worker_timeout)
        per = inputs.rows_per_step
        yield from _all(window, parts, plan.grid, lambda part: (part[0] * per, part[1] * per))


class ClusterGraph(Graph):
    """Dask predictions on the workers of a client: one task per chunk.

    A part is a range of chunks along the lead axis, with all there are along others. Their states are merged by a tree
    of tasks on the workers: where other axes are cut too, the rows of a chunk are many short ranges, those of a part
    are one.
    """

    def __init__(self, client: Any, worker_timeout: float) -> None:
        self.client, self.worker_timeout = client, worker_timeout
        self.threads = Cluster(client).threads

    def states(self, inputs: Inputs, question: Question, parts: Iterable[Part], plan: Plan) -> Iterator[Done]:
        """Yield what every few chunks gave, as it is done."""
        from daskxent.run import graph

        every = graph.states(inputs, question, run=_run())
        before = (slice(None),) * inputs.lead

        def submit(parts: list[Part]) -> list[Any]:
            futures: list[Any] = self.client.compute(
                [graph.merged(every.blocks[(*before, slice(*part))]) for part in parts]
            )
            return futures

        sizes = inputs.predictions.chunks[inputs.lead + (inputs.lead >= inputs.axis)]
        starts = [rows * inputs.rows_per_step for rows in itertools.accumulate(sizes, initial=0)]
        window = Window(self.client, submit, self.worker_timeout)
        step = max(1, IN_FLIGHT * len(sizes) // every.npartitions)  # a graph for each part takes longer than its tasks
        edges = [*range(0, len(sizes), step), len(sizes)]
        for found in _all(window, itertools.pairwise(edges), 1, lambda part: (starts[part[0]], starts[part[1]])):
            yield Done(merge_all(np.atleast_1d(found).flat))


def _all(window: Window, parts: Iterable[Part], grid: int, rows: Callable[[Part], Part]) -> Iterator[Any]:
    """Yield what all parts give, but for those that kill their workers: at the end their `rows` are named."""
    killers: list[Part] = []
    try:
        yield from window.drain(iter(parts))
        yield from _sift(window, grid, killers)
    finally:
        window.close()
    if killers:
        raise Poisoned(_accuse(list(map(rows, killers))))


def _run() -> str:
    """Return a name that no other run has."""
    return f"daskxent-{os.urandom(8).hex()}"


def _submitter(client: Any, inputs: Inputs, question: Question) -> Callable[[list[Part]], list[Any]]:
    """Return the function that hands parts to a client."""
    run, numbers = _run(), itertools.count()

    def submit(parts: list[Part]) -> list[Any]:
        # As bytes, which the scheduler passes on: unpickled, they would open the arrays there.
        works = [pickle.dumps(Attempt(Work(inputs.window(*part), question))) for part in parts]
        keys = [(run, next(numbers)) for _ in parts]
        futures: list[Any] = client.map(_call, works, *map(list, zip(*parts, strict=True)), key=keys, pure=False)
        return futures

    return submit


def _call(work: bytes, start: int, stop: int) -> Done | Exception:
    # An error comes back as a value: sent in Dask's way it is lost, and waited for forever, if its traceback does not
    # pickle, and Dask's way is then kept for workers that died.
    try:
        attempt: Attempt = pickle.loads(work)
        return attempt(start, stop)
    except Exception as error:
        told = f"On a worker:\n{''.join(traceback.format_exception(error))}"
        error.__cause__ = error.__context__ = error.__traceback__ = None
        if not _pickles(error):
            error = RuntimeError(f"{type(error).__name__}: {error}")
        error.add_note(told)
        return error


def _pickles(error: Exception) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))
    except Exception:
        return False


def _sift(window: Window, grid: int, killers: list[Part]) -> Iterator[Done]:
    """Run the suspects of a window one at a time, split those that kill, and list the pieces that still do."""
    todo = deque((part, 0) for part in sorted(window.killers))
    while todo:
        part, tries = todo.popleft()
        window.killers.clear()
        yield from window.drain(iter([part]), width=1)
        if not window.killers:
            continue
        halves = split(part, grid)
        if len(halves) > 1:
            todo.extendleft((half, 0) for half in reversed(halves))
        elif tries < LAST_CHANCES:
            todo.appendleft((part, tries + 1))
        else:
            killers.append(part)


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


class Window:
    """A bounded number of tasks in flight.

    Parameters
    ----------
    client : distributed.Client
    submit : callable
        From a list of items to a list of futures.
    worker_timeout : float
        As for `Cluster`.

    Attributes
    ----------
    killers : list
        The items whose workers died so often that Dask gave up on them.
    """

    def __init__(self, client: Any, submit: Callable[[list[Any]], list[Any]], worker_timeout: float) -> None:
        self.client, self.submit, self.worker_timeout = client, submit, worker_timeout
        self.killers: list[Any] = []
        self.pending: dict[Any, Any] = {}  # future -> item
        self.ready: queue.SimpleQueue[tuple[Any, Any, Exception | None]] = queue.SimpleQueue()
        self.looked = -LOOK_AROUND
        self.seen = time.monotonic()  # when there was a worker last
        self.width = 1

    def drain(self, items: Iterator[Any], width: int | None = None) -> Iterator[Any]:
        """Run all items and yield what they give; `width` of them at a time, or as many as suits the cluster."""
        while True:
            self._look_around()
            most = width or self.width
            room = most - len(self.pending)
            # Half a window at a time: one message to the scheduler for many parts.
            if room > most // 2 or not self.pending:
                self._submit(list(itertools.islice(items, room)))
            if not self.pending:
                return
            yield from self._results()

    def close(self) -> None:
        """Give up what is in flight: what nobody waits for is cancelled."""
        for future in self.pending:
            future.release()
        self.pending.clear()

    def _submit(self, items: list[Any]) -> None:
        if not items:
            return
        futures = self.submit(items)
        self.pending.update(zip(futures, items, strict=True))
        for future in futures:
            self.client.loop.add_callback(self._fetch, future)

    async def _fetch(self, future: Any) -> None:
        """Wait for a result and get it at once, or again if it was lost with its worker; runs on the client's loop."""
        try:
            self.ready.put((future, await self.client.gather(future, asynchronous=True), None))
        except Exception as error:
            self.ready.put((future, None, error))

    def _results(self) -> Iterator[Any]:
        """Wait for a result; yield it and all others that are there."""
        found = [self._next()]
        while not self.ready.empty():
            found.append(self.ready.get())
        for future, result, error in found:
            if future not in self.pending:
                continue  # what comes back twice counts once
            item = self.pending.pop(future)
            future.release()
            if isinstance(result, Exception):
                raise result
            if error is None:
                yield result
            else:
                self._failed(item, error)

    def _next(self) -> tuple[Any, Any, Exception | None]:
        while True:
            try:
                return self.ready.get(timeout=LOOK_AROUND)
            except queue.Empty:
                self._look_around()

    def _failed(self, item: Any, error: Exception) -> None:
        """Put an item aside that killed its workers; raise any other error."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            self.killers.append(item)
        elif isinstance(error, (OSError, CancelledError)):  # distributed's CommClosedError is an OSError
            raise ClusterLost(f"the scheduler was lost, or its workers were restarted: {error}") from error
        else:
            raise error

    def _look_around(self) -> None:
        """Count the threads, once in a while, and give up if there have been none for too long."""
        now = time.monotonic()
        if now - self.looked < LOOK_AROUND:
            return
        self.looked = now
        if self.client.status != "running":
            raise ClusterLost(f"the connection to the scheduler was lost: the client is {self.client.status}")
        try:
            threads = sum(self.client.nthreads().values())
        except OSError as error:
            raise ClusterLost(f"the connection to the scheduler was lost: {error}") from error
        self.width = max(1, threads * IN_FLIGHT)
        if threads:
            self.seen = now
        elif now - self.seen > self.worker_timeout:
            raise Stalled(f"there were no workers for {self.worker_timeout:g} seconds")


def _accuse(killers: list[Part]) -> str:
    shown = ", ".join(f"{start} to {stop - 1}" for start, stop in killers[:3])
    more = f" and {len(killers) - 3} more ranges" if len(killers) > 3 else ""
    return f"rows {shown}{more} kill the workers that evaluate them"
