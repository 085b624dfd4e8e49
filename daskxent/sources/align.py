"""Say how labels, weights and further arrays lie along predictions, or why they cannot.

Predictions have a class axis; their other axes are the *positions*. Labels are sparse (one class per position) or
dense (one number per class); their rank decides. Weights, and any further array, lie along the leading positions and
are repeated along the rest. All are read by boxes of positions, whatever their own chunks are: nothing is ever
rechunked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.sources.columns import KINDS, Column, beyond_int64, check, is_float
from daskxent.sources.dump_marks import check_finished
from daskxent.sources.memory import Memory, Unstored
from daskxent.sources.sizes import USUAL, Sizes
from daskxent.sources.source import between, joined_versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.sources.source import Box


@dataclass(frozen=True)
class Along:
    """An array along the rows, read by boxes of positions.

    Parameters
    ----------
    source : Source or dask.array.Array
    follows : tuple of (int or None)
        For each axis of the source the axis of positions it follows; None for an axis of length 1.
    title : str
        What messages call the array: what the user typed.
    kind : str
        Which of `columns.KINDS` is made of it.
    """

    source: Any
    follows: tuple[int | None, ...]
    title: str
    kind: str

    def read(self, box: Box, fill: bool = False) -> Column:
        """Read what lies along a box of positions, repeated where the source has length 1.

        What is not stored is an error, or with `fill` the fill value.
        """
        own = self.within(box)
        gaps: list[Box] | None = [] if fill else None
        part = self.source.read(own, gaps)
        missing = marked(gaps, own) if gaps else None
        return self.column(part, missing, tuple(s.stop - s.start for s in box))

    def within(self, box: Box) -> Box:
        """Return the box of the source that lies along a box of positions."""
        return tuple(slice(0, 1) if axis is None else box[axis] for axis in self.follows)

    def column(self, part: NDArray[Any], missing: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> Column:
        """Make a column over positions of the given shape of what was read for them."""
        check(part.dtype, self.kind, self.title, "a chunk of ")
        try:
            values = KINDS[self.kind].values(part)
        except ValueError as error:
            raise ValueError(f"{self.title}: {error}") from error
        beyond = beyond_int64(part) if self.kind == "labels" else None
        return Column(values, missing, beyond).map(lambda array: self._spread(array, shape))

    def _spread(self, part: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Repeat a read part over positions of the given shape and flatten it."""
        aligned = [1] * len(shape)
        for axis, length in zip(self.follows, part.shape, strict=True):
            if axis is not None:
                aligned[axis] = length
        return np.broadcast_to(part.reshape(aligned), shape).reshape(-1)

    def at(self, lead: int) -> int | None:
        """Return which axis of the source follows an axis of positions; None if it is the same all along it."""
        return self.follows.index(lead) if lead in self.follows else None

    def window(self, lead: int, start: int, stop: int) -> Along:
        """Return the same, holding no more of an in-memory array than positions `start` to `stop` along an axis."""
        return replace(self, source=self.source.window(self.at(lead), start, stop))

    def without_source(self) -> Along:
        """Return what makes columns of parts that were read elsewhere, without axes that follow none of positions."""
        return replace(self, source=None, follows=tuple(axis for axis in self.follows if axis is not None))


class Further(NamedTuple):
    """An array along the rows besides labels and weights, as `align` takes it.

    Attributes
    ----------
    source : Source or dask.array.Array
    title : str
        What messages call the array.
    kind : str
        Which of `columns.KINDS` it is.
    """

    source: Any
    title: str
    kind: str = "keys"


def marked(gaps: list[Box], box: Box) -> NDArray[np.bool_]:
    """Return an array of the shape of a box that is True in the gaps, which are boxes inside it."""
    missing = np.zeros(tuple(s.stop - s.start for s in box), bool)
    for gap in gaps:
        missing[tuple(slice(g.start - b.start, g.stop - b.start) for g, b in zip(gap, box, strict=True))] = True
    return missing


