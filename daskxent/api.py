"""Run an evaluation: hand out the parts, merge their states as they come, report.

One driver serves threads and clusters. It keeps a bounded number of parts in flight, merges each state as it
arrives, and ends with a report only when every row has been covered exactly once. What comes of a part does not
depend on where it ran, in which order, or how the rows were cut, so none of that shows in the report.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from daskxent.numbers.audit import complain
from daskxent.numbers.question import ON_INVALID, ON_MISSING, Question
from daskxent.numbers.state import State
from daskxent.options import flag, ignored, metric_names, one_of, seconds, share
from daskxent.report import IncompleteResult, Interrupted, Report, amount
from daskxent.run import planning
from daskxent.run.parts import Work
from daskxent.run.threads import Attempt, Done, Graph, Threads
from daskxent.sources import Further, Inputs, align, check_dims, is_dask, open_array, open_predictions, place, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from daskxent.run.journal import Journal
    from daskxent.run.planning import Part, Plan

METRICS = ("crossentropy", "accuracy")


def evaluate(
    y_true: Any,
    y_pred: Any,
    *,
    metrics: Iterable[str] = METRICS,
    sample_weight: Any = None,
    from_logits: bool = False,
    axis: int = -1,
    view: str | None = None,
    ignore_class: int | None = None,
    label_smoothing: float = 0.0,
    on_invalid: str = "raise",
    allow_negative_weights: bool = False,
    on_missing: str | None = None,
    rows: tuple[int, int] | None = None,
    client: Any = None,
    threads: int | None = None,
    worker_timeout: float | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[Report], None] | None = None,
    compute: bool = True,
    split_every: int | None = None,
) -> Report:
    """Evaluate predictions against labels, in one pass over arrays of any size.

    Parameters
    ----------
    y_true : path, URL, zarr.Array, numpy.ndarray, dask.array.Array, xarray.DataArray or lists
        Integer labels of the predictions' shape without the class axis (or with length 1 there, or a trailing
        axis of length 1), or one-hot or soft labels of the predictions' shape.
    y_pred : as `y_true`
        Logits or probabilities, float16, bfloat16, float32 or float64. A list of arrays of two or more axes is taken
        as consecutive blocks of classes.
    metrics : iterable of str
        "crossentropy" (nats), "accuracy", "top_K_accuracy" for any K, "perplexity", "bits".
    sample_weight : number or as `y_true`, optional
        Weights along the leading axes of the positions, each axis of that length or 1. A weight of 0 masks a row.
    from_logits : bool
        Whether predictions are logits; otherwise they are probabilities.
    axis : int
        The class axis of `y_pred`.
    view : {"bfloat16"}, optional
        What uint16 predictions stand for: zarr has no bfloat16, so dumps keep the bits.
    ignore_class : int, optional
        Rows with this label are left out of sums and weights.
    label_smoothing : float
        The share of each label that is spread evenly over the classes. Integer labels are then taken as the one-hot
        labels they stand for: whole rows are read at once, and probabilities are divided by their sum, then clipped.
    on_invalid : {"raise", "skip", "count"}
        "raise": a label out of range is an error, and so is a dense one that is NaN or infinite; rows with NaN or +inf
        stay in, make the loss NaN, and are told in the report. "skip": both kinds of rows are left out, and told.
        "count": both stay in; the loss is NaN.
    allow_negative_weights : bool
        Take negative weights, which are an error otherwise.
    on_missing : {None, "raise", "fill"}
        What becomes of zarr chunks that are not stored. zarr leaves out chunks that hold nothing but the fill value,
        so None takes missing labels and weights as filled, and tells; missing predictions are an error. "raise" and
        "fill" decide for all three.
    rows : (start, stop), optional
        Evaluate only these steps along the first axis of the positions.
    client : distributed.Client, optional
        Where to run; by default the current client if there is one, else threads of this process. In the event loop
        of an asynchronous client the report is to be awaited: see `aevaluate`.
    threads : int, optional
        Run on this many threads of this process, whatever clients there are. By default one per core.
    worker_timeout : float, optional
        Seconds without any worker after which a run on a cluster is given up; 300 by default.
    journal : path, optional
        A file that keeps what has been evaluated. The same call with the same journal goes on where it stopped, and
        ends with the same bits; after rows were appended to the arrays it evaluates only those.
    progress : bool or callable, optional
        True draws a progress bar; a callable is given a report after each part.
    compute : bool
        False runs nothing and returns a `dask.delayed.Delayed` of the report, one task per chunk and a tree of
        merges, to be computed together with others: ``dask.compute(a, b)``.
    split_every : int, optional
        With ``compute=False``: how many states a task of that tree merges.

    Returns
    -------
    Report
        Metrics by name; a metric over no rows or no weight is NaN, with a warning (of the task that makes the report,
        with ``compute=False``).

    Raises
    ------
    ValueError
        Shapes or options do not fit; a label is out of range or not finite; a weight is negative or not finite.
    TypeError
        A dtype that labels, predictions or weights cannot have.
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
    asked: dict[str, Any] = {
        "metrics": metrics,
        "sample_weight": sample_weight,
        "from_logits": from_logits,
        "axis": axis,
        "view": view,
        "ignore_class": ignore_class,
        "label_smoothing": label_smoothing,
        "on_invalid": on_invalid,
        "allow_negative_weights": allow_negative_weights,
        "on_missing": on_missing,
        "rows": rows,
    }
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"progress: expected True, False or a callable, got {progress!r}")
    if not flag(compute, "compute"):
        # A Delayed passes attributes and items on, lazily: it is used like the report it stands for.
        return cast("Report", _deferred(y_true, y_pred, split_every, asked))
    where = {"client": client, "threads": threads, "worker_timeout": worker_timeout, "journal": journal}
    client = _chosen(client, threads)
    if getattr(client, "asynchronous", False):
        where |= {"client": client, "progress": progress}
        return cast("Report", aevaluate(y_true, y_pred, **asked, **where))  # Dask's own functions do the same
    return _warned(_last(stream(y_true, y_pred, **asked, **where), progress))


