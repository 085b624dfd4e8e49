"""Say how labels and weights lie along predictions, or why they cannot.

Predictions have a class axis; their other axes are the *positions*. Labels are sparse (one class per position) or
dense (one number per class), told apart by rank. Weights lie along the leading positions and are repeated along
the rest. All three are read by boxes of positions, whatever their own chunks are: nothing is ever rechunked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.arrays import window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.arrays import Box


@dataclass(frozen=True)
class Along:
    """An array read by boxes of positions.

    Parameters
    ----------
    source : Source or dask.array.Array
    follows : tuple of (int or None)
        For each axis of the source the axis of positions it follows; None for an axis of length 1.
    """

    source: Any
    follows: tuple[int | None, ...]

    def read(self, box: Box, absent: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Read what lies along a box of positions, repeated where the source has length 1: (positions,) array.

        Positions that are not stored are set in `absent`, an array of the shape of the box; without it they are an
        error.
        """
        own = tuple(slice(0, 1) if axis is None else box[axis] for axis in self.follows)
        missing: list[Box] | None = None if absent is None else []
        part = self.source.read(own, missing)
        shape = tuple(s.stop - s.start for s in box)
        if absent is not None and missing:
            gone = np.zeros(part.shape, bool)
            for gap in missing:
                gone[tuple(slice(g.start - o.start, g.stop - o.start) for g, o in zip(gap, own, strict=True))] = True
            absent |= self.spread(gone, shape).reshape(shape)
        return self.spread(part, shape)

    def spread(self, part: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Repeat a read part over positions of the given shape and flatten it."""
        aligned = [1] * len(shape)
        for axis, length in zip(self.follows, part.shape, strict=True):
            if axis is not None:
                aligned[axis] = length
        return np.broadcast_to(part.reshape(aligned), shape).reshape(-1)


@dataclass(frozen=True)
class Inputs:
    """Aligned labels, predictions and weights.

    Attributes
    ----------
    labels : Along or Source
        Dense labels are a plain source of the shape of the predictions.
    predictions : Source
    weights : Along, float or None
    axis : int
        The class axis, counted from the front.
    dense : bool
        Whether labels are dense.
    """

    labels: Any
    predictions: Any
    weights: Along | float | None
    axis: int
    dense: bool

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.predictions.shape[self.axis])

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Shape of the predictions without the class axis."""
        return _without(self.predictions.shape, self.axis)

    @cached_property
    def lead(self) -> int:
        """The axis of positions that is cut into parts: the first that is longer than 1."""
        return next((axis for axis, length in enumerate(self.positions) if length > 1), 0)

    @cached_property
    def rows_per_step(self) -> int:
        """Rows in one step along the lead axis; rows are numbered over all positions in C order."""
        return math.prod(self.positions[self.lead + 1 :])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.positions)

    def window(self, start: int, stop: int) -> Inputs:
        """Return the same inputs, holding no more of in-memory arrays than steps `start` to `stop` along the lead."""

        def cut(along: Any) -> Any:
            if not isinstance(along, Along):
                return along
            at = along.follows.index(self.lead) if self.lead in along.follows else None
            return Along(window(along.source, at, start, stop), along.follows)

        at = self.lead + (self.lead >= self.axis)
        labels = window(self.labels, at, start, stop) if self.dense else cut(self.labels)
        return replace(
            self, labels=labels, predictions=window(self.predictions, at, start, stop), weights=cut(self.weights)
        )

    def box(self, positions: Box, classes: slice) -> Box:
        """Return the box of predictions over a box of positions and a range of classes."""
        return (*positions[: self.axis], classes, *positions[self.axis :])


def align(labels: Any, predictions: Any, weights: Any, axis: int = -1, dense: bool | None = None) -> Inputs:
    """Check shapes and dtypes and line the arrays up.

    Parameters
    ----------
    labels, predictions : Source or dask.array.Array
    weights : Source, dask.array.Array, number or None
    axis : int
        The class axis of the predictions.
    dense : bool, optional
        Whether labels are dense; by default their shape tells.

    Returns
    -------
    Inputs

    Raises
    ------
    ValueError
        Shapes do not fit, there is nothing to evaluate, or the axis is out of range.
    TypeError
        A dtype is not one that labels, predictions or weights can have.
    """
    _check_predictions(labels, predictions)
    ndim = len(predictions.shape)
    if not -ndim <= whole(axis, "axis") < ndim:
        raise ValueError(f"axis: {axis} is out of range for y_pred of shape {_show(predictions)}")
    axis = int(axis) % ndim
    if 0 in predictions.shape:
        raise ValueError(f"y_pred: there is nothing to evaluate in shape {_show(predictions)}")
    dense, aligned = _align_labels(labels, predictions, axis, dense)
    return Inputs(aligned, predictions, _align_weights(weights, _without(predictions.shape, axis)), axis, dense)


