"""Single rows, as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers.row_choices import SHOWN_COLUMNS
from daskxent.numbers.statistics import LEAST_LOG
from daskxent.show.listing import SHOWN, Listing
from daskxent.show.slices import shown_key, shown_label

if TYPE_CHECKING:
    from daskxent.numbers.chosen_rows import Picked
    from daskxent.numbers.keys import Slicing


class RowTable(Listing):
    """Rows that were picked, the first one first.

    A sequence of dictionaries: "row" (its number among all), "position" (its index along each axis), "label" ("missing"
    where it is NaN, or no whole number; "nan", "inf" or "-inf" where one-hot or soft labels are not finite),
    "prediction" (-1 where there is NaN), "loss" (nats), "p_label" (exp(-loss)) and "p_prediction".

    Parameters
    ----------
    title : str
    rows : Picked
    positions : tuple of int
        Shape of the positions; only the first may be too short.
    per : tuple of By
        Whose groups the rows are of; they have its names too.
    dense : bool
        Whether labels are one-hot or soft.

    Examples
    --------
    >>> import daskxent as dx
    >>> report = dx.evaluate([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], worst=1)
    >>> report.worst[0]["row"], report.worst[0]["prediction"], round(report.worst[0]["p_label"], 6)
    (2, 0, 0.2)
    """

    def __init__(
        self, title: str, rows: Picked, positions: tuple[int, ...], per: Slicing = (), dense: bool = False
    ) -> None:
        self.title, self._rows, self._positions, self._per, self._dense = title, rows, positions, per, dense

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice) -> Any:
        """Return a row, or some of them."""
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        found = {name: column[index].item() for name, column in self._rows.columns.items()}
        shape = self._positions[1:]
        inner = np.unravel_index(found["row"] % math.prod(shape), shape) if shape else ()
        keys = [column[[index]].tolist()[0] for column in self._rows.keys]
        groups = {by.name: shown_key(by, key, self._dense) for by, key in zip(self._per, keys, strict=True)}
        return groups | {
            "row": found["row"],
            "position": (found["row"] // math.prod(shape), *map(int, inner)),
            "label": shown_label(found["label"], self._dense),
            "prediction": found["prediction"],
            "loss": found["loss"],
            "p_label": math.exp(min(-found["loss"], LEAST_LOG)),  # what is no log-probability may be far above 0
            "p_prediction": found["confidence"],
        }

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [*(by.name for by in self._per), *SHOWN_COLUMNS]

    def _cells(self) -> list[list[str]]:
        return [[*self.names[:-2], "p(label)", "p(prediction)"]] + [
            [f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if name == "row" else str(value)
             for name, value in row.items()] for row in self[:SHOWN]
        ]  # fmt: skip
