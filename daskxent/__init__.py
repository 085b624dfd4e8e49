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
        DoubtfulResult,
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
    from daskxent.sources.opening import concat, open

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
    "api": ("aevaluate", "astream", "delayed", "evaluate", "plan", "rows", "stream", "verify"),
    "report": ("Report",),
    "run.failures": ("ClusterLost", "DoubtfulResult", "IncompleteResult", "Interrupted", "Poisoned", "Stalled",
                     "Unreadable", "Unwritable"),
    "run.journal": ("JournalError",),
    "run.planning": ("Plan",),
    "run.slicing": ("axis", "bins"),
    "run.writer": ("Dump", "create", "reopen"),
    "sources.opening": ("concat", "open"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("daskxent")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"daskxent.{module}"), name)
    if name in __all__:
        return import_module(f"daskxent.{name}")
    raise AttributeError(f"module 'daskxent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
