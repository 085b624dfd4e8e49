"""Columns: one value for each row of a box, in the form in which it is used, however it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


NO_LABEL = -(2**63)  # stands for labels that are not whole numbers


class Column(NamedTuple):
    """What one array along the rows holds for the rows of a box.

    Attributes
    ----------
    values : (n,) array
        Labels are int64, weights float64. Further arrays keep their type, in native byte order; strings are of a
        fixed width (``U``) or of NumPy's ``StringDType``.
    missing : (n,) bool or None
        Rows of which the value is not stored and was read as the fill value; None if all that was read at once is.
    beyond : (n,) uint64 or float64, or None
        Labels as they are stored, if some of them do not fit int64 or are not whole numbers.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_] | None = None
    beyond: NDArray[Any] | None = None

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Column:
        """Return a column made of each of the arrays."""
        values, missing, beyond = self
        if missing is None and beyond is None:
            return Column(change(values))
        return Column(
            change(values), None if missing is None else change(missing), None if beyond is None else change(beyond)
        )


class Kind(NamedTuple):
    """What a column may be made of, in words and as a test of its dtype, and how it is made."""

    expected: str
    fits: Callable[[np.dtype[Any]], bool]
    values: Callable[[NDArray[Any]], NDArray[Any]]


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether predictions may have this dtype: float16, bfloat16, float32 or float64."""
    return dtype.name in ("float16", "bfloat16", "float32", "float64")


def as_labels(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return contiguous int64 labels, as compiled code needs them; what is not an integer that fits is not a class."""
    labels = native(labels)
    if is_float(labels.dtype):
        wide = as_floats(labels)
        return np.where(are_whole(wide), wide, NO_LABEL).astype(np.int64)
    if labels.dtype == np.uint64:
        labels = np.minimum(labels, np.uint64(np.iinfo(np.int64).max))
    return np.ascontiguousarray(labels, np.int64)


def are_whole(labels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which floats are whole numbers that int64 holds."""
    with np.errstate(invalid="ignore"):  # of signalling NaN
        return np.asarray((np.trunc(labels) == labels) & (np.abs(labels) < 2.0**63))


def beyond_int64(labels: NDArray[Any]) -> NDArray[Any] | None:
    """Return labels that `as_labels` cannot hold; None if it holds them all."""
    if is_float(labels.dtype):
        wide = as_floats(labels)
        return None if are_whole(wide).all() else wide
    long = labels.dtype.kind == "u" and labels.dtype.itemsize == 8  # in either byte order
    return labels if long and labels.size and labels.max() > np.iinfo(np.int64).max else None


def as_floats(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers as float64, in native byte order."""
    with np.errstate(invalid="ignore"):  # of signalling NaN
        return native(values).astype(np.float64)


def as_keys(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in native byte order, and strings as strings, whatever holds them; missing ones are empty.

    Raises
    ------
    ValueError
        Among objects is one that is neither a string nor missing; bytes are not UTF-8.
    """
    if values.dtype.kind == "S":
        return np.strings.decode(values, "utf-8")
    if values.dtype.kind == "O" or hasattr(values.dtype, "na_object"):
        found = np.empty(values.shape, np.dtypes.StringDType())
        for at, value in np.ndenumerate(values.astype(object)):
            if not isinstance(value, str) and not _is_missing(value):
                raise ValueError(f"expected strings, got {value!r} among them")
            found[at] = value if isinstance(value, str) else ""
        return found
    return values if values.dtype.kind == "T" else native(values)


def _is_missing(value: Any) -> bool:
    """Recognise None, NaN and pandas's NA, none of which is equal to itself, or is None."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the byte order of this machine."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _is_key(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biuSUTO"


KINDS = {
    "labels": Kind("integer labels", lambda dtype: dtype.kind in "biu" or is_float(dtype), as_labels),
    "weights": Kind("real numbers", lambda dtype: dtype.kind in "biuf" or is_float(dtype), as_floats),
    "mask": Kind("bool, or integers of which 0 hides a row", lambda dtype: dtype.kind in "biu", lambda each: each != 0),
    "keys": Kind("integers, bool or strings", _is_key, as_keys),
    "numbers": Kind("numbers", lambda dtype: dtype.kind in "biu" or is_float(dtype), native),
}


def check(dtype: np.dtype[Any], kind: str, title: str, what: str = "") -> None:
    """Refuse a dtype that a kind of column is not made of; the TypeError calls the array by its title."""
    if not KINDS[kind].fits(dtype):
        raise TypeError(f"{title}: expected {KINDS[kind].expected}, got {what}dtype {dtype}")
