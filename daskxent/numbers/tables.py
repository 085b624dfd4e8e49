"""Exact sums by key, as columns: a table has a row for each key.

A sum is held as whole numbers on six grids, which add up in any order to the same numbers, 48 bytes in all. Terms that
do not fit the grids, as few do, are added up apart. Sums of whole numbers are one integer.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import reading
from daskxent.numbers.exact import UNIT_BITS, ExactSum
from daskxent.numbers.keys import Classwise, key_column, one_after_the_other
from daskxent.numbers.sums import (
    PRODUCTS_OF,
    SQUARES_OF,
    TOTAL_OF,
    WEIGHT,
    WEIGHT_SQUARES,
    Moments,
    Sums,
    squared,
    weighted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from daskxent.numbers.keys import Key, Slicing
    from daskxent.numbers.question import Question

    # From (keys, 6) digits, the place of each term among the keys, and the terms, to which of them are rare.
    Add = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]], NDArray[np.bool_]]
    Count = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_] | None], None]

# A term below `BELOW` in magnitude without bits below 2**-172: squares of losses down to 1e-18 are.
GRID_BITS = 12, 44, 76, 108, 140, 172
BELOW = 2.0**20
COUNTED_ROWS = "counted"  # the column of numbers of rows
MOST_KEYS = 1 << 22  # some 100 to 400 bytes each
MOST_INT32 = 1 << 31
Rare = dict[tuple[str, "Key"], ExactSum]


def add_terms(digits: NDArray[np.int64], places: NDArray[np.int64], terms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Add terms to sums, each at its place; return which are rare, and were not added.

    Examples
    --------
    >>> digits = np.zeros((2, 6), np.int64)
    >>> add_terms(digits, np.array([0, 1, 1]), np.array([0.5, 1e300, 2.0])).tolist(), digits[:, 0].tolist()
    ([False, True, False], [2048, 8192])
    """
    rest, found = np.where(np.abs(terms) < BELOW, terms, np.nan), []
    with np.errstate(invalid="ignore"):
        for bits in GRID_BITS:
            found.append(np.rint(rest * 2.0**bits))
            rest = rest - found[-1] * 2.0**-bits
    usual = rest == 0
    for at, whole in enumerate(found):
        np.add.at(digits[:, at], places[usual], whole[usual].astype(np.int64))
    return np.asarray(~usual)


