"""Labels, predictions and weights, wherever they are stored: opened, told apart, and read by ranges."""

from daskxent.sources.align import Along, Inputs, align, whole
from daskxent.sources.arrays import Source, check_dims, is_dask, open_array, open_predictions, place, tiny

__all__ = [
    "Along",
    "Inputs",
    "Source",
    "align",
    "check_dims",
    "is_dask",
    "open_array",
    "open_predictions",
    "place",
    "tiny",
    "whole",
]
