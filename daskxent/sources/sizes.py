"""How much is read, held and handed out at a time; none of it changes a bit of any result."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Sizes that were measured, in one place; `Inputs` carry them to whoever cuts, reads and scores.

    Attributes
    ----------
    part_bytes : int
        Predictions of a part at most, in bytes. Scanning decoded float32 runs at 6 to 8 GB/s a thread and decoding at
        0.5 to 1: a second of work.
    parts_per_thread : int
        Parts for each thread, where there is enough to read: threads should have equally many of them.
    smallest_part_bytes : int
        Fewer predictions are not cut, in bytes. To hand over a part takes a third of a millisecond when all threads are
        busy: a twentieth of scanning this much.
    row_bytes : int
        A row counts as at least this many bytes when parts are cut: one of two classes takes 12 ns, one of eight 17.
    part_rows : int
        Rows of a part at most. Many short rows make large labels and weights: 2**22 rows keep those of a part below
        64 MB.
    buffer_bytes : int
        What a plan adds for buffers, in bytes.
    run_rows : int
        Arrays along the rows are read for up to this many rows at once.
    piece_bytes : int
        Predictions without chunks are read in pieces of this many bytes: enough to make the calls cheap.
    tiny_bytes : int
        Local chunks with fewer bytes than this are read by one thread. Microseconds a chunk with one thread / two:
        4 KB 16 / 28, 16 KB 21 / 33, 64 KB 39 / 49, 256 KB 108 / 95; zstd 27 / 49, 43 / 66, 103 / 71, 360 / 202. What is
        between two chunks is Python.
    few : int
        Below this many predictions NumPy is done before the compiled scans are loaded; both give the same bits.
    dense_bytes : int
        Rows with dense or smoothed labels are widened this many bytes at a time.
    scored_rows : int
        Rows whose columns NumPy makes at a time: of 6.5 million rows of two classes at once they took 1.2 GB.
    page_rows : int
        Rows of columns that are written as one, about: 2 MB of float64 are written quickly, and each thread holds them.

    Examples
    --------
    >>> Sizes(few=0) == Sizes()
    False
    """

    part_bytes: int = 512 << 20
    parts_per_thread: int = 8
    smallest_part_bytes: int = 64 << 20
    row_bytes: int = 32
    part_rows: int = 1 << 22
    buffer_bytes: int = 64 << 20
    run_rows: int = 1 << 19
    piece_bytes: int = 64 << 20
    tiny_bytes: int = 1 << 16
    few: int = 1 << 14
    dense_bytes: int = 4 << 20
    scored_rows: int = 1 << 16
    page_rows: int = 1 << 18

    def __reduce__(self) -> tuple[Any, ...]:
        return Sizes, astuple(self)  # without the names of the fields: it goes with every task


USUAL = Sizes()
