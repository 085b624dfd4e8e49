"""zarr arrays of bfloat16, as TensorStore writes them: zarr has no such dtype, so they are opened as their bits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.local import bfloat16_dtype
from daskxent.sources.objects import waited

if TYPE_CHECKING:
    import zarr

    Store = Any

# The metadata of an array by its format, and what its type is called there, and here.
METADATA = {3: ("zarr.json", "data_type", "uint16"), 2: (".zarray", "dtype", "<u2")}


def is_unknown(error: Exception) -> bool:
    """Return whether zarr did not open an array because it is of bfloat16."""
    return "No Zarr data type" in str(error) and "bfloat16" in str(error)


def open_bits(store: Store, path: str = "") -> zarr.Array[Any]:
    """Open an array of bfloat16 as uint16, with the attributes it has."""
    import zarr
    from zarr.storage import StorePath

    prefix = f"{path}/" if path else ""
    for file, field, bits in METADATA.values():
        found = _read(store, prefix + file)
        if found is None:
            continue
        attributes = found.get("attributes") or _read(store, f"{prefix}.zattrs") or {}
        changed = {field: bits, "attributes": attributes, "fill_value": _bits(found.get("fill_value"))}
        made: zarr.Array[Any] = zarr.Array.from_dict(StorePath(store, path), found | changed)
        return made
    raise FileNotFoundError(path)


def _read(store: Store, key: str) -> dict[str, Any] | None:
    from zarr.buffer.cpu import buffer_prototype

    found = waited(store.get(key, buffer_prototype))
    return None if found is None else json.loads(found.to_bytes())


def _bits(fill: Any) -> int:
    """Return the bits of a fill value, as in metadata: a number, the name of one, or bits already."""
    if isinstance(fill, str) and fill.startswith("0x"):
        return int(fill, 16)
    return int(np.array(float(fill or 0)).astype(bfloat16_dtype()).view(np.uint16))