@dataclass(frozen=True)
class Inputs:
    """Aligned predictions and what lies along them.

    Attributes
    ----------
    predictions : Source or dask.array.Array
    axis : int
        The class axis, counted from the front.
    along : mapping of str to Along
        The arrays along the rows, by name: "labels" unless they are dense, "weights" if there are any, further ones.
    dense_labels : Source, dask.array.Array or None
        One-hot or soft labels, of the shape of the predictions.
    sizes : Sizes
        How much to read, hold and hand out at a time.
    """

    predictions: Any
    axis: int
    along: Mapping[str, Along] = field(default_factory=dict)
    dense_labels: Any = None
    sizes: Sizes = USUAL

    @property
    def dense(self) -> bool:
        """Whether labels are dense."""
        return self.dense_labels is not None

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

    @property
    def lead_axis(self) -> int:
        """The lead axis, counted among the axes of the predictions."""
        return self.lead + (self.lead >= self.axis)

    @cached_property
    def rows_per_step(self) -> int:
        """Rows in one step along the lead axis; rows are numbered over all positions in C order."""
        return math.prod(self.positions[self.lead + 1 :])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.positions)

    def version(self, start: int, stop: int) -> str | None:
        """Return what changes when anything these steps need is written anew; None if nothing shows it."""
        at = self.lead_axis
        dense = [(self.dense_labels, at)] if self.dense else []
        along = [(along.source, along.at(self.lead)) for along in self.along.values()]
        every = [(self.predictions, at), *dense, *along]
        return joined_versions(source.version(between(source.shape, axis, start, stop)) for source, axis in every)

    def sources(self) -> list[Any]:
        """Return everything that is read, predictions first."""
        dense = [self.dense_labels] if self.dense else []
        return [self.predictions, *dense, *(along.source for along in self.along.values())]

    def window(self, start: int, stop: int) -> Inputs:
        """Return the same inputs, holding no more of in-memory arrays than steps `start` to `stop` along the lead."""
        at = self.lead_axis
        return replace(
            self,
            predictions=self.predictions.window(at, start, stop),
            along={name: along.window(self.lead, start, stop) for name, along in self.along.items()},
            dense_labels=self.dense_labels.window(at, start, stop) if self.dense else None,
        )

    def box(self, positions: Box, classes: slice) -> Box:
        """Return the box of predictions over a box of positions and a range of classes."""
        return (*positions[: self.axis], classes, *positions[self.axis :])


def align(
    labels: Any,
    predictions: Any,
    weights: Any,
    axis: int = -1,
    dense: bool | None = None,
    further: Mapping[str, Further] | None = None,
    fill: bool = True,
) -> Inputs:
    """Check shapes and dtypes and line the arrays up.

    Parameters
    ----------
    labels, predictions : Source or dask.array.Array
    weights : Source, dask.array.Array, number or None
    axis : int
        The class axis of the predictions.
    dense : bool, optional
        Whether labels are dense; by default their shape decides.
    further : mapping of str to Further, optional
        Arrays along the rows, by the names they get in `Inputs.along`.
    fill : bool
        Whether a number that is not stored is the fill value, or an error.

    Returns
    -------
    Inputs

    Raises
    ------
    ValueError
        Shapes do not fit, there is nothing to evaluate, or the axis is out of range.
    TypeError
        A dtype is not one that labels, predictions, weights or a further array can have.
    """
    _check_predictions(labels, predictions)
    ndim = len(predictions.shape)
    if not -ndim <= whole(axis, "axis") < ndim:
        raise ValueError(f"axis: {axis} is out of range for y_pred of shape {_show(predictions)}")
    axis = int(axis) % ndim
    if 0 in predictions.shape:
        raise ValueError(f"y_pred: there is nothing to evaluate in shape {_show(predictions)}")
    positions, along, single = _without(predictions.shape, axis), {}, _single(labels, predictions, axis, dense)
    if single is not None:
        along["labels"] = _sparse(labels, single)
    if weights is not None:
        along["weights"] = _leading(weights, positions, "sample_weight", "weights", fill)
    for name, (source, title, kind) in (further or {}).items():
        along[name] = _leading(source, positions, title, kind, fill)
    check_finished([predictions, labels, *(each.source for each in along.values())])
    return Inputs(predictions, axis, along, labels if single is None else None)


