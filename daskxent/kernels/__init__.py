"""Compiled scans, losses and sums: the numbers of `rows` and `exact`, bit for bit, at the speed of memory.

A block of `LANES` rows is processed at a time, so that what one step leaves (widened numbers, records, losses) is
still in the cache when the next one wants it. There are two ways through a block:

* *long rows* (the class axis is last and long): one row after the other, vectors along the classes;
* *lanes* (few classes, or the class axis is not last): one class after the other, vectors along the rows. Short rows
  are transposed into a tile first; maps lie that way already.

Both cut the class axis into pieces that fit the cache and join the pieces as `rows.merge` does, to the same bits.

The modules, in the order in which they are read: `blocks`, `llvm` (the instructions and loops that numba lacks) and
`arithmetic`, which all others use; `records`, `scan_long`, `scan_lanes` and `scans`, from predictions to records;
`crossentropy`, from records to losses; `sums`; and `tally_block`, `tally_long`, `tally_lanes` and `tallies`, all of
that in one call, for rows without anything odd. Nothing is compiled before it is first called.
"""

from daskxent.kernels.crossentropy import losses
from daskxent.kernels.scans import scan
from daskxent.kernels.sums import exact_sum, sums_by_group
from daskxent.kernels.tallies import Tally

__all__ = ["Tally", "exact_sum", "losses", "scan", "sums_by_group"]
