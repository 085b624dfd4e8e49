"""Files of NumPy's own format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.local import LocalFile, check_regular
from daskxent.sources.paths import found

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box


class Npy(LocalFile):
    """A ``.npy`` file, mapped anew for each read so that the pages read before can leave memory.

    Parameters
    ----------
    path : str
        Of a file of this machine; on a cluster every worker has the same one there.
    name : str
    shape, dtype : tuple of int, dtype
        What its header says.
    nbytes : int
        Size of the file.
    """

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> None:
        super().__init__(path, name, nbytes)
        self.path, self.shape, self.dtype = path, shape, dtype

    @classmethod
    def open(cls, path: str, name: str) -> Npy:
        """Read the header of a file."""
        path = found(path, name)
        array = _mapped(path, name)
        return cls(path, name, array.shape, array.dtype, os.stat(path).st_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return Npy, (self.path, self.name, self.shape, self.dtype, self.nbytes)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Map the file and return a view of the elements in a box.

        Raises
        ------
        ValueError
            The file is another one than that which was opened.
        """
        self.check_unchanged()
        try:
            array = _mapped(self.path, self.name)
        finally:
            self.check_unchanged()  # what was mapped is what was there before and after
        if (array.shape, array.dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"{self.name}: {self.path} was {self.shape} {self.dtype} where it was opened, and is {array.shape} "
                f"{array.dtype} here"
            )
        return np.asarray(array[box])


def _mapped(path: str, name: str) -> NDArray[Any]:
    check_regular(path, name)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # what NumPy makes of damaged headers is of many kinds
        raise ValueError(f"{name}: {path} cannot be read as a .npy array: {error}") from error


def header_of(file: Any, path: str, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an open file: shape and dtype of an array of numbers in C order; others are errors."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise Unsuitable(f"{name}: {path} is in Fortran order; save numpy.ascontiguousarray of it")
    if dtype.hasobject:
        raise Unsuitable(f"{name}: {path} holds Python objects, which are not unpickled")
    return shape, dtype


class Unsuitable(ValueError):
    """An array that is whole, but is not read."""
