"""Files of NumPy's own format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.paths import found
from daskxent.sources.source import Base

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box


@dataclass(frozen=True)
class Npy(Base):
    """A ``.npy`` file, mapped anew for each read so that the pages read before can leave memory."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def open(cls, path: str, name: str) -> Npy:
        """Read the header of a file."""
        if "://" in path:
            raise ValueError(f"{name}: a .npy file is memory-mapped: expected a local path, got {path}")
        path = found(path, name)
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise ValueError(f"{name}: {path} cannot be read as a .npy array: {error}") from error
        return cls(path, name, array.shape, array.dtype)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Map the file and return a view of the elements in a box."""
        return np.asarray(np.lib.format.open_memmap(self.path, mode="r")[box])