def positions_of(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape of the positions of predictions; any axis that is out of range is refused by `align`."""
    return _without(shape, axis % len(shape)) if shape else ()


def check_ignored(ignored: tuple[int, ...], inputs: Inputs) -> None:
    """Refuse classes to be ignored that no label can be.

    Raises
    ------
    ValueError
        Labels are dense, or their dtype cannot hold a class.
    """
    if not ignored:
        return
    if inputs.dense:
        raise ValueError("ignore_class: needs integer labels; these are one-hot or soft")
    dtype = inputs.along["labels"].source.dtype
    if is_float(dtype):
        return
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for label in ignored:
        if not low <= label <= high:
            raise ValueError(f"ignore_class: no label is {label}, as their dtype is {dtype}")


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


def _single(labels: Any, predictions: Any, axis: int, dense: bool | None) -> tuple[int, ...] | None:
    """Return which axes of sparse labels follow none of the positions, at most one; None if the labels are dense."""
    shape, positions = tuple(labels.shape), _without(predictions.shape, axis)
    if len(shape) == len(predictions.shape):
        for single in () if dense else (axis, len(shape) - 1):
            if shape[single] == 1 and _without(shape, single) == positions:
                return (single,)
        if shape != tuple(predictions.shape) or dense is False:
            raise ValueError(_mismatch(labels, predictions, dense))
        if labels.dtype.kind not in "biuf" and not is_float(labels.dtype):
            raise TypeError(f"y_true: expected numbers as dense labels, got dtype {labels.dtype}")
        return None
    if shape != positions or dense:
        raise ValueError(_mismatch(labels, predictions, dense))
    return ()


def _sparse(labels: Any, single: tuple[int, ...]) -> Along:
    check(labels.dtype, "labels", "y_true")
    follows: list[int | None] = list(range(len(labels.shape) - len(single)))
    for axis in single:
        follows.insert(axis, None)
    return Along(labels, tuple(follows), "y_true", "labels")


def _leading(source: Any, positions: tuple[int, ...], title: str, kind: str, fill: bool) -> Along:
    """Line an array up with the leading axes of the positions."""
    check(source.dtype, kind, title)
    shape = tuple(source.shape)
    if not shape:  # a number, which is read once
        gaps: list[Box] | None = [] if fill else None
        number = np.asarray(source.read((), gaps) if hasattr(source, "read") else source)
        if kind == "weights" and not np.isfinite(number):
            raise ValueError(f"{title}: {number}; weights must be finite")
        return Along((Unstored if gaps else Memory)(number, title), (), title, kind)
    kept = shape[:-1] if len(shape) == len(positions) + 1 and shape[-1] == 1 else shape
    fits = len(kept) <= len(positions) and all(
        have in (1, want) for have, want in zip(kept, positions[: len(kept)], strict=True)
    )
    if not fits:
        raise ValueError(
            f"{title}: shape {shape} does not lie along y_true of shape {positions}; expected a number or "
            "the leading axes of y_true, each of that length or 1"
        )
    follows: list[int | None] = [None if n == 1 and positions[a] != 1 else a for a, n in enumerate(kept)]
    return Along(source, tuple(follows + [None] * (len(shape) - len(kept))), title, kind)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])


def _show(array: Any) -> str:
    return str(tuple(array.shape))


def _mismatch(labels: Any, predictions: Any, dense: bool | None = None) -> str:
    sparse_form = "y_pred's shape without the class axis (integer labels)"
    dense_form = "y_pred's shape (one-hot or soft labels)"
    expected = f"{sparse_form} or {dense_form}" if dense is None else dense_form if dense else sparse_form
    return f"y_true of shape {_show(labels)} does not fit y_pred of shape {_show(predictions)}; expected {expected}"
