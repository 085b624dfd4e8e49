"""Crossentropy losses with Keras's names, arguments and meaning.

They follow the predictions: NumPy arrays, lists and zarr arrays give computed values, dask arrays give lazy dask
arrays (so do dask labels or weights with stored predictions). The reduced losses are exact sums, rounded once;
the losses per row are described at the two functions.

Where Keras's own backends or versions differ from one another, this is the choice: probabilities with integer
labels are clipped and then normalised, as tf.keras does; weights line up with the leading axes; a weight of 0 hides
whatever the row holds; ``"mean_with_sample_weight"`` divides by the sum of the weights of all rows; rows of
`ignore_class` are dropped from sums and counts; an impossible label is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from daskxent.losses.evaluating import Reduce, Reduction, ask, named_as, open_inputs, per_row, result_dtype, total
from daskxent.run import graph
from daskxent.sources.opening import is_dask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daskxent.numbers.question import Question
    from daskxent.sources.align import Inputs

__all__ = [
    "CategoricalCrossentropy",
    "Reduction",
    "SparseCategoricalCrossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
]


_REDUCTIONS = (None, "auto", "mean", "mean_with_sample_weight", "none", "sum", "sum_over_batch_size")


def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Any:
    """Return the crossentropy of each row with its integer label, in nats.

    Probabilities p become -log(q_y / sum_j q_j), q being p clipped to [1e-7, 1 - 1e-7]. The loss of float64
    predictions, and of logits of any precision, is exact up to its rounding. For float32 probabilities (and half
    precision, which is widened to float32) ``sum_j q_j / max_j q_j`` is rounded to float32 before its logarithm,
    which is what tf.keras computes, to the digit. The reduced losses, the metrics and `daskxent.evaluate` do
    without that rounding.

    Parameters
    ----------
    y_true : array
        Classes: whole numbers, of the shape of `y_pred` without the class axis, or with length 1 there, or with a
        trailing axis of length 1.
    y_pred : array of float16, bfloat16, float32 or float64
        Probabilities, or logits in nats. Lists are float64.
    from_logits : bool
        Whether `y_pred` are logits.
    ignore_class : int, optional
        Rows with this label have loss 0.
    axis : int
        The class axis of `y_pred`.

    Returns
    -------
    numpy.ndarray, dask.array.Array or xarray.DataArray
        Of the shape of `y_pred` without the class axis, and of the dtype of `y_pred`; with its coordinates where it is
        xarray's.

    Raises
    ------
    ValueError
        Shapes do not fit, or a label is outside [0, classes).

    Examples
    --------
    >>> sparse_categorical_crossentropy([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    array([0.05129339, 2.30258509])
    """
    inputs = open_inputs(y_true, y_pred, axis=axis, dense=False, bare=np.dtype(np.float64))
    asked = ask(inputs, from_logits=from_logits, ignore_class=ignore_class)
    return named_as(y_pred, axis, per_row(inputs, asked, inputs.predictions.dtype))


def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Any:
    """Return the crossentropy of each row with its one-hot or soft label, in nats.

    Probabilities p become -sum_j y_j log(q_j), q being p / sum(p) clipped to [1e-7, 1 - 1e-7].

    Parameters
    ----------
    y_true : array
        Labels of the shape of `y_pred`; they need not sum to 1. A class with label 0 adds nothing.
    y_pred : array of float16, bfloat16, float32 or float64
        Probabilities, or logits in nats. Lists are float64.
    from_logits : bool
        Whether `y_pred` are logits.
    label_smoothing : float
        Share of each label that is spread evenly over the classes.
    axis : int
        The class axis.

    Returns
    -------
    numpy.ndarray, dask.array.Array or xarray.DataArray
        Of the shape of `y_pred` without the class axis, and of the dtype of `y_pred`; with its coordinates where it is
        xarray's.

    Raises
    ------
    ValueError
        Shapes do not fit, or a label is NaN or infinite.

    Examples
    --------
    >>> categorical_crossentropy([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]).round(3)
    array([0.051, 2.303])
    """
    inputs = open_inputs(y_true, y_pred, axis=axis, dense=True, bare=np.dtype(np.float64))
    asked = ask(inputs, from_logits=from_logits, label_smoothing=label_smoothing)
    return named_as(y_pred, axis, per_row(inputs, asked, inputs.predictions.dtype))


class Loss:
    """What the losses share: the reduction and the configuration.

    Parameters
    ----------
    name : str
    reduction : str or None
        See `Reduction`.
    dtype : dtype
        Of the result, and of predictions given as lists; float32 by default.
    **asks
        Options of the loss, by the names that `get_config` gives them.
    """

    _dense = False

    def __init__(self, name: str, reduction: str | None, dtype: Any, **asks: Any) -> None:
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"Invalid value for argument `reduction`. Expected one of {_REDUCTIONS}. "
                f"Received: reduction={reduction}"
            )
        self.name = name
        self.reduction = Reduction.SUM_OVER_BATCH_SIZE if reduction == Reduction.AUTO else reduction
        self._dtype = result_dtype(dtype)
        self._asks = asks

    @property
    def dtype(self) -> str:
        """Name of the dtype of the result."""
        return str(self._dtype)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the weighted and reduced loss.

        Parameters
        ----------
        y_true, y_pred : array
            As for `call`.
        sample_weight : number or array, optional
            Along the leading axes of the rows, each axis of that length or 1. 0 hides whatever a row holds.

        Returns
        -------
        numpy scalar, numpy.ndarray or dask.array.Array
            Without axes, or for reduction "none" one number per row. No rows, or no weight, give 0.

        Raises
        ------
        ValueError
            Shapes do not fit, or a label is outside [0, classes).
        """
        inputs, asked = self._open(y_true, y_pred, sample_weight)
        if self.reduction in (None, Reduction.NONE):
            return named_as(y_pred, self._asks["axis"], per_row(inputs, asked, self._dtype))
        finish = Reduce(self.reduction, asked, inputs.positions, self._dtype)
        if is_dask(inputs.predictions) and inputs.rows:
            return graph.reduced(graph.states(inputs, asked), finish, self._dtype)
        return finish(total(inputs, asked))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row, as the function form does, in the dtype of this loss."""
        return named_as(y_pred, self._asks["axis"], per_row(*self._open(y_true, y_pred, None), self._dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this loss again, but for its dtype, which Keras leaves out as well."""
        return {"name": self.name, "reduction": self.reduction, **self._asks}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a loss from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"

    def _open(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Inputs, Question]:
        asks = dict(self._asks)
        bare = np.dtype(np.float64 if self._dtype == np.float64 else np.float32)
        inputs = open_inputs(y_true, y_pred, sample_weight, axis=asks.pop("axis"), dense=self._dense, bare=bare)
        return inputs, ask(inputs, **asks)


class SparseCategoricalCrossentropy(Loss):
    """Crossentropy with integer labels.

    Parameters
    ----------
    from_logits : bool
        Whether predictions are logits, in nats; otherwise they are probabilities.
    ignore_class : int, optional
        Rows with this label are dropped: their loss is 0, and they do not count as part of the batch.
    reduction : str or None
        "sum_over_batch_size" (also "auto", "mean"), "sum", "mean_with_sample_weight", "none" or None.
    axis : int
        The class axis of the predictions.
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.

    Examples
    --------
    >>> loss = SparseCategoricalCrossentropy()
    >>> print(loss([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]))
    1.1769392
    >>> print(loss([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]], sample_weight=[0.3, 0.7]))
    0.8135988
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = Reduction.SUM_OVER_BATCH_SIZE,
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis)


class CategoricalCrossentropy(Loss):
    """Crossentropy with one-hot or soft labels.

    Parameters
    ----------
    from_logits : bool
        Whether predictions are logits, in nats; otherwise they are probabilities.
    label_smoothing : float
        Share of each label that is spread evenly over the classes.
    axis : int
        The class axis.
    reduction : str or None
        As for `SparseCategoricalCrossentropy`.
    name : str
    dtype : dtype, optional
        Of the result; float32 by default.

    Examples
    --------
    >>> loss = CategoricalCrossentropy(reduction="sum")
    >>> print(loss([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]).round(3))
    2.354
    """

    _dense = True

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = Reduction.SUM_OVER_BATCH_SIZE,
        name: str = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype, from_logits=from_logits, label_smoothing=label_smoothing, axis=axis)


def __dir__() -> list[str]:
    return __all__
