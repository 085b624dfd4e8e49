"""Run an evaluation: hand out the parts, merge their states as they come, report.

One driver serves threads and clusters. It keeps a bounded number of parts in flight, merges each state as it
arrives, and ends with a report only when every row has been covered exactly once. What comes of a part does not
depend on where it ran, in which order, or how the rows were cut, so none of that shows in the report.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daskxent import scores
from daskxent.report import IncompleteResult, Interrupted, Report
from daskxent.runners import Done, Graph, Threads
from daskxent.sources import Along, Inputs, align, is_dask, open_array, open_predictions, whole
from daskxent.state import ON_INVALID, ON_MISSING, Question, State, complain

if TYPE_CHECKING:
    from daskxent.planning import Plan

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
    progress: bool | Callable[[Report], None] | None = None,
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
        For dense labels: the share of each label that is spread evenly over the classes.
    on_invalid : {"raise", "skip", "count"}
        "raise": a label out of range is an error; rows with NaN or +inf stay in, make the loss NaN, and are told in
        the report. "skip": both kinds of rows are left out, and told. "count": both stay in; the loss is NaN.
    allow_negative_weights : bool
        Take negative weights, which are an error otherwise.
    on_missing : {None, "raise", "fill"}
        What becomes of zarr chunks that are not stored. zarr leaves out chunks that hold nothing but the fill value,
        so None takes missing labels and weights as filled, and tells; missing predictions are an error. "raise" and
        "fill" decide for all three.
    rows : (start, stop), optional
        Evaluate only these steps along the first axis of the positions.
    client : distributed.Client, optional
        Where to run; by default the current client if there is one, else threads of this process.
    threads : int, optional
        Run on this many threads of this process, whatever clients there are. By default one per core.
    worker_timeout : float, optional
        Seconds without any worker after which a run on a cluster is given up; 300 by default.
    progress : bool or callable, optional
        True draws a progress bar; a callable is given a report after each part.

    Returns
    -------
    Report
        Metrics by name; a metric over no rows or no weight is NaN, with a warning.

    Raises
    ------
    ValueError
        Shapes or options do not fit; a label is out of range; a weight is negative or not finite.
    TypeError
        A dtype that labels, predictions or weights cannot have.
    FileNotFoundError
        There is nothing at a path.
    IncompleteResult
        Some rows could not be evaluated: `ClusterLost`, `Stalled`, `Poisoned`. It carries the report so far.
    Interrupted
        On Ctrl-C, with the report so far.

    Examples
    --------
    >>> evaluate([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]], sample_weight=[0.3, 0.7])["accuracy"]
    0.3
    """
    reports = stream(
        y_true,
        y_pred,
        metrics=metrics,
        sample_weight=sample_weight,
        from_logits=from_logits,
        axis=axis,
        view=view,
        ignore_class=ignore_class,
        label_smoothing=label_smoothing,
        on_invalid=on_invalid,
        allow_negative_weights=allow_negative_weights,
        on_missing=on_missing,
        rows=rows,
        client=client,
        threads=threads,
        worker_timeout=worker_timeout,
    )
    report = _last(reports, progress)
    if report.state.weight.units == 0:
        why = "no row was counted" if report.state.counted == 0 else "the weights sum to zero"
        warnings.warn(f"{why}: the metrics are NaN", stacklevel=2)
    return report