def whole(number: Any, name: str) -> int:
    """Return an integer of any kind as an int; a TypeError calls it by `name`."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {number!r}")
    return int(number)


def _check_predictions(labels: Any, predictions: Any) -> None:
    if not is_float(predictions.dtype):
        swapped = (
            " (are y_true and y_pred swapped?)" if is_float(labels.dtype) and predictions.dtype.kind in "iu" else ""
        )
        bits = "; view='bfloat16' takes them for bfloat16" if predictions.dtype.name in ("uint16", "void16") else ""
        raise TypeError(f"y_pred: expected floating point predictions, got dtype {predictions.dtype}{swapped or bits}")
    if len(labels.shape) > len(predictions.shape) > 0:
        raise ValueError(_mismatch(labels, predictions) + "; are y_true and y_pred swapped?")
    if len(predictions.shape) < 2:
        raise ValueError(f"y_pred: expected rows of predictions, got shape {_show(predictions)}")


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether predictions may have this dtype: float16, bfloat16, float32 or float64."""
    return dtype.name in ("float16", "bfloat16", "float32", "float64")


def _align_labels(labels: Any, predictions: Any, axis: int, dense: bool | None) -> tuple[bool, Any]:
    shape, positions = tuple(labels.shape), _without(predictions.shape, axis)
    if len(shape) == len(predictions.shape):
        for single in () if dense else (axis, len(shape) - 1):
            if shape[single] == 1 and _without(shape, single) == positions:
                return False, _sparse(labels, single)
        if shape != tuple(predictions.shape) or dense is False:
            raise ValueError(_mismatch(labels, predictions, dense))
        if labels.dtype.kind not in "biuf" and not is_float(labels.dtype):
            raise TypeError(f"y_true: expected numbers as dense labels, got dtype {labels.dtype}")
        return True, labels
    if shape != positions or dense:
        raise ValueError(_mismatch(labels, predictions, dense))
    return False, _sparse(labels, None)


def _sparse(labels: Any, single: int | None) -> Along:
    if labels.dtype.kind not in "biu":
        raise TypeError(f"y_true: expected integer labels, got dtype {labels.dtype}")
    follows: list[int | None] = list(range(len(labels.shape) - (single is not None)))
    if single is not None:
        follows.insert(single, None)
    return Along(labels, tuple(follows))


def _align_weights(weights: Any, positions: tuple[int, ...]) -> Along | float | None:
    if weights is None:
        return None
    if weights.dtype.kind not in "biuf" and not is_float(weights.dtype):
        raise TypeError(f"sample_weight: expected real numbers, got dtype {weights.dtype}")
    shape = tuple(weights.shape)
    if not shape:
        return float(np.asarray(weights.read(()) if hasattr(weights, "read") else weights))
    kept = shape[:-1] if len(shape) == len(positions) + 1 and shape[-1] == 1 else shape
    fits = len(kept) <= len(positions) and all(
        have in (1, want) for have, want in zip(kept, positions[: len(kept)], strict=True)
    )
    if not fits:
        raise ValueError(
            f"sample_weight: shape {shape} does not lie along y_true of shape {positions}; expected a number or "
            "the leading axes of y_true, each of that length or 1"
        )
    follows: list[int | None] = [None if n == 1 and positions[a] != 1 else a for a, n in enumerate(kept)]
    return Along(weights, tuple(follows + [None] * (len(shape) - len(kept))))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])


def _show(array: Any) -> str:
    return str(tuple(array.shape))


def _mismatch(labels: Any, predictions: Any, dense: bool | None = None) -> str:
    sparse_form = "y_pred's shape without the class axis (integer labels)"
    dense_form = "y_pred's shape (one-hot or soft labels)"
    expected = f"{sparse_form} or {dense_form}" if dense is None else dense_form if dense else sparse_form
    return f"y_true of shape {_show(labels)} does not fit y_pred of shape {_show(predictions)}; expected {expected}"
