"""The tables of a report: of slices, classes, single rows, calibration and distributions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from daskxent.numbers import calibration, derived, distributions, statistics
from daskxent.numbers.chosen_rows import Picked
from daskxent.numbers.exact import nearest
from daskxent.numbers.keys import name_of
from daskxent.numbers.question import RANKS
from daskxent.show import plots
from daskxent.show.classes import Classes, confusions, matrix
from daskxent.show.listing import Listing
from daskxent.show.rows import RowTable
from daskxent.show.slices import Slices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from daskxent.numbers.estimates import Estimates
    from daskxent.numbers.question import Question
    from daskxent.numbers.state import State
    from daskxent.numbers.temperature import Temperature
    from daskxent.show.classes import Confusion


def _asked(what: str, was: bool) -> None:
    if not was:
        raise KeyError(f"evaluate was not asked for {what}")


class Tables(Mapping[str, float]):
    """What a report has besides its metrics: `Report` says what it is about."""

    __slots__ = ()
    question: Question
    state: State
    expected: int
    inputs: Mapping[str, Any] | None

    @property
    @abstractmethod
    def _of_rows(self) -> Estimates:
        """What metrics that are means over rows are estimated from."""

    def by(self, *names: str) -> Slices:
        """Return the metrics of the groups of a slicing.

        Parameters
        ----------
        *names : str
            The names of its groupings, in the order in which `by` had them.

        Raises
        ------
        KeyError
            It was not asked for.
        """
        slicings = {tuple(by.name for by in slicing): slicing for slicing in self.question.by}
        if names not in slicings:
            known = "; ".join(map(name_of, self.question.by))
            raise KeyError(f"nothing was grouped by {', '.join(names)}; there are slices by {known or 'nothing'}")
        slicing = slicings[names]
        return Slices(self.question, slicing, self.state.tables)

    def per_class(self) -> Classes:
        """Return the metrics of the rows of each class, and how it was predicted: precision, recall, F1, IoU.

        Raises
        ------
        KeyError
            It was not asked for.
        """
        _asked("per_class=True", self.question.per_class)
        return Classes(self.question, self.state.tables)

    @property
    def worst(self) -> RowTable:
        """The rows in which `worst_by` is largest, the worst first; of equal ones the first.

        Raises
        ------
        KeyError
            `worst` was not asked for.
        """
        return self._rows_called("worst")

    @property
    def sample(self) -> RowTable:
        """Some rows at random, without repetition: the same for any chunks, by their numbers and `seed`.

        Raises
        ------
        KeyError
            `sample` was not asked for.
        """
        return self._rows_called("sample")

    def worst_of(self, *names: str) -> RowTable:
        """Return the worst rows of each group of a slicing.

        Parameters
        ----------
        *names : str
            The names of its groupings, in the order in which `by` had them.

        Raises
        ------
        KeyError
            They were not asked for.
        """
        return self._rows_called(f"worst by {', '.join(names)}")

    def _rows_called(self, name: str) -> RowTable:
        if name not in self.question.picks:
            option = "worst=N, worst_per_group=True, and by" if " " in name else f"{name}=N"
            raise KeyError(f"evaluate was not asked for {option}")
        rows = self.state.picked.get(name) or Picked.none(1)
        titles = {"worst": f"Worst rows by {self.question.worst_by}", "sample": "Random rows"}
        title = titles.get(name, name.replace("worst", f"Worst rows by {self.question.worst_by},", 1))
        positions = tuple((self.inputs or {}).get("positions", [self.expected]))
        return RowTable(title, rows, positions, self.question.picks[name].per, self.question.dense)

    def top_confusions(self, count: int = 20) -> list[Confusion]:
        """Return how often rows of one class were taken for another: the most frequent, by weight.

        Raises
        ------
        KeyError
            `confusions` was not asked for.
        """
        _asked("confusions=True", self.question.confusions)
        return confusions(self.state.tables, count, self.question.dense)

    def confusion_matrix(self) -> NDArray[np.float64]:
        """Return the confusion matrix, (classes, classes) float64: the weight of each true class, down, by prediction.

        Raises
        ------
        KeyError
            `confusions` was not asked for.
        ValueError
            There are more than 2,048 classes.
        """
        _asked("confusions=True", self.question.confusions)
        return matrix(self.question, self.state.tables)

    @property
    def slices(self) -> tuple[Slices, ...]:
        """The metrics of the groups of all slicings."""
        return tuple(self.by(*(by.name for by in slicing)) for slicing in self.question.by)

    def reliability(self) -> Listing:
        """Return how often predictions of some confidence are right: a line for each bin of confidences.

        Of each bin its edges, ``low < confidence <= high``, "rows", "weight", the means "confidence" and "accuracy",
        and the "gap" between them.

        Raises
        ------
        KeyError
            No metric over bins of equal width was asked for, such as "ece".

        Examples
        --------
        >>> import daskxent as dx
        >>> report = dx.evaluate([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], metrics=["ece"], calibration_bins=2)
        >>> [(line["low"], line["rows"], round(line["confidence"], 4)) for line in report.reliability()]
        [(0.5, 3, 0.7667)]
        """
        return Listing("Reliability", [_line_of(each) for each in self._bins()])

    def brier_decomposition(self) -> dict[str, float]:
        """Return the terms of the Brier score of the predictions, (confidence - hit)**2, by the bins of confidence.

        "brier" = "reliability" - "resolution" + "uncertainty" + "within_bin_variance" - "within_bin_covariance".

        Raises
        ------
        KeyError
            No metric over bins of equal width was asked for, such as "ece".
        """
        return calibration.decomposition(self._bins())

    def _bins(self) -> list[calibration.Bin]:
        _asked("a metric over bins of equal width, such as 'ece'", "reliability" in self.question.reliabilities)
        return derived.reliability(self.question, self.state) or []

    def temperature(self) -> Temperature:
        """Return the temperature of the least crossentropy: its value and error, and what it makes of the numbers.

        Raises
        ------
        KeyError
            The metric "temperature" was not asked for.
        """
        _asked("the metric 'temperature'", "temperature" in self.question.metrics)
        return derived.temperature(self.question, self.state, self._of_rows)

    def quantile(self, name: str, shares: float | Iterable[float]) -> Any:
        """Return quantiles of a value of the rows, within 2**-11 (0.05 %) of the value.

        Values are counted in cells on a logarithmic grid, 1,024 from each power of 2 to the next, which is the same for
        any chunks. Without weights it is numpy.quantile's linear interpolation between the values of two rows, each
        taken as the middle of its cell, or as what is exact: 0, the largest value there is, as a confidence of 1, and
        whole numbers up to 2,048; with weights the smallest value below which that share of them lies.

        Parameters
        ----------
        name : str
            What `histograms` named.
        shares : float or iterable of float
            From 0 to 1.

        Returns
        -------
        float, or list of float
            NaN over no rows, or where a value is not a number.

        Raises
        ------
        KeyError
            `histograms` did not name it.
        ValueError
            A share is not between 0 and 1.

        Examples
        --------
        >>> import daskxent as dx
        >>> report = dx.evaluate([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], histograms=["label_probability"])
        >>> round(report.quantile("label_probability", 0.5), 2)
        0.6
        """
        cells = self._cells(name)
        given: Any = shares.tolist() if hasattr(shares, "tolist") else shares  # of numbers and arrays of NumPy
        if not isinstance(given, Iterable):
            return distributions.quantile(cells, given)
        return [distributions.quantile(cells, share) for share in given]

    def histogram(self, name: str, bins: int = 50) -> Listing:
        """Return a histogram of a value of the rows: how many, and what weight, lie in bins of equal width.

        Bins are made of the cells that `quantile` describes; a cell counts where its middle is. Values that are not
        finite have lines of their own.

        Raises
        ------
        KeyError
            `histograms` did not name it.
        """
        lines = distributions.histogram(self._cells(name), bins)
        return Listing(f"Histogram of {name}", lines)

    def _cells(self, name: str) -> list[distributions.Cell]:
        if name not in self.question.histograms:
            known = ", ".join(self.question.histograms) or "none"
            raise KeyError(f"evaluate was not asked for histograms=[{name!r}]; there are {known}")
        return distributions.cells_of(self.state.tables.get(f"cells of {name}"), statistics.statistic(name))

    def plot(self) -> Any:
        """Draw metrics, slices, histograms, calibration and top-k curve, as far as they were asked for.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            matplotlib is not installed: ``pip install 'daskxent[plots]'``.
        """
        return plots.figure(self)

    def plot_reliability(self, ax: Any = None) -> Any:
        """Draw the reliability diagram onto axes of matplotlib, or new ones, and return them."""
        return plots.reliability(self, ax)

    def plot_histogram(self, name: str, ax: Any = None) -> Any:
        """Draw the histogram of a metric in `histograms` onto axes, or new ones, and return them."""
        return plots.histogram(self, name, ax)

    def plot_top_k(self, ax: Any = None) -> Any:
        """Draw the accuracy of every k onto axes, or new ones, and return them."""
        return plots.top_k(self, ax)

    def top_k_curve(self) -> Listing:
        """Return the share of the weight of rows whose label is among the k largest classes, for every k at once.

        Exact up to 4,096; above for some k. Classes that tie with the label's are not larger than it, so that the
        accuracy for k = 1 may be above "accuracy".

        Raises
        ------
        KeyError
            `ranks` was not asked for.
        """
        _asked("ranks=True", self.question.ranks)
        lines = distributions.top_k(self.state.tables.get(RANKS.name), self.state.total.weight)
        return Listing("Accuracy of the k largest", lines)


def _line_of(each: calibration.Bin) -> dict[str, Any]:
    return {
        "low": each.low,
        "high": each.high,
        "rows": each.rows,
        "weight": nearest(each.weight),
        "confidence": nearest(each.confidence / each.weight),
        "accuracy": nearest(each.hits / each.weight),
        "gap": nearest(each.gap / each.weight),
    }
