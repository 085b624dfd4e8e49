"""What encoded chunks decode to, in the calling thread; and which codecs an array is stored with."""

from __future__ import annotations

import functools
import importlib.util
import math
import struct
import sys
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from daskxent.sources import zstd
from daskxent.sources.files import check_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from daskxent.sources.files import Buffer, Bytes

    Decompress: TypeAlias = Callable[[Bytes, int, Buffer], Bytes]

# google_crc32c holds the GIL; between pieces of this size (40 us) another thread can have it.
CHECKED = 1 << 20


@dataclass(frozen=True)
class Decoder:
    """From the stored bytes of one chunk to its `nbytes` plain ones.

    Parameters
    ----------
    nbytes : int
        The size of the decoded chunk.
    decompress : callable or None
        Takes the encoded bytes, `nbytes` and a `Buffer`.
    checked : bool
        Whether a crc32c follows the bytes.
    """

    nbytes: int
    decompress: Decompress | None = None
    checked: bool = False

    def __call__(self, encoded: Bytes, buffer: Buffer) -> Bytes:
        """Decode; the result is a view of `encoded`, of `buffer`, or new.

        Raises
        ------
        Exception
            ValueError, RuntimeError, EOFError, zlib.error, zstandard.ZstdError or struct.error: the bytes are torn.
        """
        if self.checked:
            encoded = _verified(encoded)
        decoded = self.decompress(encoded, self.nbytes, buffer) if self.decompress else encoded
        check_size(decoded.size, self.nbytes)
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
    if len(names) == 1 and names[0] in DECOMPRESS and not raw:
        return Decoder(nbytes, DECOMPRESS[names[0]], checked)
    return None


def _verified(encoded: Bytes) -> Bytes:
    import google_crc32c

    body, (stored,) = encoded[:-4], struct.unpack("<I", encoded[-4:].data)
    crc = 0
    for start in range(0, body.size, CHECKED):
        crc = google_crc32c.extend(crc, body[start : start + CHECKED])
    if crc != stored:
        raise ValueError(f"crc32c is {crc:08x}, stored was {stored:08x}")
    return body


def _blosc(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    from numcodecs import Blosc

    # Blosc reads as many bytes as the header says, past the end of what it was given if need be.
    decoded_size, encoded_size = struct.unpack_from("<4xI4xI", encoded.data)
    check_size(encoded.size, encoded_size)
    check_size(decoded_size, nbytes)
    return np.frombuffer(Blosc().decode(encoded, buffer.take(nbytes)), np.uint8)


def _lz4(encoded: Bytes, nbytes: int, buffer: Buffer) -> Bytes:
    from numcodecs import LZ4

    check_size(struct.unpack_from("<I", encoded.data)[0], nbytes)
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

    It does not say where a stream ends, so the sum at the very end of the bytes is compared: what follows it, other
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
        check_size(max(size, nbytes), nbytes)
        if not stream.eof:
            raise EOFError(f"the stream breaks off after {size} of {nbytes} bytes")
        left = stream.unused_data.lstrip(b"\0") if several else stream.unused_data  # gzip may be padded with zeros
        if left and not several:
            raise ValueError(f"{len(left)} bytes follow the end of the stream")
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


DECOMPRESS: dict[str, Decompress] = {
    "zstd": zstd.decoded, "blosc": _blosc, "lz4": _lz4, "zlib": _zlib, "gzip": _gzip, "bz2": _bz2,
    "lzma": _lzma,
}  # fmt: skip


class Shards(NamedTuple):
    """Where the index of a shard is, and how to decode it."""

    span: slice
    decode: Decoder


def chain(metadata: Any) -> Sequence[Mapping[str, Any]]:
    """List the codecs, in the order of encoding, as in the metadata of zarr v3."""
    # Attribute by attribute, because the dict of the whole metadata warns about types without a specification.
    if metadata.zarr_format == 3:
        return [codec.to_dict() for codec in metadata.codecs]
    transposed = [{"name": "transpose"}] if metadata.order == "F" else []
    compressor = [metadata.compressor] if metadata.compressor else []
    return [*transposed, *map(_named, metadata.filters or ()), {"name": "bytes"}, *map(_named, compressor)]


def _named(codec: Any) -> dict[str, Any]:
    """Return a codec of numcodecs as in the metadata of zarr v3."""
    configuration = dict(codec.get_config())
    return {"name": f"numcodecs.{configuration.pop('id')}", "configuration": configuration}


def inner_codecs(chain: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the codecs of the inner chunks if sharding is all that the chain does, or else the chain itself."""
    sharded = len(chain) == 1 and chain[0]["name"] == "sharding_indexed"
    return chain[0]["configuration"]["codecs"] if sharded else chain


def chunk_decoder(chain: Sequence[Mapping[str, Any]], dtype: np.dtype[Any], chunks: Sequence[int]) -> Decoder | None:
    """Build the decoder of one chunk, None if it needs more than bytes turned into bytes."""
    plain = dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative
    if not plain or not _little(chain[0], dtype.itemsize):
        return None
    return decoder(chain[1:], math.prod(chunks) * dtype.itemsize)


def shards_of(chain: Sequence[Mapping[str, Any]], per_block: tuple[int, ...]) -> Shards | None:
    """Describe the index of the shards, None if there are no shards or it is not of the usual kind."""
    if inner_codecs(chain) is chain:
        return None
    sharding = chain[0]["configuration"]
    first, *rest = sharding["index_codecs"]
    nbytes = 16 * math.prod(per_block)
    decode = decoder(rest, nbytes)
    if decode is None or decode.decompress or not _little(first, 8):
        return None
    size = nbytes + 4 * decode.checked
    return Shards(slice(0, size) if sharding["index_location"] == "start" else slice(-size, None), decode)


def _little(codec: Mapping[str, Any], itemsize: int) -> bool:
    """Return whether this is the codec that lays numbers out as they are in the memory of this machine."""
    endian = codec.get("configuration", {}).get("endian", "little")
    return codec["name"] == "bytes" and sys.byteorder == "little" and (itemsize == 1 or endian == "little")


def native_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in the byte order of this machine; strings of no fixed length have none, and no way to ask."""
    return dtype if dtype.kind in "OT" else dtype.newbyteorder("=")
