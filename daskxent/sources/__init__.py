"""Predictions and what lies along them, wherever they are stored: opened, told apart, and read by ranges."""

from daskxent.sources.align import Along, Further, Inputs, align, whole
from daskxent.sources.arrays import Source, check_dims, is_dask, open_array, open_predictions, place, tiny
from daskxent.sources.columns import Column
from daskxent.sources.sizes import Sizes

__all__ = [
    "Along",
    "Column",
    "Further",
    "Inputs",
    "Sizes",
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
