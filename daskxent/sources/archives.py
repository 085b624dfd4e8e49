"""Arrays that lie as they are inside a file with others: of safetensors, and of ``.npz`` that is not compressed."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.local import LocalFile, bfloat16_dtype, chosen, entered
from daskxent.sources.npy import header_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box, Source

# The types of safetensors; bfloat16 is known by its bits.
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
MOST_HEADER = 100_000_000  # bytes; safetensors' own limit
LOCAL_HEADER = 30  # bytes before the names in a zip file


class Mapped(LocalFile):
    """An array inside a file of this machine, mapped anew for each read.

    Parameters
    ----------
    file : str
    inner : str
        What the array is called in it.
    name : str
    shape : tuple of int
    dtype : dtype
        As it is stored.
    offset : int
        Where in the file it begins, in bytes; its elements are in C order.
    nbytes : int
        Size of the file.
    bfloat16 : bool
        Whether what is stored are the bits of that.
    """

    def __init__(
        self, file: str, inner: str, name: str, shape: tuple[int, ...], dtype: Any, offset: int, nbytes: int,
        bfloat16: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(file, name, nbytes)
        self.inner, self.shape, self.stored_dtype, self.offset = inner, shape, np.dtype(dtype), offset
        self.bfloat16, self.path = bfloat16, f"{file}/{inner}"
        self.dtype = bfloat16_dtype() if bfloat16 else self.stored_dtype

    def __reduce__(self) -> tuple[Any, ...]:
        place = self.file, self.inner, self.name, self.shape, self.stored_dtype, self.offset, self.nbytes
        return Mapped, (*place, self.bfloat16)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Map the file and return the elements in a box.

        Raises
        ------
        ValueError
            The file was rewritten since it was opened.
        """
        whole = self.mapped(self.stored_dtype, self.offset, self.shape)
        values: NDArray[Any] = np.require(whole[box], requirements="A")  # compiled code needs it aligned
        return values.view(self.dtype) if self.bfloat16 else values


def open_safetensors(path: str, name: str) -> Source:
    """Open an array of a safetensors file, ``file.safetensors/NAME``; of the only one the name may be left out."""
    file, inner = entered(path, name, ".safetensors")
    arrays, begin = _header(file, name)
    inner = chosen(inner, arrays, file, name)
    entry, size = arrays[inner], os.stat(file).st_size
    try:
        kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        fits = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
        fits &= kind in DTYPES and stop - start == math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits or begin + stop > size:
        raise ValueError(f"{name}: {file} is damaged, or has a type that is not read: {inner} is {entry}")
    return Mapped(file, inner, name, shape, DTYPES[kind], begin + start, size, kind == "BF16")


def names_in_safetensors(path: str) -> list[str]:
    """Return the names of the arrays of a safetensors file."""
    return list(_header(path, "the dump")[0])


def names_in_npz(path: str) -> list[str]:
    """Return the names of the arrays of a ``.npz`` file."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _header(file: str, name: str) -> tuple[dict[str, Any], int]:
    """Return what a safetensors file says of its arrays, and where their bytes begin."""
    size = os.stat(file).st_size
    with open(file, "rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MOST_HEADER + 1
        if length > min(MOST_HEADER, size - 8):
            raise ValueError(f"{name}: {file} is not a safetensors file, or it is cut short")
        text = opened.read(length)
    try:
        arrays = json.loads(text)
    except (ValueError, RecursionError):
        arrays = None
    if not isinstance(arrays, dict):
        raise ValueError(f"{name}: {file} is not a safetensors file: its header is not a JSON object")
    arrays.pop("__metadata__", None)
    return arrays, 8 + length


def open_npz(path: str, name: str) -> Source:
    """Open an array of a ``.npz`` file, ``file.npz/NAME``, as numpy.savez writes it, without compression."""
    file, inner = entered(path, name, ".npz")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
            inner = chosen(inner, entries, file, name)
            entry = entries[inner]
            if entry.compress_type != zipfile.ZIP_STORED:
                line = f'numpy.save("array.npy", numpy.load("{os.path.basename(file)}")["{inner}"])'
                raise ValueError(f"{name}: {path} is compressed, so that no part of it can be read alone; {line}")
            with archive.open(entry) as member:
                shape, dtype = header_of(member, path, name)
                length = member.tell()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name}: {file} is not an .npz file: {error}") from error
    return Mapped(file, inner, name, shape, dtype, _data_of(file, entry) + length, os.stat(file).st_size)


def _data_of(file: str, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member of a zip file begin, which only its local header says."""
    with open(file, "rb") as opened:
        opened.seek(entry.header_offset)
        names, extra = struct.unpack("<HH", opened.read(LOCAL_HEADER)[26:30])
    return int(entry.header_offset + LOCAL_HEADER + names + extra)
