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
* there are no workers, or no part is finished, for `worker_timeout` seconds: `Stalled`; the log says after ten seconds
  that it waits for workers;
* a worker runs another version of the package: an error that names it;
* the client is interrupted: what is in flight is cancelled, and the cluster is left clean.

Keys are unique to a run: Dask would answer for a dump that has been rewritten with what it remembers of the old one.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import queue
import time
import traceback
from collections import deque
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daskxent.run import code, graph, planning
from daskxent.run.driver import drive
from daskxent.run.failures import ClusterLost, Poisoned, Stalled
from daskxent.run.parts import Done, Work
from daskxent.run.threads import IN_FLIGHT, Graph
from daskxent.show.tables import amount
from daskxent.sources.cuts import Even

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from distributed import Client

    from daskxent.numbers.question import Question
    from daskxent.run.planning import Part, Plan
    from daskxent.sources.align import Inputs
    from daskxent.sources.cuts import Cuts

LOG = logging.getLogger("daskxent")
LOOK_AROUND = 1.0  # seconds between looks at the workers
ANSWER_SECONDS = 5.0  # how long a look waits for the scheduler
PATIENCE = 10.0  # seconds without workers after which it is reported
WORKER_TIMEOUT = 300.0
KEYED = 8  # parts whose states are merged before they travel, where they hold sums by key
LAST_CHANCES = 2  # more tries for a piece that cannot be split


class Cluster:
    """Parts on the workers of a client.

    Parameters
    ----------
    client : distributed.Client
        Synchronous.
    worker_timeout : float
        Seconds without progress, a finished part, after which the run is given up.
    """

    def __init__(self, client: Client, worker_timeout: float = WORKER_TIMEOUT) -> None:
        self.client, self.worker_timeout = client, worker_timeout

    @property
    def where(self) -> str:
        """The cluster."""
        return f"the cluster {getattr(self.client.scheduler, 'address', '')}"

    @property
    def threads(self) -> int:
        """Threads of all workers; 1 if there are none.

        Raises
        ------
        ClusterLost
            The scheduler went away.
        Stalled
            It does not answer.
        """
        threads = _threads(self.client, self.worker_timeout)
        if threads is None:
            raise Stalled(f"the scheduler did not answer for {self.worker_timeout:g} seconds")
        return max(1, threads)

    def plan(self, inputs: Inputs, question: Question, steps: slice | None, page: int | None = None) -> Plan:
        """Cut the steps for the threads of the cluster."""
        return planning.cut(inputs, question, self.threads, steps, page)

    def states(self, work: Work, parts: Iterable[Part], plan: Plan) -> Generator[Done]:
        """Yield what is found of every part, as it is done."""
        submit = _Submit(self.client, work, plan)
        window = Window(self.client, submit, lambda found: found, self.worker_timeout)
        per = work.inputs.rows_per_step
        # Where there are keys, a worker's states are merged there, and only what they add up to travels.
        some = joined(parts, plan.step * KEYED) if work.question.slicings else parts
        return _all(window, some, plan.cuts, lambda part: (part[0] * per, part[1] * per))