def _warned(report: Report) -> Report:
    """Return a report, with a warning to whoever called `evaluate` if it is about nothing."""
    if report.state.total.weight.units == 0:
        why = "no row was counted" if report.state.total.counted == 0 else "the weights sum to zero"
        warnings.warn(f"{why}: the metrics are NaN", stacklevel=3)
    return report


def _deferred(y_true: Any, y_pred: Any, split_every: int | None, asked: dict[str, Any]) -> Any:
    """Return the evaluation as a Delayed."""
    from daskxent.run import graph

    if split_every is not None and whole(split_every, "split_every") < 2:
        raise ValueError(f"split_every: expected at least 2, got {split_every}")
    if asked.pop("rows") is not None:
        raise ValueError("rows: with compute=False slice the arrays instead")
    inputs, question, _ = _prepare(y_true, y_pred, **asked)
    if not is_dask(inputs.predictions):
        inputs = _in_dask(inputs, fill=question.on_missing == "fill")
    return graph.deferred(inputs, question, partial(_finished, question, inputs.positions), split_every)


def _finished(question: Question, positions: tuple[int, ...], state: State) -> Report:
    complain(question, state.audit, positions)
    rows = math.prod(positions)
    return _warned(Report(question, state, rows, available=rows))


def stream(y_true: Any, y_pred: Any, **options: Any) -> Iterator[Report]:
    """Evaluate as `evaluate` does and yield a report after each part; the last one is complete.

    A stream that is closed or dropped before its end begins no more parts, and does not wait for those that run.

    Parameters
    ----------
    y_true, y_pred, **options
        As for `evaluate`; bad options are told at once, before the first report is asked for.

    Yields
    ------
    Report
        Over the rows evaluated so far, in no particular order.

    Examples
    --------
    >>> [report.complete for report in stream([0, 1], [[0.9, 0.1], [0.2, 0.8]])]
    [True]
    """
    inputs, question, where = _prepare(y_true, y_pred, **options)
    asked = {**(_prepare.__kwdefaults__ or {}), **options, "metrics": question.metrics, "rows": where["rows"]}
    return run(inputs, question, **where, call=_repeatable({"y_true": y_true, "y_pred": y_pred, **asked}))