def count_rows(counts: NDArray[np.int64], places: NDArray[np.int64], terms: NDArray[np.bool_] | None) -> None:
    """Count rows, each at its place; of terms those that are True.

    Examples
    --------
    >>> counts = np.zeros(3, np.int64)
    >>> count_rows(counts, np.array([0, 2, 2]), np.array([True, False, True]))
    >>> counts.tolist()
    [1, 0, 1]
    """
    found = np.bincount(places, terms)  # as float64, which holds them: quicker than to choose places first
    counts[: found.size] += found.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Table:
    """The sums of each key of a slicing.

    Parameters
    ----------
    keys : tuple of (n,) arrays
        The values of each grouping, of integers, bool or strings; rows are sorted by them, and no two are the same.
    columns : mapping of str to (n,) or (n, 6) int32 or int64
        Whole numbers, or the digits of sums; see `compact`.
    rare : mapping of (str, Key) to ExactSum
        The sums of terms that are not in the digits, by column and key.
    """

    keys: tuple[NDArray[Any], ...]
    columns: Mapping[str, NDArray[np.int64]]
    rare: Mapping[tuple[str, Key], ExactSum] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table) or len(self.keys) != len(other.keys) or self.rare != other.rare:
            return False
        pairs: list[Any] = [*zip(self.keys, other.keys, strict=True)]
        pairs += [(column, other.columns.get(name)) for name, column in self.columns.items()]
        return self.columns.keys() == other.columns.keys() and all(np.array_equal(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys as plain values."""
        return zip(*(column.tolist() for column in self.keys), strict=True)

    @cached_property
    def _places(self) -> dict[Key, int]:
        return {key: at for at, key in enumerate(self)}

    def sums(self, key: Key) -> Sums:
        """Return the sums of a key.

        Raises
        ------
        KeyError
            No row that counts has it.
        """
        at = self._places[key]
        found = {name: self._exact(name, at, key) for name in self.columns if name != COUNTED_ROWS}
        return Sums.of(found, int(self.counted[at]))

    def _exact(self, name: str, at: int, key: Key) -> ExactSum:
        """Return the exact sum in a column at the place of a key."""
        column = self.columns[name]
        if column.ndim == 1:
            return ExactSum.whole(int(column[at]))
        units = sum(int(k) << (UNIT_BITS - bits) for k, bits in zip(column[at], GRID_BITS, strict=True))
        return ExactSum(units) + self.rare.get((name, key), ExactSum())

    @property
    def counted(self) -> NDArray[np.int64]:
        """The number of rows of each key, (n,)."""
        return self.columns[COUNTED_ROWS]

    def values(self, name: str, some: slice = slice(None)) -> NDArray[np.float64]:
        """Return a column of sums as numbers, of all keys or of some, (n,) float64."""
        column, places = self.columns[name][some], range(len(self))[some]
        if column.ndim == 1:
            return column.astype(np.float64)
        found = np.zeros(len(column))
        for at in reversed(range(len(GRID_BITS))):  # the smallest first
            found += column[:, at] * 2.0 ** -GRID_BITS[at]
        for (of, key), total in self.rare.items():
            if of == name and self._places[key] in places:
                found[places.index(self._places[key])] += float(total)
        return found

    def weights(self, some: slice = slice(None)) -> NDArray[np.float64]:
        """Return the sum of the weights of each key, or of some, (n,) float64."""
        return self.values(WEIGHT if WEIGHT in self.columns else COUNTED_ROWS, some)

    def exact_weights(self) -> list[ExactSum]:
        """Return the sum of the weights of each key, not rounded."""
        name = WEIGHT if WEIGHT in self.columns else COUNTED_ROWS
        return [self._exact(name, at, key) for at, key in enumerate(self)]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def moments(self, some: slice = slice(None)) -> Moments:
        """Return the moments of the clusters that the keys are, or of some of them."""
        return self._as_rows(lambda total, weight: (total, weight), some).moments

    def averages(self, some: slice = slice(None)) -> Sums:
        """Return the sums over the means of the clusters that the keys are, or of some, each counted once."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return self._as_rows(lambda total, weight: (total / weight, np.ones(len(weight))), some)

    @cached_property
    def all_moments(self) -> Moments:
        """The moments of all keys, which every error asks for."""
        return self.moments()

    @cached_property
    def all_averages(self) -> Sums:
        """The sums over the means of all keys."""
        return self.averages()

    def _as_rows(self, of: Callable[[Any, Any], tuple[Any, Any]], some: slice) -> Sums:
        """Take clusters for rows: `of` gives weight times value and weight of each from its totals."""
        weight = self.weights(some)
        totals, squares, products = {}, {}, {}
        for name in [name for name in self.columns if name.endswith(TOTAL_OF)]:
            a, b = of(self.values(name, some), weight)
            statistic = name.removesuffix(TOTAL_OF)
            totals[statistic], squares[statistic] = ExactSum.of(a), ExactSum.of(squared(a))
            products[statistic] = ExactSum.of(weighted(a, b))
        own = of(weight, weight)[1]
        moments = Moments(len(weight), squares, products, ExactSum.of(squared(own)))
        return Sums(totals, ExactSum.of(own), len(weight), moments=moments)

    def runs(self) -> dict[Key, slice]:
        """Return where the keys are that differ in their last value only, by all others."""
        order = list(self)
        begins = [at for at, key in enumerate(order) if not at or key[:-1] != order[at - 1][:-1]]
        return {order[a][:-1]: slice(a, b) for a, b in itertools.pairwise([*begins, len(order)])}

    @classmethod
    def merged(cls, tables: Sequence[Table]) -> Table:
        """Return the sums of all keys of several tables of one slicing."""
        if len(tables) == 1:
            return tables[0]
        if weighted := next((table.columns for table in tables if WEIGHT in table.columns), None):
            tables = [table if WEIGHT in table.columns else table._with_weights(weighted) for table in tables]
        keys = [one_after_the_other(several) for several in zip(*(table.keys for table in tables), strict=True)]
        order, first = sorted_by(keys)
        columns = {
            name: compact(
                np.add.reduceat(np.concatenate([t.columns[name] for t in tables])[order], first, dtype=np.int64)
            )
            for name in tables[0].columns
        }
        rare: Rare = {}
        for table in tables:
            for where, total in table.rare.items():
                rare[where] = rare[where] + total if where in rare else total
        check_count(len(first))
        return cls(tuple(compact_keys(each[order[first]]) for each in keys), columns, rare)

    def _with_weights(self, names: Iterable[str]) -> Table:
        """Return the table of rows without weights as that of rows of weight 1, which has columns of these names."""
        columns: dict[str, NDArray[np.int64]] = {}
        rare = dict(self.rare)
        for name in names:
            of = next(each for each in _equal_to(name) if each in self.columns)
            column = self.columns[of]
            columns[name] = column if name == COUNTED_ROWS or column.ndim == 2 else _as_digits(column)
            rare |= {(name, key): total for (other, key), total in self.rare.items() if other == of}
        return Table(self.keys, columns, rare)

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain lists and strings, losslessly; columns are compressed."""
        return {
            "keys": [column.tolist() for column in self.keys],
            "columns": {name: _packed(column) for name, column in sorted(self.columns.items())},
            "rare": [[name, list(key), total.to_json()] for (name, key), total in sorted(self.rare.items())],
        }

    @classmethod
    def from_json(cls, data: Any) -> Table:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else: the message names the field.
        """
        read = reading.mapping(data, "table", "keys", "columns", "rare")
        keys = tuple(compact_keys(key_column(values)) for values in reading.several(read["keys"], "keys"))
        if not keys or len({len(column) for column in keys}) > 1 or not len(keys[0]):
            raise ValueError("keys: expected as many values of each grouping")
        order, first = sorted_by(list(keys))
        if len(first) < len(order) or (order != np.arange(len(order))).any():
            raise ValueError("keys: expected different ones in order")
        rare = {}
        for entry in reading.several(read["rare"], "rare"):
            name, key, total = reading.several(entry, "rare", 3)
            known = tuple(reading.several(key, "rare", len(keys)))
            if any(isinstance(value, (list, dict)) for value in known):
                raise ValueError("rare: expected plain values as keys")
            rare[reading.one_of(name, "rare", str), known] = ExactSum.from_json(total, "rare")
        columns = {
            name: compact(_unpacked(column, len(keys[0]), name))
            for name, column in reading.mapping(read["columns"], "columns").items()
        }
        if any(name not in columns or columns[name].ndim < 2 for name, _ in rare):
            raise ValueError("rare: expected names of columns of sums")
        return cls(keys, columns, rare)

    def check(self, question: Question, slicing: Slicing, counted: int) -> None:
        """Raise if the table is not one of a slicing of this many counted rows."""
        counted *= question.classes if isinstance(slicing[0], Classwise) else 1
        weighted = WEIGHT in self.columns
        expected = {COUNTED_ROWS: 1} | ({WEIGHT: 2, WEIGHT_SQUARES: 2} if weighted else {})
        kept, squares = question.kept_by(slicing)
        for each in kept:
            sums = 2 if weighted or not each.share else 1
            expected[each.name + TOTAL_OF] = sums
            expected |= {each.name + SQUARES_OF: 2} if squares and sums == 2 else {}
            expected |= {each.name + PRODUCTS_OF: 2} if squares and weighted else {}
        if {name: column.ndim for name, column in self.columns.items()} != expected:
            raise ValueError(f"columns: expected {', '.join(sorted(expected))}")
        if len(self.keys) != len(slicing):
            raise ValueError(f"keys: expected values of {len(slicing)} groupings")
        if self.counted.min() < 1 or self.counted.sum(dtype=np.int64) != counted:
            raise ValueError(f"counted: expected {counted} rows in all")


def _equal_to(name: str) -> Iterator[str]:
    """Yield the columns that a column is equal to where all weights are 1, itself first: see `Sums.of`."""
    yield name
    for end in (SQUARES_OF, PRODUCTS_OF):
        if name.endswith(end):
            yield name.removesuffix(end) + TOTAL_OF
    if name in (WEIGHT, WEIGHT_SQUARES):
        yield COUNTED_ROWS


def _as_digits(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return whole numbers as digits of sums."""
    found = np.zeros((len(counts), len(GRID_BITS)), np.int64)
    found[:, 0] = counts.astype(np.int64) << GRID_BITS[0]
    return found


def compact(column: NDArray[np.int64]) -> NDArray[Any]:
    """Return a column in half the memory, if it fits: digits of 32 bits, carried to the coarser grids.

    Examples
    --------
    >>> digits = np.array([[0, 0, 0, 0, 0, 2**40 + 5]])
    >>> compact(digits).tolist(), compact(digits).dtype.name
    ([[0, 0, 0, 0, 256, 5]], 'int32')
    """
    if column.ndim == 2:
        column = column.copy()
        for at in range(column.shape[1] - 1, 0, -1):
            carry = (column[:, at] + (1 << 31)) >> 32
            column[:, at] -= carry << 32
            column[:, at - 1] += carry
    return column.astype(np.int32) if column.min() >= -MOST_INT32 and column.max() < MOST_INT32 else column


def compact_keys(keys: NDArray[Any]) -> NDArray[Any]:
    """Return keys in half the memory, if they are integers that fit."""
    small = keys.dtype.kind in "iu" and int(keys.min()) >= -MOST_INT32 and int(keys.max()) < MOST_INT32
    return keys.astype(np.int32) if small else keys


def check_count(count: int) -> None:
    """Raise if there are too many keys."""
    if count > MOST_KEYS:
        raise ValueError(f"by: expected at most {MOST_KEYS:,} groups; put what many rows differ in into bins")


def sorted_by(keys: list[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return in which order rows are sorted by their keys, and where in it another key begins."""
    if len(keys) == 1 and keys[0].dtype.kind in "iu":  # stable sorting finds runs that are sorted already
        codes = keys
        order = np.argsort(keys[0], kind="stable")
    else:
        codes = [np.unique(column, return_inverse=True)[1] for column in keys]
        order = np.lexsort(codes[::-1])
    other = np.ones(len(order), bool)
    other[1:] = np.any([sorted_[1:] != sorted_[:-1] for sorted_ in (code[order] for code in codes)], axis=0)
    return order, np.flatnonzero(other)


def _packed(column: NDArray[np.int64]) -> list[Any]:
    return [column.ndim, base64.b85encode(zlib.compress(column.astype("<i8").tobytes(), 1)).decode()]


def _unpacked(data: Any, rows: int, name: str) -> NDArray[np.int64]:
    ndim, text = reading.several(data, name, 2)
    shape = (rows,) if reading.whole(ndim, name, 1, 2) == 1 else (rows, len(GRID_BITS))
    size = 8 * rows * (1 if ndim == 1 else len(GRID_BITS))
    try:
        decoder = zlib.decompressobj()
        found = decoder.decompress(base64.b85decode(reading.one_of(text, name, str)), size + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{name}: the column is damaged: {error}") from error
    if len(found) != size or not decoder.eof:
        raise ValueError(f"{name}: expected {size} bytes")
    return np.frombuffer(found, "<i8").astype(np.int64).reshape(shape)