class ClusterGraph(Graph):
    """Dask predictions on the workers of a client: one task per chunk.

    A part is a range of chunks along the lead axis, with all there are along others. Their states are merged by a tree
    of tasks on the workers: where other axes are cut too, the rows of a chunk are many short ranges, those of a part
    are one.
    """

    def __init__(self, client: Client, worker_timeout: float) -> None:
        self.client, self.worker_timeout = client, worker_timeout
        cluster = Cluster(client, worker_timeout)
        self.threads, self.where = cluster.threads, cluster.where

    def states(self, work: Work, parts: Iterable[Part], plan: Plan) -> Generator[Done]:
        """Yield what is found of every few chunks, as it is done."""
        inputs, question = work.inputs, work.question
        every = graph.states(inputs, question, run=_run())
        before = (slice(None),) * inputs.lead

        def submit(parts: list[Part]) -> list[Any]:
            # A part that is tried again gets another key: the failure of the one it had may still be known.
            futures: list[Any] = self.client.compute(
                [graph.merged(every.blocks[(*before, slice(*part))], _run()) for part in parts]
            )
            return futures

        def done(found: Any) -> Done:
            return Done(found.item())

        sizes = inputs.predictions.chunks[inputs.lead_axis]
        starts = [rows * inputs.rows_per_step for rows in itertools.accumulate(sizes, initial=0)]
        window = Window(self.client, submit, done, self.worker_timeout)
        # A graph for each part takes longer than its tasks.
        step = max(1, (KEYED if question.slicings else IN_FLIGHT) * len(sizes) // every.npartitions)
        edges = [*range(0, len(sizes), step), len(sizes)]
        return _all(
            window, itertools.pairwise(edges), Even(len(sizes), 1), lambda part: (starts[part[0]], starts[part[1]])
        )


def joined(parts: Iterable[Part], most: int) -> Iterator[Part]:
    """Join parts that follow one another, up to this many steps.

    Examples
    --------
    >>> list(joined([(0, 5), (5, 10), (10, 15), (20, 25)], 10))
    [(0, 10), (10, 15), (20, 25)]
    """
    held = None
    for first, last in parts:
        if held and held[1] == first and last - held[0] <= most:
            held = held[0], last
        else:
            if held:
                yield held
            held = first, last
    if held:
        yield held


def _all(window: Window, parts: Iterable[Part], cuts: Cuts, rows: Callable[[Part], Part]) -> Generator[Done]:
    """Yield what is found of all parts, but for those that kill their workers: at the end their `rows` are named."""
    killers: list[Part] = []
    yield from drive(window, parts)
    yield from _sift(window, cuts, killers)
    if killers:
        raise Poisoned(_accuse(list(map(rows, killers))))


def _run() -> str:
    """Return a name that no other run has."""
    return f"daskxent-{os.urandom(8).hex()}"


class _Submit:
    """Hands parts to a client; joined ones as a task for each part of the plan, and one more that merges."""

    def __init__(self, client: Client, work: Work, plan: Plan) -> None:
        self.client, self.work, self.plan = client, work, plan
        self._run, self._numbers = _run(), itertools.count()

    def __call__(self, parts: list[Part]) -> list[Any]:
        pieces = [list(self.plan.between(*part)) for part in parts]
        flat = [piece for several in pieces for piece in several]
        # As bytes, which the scheduler passes on: unpickled, they would open the arrays there.
        works = [pickle.dumps(replace(self.work, inputs=self.work.inputs.window(*piece))) for piece in flat]
        code_of_all = [code.digest()] * len(flat)
        futures = iter(self._map(_call, works, *map(list, zip(*flat, strict=True)), code_of_all))
        groups = [list(itertools.islice(futures, len(several))) for several in pieces]
        return [group[0] if len(group) == 1 else self._map(_merge, [group])[0] for group in groups]

    def _map(self, function: Callable[..., Any], *arguments: list[Any]) -> list[Any]:
        keys = [(self._run, next(self._numbers)) for _ in arguments[0]]
        futures: list[Any] = self.client.map(function, *arguments, key=keys, pure=False)
        return futures


def _merge(found: list[Done | Exception]) -> Done | Exception:
    """Merge what was found of several parts; the first error stands for all."""
    done = []
    for each in found:
        if isinstance(each, Exception):
            return each
        done.append(each)
    return Done.all(done)


def _call(work: bytes, start: int, stop: int, expected: str) -> Done | Exception:
    # An error comes back as a value: sent in Dask's way it is lost, and waited for forever, if its traceback does not
    # pickle, and Dask's way is then kept for workers that died.
    try:
        code.check(expected)
        part: Work = pickle.loads(work)
        return part(start, stop)
    except Exception as error:
        where = f"On a worker:\n{''.join(traceback.format_exception(error))}"
        error.__cause__ = error.__context__ = error.__traceback__ = None
        if not _pickles(error):
            error = RuntimeError(f"{type(error).__name__}: {error}")
        error.add_note(where)
        return error


def _pickles(error: Exception) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))
    except Exception:
        return False


def _sift(window: Window, cuts: Cuts, killers: list[Part]) -> Iterator[Done]:
    """Run the suspects of a window one at a time, split those that kill, and list the pieces that still do."""
    todo = deque((part, 0) for part in sorted(window.killers))
    while todo:
        part, tries = todo.popleft()
        window.killers.clear()
        yield from drive(window, [part])
        if not window.killers:
            continue
        halves = split(part, cuts)
        if len(halves) > 1:
            todo.extendleft((half, 0) for half in reversed(halves))
        elif tries < LAST_CHANCES:
            todo.appendleft((part, tries + 1))
        else:
            killers.append(part)


