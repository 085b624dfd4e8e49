"""What users call: evaluate labels and predictions, at once, as a stream of reports, or as a graph."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers.audit import raise_first_error
from daskxent.numbers.state import merge_all
from daskxent.numbers.status import ROW_COLUMNS, columns_for, unset
from daskxent.options import Graph as OfGraph
from daskxent.options import Rows, Run, Shown, takes
from daskxent.report import Report
from daskxent.run import graph
from daskxent.run.checking import at_least
from daskxent.run.engines import chosen, engine_for, run, usable
from daskxent.run.failures import Interrupted, warn_caller
from daskxent.run.parts import Work
from daskxent.run.prepared import labelled_rows, prepare, prepare_again, repeatable, with_axis
from daskxent.run.sink import Arrays, Group
from daskxent.run.threads import Threads
from daskxent.show.progress import shown
from daskxent.show.provenance import made
from daskxent.sources.fingerprint import fingerprint
from daskxent.sources.opening import is_dask
from daskxent.sources.paths import place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

    from dask.delayed import Delayed
    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.numbers.state import State
    from daskxent.options import ArrayLike
    from daskxent.run.planning import Plan
    from daskxent.run.scoring import Block
    from daskxent.sources.align import Inputs


@takes(Shown)
def evaluate(y_true: ArrayLike, y_pred: ArrayLike, options: Shown) -> Report:
    """Evaluate predictions against labels, in one pass over arrays of any size.

    Parameters
    ----------
    y_true : path, URL, zarr.Array, numpy.ndarray, dask.array.Array, xarray.DataArray or lists
        Integer labels of the predictions' shape without the class axis (or with length 1 there, or a trailing
        axis of length 1), or one-hot or soft labels of the predictions' shape.
    y_pred : as `y_true`
        Logits or probabilities, float16, bfloat16, float32 or float64. `open` slices what is stored, and `concat`
        joins several arrays: of rows, or blocks of classes.
    {options}

    Returns
    -------
    Report
        Metrics by name; a metric over no rows or no weight is NaN, with a warning.

    Raises
    ------
    ValueError
        Shapes or options do not fit; a label is out of range or not finite; a weight is negative or not finite.
    TypeError
        A dtype that labels, predictions or weights cannot have; an asynchronous client: see `aevaluate`.
    FileNotFoundError
        There is nothing at a path.
    IncompleteResult
        Some rows could not be evaluated: `ClusterLost`, `Stalled`, `Poisoned`. It carries the report so far.
    JournalError
        The journal is damaged, in use, or belongs to another evaluation.
    Interrupted
        On Ctrl-C, with the report so far.

    Examples
    --------
    >>> evaluate([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]], sample_weight=[0.3, 0.7])["accuracy"]
    0.3
    """
    return _warned(_last(_stream(y_true, y_pred, options), options.progress))


@takes(Run)
def stream(y_true: ArrayLike, y_pred: ArrayLike, options: Run) -> Iterator[Report]:
    """Evaluate as `evaluate` does and yield a report after each part; the last one is complete.

    Bad options raise at once, before the first report is asked for. A part that takes longer than a second is reported
    as far as it is. A stream that is closed or dropped before its end begins no more parts. On threads, it waits until
    those that run have read what they are at, for a second at most.

    Parameters
    ----------
    y_true, y_pred : array
        As for `evaluate`.
    {options}

    Yields
    ------
    Report
        Over the rows evaluated so far, in no particular order.

    Examples
    --------
    >>> [report.complete for report in stream([0, 1], [[0.9, 0.1], [0.2, 0.8]])]
    [True]
    """
    return _stream(y_true, y_pred, options)


@takes(Run)
def plan(y_true: ArrayLike, y_pred: ArrayLike, options: Run) -> Plan:
    """Say what `evaluate` with the same arguments would read, in which parts, with how much memory; run nothing.

    Parameters
    ----------
    y_true, y_pred : array
        As for `evaluate`.
    {options}

    Returns
    -------
    Plan

    Examples
    --------
    >>> len(plan([0, 1], [[0.9, 0.1], [0.2, 0.8]]))
    1
    """
    inputs, question = prepare(y_true, y_pred, options)
    return engine_for(inputs, options.client, options.threads).plan(inputs, question, _slice(options))


@takes(Rows)
def rows(y_true: ArrayLike, y_pred: ArrayLike, options: Rows) -> dict[str, Any]:
    """Evaluate as `evaluate` does and keep columns of every row.

    Parameters
    ----------
    y_true, y_pred : array
        As for `evaluate`. With `out`, no dask arrays; without, those are computed at once.
    {options}

    Returns
    -------
    dict of str to numpy.ndarray, xarray.DataArray or zarr.Array
        The columns by name, of the shape of the positions, with the coordinates of the predictions where these are
        xarray's and there is no `out`. Floats are float64, and NaN where there is no such number:
        the loss of a row whose label is not a class, for example. Of rows that `steps` leave out, all floats are, and
        "prediction" and "label" are -1. The "label" of one-hot or soft labels is the largest; where one is not finite,
        -1 stands for NaN, -2 for infinity and -3 for minus infinity.

    Raises
    ------
    FileExistsError
        There is something else at `out`. The same call resumes a group that is not complete, returns one that is, and
        computes anew what was written since.
    IncompleteResult
        As for `evaluate`; `Unwritable` if a column could not be written. A group that is not complete says so in its
        attributes.

    Examples
    --------
    >>> rows([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]], columns=["hit", "prediction"])
    {'hit': array([ True, False]), 'prediction': array([1, 1])}
    """
    options = with_axis(options, y_pred)
    inputs, question = prepare(y_true, y_pred, replace(options, dim=None))
    names = tuple(options.columns)
    question.check_values(set(names))
    question = replace(question, columns=columns_for(names))
    if options.out is not None:
        return _rows_in_group(place(options.out), inputs, question, names, options)
    if options.journal is not None:
        raise ValueError("journal: needs out as well: columns in memory end with the process")
    found = (_rows_of_dask if is_dask(inputs.predictions) else _rows_in_memory)(inputs, question, names, options)
    return labelled_rows(y_true, y_pred, options, found)


@takes(OfGraph)
def delayed(y_true: ArrayLike, y_pred: ArrayLike, options: OfGraph) -> Delayed:
    """Return the evaluation as a graph: one task per chunk and a tree of merges.

    Nothing runs, and nothing is read but the few bytes by which the report knows its arrays.

    Parameters
    ----------
    y_true, y_pred : array
        As for `evaluate`.
    {options}

    Returns
    -------
    dask.delayed.Delayed
        Of the report, to be computed together with others: ``dask.compute(a, b)``. A metric over no rows or no weight
        is NaN, with a warning of the task that makes the report.

    Examples
    --------
    >>> delayed([0, 1], [[0.9, 0.1], [0.2, 0.8]]).compute()["accuracy"]
    1.0
    """
    inputs, question = prepare(y_true, y_pred, options)
    about = fingerprint(inputs, inputs.positions[inputs.lead])
    inputs = graph.in_dask(inputs, fill=question.on_missing == "fill")
    finish = partial(_finished, question, inputs.positions, about)
    found: Delayed = graph.deferred(inputs, question, finish, options.split_every)
    return found


@takes(Run)
async def aevaluate(y_true: ArrayLike, y_pred: ArrayLike, options: Run) -> Report:
    """Evaluate as `evaluate` does, without blocking the event loop.

    Parameters
    ----------
    y_true, y_pred : array
        As for `evaluate`. A client may be asynchronous: the evaluation runs in a thread, with a connection of its own
        to the scheduler.
    {options}

    Returns
    -------
    Report
    """
    report: Report | None = None
    async for report in _astream(y_true, y_pred, options):  # noqa: B007
        pass
    assert report is not None
    return _warned(report)


@takes(Run)
def astream(y_true: ArrayLike, y_pred: ArrayLike, options: Run) -> AsyncIterator[Report]:
    """Evaluate as `stream` does, without blocking the event loop.

    Parameters
    ----------
    y_true, y_pred : array
        As for `aevaluate`.
    {options}

    Yields
    ------
    Report
        Over the rows evaluated so far, in no particular order.
    """
    return _astream(y_true, y_pred, options)


def verify(report: Report, *, parts: int = 8, seed: int = 0) -> int:
    """Evaluate some of the parts behind a report again, and compare every bit.

    Parameters
    ----------
    report : Report
        Made with a journal, of arrays given as paths.
    parts : int
        How many parts to evaluate again, at least 1; all if there are fewer.
    seed : int
        Chooses them.

    Returns
    -------
    int
        Number of parts that were evaluated and gave the same bits.

    Raises
    ------
    ValueError
        The report has no journal, or differs from what its journal holds; the journal holds no single parts any more,
        because their states are large; a part gave other bits, in which case its rows are named.
    """
    if not isinstance(report, Report):
        raise TypeError(f"verify: expected a Report, got {report!r}; Report.from_json reads what was saved")
    parts = at_least(1)(parts, "parts")
    if report.journal is None:
        raise ValueError("verify: the report was made without a journal, which keeps what each part gave")
    from daskxent.run.journal import read

    kept = read(report.journal)
    if kept.state != report.state:
        raise ValueError(f"verify: the report is not what the journal {report.journal} adds up to")
    if kept.header["call"] is None:
        raise ValueError("verify: arrays that were not given as paths, or took storage_options, cannot be opened again")
    if kept.snapshot is not None and not kept.parts:
        raise ValueError(
            f"verify: the states are so large that the journal {report.journal} holds only what the parts add up to, "
            "not what each of them gave"
        )
    inputs, question = prepare_again(kept.header["call"])
    chosen = random.Random(seed).sample(kept.parts, min(parts, len(kept.parts)))
    work = Work(inputs, question, patience=math.inf)
    for state in chosen:
        per = inputs.rows_per_step  # a state of a cluster may be of several ranges, which were merged there
        if merge_all(work(start // per, stop // per).state for start, stop in state.covered) != state:
            rows = ", ".join(f"{start} to {stop - 1}" for start, stop in state.covered)
            raise ValueError(f"verify: rows {rows} give other bits than the report was made from")
    return len(chosen)


def _last(reports: Generator[Report], progress: bool | Callable[[Report], None] | None) -> Report:
    """Exhaust a stream and return its last report; an interrupt carries what there is by then."""
    report: Report | None = None
    try:
        # Closed at once: a journal would stay open for as long as the caller keeps the error.
        with closing(reports), closing(shown(reports, progress)) as seen:
            for report in seen:  # noqa: B007
                pass
    except KeyboardInterrupt as error:
        interrupted = Interrupted(*error.args)
        interrupted.report, interrupted.journal = report, report.journal if report else None
        raise interrupted from None
    assert report is not None
    return report


def _stream(y_true: Any, y_pred: Any, options: Run, warns: bool = True) -> Generator[Report]:
    inputs, question = prepare(y_true, y_pred, options)
    engine = engine_for(inputs, options.client, options.threads, options.worker_timeout)
    call = None if options.journal is None else repeatable(y_true, y_pred, options)
    return run(inputs, question, engine, steps=_slice(options), journal=options.journal, call=call, warns=warns)


async def _astream(y_true: Any, y_pred: Any, options: Run) -> AsyncIterator[Report]:
    client = chosen(options.client, options.threads)
    own = await _connected(client) if getattr(client, "asynchronous", False) else None
    reports: Iterator[Report] = iter(())
    step: asyncio.Future[Any] = asyncio.ensure_future(asyncio.sleep(0))
    try:
        here = options if own is None else replace(options, client=own)
        reports = await asyncio.to_thread(_stream, y_true, y_pred, here, warns=False)
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, reports, None))
            if (report := await asyncio.shield(step)) is None:
                return
            if report.complete:
                report.warn()
            yield report
    finally:
        # An evaluation that is no longer awaited ends when its connection is closed.
        if own is not None:
            await asyncio.to_thread(own.close)
        await asyncio.wait([step])
        await asyncio.to_thread(getattr(reports, "close", bool))  # which waits for the parts that have begun


async def _connected(client: Any) -> Any:
    """Connect to the scheduler of an asynchronous client, from a thread; close that if nobody waits for it any more."""
    from distributed import Client

    client = usable(client, asynchronous=True)
    connect = partial(Client, client.scheduler.address, security=client.security, set_as_default=False)
    connecting = asyncio.ensure_future(asyncio.to_thread(connect))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        own = await connecting
        await asyncio.to_thread(own.close)
        raise


def _rows_of_dask(inputs: Inputs, question: Question, names: tuple[str, ...], options: Rows) -> dict[str, Any]:
    """Return columns of dask predictions, computed at once."""
    if options.progress or options.steps is not None:
        name = "progress" if options.progress else "steps"
        raise ValueError(f"{name}: rows of dask arrays are computed at once; slice the arrays, or give stored ones")
    dtype = np.dtype([(name, ROW_COLUMNS[name]) for name in names])
    columns = graph.per_chunk(inputs, question, partial(_table, dtype=dtype), dtype=dtype)
    threads = {} if options.threads is None else {"scheduler": "threads", "num_workers": options.threads}
    client = usable(chosen(options.client, options.threads))
    table = columns.compute(**threads) if client is None else client.compute(columns, sync=True)
    return {name: np.ascontiguousarray(table[name]) for name in names}


def _rows_in_memory(inputs: Inputs, question: Question, names: tuple[str, ...], options: Rows) -> dict[str, Any]:
    """Return columns as arrays, which threads of this process fill."""
    arrays = {name: np.full(inputs.positions, unset(name), ROW_COLUMNS[name]) for name in names}
    reports = run(inputs, question, Threads(options.threads), steps=_slice(options), sink=Arrays(arrays))
    _last(reports, options.progress)
    return arrays


def _rows_in_group(
    out: str, inputs: Inputs, question: Question, names: tuple[str, ...], options: Rows
) -> dict[str, Any]:
    """Return columns in a zarr group, as far as they are not there from before."""
    if is_dask(inputs.predictions):
        raise ValueError("out: give the stored predictions themselves, not a dask array")
    engine = engine_for(inputs, options.client, options.threads, options.worker_timeout)
    steps, journal = _slice(options), options.journal
    group = Group(out, names, storage=options.storage_options)
    group, complete = group.begun(inputs, engine.plan(inputs, question, steps), journal)
    if not complete:
        into = {"path": group.path, "run": group.run}
        _last(run(inputs, question, engine, steps=steps, journal=journal, sink=group, out=into), options.progress)
        group.end()
    return group.opened()


def _table(block: Block, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return columns of the rows of a block as a structured array."""
    table = np.empty(math.prod(block.aligned.shape), dtype)
    for some, rows in block.checked():
        for name in dtype.names or ():
            table[name][some] = rows.column(name)
    return table.reshape(block.aligned.shape)


def _finished(question: Question, positions: tuple[int, ...], about: dict[str, Any], state: State) -> Report:
    raise_first_error(question, state.audit, positions)
    rows = math.prod(positions)
    report = Report(question, state, rows, available=rows, inputs=about, made=made("a graph"))
    report.warn()
    return _warned(report)


def _warned(report: Report) -> Report:
    """Return a report, with a warning to the caller of a public function if it is about nothing."""
    if report.state.total.weight.units == 0:
        why = "no row was counted" if report.state.total.counted == 0 else "the weights sum to zero"
        warn_caller(f"{why}: the metrics are NaN")
    return report


def _slice(options: Run) -> slice | None:
    assert options.steps is None or isinstance(options.steps, slice)  # which the check makes of it
    return options.steps