def run(
    inputs: Inputs,
    question: Question,
    *,
    rows: tuple[int, int] | None = None,
    client: Any = None,
    threads: int | None = None,
    worker_timeout: float | None = None,
    journal: str | os.PathLike[str] | None = None,
    call: dict[str, Any] | None = None,
) -> Iterator[Report]:
    """Evaluate inputs that are aligned already, and yield a report after each part, as `stream` does."""
    runner = _runner(inputs, client, threads, worker_timeout)
    plan = runner.plan(inputs, question, rows)

    def found(parts: Iterable[Part]) -> Iterator[Done]:
        return _sound(runner.states(inputs, question, parts, plan), question, inputs)

    kept = None if journal is None else _open_journal(place(journal), inputs, plan, rows, call)
    begin = Report(question, State.zero(), plan.rows, available=inputs.rows, journal=kept.path if kept else None)
    if kept is None:
        return _stream(begin, found(plan), plan)
    state = kept.state
    was = "was" if state.rows == 1 else "were"
    note = (f"{amount(state.rows, 'row')} {was} in the journal already",) if state.rows else ()
    begin = replace(begin, state=state, notes=note, inputs=kept.inputs)
    left = planning.remaining(plan, state.covered)
    return _journaled(_stream(begin, found(left), plan, kept), kept)


async def aevaluate(y_true: Any, y_pred: Any, *, client: Any, **options: Any) -> Report:
    """Evaluate as `evaluate` does, on the cluster of an asynchronous client, without blocking the event loop.

    Parameters
    ----------
    y_true, y_pred, **options
        As for `evaluate`.
    client : distributed.Client
        With ``asynchronous=True``. The evaluation runs in a thread, with a connection of its own to the scheduler.

    Returns
    -------
    Report
    """
    from distributed import Client

    connect = partial(Client, client.scheduler.address, security=client.security, set_as_default=False)
    connecting = asyncio.create_task(asyncio.to_thread(connect))
    try:
        own = await asyncio.shield(connecting)
        return await asyncio.to_thread(evaluate, y_true, y_pred, client=own, **options)
    finally:
        # An evaluation that is no longer awaited ends when its connection is closed, even one that was being made.
        own = await connecting
        await asyncio.to_thread(own.close)