def stream(y_true: Any, y_pred: Any, **options: Any) -> Iterator[Report]:
    """Evaluate as `evaluate` does and yield a report after each part; the last one is complete.

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
    inputs, question, options = _prepare(y_true, y_pred, **options)
    return run(inputs, question, **options)


def run(
    inputs: Inputs,
    question: Question,
    *,
    rows: tuple[int, int] | None = None,
    client: Any = None,
    threads: int | None = None,
    worker_timeout: float | None = None,
) -> Iterator[Report]:
    """Evaluate inputs that are aligned already, and yield a report after each part, as `stream` does."""
    runner = _runner(inputs, client, threads, worker_timeout)
    plan = runner.plan(inputs, question, rows)
    return _stream(plan, runner.states(inputs, question, plan, plan), inputs)


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
    **options: Any,
) -> tuple[Inputs, Question, dict[str, Any]]:
    """Open, check and align everything that `evaluate` takes."""
    known = {"rows": None, "client": None, "threads": None, "worker_timeout": None}
    if unknown := set(options) - set(known):
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}")
    names = _names(metrics)
    if on_invalid not in ON_INVALID:
        raise ValueError(f"on_invalid: expected one of {', '.join(ON_INVALID)}; got {on_invalid!r}")
    if on_missing not in ON_MISSING:
        raise ValueError(f"on_missing: expected None, 'raise' or 'fill'; got {on_missing!r}")
    weights = None if sample_weight is None else open_array(sample_weight, "sample_weight")
    inputs = meet(align(open_array(y_true, "y_true"), open_predictions(y_pred, axis, view), weights, axis))
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a number from 0 to 1, got {label_smoothing!r}")
    if label_smoothing and not inputs.dense:
        raise ValueError("label_smoothing: needs one-hot or soft labels; these are integers")
    if ignore_class is not None and inputs.dense:
        raise ValueError("ignore_class: needs integer labels; these are one-hot or soft")
    question = Question(
        metrics=names,
        classes=inputs.classes,
        from_logits=bool(from_logits),
        dense=inputs.dense,
        ignore_class=None if ignore_class is None else whole(ignore_class, "ignore_class"),
        label_smoothing=float(label_smoothing),
        on_invalid=on_invalid,
        allow_negative_weights=bool(allow_negative_weights),
        on_missing=on_missing,
    )
    return inputs, question, known | options


def _names(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the metrics, each once, if they are known."""
    if not isinstance(metrics, Iterable):
        raise TypeError(f"metrics: expected names, got {metrics!r}")
    names = (metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics))
    if not names:
        raise ValueError("metrics: expected at least one name")
    for name in names:
        scores.find(name)
    return names


def _last(reports: Iterator[Report], progress: bool | Callable[[Report], None] | None) -> Report:
    """Exhaust a stream and return its last report; an interrupt carries what there is by then."""
    report: Report | None = None
    try:
        for shown in _shown(reports, progress):
            report = shown
    except KeyboardInterrupt as error:
        interrupted = Interrupted(*error.args)
        interrupted.report = report
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


def _stream(plan: Plan, found: Iterator[Done], inputs: Inputs) -> Iterator[Report]:
    """Merge states as they come; yield a report for each; check the coverage at the end."""
    began = time.perf_counter()
    bytes_per_row = plan.nbytes // plan.rows
    report = Report(plan.question, State.zero(), plan.rows)
    try:
        for state, retries in found:
            complain(plan.question, state, inputs.positions)
            merged = report.state.merge(state)
            elapsed = time.perf_counter() - began
            nbytes = merged.rows * bytes_per_row
            report = replace(report, state=merged, elapsed=elapsed, nbytes=nbytes, retries=report.retries + retries)
            yield report
        if not report.complete:
            missing = report.expected - report.rows
            raise IncompleteResult(f"{missing:,} of {report.expected:,} rows were not evaluated")
    except IncompleteResult as error:
        error.report = report
        raise


def meet(inputs: Inputs) -> Inputs:
    """Turn stored predictions into a dask array of their own chunks where labels or weights are dask arrays."""
    others = [inputs.labels, inputs.weights]
    sources = [other.source if isinstance(other, Along) else other for other in others]
    if is_dask(inputs.predictions) or not any(map(is_dask, sources)):
        return inputs
    from daskxent import lazy

    return replace(inputs, predictions=lazy.from_source(inputs.predictions, inputs.lead + (inputs.lead >= inputs.axis)))


def _runner(inputs: Inputs, client: Any, threads: int | None, worker_timeout: float | None) -> Any:
    client = None if threads is not None else client if client is not None else _current_client()
    if client is None:
        local = Threads(threads)
        return Graph(None, local.threads) if is_dask(inputs.predictions) else local
    from daskxent.cluster import WORKER_TIMEOUT, Cluster

    cluster = Cluster(client, WORKER_TIMEOUT if worker_timeout is None else worker_timeout)
    return Graph(client, cluster.threads) if is_dask(inputs.predictions) else cluster


def _current_client() -> Any:
    """Return the default client of distributed, if it has been imported and has one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None
