"""Arrays that lie as they are inside a file with others: of safetensors, and of ``.npz`` that is not compressed."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.npy import MappedFile, check_regular
from daskxent.sources.paths import found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from daskxent.sources.source import Box, Source

# The types of safetensors; bfloat16 is known by its bits.
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
MOST_HEADER = 100_000_000  # bytes; safetensors' own limit
LOCAL_HEADER = 30  # bytes before the names in a zip file


class Mapped(MappedFile):
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
        self.dtype = _bfloat16() if bfloat16 else self.stored_dtype

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
        self.check_unchanged()
        whole = np.memmap(self.file, self.stored_dtype, "r", self.offset, self.shape)
        self.check_unchanged()
        values: NDArray[Any] = np.require(np.asarray(whole[box]), requirements="A")  # compiled code needs it aligned
        return values.view(self.dtype) if self.bfloat16 else values


def _bfloat16() -> np.dtype[Any]:
    if not find_spec("ml_dtypes"):
        raise ImportError("bfloat16 needs ml_dtypes: pip install 'daskxent[bfloat16]'")
    from ml_dtypes import bfloat16

    found: np.dtype[Any] = np.dtype(bfloat16)
    return found


def split(path: str, end: str) -> tuple[str, str]:
    """Return the file with such an end that a path leads into, and the name behind it.

    Examples
    --------
    >>> split("out/rank0.safetensors/logits", ".safetensors"), split("dump.npz", ".npz"), split("a.npy", ".npz")
    (('out/rank0.safetensors', 'logits'), ('dump.npz', ''), ('', ''))
    """
    file, inside, inner = f"{path}/".partition(f"{end}/")
    return (file + end, inner.rstrip("/")) if inside else ("", "")


def takes(end: str) -> Callable[[str], bool]:
    """Return what tells whether a path leads into a file with such an end, and not into a directory of that name."""

    def asked(path: str) -> bool:
        file = split(path, end)[0]
        return bool(file) and "://" not in path and not os.path.isdir(os.path.expanduser(file))

    return asked


def open_safetensors(path: str, name: str) -> Source:
    """Open an array of a safetensors file, ``file.safetensors/NAME``; of the only one the name may be left out."""
    file, inner = split(path, ".safetensors")
    file = found(file, name)
    check_regular(file, name)
    arrays, begin = _header(file, name)
    inner = _chosen(inner, arrays, file, name)
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


def _header(file: str, name: str) -> tuple[dict[str, Any], int]:
    """Return what a safetensors file says of its arrays, and where their bytes begin."""
    size = os.stat(file).st_size
    with open(file, "rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MOST_HEADER + 1
        if length > min(MOST_HEADER, size - 8):
            raise ValueError(f"{name}: {file} is no safetensors file, or cut short")
        text = opened.read(length)
    try:
        arrays = json.loads(text)
    except (ValueError, RecursionError):
        arrays = None
    if not isinstance(arrays, dict):
        raise ValueError(f"{name}: {file} is no safetensors file: its header is no JSON object")
    arrays.pop("__metadata__", None)
    return arrays, 8 + length


def _chosen(inner: str, arrays: Iterable[str], file: str, name: str) -> str:
    """Return the name of an array of a file: the one that was given, or the only one."""
    names = list(arrays)
    if not inner and len(names) == 1:
        return names[0]
    if inner not in names:
        holds = f"{file} holds {', '.join(names[:10]) or 'no arrays'}"
        raise FileNotFoundError(f"{name}: there is no {inner or 'name of an array'} in it; {holds}: {file}/NAME")
    return inner


def open_npz(path: str, name: str) -> Source:
    """Open an array of a ``.npz`` file, ``file.npz/NAME``, as numpy.savez writes it, without compression."""
    file, inner = split(path, ".npz")
    file = found(file, name)
    check_regular(file, name)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
            inner = _chosen(inner, entries, file, name)
            entry = entries[inner]
            if entry.compress_type != zipfile.ZIP_STORED:
                line = f'numpy.save("array.npy", numpy.load("{os.path.basename(file)}")["{inner}"])'
                raise ValueError(f"{name}: {path} is compressed, so that no part of it can be read alone; {line}")
            with archive.open(entry) as member:
                shape, fortran, dtype = _npy_header(member)
                length = member.tell()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name}: {file} is no .npz file: {error}") from error
    if fortran and len(shape) > 1:
        raise ValueError(f"{name}: {path} is in Fortran order; save numpy.ascontiguousarray of it")
    if dtype.hasobject:
        raise ValueError(f"{name}: {path} holds Python objects, which are not unpickled")
    return Mapped(file, inner, name, shape, dtype, _data_of(file, entry) + length, os.stat(file).st_size)


def _npy_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)


def _data_of(file: str, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member of a zip file begin, which only its local header tells."""
    with open(file, "rb") as opened:
        opened.seek(entry.header_offset)
        names, extra = struct.unpack("<HH", opened.read(LOCAL_HEADER)[26:30])
    return int(entry.header_offset + LOCAL_HEADER + names + extra)
