"""What a report is about, where it was made and with what."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = {"y_true": "labels", "y_pred": "predictions", "sample_weight": "weights"}


def made(on: str) -> dict[str, str]:
    """Return when, where, by which version and on what a report is being made.

    Examples
    --------
    >>> sorted(made("2 threads"))
    ['date', 'host', 'on', 'version']
    """
    return {
        "version": _version(),
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "host": platform.node(),
        "on": on,
    }


@cache
def _version() -> str:
    return version("daskxent")  # which reads a file: 1 ms


def about(report: Any) -> Iterator[tuple[str, str]]:
    """Yield lines of the arrays a report is about, and of how it was made."""
    for name, title in SHOWN.items():
        known = (report.inputs or {}).get(name)
        if known is not None:
            yield title, described(known) + (f", {kind(report)}" if name == "y_pred" else "")
    dumps = (report.inputs or {}).get("dumps")
    if isinstance(dumps, list):
        yield "dumps", f"{len(dumps):,}, one after the other"
    if report.made:
        found = report.made
        yield "made", f"{found['date'].replace('T', ' ').rstrip('Z')} UTC, {found['on']} on {found['host']}"


def kind(report: Any) -> str:
    """Return what the predictions are."""
    if report.question.log_probabilities:
        return "log-probabilities"
    return "logits" if report.question.from_logits else "probabilities"


def described(known: Any) -> str:
    """Say in a few words what an array is known by.

    Examples
    --------
    >>> described({"where": "file:///data/d.zarr/x", "shape": [5, 3], "dtype": "float32", "layout": {"chunks": [2, 3]}})
    '/data/d.zarr/x, (5, 3) float32 in chunks of (2, 3)'
    >>> described({"sliced": {"where": "x.npy", "shape": [5, 3], "dtype": "float32"}, "index": [[0, 4], [0, 3]]})
    'a part of x.npy, (5, 3) float32'
    """
    if not isinstance(known, dict):
        return str(known)
    if "sliced" in known:
        return f"a part of {described(known['sliced'])}"
    if isinstance(known.get("joined"), list) and known["joined"]:
        return f"{len(known['joined'])} arrays, the first {described(known['joined'][0])}"
    where = str(known.get("where", "")).removeprefix("file://")
    layout = known.get("layout")
    where = "in memory" if where == "memory" else os.path.relpath(where) if _is_below(where) else where
    chunks = layout.get("chunks") if isinstance(layout, dict) else None
    stored = f" in chunks of {_shape(chunks)}" if chunks else ""
    return f"{where}, {_shape(known.get('shape'))} {known.get('dtype', '')}{stored}"


def _shape(given: Any) -> str:
    """Write a shape as Python does, whatever a report has for it."""
    return str(tuple(given)) if isinstance(given, (list, tuple)) else str(given)


def _is_below(path: str) -> bool:
    """Return whether a path is below the current directory; nothing is below one that was removed."""
    try:
        return path.startswith(f"{os.getcwd()}{os.sep}")
    except OSError:
        return False