def split(part: Part, cuts: Cuts) -> list[Part]:
    """Cut a part in two where it can be cut, or return it alone.

    Examples
    --------
    >>> split((0, 40), Even(90, 10)), split((20, 30), Even(90, 10))
    ([(0, 20), (20, 40)], [(20, 30)])
    """
    start, stop = part
    middle = cuts.ceil(start + (stop - start) // 2)
    return [(start, middle), (middle, stop)] if start < middle < stop else [part]


class Window:
    """A pool of tasks on a cluster, whose width follows the number of its threads.

    Parameters
    ----------
    client : distributed.Client
    submit : callable
        From a list of items to a list of futures.
    done : callable
        From the result of a future to what was found.
    worker_timeout : float
        As for `Cluster`.

    Attributes
    ----------
    killers : list
        The items whose workers died so often that Dask gave up on them.
    """

    def __init__(
        self,
        client: Client,
        submit: Callable[[list[Any]], list[Any]],
        done: Callable[[Any], Done],
        worker_timeout: float,
    ) -> None:
        self.client, self.worker_timeout = client, worker_timeout
        self.killers: list[Any] = []
        self._width = 1
        self._hand_out, self._done = submit, done
        self._pending: dict[Any, Any] = {}  # future -> item
        self._ready: queue.SimpleQueue[tuple[Any, Any, Exception | None]] = queue.SimpleQueue()
        self._looked = -LOOK_AROUND
        self._seen = time.monotonic()  # when something was done last
        self._waits = False

    @property
    def width(self) -> int:
        """As many as suits the cluster as it is now."""
        self._look_around()
        return self._width

    @property
    def least(self) -> int:
        """Half a window: one message to the scheduler for many parts."""
        return self._width // 2 + 1

    def close(self, seconds: float | None = None) -> None:
        """Give up what is under way: what nobody waits for is cancelled."""
        for future in self._pending:
            future.release()
        self._pending.clear()

    def submit(self, items: list[Any]) -> None:
        """Hand items out."""
        if not items:
            return
        futures = self._hand_out(items)
        self._pending.update(zip(futures, items, strict=True))
        for future in futures:
            self.client.loop.add_callback(self._fetch, future)  # type: ignore[union-attr]

    async def _fetch(self, future: Any) -> None:
        """Wait for a result and get it at once, or again if it was lost with its worker; runs on the client's loop."""
        try:
            self._ready.put((future, await self.client.gather(future, asynchronous=True), None))
        except Exception as error:
            self._ready.put((future, None, error))

    def results(self) -> Iterator[Done | None]:
        """Wait for a result; yield it and all others that are there; None for an item that killed its workers."""
        found = [self._next()]
        while not self._ready.empty():
            found.append(self._ready.get())
        self._seen = time.monotonic()
        for future, result, error in found:
            if future not in self._pending:
                continue  # what comes back twice counts once
            item = self._pending.pop(future)
            try:
                if error is not None:
                    self._failed(item, future, error)
            finally:
                future.release()
            if isinstance(result, Exception):
                raise result
            yield self._done(result) if error is None else None

    def _next(self) -> tuple[Any, Any, Exception | None]:
        while True:
            try:
                return self._ready.get(timeout=LOOK_AROUND)
            except queue.Empty:
                self._look_around()

    def _failed(self, item: Any, future: Any, error: Exception) -> None:
        """Put an item aside that killed its workers; raise any other error."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            # Unlike a release, this reaches the scheduler before what is handed out next. That may need the same chunks
            # of the graph, and those that are still held for failed would fail it without being tried.
            self.client.cancel([future])
            self.killers.append(item)
        elif isinstance(error, (OSError, CancelledError)):  # distributed's CommClosedError is an OSError
            raise ClusterLost(f"the scheduler was lost, or its workers were restarted: {error}") from error
        else:
            raise error

    def _look_around(self) -> None:
        """Count the threads, once in a while, and give up if there have been none for too long."""
        if time.monotonic() - self._looked < LOOK_AROUND:
            return
        self._looked = time.monotonic()
        threads = _threads(self.client, min(ANSWER_SECONDS, self.worker_timeout))
        if threads is not None:
            self._width = max(1, threads * IN_FLIGHT)
        if not self._pending:
            self._seen = time.monotonic()
        idle = time.monotonic() - self._seen
        if idle > self.worker_timeout:
            raise Stalled(f"{_why(threads)} for {self.worker_timeout:g} seconds")
        if threads == 0 and idle > PATIENCE and not self._waits:
            self._waits = True
            LOG.warning("waiting for workers, giving up after %g s", self.worker_timeout)


def _threads(client: Client, seconds: float) -> int | None:
    """Count the threads of all workers; None if the scheduler does not answer, though it is connected."""
    lost, threads = "the connection to the scheduler was lost", None
    try:
        if client.scheduler is not None and client.status == "running":
            # What Client.nthreads does, which waits for an answer without end.
            threads = client.sync(client.scheduler.ncores, workers=None, callback_timeout=seconds)
    except TimeoutError:  # which is an OSError
        pass
    except OSError as error:
        raise ClusterLost(f"{lost}: {error}") from error
    if client.scheduler is None or client.status != "running":
        raise ClusterLost(f"{lost}: the client is {client.status}")
    return None if threads is None else sum(threads.values())


def _why(threads: int | None) -> str:
    if threads is None:
        return "the scheduler did not answer"
    return f"no part was finished by {amount(threads, 'thread')} of workers" if threads else "there were no workers"


def _accuse(killers: list[Part]) -> str:
    shown = ", ".join(f"{start} to {stop - 1}" for start, stop in killers[:3])
    more = f" and {len(killers) - 3} more ranges" if len(killers) > 3 else ""
    return f"rows {shown}{more} kill the workers that evaluate them"
