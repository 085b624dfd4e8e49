"""Files of NumPy's own format."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.paths import found
from daskxent.sources.source import Base

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box


class MappedFile(Base):
    """A file of this machine that is mapped for each read, and that nobody may rewrite meanwhile.

    Parameters
    ----------
    file : str
        On a cluster every worker has the same one there.
    name : str
    nbytes : int
        Size of the file.
    """

    def __init__(self, file: str, name: str, nbytes: int) -> None:
        self.file, self.name, self.nbytes = file, name, nbytes
        # What tells a file from one that takes its place: which it is, its size, and when it was written. The first and
        # the last are asked for on each machine: copies differ in that.
        found = os.stat(file)
        self._written = found.st_ino, nbytes, found.st_mtime_ns

    def check_unchanged(self) -> None:
        """Raise if the file is another one than that which was opened."""
        found = os.stat(self.file)
        if (found.st_ino, found.st_size, found.st_mtime_ns) != self._written:
            raise ValueError(f"{self.name}: {self.file} was rewritten since it was opened")

    def version(self, axis: int | None, start: int, stop: int) -> str | None:
        """Return when the file was written, and its size."""
        return "{1} {2}".format(*self._written)


class Npy(MappedFile):
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
        if "://" in path:
            raise ValueError(f"{name}: a .npy file is memory-mapped: expected a local path, got {path}")
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


def check_regular(path: str, name: str) -> None:
    """Refuse what is no regular file: to open a pipe would take for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{name}: {path} is no regular file")


def _mapped(path: str, name: str) -> NDArray[Any]:
    check_regular(path, name)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # what NumPy makes of damaged headers is of many kinds
        raise ValueError(f"{name}: {path} cannot be read as a .npy array: {error}") from error
