"""Single decoded chunks of a zarr array, read in the calling thread, and what is wrong with them.

``z[a:b]`` fetches, decodes and copies on one event-loop thread for the whole process, and reads a chunk that is not
there as the fill value. This module does the work where it is called and knows a missing chunk from a stored one. The
arrays that dumps are made of take the fast path; every other array goes through zarr, chunk by chunk.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import struct
from operator import floordiv, mod
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources import zstd
from daskxent.sources.codecs import Shards, chain, chunk_decoder, inner_codecs, native_dtype, shards_of
from daskxent.sources.files import Buffer, Files
from daskxent.sources.objects import Objects, open_bytes
from daskxent.sources.prefetch import WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable

    import zarr
    from numpy.typing import NDArray

LARGE, PIECE = 64 << 20, 8 << 20  # bytes from which on a local chunk of zstd is decoded in pieces, and of a piece
MOST_TABLES = 64  # indexes of shards that are kept
NOWHERE = 2**64 - 1  # offset and length of an inner chunk that is not stored


class ChunkError(ValueError):
    """Something is wrong with one chunk.

    Parameters
    ----------
    message : str
        Names the array, the chunk and the place.
    key : str
        The key of the chunk, or of its shard, below the array, such as ``c/3/0``.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.key)


class MissingChunk(ChunkError):
    """A chunk is not stored."""


class TornChunk(ChunkError):
    """A chunk is stored but cannot be decoded; the reason is chained and in the message."""


class Scratch:
    """The memory one thread reads chunks into, the shard index it read last, and the chunk that it has in pieces.

    Use one per thread, for one pass over the data: a shard that is rewritten meanwhile is not noticed.
    """

    def __init__(self) -> None:
        self.encoded = Buffer()
        self.decoded = Buffer()
        self.shard: tuple[Chunks, str, NDArray[np.uint64]] | None = None
        self.stream: tuple[Chunks, str, zstd.Stream] | None = None


