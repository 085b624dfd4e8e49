"""Arrays of other libraries that are read as they are sliced: datasets of HDF5, variables that xarray opened lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from daskxent.sources.codecs import native_dtype
from daskxent.sources.cuts import Even
from daskxent.sources.memory import plain
from daskxent.sources.objects import failing
from daskxent.sources.source import Base

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box

IN_MEMORY = ("jax", "jaxlib", "pandas", "torch")  # libraries whose arrays are in memory, or take other indices


class Sliceable(Base):
    """Anything with a shape, a dtype and NumPy's basic slices, of which a box is read at a time.

    Parameters
    ----------
    array : array
        Where it is not in memory it is read under the lock of its library, if that has one.
    name : str
    """

    def __init__(self, array: Any, name: str) -> None:
        self.array, self.name, self.shape = array, name, tuple(array.shape)
        self.dtype = native_dtype(array.dtype)
        chunks = getattr(array, "chunks", None)
        self._chunks = chunks if isinstance(chunks, tuple) and all(isinstance(n, int) for n in chunks) else None

    def stored(self, axis: int) -> Even | None:
        """Return the borders of chunks, if the array says how long they are."""
        return None if self._chunks is None else Even(self.shape[axis], self._chunks[axis])

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box."""
        with failing(self.name):
            given = self.array[box]
            found = np.asanyarray(given)  # xarray reads here; masked arrays remain what they are
        self._check(found, box, "safe" if hasattr(given, "dtype") else "same_kind")  # lists have no width
        return plain(found.astype(self.dtype, copy=False), self.name)

    def _check(self, found: NDArray[Any], box: Box, casting: Literal["safe", "same_kind"]) -> None:
        """Refuse what is not the part that was asked for, or may hold numbers that the promised type does not."""
        shape = tuple(s.stop - s.start for s in box)
        if found.shape != shape:
            raise ValueError(f"{self.name}: what was read has shape {found.shape} where {shape} was asked for")
        if not np.can_cast(found.dtype, self.dtype, casting):
            raise TypeError(f"{self.name}: what was read has dtype {found.dtype} where {self.dtype} was promised")


def is_sliceable(given: Any) -> bool:
    """Return whether an object is an array that need not be loaded whole."""
    library = type(given).__module__.partition(".")[0]
    whole = isinstance(given, (np.ndarray, np.generic)) or library in IN_MEMORY
    slices = isinstance(getattr(given, "dtype", None), np.dtype) and hasattr(given, "shape")
    return not whole and slices and hasattr(given, "__getitem__")
