"""NumPy arrays, and parts of them that travel to workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.local import bfloat16_dtype
from daskxent.sources.source import SAMPLE_BYTES, Base, bytes_of, digest, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box


class Memory(Base):
    """A NumPy array, or what is held of one: from `offset` on along one axis, addressed as if it were whole.

    Parameters
    ----------
    array : array
    name : str
    shape : tuple of int, optional
        Of the whole.
    axis, offset : int
        Along this axis, `array` begins there.
    """

    def __init__(
        self, array: NDArray[Any], name: str, shape: tuple[int, ...] | None = None, axis: int = 0, offset: int = 0
    ) -> None:
        self.array, self.name, self.axis, self.offset = array, name, axis, offset
        self.shape, self.dtype = array.shape if shape is None else shape, array.dtype
        self.views = array.dtype.isnative  # others are converted
        self.path = "memory"  # where it is, for whom it is identified

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Return a view of the elements in a box, which must lie inside what is held."""
        if self.offset:
            at = box[self.axis]
            moved = slice(at.start - self.offset, at.stop - self.offset)
            box = (*box[: self.axis], moved, *box[self.axis + 1 :])
        return self.array[box]

    def window(self, axis: int | None, start: int, stop: int) -> Memory:
        """Hold no more than ``start <= index < stop`` along an axis."""
        if axis is None or self.array.shape != self.shape:  # it holds a window already
            return self
        held = self.array[(slice(None),) * axis + (slice(start, stop),)]
        found = Memory(held, self.name, self.shape, axis, start)
        found.path = self.path
        return found

    def sample(self, box: Box, lead: int | None) -> str:
        """Digest the same bytes, of small steps at once: 4 us instead of 40."""
        held = self.read(box)
        if lead is None or self.dtype.kind in "OT" or held.nbytes > SAMPLE_BYTES * held.shape[lead]:
            return super().sample(box, lead)
        return digest(np.moveaxis(held, lead, 0)[spread(held.shape[lead])].tobytes())

    def version(self, box: Box) -> str | None:
        """Digest the values."""
        return digest(bytes_of(self.read(box)))


class Unstored(Memory):
    """A number that is not stored, and was read as the fill value."""

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Return the number, which is missing."""
        if missing is not None:
            missing.append(box)
        return super().read(box)


def plain(given: Any, name: str) -> NDArray[Any]:
    """Return a NumPy array without the ways of a subclass: masks would be lost, and rows of np.matrix are matrices."""
    _refuse_masked(given, name)
    return np.asarray(given)


def _refuse_masked(given: Any, name: str) -> None:
    if any(map(np.ma.is_masked, given if isinstance(given, (list, tuple)) else [given])):
        raise ValueError(f"{name}: masked elements are not taken; fill them, and hide their rows with weights of 0")


def from_lists(given: Any, name: str) -> NDArray[Any]:
    """Return nested lists of numbers, or what another library has for an array, as an array."""
    _refuse_masked(given, name)
    lists = isinstance(given, (list, tuple, int, float))
    try:
        return _from_torch(given) if type(given).__module__.partition(".")[0] == "torch" else np.asarray(given)
    except Exception as error:
        what = "the nested lists do not form an array" if lists else f"this {type(given).__name__} gives no array"
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {what}: {error}") from error


def _from_torch(tensor: Any) -> NDArray[Any]:
    """Return a tensor, from whatever device and without its gradient; NumPy has no name for its bfloat16."""
    held = tensor.detach().cpu()
    if str(held.dtype) != "torch.bfloat16":
        return np.asarray(held)
    import torch

    return np.asarray(held.view(torch.int16)).view(bfloat16_dtype())
