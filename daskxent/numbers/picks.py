"""Which rows are kept one by one."""

from __future__ import annotations

from typing import NamedTuple

# What rows are worst by, with the columns of `Scores` that it takes: `order_of` says how.
WORST_BY = {"crossentropy": frozenset({"loss"}), "confidence": frozenset({"hit", "confidence"})}
NEEDS = frozenset({"loss", "prediction", "confidence"})
MOST_ROWS = 10_000


class Pick(NamedTuple):
    """Which rows to keep.

    Attributes
    ----------
    most : int
        How many.
    by : str
        A key of `WORST_BY`, or "" for random ones.
    seed : int
        Of random ones.
    """

    most: int
    by: str = ""
    seed: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `Scores` that it takes."""
        return NEEDS | WORST_BY.get(self.by, frozenset())
