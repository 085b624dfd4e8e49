"""zstd frames (RFC 8878), decoded by the package zstandard: 1.2 times as fast as numcodecs, and a piece at a time."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from daskxent.sources.files import Buffer

HEADER = 18  # bytes of the longest header of a frame
_RLE = 1  # a block of one byte, repeated
_THREAD = threading.local()  # a context each: making one takes 3 % of the time of decoding 1 MB


def content_size(encoded: NDArray[np.uint8]) -> int | None:
    """Return how many bytes the first frame holds, None if it does not say or is none."""
    import zstandard

    try:
        found = zstandard.frame_content_size(encoded[:HEADER].tobytes())
    except zstandard.ZstdError:
        return None
    return found if found >= 0 else None


def whole(read: Callable[[int, int], bytes], size: int) -> int | None:
    """Return how many bytes a single frame holds, None if `size` bytes are not one from end to end, or it does not say.

    Only the headers of its blocks are read: decoding does not notice a frame that lacks its checksum.

    Parameters
    ----------
    read : callable
        Takes a place and a number of bytes, and returns them, or fewer at the end.
    size : int
        Encoded bytes.

    Examples
    --------
    >>> import zstandard
    >>> frame = zstandard.compress(bytes(1000))
    >>> [whole(lambda at, n: frame[at : at + n], size) for size in (len(frame), len(frame) - 1)]
    [1000, None]
    """
    import zstandard

    header, last = read(0, HEADER), False
    try:
        frame, at = zstandard.get_frame_parameters(header), zstandard.frame_header_size(header)
    except zstandard.ZstdError:
        return None
    while not last:
        block = int.from_bytes(read(at, 3), "little")
        if at + 3 > size:
            return None
        last, at = bool(block & 1), at + 3 + (1 if block >> 1 & 3 == _RLE else block >> 3)
    if at + 4 * frame.has_checksum != size or frame.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        return None
    return int(frame.content_size)


def decoded(encoded: NDArray[np.uint8], nbytes: int, buffer: Buffer) -> NDArray[np.uint8] | None:
    """Decode a single frame of so many bytes; None if it is not one, or is damaged."""
    import zstandard

    if whole(lambda at, n: encoded[at : at + n].tobytes(), encoded.size) != nbytes:
        return None
    if not hasattr(_THREAD, "context"):
        _THREAD.context = zstandard.ZstdDecompressor()
    plain = buffer.take(nbytes)
    try:
        return plain if _THREAD.context.stream_reader(encoded).readinto(plain) == nbytes else None
    except zstandard.ZstdError:
        return None


class Stream:
    """A file of one frame, decoded from its beginning on, a piece at a time.

    Parameters
    ----------
    path : str
    nbytes : int
        What it should decode to, in bytes.

    Attributes
    ----------
    done : int
        Bytes that were decoded.

    Raises
    ------
    ValueError
        It is not one frame of so many bytes from end to end.
    """

    def __init__(self, path: str, nbytes: int) -> None:
        import zstandard

        self._file, self._at, self.done, self._nbytes = os.open(path, os.O_RDONLY), 0, 0, nbytes
        if whole(lambda at, n: os.pread(self._file, n, at), os.fstat(self._file).st_size) != nbytes:
            raise ValueError(f"expected one frame of {nbytes} bytes")
        source: Any = self  # all that is asked for is `read`
        self._reader = zstandard.ZstdDecompressor().stream_reader(source)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def read(self, size: int) -> bytes:
        """Read some encoded bytes, for the decoder."""
        found = os.pread(self._file, size, self._at)
        self._at += len(found)
        return found

    def take(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill some memory with what begins at a place; what is before it, and was not taken, is dropped.

        Raises
        ------
        ValueError
            There is not so much: the file was cut short meanwhile.
        zstandard.ZstdError
            It is damaged.
        """
        while self.done < start:
            self._fill(out[: start - self.done])
        self._fill(out)

    def finish(self) -> None:
        """Decode what is left, and drop it: the checksum comes last."""
        memory = np.empty(1 << 20, np.uint8)
        while self.done < self._nbytes:
            self._fill(memory[: self._nbytes - self.done])
        self._reader.read(1)

    def _fill(self, out: NDArray[np.uint8]) -> None:
        filled = 0
        while filled < out.size and (got := self._reader.readinto(out[filled:].data)):
            filled += got
        self.done += filled
        if filled < out.size:
            raise ValueError(f"expected {self._nbytes} bytes, got {self.done}")


class Plain:
    """A chunk that was decoded at once, in place of a `Stream`."""

    done = 0

    def __init__(self, plain: NDArray[np.uint8]) -> None:
        self._plain = plain

    def take(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill some memory with what begins at a place."""
        out[:] = self._plain[start : start + out.size]

    def finish(self) -> None:
        """Do nothing."""


def pieces(chunk: tuple[int, ...], shape: tuple[int, ...], itemsize: int, most: int) -> tuple[int, ...]:
    """Return the shape of the pieces that a large chunk of an array is decoded in, one after the other in C order.

    They are of at most `most` bytes, and a tenth of that at least; the chunk itself, if it is not cut into such.

    Examples
    --------
    >>> pieces((1000, 50), (4000, 50), 4, 20000), pieces((1, 997, 50), (9, 997, 50), 4, 20000)
    ((100, 50), (1, 997, 50))
    """
    axis = next((axis for axis, length in enumerate(chunk) if length > 1), len(chunk) - 1)
    step = math.prod(chunk[axis + 1 :]) * itemsize
    if chunk[axis + 1 :] != shape[axis + 1 :] or not step:
        return chunk
    length = next((n for n in range(min(most // step, chunk[axis]), 0, -1) if chunk[axis] % n == 0), 0)
    return (*chunk[:axis], length, *chunk[axis + 1 :]) if 10 * length * step >= most else chunk
