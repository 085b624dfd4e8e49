"""Crossentropy and accuracy metrics with Keras's names, arguments and meaning.

A metric remembers a total and a count, as exact sums: however rows are spread over calls of `update_state` or merged
metrics, the result has the same bits. Zarr and dask arrays are evaluated chunk by chunk.

Where Keras's versions differ: a single weight is that of each row; a weight of 0 hides whatever the row holds; rows of
`ignore_class` are not counted; an impossible label is an error; classes tied with the k-th largest are in the top k.
"""

from __future__ import annotations

from typing import Any

from daskxent.metrics.metric import Metric, top_score
from daskxent.metrics.variable import Variable

__all__ = [
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "Metric",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "Variable",
]


class SparseCategoricalCrossentropy(Metric):
    """Mean crossentropy with integer labels, in nats.

    Probabilities p become -log(q_y / sum_j q_j), q being p clipped to [1e-7, 1 - 1e-7], as in tf.keras.

    Parameters
    ----------
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.
    from_logits : bool
        Whether predictions are logits; otherwise they are probabilities.
    ignore_class : int, optional
        Rows with this label are not counted.
    axis : int
        The class axis of the predictions.

    Examples
    --------
    >>> m = SparseCategoricalCrossentropy()
    >>> m.update_state([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    >>> print(m.result())
    1.1769392
    """

    def __init__(
        self,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ) -> None:
        super().__init__(dtype, name)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis
        self._config = ("from_logits", "ignore_class", "axis")
        self._average("crossentropy", dense=False, axis=axis, from_logits=from_logits, ignore_class=ignore_class)


class CategoricalCrossentropy(Metric):
    """Mean crossentropy with one-hot or soft labels, in nats.

    Probabilities p become -sum_j y_j log(q_j), q being p / sum(p) clipped to [1e-7, 1 - 1e-7].

    Parameters
    ----------
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.
    from_logits : bool
        Whether predictions are logits; otherwise they are probabilities.
    label_smoothing : float
        Share of each label that is spread evenly over the classes.
    axis : int
        The class axis.

    Examples
    --------
    >>> m = CategoricalCrossentropy()
    >>> m.update_state([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    >>> print(m.result().round(3))
    1.177
    """

    def __init__(
        self,
        name: str = "categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ) -> None:
        super().__init__(dtype, name)
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis
        self._config = ("from_logits", "label_smoothing", "axis")
        self._average("crossentropy", dense=True, axis=axis, from_logits=from_logits, label_smoothing=label_smoothing)


class SparseCategoricalAccuracy(Metric):
    """Share of rows whose integer label is the class with the largest prediction, the first if several are.

    Parameters
    ----------
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.

    Examples
    --------
    >>> m = SparseCategoricalAccuracy()
    >>> m.update_state([[2], [1]], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]], sample_weight=[0.7, 0.3])
    >>> print(m.result())
    0.3
    """

    def __init__(self, name: str = "sparse_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(dtype, name)
        self._average("accuracy", dense=False)


class CategoricalAccuracy(Metric):
    """Share of rows whose largest label is at the class with the largest prediction, the first if several are.

    Parameters
    ----------
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.

    Examples
    --------
    >>> print(CategoricalAccuracy()([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]))
    0.5
    """

    def __init__(self, name: str = "categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(dtype, name)
        self._average("accuracy", dense=True)


class SparseTopKCategoricalAccuracy(Metric):
    """Share of rows in which fewer than k classes have a larger prediction than the integer label's.

    Parameters
    ----------
    k : int
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.
    from_sorted_ids : bool
        Whether predictions are classes, the largest first: a row counts if its label is among the first k.

    Examples
    --------
    >>> print(SparseTopKCategoricalAccuracy(k=2)([2, 1], [[0.1, 0.9, 0.8], [0.5, 0.1, 0.4]]))
    0.5
    >>> print(SparseTopKCategoricalAccuracy(k=2, from_sorted_ids=True)([2, 1], [[1, 2, 0], [0, 2, 1]]))
    0.5
    """

    def __init__(
        self,
        k: int = 5,
        name: str = "sparse_top_k_categorical_accuracy",
        dtype: Any = None,
        from_sorted_ids: bool = False,
    ) -> None:
        super().__init__(dtype, name)
        self.k, self.from_sorted_ids = k, from_sorted_ids
        self._config = ("k", "from_sorted_ids") if from_sorted_ids else ("k",)  # Keras's too
        self._average(top_score(k), dense=False, sorted_ids=k if from_sorted_ids else 0)


class TopKCategoricalAccuracy(Metric):
    """Share of rows in which fewer than k classes have a larger prediction than the class of the largest label.

    Parameters
    ----------
    k : int
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.

    Examples
    --------
    >>> print(TopKCategoricalAccuracy(k=1)([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]))
    0.5
    """

    def __init__(self, k: int = 5, name: str = "top_k_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(dtype, name)
        self.k, self._config = k, ("k",)
        self._average(top_score(k), dense=True)


def __dir__() -> list[str]:
    return __all__
