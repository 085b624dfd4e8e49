"""``.npy`` files on the web or in a bucket, of which ranges are read: ``https://host/logits.npy``."""

from __future__ import annotations

import io
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.npy import Unsuitable, header_of
from daskxent.sources.objects import RANGE, failing, known_by
from daskxent.sources.source import Base, digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.sources.source import Box

HEADER = 1 << 12  # bytes, more than the header of any array without fields


class RemoteNpy(Base):
    """A ``.npy`` file behind a URL; whole steps of the first axis are read, in ranges that are asked for at once.

    Parameters
    ----------
    path : str
        The URL.
    name : str
    shape, dtype : tuple of int, dtype
        What its header says.
    offset : int
        Where the numbers begin, in bytes.
    storage : mapping or None
        What the file system of the URL takes.
    """

    def __init__(
        self, path: str, name: str, shape: tuple[int, ...], dtype: Any, offset: int, storage: Mapping[str, Any] | None
    ) -> None:
        self.path, self.name, self.shape, self.offset, self.storage = path, name, shape, offset, storage
        self._stored = np.dtype(dtype)
        self.dtype = self._stored.newbyteorder("=")

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteNpy, (self.path, self.name, self.shape, self._stored, self.offset, self.storage)

    @cached_property
    def _place(self) -> tuple[Any, str]:
        return located(self.path, self.storage)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box."""
        step = math.prod(self.shape[1:]) * self.dtype.itemsize
        first, steps = (box[0].start, box[0].stop - box[0].start) if box else (0, 1)
        start, nbytes = self.offset + first * step, steps * step
        edges = [*range(start, start + nbytes, RANGE), start + nbytes]
        fs, path = self._place
        with failing(f"{self.name}: {self.path}"):
            found = fs.cat_ranges([path] * (len(edges) - 1), edges[:-1], edges[1:], on_error="raise")
        held = b"".join(found)
        if len(held) != nbytes:
            raise ValueError(f"{self.name}: {self.path} ends after {start + len(held):,} bytes; was it cut short?")
        rows = np.frombuffer(held, self._stored).reshape((steps, *self.shape[1:]) if box else ())
        return rows[(slice(None), *box[1:])].astype(self.dtype, copy=False) if box else rows

    def version(self, box: Box) -> str | None:
        """Return a digest of what the server knows the file by; None if it knows nothing."""
        fs, path = self._place
        with failing(f"{self.name}: {self.path}"):
            info = fs.info(path)
        known = known_by(info)
        return None if known is None else digest(repr(known).encode())


def located(url: str, storage: Mapping[str, Any] | None) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url, **(storage or {}))
    return fs, path


def takes(path: str) -> bool:
    """Return whether a path is the URL of a ``.npy`` file."""
    return "://" in path and path.endswith(".npy")


def open_remote(path: str, name: str, storage: Mapping[str, Any] | None = None) -> RemoteNpy:
    """Read the header of a file behind a URL."""
    try:
        fs, inner = located(path, storage)
        with failing(f"{name}: {path}"):
            start = fs.cat_file(inner, start=0, end=HEADER)
    except ImportError as error:
        raise ImportError(f"{name}: {path} needs another package: {error}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: there is nothing at {path}") from error
    opened = io.BytesIO(start)
    try:
        shape, dtype = header_of(opened, path, name)
    except Unsuitable:
        raise
    except Exception as error:  # what NumPy makes of damaged headers is of many kinds
        raise ValueError(f"{name}: {path} cannot be read as a .npy array: {error}") from error
    return RemoteNpy(path, name, shape, dtype, opened.tell(), storage)
