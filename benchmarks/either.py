"""The public functions of daskxent, whichever revision is installed: where two differ in names, they meet here.

All that `answers` asks of the package, and all that it looks at in what comes back, goes through this module; which
name a revision has is found by looking, never by its version.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import daskxent as dx


def joined(members: list[Any], axis: int) -> Any:
    """Return consecutive blocks of classes as predictions."""
    return dx.concat(members, axis=axis) if hasattr(dx, "concat") else members


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Return options by the names that this revision has for them."""
    if "rows" in options and "rows" not in inspect.signature(dx.evaluate).parameters:
        return {"steps" if name == "rows" else name: value for name, value in options.items()}
    return options


def evaluate(y_true: Any, y_pred: Any, **options: Any) -> Any:
    return dx.evaluate(y_true, y_pred, **_named(options))


def stream(y_true: Any, y_pred: Any, **options: Any) -> list[Any]:
    return list(dx.stream(y_true, y_pred, **_named(options)))


def delayed(y_true: Any, y_pred: Any, **options: Any) -> Any:
    """Return the evaluation as a Delayed."""
    if hasattr(dx, "delayed"):
        return dx.delayed(y_true, y_pred, **_named(options))
    return dx.evaluate(y_true, y_pred, compute=False, **_named(options))


def verify(report: Any) -> int:
    return dx.verify(report)


def loss_function(name: str) -> Any:
    return getattr(dx.losses, name)


def loss_class(name: str) -> Any:
    return getattr(dx.losses, "".join(word.capitalize() for word in name.split("_")))


def metric(name: str, **options: Any) -> Any:
    return getattr(dx.metrics, name)(**options)


def contents(report: Any) -> dict[str, Any]:
    """Return everything in a report that is a matter of bits, in one form for all revisions."""
    state = json.loads(report.to_json())["state"]
    found = {name: report[name] for name in report}
    found |= {"rows": report.rows, "weight": report.weight, "counted": state["counted"], "complete": report.complete}
    found |= {"clipped_share": report.clipped_share, "expected": report.expected, "covered": state["covered"]}
    sums = {"weight": state["weight"], "clipped_loss": state["clipped_loss"], **state["totals"]}
    audit = {
        kind: {"count": finding["count"], "rows": finding["rows"], "first": state["audit"][kind]["first"]}
        for kind, finding in report.audit.items()
    }
    words = {kind: finding["what"] for kind, finding in report.audit.items()}
    return {"metrics": found, "sums": sums, "audit": audit, "words": words}
