"""Arrays of which pieces are decoded whole, by a library that knows the format."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.cache import KEPT, Opening
from daskxent.sources.chunks import filling
from daskxent.sources.cuts import Even
from daskxent.sources.source import Base, pieced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from daskxent.sources.cuts import Cuts
    from daskxent.sources.source import Box


class Pieces(Base):
    """An array that is cut into pieces along its axes.

    A kind of these says in `cuts` where, and in `piece` how one is read. A piece of which a box takes only a part is
    kept for all threads: see `cache`.

    Attributes
    ----------
    cuts : sequence of Cuts or None
        One for each axis; None where there are none. Without any at all, boxes are read as they are.
    """

    name: str
    cuts: Sequence[Cuts | None]
    opening: Opening

    def piece(self, box: Box) -> NDArray[Any] | None:
        """Read one piece, into memory of its own; None if it is not stored."""
        raise NotImplementedError

    def stored(self, axis: int) -> Cuts | None:
        """Return the cuts; an axis that has none is one piece, if others have some."""
        return self.cuts[axis] or (Even(self.shape[axis], self.shape[axis]) if any(self.cuts) else None)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box, piece by piece."""
        return pieced(box, self.cuts, self.dtype, partial(self._part, missing=missing))

    def missing(self, box: Box) -> ValueError:
        """Make the error, not raised, for a piece that is not stored."""
        return unwritten(self.name, getattr(self, "path", "the array"), box, self.fill())

    def fill(self) -> Any:
        """Return what is read where nothing is stored."""
        return self.dtype.type(0)

    def _part(self, box: Box, missing: list[Box] | None) -> NDArray[Any]:
        """Read what is inside one piece."""
        whole = tuple(
            slice(0, n) if each is None else slice(each.floor(s.start), each.ceil(s.start + 1))
            for s, each, n in zip(box, self.cuts, self.shape, strict=True)
        )
        if box == whole or not any(self.cuts):
            found = self.piece(box)
        else:
            at = tuple(s.start for s in whole)
            found = KEPT.get((self.opening.key, at, ()), partial(self.piece, whole))
            if found is not None:
                found = found[
                    tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, whole, strict=True))
                ]
        if found is not None:
            return found
        if missing is None:
            raise self.missing(whole)
        missing.append(box)
        return np.full([s.stop - s.start for s in box], self.fill(), self.dtype)


def note(gaps: list[Box], missing: list[Box] | None, error: Callable[[Box], ValueError]) -> None:
    """Add boxes that are not stored to those that are missing; raise an error about the first where none may be."""
    if gaps and missing is None:
        raise error(gaps[0])
    if missing is not None:
        missing += gaps


def unwritten(name: str, where: str, box: Box, fill: Any) -> ValueError:
    """Make the error, not raised, for a box of an array that is not stored."""
    at = ", ".join(f"{s.start}:{s.stop}" for s in box)
    return ValueError(f"{name}: {where}[{at}] is missing: nobody wrote it; {filling(fill)}")
