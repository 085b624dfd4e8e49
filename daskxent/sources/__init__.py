"""Predictions and what lies along them, wherever they are stored: opened, aligned, and read by boxes."""

from daskxent.sources.align import Along, Further, Inputs, align, check_ignored, positions_of, whole
from daskxent.sources.binary import as_binary
from daskxent.sources.columns import Column
from daskxent.sources.converted import as_view
from daskxent.sources.meaning import aligned_by_name
from daskxent.sources.opening import LazyArray, again, call_of, concat, is_dask, open_array, open_lazy, with_storage
from daskxent.sources.paths import place
from daskxent.sources.sizes import Sizes
from daskxent.sources.source import Source

__all__ = [
    "Along",
    "Column",
    "Further",
    "Inputs",
    "LazyArray",
    "Sizes",
    "Source",
    "again",
    "align",
    "aligned_by_name",
    "as_binary",
    "as_view",
    "call_of",
    "check_ignored",
    "concat",
    "is_dask",
    "open_array",
    "open_lazy",
    "place",
    "positions_of",
    "whole",
    "with_storage",
]
