"""zstd frames (RFC 8878), decoded by the package zstandard: 1.2 times as fast as numcodecs, and a piece at a time."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from daskxent.sources.files import check_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from daskxent.sources.files import Buffer

HEADER = 18  # bytes of the longest header of a frame
SKIPPABLE = range(0x184D2A50, 0x184D2A60)  # what frames begin with that hold no data
RLE = 1  # a block of one byte, repeated
LONGEST = 1 << 31  # the window of `zstd --ultra --long=31`
_THREAD = threading.local()  # a context each: making one takes 3 % of the time of decoding 1 MB


def frames(read: Callable[[int, int], bytes], size: int) -> tuple[int | None, bool]:
    """Return how many bytes some frames hold, None if one of them does not say; and whether any has a checksum.

    Only the headers of frames and blocks are read. Decoding would not notice that a checksum is cut off, or that
    nothing is left of a last block which is empty.

    Parameters
    ----------
    read : callable
        Takes a place and a number of bytes, and returns them, or fewer at the end.
    size : int
        Encoded bytes.

    Raises
    ------
    ValueError
        These are not whole frames from end to end.

    Examples
    --------
    >>> import zstandard
    >>> both = zstandard.compress(bytes(1000)) + zstandard.compress(bytes(24))
    >>> frames(lambda at, n: both[at : at + n], len(both))
    (1024, False)
    """
    import zstandard

    at, sizes, checked = 0, list[int | None](), False
    while at < size or not sizes:
        header = read(at, HEADER)
        if int.from_bytes(header[:4], "little") in SKIPPABLE and len(header) >= 8:
            at += 8 + int.from_bytes(header[4:8], "little")
            continue
        try:
            frame, at = zstandard.get_frame_parameters(header), at + zstandard.frame_header_size(header)
        except zstandard.ZstdError as error:
            raise ValueError(f"no frame of zstd at byte {at} of {size}") from error
        at, checked = _after_blocks(read, at, size) + 4 * frame.has_checksum, checked or frame.has_checksum
        sizes.append(None if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN else frame.content_size)
    if at > size:
        raise ValueError(f"the frame breaks off at byte {size}")
    return None if None in sizes else sum(filter(None, sizes)), checked


def _after_blocks(read: Callable[[int, int], bytes], at: int, size: int) -> int:
    """Return where the blocks of a frame end that begin at a place."""
    last = False
    while not last and at < size:
        block = int.from_bytes(read(at, 3), "little")
        last, at = bool(block & 1), at + 3 + (1 if block >> 1 & 3 == RLE else block >> 3)
    return at if last else size + 1


def _check_frames(read: Callable[[int, int], bytes], size: int, nbytes: int) -> bool:
    """Raise what `frames` raises, or a ValueError if they say another size; return whether any has a checksum."""
    said, checked = frames(read, size)
    if said is not None:
        check_size(said, nbytes)
    return checked


def decoded(encoded: NDArray[np.uint8], nbytes: int, buffer: Buffer) -> NDArray[np.uint8]:
    """Decode frames of this many bytes.

    Raises
    ------
    ValueError
        They are of another size, or not whole.
    zstandard.ZstdError
        They are damaged.
    """
    import zstandard

    if not hasattr(_THREAD, "context"):
        _THREAD.context = zstandard.ZstdDecompressor(max_window_size=LONGEST)
    _check_frames(lambda at, n: encoded[at : at + n].tobytes(), encoded.size, nbytes)
    plain, reader = buffer.take(nbytes), _THREAD.context.stream_reader(encoded, read_across_frames=True)
    check_size(_fill(reader, plain), nbytes)
    check_size(nbytes + len(reader.read(1)), nbytes)
    return plain


def _fill(reader: Any, out: NDArray[np.uint8]) -> int:
    """Fill some memory with what is decoded next, and return how many bytes that were."""
    filled = 0
    while filled < out.size and (got := reader.readinto(out[filled:].data)):
        filled += got
    return filled


class _File:
    """A file for a decoder to read from; apart from `Stream`, which holds the decoder, so that both are dropped."""

    def __init__(self, path: str) -> None:
        self._number, self._at = os.open(path, os.O_RDONLY), 0
        self.size = os.fstat(self._number).st_size

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)

    def at(self, place: int, size: int) -> bytes:
        return os.pread(self._number, size, place)

    def read(self, size: int) -> bytes:
        found = self.at(self._at, size)
        self._at += len(found)
        return found

    def decoder(self) -> Any:
        """Return what decodes the file from its beginning on."""
        import zstandard

        self._at, source = 0, cast("Any", self)  # all that is asked for is `read`
        return zstandard.ZstdDecompressor(max_window_size=LONGEST).stream_reader(source, read_across_frames=True)


class Stream:
    """A file of frames, decoded from its beginning on, a piece at a time.

    Checksums come last: where there are any, all of it is decoded once more, before anything of it is used.

    Parameters
    ----------
    path : str
    nbytes : int
        What they should decode to, in bytes.

    Attributes
    ----------
    done : int
        Bytes that were decoded.

    Raises
    ------
    ValueError
        They are of another size, or not whole.
    zstandard.ZstdError
        A checksum is wrong.
    """

    def __init__(self, path: str, nbytes: int) -> None:
        file = _File(path)
        checked = _check_frames(file.at, file.size, nbytes)
        self.done, self._nbytes, self._reader = 0, nbytes, file.decoder()
        if checked:
            self.finish()
            self.done, self._reader = 0, file.decoder()

    def take(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill some memory with what begins at a place; what is before it, and was not taken, is dropped.

        Raises
        ------
        ValueError
            There is not that much.
        zstandard.ZstdError
            It is damaged.
        """
        while self.done < start:
            self._take(out[: start - self.done])
        self._take(out)

    def finish(self) -> None:
        """Decode what is left, and drop it.

        Raises
        ------
        ValueError
            There is more or less than there should be.
        zstandard.ZstdError
            It is damaged.
        """
        memory = np.empty(1 << 20, np.uint8)
        while self.done < self._nbytes:
            self._take(memory[: self._nbytes - self.done])
        check_size(self.done + len(self._reader.read(1)), self._nbytes)

    def _take(self, out: NDArray[np.uint8]) -> None:
        filled = _fill(self._reader, out)
        self.done += filled
        if filled < out.size:
            check_size(self.done, self._nbytes)


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
    fewest = max(1, -(-chunk[axis] * step // most))
    count = next((n for n in range(fewest, 10 * fewest + 1) if chunk[axis] % n == 0), 1)
    return *chunk[:axis], chunk[axis] // count, *chunk[axis + 1 :]
