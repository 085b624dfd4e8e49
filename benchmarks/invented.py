"""An array of any size whose chunks are made up when they are read. Workers import this file: see `scale`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.cuts import Even
from daskxent.sources.source import Base

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Invented(Base):
    """A source on a grid of chunks that all hold the same, and cost nothing to read."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: tuple[int, ...]

    def stored(self, axis: int) -> Even:
        """Return the borders of the chunks."""
        return Even(self.shape[axis], self.blocks[axis])

    def read(self, box: tuple[slice, ...], absent: Any = None) -> NDArray[Any]:
        """Return what is in a box inside one chunk, or zeros."""
        lengths = tuple(s.stop - s.start for s in box)
        if len(lengths) == 1:
            return np.zeros(lengths, self.dtype)
        return chunk(self.blocks, self.dtype)[tuple(map(slice, lengths))]


@lru_cache(maxsize=4)
def chunk(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a chunk of normal numbers, the same for all who ask."""
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    values.flags.writeable = False
    return values
