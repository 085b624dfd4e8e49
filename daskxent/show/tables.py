"""Labels and texts as tables, and amounts as people read them."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


# Control characters but the end of a line, and what turns the direction of text.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Write out what would control a terminal: names of arrays and notes are other people's.

    Examples
    --------
    >>> print(printable(chr(27) + "[2Jgone"))
    \x1b[2Jgone
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def as_text(title: str, lines: Sequence[tuple[str, str]]) -> str:
    """Return a table for terminals: the title, then a line for each label.

    Examples
    --------
    >>> print(as_text("Report", [("rows", "2"), ("accuracy", "0.5")]))
    Report
      rows      2
      accuracy  0.5
    """
    width = max(len(label) for label, _ in lines)
    return "\n".join([title, *(printable(f"  {label:<{width}}  {text}") for label, text in lines)])


def as_html(title: str, lines: Sequence[tuple[str, str]]) -> str:
    """Return a table for notebooks.

    Examples
    --------
    >>> as_html("plan", [("rows", "< 3")])
    "<table><caption>plan</caption><tr><th style='text-align:left'>rows</th><td>&lt; 3</td></tr></table>"
    """
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(label)}</th><td>{html.escape(text)}</td></tr>"
        for label, text in lines
    )
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"


def text_table(title: str, cells: Sequence[Sequence[str]], left_out: int = 0) -> str:
    r"""Return a table with a line of names, for terminals; each line is one, whatever the names hold.

    Examples
    --------
    >>> print(text_table("By id", [["id", "rows"], ["7", "12"], ["a" + chr(10), "3"]], 3))
    By id
      id   rows
      7    12
      a\n  3
      ... and 3 more
    """
    shown = [[printable(cell).replace("\n", r"\n") for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in shown]
    return "\n".join([printable(title), *(f"  {line}" for line in [*lines, *_left(left_out)])])


def html_table(cells: Sequence[Sequence[str]], left_out: int = 0) -> str:
    """Return a table with a line of names, for notebooks.

    Examples
    --------
    >>> html_table([["id"], ["<"]])
    '<table><tr><th>id</th></tr><tr><td>&lt;</td></tr></table>'
    """
    lines = [
        f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in line)}</tr>"
        for line, tag in zip(cells, ["th", *["td"] * (len(cells) - 1)], strict=True)
    ]
    return f"<table>{''.join(f'<caption>{left}</caption>' for left in _left(left_out))}{''.join(lines)}</table>"


def _left(count: int) -> list[str]:
    return [f"... and {count:,} more"] if count > 0 else []


def amount(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural if need be.

    Examples
    --------
    >>> amount(1, "row"), amount(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def show_bytes(n: int) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> show_bytes(1_500_000_000)
    '1.50 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n} B"


def as_csv(names: Sequence[str], lines: Sequence[dict[str, Any]]) -> str:
    """Return lines as comma-separated values, after a line of names.

    Examples
    --------
    >>> print(as_csv(["id", "rows"], [{"id": 7, "rows": 12}]), end="")
    id,rows
    7,12
    """
    into = io.StringIO()
    writer = csv.DictWriter(into, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return into.getvalue()
