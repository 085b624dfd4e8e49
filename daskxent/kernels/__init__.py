"""Compiled scans and sums: the numbers of `numbers`, bit for bit, at the speed of memory.

README.md says how a row goes through the registers, and how to add a sum to the inner loop. The modules: `llvm`, which
makes the vector loops; `slabs`, predictions as the kernels take them; `blocks`, what is asked of them; `arithmetic`, of
a single class; `crossentropy`, of a row's sums; `rows`, `long_rows` and `lanes`, which scan a block; `columns`, which
finishes it; `scan`, the entries; `softmax_sums` and `dense_losses`, a second pass over whole rows; and `sums`, exact
sums of columns. Nothing is compiled before it is first called.
"""

from daskxent.kernels.dense_losses import dense_losses
from daskxent.kernels.scan import SLAB_ROWS, Scorer, scan
from daskxent.kernels.sums import COMPILED

__all__ = ["COMPILED", "SLAB_ROWS", "Scorer", "dense_losses", "scan"]
