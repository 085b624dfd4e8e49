"""Files of this machine that hold one array or several by name: ``file.npz/NAME``."""

from __future__ import annotations

import os
import stat
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.paths import found, listed
from daskxent.sources.source import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from daskxent.sources.source import Box


class LocalFile(Base):
    """An array in a file of this machine, which nobody may rewrite meanwhile.

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
        inode, _, time = written(file)  # which are asked for on each machine: copies differ in them
        self._written = inode, nbytes, time

    def check_unchanged(self) -> None:
        """Raise if the file is another one than that which was opened."""
        if written(self.file) != self._written:
            raise ValueError(f"{self.name}: {self.file} was rewritten since it was opened")

    def mapped(self, dtype: Any, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Map numbers that lie in C order in the file, which must be the one that was opened."""
        self.check_unchanged()
        numbers = np.memmap(self.file, dtype, "r", offset, shape)
        self.check_unchanged()  # what was mapped is what was there before and after
        return np.asarray(numbers)

    def version(self, box: Box) -> str | None:
        """Return when the file was written, and its size."""
        return "{1} {2}".format(*self._written)


def written(file: str) -> tuple[int, int, int]:
    """Return what sets a file apart from one that takes its place: which it is, its size, and when it was written."""
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns


def entered(path: str, name: str, *ends: str) -> tuple[str, str]:
    """Return the regular file that a path leads into, in full, and the name behind it."""
    file, inner = split(path, *ends)
    file = found(file, name)
    check_regular(file, name)
    return file, inner


def check_regular(path: str, name: str) -> None:
    """Refuse what is not a regular file: to open a pipe would take for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{name}: {path} is not a regular file")


def split(path: str, *ends: str) -> tuple[str, str]:
    """Return the file with one of some ends that a path leads into, and the name behind it.

    Examples
    --------
    >>> split("out/rank0.safetensors/logits", ".safetensors"), split("dump.npz", ".npz"), split("a.npy", ".npz")
    (('out/rank0.safetensors', 'logits'), ('dump.npz', ''), ('', ''))
    """
    for end in ends:
        file, inside, inner = f"{path}/".partition(f"{end}/")
        if inside:
            return file + end, inner.rstrip("/")
    return "", ""


def takes(*ends: str) -> Callable[[str], bool]:
    """Return what says whether a path leads into a file with such an end, and not into a directory of that name."""

    def asked(path: str) -> bool:
        file = split(path, *ends)[0]
        return bool(file) and "://" not in path and not os.path.isdir(os.path.expanduser(file))

    return asked


def chosen(inner: str, arrays: Iterable[str], file: str, name: str) -> str:
    """Return the name of an array of a file: the one that was given, or the only one."""
    names = list(arrays)
    if not inner and len(names) == 1:
        return names[0]
    if inner not in names:
        holds = f"{file} holds {listed(names) or 'no arrays'}"
        raise FileNotFoundError(f"{name}: there is no {inner or 'name of an array'} in it; {holds}: {file}/NAME")
    return inner


def bfloat16_dtype() -> np.dtype[Any]:
    """Return the dtype of bfloat16, which NumPy has from another package."""
    if not find_spec("ml_dtypes"):
        raise ImportError("bfloat16 needs ml_dtypes: pip install 'daskxent[bfloat16]'")
    from ml_dtypes import bfloat16

    dtype: np.dtype[Any] = np.dtype(bfloat16)
    return dtype
