"""Predictions as the kernels take them: slabs of rows whose numbers lie in one piece of memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.kernels.llvm.compiling import compiled, overload, widen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LONG = 32  # classes from which a row is scanned along itself, not transposed (measured: about equal there)
COPIED = 1 << 17  # numbers that are copied at a time: they stay in the second cache until they are scanned

WIDE = np.dtype(np.float32), np.dtype(np.float64)
_BITS = {"float16": np.uint16, "bfloat16": np.int16}


class Rows(NamedTuple):
    """Where rows lie: class j of row i at ``i // after * pitch + j * after + i % after`` of the numbers."""

    numbers: Any  # (n,), of half precision as bits
    classes: int
    after: int
    pitch: int
    long: Any  # None where rows are not scanned along themselves: code is compiled for one of both


def row_of(rows: Any, i: Any) -> Any:
    """Return row i as it lies; numba takes one of the compiled forms below."""


@overload(row_of)
def _row_of_typed(rows, i):
    def of_any(rows, i):
        start = i // rows.after * rows.pitch + i % rows.after
        return rows.numbers[start : start + (rows.classes - 1) * rows.after + 1 : rows.after]

    def of_long(rows, i):
        return rows.numbers[i * rows.pitch : i * rows.pitch + rows.classes]

    return of_long if is_given(rows, "long") else of_any


def is_given(kind: Any, name: str) -> bool:
    """Return, from the type of a named tuple, whether a field is None."""
    return str(kind.types[kind.fields.index(name)]) != "none"


@compiled
def _widen(numbers, wide):
    for i in range(numbers.size):
        wide[i] = widen(numbers[i])


def slabs(values: NDArray[Any], most: int) -> Iterator[tuple[slice, Rows, int]]:
    """Cut (before, classes, after) predictions into slabs of at most so many rows.

    Rows that do not lie as kernels take them are copied; of half precision only long ones are taken as they are.

    Yields
    ------
    (slice, Rows, int)
        Which rows a slab has, where they lie, and which of those there is its first.
    """
    view = _closest_last(values)
    view = view if view.dtype in WIDE else view.view(_BITS[view.dtype.name])
    before, classes, after = view.shape
    long = True if after == 1 and classes >= LONG else None
    taken = bool(long) or view.dtype in WIDE
    lying = _lying(view, long) if taken else None
    if lying:
        for start in range(0, before * after, most):
            yield slice(start, min(start + most, before * after)), lying, start
        return
    stop = 0
    for box in _boxes(view, max(1, min(most, COPIED // classes))):
        flat = np.ascontiguousarray(box).reshape(-1)
        if not taken:
            flat, bits = np.empty(flat.size, np.float32), flat
            _widen(bits, flat)
        start, stop = stop, stop + box.shape[0] * box.shape[2]
        yield slice(start, stop), Rows(flat, classes, box.shape[2], classes * box.shape[2], long), 0


def _closest_last(values: NDArray[Any]) -> NDArray[Any]:
    """Return a view of the same rows in their order whose numbers lie closest along the last axis, if there is one."""
    moved = values.transpose(0, 2, 1)
    if moved.flags.c_contiguous:
        return moved.reshape(-1, values.shape[1], 1)
    if values.shape[2] == 1 and abs(values.strides[1]) > abs(values.strides[0]):
        return values.transpose(2, 1, 0)
    return values


def _lying(view: NDArray[Any], long: bool | None) -> Rows | None:
    """Return where rows lie, or None if that is not as kernels take them."""
    before, classes, after = view.shape
    size, pitch = view.itemsize, view.strides[0] if view.shape[0] > 1 else classes * after * view.itemsize
    apart = all(n < 2 or s == d for n, s, d in zip(view.shape[1:], view.strides[1:], (after * size, size), strict=True))
    if not apart or pitch < classes * after * size or pitch % size:
        return None
    span = (before - 1) * pitch // size + classes * after
    flat = view.reshape(-1) if view.flags.c_contiguous else np.lib.stride_tricks.as_strided(view, (span,), (size,))
    return Rows(plain(flat), classes, after, pitch // size, long)


def _boxes(view: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    """Cut an array into boxes of all classes and at most so many rows, in their order."""
    before, _, after = view.shape
    some = max(1, rows // after)
    for b in range(0, before, some):
        for a in range(0, after, rows):
            yield view[b : b + some, :, a : a + rows]


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that numba takes for writable: it would compile all again for arrays that are not."""
    if array.flags.writeable:
        return array
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(SimpleNamespace(__array_interface__=interface, held=array))  # which keeps the memory alive


def along(array: NDArray[Any] | None, rows: int, dtype: Any, name: str) -> NDArray[Any]:
    """Return an array along the rows as the kernels take it, empty for None.

    Raises
    ------
    ValueError
        It does not have one number per row: compiled code would read beyond its end.
    """
    if array is None:
        return np.empty(0, dtype)
    if array.shape != (rows,):
        raise ValueError(f"{name}: expected shape ({rows},) for as many rows, got {array.shape}")
    return plain(np.ascontiguousarray(array, dtype))
