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

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from daskxent.numbers import elementary
from daskxent.numbers.audit import Scored, complain
from daskxent.numbers.exact import ExactSum, ratio
from daskxent.numbers.question import Question
from daskxent.numbers.records import EPSILON
from daskxent.numbers.state import State
from daskxent.numbers.statistics import LOSS
from daskxent.options import flag, ignored
from daskxent.run import graph
from daskxent.run.engines import engine_for, run
from daskxent.run.threads import cores
from daskxent.sources import Inputs, align, check_dims, is_dask, open_array
from daskxent.sources.memory import Memory
from daskxent.sources.viewed import Viewed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.run.scoring import Block
    from daskxent.sources.source import Box

__all__ = [
    "CategoricalCrossentropy",
    "Reduction",
    "SparseCategoricalCrossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
]


class Reduction:
    """What becomes of the losses per row; the plain strings are accepted as well.

    Attributes
    ----------
    AUTO, SUM_OVER_BATCH_SIZE : str
        Sum of weight times loss, divided by the number of rows; "mean" is another name.
    SUM : str
        Sum of weight times loss.
    NONE : str
        Weight times loss, row by row; None is another name.
    """

    AUTO = "auto"
    NONE = "none"
    SUM = "sum"
    SUM_OVER_BATCH_SIZE = "sum_over_batch_size"


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
    numpy.ndarray or dask.array.Array
        Of the shape of `y_pred` without the class axis, and of the dtype of `y_pred`.

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
    return _per_row(inputs, asked, inputs.predictions.dtype)


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
    numpy.ndarray or dask.array.Array
        Of the shape of `y_pred` without the class axis, and of the dtype of `y_pred`.

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
    return _per_row(inputs, asked, inputs.predictions.dtype)


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
            return _per_row(inputs, asked, self._dtype)
        finish = Reduce(self.reduction, asked, inputs.positions, self._dtype)
        if is_dask(inputs.predictions) and inputs.rows:
            return graph.reduced(graph.states(inputs, asked), finish, self._dtype)
        return finish(total(inputs, asked))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row, as the function form does, in the dtype of this loss."""
        return _per_row(*self._open(y_true, y_pred, None), self._dtype)

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


def open_inputs(
    y_true: Any, y_pred: Any, sample_weight: Any = None, *, axis: int, dense: bool, bare: np.dtype[Any]
) -> Inputs:
    """Open and align what a Keras loss or metric is given.

    Beyond what `daskxent.evaluate` takes, Keras takes predictions as lists, integer labels as floats, and batches
    without rows.

    Parameters
    ----------
    y_true, y_pred, sample_weight : array, list or path
    axis : int
        The class axis of the predictions.
    dense : bool
        Whether labels are one-hot or soft.
    bare : dtype
        Of predictions given as lists.

    Returns
    -------
    Inputs
        Only good for its shapes where there are no rows.
    """
    check_dims(y_true=y_true, y_pred=y_pred, sample_weight=sample_weight)
    labels, predictions = open_array(y_true, "y_true"), open_array(y_pred, "y_pred")
    weights = None if sample_weight is None else open_array(sample_weight, "sample_weight")
    if isinstance(y_pred, (list, tuple)) and predictions.dtype.kind in "biuf":
        predictions = Memory(predictions.array.astype(bare), "y_pred")
    if len(predictions.shape) == 1:
        raise ValueError(f"y_pred: expected rows of predictions, got shape {tuple(predictions.shape)}")
    if not dense and (labels.dtype.kind == "f" or labels.dtype.name == "bfloat16"):
        labels = _whole_labels(labels)
    if weights is not None and is_dask(weights) and weights.ndim == 0:
        weights = weights.reshape(1)  # a number is read at once, an array when it is needed
    if 0 in predictions.shape and 0 in labels.shape:
        return Inputs(predictions, axis % len(predictions.shape), dense_labels=labels if dense else None)
    return graph.met(align(labels, predictions, weights, axis, dense))


def ask(
    inputs: Inputs,
    score: str = "crossentropy",
    *,
    from_logits: bool = False,
    ignore_class: int | None = None,
    label_smoothing: float = 0.0,
) -> Question:
    """Ask for one metric, in the way of Keras: negative weights are allowed, impossible labels are not."""
    return Question(
        metrics=(score,),
        classes=inputs.classes,
        from_logits=flag(from_logits, "from_logits"),
        dense=inputs.dense,
        ignore_class=None if ignore_class is None else ignored(ignore_class),
        label_smoothing=float(label_smoothing),
        allow_negative_weights=True,
    )


def total(inputs: Inputs, asked: Question) -> State:
    """Evaluate all rows; arrays in memory are evaluated in this process, whatever cluster there is."""
    state = State.zero()
    if inputs.rows:
        threads = cores() if isinstance(inputs.predictions, Memory) else None
        for report in run(inputs, asked, engine_for(inputs, threads=threads)):
            state = report.state
    return state


def result_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of results: float32 by default; a Keras dtype policy stands for its compute dtype."""
    return np.dtype(getattr(dtype, "compute_dtype", dtype) or np.float32)


