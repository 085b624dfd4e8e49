"""A table of lines that all have the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from daskxent.show.tables import as_csv, html_table, text_table

if TYPE_CHECKING:
    import pandas

SHOWN = 20  # lines of a table for people


class Listing(Sequence["dict[str, Any]"]):
    """Lines, each a dictionary of the same names.

    Parameters
    ----------
    title : str
    lines : list of dict

    Examples
    --------
    >>> Listing("Bins", [{"low": 0.5, "rows": 2}])
    Bins
      low  rows
      0.5  2
    """

    def __init__(self, title: str, lines: list[dict[str, Any]]) -> None:
        self.title, self._lines = title, lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return a line, or some of them."""
        return self._lines[index]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self[0]) if self else []

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with a row for each line."""
        import pandas

        return pandas.DataFrame(list(self), columns=self.names or None)

    def to_csv(self) -> str:
        """Return the lines as comma-separated values, after a line of names."""
        return as_csv(self.names, list(self))

    def _cells(self) -> list[list[str]]:
        return [self.names or ["nothing"]] + [
            [f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
             for value in line.values()] for line in self[:SHOWN]
        ]  # fmt: skip

    def __repr__(self) -> str:
        return text_table(self.title, self._cells(), len(self) - SHOWN)

    def _repr_html_(self) -> str:
        return html_table(self._cells(), len(self) - SHOWN)
