"""Dumps of the largest classes of each row only: their values, and which classes they are.

Rows are taken as rows over the *slots* of the dump, and one more of -inf for all other classes; labels become the slots
that hold their classes.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.opening import part
from daskxent.sources.source import Base, Wrapped, joined_versions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from daskxent.sources.chunks import Chunks
    from daskxent.sources.cuts import Cuts
    from daskxent.sources.source import Box, Source


def slots_of(labels: NDArray[Any], ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return which slot of each row holds its label; one beyond the last if none does, negative labels as they are.

    Examples
    --------
    >>> slots_of(np.array([7, 3, -100]), np.array([[7, 5], [1, 2], [0, 1]])).tolist()
    [0, 2, -100]
    """
    same = ids == labels[..., None]
    found = np.where(same.any(axis=-1), same.argmax(axis=-1), ids.shape[-1])
    return np.where(labels < 0, labels, found).astype(np.int64)


class Slots(Base):
    """The slots that hold the labels.

    Parameters
    ----------
    labels : Source
        Of integers.
    ids : Source
        Of integers, one axis more: the classes of each row.
    """

    dtype = np.dtype(np.int64)

    def __init__(self, labels: Source, ids: Source) -> None:
        self.labels, self.ids, self.name, self.shape = labels, ids, labels.name, labels.shape
        self.far = labels.far or ids.far

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read labels and classes, and compare them."""
        gaps: list[Box] | None = None if missing is None else []
        ids = self.ids.read(self._of_ids(box), gaps)
        if missing is not None and gaps:
            missing += [gap[:-1] for gap in gaps]
        return slots_of(self.labels.read(box, missing), ids)

    def stored(self, axis: int) -> Cuts | None:
        """Return the cuts of the classes, which are larger."""
        return self.ids.stored(axis)

    def encoded(self, box: Box) -> Iterable[tuple[Chunks, tuple[int, ...]]]:
        """Yield the chunks of both."""
        return chain(self.labels.encoded(box), self.ids.encoded(self._of_ids(box)))

    def refresh(self) -> None:
        """Refresh both."""
        self.labels.refresh()
        self.ids.refresh()

    def window(self, axis: int | None, start: int, stop: int) -> Slots:
        """Return the same of sources that hold no more than that."""
        return Slots(self.labels.window(axis, start, stop), self.ids.window(axis, start, stop))

    def shared(self) -> Slots:
        """Return the same of shared sources."""
        return Slots(self.labels.shared(), self.ids.shared())

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return the identity of both."""
        return {**self.labels.identity(box, lead), "ids": self.ids.identity(self._of_ids(box), lead)}

    def version(self, box: Box) -> str | None:
        """Return a version of both."""
        return joined_versions([self.labels.version(box), self.ids.version(self._of_ids(box))])

    def _of_ids(self, box: Box) -> Box:
        """Return the box of all classes of the rows in a box."""
        return (*box, slice(0, self.ids.shape[-1]))


class Padded(Wrapped):
    """Predictions with one more class of -inf, along the last axis.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.dtype = source, source.name, source.dtype
        self.shape = (*source.shape[:-1], source.shape[-1] + 1)

    def like(self, source: Source) -> Padded:
        """Return the same of another source."""
        return Padded(source)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box, and put the class behind it."""
        values = self.source.read(self._own(box), missing)
        last = np.full((*values.shape[:-1], 1), -np.inf, values.dtype)
        return np.asarray(np.concatenate([values, last], axis=-1)[..., box[-1]])

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return the identity of the source."""
        return {**self.source.identity(self._own(box), lead), "classes": "largest"}


class Order(Base):
    """Numbers that descend along the last axis, for classes that come sorted without their values.

    Parameters
    ----------
    shape : tuple of int
    name : str
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], name: str) -> None:
        self.shape, self.name = shape, name

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Return minus the index along the last axis."""
        own = -np.arange(box[-1].start, box[-1].stop, dtype=np.float32)
        return np.broadcast_to(own, (*(s.stop - s.start for s in box[:-1]), own.size))


def as_slots(labels: Any, ids: Any, values: Any = None) -> tuple[Any, Any]:
    """Return labels as slots, and predictions over the slots and one more.

    Parameters
    ----------
    labels : Source or dask.array.Array
        Their last axis may be one more, of length 1.
    ids : Source or dask.array.Array
        The classes of each row along the last axis.
    values : Source or dask.array.Array, optional
        The predictions of these classes; without them, classes are sorted, the largest first.

    Raises
    ------
    ValueError
        Shapes do not fit.
    TypeError
        Labels or classes are no integers; some of the arrays are dask arrays, but not all.
    """
    for name, array in (("y_true", labels), ("ids", ids)):
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if values is not None and tuple(ids.shape) != tuple(values.shape):
        raise ValueError(f"ids: expected shape {tuple(values.shape)}, that of y_pred; got {tuple(ids.shape)}")
    labels = _without_single(labels, ids)
    if tuple(labels.shape) != tuple(ids.shape[:-1]):
        raise ValueError(f"y_true: expected shape {tuple(ids.shape[:-1])}, as ids has classes along its last axis; got "
                         f"{tuple(labels.shape)}")  # fmt: skip
    lazy = [hasattr(array, "dask") for array in (labels, ids, values) if array is not None]
    if any(lazy) and not all(lazy):
        raise TypeError("ids: expected labels, ids and predictions to be dask arrays, or none of them")
    if any(lazy):
        return _as_dask_slots(labels, ids, values)
    return Slots(labels, ids), Padded(Order(tuple(ids.shape), ids.name) if values is None else values)


def _without_single(labels: Any, ids: Any) -> Any:
    """Return labels without a last axis of length 1 that classes do not call for."""
    if len(labels.shape) != len(ids.shape) or labels.shape[-1] != 1:
        return labels
    if hasattr(labels, "dask"):
        return labels[..., 0]
    return part(labels, (*(slice(0, n) for n in labels.shape[:-1]), 0))


def _as_dask_slots(labels: Any, ids: Any, values: Any) -> tuple[Any, Any]:
    import dask.array as da

    if values is None:
        values = da.broadcast_to(-da.arange(ids.shape[-1], dtype=np.float32), ids.shape, chunks=ids.chunks)
    same = ids == labels[..., None]
    slots = da.where(labels < 0, labels, da.where(same.any(axis=-1), same.argmax(axis=-1), ids.shape[-1]))
    last = da.full((*values.shape[:-1], 1), -np.inf, dtype=values.dtype, chunks=(*values.chunks[:-1], 1))
    return slots, da.concatenate([values, last], axis=-1).rechunk({-1: -1})
