"""Show how far an evaluation is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from daskxent.report import Report


def shown(reports: Iterator[Report], progress: bool | Callable[[Report], None] | None) -> Generator[Report]:
    """Pass reports on, each to a bar (True) or to a callable first."""
    if progress is True:
        yield from _drawn(reports)
        return
    for report in reports:
        if callable(progress):
            progress(report)
        yield report


def _drawn(reports: Iterator[Report]) -> Iterator[Report]:
    from tqdm import tqdm

    with tqdm(unit=" rows", unit_scale=True, desc="daskxent") as bar:
        for report in reports:
            bar.total = report.expected
            bar.update(report.rows - bar.n)
            bar.set_postfix({name: f"{value:.5g}" for name, value in report.items()}, refresh=False)
            yield report
