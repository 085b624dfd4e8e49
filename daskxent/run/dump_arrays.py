"""The arrays of a dump that is written: chunks, shards and a codec that are read quickly, and how far they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.dump_marks import MARK
from daskxent.sources.local import bfloat16_dtype
from daskxent.sources.zarr_arrays import Zarr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SHARD_STEPS = 1 << 20  # of few classes; the labels of that many are held as well
CODECS = "lz4", "zstd", "none"
STRINGS = "string"
FLOATS = "float16", "bfloat16", "float32", "float64"


@dataclass(frozen=True)
class Layout:
    """What the arrays of a dump are.

    Attributes
    ----------
    path : str
    row : mapping of str to tuple of int
        The shape of one step of each array.
    dtypes : mapping of str to str
    chunk, shard : int
        Steps of each.
    codec : str
    checksums : bool
    length : int or None
        Steps of the dump, if that is known before it is written.
    storage : mapping or None
        What the file system of a URL takes.
    """

    path: str
    row: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    chunk: int
    shard: int
    codec: str
    checksums: bool
    length: int | None = None
    storage: Mapping[str, Any] | None = None

    def create(self, overwrite: bool) -> None:
        """Create the arrays, all of their length or none, where nothing is or what is there may be replaced."""
        try:
            group = opened(self.path, "w" if overwrite else "w-", self.storage)
        except FileExistsError as error:
            raise taken(self.path) from error
        known = {"complete": False, "codec": self.codec, "checksums": self.checksums, "length": self.length}
        for name, row in self.row.items():
            bits, strings = self.dtypes[name] == "bfloat16", self.dtypes[name] == STRINGS
            chunk = self.chunk if name == "logits" else self.shard
            group.create_array(
                name,
                shape=(self.length or 0, *row),
                dtype="uint16" if bits else np.dtypes.StringDType() if strings else self.dtypes[name],
                chunks=(chunk, *row),
                shards=(self.shard, *row) if chunk < self.shard else None,
                compressors="auto" if strings else self._compressors(),
                attributes={MARK: known | {"steps": 0, "view": "bfloat16" if bits else None}},
            )

    def arrays(self, mode: str) -> dict[str, Any]:
        """Open the arrays."""
        group = opened(self.path, mode, self.storage)
        # A chunk of zeros must be written, or it would be missing; zarr does not store that wish.
        return {name: group[name].with_config({"write_empty_chunks": True}) for name in self.row}

    @staticmethod
    def mark(arrays: Mapping[str, Any], *, complete: bool, steps: int | None = None) -> None:
        """Write into the attributes of arrays how far they are."""
        for array in arrays.values():
            known = {"complete": complete, "steps": array.shape[0] if steps is None else steps}
            array.update_attributes({MARK: dict(array.attrs[MARK]) | known})

    def _compressors(self) -> list[Any]:
        from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec

        codecs: dict[str, list[Any]] = {
            "lz4": [BloscCodec(cname="lz4", clevel=5, shuffle=BloscShuffle.shuffle)],
            "zstd": [ZstdCodec(level=1)],
            "none": [],
        }
        return codecs[self.codec] + [Crc32cCodec()] * self.checksums

    def missing(self) -> tuple[str, int] | None:
        """Return the first shard that was not written: its array, and the step where it begins."""
        for name, array in self.arrays("r").items():
            source = Zarr(array, name)
            for start in range(0, array.shape[0], self.shard):
                if source.chunks.written((start // array.chunks[0], *(0 for _ in array.shape[1:])), b"") == ():
                    return name, start
        return None


def opened(path: str, mode: Any, storage: Mapping[str, Any] | None) -> Any:
    """Open a group."""
    import zarr

    return zarr.open_group(path, mode=mode, storage_options=given(storage))


def taken(path: str) -> FileExistsError:
    """Return the error of a path at which there is something."""
    return FileExistsError(f"{path} exists; overwrite=True replaces it, reopen() continues it")


def given(storage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the file system of a URL takes, as zarr takes it."""
    return None if storage is None else dict(storage)


def chosen(
    path: str,
    row: Mapping[str, Sequence[int]],
    dtypes: Mapping[str, str],
    asked: Mapping[str, Any],
    length: int | None = None,
) -> Layout:
    """Choose how many steps a chunk and a shard have."""
    classes = row["logits"][-1] if row["logits"] else None
    if dtypes["logits"] not in FLOATS:
        raise ValueError(f"logits: expected one of {', '.join(FLOATS)}, got dtype {dtypes['logits']}")
    if asked["classes"] not in (None, classes):
        raise ValueError(f"logits: expected {asked['classes']} classes, got {classes}")
    for name in row:
        if not name or "/" in name or name.startswith((".", "__")):  # zarr's own names, or arrays in other groups
            raise ValueError(
                f"columns: {name!r} cannot be the name of an array; expected one without /, and no . or __ in front"
            )
    step = math.prod(row["logits"]) * (2 if dtypes["logits"] == "bfloat16" else np.dtype(dtypes["logits"]).itemsize)
    chunk = max(1, asked["chunk_bytes"] // max(1, step))
    shard = chunk * max(1, min(asked["shard_bytes"] // max(1, chunk * step), SHARD_STEPS // chunk))
    rows = {name: tuple(each) for name, each in row.items()}
    shared = asked["codec"], asked["checksums"], length, asked["storage"]
    return Layout(path, rows, dict(dtypes), chunk, shard, *shared)


def columns_of(given: Any) -> dict[str, str]:
    """Return the dtypes of further arrays by name."""
    if not isinstance(given, Mapping):
        raise TypeError(f"columns: expected a mapping from names to dtypes, got {given!r}")
    for name in {"logits", "labels"} & given.keys():
        raise ValueError(f"columns: {name!r} is an array of every dump")
    return {name: name_of(each, f"columns[{name!r}]") for name, each in given.items()}


def name_of(dtype: Any, name: str = "dtype") -> str:
    """Return what a dtype is called; all kinds of strings are one.

    Examples
    --------
    >>> name_of(np.dtype("<U3")), name_of("bfloat16"), name_of(np.float32)
    ('string', 'bfloat16', 'float32')
    """
    if dtype == "bfloat16":
        return "bfloat16"
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name}: expected a dtype, got {dtype!r}") from None
    return STRINGS if found.kind in "UOT" else found.name


def as_dtype(array: NDArray[Any], dtype: str, name: str, first: int) -> NDArray[Any]:
    """Return values in the dtype of a dump, as they are stored; what does not fit is an error."""
    if dtype == STRINGS:
        return array.astype(np.dtypes.StringDType())
    if array.dtype.name == dtype:
        return array.view(np.uint16) if dtype == "bfloat16" else array
    with np.errstate(over="ignore", invalid="ignore"):
        found = array.astype(bfloat16_dtype() if dtype == "bfloat16" else dtype)
        changed = found != array if found.dtype.kind in "iub" else np.isinf(found) & ~np.isinf(array)
    if changed.any():
        at = np.unravel_index(int(changed.argmax()), changed.shape)
        raise ValueError(f"{name}: {array[at]} in step {first + at[0]} does not fit {dtype}")
    return found.view(np.uint16) if dtype == "bfloat16" else found
