"""One column of predictions, of the second of two classes, as both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.columns import is_float
from daskxent.sources.source import Wrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box, Source


class Binary(Wrapped):
    """Predictions of class 1 with those of class 0 before them: logits of 0, or what probabilities lack to 1.

    The crossentropy over [0, x] is that of the sigmoid of x. A last axis of length 1 becomes the class axis; otherwise
    one is added.

    Parameters
    ----------
    source : Source
    logits : bool
    """

    def __init__(self, source: Source, logits: bool) -> None:
        self.source, self.logits, self.name = source, logits, source.name
        self._column = is_column(source)
        self.shape = (*(source.shape[:-1] if self._column else source.shape), 2)
        self.dtype = np.dtype(source.dtype if logits else _wide(source.dtype))

    def like(self, source: Source) -> Binary:
        """Return the same of another source."""
        return Binary(source, self.logits)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box and put the other class before it."""
        gaps: list[Box] | None = None if missing is None else []
        values = self.source.read(self._own(box), gaps)
        if missing is not None and gaps:
            missing += [(*(gap[:-1] if self._column else gap), slice(0, 2)) for gap in gaps]
        return np.asarray(both(values[..., 0] if self._column else values, self.logits)[..., box[-1]])

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return the identity of the source, which is taken for one of two classes."""
        return {**self.source.identity(self._own(box), lead), "classes": "binary"}


def is_column(array: Any) -> bool:
    """Return whether the last axis of an array of one column of predictions is that of the classes."""
    return len(array.shape) > 1 and array.shape[-1] == 1


def _wide(dtype: Any) -> Any:
    """Return the type of probabilities: what small ones lack to 1 is lost in half precision."""
    return np.float64 if dtype.name == "float64" else np.float32  # in whatever order of bytes


def both(values: Any, logits: bool) -> Any:
    """Return predictions of class 0 and class 1 along a new last axis."""
    if not logits:
        values = values.astype(_wide(values.dtype))
    return np.stack([np.zeros_like(values) if logits else 1 - values, values], axis=-1)


def as_binary(array: Any, logits: bool, axis: int) -> Any:
    """Return one column of predictions as those of two classes.

    Raises
    ------
    ValueError
        A class axis was named: there is none.
    TypeError
        The predictions are not floating point numbers.
    """
    if axis != -1:
        raise ValueError(f"axis: binary predictions are one column, without a class axis; got {axis}")
    if not is_float(array.dtype):
        raise TypeError(f"y_pred: expected floating point predictions, got dtype {array.dtype}")
    if hasattr(array, "dask"):
        return both(array[..., 0] if is_column(array) else array, logits)
    return Binary(array, logits)
