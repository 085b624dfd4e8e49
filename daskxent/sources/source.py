"""What can be read by boxes: the methods that every kind of source has."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from daskxent.sources.chunks import Chunks
    from daskxent.sources.cuts import Cuts

Box = tuple[slice, ...]

SAMPLES = 16
SAMPLE_BYTES = 4096


class Source(Protocol):
    """An array that can be read by boxes from any thread or process; pickles.

    A kind of source has its file here, derives from `Base`, which answers for arrays of which any box is cheap, and is
    opened by an entry in `opening.OPENERS`.
    """

    @property
    def name(self) -> str:
        """What the array is called in messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements as they are read."""

    @property
    def unfinished(self) -> int | None:
        """How many steps are complete, if somebody has not finished writing them; None where nothing says so."""

    @property
    def far(self) -> bool:
        """Whether there are chunks that are worth asking for ahead."""

    @property
    def views(self) -> bool:
        """Whether what is read is part of an array that is in memory, so that any box takes none."""

    def stored(self, axis: int) -> Cuts | None:
        """Return where along an axis begins what is stored, read and decoded as one; None where any box is cheap."""

    def pieces(self, axis: int) -> Cuts | None:
        """Return where along an axis begins what is decoded as one; None where any box is cheap."""

    def together(self, axis: int) -> Cuts | None:
        """Return where along an axis begins what is best read as one: a piece, or several small ones."""

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read the elements in a box of slices with steps of 1.

        What is not stored reads as the fill value and its box is added to `missing`; without a list to add it to,
        it is an error.
        """

    def encoded(self, box: Box) -> Iterable[tuple[Chunks, tuple[int, ...]]]:
        """Yield the chunks that a box takes part of and that are worth asking for ahead: see `prefetch`."""

    def refresh(self) -> None:
        """Make the calling thread look anew at what is stored: it may have been rewritten since the last read."""

    def window(self, axis: int | None, start: int, stop: int) -> Source:
        """Return the same, holding no more of what is in memory than ``start <= index < stop`` along an axis."""

    def shared(self) -> Source:
        """Return the same, to be read by several boxes side by side."""

    def tiny(self, below: int) -> bool:
        """Return whether pieces hold so few bytes that threads would only take turns at reading them."""

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return what the array can be recognised by inside a box, as JSON has it; it may grow along the lead axis."""

    def version(self, box: Box) -> str | None:
        """Return what changes when anything in a box is written anew; None if nothing says so."""


class Base:
    """A source of which any box is cheap, and which is not in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    unfinished: int | None = None
    far = False
    views = False

    def tiny(self, below: int) -> bool:
        """Return False: there are no pieces."""
        return False

    def stored(self, axis: int) -> Cuts | None:
        """Return None: any box is cheap."""
        return None

    def pieces(self, axis: int) -> Cuts | None:
        """Return where what is decoded as one begins: where what is stored as one does."""
        return self.stored(axis)

    def together(self, axis: int) -> Cuts | None:
        """Return where what is best read as one begins: where what is decoded as one does."""
        return self.pieces(axis)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read the elements in a box."""
        raise NotImplementedError

    def encoded(self, box: Box) -> Iterable[tuple[Chunks, tuple[int, ...]]]:
        """Return none: nothing is far away."""
        return ()

    def refresh(self) -> None:
        """Do nothing: nothing is remembered."""

    def window(self, axis: int | None, start: int, stop: int) -> Any:
        """Return the source itself: nothing of it is in memory."""
        return self

    def shared(self) -> Any:
        """Return the source itself: it makes no difference."""
        return self

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return shape, dtype and a digest of a few steps; where it is, if it has a path; where the box begins."""
        if not self.shape:
            return self.read(()).item()  # a number
        starts, shape = [s.start for s in box], [s.stop - s.start for s in box]
        begin = {"start": starts} if any(starts) else {}
        where = getattr(self, "path", "memory")
        return {"where": where, "shape": shape, **begin, "dtype": self.dtype.name, "sample": self.sample(box, lead)}

    def version(self, box: Box) -> str | None:
        """Return None: nothing shows it."""
        return None

    def sample(self, box: Box, lead: int | None) -> str:
        """Digest the first bytes of a few steps of a box."""
        step = [1 if axis == lead else s.stop - s.start for axis, s in enumerate(box)]
        lengths = _first(SAMPLE_BYTES // self.dtype.itemsize, step)  # a step may be as large as memory
        first = tuple(slice(s.start, s.start + length) for s, length in zip(box, lengths, strict=True))
        several = [first]
        if lead is not None:
            begin, length = box[lead].start, box[lead].stop - box[lead].start
            steps = [slice(begin + i, begin + i + 1) for i in spread(length)]
            several = [(*first[:lead], each, *first[lead + 1 :]) for each in steps]
        return digest(b"".join(bytes_of(self.read(each, []))[:SAMPLE_BYTES] for each in several))


class Wrapped(Base):
    """A source whose numbers are made of those of another one, along the same steps.

    A kind of these says in `like` how to make the same of another source. Along an axis that the source does not have,
    or of another length, all of the source is read at once.
    """

    source: Source

    @property
    def unfinished(self) -> int | None:  # type: ignore[override]
        """How many steps of the source are complete."""
        return self.source.unfinished

    @property
    def far(self) -> bool:  # type: ignore[override]
        """Whether the source's chunks are worth asking for ahead."""
        return self.source.far

    def like(self, source: Source) -> Any:
        """Return the same of another source."""
        raise NotImplementedError

    def stored(self, axis: int) -> Cuts | None:
        """Return the source's cuts."""
        return self.source.stored(axis) if self._same(axis) else None

    def pieces(self, axis: int) -> Cuts | None:
        """Return the source's cuts."""
        return self.source.pieces(axis) if self._same(axis) else None

    def together(self, axis: int) -> Cuts | None:
        """Return the source's cuts."""
        return self.source.together(axis) if self._same(axis) else None

    def _same(self, axis: int) -> bool:
        """Return whether an axis is that of the source."""
        return self.source.shape[axis : axis + 1] == self.shape[axis : axis + 1]

    def _own(self, box: Box) -> Box:
        """Return the box of the source that a box is made of."""
        ranges = zip(box, self.source.shape, strict=False)
        return tuple(s if self._same(axis) else slice(0, length) for axis, (s, length) in enumerate(ranges))

    def encoded(self, box: Box) -> Iterable[tuple[Chunks, tuple[int, ...]]]:
        """Yield the chunks of the source."""
        return self.source.encoded(self._own(box))

    def refresh(self) -> None:
        """Refresh the source."""
        self.source.refresh()

    def window(self, axis: int | None, start: int, stop: int) -> Any:
        """Return the same of a source that holds no more than that."""
        return self.like(self.source.window(axis, start, stop))

    def shared(self) -> Any:
        """Return the same of a shared source."""
        return self.like(self.source.shared())

    def tiny(self, below: int) -> bool:
        """Return whether the source's pieces are."""
        return self.source.tiny(below)

    def version(self, box: Box) -> str | None:
        """Return the version of the source."""
        return self.source.version(self._own(box))


def pieced(box: Box, cuts: Iterable[Cuts | None], dtype: Any, read: Callable[[Box], NDArray[Any]]) -> NDArray[Any]:
    """Read a box in pieces that end at cuts, and put them together; a box inside one piece is what `read` returns."""
    ranges = [
        [s] if each is None else [slice(*edges) for edges in each.ranges(s.start, s.stop)]
        for s, each in zip(box, cuts, strict=True)
    ]
    if all(len(several) == 1 for several in ranges):
        return read(box)
    out = np.empty(tuple(s.stop - s.start for s in box), dtype)
    for part in itertools.product(*ranges):
        target = tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, box, strict=True))
        out[target] = read(part)
    return out


