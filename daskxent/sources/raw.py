"""Files of bare numbers, of which the path says the rest: ``logits.bin?dtype=float16&shape=-1,1000``."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np

from daskxent.sources.archives import Mapped
from daskxent.sources.local import bfloat16_dtype, check_regular
from daskxent.sources.paths import found, numbers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELDS = "dtype", "shape", "offset"


def takes(path: str) -> bool:
    """Return whether a path of a local file says the dtype of its numbers.

    Examples
    --------
    >>> takes("logits.bin?dtype=float32&shape=-1,10"), takes("what?.npy")
    (True, False)
    """
    return "://" not in path and numbers_of(path)[1] != ""


def described(path: str, dtype: Any, shape: Sequence[int] | None, offset: int = 0) -> str:
    """Return the path of a file of bare numbers with what its numbers are.

    Examples
    --------
    >>> described("logits.bin", "float16", (-1, 1000), 64)
    'logits.bin?dtype=float16&shape=-1,1000&offset=64'
    """
    if not isinstance(dtype, str):
        dtype = np.dtype(dtype)
        dtype = dtype.name if dtype.isnative else dtype.str  # the name leaves out the order of bytes
    fields = {
        "dtype": dtype,
        "shape": ",".join(map(str, shape or (-1,))),
    }
    query = "&".join(f"{field}={value}" for field, value in (fields | ({"offset": offset} if offset else {})).items())
    return f"{path}?{query}"


def open_raw(path: str, name: str) -> Mapped:
    """Open a file of numbers in C order and little-endian; one length of the shape may be -1, for as many as there are.

    Raises
    ------
    ValueError
        Dtype, shape or offset cannot be understood, or do not fit the size of the file.
    """
    plain, _, query = path.rpartition("?")
    file = found(plain, name)
    check_regular(file, name)
    fields = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"{name}: {path}: {unknown[0]!r} is not one of {', '.join(FIELDS)}")
    dtype, bfloat16 = _dtype(fields["dtype"], name)
    size = os.stat(file).st_size
    try:
        shape, offset = [int(n) for n in fields.get("shape", "-1").split(",")], int(fields.get("offset", 0))
    except ValueError as error:
        raise ValueError(f"{name}: {path}: expected integers in shape and offset: {error}") from error
    if shape.count(-1) > 1 or min(shape) < -1 or not 0 <= offset <= size:
        raise ValueError(f"{name}: {path}: expected a shape with at most one -1, and an offset in [0, {size}]")
    each = math.prod(n for n in shape if n != -1) * dtype.itemsize
    if -1 in shape and each:
        shape[shape.index(-1)] = (size - offset) // each
    if -1 in shape or math.prod(shape) * dtype.itemsize != size - offset:
        raise ValueError(
            f"{name}: {file} has {size - offset:,} bytes of numbers, which do not make an array of {fields}"
        )
    return Mapped(file, query, name, tuple(shape), dtype, offset, size, bfloat16)


def _dtype(text: str, name: str) -> tuple[np.dtype[Any], bool]:
    """Return a dtype as it is stored, and whether that are the bits of bfloat16."""
    if text == "bfloat16":
        bfloat16_dtype()
        return np.dtype("<u2"), True
    try:
        dtype = np.dtype(text)
    except TypeError as error:
        raise ValueError(f"{name}: dtype={text} is not known: {error}") from error
    if dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected a dtype of numbers, got {text}")
    return dtype, False
