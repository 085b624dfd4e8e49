"""The scan of a whole array into records, one way or the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.kernels.blocks import LANES, LONG_RECORDS, arrange, mode_of, plain
from daskxent.kernels.llvm.compiling import borrowed, compiled, overload
from daskxent.kernels.records import work_for
from daskxent.kernels.scan_lanes import scan_lanes
from daskxent.kernels.scan_long import scan_long
from daskxent.numbers.records import Rows, empty

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _scan_block(values: Any, *rest: Any) -> None:
    """Scan a block of rows into records."""


@overload(_scan_block)
def _scan_block_typed(values, start, labels, first, mode, rows, offset, work):
    def rows_of_classes(values, start, labels, first, mode, rows, offset, work):
        if values.shape[1] >= LONG_RECORDS:
            scan_long(values, start, labels, first, mode, rows, offset, work)
        else:
            scan_lanes(values, start, labels, first, mode, rows, offset, work)

    def maps(values, start, labels, first, mode, rows, offset, work):
        scan_lanes(values, start, labels, first, mode, rows, offset, work)

    return rows_of_classes if values.ndim == 2 else maps


@compiled
def _scan(values, labels, first, mode, rows, work):
    values, labels, rows, work = borrowed((values, labels, rows, work))
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        _scan_block(values, start, here, first, mode, rows, start, work)


def scan(
    values: NDArray[Any],
    labels: NDArray[np.int64],
    first: int = 0,
    *,
    probabilities: bool = False,
    mass: bool = True,
    top: int = 0,
) -> Rows:
    """Summarise rows over the classes ``first .. first + c - 1``, as `rows.scan` does.

    Parameters
    ----------
    values : (before, c, after) array
        Predictions of before * after rows in C order, with any strides.
    labels, first, probabilities, mass, top
        As for `rows.scan`.

    Returns
    -------
    Rows
        The same bits as ``rows.scan(np.moveaxis(values, 1, -1).reshape(-1, c), ...)``.

    Examples
    --------
    >>> rows = scan(np.array([[[0.0, 3.0], [2.0, 1.0]]]), np.array([1, 0]))
    >>> rows.best.tolist(), rows.target.tolist()
    ([1, 0], [2.0, 3.0])
    """
    arranged, wide = arrange(values)
    rows = empty(values.shape[0] * values.shape[2], wide, top)
    if values.size:
        classes = plain(np.ascontiguousarray(labels, np.int64))
        _scan(arranged, classes, first, mode_of(probabilities, mass), rows, work_for(wide))
    return rows
