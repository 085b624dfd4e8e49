"""The blocks that predictions are scanned in: what is asked of them, and where it is put."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from daskxent.kernels.slabs import Rows
    from daskxent.numbers.records import Grid

LANES = 128  # rows of a block
PITCH = LANES + 16  # a tile's classes lie this far apart: a power of two would crowd them into few sets of the cache
TILE = 256  # most classes of a tile


class Ask(NamedTuple):
    """What a scan is asked for besides peaks, targets and flags; the same compiled code serves all.

    Attributes
    ----------
    unit : bool
        Predictions are probabilities.
    given : bool
        Predictions are log-probabilities, whose loss is taken as it is.
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
    given: bool
    mass: bool
    total: bool
    second: bool
    best: bool
    hit: bool
    depth: int


class Work(NamedTuple):
    """What a scan finds in a block of rows, one place a row; floats are as wide as the numbers."""

    tile: Any  # widened predictions, PITCH apart
    peak: Any
    second: Any
    target: Any
    floor: Any
    around: Any
    base: Any  # whole numbers
    mass: Any  # (sums, LANES): sums over the classes in units, as in `Records.mass`; of whole rows at level 0 only
    levels: Any  # how many levels there are; None for whole rows: code is compiled for one of both
    ties: Any
    best: Any
    above: Any
    hit: Any
    flags: Any
    skip: Any  # rows that are not scanned
    total: Any


def work_for(rows: Rows, grid: Grid | None = None) -> Work:
    """Return room for a block of rows: whole ones, or summed at all levels of a grid."""
    number = np.float64 if rows.numbers.dtype == np.float64 else np.float32
    peak, second, target, floor, around = np.zeros((5, LANES), number)
    base, total = np.zeros((2, LANES))
    ties, best = np.zeros((2, LANES), np.int64)
    above, flags, skip = np.zeros((3, LANES), np.int32)
    return Work(
        np.zeros(0 if rows.long else min(rows.classes + 16, TILE) * PITCH, number),
        peak, second, target, floor, around, base,
        np.zeros((max(2, grid.sums) if grid else 2, LANES), np.int64), grid.levels if grid else None,
        ties, best, above, np.zeros(LANES, np.bool_), flags, skip, total,
    )  # fmt: skip
