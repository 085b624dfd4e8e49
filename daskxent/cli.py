"""The command line: ``daskxent``, ``python -m daskxent`` and ``dask xent``.

Only click and the options are imported at the top, so that ``--help`` is quick. Exit status: 0 with a complete result,
1 when a run failed, 2 for bad use or bad input, 130 when interrupted.
"""

from __future__ import annotations

import functools
import sys
import warnings
from contextlib import contextmanager
from dataclasses import fields
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import click

from daskxent.options import Rows, Run, Shown
from daskxent.show.arguments import BEYOND, Amount, By, Limit, Option, Steps, What
from daskxent.show.tables import as_text, printable, show_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daskxent.report import Report

FAILED, BAD_USE, INTERRUPTED = 1, 2, 130
PATIENCE = 2.0  # seconds of compilation after which it is reported
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
        click.echo(printable(message), err=True)
        ctx.exit(status)


def _kept(error: BaseException) -> str:
    """Say what was evaluated before an error, and where it is kept."""
    report, journal = getattr(error, "report", None), getattr(error, "journal", None)
    if report is None or not report.rows:
        return ""
    more = f"; they are in {journal}, and the same line goes on from there" if journal else ""
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
        warnings.showwarning = lambda message, *_, **__: click.echo(printable(f"Warning: {message}"), err=True)
        yield


def _as_mapping(ctx: click.Context, param: click.Parameter, pairs: Any) -> Any:
    return dict(pairs) or None


# What is special about an option in a shell; its default and its meaning are those of `options`.
SHELL: dict[str, dict[str, Any]] = {
    "sample_weight": {"flags": ["--weights"], "metavar": "PATH"},
    "by": {"type": By(), "metavar": "NAME=WHAT", "multiple": True},
    "binary": {"is_flag": True},
    "worst": {"type": int, "metavar": "N"},
    "worst_by": {"type": click.Choice(["crossentropy", "confidence", "entropy"]), "show_default": True},
    "worst_per_group": {"is_flag": True},
    "sample": {"type": int, "metavar": "N"},
    "seed": {"type": int, "metavar": "N"},
    "per_class": {"is_flag": True},
    "confusions": {"is_flag": True},
    "zero_division": {"type": float, "metavar": "X", "show_default": True},
    "storage_options": {
        "flags": ["--storage-option"],
        "type": Option(),
        "metavar": "KEY=VALUE",
        "multiple": True,
        "callback": _as_mapping,
    },
    "histograms": {"flags": ["--histogram"], "metavar": "NAME", "multiple": True},
    "ranks": {"is_flag": True},
    "calibration_bins": {"type": int, "metavar": "N", "show_default": True},
    "temperature": {"type": float, "metavar": "T"},
    "ids": {"metavar": "PATH"},
    "shift": {"type": int, "metavar": "N"},
    "mask": {"metavar": "PATH"},
    "classes": {"type": int, "metavar": "N"},
    "bytes": {"type": Amount(), "metavar": "PATH|N"},
    "words": {"type": Amount(), "metavar": "PATH|N"},
    "clusters": {"type": What(), "metavar": "WHAT"},
    "average": {"type": click.Choice(["row", "cluster"]), "show_default": True},
    "from_logits": {"is_flag": True},
    "predictions": {"type": click.Choice(["logits", "probabilities", "log_probabilities"])},
    "metrics": {"flags": ["--metric"], "metavar": "NAME", "multiple": True, "show_default": True},
    "axis": {"type": int, "show_default": True},
    "dim": {"metavar": "NAME"},
    "ignore_class": {"type": int, "metavar": "N", "multiple": True},
    "label_smoothing": {"type": float, "metavar": "X"},
    "on_invalid": {"type": click.Choice(["raise", "skip", "count"]), "show_default": True},
    "allow_negative_weights": {"is_flag": True},
    "view": {"type": click.Choice(["bfloat16"])},
    "on_missing": {"type": click.Choice(["raise", "fill"])},
    "steps": {"type": Steps(), "metavar": "START:STOP"},
    "threads": {"type": int, "metavar": "N"},
    "worker_timeout": {"type": float, "metavar": "SECONDS"},
    "journal": {"metavar": "FILE"},
    "columns": {"flags": ["--column"], "metavar": "NAME", "multiple": True, "show_default": True},
    "out": {"metavar": "GROUP", "required": True},
    "progress": {
        "flags": ["--progress/--no-progress"],
        "default": None,
        "help": "Draw a bar; by default on terminals only.",
    },
}
SCHEDULER = click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster with this scheduler.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")


