"""Arrays one after the other along an axis, as one."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.cuts import Even, Uneven, overlapping
from daskxent.sources.source import Base, joined_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from daskxent.sources.chunks import Chunks
    from daskxent.sources.cuts import Cuts
    from daskxent.sources.source import Box, Source


class Joined(Base):
    """Arrays of one dtype, and of one shape but for their length along an axis.

    Parameters
    ----------
    members : sequence of Source
    axis : int
        Counted from the front.
    name : str
    """

    def __init__(self, members: Sequence[Source], axis: int, name: str) -> None:
        self.members, self.axis, self.name = tuple(members), axis, name
        first = members[0].shape
        self.shape = (*first[:axis], self._starts[-1], *first[axis + 1 :])
        self.dtype = members[0].dtype
        self.far = any(each.far for each in members)
        self.unfinished = next((each.unfinished for each in members if each.unfinished is not None), None)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(member.shape[self.axis] for member in self.members)]

    def stored(self, axis: int) -> Cuts | None:
        """Return the cuts of all members along their axis; along others those of the first that has any."""
        return self._cuts(axis, [member.stored(axis) for member in self.members])

    def pieces(self, axis: int) -> Cuts | None:
        """Return the cuts as for `stored`."""
        return self._cuts(axis, [member.pieces(axis) for member in self.members])

    def together(self, axis: int) -> Cuts | None:
        """Return the cuts as for `stored`; members that lie side by side are read a piece at a time."""
        if axis != self.axis:
            return self.pieces(axis)
        return self._cuts(axis, [member.together(axis) for member in self.members])

    def _cuts(self, axis: int, cuts: list[Cuts | None]) -> Cuts | None:
        if axis != self.axis:
            return next((each for each in cuts if each is not None), None)
        if all(each is None for each in cuts):
            return None
        lengths = [member.shape[axis] for member in self.members]
        some = zip(cuts, lengths, strict=True)
        return Uneven(tuple(Even(n, n) if each is None else each for each, n in some if n))

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box; over several members it is put together."""
        within = list(self._within(box))
        out = None if len(within) == 1 else np.empty([s.stop - s.start for s in box], self.dtype)
        for member, start, inside in within:
            gaps: list[Box] | None = None if missing is None else []
            found = member.read(inside, gaps)
            if missing is not None and gaps:
                missing += [self._whole(gap, start) for gap in gaps]
            if out is None:
                return found
            at = start - box[self.axis].start + inside[self.axis].start
            out[(slice(None),) * self.axis + (slice(at, at + found.shape[self.axis]),)] = found
        assert out is not None
        return out

    def encoded(self, box: Box) -> Iterable[tuple[Chunks, tuple[int, ...]]]:
        """Yield the chunks of the members."""
        for member, _, inside in self._within(box):
            yield from member.encoded(inside)

    def refresh(self) -> None:
        """Refresh all members."""
        for member in self.members:
            member.refresh()

    def window(self, axis: int | None, start: int, stop: int) -> Joined:
        """Let every member hold no more than that."""
        if axis != self.axis:
            return self._of([member.window(axis, start, stop) for member in self.members])
        found = []
        for begin, member in zip(self._starts, self.members, strict=False):
            low, high = (min(max(0, edge - begin), member.shape[axis]) for edge in (start, stop))
            found.append(member.window(axis, low, high))
        return self._of(found)

    def shared(self) -> Joined:
        """Return the same of shared members."""
        return self._of([member.shared() for member in self.members])

    def tiny(self, below: int) -> bool:
        """Return whether the pieces of all members are."""
        return all(member.tiny(below) for member in self.members)

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return the identities of the members that a box takes part of."""
        return {"joined": [member.identity(inside, lead) for member, _, inside in self._within(box)], "axis": self.axis}

    def version(self, box: Box) -> str | None:
        """Return the versions of the members that a box takes part of, joined."""
        return joined_versions(member.version(inside) for member, _, inside in self._within(box))

    def _of(self, members: Sequence[Source]) -> Joined:
        return Joined(members, self.axis, self.name)

    def _within(self, box: Box) -> Iterator[tuple[Source, int, Box]]:
        """Yield the members that a box takes part of, where they begin, and the box inside them."""
        for which, low, high in overlapping(self._starts, box[self.axis].start, box[self.axis].stop):
            inside = (*box[: self.axis], slice(low, high), *box[self.axis + 1 :])
            yield self.members[which], self._starts[which], inside

    def _whole(self, box: Box, start: int) -> Box:
        """Count a member's box from the beginning of all."""
        moved = slice(box[self.axis].start + start, box[self.axis].stop + start)
        return (*box[: self.axis], moved, *box[self.axis + 1 :])