class Chunks:
    """The decoded chunks of a zarr array. Share it between threads, send it to workers.

    Parameters
    ----------
    array : zarr.Array
        On a regular grid.
    name : str
        What messages call the array.
    large, piece : int
        Local chunks of zstd with more bytes are decoded in pieces, and the most bytes of a piece.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    dtype : numpy.dtype
        Of the array, in native byte order.
    chunks : tuple of int
        Shape of the unit that is decoded at once: a chunk, an inner chunk of a shard, or a piece of a large chunk.
    blocks : tuple of int
        Shape of the unit that is stored as one object: a chunk or a shard.
    fast : bool
        Whether chunks are read here, rather than through zarr.
    local : bool
        Whether they are files of this machine.
    far : bool
        Whether to get one may take long: neither files, nor in memory.

    Raises
    ------
    NotImplementedError
        If the grid is not regular.
    """

    def __init__(self, array: zarr.Array[Any], name: str, large: int = LARGE, piece: int = PIECE) -> None:
        self.name = name
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = native_dtype(array.dtype)
        self.chunks: tuple[int, ...] = array.chunks
        self.blocks: tuple[int, ...] = array.shards or array.chunks
        self._array = array
        self._bytes = open_bytes(array)
        self.local = isinstance(self._bytes, Files)
        self.far = isinstance(self._bytes, Objects) and self._bytes.far
        self._key: Callable[[tuple[int, ...]], str] = array.metadata.encode_chunk_key
        codecs = chain(array.metadata)
        self._decode = chunk_decoder(inner_codecs(codecs), array.dtype, self.chunks)
        if self.nbytes > large and self._can_stream():
            self.chunks = zstd.pieces(self.blocks, self.shape, self.dtype.itemsize, piece)
        self._streams = self.chunks != array.chunks
        self._per_block = tuple(map(floordiv, self.blocks, self.chunks))
        self._shards = shards_of(codecs, self._per_block)
        self._tables: dict[str, asyncio.Future[Any]] = {}  # indexes of shards, on the event loop of the stores
        whole = self._streams or self._shards is not None or self.blocks == self.chunks
        self.fast = self._decode is not None and whole

    def __reduce__(self) -> tuple[Any, ...]:
        return Chunks, (self._array, self.name)

    def _can_stream(self) -> bool:
        """Return whether chunks are local files of nothing but zstd."""
        decode = self._decode
        alone = decode is not None and decode.decompress is zstd.decoded and not decode.checked
        return alone and self.local and self.blocks == self.chunks

    def fill(self) -> np.generic:
        """Return what zarr reads where no chunk is stored, as a scalar of `dtype`."""
        return filled(self._array)

    def missing(self, index: tuple[int, ...]) -> MissingChunk:
        """Make the error, not raised, for a chunk that `read` did not find."""
        return MissingChunk(
            f"{self.name}: {self._place(index)} is missing; {filling(self.fill())}", self._stored(index)
        )

    def version(self, index: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return what differs when the object that holds a chunk is written anew; None if that is not known."""
        return self._bytes.version(self._stored(index))

    def written(self, index: tuple[int, ...], opening: bytes) -> tuple[Any, ...] | None:
        """Return the size of the object that holds a chunk and when it was written, () if there is none.

        None if the store does not say. What is asked once for many objects is asked once for each `opening`.
        """
        return self._bytes.written(self._stored(index), opening)

    def first_bytes(self, several: list[tuple[int, ...]], count: int) -> bytes:
        """Return up to `count` bytes, as they are stored, of each object that holds a chunk and is there."""
        if isinstance(self._bytes, Objects):
            return b"".join(self._bytes.first_bytes([self._stored(index) for index in several], count))
        found = []
        for index in several:
            try:
                found.append(self._bytes.fetch(self._stored(index), slice(0, count), Buffer()))
            except OSError as error:
                self._name(error, index)
                raise
        return b"".join(each.tobytes() for each in found if each is not None)

    def read(self, index: tuple[int, ...], scratch: Scratch, into: Buffer | None = None) -> NDArray[Any] | None:
        """Read one chunk.

        Parameters
        ----------
        index : tuple of int
            Of the chunk in the grid of `chunks`.
        scratch : Scratch
            The calling thread's own.
        into : Buffer, optional
            Where to put it, if it is not mapped; in `scratch` otherwise.

        Returns
        -------
        ndarray or None
            The chunk in C order, cut off at the bounds of the array, or None if it is not stored. It is read-only,
            and in `scratch` (good until the next read with it) or in mapped memory (which counts as used by the
            process until the array is dropped).

        Raises
        ------
        IndexError
            If there is no such chunk in the grid.
        TornChunk
            If it is stored but cannot be decoded.
        OSError
            If the storage fails; it names the array and the chunk where the system has said what failed.
        """
        try:
            return self._read(index, scratch, into or scratch.decoded)
        except OSError as error:
            self._name(error, index)
            raise

    def _name(self, error: OSError, index: tuple[int, ...]) -> None:
        """Raise an error of the system as one that says which chunk it is about."""
        if error.errno is not None:
            # The number makes it an error of the same kind.
            raise OSError(error.errno, f"{self.name}: {self._place(index)} cannot be read: {error.strerror}") from error

    def read_apart(self, index: tuple[int, ...], scratch: Scratch) -> NDArray[Any] | None:
        """Read one chunk as `read` does, into memory of its own; of `scratch` it uses shard and stream."""
        own = Scratch()
        own.shard, own.stream = scratch.shard, scratch.stream
        try:
            return self.read(index, own)
        finally:
            scratch.shard, scratch.stream = own.shard, own.stream

    def _read(self, index: tuple[int, ...], scratch: Scratch, into: Buffer) -> NDArray[Any] | None:
        extent = self.extent(index)
        if not self.fast:
            return self._through_zarr(index, extent, scratch)
        chunk = self._piece(index, scratch, into) if self._streams else self._whole(index, scratch, into)
        return chunk if chunk is None or extent == self.chunks else chunk[tuple(map(slice, extent))]

    def _whole(self, index: tuple[int, ...], scratch: Scratch, into: Buffer) -> NDArray[Any] | None:
        """Read a chunk that is decoded at once."""
        assert self._decode is not None
        known, encoded = self._asked_ahead(index) if self.far else (False, None)
        if not known:
            found = self._find(index, scratch)
            buffer = scratch.encoded if self._decode.decompress else into
            encoded = None if found is None else self._bytes.fetch(*found, buffer)
        return None if encoded is None else self._decoded(index, encoded, into)

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunks) * self.dtype.itemsize

    def in_one_object(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        """Return whether two chunks are in one object."""
        return self._shards is not None and self._stored(one) == self._stored(other)

    async def encoded(self, several: list[tuple[int, ...]], expected: int) -> list[NDArray[np.uint8] | None]:
        """Get some chunks of one object, encoded, of about this many bytes each; None for what is not stored."""
        assert isinstance(self._bytes, Objects)
        key = self._stored(several[0])
        if self._shards is None:
            return [await self._bytes.get_large(key, expected)]
        index = await self._index(self._bytes, key, self._shards.span)
        if index is None:
            return [None] * len(several)
        table = np.frombuffer(self._shards.decode(index, Buffer()), "<u8").reshape(*self._per_block, 2)
        places = [tuple(table[tuple(map(mod, each, self._per_block))].tolist()) for each in several]
        found = await self._bytes.get_spans(key, [place for place in places if place != (NOWHERE, NOWHERE)])
        return [found.get(place) for place in places]

    async def _index(self, objects: Objects, key: str, span: slice) -> NDArray[np.uint8] | None:
        """Get the index of a shard, once; a request that fails is forgotten."""
        if key not in self._tables:
            self._tables[key] = asyncio.ensure_future(objects.get(key, span))
            while len(self._tables) > MOST_TABLES:
                del self._tables[next(iter(self._tables))]
        asked = self._tables[key]
        try:
            return await asked  # type: ignore[no-any-return]
        except BaseException:
            if self._tables.get(key) is asked:
                del self._tables[key]
            raise

    def _asked_ahead(self, index: tuple[int, ...]) -> tuple[bool, NDArray[np.uint8] | None]:
        """Return whether a chunk was asked for before, and then its bytes, or None if it is not stored."""
        asked = WINDOW.take(self, index)
        try:
            return (False, None) if asked is None else (True, asked.result())
        except (ValueError, struct.error):  # a torn index, which is named where it is read again
            return False, None

    def _decoded(self, index: tuple[int, ...], encoded: NDArray[np.uint8], into: Buffer) -> NDArray[Any]:
        assert self._decode is not None
        try:
            plain = self._decode(encoded, into)
        except (MemoryError, ImportError):
            raise
        except Exception as error:
            raise self._torn(index, error) from error
        return self._as_chunk(plain, into)

    def _as_chunk(self, plain: NDArray[np.uint8], into: Buffer) -> NDArray[Any]:
        """Return decoded bytes as a chunk."""
        chunk = plain.view(self.dtype)
        if not chunk.flags.aligned:  # inside a shard, behind a crc32c
            chunk = into.take(plain.size).view(self.dtype)
            chunk.view(np.uint8)[:] = plain
        chunk = chunk.reshape(self.chunks)
        chunk.flags.writeable = False  # always, not only in maps: a compiled kernel then meets one type of array
        return chunk

    def _piece(self, index: tuple[int, ...], scratch: Scratch, into: Buffer) -> NDArray[Any] | None:
        """Read a piece of a large chunk: those before it are decoded first, if they were not read."""
        assert self._decode is not None
        key, start = self._stored(index), sum(map(mod, index, self._per_block)) * self.nbytes
        held, scratch.stream = scratch.stream, None
        known = held is not None and held[:2] == (self, key) and held[2].done <= start
        if not known and not self._bytes.exists(key):
            return None
        memory, nbytes = into.take(self.nbytes), self._decode.nbytes
        try:
            stream = held[2] if held and known else zstd.Stream(f"{self._bytes.where}/{key}", nbytes)
            stream.take(start, memory)
            if self._is_last(index):
                stream.finish()
        except (OSError, MemoryError, ImportError):
            raise
        except Exception as error:
            raise self._torn(index, error) from error
        scratch.stream = None if stream.done == nbytes else (self, key, stream)
        return self._as_chunk(memory, into)

    def _is_last(self, index: tuple[int, ...]) -> bool:
        """Return whether a piece is the last of a chunk that lies within the array."""
        ends = [(i + 1) * n for i, n in zip(index, self.chunks, strict=True)]
        return all(
            end % block == 0 or end >= size for end, block, size in zip(ends, self.blocks, self.shape, strict=True)
        )

    def _through_zarr(self, index: tuple[int, ...], extent: tuple[int, ...], scratch: Scratch) -> NDArray[Any] | None:
        found = self._find(index, scratch)
        if found is None or not self._bytes.exists(found[0]):
            return None
        region = tuple(slice(i * c, i * c + n) for i, c, n in zip(index, self.chunks, extent, strict=True))
        try:
            chunk = np.array(self._array[region], self.dtype, order="C", copy=None)
        except Exception as error:
            if isinstance(error, (OSError, MemoryError)) and not isinstance(error, gzip.BadGzipFile):
                raise
            raise self._torn(index, error) from error
        chunk.flags.writeable = False
        return chunk

    def _find(self, index: tuple[int, ...], scratch: Scratch) -> tuple[str, slice] | None:
        """Key of the object that holds a chunk, and where in it; None if the index of its shard says there is none."""
        key = self._stored(index)
        if self._shards is None:
            return key, slice(None)
        if scratch.shard is None or scratch.shard[0] is not self or scratch.shard[1] != key:
            table = self._table(self._shards, index, key, scratch)
            if table is None:
                return None
            scratch.shard = self, key, table
        offset, length = scratch.shard[2][tuple(map(mod, index, self._per_block))].tolist()
        return None if offset == length == NOWHERE else (key, slice(offset, offset + length))

    def _table(self, shards: Shards, index: tuple[int, ...], key: str, scratch: Scratch) -> NDArray[np.uint64] | None:
        """Offset and length of every inner chunk of a shard, None if there is no such shard."""
        scratch.shard = None
        encoded = self._bytes.fetch(key, shards.span, Buffer())  # its own memory, because it is kept
        if encoded is None:
            return None
        try:
            plain = shards.decode(encoded, scratch.decoded)
        except (ValueError, struct.error) as error:
            raise self._torn(index, error, "the shard's index, ") from error
        return np.frombuffer(plain, "<u8").reshape(*self._per_block, 2)

    def extent(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a chunk within the bounds of the array."""
        extent = tuple([min(c, s - i * c) for i, c, s in zip(index, self.chunks, self.shape, strict=False)])
        if len(index) != len(self.shape) or min(index, default=0) < 0 or min(extent, default=1) < 1:
            raise IndexError(f"{self.name}: no chunk {index} in shape {self.shape} of chunks {self.chunks}")
        return extent

    def _stored(self, index: tuple[int, ...]) -> str:
        return self._key(tuple(map(floordiv, index, self._per_block)))

    def _place(self, index: tuple[int, ...]) -> str:
        inner = "" if self.blocks == self.chunks or self._streams else f"{'/'.join(map(str, index))} in shard "
        return f"chunk {inner}{self._stored(index)} of {self._bytes.where}"

    def _torn(self, index: tuple[int, ...], error: Exception, part: str = "") -> TornChunk:
        message = f"{self.name}: {self._place(index)} cannot be decoded: {part}{error}"
        return TornChunk(message, self._stored(index))


def filling(value: Any) -> str:
    """Say what reads something that is missing as a fill value."""
    return f"evaluate(..., on_missing='fill') reads it as the fill value {value}"


def filled(array: zarr.Array[Any]) -> np.generic:
    """Return what zarr reads where no chunk is stored, as a scalar in native byte order."""
    value, dtype = array.fill_value, native_dtype(array.dtype)
    return (np.zeros(1, dtype) if value is None else np.full(1, value, dtype))[0]  # type: ignore[no-any-return]
