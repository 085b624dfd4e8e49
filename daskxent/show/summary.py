"""What a report says in a few lines."""

from __future__ import annotations

import math
from typing import Any

from daskxent.numbers import statistics
from daskxent.show.provenance import about
from daskxent.show.tables import amount

FEW_CLUSTERS = 50  # below which cluster-robust errors are known to be too small (Cameron and Miller 2015)


def lines_of(report: Any) -> list[tuple[str, str]]:
    """Return (label, text) pairs: what the tables for terminals and notebooks show."""
    errors = report.se
    shown = [
        (name, str(report.temperature()) if name == "temperature" else _shown(value, errors[name], name))
        for name, value in report.items()
    ]
    shown += _distributions(report)
    if any(map(math.isfinite, errors.values())):
        shown.append(("±", f"standard error, {_independent(report)}"))
    done = f"{report.rows:,}" if report.complete else f"{report.rows:,} of {report.expected:,} (incomplete)"
    blocks = (report.inputs or {}).get("class_blocks", 1)
    classes = f"{report.question.classes:,}" + (f" in {blocks:,} blocks" if blocks > 1 else "") + _padding(report)
    shown += [("rows", done), ("classes", classes), ("weight", f"{report.weight:,.10g}")]
    shown += about(report)
    if report.elapsed:
        speed = f", {report.nbytes / report.elapsed / 1e9:.2f} GB/s" if report.nbytes else ""
        shown.append(("elapsed", f"{report.elapsed:.2f} s{speed}"))
    if report.retries:
        shown.append(("retries", f"{report.retries:,} of failed reads"))
    for found in report.audit.values():
        places = ", ".join(f"{row:,}" for row in found["rows"][:3])
        where = f"row {places}{', ...' if found['count'] > 3 else ''}"
        where = _as_ranges(found["runs"]) if "runs" in found else where
        shown.append((amount(found["count"], "row"), f"{found['what']}: {where}"))
    if report.state.total.clipped_loss.units:
        shown.append(("clipped share", f"{report.clipped_share:.2%} of the summed loss"))
    return shown + [("note", note) for note in report.notes]


def _distributions(report: Any) -> list[tuple[str, str]]:
    """Return lines of quantiles, and of the accuracy of the k largest, where they were asked for."""
    lines = []
    for name in report.question.histograms:
        values = ", ".join(f"{value:.5g}" for value in report.quantile(name, SHARES))
        lines.append((f"{name} at", f"{', '.join(f'{share:.4g}' for share in SHARES)} of the rows: {values}"))
    if report.question.ranks:
        curve = report.top_k_curve()
        some = [line for line in curve if line["k"] in (1, 2, 5, 10, 100, 1000)]
        lines.append(("top k", ", ".join(f"{line['k']}: {line['accuracy']:.4g}" for line in some)))
    return lines


SHARES = (0.1, 0.5, 0.9, 0.99, 0.999)


def _padding(report: Any) -> str:
    """Say where the labels end, if what is left of many classes looks like the padding of a vocabulary."""
    classes, used = report.question.classes, report.state.largest + 1
    padded = classes >= MANY and classes % 64 == 0 and 0.95 * classes < used < classes
    return f"; labels end at {used - 1:,}: if the rest is padding, classes={used}" if padded else ""


MANY = 1000  # classes


def _independent(report: Any) -> str:
    """Say what is taken as independent."""
    clusters = report._of_rows.clusters
    if clusters is None:
        return "rows taken as independent"
    few = "" if clusters.count >= FEW_CLUSTERS else ", which are few: it may be too small"
    over = "means of " if report.question.average == "cluster" else ""
    return f"{over}{clusters.count:,} clusters{few}"


def doubts_of(report: Any) -> tuple[str, ...]:
    """Say what makes it doubtful that the numbers of a report mean what was asked for."""
    found, audit = [], report.state.audit
    if report.question.from_logits and report.state.like_probabilities and report.state.total.counted:
        found.append("y_pred: all rows look like probabilities that sum to 1, but were taken as logits")
    if "unnormalised" in audit:
        rows = amount(audit["unnormalised"].count, "row")
        what = "probabilities do not sum to 1; logits need from_logits=True"
        if report.question.log_probabilities:
            what = "log-probabilities are above 0; logits need predictions='logits'"
        found.append(f"y_pred: {rows} of {what}")
    if "equal" in audit and audit["equal"].count * 100 >= report.rows:
        rows, runs = amount(audit["equal"].count, "row"), report.state.equal
        where = f"the first at row {audit['equal'].first[0][0]}" if runs is None else _as_ranges(runs)
        found.append(f"y_pred: {rows} of nothing but equal numbers, {where}; was all of it written?")
    if "weight_extreme" in audit:
        rows = amount(audit["weight_extreme"].count, "row")
        found.append(
            f"sample_weight: {rows} with weights beyond 1e140 or below 1e-140; scale them, or errors are wrong"
        )
    if report.question.given_units and report.gaps and report.complete:
        unit = min(report.question.given_units)
        found.append(
            f"{unit}: the number is of the whole text, of which these are some rows: what is per {unit} is NaN"
        )
    if report.state.unshifted:
        found.append("y_true: labels match the predictions of the row before them, not their own: tokens need shift=1")
    return tuple(found)


def _as_ranges(runs: Any) -> str:
    """Write ranges of rows as people do.

    Examples
    --------
    >>> _as_ranges([(7, 8)]), _as_ranges([(7, 8), (1000, 2000)])
    ('row 7', 'rows 7, 1,000 to 1,999')
    """
    few = ", ".join(f"{start:,}" if stop == start + 1 else f"{start:,} to {stop - 1:,}" for start, stop in runs[:3])
    return f"row{'' if few.isdigit() else 's'} {few}{', ...' if len(runs) > 3 else ''}"


def _shown(value: float, error: float, name: str) -> str:
    unit = statistics.metric(name).unit
    return f"{value:.10g}{f' ± {error:.2g}' if math.isfinite(error) else ''} {unit}".rstrip()
