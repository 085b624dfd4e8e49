"""How a zarr array is stored, in names of our own.

Journals and reports know a dump by this, so it must not change with zarr: only what says where the bytes lie and what
they decode to is named, with the defaults of the zarr specification filled in. Keys and defaults that another zarr
adds to its metadata make no difference, and neither do attributes, names of dimensions, or how hard a codec tried.
It is taken of the array as it was opened, which is what will be read, and not once more from the store.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from daskxent.sources.buckets import url_of
from daskxent.sources.chunks import filled
from daskxent.sources.codecs import chain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# What of its configuration a codec must know to decode, and the default. Compressed streams say all of it themselves.
NEEDED: dict[str, dict[str, Any]] = {
    "bytes": {"endian": "little"},
    "transpose": {"order": None},  # None: all axes reversed
    "sharding_indexed": {"chunk_shape": None, "codecs": (), "index_codecs": (), "index_location": "end"},
    **{name: {} for name in ("blosc", "bz2", "crc32c", "gzip", "lz4", "zlib", "zstd")},
}


def layout(array: Any) -> dict[str, Any]:
    """Return how a zarr array is stored, but for its shape, as plain Python objects.

    Parameters
    ----------
    array : zarr.Array
        On a regular grid.

    Returns
    -------
    dict
        `zarr_format`; `dtype`, in zarr 2 with its byte order; `chunks` and `shards`, the shapes of what is decoded and
        stored as one; `key`, where chunk (0, 1, ...) is; `codecs`, in the order of encoding; `fill_value`.
    """
    metadata = array.metadata
    found = {
        "zarr_format": metadata.zarr_format,
        "dtype": array.dtype.str if metadata.zarr_format == 2 else array.dtype.name,
        "chunks": array.chunks,
        "shards": array.shards,
        "key": metadata.encode_chunk_key(tuple(range(len(array.shape)))),
        "codecs": _codecs(chain(metadata)),
        "fill_value": str(filled(array)),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def layout_digest(array: Any) -> str:
    """Digest the shape of a zarr array and how it is stored."""
    return hashlib.sha256(json.dumps([array.shape, layout(array)]).encode()).hexdigest()[:16]


def address(array: Any) -> str:
    """Say where a zarr array is, the same in every process from which its store can be reached.

    A URL where zarr has one; the names that zarr gives to its stores differ between its versions.
    """
    from zarr.storage import LocalStore

    store = array.store
    where = f"file://{os.path.abspath(store.root)}" if isinstance(store, LocalStore) else url_of(store)
    if where is None:
        return str(array.store_path)
    return f"{where}/{array.path}" if array.path else where


def _codecs(codecs: Iterable[Any]) -> list[dict[str, Any]]:
    return [_codec({"name": codec} if isinstance(codec, str) else codec) for codec in codecs]


def _codec(codec: Mapping[str, Any]) -> dict[str, Any]:
    """Name a codec and what decoding depends on; of a codec that is not known that may be all of its configuration."""
    name = codec["name"].removeprefix("numcodecs.")
    configuration = codec.get("configuration") or {}
    if name not in NEEDED:
        return {"name": name, "configuration": dict(configuration)}
    kept = {field: configuration.get(field, default) for field, default in NEEDED[name].items()}
    kept |= {field: _codecs(kept[field]) for field in ("codecs", "index_codecs") if field in kept}
    return {"name": name, **kept}
