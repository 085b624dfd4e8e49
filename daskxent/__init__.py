"""Crossentropy and accuracy, with Keras's meaning, over prediction dumps bigger than memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskxent import losses, metrics
    from daskxent.api import aevaluate, astream, delayed, evaluate, plan, rows, stream, verify
    from daskxent.report import Report
    from daskxent.run.failures import (
        ClusterLost,
        IncompleteResult,
        Interrupted,
        Poisoned,
        Stalled,
        Unreadable,
        Unwritable,
    )
    from daskxent.run.journal import JournalError
    from daskxent.run.planning import Plan
    from daskxent.run.slicing import axis, bins
    from daskxent.run.writer import Dump, create, reopen
    from daskxent.sources.opening import concat

__all__ = [
    "ClusterLost",
    "DoubtfulResult",
    "Dump",
    "IncompleteResult",
    "Interrupted",
    "JournalError",
    "Plan",
    "Poisoned",
    "Report",
    "Stalled",
    "Unreadable",
    "Unwritable",
    "aevaluate",
    "astream",
    "axis",
    "bins",
    "concat",
    "create",
    "delayed",
    "evaluate",
    "losses",
    "metrics",
    "open",
    "plan",
    "reopen",
    "rows",
    "stream",
    "verify",
]

_HOMES = {
    "ClusterLost": "daskxent.run.failures",
    "DoubtfulResult": "daskxent.run.failures",
    "Dump": "daskxent.run.writer",
    "IncompleteResult": "daskxent.run.failures",
    "Interrupted": "daskxent.run.failures",
    "JournalError": "daskxent.run.journal",
    "Plan": "daskxent.run.planning",
    "Poisoned": "daskxent.run.failures",
    "Report": "daskxent.report",
    "Stalled": "daskxent.run.failures",
    "Unreadable": "daskxent.run.failures",
    "Unwritable": "daskxent.run.failures",
    "aevaluate": "daskxent.api",
    "astream": "daskxent.api",
    "axis": "daskxent.run.slicing",
    "bins": "daskxent.run.slicing",
    "concat": "daskxent.sources.opening",
    "create": "daskxent.run.writer",
    "delayed": "daskxent.api",
    "evaluate": "daskxent.api",
    "plan": "daskxent.api",
    "reopen": "daskxent.run.writer",
    "rows": "daskxent.api",
    "stream": "daskxent.api",
    "verify": "daskxent.api",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("daskxent")
    if name == "open":
        return import_module("daskxent.sources.opening").open_lazy
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"daskxent.{name}")
    raise AttributeError(f"module 'daskxent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
