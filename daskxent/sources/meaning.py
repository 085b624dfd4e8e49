"""What an input says about itself: names of axes, coordinates, attributes. It is obeyed, or it is an error."""

from __future__ import annotations

import base64
import itertools
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

# Attributes of the CF conventions, and of netCDF, that change what the numbers of an array mean.
PACKING = (
    "scale_factor",
    "add_offset",
    "_Unsigned",
    "_FillValue",
    "missing_value",
    "valid_min",
    "valid_max",
    "valid_range",
)
NEUTRAL = {"scale_factor": 1, "add_offset": 0}


def is_labelled(given: Any) -> bool:
    """Whether `given` is an xarray.DataArray."""
    return type(given).__module__.partition(".")[0] == "xarray" and hasattr(given, "dtype")


def check_attributes(attributes: Mapping[str, Any], dtype: np.dtype[Any], name: str) -> None:
    """Refuse an array whose attributes change its numbers: nothing here applies them.

    Raises
    ------
    ValueError
        The message names the first such attribute.

    Examples
    --------
    >>> check_attributes({"scale_factor": 0.1, "units": "m"}, np.dtype("int16"), "y_pred")
    Traceback (most recent call last):
        ...
    ValueError: y_pred: its attribute scale_factor=0.1 changes what its numbers mean and is not applied: open it with \
xarray, which applies it, or remove the attribute
    """
    for attribute in PACKING:
        value = attributes.get(attribute)
        if value is not None and not _is_neutral(attribute, value, dtype):
            raise ValueError(
                f"{name}: its attribute {attribute}={value} changes what its numbers mean and is not applied: "
                "open it with xarray, which applies it, or remove the attribute"
            )


def _is_neutral(attribute: str, value: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether an attribute leaves the numbers as they are."""
    if attribute in NEUTRAL:
        return bool(np.all(np.asarray(value) == NEUTRAL[attribute]))
    if attribute == "_Unsigned":
        return (str(value).lower() == "true") == (dtype.kind == "u")
    if attribute in ("_FillValue", "missing_value"):  # NaN, which it marks as missing, is NaN already
        return dtype.kind not in "iub" and _is_nan(value)
    return False


def _is_nan(value: Any) -> bool:
    if isinstance(value, str) and value != "NaN":  # as xarray writes floats into attributes of zarr 3
        try:
            [value] = struct.unpack("<d", base64.b64decode(value, validate=True))
        except (ValueError, struct.error):
            return False
    return all(math.isnan(float(each)) for each in np.ravel(value))


def aligned_by_name(given: dict[str, Any], axis: int | None, join: str = "exact") -> dict[str, Any]:
    """Bring labelled arrays into the order of the dimensions of the predictions, and compare their coordinates.

    Parameters
    ----------
    given : dict
        By names for messages; "y_pred" among them. Arrays that are not xarray's are returned as they are.
    axis : int or None
        The class axis of the predictions, if they have one.
    join : {"exact", "inner"}
        Whether coordinates must be the same, or those are kept that all arrays have which share the dimension.

    Raises
    ------
    ValueError
        Nothing is left of a dimension, or coordinates that are to be joined are not unique. With "exact": two arrays
        have different coordinates along a dimension that they share. Labels without one number per class have the
        dimension of the classes.
    """
    named = {name: array for name, array in given.items() if is_labelled(array) and not _is_unnamed(array)}
    if join == "inner":
        given = given | _joined(named)
        named = {name: given[name] for name in named}
    for (one, first), (other, second) in itertools.combinations(named.items(), 2):
        _check_coordinates(one, first, other, second)
    predictions = named.pop("y_pred", None)
    if predictions is None or not (axis is None or -predictions.ndim <= axis < predictions.ndim):
        return given
    return given | {name: _ordered(name, array, predictions.dims, axis) for name, array in named.items()}


def labelled(given: Any, axis: int | None, columns: dict[str, Any]) -> dict[str, Any]:
    """Return columns of rows with the dimensions and coordinates of labelled predictions, which may have no class axis.

    Examples
    --------
    >>> import xarray
    >>> logits = xarray.DataArray(np.zeros((2, 3)), dims=("time", "class"), coords={"time": [10, 20]})
    >>> labelled(logits, -1, {"loss": np.zeros(2)})["loss"].time.values.tolist()
    [10, 20]
    """
    import xarray

    dims = positions_among(given.dims, axis)
    coords = {name: each for name, each in given.coords.items() if set(each.dims) <= set(dims)}
    return {name: xarray.DataArray(values, coords, dims, name) for name, values in columns.items()}


def positions_among(dims: tuple[Any, ...], axis: int | None) -> tuple[Any, ...]:
    """Return the dimensions of predictions without that of the classes, if there is one."""
    return tuple(dim for dim in dims if axis is None or dim != dims[axis])


def _is_unnamed(array: Any) -> bool:
    """Return whether an array has the names that xarray gives where there are none."""
    return all(re.fullmatch(r"dim_\d+", str(dim)) for dim in array.dims)


def _ordered(name: str, array: Any, dims: tuple[Any, ...], axis: int | None) -> Any:
    """Return an array with its dimensions where those of the predictions are, of length 1 where it has none."""
    strange = [dim for dim in array.dims if dim not in dims]
    if len(strange) == array.ndim:
        return array  # other names altogether: the shape decides
    if strange:
        raise ValueError(f"{name}: its dimension {strange[0]!r} is not one of those of y_pred, {dims}")
    if axis is not None and dims[axis] in array.dims and array.ndim < len(dims):
        raise ValueError(f"{name}: its dimensions {array.dims} hold {dims[axis]!r}, the class axis of y_pred")
    rows = positions_among(dims, axis)
    positions = [dim for dim in dims if dim in rows or dim in array.dims]
    last = max(positions.index(dim) for dim in array.dims)
    missing = [dim for dim in positions[:last] if dim not in array.dims]
    return array.expand_dims(missing).transpose(*positions[: last + 1])


def _joined(named: dict[str, Any]) -> dict[str, Any]:
    """Keep of labelled arrays what has coordinates that all have which share a dimension."""
    import xarray

    try:
        joined = dict(zip(named, xarray.align(*named.values(), join="inner"), strict=True))
    except Exception as error:  # of pandas, of coordinates that are not unique
        raise ValueError(f"join: the coordinates of {', '.join(named)} cannot be joined: {error}") from error
    for name, array in joined.items():
        for dim, length in array.sizes.items():
            if not length and named[name].sizes[dim]:
                raise ValueError(f"join: {name} and the others have no coordinate along {dim!r} in common")
    return joined


def _check_coordinates(one: str, first: Any, other: str, second: Any) -> None:
    for dim in first.dims:
        if dim not in second.dims or dim not in first.indexes or dim not in second.indexes:
            continue
        mine, theirs = first.indexes[dim], second.indexes[dim]
        if mine.equals(theirs):
            continue
        if len(mine) != len(theirs):
            hint = "join='inner' keeps what all have"
            raise ValueError(f"{other}: {len(theirs)} coordinates along {dim!r}, but {len(mine)} in {one}; {hint}")
        at = next(i for i, pair in enumerate(zip(mine, theirs, strict=True)) if not _same(*pair))
        raise ValueError(
            f"{other}: its coordinates along {dim!r} differ from those of {one}: {theirs[at]} instead of {mine[at]} at "
            f"index {at}; join='inner' keeps what all have"
        )


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)
