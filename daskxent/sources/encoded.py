"""Encoded chunks: their bytes out of files, and what the bytes decode to, in the calling thread."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import mmap
import os
import stat
import struct
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from daskxent.sources import zstd

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]
    Inflate: TypeAlias = Callable[[Bytes, int, "Buffer"], Bytes]

# From this size on, a file is mapped instead of read into a buffer. Warm, two threads, raw bytes summed, GB/s
# mapped / read: 40 MB 20.3 / 9.5, 16 MB 20 / 10, 4 MB 29 / 20, 1 MB 9 / 11, 64 KB 0.9 / 2.3 (a 4 KB file takes
# 20 us / 12 us). As the source of a decoder at 40 MB: zstd 2.5 / 2.1, blosc-lz4 6.9 / 4.9.
# The price: a file that is cut short, or a disk that fails, under a map ends the process (SIGBUS). So a file that was
# written in the last minute, which somebody may still write, is read.
MAPPED = 1 << 21
RECENT = 60.0  # seconds

# google_crc32c holds the GIL; between pieces of this size (40 us) another thread can have it.
CHECKED = 1 << 20


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
        """Tell whether there is such a file; raises what `fetch` raises."""
        return self.fetch(key, slice(0, 0), Buffer()) is not None

    def version(self, key: str) -> tuple[int, ...] | None:
        """Return what tells one content of a file from the next; None if there is no such file."""
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


@dataclass(frozen=True)
class Decoder:
    """From the stored bytes of one chunk to its `nbytes` plain ones.

    Parameters
    ----------
    nbytes : int
        The size of the decoded chunk.
    inflate : callable or None
        Takes the encoded bytes, `nbytes` and a `Buffer`.
    checked : bool
        Whether a crc32c follows the bytes.
    """

    nbytes: int
    inflate: Inflate | None = None
    checked: bool = False

    def __call__(self, encoded: Bytes, buffer: Buffer) -> Bytes:
        """Decode; the result is a view of `encoded`, of `buffer`, or new.

        Raises
        ------
        Exception
            ValueError, RuntimeError, EOFError, zlib.error or struct.error: the bytes are torn.
        """
        if self.checked:
            encoded = _verified(encoded)
        decoded = self.inflate(encoded, self.nbytes, buffer) if self.inflate else encoded
        _same(decoded.size, self.nbytes)
        return decoded


def decoder(codecs: Sequence[Mapping[str, Any]], nbytes: int) -> Decoder | None:
    """Build the decoder for a chain of bytes-to-bytes codecs, or None if it is not one of ours.

    Parameters
    ----------
    codecs : sequence of mappings
        As in the metadata of zarr v3, in the order of encoding: at most one compressor, then at most one crc32c.
    nbytes : int
        The size of the decoded chunk.

    Examples
    --------
    >>> decoder([{"name": "zstd"}, {"name": "crc32c"}], 8).checked
    True
    >>> decoder([{"name": "crc32c"}, {"name": "zstd"}], 8) is None
    True
    """
    names = [str(codec["name"]).removeprefix("numcodecs.") for codec in codecs]
    checked = bool(codecs) and codecs[-1]["name"] == "crc32c"
    if checked:
        names.pop()
    if not names:
        return Decoder(nbytes, None, checked)
    raw = names == ["lzma"] and codecs[0].get("configuration", {}).get("filters")  # which the stream does not name
    if len(names) == 1 and names[0] in INFLATE and not raw:
        return Decoder(nbytes, INFLATE[names[0]], checked)
    return None


def _same(got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(f"expected {expected} bytes, got {got}")


def _verified(encoded: Bytes) -> Bytes:
    import google_crc32c

    body, (stored,) = encoded[:-4], struct.unpack("<I", encoded[-4:].data)
    crc = 0
    for start in range(0, body.size, CHECKED):
        crc = google_crc32c.extend(crc, body[start : start + CHECKED])
    if crc != stored:
        raise ValueError(f"crc32c is {crc:08x}, stored was {stored:08x}")
    return body


# What numcodecs decodes into `out` may be shorter than `out`, and then the rest is the previous chunk. So every
# size is read out of the header first.


def _zstd(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    quick = zstd.decoded(encoded, nbytes, buffer)
    if quick is not None:
        return quick
    return _frames(encoded, nbytes, buffer)


def _frames(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    """Decode several frames, or those that do not tell their size; say what is wrong with others."""
    from numcodecs import Zstd

    size = zstd.content_size(encoded)
    if size is not None and size > nbytes:
        _same(size, nbytes)
    # Room for what is expected and no more: a frame that does not tell its size may be of any.
    decoded = np.frombuffer(Zstd().decode(encoded, buffer.take(nbytes)), np.uint8)
    if size in (nbytes, None):
        return decoded
    # The first of several frames, or one that is too short. It fits, so that its own size may be asked for.
    return np.frombuffer(Zstd().decode(encoded), np.uint8)


def _blosc(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    from numcodecs import Blosc

    # Blosc reads as many bytes as the header says, past the end of what it was given if need be.
    decoded_size, encoded_size = struct.unpack_from("<4xI4xI", encoded.data)
    _same(encoded.size, encoded_size)
    _same(decoded_size, nbytes)
    return np.frombuffer(Blosc().decode(encoded, buffer.take(nbytes)), np.uint8)


def _lz4(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    from numcodecs import LZ4

    _same(struct.unpack_from("<I", encoded.data)[0], nbytes)
    return np.frombuffer(LZ4().decode(encoded, buffer.take(nbytes)), np.uint8)


def _zlib(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    quick = _deflated(encoded, nbytes, "zlib")
    if quick is not None:
        return quick
    return _streamed(encoded, nbytes, lambda: zlib.decompressobj(zlib.MAX_WBITS))


def _gzip(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    quick = _deflated(encoded, nbytes, "gzip")
    if quick is not None:
        return quick
    return _streamed(encoded, nbytes, lambda: zlib.decompressobj(zlib.MAX_WBITS + 16), several=True)


def _deflated(encoded: Bytes, nbytes: int, form: str) -> Bytes | None:
    """Decode a whole stream with libdeflate, 2.3 times as fast as zlib; None if it is not there or something is wrong.

    It does not tell where a stream ends, so the sum at the very end of the bytes is compared: what follows it, other
    streams or anything else, is left to the slow way, which also says what is wrong.
    """
    libdeflate = _libdeflate()
    if libdeflate is None or encoded.size < 12:
        return None
    end = encoded[-8:].tobytes()
    if form == "gzip" and int.from_bytes(end[4:], "little") != nbytes % 2**32:
        return None
    try:
        if form == "zlib":
            plain = libdeflate.zlib_decompress(encoded, nbytes)
            fits = libdeflate.adler32(plain) == int.from_bytes(end[4:], "big")
        else:
            plain = libdeflate.gzip_decompress(encoded)
            fits = libdeflate.crc32(plain) == int.from_bytes(end[:4], "little")
    except libdeflate.DeflateError:
        return None
    return np.frombuffer(plain, np.uint8) if fits and len(plain) == nbytes else None


@functools.cache
def _libdeflate() -> Any:
    return importlib.import_module("deflate") if importlib.util.find_spec("deflate") else None


def _bz2(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    from bz2 import BZ2Decompressor

    return _streamed(encoded, nbytes, BZ2Decompressor, several=True)


def _lzma(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    from lzma import LZMADecompressor

    return _streamed(encoded, nbytes, LZMADecompressor, several=True)


def _streamed(encoded: Bytes, nbytes: int, begin: Callable[[], Any], several: bool = False) -> Bytes:
    """Decode a stream, or several that follow one another, no further than to one byte more than is expected."""
    left, parts, size = encoded.data, [], 0
    while len(left):
        stream = begin()
        parts.append(stream.decompress(left, nbytes - size + 1))
        size += len(parts[-1])
        _same(max(size, nbytes), nbytes)
        if not stream.eof:
            raise EOFError(f"the stream breaks off after {size} of {nbytes} bytes")
        left = stream.unused_data.lstrip(b"\0") if several else stream.unused_data  # gzip may be padded with zeros
        if left and not several:
            raise ValueError(f"{len(left)} bytes follow the end of the stream")
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


INFLATE: dict[str, Inflate] = {
    "zstd": _zstd, "blosc": _blosc, "lz4": _lz4, "zlib": _zlib, "gzip": _gzip, "bz2": _bz2,
    "lzma": _lzma,
}  # fmt: skip
