"""The command line: ``daskxent``, ``python -m daskxent`` and ``dask xent``.

Only click and the options are imported at the top, so that ``--help`` is quick. Exit status: 0 with a complete result,
1 when a run failed, 2 for bad use or bad input, 130 when interrupted.
"""

from __future__ import annotations

import functools
import signal
import sys
import warnings
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from daskxent.options import Rows, Run, Shown
from daskxent.show.arguments import BEYOND, Limit, Target, arrays_below
from daskxent.show.flags import FLAGS, PYTHON_ONLY, SHELL, flag_of, of_kind
from daskxent.show.shell import in_words, peak_memory
from daskxent.show.tables import as_text, printable, show_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daskxent.report import Report

FAILED, BAD_USE, INTERRUPTED = 1, 2, 130
# What workers here do on Ctrl-C, which a terminal sends to them as well: they say no more, and are ended. They are
# started with interrupts held back until they know that.
QUIET = """
import logging, signal
signal.signal(signal.SIGINT, lambda *_: logging.disable())
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
"""
WORST = 24  # digits that the demo's page shows
BAD_INPUT = (
    ValueError,
    TypeError,
    IndexError,  # of the indices that paths carry
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    ImportError,  # of what an option needs and is not installed
)


class Commands(click.Group):
    """Commands whose errors are one line and an exit status; only a bug shows a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            with _one_line_warnings():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            self._end(ctx, f"Interrupted{_kept(error)}", INTERRUPTED)
        except BAD_INPUT as error:
            self._end(ctx, f"Error: {error}", BAD_USE)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):  # click is silent where nobody reads
            raise
        except Exception as error:
            if not isinstance(error, _failures()):
                raise
            self._end(ctx, f"Error: {error or type(error).__name__}{_kept(error)}", FAILED)

    @staticmethod
    def _end(ctx: click.Context, message: str, status: int) -> None:
        _say(message)
        ctx.exit(status)


def _say(message: Any) -> None:
    """Print a line on stderr, in the words of a shell."""
    _print(in_words(str(message), FLAGS))


def _print(line: str) -> None:
    """Print a line on stderr as it is; a run does not end because nobody reads that."""
    with suppress(OSError):
        click.echo(printable(line), err=True)


def _kept(error: BaseException) -> str:
    """Say what was evaluated before an error, and where it is kept."""
    report, journal = getattr(error, "report", None), getattr(error, "journal", None)
    if report is None or not report.rows:
        return ""
    more = f"; they are in {journal}, and the same command resumes from there" if journal else ""
    return f" ({report.rows:,} of {report.expected:,} rows were evaluated{more})"


def _failures() -> tuple[type[Exception], ...]:
    """Return what a run fails of, other than bad input; called when something has failed already."""
    from concurrent.futures import CancelledError

    from daskxent.run.failures import IncompleteResult

    failures = (IncompleteResult, OSError, CancelledError)  # Dask's futures are cancelled when the scheduler is lost
    if "distributed" not in sys.modules:
        return failures
    from distributed import KilledWorker

    return (*failures, KilledWorker)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show warnings for users on stderr, without the line of code that gave them."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: _say(f"Warning: {message}")
        yield


SCHEDULER = click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster with this scheduler.")
WORKERS = click.option("--workers", type=click.IntRange(1), metavar="N", help="Run on a cluster of N processes here.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")


def _asks(table: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command LABELS, PREDICTIONS and the options of a table that a shell can give."""
    given = [each for each in fields(table) if each.name not in PYTHON_ONLY]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for each in reversed(given):
            special = of_kind(each) | SHELL.get(each.name, {})
            default = {} if each.default is None else {"default": each.default}
            flags = special.pop("flags", [flag_of(each.name)])
            means = each.metadata["means"].replace("\n", " ").partition(". ")[0].rstrip(".") + "."
            command = click.option(*flags, each.name, **{**default, "help": in_words(means, FLAGS), **special})(command)
        command = click.argument("y_pred", metavar="[PREDICTIONS]", required=False, shell_complete=arrays_below)(
            _complete(command)
        )
        return click.argument("y_true", metavar="LABELS", shell_complete=arrays_below)(command)

    return decorate