def joined_versions(versions: Iterable[str | None]) -> str | None:
    """Return a version of several arrays; None if there is none of one of them.

    Examples
    --------
    >>> joined_versions(["1 2", "3"]), joined_versions(["1 2", None])
    ('b0e4c0b559c4711c', None)
    """
    known = list(versions)
    return None if None in known else digest("\n".join(map(str, known)).encode())


def between(shape: Sequence[int], axis: int | None, start: int, stop: int) -> Box:
    """Return the box that is a range along one axis of an array, and all of the others."""
    return tuple(slice(start, stop) if at == axis else slice(0, length) for at, length in enumerate(shape))


def _first(count: int, shape: Sequence[int]) -> list[int]:
    """Return the shape of the smallest box that holds the first elements of an array, in C order."""
    lengths = []
    for length in reversed(shape):
        lengths.append(min(length, count))
        count = -(-count // length)
    return lengths[::-1]


def spread(length: int, count: int = SAMPLES) -> list[int]:
    """Return some indexes below a length, first and last among them."""
    count = min(count, length)
    return [i * (length - 1) // max(1, count - 1) for i in range(count)]


def digest(data: bytes) -> str:
    """Return a name of bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def bytes_of(values: Any) -> bytes:
    """Return the bytes of an array; of strings that lie elsewhere, the strings."""
    if values.dtype.kind in "OT":
        return repr(values.tolist()).encode()
    return np.ascontiguousarray(values).tobytes()
