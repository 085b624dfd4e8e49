"""Show how far an evaluation is: a line that is drawn over itself, lines now and then, or a table in a notebook."""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from daskxent.show.tables import as_html, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from daskxent.report import Report

REDRAWN, LINES, UPDATED = 0.1, 30.0, 0.5  # seconds between two on a terminal, in a file, and in a notebook
WIDTH = 80
NOTEBOOK = "ZMQInteractiveShell"  # IPython's class where there is a page to draw on


def shown(reports: Iterator[Report], progress: bool | Callable[[Report], None] | None) -> Generator[Report]:
    """Pass reports on, each to a display (True) or to a callable first."""
    if progress is True:
        display: Display = _in_notebook() or (Line() if on_terminal() else Lines())
        yield from _drawn(reports, display)
        return
    for report in reports:
        if callable(progress):
            progress(report)
        yield report


def line(report: Report, width: int = WIDTH) -> str:
    """Return one line that says how far a report is, how fast, and what it is about to say.

    Examples
    --------
    >>> import dataclasses
    >>> import daskxent as dx
    >>> report = dx.evaluate([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    >>> line(dataclasses.replace(report, elapsed=0.0))
    '100 %  2 of 2 rows  crossentropy 0.1643  accuracy 1'
    >>> line(dataclasses.replace(report, elapsed=2.0, expected=8, nbytes=10**10))
    '25 %  2 of 8 rows  1/s  5.00 GB/s  0:06 left  crossentropy 0.1643  accuracy 1'
    """
    share = report.rows / report.expected if report.expected else 1.0
    parts = [f"{math.floor(100 * share)} %", f"{short(report.rows)} of {short(report.expected)} rows"]
    if report.elapsed > REDRAWN:
        parts.append(f"{short(report.rows / report.elapsed)}/s")
        parts.append(f"{report.nbytes / report.elapsed / 1e9:.2f} GB/s")
        if 0 < share < 1:
            parts.append(f"{as_clock(report.elapsed * (1 - share) / share)} left")
    for name, value in report.items():
        if len("  ".join([*parts, f"{name} {value:.4g}"])) > width:
            break
        parts.append(f"{name} {value:.4g}")
    return printable("  ".join(parts))


def short(count: float) -> str:
    """Return a number in few characters.

    Examples
    --------
    >>> short(950), short(22_222_222), short(1.5e9)
    ('950', '22.2 M', '1.5 G')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def as_clock(seconds: float) -> str:
    """Return seconds as a clock shows them.

    Examples
    --------
    >>> as_clock(75), as_clock(4000)
    ('1:15', '1:06:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def on_terminal() -> bool:
    """Return whether there is a stderr, and it is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def _write(text: str) -> None:
    """Write on stderr; an evaluation does not end because nobody reads that."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


class Display:
    """What shows reports, at most every `pause` seconds."""

    pause = 0.0

    def show(self, report: Report) -> None:
        """Show a report that is not the last one."""

    def end(self) -> None:
        """Leave what was shown last."""


class Line(Display):
    """A line on a terminal, drawn over itself."""

    pause = REDRAWN

    def show(self, report: Report) -> None:
        """Draw the line."""
        _write(f"\r{line(report, WIDTH - 1):<{WIDTH - 1}}")

    def end(self) -> None:
        """Leave the last line standing."""
        _write("\n")


class Lines(Display):
    """A line now and then, in a file or a pipe."""

    pause = LINES

    def show(self, report: Report) -> None:
        """Write a line."""
        _write(f"{line(report)}\n")


class NowAndThen:
    """A line in a file or a pipe, for every 30 seconds that an evaluation takes."""

    def __init__(self) -> None:
        self._due = time.monotonic() + LINES

    def __call__(self, report: Report) -> None:
        """Write a line if it is time."""
        if time.monotonic() >= self._due:
            Lines().show(report)
            self._due += LINES


class Page(Display):
    """A table in a notebook, updated in place; what was last there stays in the notebook."""

    pause = UPDATED

    def __init__(self) -> None:
        from IPython import display

        shows: Any = display
        self._html = shows.HTML
        self._handle = shows.display(self._html(""), display_id=True)

    def show(self, report: Report) -> None:
        """Show the running figures, which are marked as partial."""
        lines = [("so far", line(report)), *report.lines()]
        title = "daskxent report" if report.complete else "daskxent report, partial"
        self._handle.update(self._html(as_html(title, lines)))


def _in_notebook() -> Display | None:
    """Return a display for the notebook that this runs in, if it is one."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return Page() if type(shell).__name__ == NOTEBOOK else None


def _drawn(reports: Iterator[Report], display: Display) -> Iterator[Report]:
    last, seen, due = None, None, 0.0
    try:
        for report in reports:
            last = report
            if time.monotonic() >= due:
                display.show(report)
                seen, due = report, time.monotonic() + display.pause
            yield report
    finally:
        if last is not None:
            if last is not seen:
                display.show(last)
            display.end()
