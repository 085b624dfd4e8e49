"""A part of an array, taken by a slice or an index along each axis."""

from __future__ import annotations

import operator
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from daskxent.sources.source import Wrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.cuts import Cuts
    from daskxent.sources.source import Box, Source

Index = tuple[slice | int, ...]


class Sliced(Wrapped):
    """A part of a source; what is outside is not read.

    Parameters
    ----------
    source : Source
    index : tuple of slice and int
        As `resolved` has it: one for each axis of the source.
    """

    unfinished = None  # what is there may be sliced  # type: ignore[assignment]

    def __init__(self, source: Source, index: Index) -> None:
        self.source, self.index, self.name, self.dtype = source, index, source.name, source.dtype
        self.views = source.views
        self.shape = tuple(each.stop - each.start for each in index if isinstance(each, slice))

    def like(self, source: Source) -> Sliced:
        """Return the same part of another source."""
        return Sliced(source, self.index)

    @cached_property
    def _kept(self) -> list[int]:
        """The axes of the source that are still there."""
        return [axis for axis, each in enumerate(self.index) if isinstance(each, slice)]

    def _start(self, axis: int) -> int:
        each = self.index[self._kept[axis]]
        assert isinstance(each, slice)
        return int(each.start)

    def stored(self, axis: int) -> Cuts | None:
        """Return the source's cuts inside the slice."""
        return self._part(axis, self.source.stored(self._kept[axis]))

    def pieces(self, axis: int) -> Cuts | None:
        """Return the source's cuts inside the slice."""
        return self._part(axis, self.source.pieces(self._kept[axis]))

    def together(self, axis: int) -> Cuts | None:
        """Return the source's cuts inside the slice."""
        return self._part(axis, self.source.together(self._kept[axis]))

    def _part(self, axis: int, cuts: Cuts | None) -> Cuts | None:
        start = self._start(axis)
        return None if cuts is None else cuts.part(start, start + self.shape[axis])

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box."""
        own = self._own(box)
        gaps: list[Box] | None = None if missing is None else []
        found = self.source.read(own, gaps)
        if missing is not None and gaps:
            missing += [self._back(gap) for gap in gaps]
        return found[tuple([slice(None) if isinstance(each, slice) else 0 for each in self.index])]

    def _own(self, box: Box) -> Box:
        """Return the box of the source that a box of the part is."""
        ranges = iter(box)
        return tuple([self._moved(each, next(ranges) if isinstance(each, slice) else None) for each in self.index])

    def window(self, axis: int | None, start: int, stop: int) -> Sliced:
        """Return the same of a source that holds no more than that."""
        if axis is None:
            return self
        first = self._start(axis)
        return self.like(self.source.window(self._kept[axis], first + start, first + stop))

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return the identity of what the source has there, and the slice; along the lead axis only where it begins."""
        at = None if lead is None else self._kept[lead]
        taken = [
            [each.start, None if axis == at else each.stop] if isinstance(each, slice) else each
            for axis, each in enumerate(self.index)
        ]
        return {"sliced": self.source.identity(self._own(box), at), "index": taken}

    @staticmethod
    def _moved(each: slice | int, taken: slice | None) -> slice:
        if isinstance(each, slice):
            assert taken is not None
            return slice(each.start + taken.start, each.start + taken.stop)
        return slice(each, each + 1)

    def _back(self, box: Box) -> Box:
        starts = [(axis, self._start(at)) for at, axis in enumerate(self._kept)]
        return tuple(slice(box[axis].start - start, box[axis].stop - start) for axis, start in starts)


def resolved(key: Any, shape: tuple[int, ...], name: str) -> Index:
    """Return what NumPy's basic indexing makes of a key, as one slice or index that is not negative for each axis.

    Raises
    ------
    IndexError
        The key holds something else than slices without steps, integers and an ellipsis; there are too many; an
        integer is out of range.

    Examples
    --------
    >>> resolved((Ellipsis, slice(None, -1), 2), (5, 4, 3), "x")
    (slice(0, 5, None), slice(0, 3, None), 2)
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    given = [each for each in keys if each is not Ellipsis]
    if len(given) > len(shape) or len(keys) - len(given) > 1:
        raise IndexError(f"{name}: {written(keys)} has too many indices for shape {shape}")
    if len(given) == len(keys):
        keys.append(Ellipsis)
    at = next(i for i, each in enumerate(keys) if each is Ellipsis)
    keys[at : at + 1] = [slice(None)] * (len(shape) - len(given))
    return tuple(_one(each, axis, n, name) for axis, (each, n) in enumerate(zip(keys, shape, strict=True)))


def _one(each: Any, axis: int, length: int, name: str) -> slice | int:
    if isinstance(each, slice):
        if each.step not in (None, 1):
            raise IndexError(f"{name}: expected slices without steps, got {written([each])} for axis {axis}")
        try:
            start, stop, _ = each.indices(length)
        except TypeError:
            raise IndexError(f"{name}: expected slices of integers, got {each!r} for axis {axis}") from None
        return slice(start, max(start, stop))
    try:
        found = operator.index(each)
    except TypeError:
        raise IndexError(f"{name}: expected slices and integers, got {each!r} for axis {axis}") from None
    if isinstance(each, bool) or not -length <= found < length:
        raise IndexError(f"{name}: index {each} is out of range for axis {axis} of length {length}")
    return found % length


def written(keys: Any) -> str:
    """Return an index as it is typed.

    Examples
    --------
    >>> written((Ellipsis, slice(None, -1), slice(3, None), 2))
    '[..., :-1, 3:, 2]'
    """

    def one(each: Any) -> str:
        if not isinstance(each, slice):
            return "..." if each is Ellipsis else str(each)
        edges = ["" if edge is None else str(edge) for edge in (each.start, each.stop)]
        return ":".join(edges + ([str(each.step)] if each.step is not None else []))

    return f"[{', '.join(map(one, keys))}]"


def parsed(text: str) -> tuple[str, tuple[Any, ...] | None]:
    """Split a path that carries an index, such as ``d.zarr/logits[:, :-1]``; without one the second value is None.

    Examples
    --------
    >>> parsed("d.zarr/logits[..., :-1, 3]"), parsed("a.npy")
    (('d.zarr/logits', (Ellipsis, slice(None, -1, None), 3)), ('a.npy', None))
    """
    found = re.fullmatch(r"(.+)\[([-\d:,.\s]*)\]", text, re.DOTALL)
    if not found:
        return text, None
    path, inside = found.groups()
    return path, tuple(_item(item.strip(), text) for item in inside.split(","))


def _item(item: str, text: str) -> Any:
    if item == "...":
        return Ellipsis
    if not re.fullmatch(r"(-?\d+)?(:(-?\d+)?){0,2}", item) or not item:
        raise IndexError(f"{text}: {item!r} is not an integer, a slice such as 3:-1, or ...")
    edges = [int(edge) if edge else None for edge in item.split(":")]
    return slice(*edges) if len(edges) > 1 else edges[0]