def _complete(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dump alone, whose arrays have conventional names; say on stderr which they are."""

    @functools.wraps(command)
    def call(y_true: str, y_pred: str | None, **options: Any) -> None:
        if y_pred is None:
            from daskxent.sources.conventional import conventional

            found = conventional(y_true, options.get("storage_options"))
            y_true, y_pred = found["labels"], found["predictions"]
            for option, what in (("sample_weight", "weights"), ("predictions", "kind")):
                if options[option] is None:
                    options[option] = found.get(what)
            weights = options["sample_weight"]
            shown = "" if weights is None else f", weights {weights}"
            _print(f"Taking labels {y_true}, predictions {y_pred}{shown}")
        command(y_true=y_true, y_pred=y_pred, **options)

    return call


@click.group(
    "xent", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}
)  # the name is that of the command within `dask`
@click.version_option(package_name="daskxent", prog_name="daskxent")
def main() -> None:
    """Crossentropy and accuracy over prediction dumps bigger than memory.

    LABELS, PREDICTIONS and weights are paths of arrays: in zarr (dump.zarr/logits), .npy, .npz, safetensors, HDF5,
    Parquet, Arrow, .kld or raw files. LABELS alone is a dump whose arrays have the usual names. Exit status: 0 only
    with a complete result, 1 if the run failed, 2 for bad use or bad input.
    """


@main.command()
@_asks(Shown)
@SCHEDULER
@WORKERS
@JSON
@click.option("--csv", type=Target(), metavar="FILE", help="Write the slices as comma-separated values as well.")
@click.option("--html", type=Target(), metavar="FILE", help="Write the report as a page to send on as well.")
@click.option(
    "--output",
    type=Target(".json", ".html"),
    metavar="FILE",
    help="Write the report to a file as well, as JSON or HTML by its ending.",
)
@click.option(
    "--fail-if",
    "limits",
    type=Limit(),
    multiple=True,
    metavar="LIMIT",
    help="End with status 1 if a metric is beyond a limit, such as 'crossentropy>2.5' or 'accuracy<0.7'.",
)
def evaluate(
    scheduler: str | None,
    workers: int | None,
    as_json: bool,
    csv: Path | None,
    html: Path | None,
    output: Path | None,
    limits: tuple[tuple[str, str, float], ...],
    progress: bool | None,
    **options: Any,
) -> None:
    """Evaluate PREDICTIONS against LABELS."""
    from daskxent import api

    for name, _, _ in limits:
        if name not in options["metrics"]:
            raise click.UsageError(f"--fail-if: {name} is not a --metric of this run")
    if csv is not None and not options["by"]:
        raise click.UsageError("--csv needs --by")

    with _client(scheduler, workers, options["threads"]) as client:
        report = api.evaluate(**options, client=client, progress=_progress(progress))
    try:
        if csv is not None:
            csv.write_text("\n".join(each.to_csv() for each in report.slices), encoding="utf-8")
        if html is not None:
            html.write_text(report.to_html(html.stem), encoding="utf-8")
        if output is not None:
            report.save(output)
    finally:  # whatever cannot be written
        click.echo(report.to_json() if as_json else _text(report, _described(report)))
    beyond = [
        f"{name} is {report[name]:.6g}, which is {sign} {limit:g}"
        for name, sign, limit in limits
        if not BEYOND[sign](limit, report[name])
    ]  # NaN is beyond any limit
    for each in beyond:
        _say(f"Error: --fail-if: {each}")
    if beyond:
        click.get_current_context().exit(FAILED)


@main.command()
@_asks(Run)
@SCHEDULER
@WORKERS
@JSON
def plan(scheduler: str | None, workers: int | None, as_json: bool, **options: Any) -> None:
    """Say what `evaluate` would read, in which parts, with how much memory; evaluate nothing."""
    import json

    from daskxent import api

    with _client(scheduler, workers, options["threads"]) as client:
        found = api.plan(**options, client=client)
    click.echo(json.dumps(found.to_dict()) if as_json else _table("Plan", found.lines()))


@main.command()
@_asks(Rows)
@SCHEDULER
@WORKERS
def rows(scheduler: str | None, workers: int | None, progress: bool | None, out: str, **options: Any) -> None:
    """Evaluate PREDICTIONS against LABELS, and keep columns of every row in a zarr group."""
    from daskxent import api

    with _client(scheduler, workers, options["threads"]) as client:
        arrays = api.rows(**options, out=out, client=client, progress=_progress(progress))
    for name, array in arrays.items():
        click.echo(f"{out}/{name}  {array.shape} {array.dtype}")


@main.command()
@click.argument("reports", metavar="REPORT...", nargs=-1, required=True)
@click.option("--dumps", is_flag=True, help="The reports are about different dumps, joined along the rows.")
@JSON
@click.pass_context
def merge(ctx: click.Context, reports: tuple[str, ...], dumps: bool, as_json: bool) -> None:
    """Join reports of different rows, as `evaluate --steps --json` writes them, to that of one run over all.

    The exit status is 1 if rows are missing; they are listed.
    """
    from daskxent.report import Report

    report = Report.merge(*map(_read_report, reports), dumps=dumps)
    click.echo(report.to_json() if as_json else _text(report, report.lines()))
    for start, stop in report.gaps:
        _say(f"Missing: rows {start} to {stop - 1}")
    if report.gaps:
        ctx.exit(FAILED)


@main.command()
@click.argument("report")
@click.option("--parts", type=click.IntRange(1), default=8, show_default=True, metavar="N", help="How many.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Chooses others.")
def verify(report: str, parts: int, seed: int) -> None:
    """Evaluate some of the parts behind REPORT again and compare every bit.

    REPORT was written by `evaluate --journal FILE --json`; the journal and the arrays must be where they were.
    """
    from daskxent import api
    from daskxent.show.tables import amount

    checked = api.verify(_read_report(report), parts=parts, seed=seed)
    click.echo(f"{amount(checked, 'part')} gave the same bits")


def _read_report(path: str) -> Report:
    from pathlib import Path

    from daskxent.report import Report

    try:
        return Report.from_json(Path(path).expanduser().read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no report: {error}") from error


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes commands, options, metrics and paths in SHELL.

    For bash: eval "$(daskxent completion bash)", in ~/.bashrc for all time.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "daskxent", "_DASKXENT_COMPLETE").source())


@main.command()
@click.option("--size", default="1GB", show_default=True, help="Size of the dump, such as 100MB or 2GiB.")
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Where to write the dump.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads to evaluate on; by default one per core.")
@click.option("--progress/--no-progress", default=None, help="By default bars are drawn on terminals only.")
def demo(size: str, out: str, threads: int | None, progress: bool | None) -> None:
    """Write a real dump, once, and evaluate it.

    A classifier trained on scikit-learn's handwritten digits gives the logits, over as many augmented digits as fill
    the size. A later run with the same size and directory reuses the dump.
    """
    from pathlib import Path

    from daskxent import api
    from daskxent.demo import parse_size, pictures, write_dump
    from daskxent.show.page import page

    bar = _progress(progress)
    dump = write_dump(Path(out).expanduser() / "digits.zarr", parse_size(size), progress=bar is True)
    report = api.evaluate(
        dump / "labels",
        dump / "logits",
        sample_weight=dump / "weights",
        from_logits=True,
        metrics=["crossentropy", "accuracy", "ece"],
        by={"digit": "label"},
        histograms=["crossentropy"],
        worst=WORST,
        threads=threads,
        progress=bar,
    )
    into = dump.parent / "report.html"
    more = [("The worst digits", pictures(report.worst))]
    into.write_text(page(report, "Handwritten digits", more), encoding="utf-8")
    lines = [("dump", f"{dump}, {show_bytes(_size_on_disk(dump))}"), *_described(report), ("page", f"{into}: open it")]
    click.echo(_table("Report", lines))


def _size_on_disk(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _progress(progress: bool | None) -> Any:
    """Return how to show progress: drawn if that is wanted or on a terminal, else a line now and then."""
    from daskxent.show.progress import NowAndThen, on_terminal

    if sys.stderr is None:
        return None
    if progress is None:
        return True if on_terminal() else NowAndThen()
    return progress or None


@contextmanager
def _client(address: str | None, workers: int | None, threads: int | None) -> Iterator[Any]:
    """Connect to a scheduler, or start a cluster of processes, if either is asked for; and end it."""
    given = {"--scheduler": address, "--workers": workers, "--threads": threads}
    several = [flag for flag, value in given.items() if value is not None]
    if len(several) > 1:
        raise click.UsageError(f"{' and '.join(several)} exclude each other")
    if address is None and workers is None:
        yield None
        return
    try:
        from distributed import Client, LocalCluster
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise ImportError(f"{several[0]} needs distributed: pip install 'daskxent[distributed]'") from error
    if workers is not None:
        with _held_back():
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # or it would say that the usual port is in use
                preload=QUIET,
            )
        with local as cluster, Client(cluster, set_as_default=False) as client:
            yield client
        return
    get_address_host_port(str(address))  # a client that is given no address leaves threads behind
    with Client(address, set_as_default=False) as client:
        yield client


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold interrupts back, in processes that are started meanwhile to their end."""
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _table(title: str, lines: list[tuple[str, str]]) -> str:
    """Return a table for terminals, in the words of a shell; the names of arrays are left as they are."""
    arrays = ("labels", "predictions", "weights")
    return as_text(title, [(label, text if label in arrays else in_words(text, FLAGS)) for label, text in lines])


def _text(report: Report, lines: list[tuple[str, str]]) -> str:
    return "\n".join([_table("Report", lines), *map(repr, report.tables())])


def _described(report: Report) -> list[tuple[str, str]]:
    return [*report.lines(), ("peak memory", f"{show_bytes(peak_memory())} of this process")]
