"""The blocks that predictions are scanned in, and how arrays are handed to the kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.kernels.llvm.compiling import inlined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.numbers.records import Grid

LANES = 128  # rows of a block
PITCH = LANES + 16  # a tile's classes lie this far apart: a power of two would crowd them into few sets of the cache
TILE = 256  # most classes of a tile
LONG = 32  # classes from which a row is scanned along itself, not transposed (measured: about equal there)

_F4, _F8 = np.dtype(np.float32), np.dtype(np.float64)
_BITS = {"float16": np.uint16, "bfloat16": np.int16}


class Ask(NamedTuple):
    """What a scan is asked for besides peaks, targets and flags; the same compiled code serves all.

    Attributes
    ----------
    unit : bool
        Predictions are probabilities.
    mass : bool
        Sums over the classes.
    total : bool
        The sum as a number, beyond what the loss needs.
    second : bool
        The second largest number of probabilities too.
    best : bool
        The lowest class that holds the peak.
    hit : bool
        Whether the label is that class.
    depth : int
        How many classes larger than the label's are to be counted, if any.
    """

    unit: bool
    mass: bool
    total: bool
    second: bool
    best: bool
    hit: bool
    depth: int


class Work(NamedTuple):
    """What a scan finds in a block of rows, one place a row; floats are as wide as the numbers."""

    tile: Any  # widened predictions, PITCH apart, or rows that do not lie in one piece
    peak: Any
    second: Any
    target: Any
    floor: Any
    around: Any
    base: Any
    mass: Any  # (sums, LANES): sums over the classes in units, as in `Records.mass`; of whole rows at level 0 only
    sums: Any  # the same of one row
    # None or not is part of the type, so code is compiled for one of both.
    levels: Any  # how many levels there are; None for whole rows
    long: Any  # None where rows are short, or maps
    ties: Any
    best: Any
    above: Any
    hit: Any
    flags: Any
    skip: Any  # rows that are not scanned
    loss: Any
    total: Any


class Room(NamedTuple):
    """The memory of a `Work`: few arrays, because handing over each takes Python 0.15 us."""

    tile: Any
    numbers: Any  # as wide as the predictions
    floats: Any
    longs: Any
    ints: Any
    hit: Any
    mass: Any
    sums: Any
    levels: Any
    long: Any


@inlined
def laid_out(room):
    """Return the `Work` that lies in a room."""
    peak, second, target, floor, around = (
        room.numbers[0],
        room.numbers[1],
        room.numbers[2],
        room.numbers[3],
        room.numbers[4],
    )
    base, ties, best = room.longs[0], room.longs[1], room.longs[2]
    above, flags, skip = room.ints[0], room.ints[1], room.ints[2]
    loss, total = room.floats[0], room.floats[1]
    return Work(
        room.tile, peak, second, target, floor, around, base, room.mass, room.sums, room.levels, room.long,
        ties, best, above, room.hit, flags, skip, loss, total,
    )  # fmt: skip


def is_given(work: Any, name: str) -> bool:
    """Tell from the type of a `Work` whether a field is None."""
    return str(work.types[work.fields.index(name)]) != "none"


def is_long(arranged: NDArray[Any]) -> bool:
    """Whether rows are scanned along themselves."""
    return arranged.ndim == 2 and arranged.shape[1] >= LONG


def room_for(arranged: NDArray[Any], wide: np.dtype[Any], classes: int, grid: Grid | None = None) -> Room:
    """Return room for a block of arranged rows that are widened: whole ones, or summed at all levels of a grid."""
    number = np.float32 if wide == np.float32 else np.float64
    sums = max(2, grid.sums) if grid else 2
    return Room(
        tile=np.zeros(max(min(classes + 16, TILE) * PITCH, classes), number),
        numbers=np.zeros((5, LANES), number),
        floats=np.zeros((2, LANES)),
        longs=np.zeros((3, LANES), np.int64),
        ints=np.zeros((3, LANES), np.int32),
        hit=np.zeros(LANES, np.bool_),
        mass=np.zeros((sums, LANES), np.int64),
        sums=np.zeros(sums, np.int64),
        levels=grid.levels if grid else None,
        long=True if is_long(arranged) else None,
    )


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
