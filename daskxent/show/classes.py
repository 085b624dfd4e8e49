"""Results of each class, as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import classes
from daskxent.numbers.derived import counts_of
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.keys import name_of
from daskxent.numbers.question import PREDICTED_CLASS, TRUE_CLASS
from daskxent.numbers.sums import Sums
from daskxent.show.slices import Slices, shown_label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.estimates import Estimates
    from daskxent.numbers.keys import Key
    from daskxent.numbers.question import Question
    from daskxent.numbers.tables import Table

MOST_DENSE = 2048  # classes of a confusion matrix: 32 MB


class Classes(Slices):
    """The metrics of the rows of each class, and how it was predicted.

    A mapping like `Slices`; the rows have "predicted", the weight of the rows of which the class is the prediction,
    "precision", "recall", "f1" and "iou" as well. Classes that are neither true nor predicted are left out.

    Parameters
    ----------
    question : Question
    tables : mapping of str to Table

    Examples
    --------
    >>> import daskxent as dx
    >>> report = dx.evaluate([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], per_class=True)
    >>> report.per_class()[(1,)]["recall"], report.per_class()[(0,)]["precision"]
    (0.5, 0.5)
    """

    def __init__(self, question: Question, tables: Mapping[str, Table], keys: Any = None) -> None:
        self._counts = counts_of(question, tables)
        order = [(each,) for each in self._counts.classes] if keys is None else keys
        super().__init__(question, (TRUE_CLASS,), tables, order)
        named = {"precision": classes.precision, "recall": classes.recall, "f1": classes.f1, "iou": classes.iou}
        self._own = {name: dict(zip(self._counts.classes, of(self._counts), strict=True)) for name, of in named.items()}
        pairs = zip(self._counts.classes, self._counts.predicted, strict=True)
        self._own = {"predicted": {each: float(ExactSum(units)) for each, units in pairs}} | self._own

    def sums(self, key: Key) -> Sums:
        """Return the exact sums over the rows of a class, none of which there may be."""
        table = self._table
        return table.sums(key) if table is not None and key in table else Sums()

    def _some(self, keys: Any) -> Classes:
        return Classes(self.question, self._tables, keys)

    def _row(self, key: Key, sums: Sums, found: Estimates) -> dict[str, Any]:
        row = super()._row(key, sums, found)
        return {"class": row.pop(TRUE_CLASS.name), **row, **{name: own[key[0]] for name, own in self._own.items()}}


class Confusion(NamedTuple):
    """How often rows of one class were taken for another."""

    true: int | str  # "missing" where the label is NaN, or no whole number; "nan", "inf" or "-inf" of dense ones
    predicted: int
    rows: int
    weight: float
    share: float  # of the weight of the true class; NaN if that is 0


def confusions(tables: Mapping[str, Table], count: int, dense: bool = False) -> list[Confusion]:
    """Return the most frequent confusions, by weight, then by classes."""
    table = tables.get(name_of((TRUE_CLASS, PREDICTED_CLASS)))
    if table is None:
        return []
    true, predicted = (column.astype(np.int64) for column in table.keys)
    weight, whole = table.weights(), dict[int, float]()
    for one, each in zip(true.tolist(), weight.tolist(), strict=True):
        whole[one] = whole.get(one, 0.0) + each
    missed = np.flatnonzero((true != predicted) & (predicted >= 0))
    order = missed[np.lexsort((predicted[missed], true[missed], -weight[missed]))][:count]
    columns = (column[order].tolist() for column in (true, predicted, table.counted, weight))
    return [
        Confusion(shown_label(t, dense), p, rows, w, w / whole[t] if whole[t] else math.nan)
        for t, p, rows, w in zip(*columns, strict=True)
    ]


def matrix(question: Question, tables: Mapping[str, Table]) -> NDArray[np.float64]:
    """Return the confusion matrix of weights: true classes down, predicted ones across."""
    if question.classes > MOST_DENSE:
        raise ValueError(f"confusion_matrix: {question.classes} classes; at most {MOST_DENSE}: see top_confusions")
    found, table = np.zeros((question.classes, question.classes)), tables.get(name_of((TRUE_CLASS, PREDICTED_CLASS)))
    if table is not None:
        true, predicted = (column.astype(np.int64) for column in table.keys)
        inside = (true >= 0) & (true < question.classes) & (predicted >= 0)
        found[true[inside], predicted[inside]] = table.weights()[inside]
    return found
