"""Pick who evaluates, threads or a cluster, parts or dask chunks, and let them."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from daskxent.numbers.state import State
from daskxent.report import Report
from daskxent.run import planning
from daskxent.run.code import this_worker
from daskxent.run.driver import reports
from daskxent.run.parts import Work, retried
from daskxent.run.threads import Graph, Threads
from daskxent.show.provenance import made
from daskxent.show.tables import amount
from daskxent.sources.fingerprint import fingerprint
from daskxent.sources.opening import is_dask
from daskxent.sources.paths import place

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterable, Iterator

    from daskxent.numbers.question import Question
    from daskxent.run.journal import Journal
    from daskxent.run.parts import Done
    from daskxent.run.planning import Part, Plan
    from daskxent.run.sink import Sink
    from daskxent.sources.align import Inputs


class Engine(Protocol):
    """Plans and evaluates."""

    @property
    def where(self) -> str:
        """What it runs on, in words."""

    def plan(self, inputs: Inputs, question: Question, steps: slice | None, page: int | None = None) -> Plan:
        """Cut the steps into parts, which begin and end at pages."""

    def states(self, work: Work, parts: Iterable[Part], plan: Plan) -> Generator[Done]:
        """Yield what is found of each part, as it is done, after its columns are in the sink."""


def engine_for(inputs: Inputs, client: Any = None, threads: int | None = None, timeout: float | None = None) -> Engine:
    """Return what evaluates the inputs: on the client's cluster, the current one's, or this many threads."""
    client = usable(chosen(client, threads))
    if client is None:
        return Graph(threads) if is_dask(inputs.predictions) else Threads(threads)
    from daskxent.run.cluster import WORKER_TIMEOUT, Cluster, ClusterGraph

    engine = ClusterGraph if is_dask(inputs.predictions) else Cluster
    return engine(client, WORKER_TIMEOUT if timeout is None else timeout)


def chosen(client: Any, threads: int | None) -> Any:
    """Return the client to run on: by default that of distributed, if it has been imported and has one.

    Inside a task it is none: the task would wait for parts that wait for its thread.
    """
    if threads is not None:
        return None
    if client is not None or "distributed" not in sys.modules:
        return client
    from distributed import default_client

    if this_worker() is not None:
        return None
    try:
        return default_client()
    except ValueError:
        return None


def usable(client: Any, *, asynchronous: bool = False) -> Any:
    """Return a client, or None, if something can run on it; an asynchronous one only where asked for."""
    if client is None:
        return None
    if not hasattr(client, "scheduler"):
        raise TypeError(f"client: expected a distributed.Client, got {client!r}")
    if client.status in ("closing", "closed"):
        raise ValueError(f"client: {client!r} is closed")
    if client.asynchronous and not asynchronous:
        raise TypeError("client: this one is asynchronous: await daskxent.aevaluate(...), or iterate over astream(...)")
    if client.asynchronous and client.scheduler is None:
        raise ValueError(f"client: {client!r} is not connected: await it first")
    return client


def run(
    inputs: Inputs,
    question: Question,
    engine: Engine,
    *,
    steps: slice | None = None,
    journal: str | os.PathLike[str] | None = None,
    call: dict[str, Any] | None = None,
    sink: Sink | None = None,
    out: Any = None,
    warns: bool = True,
) -> Generator[Report]:
    """Evaluate aligned inputs and yield a report after each part; the last one is complete.

    Parameters
    ----------
    inputs : Inputs
    question : Question
    engine : Engine
    steps : slice, optional
        Only these, along the first axis of the positions.
    journal : path, optional
        What it holds is not evaluated again.
    call : dict, optional
        How to repeat the evaluation, for the journal.
    sink : Sink, optional
        What keeps columns of the rows.
    out : optional
        Where they are kept, for the journal.
    warns : bool
        Whether to warn of what is doubtful about all rows; not in a thread that has no caller.
    """
    plan = engine.plan(inputs, question, steps, sink.page if sink else None)
    kept = None if journal is None else _opened(place(journal), inputs, plan, steps, call, out)
    journaled, begun = kept.path if kept else None, made(engine.where)
    begin = Report(question, State(), plan.rows, available=inputs.rows, journal=journaled, made=begun)
    if kept is not None:
        begin = replace(begin, state=kept.state, notes=tuple(_notes(kept)))
    parts = planning.remaining(plan, begin.state.covered)
    work = Work(inputs, question, sink, versions=kept is not None)
    return _identified(begin, engine.states(work, parts, plan), inputs, plan, kept, warns)


def _identified(
    begin: Report, found: Generator[Done], inputs: Inputs, plan: Plan, kept: Journal | None, warns: bool
) -> Generator[Report]:
    """Yield the reports, which say which arrays they are about, and warn of what is doubtful about all rows.

    Nothing is read before the first one is asked for.
    """
    if kept is None:
        steps = inputs.positions[inputs.lead]
        about, retries = retried(lambda: fingerprint(inputs, steps), "the fingerprint of the arrays")
    else:
        about, retries = kept.inputs, 0
    for report in reports(replace(begin, inputs=about, retries=retries), found, inputs, plan, kept):
        if warns and report.complete:
            report.warn()
        yield report


def _notes(journal: Journal) -> Iterator[str]:
    """Say what the journal held."""
    for rows, what in ((journal.state.rows, "in the journal already"), (journal.stale, "written anew since")):
        if rows:
            yield f"{amount(rows, 'row')} {'was' if rows == 1 else 'were'} {what}"


def _opened(
    path: str, inputs: Inputs, plan: Plan, steps: slice | None, call: dict[str, Any] | None, out: Any
) -> Journal:
    """Open a journal for a plan."""
    from daskxent.run.journal import Journal

    if is_dask(inputs.predictions):
        raise ValueError("journal: a dask array has no identity to resume from; give the stored array itself")
    asked = plan.question

    def question(length: int) -> dict[str, Any]:
        """Say what would have been asked when the arrays were shorter."""
        start, stop = planning.clipped(steps, inputs, length)
        if start < stop and not plan.start <= start < stop <= plan.stop:  # of steps that are counted from the end
            start, stop = plan.start, plan.stop
        part = None if (start, stop) == (0, length) else [start, stop]
        return {**asked.to_json(), "steps": part, "out": out}

    return Journal(
        path,
        question,
        partial(fingerprint, inputs),
        inputs.positions[inputs.lead],
        call,
        version=inputs.version,
        check=partial(State.check, question=asked),
    )
