"""The blocks that predictions are worked on in, and how arrays are handed to the kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LANES = 128  # rows of a block
PITCH = LANES + 16  # a tile's classes lie this far apart: a power of two would crowd them into few sets of the cache
LONG = 32  # classes from which a tally is faster along the row than transposed (measured: about equal there)
LONG_RECORDS = 56  # the same for a scan into records
PIECE = 8192  # classes of a long row taken at a time
CHUNK = 256  # most classes of a tile
GROUP_BITS = 5  # a long row is padded to a multiple of 32 classes, so that no loop has a scalar rest
GROUP = 1 << GROUP_BITS

_F4, _F8 = np.dtype(np.float32), np.dtype(np.float64)
_BITS = {"float16": np.uint16, "bfloat16": np.int16}

LOGITS, PROBABILITIES, NO_MASS = 0, 1, 2  # NO_MASS goes with either of the others


def mode_of(probabilities: bool, mass: bool) -> int:
    """Say in a number what a scan is to do."""
    return (PROBABILITIES if probabilities else LOGITS) | (0 if mass else NO_MASS)


def arrange(values: NDArray[Any]) -> tuple[NDArray[Any], np.dtype[Any]]:
    """Return a view for the kernels, (rows, classes) or (before, classes, after), and the dtype it is widened to."""
    number = values.dtype.type
    wide = _F8 if number is np.float64 else _F4
    view = values if number in (np.float32, np.float64) else values.view(_BITS[values.dtype.name])
    moved = view.transpose(0, 2, 1)
    if moved.flags.c_contiguous:
        view = moved.reshape(values.shape[0] * values.shape[2], values.shape[1])
    elif values.shape[2] == 1 and abs(values.strides[1]) < abs(values.strides[0]):
        view = view[:, :, 0]
    elif values.shape[2] == 1:
        view = view.transpose(2, 1, 0)
    return plain(view), wide


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that numba takes for writable: it would compile all again for arrays that are not."""
    if array.flags.writeable:
        return array
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(SimpleNamespace(__array_interface__=interface, held=array))  # which keeps the memory alive
