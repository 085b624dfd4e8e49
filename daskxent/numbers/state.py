"""What a set of rows contributes: exact sums by key, an audit of exceptional rows, and which rows were covered.

`State.merge` adds states of different rows. Merging is associative and commutative to the last bit, `zero` is its
identity, and states that cover the same row refuse to merge, so no row can be counted twice.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import audit, reading
from daskxent.numbers.chosen_rows import Picked
from daskxent.numbers.keys import name_of
from daskxent.numbers.sums import Sums
from daskxent.numbers.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.audit import Finding
    from daskxent.numbers.question import Question


@dataclass(frozen=True, slots=True)
class State:
    """The exact sums over a set of rows, by default over none.

    Parameters
    ----------
    total : Sums
        Over all rows that count.
    tables : mapping of str to Table
        By slicing, for each key that a row has that counts; a slicing without any is left out.
    picked : mapping of str to Picked
        Rows that are kept one by one, by what they are called.
    audit : mapping of str to Finding
        By the keys of `AUDIT`; kinds that were not found are left out.
    covered : tuple of (start, stop)
        The rows this state speaks of, as sorted, disjoint ranges of row numbers.
    like_probabilities : bool
        Whether every row of logits that label and weight do not hide may well be probabilities.
    equal : tuple of (start, stop), or None
        The runs of rows whose predictions are all equal, as in `covered`; None if there are many.
    largest : int
        The largest label that is a class, of any row; -1 if there is none.
    unshifted : bool
        Whether the first labels match the predictions of the row before them, not their own. Of how many rows that is
        said depends on the chunks, so it is not compared, or kept.

    Examples
    --------
    >>> from daskxent.numbers.exact import ExactSum
    >>> half = State(Sums(weight=ExactSum.whole(5), counted=5), covered=((0, 5),))
    >>> half.merge(State(Sums(counted=2), covered=((5, 8),))).covered
    ((0, 8),)
    >>> half.merge(half)
    Traceback (most recent call last):
        ...
    ValueError: rows 0 to 4 are covered twice
    """

    total: Sums = field(default_factory=Sums)
    tables: Mapping[str, Table] = field(default_factory=dict)
    audit: Mapping[str, Finding] = field(default_factory=dict)
    covered: tuple[tuple[int, int], ...] = ()
    like_probabilities: bool = True
    equal: tuple[tuple[int, int], ...] | None = ()
    picked: Mapping[str, Picked] = field(default_factory=dict)
    largest: int = -1
    unshifted: bool = field(default=False, compare=False)

    @property
    def rows(self) -> int:
        """Number of rows covered, counted or not."""
        return sum(stop - start for start, stop in self.covered)

    def merge(self, other: State) -> State:
        """Return the state of both sets of rows.

        Raises
        ------
        ValueError
            Some rows are covered by both.
        """
        return merge_all((self, other))

    def placed(self, place: Callable[[int], int], covered: tuple[tuple[int, int], ...]) -> State:
        """Return the state with its rows renumbered by `place`, an increasing function, and its coverage set."""
        return replace(self, audit=audit.renumbered(self.audit, place), covered=covered)

    def moved(self, by: int) -> State:
        """Return the state with its rows numbered from another one on, as where others come before them."""

        def runs(spans: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
            return tuple((start + by, stop + by) for start, stop in spans)

        found = self.placed(lambda row: row + by, runs(self.covered))
        picked = {name: rows.moved(by) for name, rows in self.picked.items()}
        return replace(found, equal=None if self.equal is None else runs(self.equal), picked=picked)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain lists, numbers and strings, losslessly."""
        return {
            "total": self.total.to_json(),
            "tables": {name: table.to_json() for name, table in sorted(self.tables.items())},
            "audit": {
                kind: {"count": found.count, "first": [list(place) for place in found.first]}
                for kind, found in sorted(self.audit.items())
            },
            "covered": [list(span) for span in self.covered],
            "like_probabilities": self.like_probabilities,
            "equal": None if self.equal is None else [list(run) for run in self.equal],
            "picked": {name: rows.to_json() for name, rows in sorted(self.picked.items())},
            "largest": self.largest,
        }

    @classmethod
    def from_json(cls, data: Any) -> State:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else: the message names the field.
        """
        names = "total", "tables", "audit", "covered", "like_probabilities", "equal", "picked", "largest"
        read = reading.mapping(data, "state", *names)
        tables = reading.mapping(read["tables"], "tables")
        return cls(
            total=Sums.from_json(read["total"]),
            tables={name: Table.from_json(table) for name, table in tables.items()},
            audit=audit.from_json(read["audit"]),
            covered=_ranges(read["covered"], "covered"),
            like_probabilities=reading.one_of(read["like_probabilities"], "like_probabilities", bool),
            equal=None if read["equal"] is None else _ranges(read["equal"], "equal"),
            picked={name: Picked.from_json(rows) for name, rows in reading.mapping(read["picked"], "picked").items()},
            largest=reading.whole(read["largest"], "largest", -1),
        )

    def _covers(self, rows: NDArray[Any]) -> bool:
        starts, stops = np.array(self.covered, np.int64).reshape(-1, 2).T
        at = np.searchsorted(starts, rows, side="right") - 1
        return not rows.size or bool(starts.size and (at >= 0).all() and (rows < stops[at]).all())

    def check(self, question: Question) -> State:
        """Return the state, if it may be what was asked for.

        Raises
        ------
        ValueError
            Sums are missing or there are others; more rows are counted or found than are covered.
        """
        if self.covered:
            self.total.check([each.name for each in question.statistics], self.rows, "all rows")
        slicings = {name_of(slicing): slicing for slicing in question.slicings}
        reading.mapping(dict(self.tables), "tables", *(slicings if self.total.counted else ()))
        reading.known(self.tables, "tables", slicings)
        for name, table in self.tables.items():
            table.check(question, slicings[name], self.total.counted)
        for kind, found in self.audit.items():
            reading.whole(found.count, kind, 1, self.rows)
            for row, _ in found.first:
                if not any(start <= row < stop for start, stop in self.covered):
                    raise ValueError(f"{kind}: row {row} is not covered")
        picks = question.picks  # of some no row is kept, as of the worst of rows that are all right
        reading.known(self.picked, "picked", picks if self.total.counted else ())
        for name, rows in self.picked.items():
            if rows.count != picks[name].most or not self._covers(rows.columns["row"]):
                raise ValueError(f"{name}: expected {picks[name].most} rows at most, all of them covered")
        reading.whole(self.largest, "largest", -1, question.classes - 1)
        equal = self.audit["equal"].count if "equal" in self.audit else 0
        if self.equal is not None and sum(stop - start for start, stop in self.equal) != equal:
            raise ValueError(f"equal: expected runs of {equal} rows")
        return self


def merge_all(states: Iterable[State]) -> State:
    """Merge states one after the other, in a time that grows with what they hold and not with the square of it.

    Raises
    ------
    ValueError
        Some rows are covered by two of them.
    """
    totals: list[Sums] = []
    tables: dict[str, list[Table]] = {}
    picked: dict[str, list[Picked]] = {}
    found: dict[str, Finding] = {}
    covered: list[tuple[int, int]] = []
    like_probabilities, equal = True, list[tuple[int, int]]()
    many, largest, unshifted = False, -1, False
    for state in states:
        unshifted |= state.unshifted
        largest = max(largest, state.largest)
        totals += [state.total] if state.total.totals or state.total.counted else []
        for name, table in state.tables.items():
            tables.setdefault(name, []).append(table)
        for name, rows in state.picked.items():
            picked.setdefault(name, []).append(rows)
        found = audit.joined(found, state.audit) if state.audit else found
        covered += state.covered
        like_probabilities &= state.like_probabilities
        equal += state.equal or ()
        many |= state.equal is None
    total = totals[0] if len(totals) == 1 else Sums.all(totals) if totals else Sums()
    merged = {name: Table.merged(several) for name, several in tables.items()}
    ranges, runs = _union(covered), None if many else _union(equal)
    runs = few_runs(runs, ranges) if runs and ranges else runs
    first = {name: Picked.merged(several) for name, several in picked.items()}
    return State(total, merged, found, ranges, like_probabilities, runs, first, largest, unshifted)


def few_runs(
    runs: tuple[tuple[int, int], ...], covered: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...] | None:
    """Return runs of rows; None if too many of them lie within the pieces that are covered, and touch no end of these.

    Such runs stay as they are whatever rows are added, so that what is too many of some rows is too many of all.
    """
    starts, stops = {start for start, _ in covered}, {stop for _, stop in covered}
    within = sum(start not in starts and stop not in stops for start, stop in runs)
    return runs if within <= MOST_RUNS else None


MOST_RUNS = 65
# Seconds. Merging states of many keys takes longer than this; then a tenth of the time at most goes into it.
QUICK = 0.02


class Running:
    """The sum of states that come one after the other.

    They are merged at once where that is quick. Where there are many keys, several are merged at a time, so that the
    time that all of it takes does not grow with the square of their number.
    """

    def __init__(self, state: State) -> None:
        self.state, self._waiting, self._due = state, list[State](), 0.0

    def refuse_covered(self, state: State) -> None:
        """Raise if a state is of rows that are covered already."""
        for spans in (self.state.covered, *(other.covered for other in self._waiting)):
            for start, stop in state.covered:
                at = bisect_left(spans, (start + 1,))  # the first that begins behind `start`
                for other in spans[max(0, at - 1) : at + 1]:
                    _union((other, (start, stop)))

    def add(self, state: State) -> bool:
        """Take a state in, and return whether `state` holds all by now."""
        self._waiting.append(state)
        if time.monotonic() >= self._due:
            self.merge()
        return not self._waiting

    def merge(self) -> State:
        """Return the sum of all states."""
        if self._waiting:
            began = time.monotonic()
            self.state = merge_all([self.state, *self._waiting])
            self._waiting.clear()
            took = time.monotonic() - began
            self._due = time.monotonic() + 9 * took if took > QUICK else 0.0
        return self.state


def _ranges(data: Any, name: str) -> tuple[tuple[int, int], ...]:
    """Read sorted, disjoint ranges."""
    spans, end = [reading.several(span, name, 2) for span in reading.several(data, name)], -1
    for start, stop in spans:
        end = reading.whole(stop, name, reading.whole(start, name, end + 1) + 1)
    return tuple((start, stop) for start, stop in spans)


def _union(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if spans and start < spans[-1][1]:
            raise ValueError(f"rows {start} to {min(stop, spans[-1][1]) - 1} are covered twice")
        if spans and start == spans[-1][1]:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return tuple(spans)
