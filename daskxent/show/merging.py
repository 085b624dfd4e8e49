"""Whether reports may be merged: what they are about, and what would be another thing in dumps that are joined."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daskxent.numbers.keys import name_of
from daskxent.numbers.reading import differences
from daskxent.numbers.statistics import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from daskxent.numbers.state import State


def check_same(one: Any, other: Any, *, dumps: bool) -> None:
    """Raise if another report is about something else, or may be; with `dumps` only the question is the same."""
    if one.inputs is None or other.inputs is None:
        raise ValueError("the reports do not say which arrays they are about, and may be of different ones")
    asked = [each.question.to_json() for each in (one, other)]
    if dumps:
        asked = [each | {name: bool(each[name]) for name in UNITS} for each in asked]  # numbers of them are added
    compared: list[tuple[str, Any, Any]] = [("questions", *asked)]
    if dumps:
        _check_joined(one)
        _check_joined(other)
        compared.append(("shapes of a step", _positions(one)[1:], _positions(other)[1:]))
    else:
        compared.append(("numbers of rows", one.available, other.available))
        compared.append(("arrays", _content(one.inputs), _content(other.inputs)))
    for what, mine, theirs in compared:
        shown = differences(mine, theirs)
        if found := "; ".join(f"{name} {_brief(first)} and {_brief(second)}" for name, first, second in shown):
            raise ValueError(f"the reports are of different {what}: {found.lstrip()}")


def joined(reports: Sequence[Any]) -> tuple[list[State], int, dict[str, Any]]:
    """Return the states of different dumps as those of one, its number of rows, and what it is known by."""
    _check_groups(reports)
    rows = [report.available or report.expected for report in reports]
    before = itertools.accumulate(rows, initial=0)
    states = [report.state.moved(by) for report, by in zip(reports, before, strict=False)]
    first = sum(_positions(report)[0] for report in reports)
    known = {"dumps": [report.inputs for report in reports], "positions": [first, *_positions(reports[0])[1:]]}
    return states, sum(rows), known


def in_all(questions: Iterable[Any]) -> Any:
    """Return the question about dumps that are joined: the bytes and words of their texts are added up."""
    first, *others = questions
    return replace(first, **{name: sum(getattr(each, name) for each in (first, *others)) for name in UNITS})


def _check_joined(report: Any) -> None:
    """Refuse what would be another thing in dumps that are joined."""
    for name, known in report.inputs.items():
        if isinstance(known, dict) and known.get("where") == "axis 0":
            raise ValueError(f"{name}: indexes along axis 0 begin anew in each dump; group by an array of ids instead")
    if "sample" in report.question.picks:
        raise ValueError("sample: which rows are sampled depends on their numbers, which are others in joined dumps")


def _check_groups(reports: Iterable[Any]) -> None:
    """Refuse groups that are strings in one dump and integers in another."""
    known = dict[str, str]()
    for report in reports:
        for slicing in report.question.slicings:
            table = report.state.tables.get(name_of(slicing))
            for by, keys in zip(slicing, () if table is None else table.keys, strict=table is not None):
                kind = "strings" if keys.dtype.kind == "T" else "integers"
                if known.setdefault(by.name, kind) != kind:
                    raise ValueError(f"the reports are of different groups: {by.name} {known[by.name]} and {kind}")


def _positions(report: Any) -> list[int]:
    """Return the shape of the positions of a report."""
    found = report.inputs.get("positions")
    if not isinstance(found, list) or not found or not all(type(n) is int for n in found):
        raise ValueError("the reports do not say the shapes of their labels")
    return found


def _content(inputs: Any) -> Any:
    """Return a fingerprint without the places of the arrays, which may be mounted elsewhere."""
    if isinstance(inputs, dict):
        return {key: _content(value) for key, value in inputs.items() if key != "where"}
    return [_content(value) for value in inputs] if isinstance(inputs, list) else inputs


def _brief(value: Any) -> str:
    return "given" if isinstance(value, dict) else "not given" if value is None else repr(value)
