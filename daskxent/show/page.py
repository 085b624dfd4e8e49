"""A report as one file to send on: HTML that needs no network and no scripts, light and dark, on phones and paper."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from daskxent.numbers import statistics
from daskxent.numbers.keys import Group
from daskxent.show import drawing
from daskxent.show.provenance import about
from daskxent.show.tables import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from daskxent.show.slices import Slices

MOST_LINES, LONG = 500, 30  # lines of a table, and from how many on it is folded up
STYLE = """
:root { --ink: #1c2024; --faint: #6b7280; --paper: #fff; --line: #e3e6ea; --soft: #f5f7f9; --blue: #2563b8;
  --band: #2563b833; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --faint: #9aa3ad; --paper: #15181b; --line: #2c3137; --soft: #1d2125; --blue: #6ea8ff;
    --band: #6ea8ff33; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 36px 0 10px; }
p { margin: 4px 0; } .faint { color: var(--faint); } .warn { border-left: 3px solid #d97706; padding-left: 10px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 10px; margin: 18px 0; }
.card { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.card b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--faint); font-weight: 600; }
td .share { display: inline-block; height: 9px; background: var(--blue); opacity: .55; border-radius: 2px; }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: var(--faint); }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--faint); } svg .bar { fill: var(--blue); }
svg .faint { opacity: .3; } svg .line { fill: none; stroke: var(--blue); stroke-width: 2; }
svg .band { fill: var(--band); }
svg .even { stroke: var(--faint); stroke-dasharray: 4 4; } svg .dot { fill: var(--blue); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; font-size: 14px; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
th.sorts, summary { cursor: pointer; }
@media print { main { max-width: none; } h2 { break-after: avoid; } svg, .card { break-inside: avoid; } }
"""
# Sorts a table by a column that is clicked on; without it everything can be read as well.
SCRIPT = """
for (const head of document.querySelectorAll("table.sortable th")) {
  head.classList.add("sorts");
  head.onclick = () => {
    const body = head.closest("table").tBodies[0], at = head.cellIndex, sign = head.dataset.down ? 1 : -1;
    const key = row => row.cells[at].dataset.v ?? row.cells[at].textContent;
    const compare = (a, b) => isNaN(+a) || isNaN(+b) ? String(a).localeCompare(b) : a - b;
    head.dataset.down = head.dataset.down ? "" : "1";
    [...body.rows].sort((a, b) => sign * compare(key(a), key(b))).forEach(row => body.append(row));
  };
}
"""


def page(report: Any, title: str = "daskxent report", more: Sequence[tuple[str, str]] = ()) -> str:
    """Return a report as an HTML page.

    Parameters
    ----------
    report : Report
    title : str
    more : sequence of (str, str)
        Further sections, titles and HTML, before that on where the report comes from.

    Returns
    -------
    str

    Examples
    --------
    >>> import daskxent as dx
    >>> text = page(dx.evaluate([0, 1], [[0.9, 0.1], [0.2, 0.8]]))
    >>> text.startswith("<!doctype html>"), "<b>1</b>" in text, "http" in text
    (True, True, False)
    """
    body = "".join(part for section in SECTIONS for part in section(report))
    body += "".join(part for name, inside in more for part in _section(name, [inside]))
    body += "".join(_provenance(report))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    about = f"{report.rows:,} rows of {report.question.classes:,} classes"
    about += "" if report.complete else f", of {report.expected:,}: incomplete"
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{_text(title)}</title><style>{STYLE}</style></head>'
        f'<body><main><h1>{_text(title)}</h1><p class="faint">{about}</p>{body}</main>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _text(given: Any) -> str:
    return escape(printable(str(given)))


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _section(title: str, parts: Iterable[str]) -> Iterator[str]:
    found = list(parts)
    if found:
        yield f"<section><h2>{_text(title)}</h2>"
        yield from found
        yield "</section>"


def _table(lines: Sequence[dict[str, Any]], shares: str = "") -> str:
    """Return a table; the cells of one column have bars next to them."""
    if not lines:
        return '<p class="faint">nothing</p>'
    names = list(lines[0])
    most = max((abs(line[shares]) for line in lines if shares and math.isfinite(line[shares])), default=0) or 1
    rows = []
    for line in lines[:MOST_LINES]:
        cells = []
        for name in names:
            value, mark = line[name], ""
            if name == shares and math.isfinite(value):
                mark = f' <span class="share" style="width:{60 * abs(value) / most:.0f}px"></span>'
            sort = f' data-v="{value!r}"' if isinstance(value, (int, float)) else ""
            cells.append(f"<td{sort}>{_number(value)}{mark}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{_text(name)}</th>" for name in names)
    left = f'<p class="faint">and {len(lines) - MOST_LINES:,} more</p>' if len(lines) > MOST_LINES else ""
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    found = f'<div class="scroll"><table class="sortable">{body}</table></div>{left}'
    long = f"<details><summary>{len(lines):,} lines</summary>{found}</details>"
    return long if len(lines) > LONG else found


def _headline(report: Any) -> Iterator[str]:
    yield from (f'<p class="warn">{_text(doubt)}</p>' for doubt in report.doubts)
    yield '<div class="cards">'
    for name, value in report.items():
        low, high = report.interval(name)
        unit = statistics.metric(name).unit
        note = f"{low:.5g} to {high:.5g}" if math.isfinite(low) else ""
        note = str(report.temperature()) if name == "temperature" else note
        yield f'<div class="card"><span class="faint">{_text(name)} {_text(unit)}</span><b>{value:.6g}</b>'
        yield f'<span class="faint">{_text(note)}</span></div>'
    yield "</div>"
    independent = "rows taken as independent" if report.question.clusters is None else "clusters taken as independent"
    yield f'<p class="faint">With 95 % intervals, {independent}.</p>'


def _slices(report: Any) -> Iterator[str]:
    for slices in report.slices:
        if not slices.metrics:
            continue
        yield from _section(f"By {', '.join(slices.names)}", [*_along(slices), _sliced(slices)])


def _along(slices: Slices) -> Iterator[str]:
    """Yield curves along a grouping by many integers, such as positions."""
    keys = [key[0] for key in slices]
    if slices.slicing[0] == Group(slices.names[0], "labels"):
        return  # classes are in no order
    if len(slices.names) != 1 or len(keys) < 8 or not all(type(key) is int for key in keys):
        return
    yield '<div class="plots">'
    for name in slices.metrics:
        points = [(key, row[name]) for key, row in zip(keys, slices.rows, strict=True)]
        band = [(row[f"{name}_low"], row[f"{name}_high"]) for row in slices.rows]
        if all(math.isfinite(value) for _, value in points) and isinstance(slices.rows[0][slices.names[0]], int):
            yield drawing.curve(f"{name} by {slices.names[0]}", points, (slices.names[0], name), band)
    yield "</div>"


def _sliced(slices: Slices) -> str:
    lines = []
    for row in slices.rows:
        line = {name: row[name] for name in (*slices.names, "rows")}
        for name in slices.metrics:
            line |= {name: row[name], f"± {name}": row[f"{name}_se"]}
        lines.append(line)
    return _table(lines, slices.metrics[0])


def _distributions(report: Any) -> Iterator[str]:
    plots = []
    for name in report.question.histograms:
        lines = [line for line in report.histogram(name) if math.isfinite(line["low"])]
        if lines:
            edges, heights = [(line["low"], line["high"]) for line in lines], [line["weight"] for line in lines]
            unit = statistics.metric(name).unit
            plots.append(drawing.bars(name, edges, heights, (f"{name} {unit}".strip(), "weight of the rows")))
    if report.question.ranks:
        points = [(line["k"], line["accuracy"]) for line in report.top_k_curve()]
        if points:
            plots.append(drawing.curve("Accuracy of the k largest", points, ("k", "accuracy"), logarithmic=True))
    yield from _section("Distributions", [f'<div class="plots">{"".join(plots)}</div>'] if plots else [])


def _calibration(report: Any) -> Iterator[str]:
    if "reliability" in report.question.reliabilities:
        lines = list(report.reliability())
        plot = f'<div class="plots">{drawing.reliability(lines)}</div>'
        yield from _section("Calibration", [plot, _table(lines, "gap")] if lines else [])


def _classes(report: Any) -> Iterator[str]:
    if report.question.per_class:
        yield from _section("Classes", [_table(report.per_class().rows, "recall")])
    if report.question.confusions:
        lines = [each._asdict() for each in report.top_confusions(30)]
        yield from _section("Most frequent confusions", [_table(lines, "share")])


def _single_rows(report: Any) -> Iterator[str]:
    for table in map(report._rows_called, report.question.picks):
        yield from _section(table.title, [_table(list(table))])


def _audit(report: Any) -> Iterator[str]:
    lines = [
        {"what": found["what"], "rows": found["count"], "first": ", ".join(map(str, found["rows"]))}
        for found in report.audit.values()
    ]
    yield from _section("Audit", [_table(lines)] if lines else ['<p class="faint">Nothing exceptional.</p>'])


def _provenance(report: Any) -> Iterator[str]:
    known = [*about(report), ("version", f"daskxent {(report.made or {}).get('version', 'unknown')}")]
    known += [("elapsed", f"{report.elapsed:.2f} s")] if report.elapsed else []
    known += [("journal", report.journal)] if report.journal else []
    known += list(_named("", report.inputs or {}))
    given = {name: each for name, each in report.question.to_json().items() if each not in (None, [], 0, False, "")}
    known += [(name, _brief(each)) for name, each in given.items()]
    known += [("note", note) for note in report.notes]
    terms = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in known)
    yield from _section("Where it comes from", [f"<dl>{terms}</dl>"])


def _named(prefix: str, given: Any) -> Iterator[tuple[str, str]]:
    """Yield what arrays are known by, as lines of names and values."""
    for name, each in given.items():
        if isinstance(each, dict):
            yield from _named(f"{prefix}{name} ", each)
        elif each not in (None, [], {}):
            yield f"{prefix}{name}", _brief(each)


def _brief(given: Any) -> str:
    text = str(given)
    return text if len(text) <= 200 else f"{text[:200]} ..."


SECTIONS = (
    _headline, _slices, _distributions, _calibration, _classes, _single_rows, _audit,
)  # fmt: skip
