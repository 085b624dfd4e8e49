"""The bytes of chunks that are files: read into memory that is used again, or mapped."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import io

    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]

# From this size on, a file is mapped instead of read into a buffer. Warm, two threads, raw bytes summed, GB/s
# mapped / read: 40 MB 20.3 / 9.5, 16 MB 20 / 10, 4 MB 29 / 20, 1 MB 9 / 11, 64 KB 0.9 / 2.3 (a 4 KB file takes
# 20 us / 12 us). As the source of a decoder at 40 MB: zstd 2.5 / 2.1, blosc-lz4 6.9 / 4.9.
# The price: a file that is cut short, or a disk that fails, under a map ends the process (SIGBUS). So a file that was
# written in the last minute, which somebody may still write, is read.
MAPPED = 1 << 21
RECENT = 60.0  # seconds


class Buffer:
    """Memory for bytes that is used again and again: it grows and never shrinks.

    Parameters
    ----------
    memory : ndarray of uint8, optional
        What to begin with; where that is too small, other memory is taken.

    Examples
    --------
    >>> buffer = Buffer()
    >>> buffer.take(3).size, buffer.take(2).size
    (3, 2)
    """

    def __init__(self, memory: Bytes | None = None) -> None:
        self._memory = np.empty(0, np.uint8) if memory is None else memory

    def take(self, size: int) -> Bytes:
        """Return `size` bytes of arbitrary content; what was taken before is overwritten."""
        if self._memory.size < size:
            self._memory = np.empty(0, np.uint8)  # give the old memory back before asking for more
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def check_size(got: int, expected: int) -> None:
    """Raise a ValueError for other than the expected number of bytes."""
    if got != expected:
        raise ValueError(f"expected {expected} bytes, got {got}")


class Files:
    """The chunks of an array in a local directory.

    Parameters
    ----------
    where : str
        The array's directory.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def fetch(self, key: str, span: slice, buffer: Buffer) -> Bytes | None:
        """Read the bytes `span` (clipped to what there is) of one file.

        Returns
        -------
        ndarray of uint8 or None
            A read-only memory map or a view of `buffer`; None if there is no such file.

        Raises
        ------
        OSError
            If the file is there but cannot be read, is a directory, or if the array's directory is missing.
        """
        try:
            file = open(f"{self.where}/{key}", "rb", buffering=0, opener=_opened)  # noqa: SIM115, closed below
        except FileNotFoundError:
            os.stat(self.where)  # an unmounted disk is an error, not an array without chunks
            return None
        with file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "no regular file")
            start, stop, _ = span.indices(found.st_size)
            size = max(stop - start, 0)
            if size >= MAPPED and not -RECENT < time.time() - found.st_mtime < RECENT:
                with contextlib.suppress(OSError):  # some network file systems cannot be mapped
                    mapped = _map(file, start, size)
                    if os.fstat(file.fileno()).st_size >= stop:  # or it was cut short meanwhile
                        return mapped
            return _read(file, start, buffer.take(size))

    def exists(self, key: str) -> bool:
        """Return whether there is such a file; raises what `fetch` raises."""
        return self.fetch(key, slice(0, 0), Buffer()) is not None

    def version(self, key: str) -> tuple[int, ...] | None:
        """Return what differs from one content of a file to the next; None if there is no such file."""
        try:
            with open(f"{self.where}/{key}", "rb", buffering=0) as file:  # on NFS only opening asks the server
                found = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def written(self, key: str, opening: bytes = b"") -> tuple[Any, ...]:
        """Return the size of a file and when it was written, () if there is none."""
        try:
            found = os.stat(f"{self.where}/{key}")  # 1 us; opening takes 3
        except FileNotFoundError:
            return ()
        return found.st_size, found.st_mtime_ns


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # without, a pipe is waited for without end


def _map(file: io.FileIO, start: int, size: int) -> Bytes:
    skip = start % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(file.fileno(), size + skip, access=mmap.ACCESS_READ, offset=start - skip)
    if hasattr(mmap, "MADV_WILLNEED"):  # cold disk: 1.8 GB/s instead of 1.3
        mapped.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(mapped, np.uint8)[skip:]


def _read(file: io.FileIO, start: int, out: Bytes) -> Bytes:
    if start:
        file.seek(start)
    done = 0
    while done < out.size and (got := file.readinto(out[done:].data)):  # Linux reads 2 GiB at once at most
        done += got
    return out[:done]  # less than asked if the file has just been cut short; the decoder will notice
