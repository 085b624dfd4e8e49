"""What the elements of an array stand for: numbers that its own type has no name for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.source import Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from daskxent.sources.source import Box, Source


class Viewed(Wrapped):
    """A source whose boxes are turned into other numbers as they are read.

    Parameters
    ----------
    source : Source
    convert : callable
        From an array and where it begins to one of the same shape; must pickle.
    dtype : dtype
        Of what it returns.
    """

    def __init__(
        self, source: Source, convert: Callable[[NDArray[Any], tuple[int, ...]], NDArray[Any]], dtype: Any
    ) -> None:
        self.source, self.convert, self.name, self.shape = source, convert, source.name, source.shape
        self.dtype = np.dtype(dtype)

    def like(self, source: Source) -> Viewed:
        """Return the same of another source."""
        return Viewed(source, self.convert, self.dtype)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box and convert it."""
        return self.convert(self.source.read(box, missing), tuple(s.start for s in box))

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return the identity of the source, the type, and what the numbers are looked up in."""
        own = {"table": self.convert.identity} if hasattr(self.convert, "identity") else {}
        return {**self.source.identity(box, lead), "dtype": self.dtype.name, **own}


def as_bfloat16(bits: NDArray[Any], origin: tuple[int, ...] = ()) -> NDArray[Any]:
    """Take 16 bits for bfloat16."""
    from ml_dtypes import bfloat16

    return bits.astype(bits.dtype.newbyteorder("="), copy=False).view(bfloat16)


def as_view(array: Any, view: str | None, name: str) -> Any:
    """Return an array, or what it stands for.

    Raises
    ------
    ValueError
        The view is unknown, or does not fit the dtype.
    ImportError
        ml_dtypes is not installed.
    """
    if view is None:
        return array
    if view != "bfloat16":
        raise ValueError(f"view: expected 'bfloat16', got {view!r}")
    if not find_spec("ml_dtypes"):
        raise ImportError("view: bfloat16 needs ml_dtypes: pip install 'daskxent[bfloat16]'")
    if array.dtype.name == "bfloat16":
        return array
    if array.dtype.name not in ("uint16", "void16"):  # numpy.save writes bfloat16 as bytes without a meaning
        raise ValueError(f"view: bfloat16 is stored as uint16; {name} has dtype {array.dtype}")
    from ml_dtypes import bfloat16

    if hasattr(array, "dask"):
        return as_bfloat16(array)
    return Viewed(array, as_bfloat16, bfloat16)