def verify(report: Report, *, parts: int = 8, seed: int = 0) -> int:
    """Evaluate some of the parts behind a report again, and compare every bit.

    Parameters
    ----------
    report : Report
        Made with a journal, of arrays given as paths.
    parts : int
        How many parts to evaluate again; all if there are fewer.
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
    if report.journal is None:
        raise ValueError("verify: the report was made without a journal, which keeps what each part gave")
    from daskxent.run.journal import read

    kept = read(report.journal)
    if kept.state != report.state:
        raise ValueError(f"verify: the report is not what the journal {report.journal} adds up to")
    if kept.header["call"] is None:
        raise ValueError("verify: the arrays were not given as paths, so they cannot be opened again")
    if kept.snapshot is not None and not kept.parts:
        raise ValueError(
            f"verify: the states are so large that the journal {report.journal} holds only what the parts add up to, "
            "not what each of them gave"
        )
    inputs, question, _ = _prepare(**kept.header["call"])
    chosen = random.Random(seed).sample(kept.parts, min(parts, len(kept.parts)))
    for state in chosen:
        for start, stop in state.covered:
            again = Attempt(Work(inputs, question))(start // inputs.rows_per_step, stop // inputs.rows_per_step)
            if again.state != state:
                raise ValueError(f"verify: rows {start} to {stop - 1} give other bits than the report was made from")
    return len(chosen)


def plan(y_true: Any, y_pred: Any, **options: Any) -> Plan:
    """Say what `evaluate` with the same arguments would read, in which parts, with how much memory; run nothing.

    Examples
    --------
    >>> len(plan([0, 1], [[0.9, 0.1], [0.2, 0.8]]))
    1
    """
    inputs, question, options = _prepare(y_true, y_pred, **options)
    runner = _runner(inputs, options["client"], options["threads"], options["worker_timeout"])
    found: Plan = runner.plan(inputs, question, options["rows"])
    return found


def _prepare(
    y_true: Any,
    y_pred: Any,
    *,
    metrics: Iterable[str] = METRICS,
    sample_weight: Any = None,
    from_logits: bool = False,
    axis: int = -1,
    view: str | None = None,
    ignore_class: int | None = None,
    label_smoothing: float = 0.0,
    on_invalid: str = "raise",
    allow_negative_weights: bool = False,
    on_missing: str | None = None,
    along: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Inputs, Question, dict[str, Any]]:
    """Open, check and align everything that `evaluate` takes, and further arrays `along` the rows, by name."""
    known = {"rows": None, "client": None, "threads": None, "worker_timeout": None, "journal": None}
    if unknown := set(options) - set(known):
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}")
    asked: dict[str, Any] = {
        "metrics": metric_names(metrics),
        "from_logits": flag(from_logits, "from_logits"),
        "ignore_class": ignored(ignore_class),
        "label_smoothing": share(label_smoothing, "label_smoothing"),
        "on_invalid": one_of(on_invalid, ON_INVALID, "on_invalid"),
        "allow_negative_weights": flag(allow_negative_weights, "allow_negative_weights"),
        "on_missing": one_of(on_missing, ON_MISSING, "on_missing"),
    }
    options = known | options
    options["worker_timeout"] = seconds(options["worker_timeout"], "worker_timeout")
    along = along or {}
    check_dims(y_true=y_true, y_pred=y_pred, sample_weight=sample_weight, **along)
    weights = None if sample_weight is None else open_array(sample_weight, "sample_weight")
    further = {name: Further(open_array(array, name), name) for name, array in along.items()}
    labels, predictions = open_array(y_true, "y_true"), open_predictions(y_pred, axis, view)
    inputs = align(labels, predictions, weights, axis, further=further)
    inputs = meet(inputs, fill=on_missing == "fill")
    if ignore_class is not None and inputs.dense:
        raise ValueError("ignore_class: needs integer labels; these are one-hot or soft")
    return inputs, Question(classes=inputs.classes, dense=inputs.dense, **asked), options


def _repeatable(call: dict[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a call whose arrays are all paths, as JSON has them; None for other calls."""
    call = {key: value for key, value in call.items() if key not in ("client", "threads", "worker_timeout", "journal")}
    arrays = {name: call.get(name) for name in ("y_true", "y_pred", "sample_weight")}
    along = call.get("along") or {}
    if not all(map(_is_stored, (*arrays.values(), *along.values()))):
        return None
    call |= {name: _placed(given) for name, given in arrays.items()}
    call["along"] = {name: _placed(given) for name, given in along.items()}
    made: dict[str, Any] = json.loads(json.dumps(call, default=_as_json))
    return made


def _is_stored(given: Any) -> bool:
    """Tell whether an argument is a path, a list of paths, or a number or None, which are as good."""
    several = given if isinstance(given, (list, tuple)) else [given]
    return all(isinstance(each, (str, os.PathLike)) for each in several) or isinstance(given, (int, float, type(None)))


def _placed(given: Any) -> Any:
    """Return paths as they read from any directory."""
    if isinstance(given, (list, tuple)):
        return list(map(place, given))
    return place(given) if isinstance(given, (str, os.PathLike)) else given


