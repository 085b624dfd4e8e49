"""zarr arrays on grids of chunks of unequal lengths, read through zarr, chunk by chunk."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.cache import Opening
from daskxent.sources.chunks import MissingChunk, TornChunk, filled, filling
from daskxent.sources.codecs import native_dtype
from daskxent.sources.cuts import chunked
from daskxent.sources.layout import address
from daskxent.sources.objects import failing, open_bytes
from daskxent.sources.pieces import Pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.cuts import Cuts
    from daskxent.sources.source import Box


class Rectilinear(Pieces):
    """A zarr array whose chunks have lengths of their own along each axis.

    Parameters
    ----------
    array : zarr.Array
    name : str
    opening : Opening, optional
        That of an array that was opened before, in this process or another one.
    """

    def __init__(self, array: Any, name: str, opening: Opening | None = None) -> None:
        self.array, self.name, self.opening = array, name, opening or Opening()
        self.shape, self.dtype = array.shape, native_dtype(array.dtype)
        self.cuts = [chunked(sizes) if sum(sizes) else None for sizes in array.read_chunk_sizes]
        self.path = address(array)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rectilinear, (self.array, self.name, self.opening)

    @cached_property
    def _bytes(self) -> Any:
        return open_bytes(self.array)

    @cached_property
    def _starts(self) -> list[list[int]]:
        """Where the objects begin that hold chunks, along each axis."""
        return [[0, *accumulate(sizes)] for sizes in self.array.write_chunk_sizes]

    def stored(self, axis: int) -> Cuts | None:
        """Return the borders of shards, or of chunks where there are no shards."""
        sizes = self.array.write_chunk_sizes[axis]
        return chunked(sizes) if sum(sizes) else None

    def pieces(self, axis: int) -> Cuts | None:
        """Return the borders of chunks."""
        return self.cuts[axis]

    def fill(self) -> Any:
        """Return the fill value."""
        return filled(self.array)

    def piece(self, box: Box) -> NDArray[Any] | None:
        """Read one chunk."""
        key = self._key(box)
        if not self._bytes.exists(key):
            return None
        try:
            return np.asarray(self.array[box], self.dtype)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            message = f"{self.name}: chunk {key} of {self._bytes.where} cannot be decoded: {error}"
            raise TornChunk(message, key) from error

    def missing(self, box: Box) -> MissingChunk:
        """Make the error, not raised, for a chunk that is not stored."""
        key = self._key(box)
        what = f"{self.name}: chunk {key} of {self._bytes.where} is missing; {filling(self.fill())}"
        return MissingChunk(what, key)

    def version(self, box: Box) -> None:
        """Return None: what was written since is not noticed."""

    def _key(self, box: Box) -> str:
        index = tuple(bisect_right(starts, s.start) - 1 for starts, s in zip(self._starts, box, strict=True))
        found: str = self.array.metadata.encode_chunk_key(index)
        return found


def open_rectilinear(store: Any, name: str) -> Any:
    """Open what zarr opens only if it is asked to read such grids."""
    import zarr

    with failing(name), zarr.config.set({"array.rectilinear_chunks": True}):
        return zarr.open(store, mode="r")


def is_switched_off(error: Exception) -> bool:
    """Return whether zarr reads such a grid only if it is asked to."""
    return type(error).__name__ == "RectilinearChunksDisabledError"