def _asks(table: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command LABELS, PREDICTIONS and the options of a table that a shell can give."""
    given = [each for each in fields(table) if each.name in SHELL]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for each in reversed(given):
            special = dict(SHELL[each.name])
            default = {} if each.default is None else {"default": each.default}
            flags = special.pop("flags", [f"--{each.name.replace('_', '-')}"])
            means = each.metadata["means"].replace("\n", " ").partition(". ")[0].rstrip(".") + "."
            command = click.option(*flags, each.name, **{**default, "help": means, **special})(command)
        command = click.argument("y_pred", metavar="[PREDICTIONS]", required=False)(_complete(command))
        return click.argument("y_true", metavar="LABELS")(command)

    return decorate


def _complete(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dump alone, whose arrays have conventional names; say on stderr which they are."""

    @functools.wraps(command)
    def call(y_true: str, y_pred: str | None, **options: Any) -> None:
        if y_pred is None:
            from daskxent.sources.conventional import conventional

            found = conventional(y_true)
            y_true, y_pred = found["labels"], found["predictions"]
            options["sample_weight"] = weights = options.get("sample_weight") or found.get("weights")
            if y_pred.endswith("/log_probabilities"):
                options["predictions"] = options.get("predictions") or "log_probabilities"
            shown = f", weights {weights}" if weights else ""
            click.echo(printable(f"Taking labels {y_true}, predictions {y_pred}{shown}"), err=True)
        command(y_true=y_true, y_pred=y_pred, **options)

    return call


@click.group(
    "xent", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}
)  # the name is that of the command within `dask`
@click.version_option(package_name="daskxent", prog_name="daskxent")
def main() -> None:
    """Crossentropy and accuracy over prediction dumps bigger than memory.

    LABELS, PREDICTIONS and weights are zarr arrays (dump.zarr/logits) or .npy files; LABELS alone is a dump whose
    arrays have usual names. Exit status: 0 only with a complete result, 1 if the run failed, 2 for bad use or bad
    input.
    """


@main.command()
@_asks(Shown)
@SCHEDULER
@JSON
@click.option("--csv", metavar="FILE", help="Write the slices as comma-separated values as well.")
@click.option("--html", metavar="FILE", help="Write the report as a page to send on as well.")
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
    as_json: bool,
    csv: str | None,
    html: str | None,
    limits: tuple[tuple[str, str, float], ...],
    progress: bool | None,
    **options: Any,
) -> None:
    """Evaluate PREDICTIONS against LABELS."""
    from daskxent import api

    for name, _, _ in limits:
        if name not in options["metrics"]:
            raise click.UsageError(f"--fail-if: {name} is no --metric of this run")

    with _client(scheduler, options["threads"]) as client, _reporting_compilation():
        report = api.evaluate(**options, client=client, progress=_wants_bar(progress))
    if csv is not None:
        _write_slices(report, csv)
    if html is not None:
        report.save(html)
    text = "\n".join([as_text("Report", _described(report)), *map(repr, report.tables())])
    click.echo(report.to_json() if as_json else text)
    beyond = [
        f"{name} is {report[name]:.6g}, which is {sign} {limit:g}"
        for name, sign, limit in limits
        if not BEYOND[sign](limit, report[name])
    ]  # NaN is beyond any limit
    for each in beyond:
        click.echo(f"Error: --fail-if: {each}", err=True)
    if beyond:
        click.get_current_context().exit(FAILED)


def _write_slices(report: Report, path: str) -> None:
    """Write all slices to a file, one table after the other."""
    from pathlib import Path

    if not report.slices:
        raise click.UsageError("--csv needs --by")
    Path(path).expanduser().write_text("\n".join(each.to_csv() for each in report.slices))


