"""Rows that are kept one by one: those in which a value is largest, and some at random.

Which rows these are follows from the rows alone, so that it is the same however they are cut and merged: of equal
values the first row comes first, and a random row is one whose number has a small hash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import elementary, reading
from daskxent.numbers.keys import key_column, one_after_the_other
from daskxent.numbers.reading import MOST
from daskxent.numbers.row_choices import MOST_IN_ALL, MOST_ROWS
from daskxent.numbers.statistics import LEAST_LOG
from daskxent.numbers.status import COUNTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from daskxent.numbers.row_choices import Pick
    from daskxent.numbers.status import Scored

_DTYPES = {"row": np.int64, "order": np.float64, "label": np.int64, "prediction": np.int64, "loss": np.float64,
           "confidence": np.float64}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picked:
    """Rows that were picked, the first one first.

    Parameters
    ----------
    columns : mapping of str to (k,) array
        "row" (its number among all), "order" (they descend by it), "label", "prediction", "loss" (nats), "confidence".
    count : int
        How many are kept at most, of each group if there are any.
    keys : tuple of (k,) arrays
        The values of each grouping, by which rows are sorted first.
    """

    columns: Mapping[str, NDArray[Any]]
    count: int
    keys: tuple[NDArray[Any], ...] = ()

    @classmethod
    def none(cls, count: int) -> Picked:
        """Return no rows."""
        return cls({name: np.empty(0, dtype) for name, dtype in _DTYPES.items()}, count)

    def __len__(self) -> int:
        return len(self.columns["row"])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Picked)
            and self.count == other.count
            and len(self.keys) == len(other.keys)
            and all(map(np.array_equal, self.keys, other.keys))
            and all(
                np.array_equal(column, other.columns[name], equal_nan=True) for name, column in self.columns.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def merged(cls, several: Sequence[Picked]) -> Picked:
        """Return the first rows of several; none may be in two of them.

        Examples
        --------
        >>> a, b = (Picked({n: np.array([k + 2, k], t) for n, t in _DTYPES.items()}, 3) for k in (1, 2))
        >>> Picked.merged([a, b]).columns["row"].tolist()
        [4, 3, 2]
        """
        found = {name: np.concatenate([each.columns[name] for each in several]) for name in _DTYPES}
        keys = tuple(map(one_after_the_other, zip(*(each.keys for each in several), strict=True)))
        first = _first(found["row"], found["order"], keys, several[0].count)
        return cls({name: c[first] for name, c in found.items()}, several[0].count, tuple(k[first] for k in keys))

    def moved(self, by: int) -> Picked:
        """Return the rows, numbered from another one on."""
        return Picked({**self.columns, "row": self.columns["row"] + by}, self.count, self.keys)

    def to_json(self) -> dict[str, Any]:
        """Return the rows as plain lists, losslessly."""
        return {"count": self.count, "keys": [column.tolist() for column in self.keys]} | {
            name: [value if math.isfinite(value) else str(value) for value in column.tolist()]
            for name, column in self.columns.items()
        }

    @classmethod
    def from_json(cls, data: Any) -> Picked:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else: the message names the field.
        """
        read, found = reading.mapping(data, "picked", "count", "keys", *_DTYPES), {}
        count = reading.whole(read["count"], "count", 1, MOST_ROWS)
        keys = tuple(map(key_column, reading.several(read["keys"], "keys")))
        most = MOST_IN_ALL if keys else count
        for name, dtype in _DTYPES.items():
            values = reading.several(read[name], name)
            if len(values) > most or len(values) != len(reading.several(read["row"], "row")):
                raise ValueError(f"{name}: expected as many values as rows, at most {most}")
            for value in values:
                if dtype is np.int64:
                    reading.whole(value, name, -MOST - 1, MOST)
                elif value not in ("inf", "nan"):
                    reading.one_of(value, name, float, int)
            found[name] = np.array([float(value) if isinstance(value, str) else value for value in values], dtype)
        order = found["order"]
        if any(len(column) != len(order) for column in keys):
            raise ValueError("keys: expected as many values as rows")
        first = _first(found["row"], order, keys, count)
        if np.isnan(order).any() or not np.array_equal(first, np.arange(len(order))):
            raise ValueError(f"order: expected rows in order, at most {count} of each group")
        return cls(found, count, keys)


def order_of(pick: Pick, rows: Scored, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return by what rows are picked, the largest first; -inf for those that are not to be."""
    if not pick.by:
        order = -_hashed(numbers, pick.seed)
    elif pick.by in ("crossentropy", "entropy"):
        values = rows.scores.loss if pick.by == "crossentropy" else rows.scores.entropy
        order = np.where(np.isnan(values), -np.inf, values)
    else:
        wrong = ~rows.scores.hit & ~np.isnan(rows.scores.confidence)
        order = np.where(wrong, rows.scores.confidence, -np.inf)
    return np.where(rows.status & COUNTED, order, -np.inf)


def _hashed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return a number from 0 to 2**53 for each, by the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64)


def picked(pick: Pick, rows: Scored, numbers: NDArray[np.int64]) -> Picked:
    """Return the rows to be kept of scored rows, which have these numbers among all, in order."""
    order = order_of(pick, rows, numbers)
    at = np.flatnonzero(order > -np.inf)
    if not pick.per and at.size > pick.most:
        least = np.partition(order[at], at.size - pick.most)[at.size - pick.most]
        at = at[order[at] >= least]
    along = {**rows.along, "labels": rows.labels}
    keys = tuple(by.keys(rows.scores, along)[at] for by in pick.per)
    first = _first(numbers[at], order[at], keys, pick.most)
    at, keys = at[first], tuple(column[first] for column in keys)
    taken = {"row": numbers, "order": order, "label": rows.labels, "prediction": rows.scores.prediction}
    sure = _probability(rows.scores.peak) if pick.logs else rows.scores.confidence
    taken |= {"loss": rows.scores.loss, "confidence": sure}
    return Picked({name: taken[name][at].astype(dtype) for name, dtype in _DTYPES.items()}, pick.most, keys)


def _probability(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return e**x of log-probabilities, as they stand; of those that are none, far above 0, not more than e**700."""
    known = ~np.isnan(logs)
    return np.where(known, elementary.exp(np.where(known, np.clip(logs, -LEAST_LOG, LEAST_LOG), 0.0)), np.nan)


def _first(row: NDArray[Any], order: NDArray[Any], keys: tuple[NDArray[Any], ...], count: int) -> NDArray[np.int64]:
    """Return the places of the rows that come first, by group, then by order, then by number."""
    codes = [np.unique(column, return_inverse=True)[1] for column in keys]
    at = np.lexsort((row, -order, *codes[::-1]))
    if not keys or not at.size:
        return at[:count]
    other = np.ones(at.size, bool)
    other[1:] = np.any([np.diff(code[at]) != 0 for code in codes], axis=0)
    places = np.arange(at.size)
    found: NDArray[np.int64] = at[places - np.maximum.accumulate(np.where(other, places, 0)) < count]
    if found.size > MOST_IN_ALL:
        raise ValueError(f"worst: there are more than {MOST_IN_ALL:,} rows of all groups; ask for fewer, or for bins")
    return found