@dataclass(frozen=True)
class Reduce:
    """From the state of all rows to the reduced loss.

    Parameters
    ----------
    reduction : str
    question : Question
    positions : tuple of int
        Shape of the rows.
    dtype : dtype
        Of the result.
    """

    reduction: str | None
    question: Question
    positions: tuple[int, ...]
    dtype: np.dtype[Any]

    def __call__(self, state: State) -> Any:
        """Return the loss as a NumPy scalar."""
        complain(self.question, state.audit, self.positions)
        losses = state.total.totals.get(LOSS, ExactSum())
        with np.errstate(over="ignore"):
            return self.dtype.type(self._divided(losses, state))

    def _divided(self, losses: ExactSum, state: State) -> float:
        if self.reduction == Reduction.SUM:
            return float(losses)
        if self.reduction == "mean_with_sample_weight":
            divisor = state.total.weight
        else:
            ignored = state.audit["ignored"].count if "ignored" in state.audit else 0
            divisor = ExactSum.whole(state.rows - ignored)
        return 0.0 if divisor.units == 0 else ratio(losses, divisor)


def _per_row(inputs: Inputs, asked: Question, dtype: np.dtype[Any]) -> Any:
    """Return weight times loss for every row, lazily if the predictions are."""
    if not asked.from_logits and not asked.dense:
        asked = replace(asked, columns=("total", "peak", "target"))
    single = _is_single(inputs.predictions.dtype)
    if is_dask(inputs.predictions):
        if inputs.rows:
            return graph.per_chunk(inputs, asked, partial(_finish_rows, dtype=dtype, single=single), dtype=dtype)
        import dask.array as da

        return da.zeros(inputs.positions, dtype)
    sink = _Losses(np.zeros(inputs.positions, dtype), asked, single)
    if inputs.rows:
        for _ in run(inputs, asked, engine_for(inputs, threads=cores()), sink=sink):
            pass
    return sink.losses


@dataclass(frozen=True)
class _Losses:
    """A sink of weight times loss."""

    losses: NDArray[Any]
    asked: Question
    single: bool
    page = None

    def columns(self, rows: Scored) -> Mapping[str, NDArray[Any]]:
        return {"loss": _weighted(self.asked, rows, self.losses.dtype, self.single)}

    def write(self, box: Box, columns: Mapping[str, NDArray[Any]]) -> None:
        self.losses[box] = columns["loss"]


def _finish_rows(block: Block, dtype: np.dtype[Any], single: bool) -> NDArray[Any]:
    """Return weight times loss of the rows of a block; an error for what may not be."""
    asked, shape = block.question, block.aligned.shape
    losses = np.empty(math.prod(shape), dtype)
    for some, rows in block.checked():
        losses[some] = _weighted(asked, rows, dtype, single)
    return losses.reshape(shape)


def _weighted(asked: Question, rows: Scored, dtype: np.dtype[Any], single: bool) -> NDArray[Any]:
    losses, weights = rows.scores.loss, rows.weights
    if single and not asked.from_logits and not asked.dense:
        losses = np.where(np.isnan(losses), np.nan, _normalised_in_float32(rows))
    if asked.ignore_class is not None:
        losses = np.where(rows.labels == asked.ignore_class, 0.0, losses)
    if weights is not None:
        losses = np.where(weights == 0, 0.0, losses) * weights
    with np.errstate(over="ignore"):
        return losses.astype(dtype)


def _is_single(dtype: np.dtype[Any]) -> bool:
    """Whether predictions are widened to float32."""
    return dtype.name != "float64"


def _normalised_in_float32(rows: Scored) -> NDArray[np.float64]:
    """Return log(float32(sum_j q_j / max_j q_j)) + log(max_j q_j / q_y), as tf.keras rounds it."""
    low, high = np.float32(EPSILON), np.float32(1 - EPSILON)
    target, peak = (np.clip(np.nan_to_num(x), float(low), float(high)) for x in (rows.scores.target, rows.scores.peak))
    normaliser = (np.nan_to_num(rows.scores.total, nan=1.0) / peak).astype(np.float32)
    return elementary.log(normaliser.astype(np.float64)) + elementary.log(peak / target)


def _whole_labels(labels: Any) -> Any:
    """Return float labels as the integers they must be."""
    if is_dask(labels):
        return labels.map_blocks(_whole_block, dtype=np.int64, meta=np.empty((0,) * labels.ndim, np.int64))
    if isinstance(labels, Memory):
        return Memory(_whole(labels.array), labels.name)
    return Viewed(labels, _whole, np.int64)


def _whole_block(labels: NDArray[Any], block_info: Any = None) -> NDArray[np.int64]:
    place = block_info[0]["array-location"] if block_info else ()
    return _whole(labels, tuple(start for start, _ in place))


def _whole(labels: NDArray[Any], origin: tuple[int, ...] = ()) -> NDArray[np.int64]:
    wide = labels.astype(np.float64)
    wrong = ~((np.trunc(wide) == wide) & (np.abs(wide) < 2.0**63))
    if wrong.any():
        at = np.argwhere(wrong)[0]
        place = tuple(int(i) + start for i, start in zip(at, origin or (0,) * at.size, strict=True))
        raise ValueError(f"y_true: label {wide[tuple(at)]} at position {place} is not a whole number")
    return wide.astype(np.int64)


def __dir__() -> list[str]:
    return __all__