def _as_json(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else list(value)


def _last(reports: Iterator[Report], progress: bool | Callable[[Report], None] | None) -> Report:
    """Exhaust a stream and return its last report; an interrupt carries what there is by then."""
    report: Report | None = None
    try:
        for shown in _shown(reports, progress):
            report = shown
    except KeyboardInterrupt as error:
        interrupted = Interrupted(*error.args)
        interrupted.report, interrupted.journal = report, report.journal if report else None
        raise interrupted from None
    assert report is not None
    return report


def _shown(reports: Iterator[Report], progress: bool | Callable[[Report], None] | None) -> Iterator[Report]:
    """Pass reports on and show progress."""
    if progress is True:
        from tqdm import tqdm

        with tqdm(unit=" rows", unit_scale=True, desc="daskxent") as bar:
            for report in reports:
                bar.total = report.expected
                bar.update(report.rows - bar.n)
                bar.set_postfix({name: f"{value:.5g}" for name, value in report.metrics.items()}, refresh=False)
                yield report
    else:
        for report in reports:
            if callable(progress):
                progress(report)
            yield report


def _stream(report: Report, found: Iterator[Done], plan: Plan, journal: Journal | None = None) -> Iterator[Report]:
    """Merge states as they come, write each into the journal before it counts, yield a report for each.

    At the end the coverage is checked.
    """
    began = time.perf_counter()
    bytes_per_row = plan.nbytes // plan.rows
    known = report.rows
    try:
        if known:
            yield report
        for state, retries in found:
            merged = report.state.merge(state) if journal is None else journal.append(state)
            report = replace(
                report,
                state=merged,
                elapsed=time.perf_counter() - began,
                nbytes=(merged.rows - known) * bytes_per_row,
                retries=report.retries + retries,
            )
            yield report
        if not report.complete:
            missing = report.expected - report.rows
            raise IncompleteResult(f"{missing:,} of {report.expected:,} rows were not evaluated")
    except IncompleteResult as error:
        error.report, error.journal = report, report.journal
        raise


def _sound(found: Iterator[Done], question: Question, inputs: Inputs) -> Iterator[Done]:
    """Pass on what is sound; raise the first finding that is an error."""
    for done in found:
        complain(question, done.state.audit, inputs.positions)
        yield done


def _journaled(reports: Iterator[Report], journal: Journal) -> Iterator[Report]:
    try:
        yield from reports
    finally:
        journal.close()


def _open_journal(
    path: str, inputs: Inputs, plan: Plan, rows: tuple[int, int] | None, call: dict[str, Any] | None
) -> Journal:
    from daskxent.run.journal import Journal
    from daskxent.sources.fingerprint import fingerprint

    if is_dask(inputs.predictions):
        raise ValueError("journal: a dask array has no identity to go on from; give the stored array itself")
    question = {**plan.question.to_json(), "rows": rows}
    steps = inputs.positions[inputs.lead]
    return Journal(path, question, lambda count: fingerprint(inputs, count), steps, call)


def meet(inputs: Inputs, fill: bool = False) -> Inputs:
    """Turn stored predictions into a dask array of their own chunks where anything along them is a dask array."""
    predictions, *others = inputs.sources()
    return _in_dask(inputs, fill) if any(map(is_dask, others)) and not is_dask(predictions) else inputs


def _in_dask(inputs: Inputs, fill: bool) -> Inputs:
    """Turn stored predictions into a dask array; with `fill` what is not stored is filled and told, no error."""
    from daskxent.run import graph

    lead = inputs.lead + (inputs.lead >= inputs.axis)
    return replace(inputs, predictions=graph.from_source(inputs.predictions, lead, inputs.sizes.piece_bytes, fill))


def _runner(inputs: Inputs, client: Any, threads: int | None, worker_timeout: float | None) -> Any:
    client = _chosen(client, threads)
    if client is None:
        return Graph(threads) if is_dask(inputs.predictions) else Threads(threads)
    if not hasattr(client, "scheduler"):
        raise TypeError(f"client: expected a distributed.Client, got {client!r}")
    if client.status in ("closing", "closed"):
        raise ValueError(f"client: {client!r} is closed")
    from daskxent.run.cluster import WORKER_TIMEOUT, Cluster, ClusterGraph

    runner = ClusterGraph if is_dask(inputs.predictions) else Cluster
    return runner(client, WORKER_TIMEOUT if worker_timeout is None else worker_timeout)


def _chosen(client: Any, threads: int | None) -> Any:
    """Return the client to run on: by default that of distributed, if it has been imported and has one."""
    if threads is not None:
        return None
    if client is not None or "distributed" not in sys.modules:
        return client
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None
