"""The metrics of slices, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from daskxent.numbers.estimates import Estimates, is_better
from daskxent.numbers.keys import Bins, name_of
from daskxent.numbers.statistics import DERIVED
from daskxent.numbers.status import NOT_FINITE
from daskxent.show import plots
from daskxent.show.listing import SHOWN
from daskxent.show.tables import as_csv, html_table, text_table
from daskxent.sources.columns import NO_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas
    import xarray

    from daskxent.numbers.keys import By, Key, Slicing
    from daskxent.numbers.question import Question
    from daskxent.numbers.sums import Sums
    from daskxent.numbers.tables import Table

LEVEL = 0.95


def shown_key(by: By, key: Any, dense: bool = False) -> Any:
    """Return how the key of a grouping is shown: bins by their edges; an empty string, and no label, as missing.

    Where labels are `dense`, there are codes among them: see `shown_label`.

    Examples
    --------
    >>> shown_key(Bins("x", "loss", (0, 1)), 0), shown_key(Bins("x", "loss", (0, 1)), 2)
    ('[0, 1]', 'missing')
    """
    if isinstance(by, Bins):
        return by.label(key)
    return "missing" if key == "" else shown_label(key, dense) if by.array == "labels" else key


def shown_label(label: int, dense: bool = False) -> int | str:
    """Return a label as it is, or that it is missing, as NaN is, and what is no whole number.

    Dense labels that are not finite have a code for their class: "nan", "inf" or "-inf" is the first that is not.

    Examples
    --------
    >>> shown_label(-1), shown_label(-1, dense=True)
    (-1, 'nan')
    """
    if dense and label in NOT_FINITE:
        return str(NOT_FINITE[label])
    return "missing" if label == NO_LABEL else label


class Slices(Mapping["Key", "dict[str, Any]"]):
    """The metrics of each group of rows, with their standard errors and 95 % intervals.

    A mapping from the key of a group, a tuple with a value for each grouping, to its row: the names of the groupings
    with their values, "rows", "weight", and for each metric its value, "NAME_se", "NAME_low" and "NAME_high".

    Parameters
    ----------
    question : Question
    slicing : tuple of By
    tables : mapping of str to Table
        By slicing, among them that one, unless no row counts.
    keys : sequence of Key, optional
        Some of the groups, in this order; by default all, in theirs.

    Examples
    --------
    >>> import daskxent as dx
    >>> report = dx.evaluate([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], by={"label": "label"})
    >>> slices = report.by("label")
    >>> slices[(1,)]["accuracy"], slices[(1,)]["rows"]
    (0.5, 2)
    >>> slices.worst("accuracy", count=1).rows[0]["label"]
    1
    """

    def __init__(
        self, question: Question, slicing: Slicing, tables: Mapping[str, Table], keys: Sequence[Key] | None = None
    ) -> None:
        self.question, self.slicing, self._tables = question, slicing, tables
        self.metrics = tuple(name for name in question.metrics if name not in DERIVED and not question.of_text(name))
        self._table = tables.get(name_of(slicing))
        self._keys = tuple(self._table or () if keys is None else keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groupings."""
        return tuple(by.name for by in self.slicing)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the row of a group."""
        if key not in self._known:
            raise KeyError(f"there is no group {key!r} by {name_of(self.slicing)}")
        return self._row(key, self.sums(key), self.estimates(key))

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @cached_property
    def _known(self) -> frozenset[Key]:
        return frozenset(self._keys)

    def sums(self, key: Key) -> Sums:
        """Return the exact sums of a group."""
        assert self._table is not None
        return self._table.sums(key)

    def estimates(self, key: Key) -> Estimates:
        """Return what the metrics of a group are estimated from."""
        if self._by_cluster is None or key not in self._by_cluster[1]:
            return Estimates(self.sums(key))
        table, some = self._by_cluster[0], self._by_cluster[1][key]
        if self.question.average == "row":
            return Estimates(self.sums(key), table.moments(some))
        sums = table.averages(some)
        return Estimates(sums, sums.moments)

    @cached_property
    def _by_cluster(self) -> tuple[Table, dict[Key, slice]] | None:
        """The sums of each group by cluster, and where those of a group are."""
        if self.question.clusters is None or self._table is None:
            return None
        table = self._tables[name_of((*self.slicing, self.question.clusters))]
        return table, table.runs()

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all groups, in order of their keys."""
        return [self[key] for key in self]

    def _row(self, key: Key, sums: Sums, found: Estimates) -> dict[str, Any]:
        dense, pairs = self.question.dense, zip(self.slicing, key, strict=True)
        row: dict[str, Any] = {by.name: shown_key(by, value, dense) for by, value in pairs}
        row |= {"rows": sums.counted, "weight": float(sums.weight)}
        for name in self.metrics:
            low, high = found.interval(name, LEVEL)
            row |= {name: found.value(name), f"{name}_se": found.standard_error(name)}
            row |= {f"{name}_low": low, f"{name}_high": high}
        return row

    def worst(self, metric: str, min_rows: int = 1, count: int = 10) -> Slices:
        """Return the groups in which a metric is worst.

        The largest values come first; the smallest do of shares, "label_probability" and "mrr", which are better the
        larger they are, and of "confidence" and "margin", as the largest do of "entropy": the least sure.

        Parameters
        ----------
        metric : str
            A metric that was asked for.
        min_rows : int
            Groups of fewer rows are left out.
        count : int
            How many groups at most.

        Raises
        ------
        KeyError
            The metric was not asked for.
        """
        self._check(metric)
        sign = 1 if is_better(metric) else -1
        values = {key: sign * self.estimates(key).value(metric) for key in self if self.sums(key).counted >= min_rows}
        order = sorted((key for key in values if not math.isnan(values[key])), key=values.__getitem__)
        return self._some(order[:count])

    def _some(self, keys: Sequence[Key]) -> Slices:
        return Slices(self.question, self.slicing, self._tables, keys)

    def plot(self, metric: str | None = None, ax: Any = None) -> Any:
        """Draw a metric of each group, by default the first one, with its interval.

        Parameters
        ----------
        metric : str, optional
        ax : matplotlib.axes.Axes, optional
            By default new ones.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            matplotlib is not installed: ``pip install 'daskxent[plots]'``.
        KeyError
            Groups have no such metric, or none at all.
        """
        metric = metric or next(iter(self.metrics), "")
        self._check(metric)
        return plots.sliced(self, metric, ax)

    def _check(self, metric: str) -> None:
        """Refuse a metric that groups do not have."""
        if metric not in self.metrics:
            known = f"groups have {', '.join(self.metrics) or 'none of the metrics, which are of all rows only'}"
            raise KeyError(f"{metric!r} was not asked for, or is of all rows only; {known}" if metric else known)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with a row for each group, indexed by the groupings."""
        import pandas

        names = list(self.rows[0]) if self.rows else [*self.names, "rows", "weight", *self.metrics]
        return pandas.DataFrame(self.rows, columns=names).set_index(names[: len(self.names)])

    def to_xarray(self) -> xarray.Dataset:
        """Return a Dataset with a dimension for each grouping; combinations that no row has are NaN."""
        found: xarray.Dataset = self.to_pandas().to_xarray()
        return found

    def to_csv(self) -> str:
        """Return the table as comma-separated values, with a line of names."""
        names = list(self.rows[0]) if self.rows else [*self.names, "rows", "weight", *self.metrics]
        return as_csv(names, self.rows)

    def _cells(self) -> Iterator[list[str]]:
        """Yield the lines of a table for people: the names, then some groups."""
        yield [*self.names, "rows", *self.metrics]
        for key in self._keys[:SHOWN]:
            row = self[key]
            values = [f"{row[name]:.5g} ± {row[f'{name}_se']:.2g}" for name in self.metrics]
            yield [
                *map(str, list(row.values())[: len(self.names)]),
                f"{row['rows']:,}",
                *values,
            ]

    def __repr__(self) -> str:
        return text_table(f"By {name_of(self.slicing)}", list(self._cells()), len(self) - SHOWN)

    def _repr_html_(self) -> str:
        return html_table(list(self._cells()), len(self) - SHOWN)