@main.command()
@_asks(Run)
@SCHEDULER
@JSON
def plan(scheduler: str | None, as_json: bool, **options: Any) -> None:
    """Say what `evaluate` would read, in which parts, with how much memory; evaluate nothing."""
    import json

    from daskxent import api

    with _client(scheduler, options["threads"]) as client:
        found = api.plan(**options, client=client)
    click.echo(json.dumps(found.to_dict()) if as_json else repr(found))


@main.command()
@_asks(Rows)
@SCHEDULER
def rows(scheduler: str | None, progress: bool | None, out: str, **options: Any) -> None:
    """Evaluate PREDICTIONS against LABELS, and keep columns of every row in a zarr group."""
    from daskxent import api

    with _client(scheduler, options["threads"]) as client, _reporting_compilation():
        arrays = api.rows(**options, out=out, client=client, progress=_wants_bar(progress))
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
    click.echo(report.to_json() if as_json else repr(report))
    for start, stop in report.gaps:
        click.echo(f"Missing: rows {start} to {stop - 1}", err=True)
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
@click.option("--size", default="1GB", show_default=True, help="Size of the dump, such as 100MB or 2GiB.")
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Where to write the dump.")
@click.option("--threads", type=int, metavar="N", help="Threads to evaluate on; by default one per core.")
@click.option("--progress/--no-progress", default=None, help="By default bars are drawn on terminals only.")
def demo(size: str, out: str, threads: int | None, progress: bool | None) -> None:
    """Write a real dump, once, and evaluate it.

    A classifier trained on scikit-learn's handwritten digits gives the logits, over as many augmented digits as fill
    the size. A later run with the same size and directory reuses the dump.
    """
    from pathlib import Path

    from daskxent import api
    from daskxent.demo import parse_size, write_dump

    bar = _wants_bar(progress)
    dump = write_dump(Path(out).expanduser() / "digits.zarr", parse_size(size), progress=bar)
    with _reporting_compilation():
        report = api.evaluate(
            dump / "labels",
            dump / "logits",
            sample_weight=dump / "weights",
            from_logits=True,
            threads=threads,
            progress=bar,
        )
    click.echo(as_text("Report", [("dump", f"{dump}, {show_bytes(_size_on_disk(dump))}"), *_described(report)]))


@contextmanager
def _reporting_compilation() -> Iterator[None]:
    """Say on stderr, once, that scans are being compiled if that takes long: nothing else is to be seen meanwhile."""
    done = Event()

    def watch() -> None:
        while not done.wait(PATIENCE):  # looking this often, it misses nothing that takes longer
            if _compiling():
                click.echo("\rCompiling the scans, which is done once and kept ...", err=True)  # over the bar, if any
                return

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _compiling() -> bool:
    """Tell whether a compiled function was looked for among the kept ones, in vain, and is not there yet."""
    modules = [module for name, module in sys.modules.copy().items() if name.startswith("daskxent.kernels.")]
    return any(  # of the class of compiled functions itself it is a property, which is not True
        getattr(value, "is_compiling", False) is True for module in modules for value in list(vars(module).values())
    )


def _size_on_disk(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _wants_bar(progress: bool | None) -> bool:
    return sys.stderr.isatty() if progress is None else progress


@contextmanager
def _client(address: str | None, threads: int | None) -> Iterator[Any]:
    """Connect to a scheduler, if there is an address, and disconnect."""
    if address is None:
        yield None
        return
    if threads is not None:
        raise click.UsageError("--threads and --scheduler exclude each other")
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise ImportError("--scheduler needs distributed: pip install 'daskxent[distributed]'") from error
    get_address_host_port(address)  # a client that is given no address leaves threads behind
    with Client(address, set_as_default=False) as client:
        yield client


def _described(report: Report) -> list[tuple[str, str]]:
    return [*report.lines(), ("peak memory", f"{show_bytes(peak_memory())} of this process")]


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes.

    Examples
    --------
    >>> peak_memory() > 1_000_000
    True
    """
    try:
        # On Linux getrusage starts from what the process held that started this one.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
