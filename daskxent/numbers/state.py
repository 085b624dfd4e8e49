"""What a set of rows contributes: exact sums by key, an audit of exceptional rows, and which rows were covered.

`accumulate` answers a `Question` for a block of scored rows with a `State`; `State.merge` adds states of different
rows. Merging is associative and commutative to the last bit, `zero` is its identity, and states that cover the same
row refuse to merge, so no row can be counted twice.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import audit, reading
from daskxent.numbers.audit import COUNTED, IS_CLIPPED, Finding, Scored, findings
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.keys import TOTAL, Key
from daskxent.numbers.sums import Moments, Sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from daskxent.numbers.question import Question

    Values = NDArray[Any]
    # From terms and the group of each, 0 <= group < count, to the exact sums of all groups.
    SumBy = Callable[[NDArray[np.float64], NDArray[np.int64], int], Sequence[ExactSum]]


@dataclass(frozen=True, slots=True)
class State:
    """The exact sums over a set of rows.

    Parameters
    ----------
    sums : mapping of Key to Sums
        By key; `TOTAL` is everything. A key is there only if a row that counts has it.
    audit : mapping of str to Finding
        By the keys of `AUDIT`; kinds that were not found are left out.
    covered : tuple of (start, stop)
        The rows this state speaks of, as sorted, disjoint ranges of row numbers.
    like_probabilities : bool
        Whether every row of logits that label and weight do not hide may well be probabilities.
    equal : tuple of (start, stop), or None
        The runs of rows whose predictions are all equal, as in `covered`; None if there are many.

    Examples
    --------
    >>> half = State({(): Sums(weight=ExactSum.whole(5), counted=5)}, covered=((0, 5),))
    >>> half.merge(State({(): Sums(counted=2), ("lang", "de"): Sums(counted=2)}, covered=((5, 8),))).covered
    ((0, 8),)
    >>> half.merge(half)
    Traceback (most recent call last):
        ...
    ValueError: rows 0 to 4 are covered twice
    """

    sums: Mapping[Key, Sums] = field(default_factory=dict)
    audit: Mapping[str, Finding] = field(default_factory=dict)
    covered: tuple[tuple[int, int], ...] = ()
    like_probabilities: bool = True
    equal: tuple[tuple[int, int], ...] | None = ()

    @classmethod
    def zero(cls) -> State:
        """Return the state of no rows."""
        return cls()

    @property
    def total(self) -> Sums:
        """The sums over all rows."""
        return self.sums.get(TOTAL, Sums())

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

    def found(self, findings: Mapping[str, Finding]) -> State:
        """Return the state with more findings about its rows."""
        return replace(self, audit=audit.joined(self.audit, findings)) if findings else self

    def placed(self, place: Callable[[int], int], covered: tuple[tuple[int, int], ...]) -> State:
        """Return the state with its rows renumbered by `place`, an increasing function, and its coverage set."""
        found = {
            kind: Finding(each.count, tuple((place(row), value) for row, value in each.first))
            for kind, each in self.audit.items()
        }
        return replace(self, audit=found, covered=covered)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain lists, numbers and strings, losslessly."""
        return {
            "sums": [[list(key), sums.to_json()] for key, sums in sorted(self.sums.items(), key=_order)],
            "audit": {
                kind: {"count": found.count, "first": [list(place) for place in found.first]}
                for kind, found in sorted(self.audit.items())
            },
            "covered": [list(span) for span in self.covered],
            "like_probabilities": self.like_probabilities,
            "equal": None if self.equal is None else [list(run) for run in self.equal],
        }

    @classmethod
    def from_json(cls, data: Any) -> State:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else: the message names the field.
        """
        read = reading.mapping(data, "state", "sums", "audit", "covered", "like_probabilities", "equal")
        pairs = [reading.several(pair, "sums", 2) for pair in reading.several(read["sums"], "sums")]
        return cls(
            sums={_key(key): Sums.from_json(sums) for key, sums in pairs},
            audit=audit.from_json(read["audit"]),
            covered=_ranges(read["covered"], "covered"),
            like_probabilities=reading.one_of(read["like_probabilities"], "like_probabilities", bool),
            equal=None if read["equal"] is None else _ranges(read["equal"], "equal"),
        )

    def check(self, question: Question) -> State:
        """Return the state, if it may be what was asked for.

        Raises
        ------
        ValueError
            Sums are missing or there are others; more rows are counted or found than are covered.
        """
        names, groups = [each.name for each in question.statistics], [by.name for by in question.by]
        if self.covered and TOTAL not in self.sums:
            raise ValueError("sums: those of all rows are missing")
        for key, sums in self.sums.items():
            sums.check(names, self.rows, str(key or "all rows"))
            if key != TOTAL and key[0] not in groups:
                raise ValueError(f"sums: nothing was grouped by {key[0]!r}")
        for kind, found in self.audit.items():
            reading.whole(found.count, kind, 1, self.rows)
            for row, _ in found.first:
                if not any(start <= row < stop for start, stop in self.covered):
                    raise ValueError(f"{kind}: row {row} is not covered")
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
    sums: dict[Key, list[Sums]] = {}
    found: dict[str, Finding] = {}
    covered: list[tuple[int, int]] = []
    like_probabilities, equal = True, list[tuple[int, int]]()
    many = False
    for state in states:
        for key, more in state.sums.items():
            sums.setdefault(key, []).append(more)
        found = audit.joined(found, state.audit) if state.audit else found
        covered += state.covered
        like_probabilities &= state.like_probabilities
        equal += state.equal or ()
        many |= state.equal is None
    merged = {key: several[0] if len(several) == 1 else Sums.all(several) for key, several in sums.items()}
    ranges, runs = _union(covered), None if many else _union(equal)
    if runs and ranges and len(runs) > most_runs(len(ranges)):
        runs = None
    return State(merged, found, ranges, like_probabilities, runs)


def most_runs(pieces: int) -> int:
    """Return how many runs of rows may be known of rows that are covered in so many pieces.

    That follows from the rows alone: where they are cut into pieces, each cut adds a run at most, so that what is too
    many of some rows is too many of all.
    """
    return RUNS + pieces


RUNS = 64
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
        """Take a state in, and tell whether `state` holds all by now."""
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


def accumulate(question: Question, rows: Scored) -> State:
    """Add up what scored rows contribute to the answer.

    Parameters
    ----------
    question : Question
    rows : Scored
        With the columns that the question needs.

    Returns
    -------
    State
        Its rows are numbered from 0 in the audit, and its coverage is left empty: see `State.placed`. Nothing is
        raised here; findings that are errors are raised by `complain`, which knows the row numbers.
    """
    counted = np.flatnonzero(rows.status & COUNTED)
    [total] = _sums(question, rows, counted, np.zeros(len(counted), np.int64), 1, _sum_by)
    return State({TOTAL: total, **sums_by_key(question, rows)}, findings(question, rows))


def sums_by_key(question: Question, rows: Scored, add: SumBy | None = None) -> dict[Key, Sums]:
    """Return the sums of rows by the keys of the question's groupings.

    Only rows that count have keys. `add` sums terms by group; by default in NumPy.
    """
    found: dict[Key, Sums] = {}
    counted = np.flatnonzero(rows.status & COUNTED) if question.by else np.empty(0, np.int64)
    for by in question.by if counted.size else ():
        keys = by.keys(rows.scores, {**rows.along, "labels": rows.labels})[counted]
        values, groups = np.unique(keys, return_inverse=True)
        sums = _sums(question, rows, counted, groups, len(values), add or _sum_by)
        found |= {(by.name, value): each for value, each in zip(values.tolist(), sums, strict=True)}
    return found


def _sums(question: Question, rows: Scored, at: Values, groups: Values, count: int, add: SumBy) -> list[Sums]:
    """Return the sums of the rows `at`, all of which count, by the group of each."""
    scores = rows.scores
    weights = np.ones(len(at)) if rows.weights is None else rows.weights[at]

    def weighted(values: Values, weight: Values) -> Values:
        with np.errstate(over="ignore", invalid="ignore"):  # a product beyond float64 is infinite
            return np.where(values != 0, values * weight, 0.0)  # 0 adds nothing, whatever the weight

    totals, squares, products = {}, {}, {}
    for each in question.statistics:
        terms = weighted(each.value(scores, rows.labels)[at], weights)
        totals[each.name] = add(terms, groups, count)
        squares[each.name] = add(weighted(terms, terms), groups, count)
        products[each.name] = (
            totals[each.name] if rows.weights is None else add(weighted(terms, weights), groups, count)
        )
    clipped, lost = np.flatnonzero(rows.status[at] & IS_CLIPPED), [ExactSum()] * count
    if clipped.size and question.needs_loss:
        lost = list(add(weighted(scores.loss[at][clipped], weights[clipped]), groups[clipped], count))
    counts = np.bincount(groups, minlength=count).tolist()
    weight, own = (add(terms, groups, count) for terms in (weights, weighted(weights, weights)))

    def of(sums: Mapping[str, Sequence[ExactSum]], k: int) -> dict[str, ExactSum]:
        return {name: each[k] for name, each in sums.items()}

    return [
        Sums(of(totals, k), weight[k], counts[k], lost[k], Moments(counts[k], of(squares, k), of(products, k), own[k]))
        for k in range(count)
    ]


def _sum_by(terms: NDArray[np.float64], groups: NDArray[np.int64], count: int) -> list[ExactSum]:
    if count == 1:
        return [ExactSum.of(terms)]
    order = np.argsort(groups, kind="stable")
    edges = np.searchsorted(groups[order], np.arange(count + 1))
    return [ExactSum.of(terms[order[start:stop]]) for start, stop in itertools.pairwise(edges)]


def _ranges(data: Any, name: str) -> tuple[tuple[int, int], ...]:
    """Read sorted, disjoint ranges."""
    spans, end = [reading.several(span, name, 2) for span in reading.several(data, name)], -1
    for start, stop in spans:
        end = reading.whole(stop, name, reading.whole(start, name, end + 1) + 1)
    return tuple((start, stop) for start, stop in spans)


def _key(data: Any) -> Key:
    """Read a key."""
    key = reading.several(data, "key")
    if key:
        name, value = reading.several(key, "key", 2)
        reading.one_of(name, "key", str)
        reading.one_of(value, "key", str, int, float, bool)
    return tuple(key)


def _order(item: tuple[Key, Sums]) -> list[tuple[str, Any]]:
    """Sort keys of values of different types: numbers as such, among their kind."""
    return [(type(value).__name__, value) for value in item[0]]


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
