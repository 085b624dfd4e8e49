"""Add up rows while they are scored: over all of them, and by the keys of slicings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers.exact import ExactSum
from daskxent.numbers.keys import STRING, Classwise, name_of
from daskxent.numbers.statistics import CLASS_PROBABILITY, IS_LABEL
from daskxent.numbers.status import COUNTED, IS_CLIPPED
from daskxent.numbers.sums import (
    PRODUCTS_OF,
    SQUARES_OF,
    TOTAL_OF,
    WEIGHT,
    WEIGHT_SQUARES,
    Sums,
    exact_sums,
    terms_of,
    weighted,
)
from daskxent.numbers.tables import (
    COUNTED_ROWS,
    GRID_BITS,
    Table,
    add_terms,
    check_count,
    compact,
    compact_keys,
    count_rows,
    sorted_by,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.keys import Key, Slicing
    from daskxent.numbers.question import Question
    from daskxent.numbers.status import Scored
    from daskxent.numbers.tables import Add, Count

NEW = -2  # stands for a key that was just met
MOST_CODES = 1 << 62  # codes of combinations of values, before those of the rows are numbered anew
MOST_SPAN = 1 << 22  # integers that are looked up in an array: 16 MB


class Adders(NamedTuple):
    """What adds terms up: functions in NumPy, their definition, or compiled ones that give the same."""

    exact_sums: Callable[..., list[ExactSum]]
    add_terms: Add
    count_rows: Count


DEFINED = Adders(exact_sums, add_terms, count_rows)


class Places:
    """Numbers the keys that rows have, in the order in which they are met."""

    def __init__(self) -> None:
        self.count = 0
        self._dtypes: list[np.dtype[Any]] = []
        self._numbers: dict[Key, int] = {}  # of keys that are no integers near to one another
        self._lookup, self._lowest = np.full(0, -1, np.int32), 0

    def of(self, columns: list[NDArray[Any]]) -> NDArray[np.int64]:
        """Return the number of the key of each of n > 0 rows."""
        self._dtypes = self._dtypes or [column.dtype for column in columns]
        if len(columns) == 1 and columns[0].dtype.kind in "iu" and not self._numbers:
            low, high = int(columns[0].min()), int(columns[0].max())
            if self._lookup.size:
                low, high = min(low, self._lowest), max(high, self._lowest + self._lookup.size - 1)
            if high - low < MOST_SPAN and high < 2**63:
                return self._looked_up(columns[0].astype(np.int64), low, high)
        return self._numbered(columns)

    def keys(self) -> tuple[NDArray[Any], ...]:
        """Return the keys in the order of their numbers."""
        if self._numbers:
            several = zip(*self._numbers, strict=True)
            return tuple(
                np.array(values, STRING if dtype.kind in "UT" else np.uint64 if dtype == np.uint64 else None)
                for values, dtype in zip(several, self._dtypes, strict=True)
            )
        at = np.flatnonzero(self._lookup >= 0)
        found = np.empty(self.count, np.int64)
        found[self._lookup[at]] = at + self._lowest
        return (found,)

    def order(self) -> NDArray[np.int64]:
        """Return the numbers in order of their keys."""
        if self._numbers:
            return sorted_by(list(self.keys()))[0]
        return self._lookup[self._lookup >= 0].astype(np.int64)

    def _looked_up(self, values: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
        if high - low >= self._lookup.size:
            room = min(MOST_SPAN, 2 * (high - low + 1))
            wider = np.full(room, -1, np.int32)
            if self._lookup.size:
                wider[self._lowest - low : self._lowest - low + self._lookup.size] = self._lookup
            self._lookup, self._lowest = wider, low
        at = values - self._lowest
        found = self._lookup[at]
        if (found < 0).any():
            self._lookup[at[found < 0]] = NEW
            new = np.flatnonzero(self._lookup == NEW)
            self._lookup[new] = np.arange(self.count, self.count + new.size)
            self.count += new.size
            found = self._lookup[at]
        return found.astype(np.int64)

    def _numbered(self, columns: list[NDArray[Any]]) -> NDArray[np.int64]:
        if not self._numbers and self.count:
            self._numbers = {(key,): number for number, key in enumerate(self.keys()[0].tolist())}
        values, codes = zip(*(np.unique(column, return_inverse=True) for column in columns), strict=True)
        code = codes[0]
        for each, more in zip(values[1:], codes[1:], strict=True):
            if int(code.max()) >= MOST_CODES // len(each):
                code = np.unique(code, return_inverse=True)[1]
            code = code * len(each) + more
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        keys = zip(*(each[more[first]].tolist() for each, more in zip(values, codes, strict=True)), strict=True)
        numbers = [self._numbers.setdefault(key, len(self._numbers)) for key in keys]
        self.count = len(self._numbers)
        return np.array(numbers, np.int64)[inverse]


class Groups:
    """The running sums of the keys of a slicing; one thread's own.

    Parameters
    ----------
    question : Question
    slicing : Slicing
    adders : Adders
    """

    def __init__(self, question: Question, slicing: Slicing, adders: Adders) -> None:
        self.question, self.slicing, self._adders = question, slicing, adders
        self._places, self.kept = Places(), kept_terms(question, slicing)
        self._columns: dict[str, NDArray[np.int64]] = {}
        self._rare: list[tuple[str, NDArray[np.int64], NDArray[np.float64]]] = []

    def add(self, rows: Scored, at: Any, terms: Iterable[tuple[str, NDArray[Any]]]) -> None:
        """Add the rows `at`, all of which count, with their terms; either all rows have weights or none has."""
        if isinstance(self.slicing[0], Classwise):
            self._add_classes(rows, at, dict(terms))
            return
        along = {**rows.along, "labels": rows.labels}
        self._add_keyed([by.keys(rows.scores, along)[at] for by in self.slicing], terms)

    def _add_classes(self, rows: Scored, at: Any, terms: Mapping[str, NDArray[Any]]) -> None:
        """Add all classes of the rows, each a row of its own."""
        keys, probability = self.slicing[0].keys(rows.scores, {})[at], rows.scores.probabilities[at]
        is_label: NDArray[Any] = rows.labels[at][:, None] == np.arange(keys.shape[1])
        own = [(CLASS_PROBABILITY.name + TOTAL_OF, probability), (IS_LABEL.name + TOTAL_OF, is_label)]
        if WEIGHT in terms:
            weights = terms[WEIGHT][:, None]
            own = [(name, weighted(values, weights)) for name, values in own]
            own += [(name, np.broadcast_to(terms[name][:, None], keys.shape)) for name in (WEIGHT, WEIGHT_SQUARES)]
        self._add_keyed([keys.ravel()], [(name, values.ravel()) for name, values in own])

    def _add_keyed(self, keys: list[NDArray[Any]], terms: Iterable[tuple[str, NDArray[Any]]]) -> None:
        places = self._places.of(keys)
        check_count(self._places.count)
        self._whole(COUNTED_ROWS, places)
        for name, values in terms:
            if name not in self.kept:
                continue
            if values.dtype == bool:
                self._whole(name, places, values)
            else:
                rare = self._adders.add_terms(self._column(name, 2), places, values)
                if rare.any():
                    self._rare.append((name, places[rare], values[rare]))

    def _whole(self, name: str, places: NDArray[np.int64], terms: NDArray[np.bool_] | None = None) -> None:
        self._adders.count_rows(self._column(name, 1), places, terms)

    def _column(self, name: str, ndim: int) -> NDArray[np.int64]:
        column, count = self._columns.get(name), self._places.count
        if column is None or len(column) < count:
            wider = np.zeros((2 * count, len(GRID_BITS)) if ndim == 2 else 2 * count, np.int64)
            if column is not None:
                wider[: len(column)] = column
            column = self._columns[name] = wider
        return column

    def table(self) -> Table | None:
        """Return the sums so far; None without any row that counts."""
        count = self._places.count
        if not count:
            return None
        keys = self._places.keys()
        rare, plain = dict[Any, ExactSum](), list[Any]()
        for name, places, terms in self._rare:
            plain = plain or list(zip(*(column.tolist() for column in keys), strict=True))
            for place in np.unique(places).tolist():
                where = name, plain[place]
                rare[where] = rare.get(where, ExactSum()) + ExactSum.of(terms[places == place])
        order = self._places.order()
        columns = {name: compact(column[:count][order]) for name, column in self._columns.items()}
        return Table(tuple(compact_keys(each[order]) for each in keys), columns, rare)


class Totals:
    """The running sums over all rows, and by key; one thread's own.

    Parameters
    ----------
    question : Question
    adders : Adders

    Examples
    --------
    >>> from daskxent.numbers.question import Question
    >>> from daskxent.numbers.scores import Scores
    >>> from daskxent.numbers.status import Scored
    >>> question = Question(("accuracy",), 2, from_logits=True)
    >>> totals = Totals(question)
    >>> scores = Scores(np.zeros(3, np.uint8), hit=np.array([True, False, True]))
    >>> totals.add(Scored.of(question, scores, np.array([0, 1, 1])))
    >>> totals.sums().counted, float(totals.sums().totals["accuracy"])
    (3, 2.0)
    """

    def __init__(self, question: Question, adders: Adders = DEFINED) -> None:
        self.question, self._adders, self._counted = question, adders, 0
        self._sums: dict[str, ExactSum] = {}
        self._clipped = ExactSum()
        self._groups = [Groups(question, slicing, adders) for slicing in question.slicings]
        self._kept = frozenset[str]().union(*(each.kept for each in self._groups))

    def add(self, rows: Scored) -> None:
        """Add rows, with the columns that the question needs; either all of them have weights or none has."""
        exceptional = rows.status[rows.exceptional]
        dropped = rows.exceptional[(exceptional & COUNTED) == 0]
        clipped = rows.exceptional[(exceptional & IS_CLIPPED) != 0]
        status = rows.status if dropped.size else None
        self._counted += len(rows.status) - dropped.size
        for each in self.question.statistics:
            values = each.value(rows.scores, rows.labels)
            if each.share and rows.weights is None:
                hits = np.count_nonzero(values) - np.count_nonzero(values[dropped])
                self._add((each.name + TOTAL_OF,), [ExactSum.whole(int(hits))])
            else:
                names = [each.name + of for of in (TOTAL_OF, SQUARES_OF, PRODUCTS_OF)]
                self._add(names, self._adders.exact_sums(values, rows.weights, status))
        if rows.weights is not None:
            self._add((WEIGHT, WEIGHT_SQUARES), self._adders.exact_sums(rows.weights, None, status))
        if clipped.size and self.question.needs_loss:
            weights = None if rows.weights is None else rows.weights[clipped]
            self._clipped += self._adders.exact_sums(rows.scores.loss[clipped], weights)[0]
        if self._groups and dropped.size < len(rows.status):
            at: Any = np.flatnonzero(rows.status & COUNTED) if dropped.size else slice(None)
            terms = list(terms_of(self.question, rows, at, self._kept))
            for group in self._groups:
                group.add(rows, at, terms)

    def _add(self, names: Iterable[str], found: list[ExactSum]) -> None:
        for name, total in zip(names, found, strict=False):
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def sums(self) -> Sums:
        """Return the sums so far over all rows."""
        return Sums.of(self._sums, self._counted, self._clipped)

    def tables(self) -> dict[str, Table]:
        """Return the sums so far by key, by the names of the slicings; of those that have any key."""
        found = {name_of(each.slicing): each.table() for each in self._groups}
        return {name: table for name, table in found.items() if table is not None}


def kept_terms(question: Question, slicing: Slicing) -> frozenset[str]:
    """Return the names of the terms that a slicing has sums of; see `terms_of`."""
    kept, squares = question.kept_by(slicing)
    ends = (TOTAL_OF, SQUARES_OF, PRODUCTS_OF) if squares else (TOTAL_OF,)
    return frozenset({WEIGHT, WEIGHT_SQUARES, *(each.name + end for each in kept for end in ends)})
