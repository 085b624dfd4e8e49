"""The public functions of daskxent, whichever revision is installed: where two differ in names, they meet here.

All that `answers` asks of the package, and all that it looks at in what comes back, goes through this module; which
name a revision has is found by looking, never by its version.
"""

from __future__ import annotations

import inspect
import json
import re
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


def _old(statistic: str) -> str:
    """Return what a statistic was called before it had the name of its mean."""
    top = re.fullmatch(r"top_(\d+)_accuracy", statistic)
    return f"hit_in_top_{top[1]}" if top else {"crossentropy": "loss", "accuracy": "hit"}[statistic]


def _finding(kind: str, report: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return a finding; until 84d66a7 a weight that did not count was shown as 0, and a class sometimes as a float."""
    first = [
        [row, None if kind.startswith("weight") else int(value) if kind == "ignored" else value]
        for row, value in state["audit"][kind]["first"]
    ]
    return {"count": report.audit[kind]["count"], "rows": report.audit[kind]["rows"], "first": first}


# Findings that not every revision has.
LATER = ("equal", "coarse", "loss_infinite", "weight_extreme")


def said(text: str) -> str:
    """Return what an error says, without the value of a weight, which until 84d66a7 could be shown as 0, and hints."""
    text = re.sub(r"^rows: ", "steps: ", text)
    text = re.sub(r"; evaluate\(\.\.\., on_missing='fill'\) reads it as the fill value \S+$", "", text)
    return re.sub(r"^sample_weight: \S+ at row", "sample_weight: ... at row", text)


def contents(report: Any) -> dict[str, Any]:
    """Return everything in a report that is a matter of bits, in one form for all revisions."""
    state = json.loads(report.to_json())["state"]
    found = {name: report[name] for name in report}
    if "sums" in state:
        state |= next(sums for key, sums in state["sums"] if not key)
    if "total" in state:
        state |= state["total"]
    if "sums" in state or "total" in state:
        state["totals"] = {_old(name): total for name, total in state["totals"].items()}
    found |= {"rows": report.rows, "weight": report.weight, "counted": state["counted"], "complete": report.complete}
    found |= {"clipped_share": report.clipped_share, "expected": report.expected, "covered": state["covered"]}
    sums = {"weight": state["weight"], "clipped_loss": state["clipped_loss"], **state["totals"]}
    audit = {kind: _finding(kind, report, state) for kind in report.audit if kind not in LATER}
    words = {kind: finding["what"] for kind, finding in report.audit.items() if kind not in LATER}
    return {"metrics": found, "sums": sums, "audit": audit, "words": words}
