"""Store the arrays of a question in the way it says, and return what is given to the package."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import either
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def keep(given: Any, how: dict[str, Any], path: Path) -> Any:
    """Store an array.

    Parameters
    ----------
    given : array, or a number or None, which are not stored
    how : dict
        The kind of storage, with what else it needs.
    path : Path
        Where to, without a suffix.
    """
    if not isinstance(given, np.ndarray) or how["kind"] == "plain":
        return given
    if how["kind"] in MEMORY:
        return MEMORY[how["kind"]](given)
    if how["kind"] == "npy":
        np.save(path.with_suffix(".npy"), _bits(given))
        return str(path.with_suffix(".npy"))
    return {"dask": _dask, "blocks": _blocks}.get(how["kind"], _zarr)(given, how, path)


def _fortran(given: NDArray[Any]) -> NDArray[Any]:
    return np.asfortranarray(given)


def _strided(given: NDArray[Any]) -> NDArray[Any]:
    """Return a view of every second element along every axis."""
    apart = np.zeros([2 * n for n in given.shape], given.dtype)
    view = apart[(slice(None, None, 2),) * given.ndim]
    view[...] = given
    return view


def _reversed(given: NDArray[Any]) -> NDArray[Any]:
    """Return a view with negative strides."""
    return np.flip(np.ascontiguousarray(np.flip(given)))


def _swapped(given: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the other order of bytes, but for bfloat16, which has none."""
    return given if given.dtype.kind == "V" else given.astype(given.dtype.newbyteorder())


def _readonly(given: NDArray[Any]) -> NDArray[Any]:
    given = given.copy()
    given.flags.writeable = False
    return given


MEMORY = {
    "fortran": _fortran,
    "strided": _strided,
    "reversed": _reversed,
    "swapped": _swapped,
    "readonly": _readonly,
    "lists": lambda given: given.tolist(),
}


def _bits(given: NDArray[Any]) -> NDArray[Any]:
    """Return bfloat16 as uint16, which can be stored."""
    return given.view("u2") if given.dtype.name == "bfloat16" else given


def _dask(given: NDArray[Any], how: dict[str, Any], path: Path) -> Any:
    import dask.array as da

    return da.from_array(given, chunks=how["chunks"])


def _blocks(given: NDArray[Any], how: dict[str, Any], path: Path) -> Any:
    """Return consecutive blocks of classes, joined in the way that the revision has for it."""
    axis, stops, kind = how["axis"], list(accumulate(how["widths"])), {"kind": how["of"]}
    parts = [np.ascontiguousarray(part) for part in np.split(given, stops[:-1], axis=axis)]
    # As vocabulary-sharded inference writes them: whole rows of a block in a chunk, or two.
    chunks: list[dict[str, Any]] = [{} for _ in parts]
    for part, extra in zip(parts, chunks, strict=True):
        half = tuple(n if at == axis % part.ndim else -(-n // 2) for at, n in enumerate(part.shape))
        extra["chunks"] = tuple((n, m - n) if n < m else (m,) for n, m in zip(half, part.shape, strict=True))
        if how["of"] != "dask":
            extra["chunks"] = half
    members = [
        keep(part, kind | extra, path.with_name(f"{path.name}-{at}"))
        for at, (part, extra) in enumerate(zip(parts, chunks, strict=True))
    ]
    return either.joined(members, axis)


def _zarr(given: NDArray[Any], how: dict[str, Any], path: Path) -> Any:
    import zarr

    values, two, unusual = _bits(given), how["kind"] == "zarr2", how.get("unusual", "")
    if unusual == "swapped":
        values = values.astype(values.dtype.newbyteorder())
    options: dict[str, Any] = {"shards": how["shards"]} if how["kind"] == "sharded" else {}
    if unusual == "turned" and two:
        options["order"] = "F"
    elif unusual == "turned":
        options["filters"] = [zarr.codecs.TransposeCodec(order=tuple(reversed(range(values.ndim))))]
    store = zarr.storage.MemoryStore() if unusual == "memory" else str(path)
    compressors = _compressors(how.get("codec", "zstd"), two, values.dtype.itemsize)
    array = zarr.create_array(
        store, shape=values.shape, chunks=how["chunks"], dtype=values.dtype, compressors=compressors,
        zarr_format=2 if two else 3, config={"write_empty_chunks": how.get("empty", False)}, **options,
    )  # fmt: skip
    array[...] = values
    if "gaps" in how:
        _drop(path, how["gaps"])
    if how.get("opened") or unusual == "memory":
        return zarr.open_array(store, mode="r")
    return store


def _compressors(codec: str, two: bool, itemsize: int) -> Any:
    """Return what zarr is to compress with; what only one format has is zstd for the other."""
    if codec == "none":
        return None
    if two:
        import numcodecs

        known = {"blosc": numcodecs.Blosc("lz4", shuffle=1), "gzip": numcodecs.GZip(1), "zlib": numcodecs.Zlib(1)}
        return (known | {"lz4": numcodecs.LZ4()}).get(codec, numcodecs.Zstd())
    from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

    if codec == "checked":
        return [ZstdCodec(), Crc32cCodec()]
    return {"blosc": BloscCodec(cname="lz4", shuffle="shuffle", typesize=itemsize), "gzip": GzipCodec()}.get(
        codec, ZstdCodec()
    )


def _drop(path: Path, count: int) -> None:
    """Remove some chunks, evenly spread over those there are."""
    chunks = sorted(
        file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".z", "zarr.json"))
    )
    for file in chunks[:: max(1, len(chunks) // count)]:
        file.unlink()
