"""Where an axis is cut: the borders of what is stored, or decoded, as one."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Even:
    """Pieces of equal length.

    Attributes
    ----------
    length : int
        Of the axis.
    size : int
        Of every piece but the first and the last.
    phase : int
        How much of the first piece is cut off, as by a slice.

    Examples
    --------
    >>> cuts = Even(10, 4)
    >>> list(cuts.ranges(3, 10)), cuts.floor(7), cuts.ceil(5), cuts.count(3, 10)
    ([(3, 4), (4, 8), (8, 10)], 4, 8, 3)
    >>> list(cuts.part(3, 9).ranges(0, 6))
    [(0, 1), (1, 5), (5, 6)]
    """

    length: int
    size: int
    phase: int = 0

    @property
    def largest(self) -> int:
        """Length of the longest piece."""
        return min(self.length, self.size)

    def floor(self, at: int) -> int:
        """Return the last cut that is not beyond a place."""
        return max(0, (at + self.phase) // self.size * self.size - self.phase) if at < self.length else self.length

    def ceil(self, at: int) -> int:
        """Return the first cut that is not before a place."""
        return min(self.length, -(-(at + self.phase) // self.size) * self.size - self.phase) if at > 0 else 0

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield a range in pieces, of which the first and the last may be cut short."""
        while start < stop:
            end = min(stop, (start + self.phase) // self.size * self.size - self.phase + self.size)
            yield start, end
            start = end

    def count(self, start: int, stop: int) -> int:
        """Return into how many pieces a range is cut."""
        if start >= stop:
            return 0
        return (stop - 1 + self.phase) // self.size - (start + self.phase) // self.size + 1

    def part(self, start: int, stop: int) -> Even:
        """Return the cuts of a range."""
        return Even(stop - start, self.size, (self.phase + start) % self.size)


def overlapping(starts: list[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield which of some ranges, one after the other, another range overlaps, and what it takes of each.

    Parameters
    ----------
    starts : list of int
        Where each range begins, and where the last one ends.
    start, stop : int

    Examples
    --------
    >>> list(overlapping([0, 5, 5, 9, 12], 3, 10))  # the number of a range, and a part counted from its beginning
    [(0, 3, 5), (2, 0, 4), (3, 0, 1)]
    """
    for which in range(max(0, bisect_right(starts, start) - 1), len(starts) - 1):
        begin, end = starts[which : which + 2]
        if begin >= stop:
            return
        low, high = max(begin, start), min(end, stop)
        if low < high:
            yield which, low - begin, high - begin


@dataclass(frozen=True)
class Uneven:
    """Axes that are cut in ways of their own, one after the other.

    Attributes
    ----------
    members : tuple of Cuts

    Examples
    --------
    >>> cuts = chunked((5, 1, 4))
    >>> list(cuts.ranges(2, 10)), cuts.floor(9), cuts.ceil(2), cuts.length, cuts.largest, cuts.count(5, 7)
    ([(2, 5), (5, 6), (6, 10)], 6, 5, 10, 5, 2)
    """

    members: tuple[Cuts, ...]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(member.length for member in self.members)]

    @property
    def length(self) -> int:
        """Length of the axis."""
        return self._starts[-1]

    @property
    def largest(self) -> int:
        """Length of the longest piece."""
        return max((member.largest for member in self.members), default=0)

    def floor(self, at: int) -> int:
        """Return the last cut that is not beyond a place."""
        if at >= self.length:
            return self.length
        which = max(0, bisect_right(self._starts, at) - 1)
        return self._starts[which] + self.members[which].floor(at - self._starts[which])

    def ceil(self, at: int) -> int:
        """Return the first cut that is not before a place."""
        which = bisect_left(self._starts, min(at, self.length))
        if self._starts[which] == at or not which:
            return self._starts[which]
        start = self._starts[which - 1]
        return start + self.members[which - 1].ceil(at - start)

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield a range in pieces, of which the first and the last may be cut short."""
        for begin, member, low, high in self._within(start, stop):
            yield from ((begin + one, begin + other) for one, other in member.ranges(low, high))

    def count(self, start: int, stop: int) -> int:
        """Return into how many pieces a range is cut."""
        return sum(member.count(low, high) for _, member, low, high in self._within(start, stop))

    def part(self, start: int, stop: int) -> Uneven:
        """Return the cuts of a range."""
        return Uneven(tuple(member.part(low, high) for _, member, low, high in self._within(start, stop)))

    def _within(self, start: int, stop: int) -> Iterator[tuple[int, Cuts, int, int]]:
        """Yield where the members begin that a range takes part of, them, and the part."""
        for which, low, high in overlapping(self._starts, start, stop):
            yield self._starts[which], self.members[which], low, high


Cuts = Even | Uneven


def chunked(sizes: tuple[int, ...]) -> Cuts:
    """Return the cuts of chunks of these lengths, none of which is empty."""
    even = all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]
    return Even(sum(sizes), sizes[0]) if even else Uneven(tuple(Even(size, size) for size in sizes if size))
