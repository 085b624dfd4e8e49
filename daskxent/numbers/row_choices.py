"""Which rows are kept one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from daskxent.numbers.keys import Slicing

# What rows are worst by, with the columns of `Scores` that it takes: `order_of` says how.
WORST_BY = {
    "crossentropy": frozenset({"loss"}),
    "confidence": frozenset({"hit", "confidence"}),
    "entropy": frozenset({"entropy"}),
}
# What the table of them has of each row, besides its groups.
SHOWN_COLUMNS = "row", "position", "label", "prediction", "loss", "p_label", "p_prediction"
NEEDS = frozenset({"loss", "prediction"})
MOST_ROWS = 10_000
MOST_IN_ALL = 1_000_000  # of all groups


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
    per : Slicing
        A slicing of each of whose groups `most` are kept; empty to keep them of all rows.
    logs : bool
        Whether predictions are log-probabilities: the confidence of a row that is kept is that of its largest.
    """

    most: int
    by: str = ""
    seed: int = 0
    per: Slicing = ()
    logs: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `Scores` that it takes."""
        own = {"peak" if self.logs else "confidence"}
        return NEEDS.union(own, WORST_BY.get(self.by, ()), *(by.needs for by in self.per))
