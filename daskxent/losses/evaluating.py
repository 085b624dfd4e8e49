"""Open what Keras takes, and evaluate it as Keras means it: what losses and metrics share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import elementary
from daskxent.numbers.audit import raise_first_error
from daskxent.numbers.exact import ExactSum, ratio
from daskxent.numbers.question import Question
from daskxent.numbers.records import EPSILON
from daskxent.numbers.state import State
from daskxent.numbers.statistics import LOSS
from daskxent.run import graph
from daskxent.run.checking import flag, ignored
from daskxent.run.engines import engine_for, run
from daskxent.run.threads import Threads
from daskxent.sources.align import Inputs, align, check_ignored
from daskxent.sources.columns import are_whole
from daskxent.sources.converted import Viewed
from daskxent.sources.largest import as_slots
from daskxent.sources.meaning import aligned_by_name, is_labelled, labelled
from daskxent.sources.memory import Memory
from daskxent.sources.opening import is_dask, open_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.status import Scored
    from daskxent.run.scoring import Block
    from daskxent.sources.source import Box


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


def open_inputs(
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
    *,
    axis: int,
    dense: bool,
    bare: np.dtype[Any],
    sorted_ids: bool = False,
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
    sorted_ids : bool
        Whether predictions are classes, the largest first.

    Returns
    -------
    Inputs
        Only good for its shapes where there are no rows.
    """
    given = aligned_by_name({"y_true": y_true, "y_pred": y_pred, "sample_weight": sample_weight}, axis)
    y_true, y_pred, sample_weight = given.values()
    labels, predictions = open_array(y_true, "y_true"), open_array(y_pred, "y_pred")
    weights = None if sample_weight is None else open_array(sample_weight, "sample_weight")
    if (
        not sorted_ids
        and isinstance(y_pred, (list, tuple))
        and isinstance(predictions, Memory)
        and predictions.dtype.kind in "biuf"
    ):
        predictions = Memory(predictions.array.astype(bare), "y_pred")
    if len(predictions.shape) == 1:
        raise ValueError(f"y_pred: expected rows of predictions, got shape {tuple(predictions.shape)}")
    if not dense and (labels.dtype.kind == "f" or labels.dtype.name == "bfloat16"):
        labels = _whole_labels(labels)
    if sorted_ids:
        labels, predictions = as_slots(labels, predictions)
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
    ignore = () if ignore_class is None else ignored(ignore_class)
    if "labels" in inputs.along:
        check_ignored(ignore, inputs)
    return Question(
        metrics=(score,),
        classes=inputs.classes,
        from_logits=flag(from_logits, "from_logits"),
        dense=inputs.dense,
        ignore_class=ignore,
        label_smoothing=float(label_smoothing),
        allow_negative_weights=True,
    )


def total(inputs: Inputs, asked: Question) -> State:
    """Evaluate all rows; arrays in memory are evaluated in this process, whatever cluster there is."""
    state = State()
    if inputs.rows:
        engine = Threads(None) if isinstance(inputs.predictions, Memory) else engine_for(inputs)
        for report in run(inputs, asked, engine):
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
        raise_first_error(self.question, state.audit, self.positions)
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


def per_row(inputs: Inputs, asked: Question, dtype: np.dtype[Any]) -> Any:
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
        for _ in run(inputs, asked, Threads(None), sink=sink):
            pass
    return sink.losses


def named_as(y_pred: Any, axis: int, losses: Any) -> Any:
    """Return losses of rows, with the coordinates of predictions that are xarray's."""
    return labelled(y_pred, axis, {"loss": losses})["loss"] if is_labelled(y_pred) else losses


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
    if asked.ignore_class:
        losses = np.where(rows.labels == asked.ignore_class[0], 0.0, losses)
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
    wrong = ~are_whole(wide)
    if wrong.any():
        at = np.argwhere(wrong)[0]
        place = tuple(int(i) + start for i, start in zip(at, origin or (0,) * at.size, strict=True))
        raise ValueError(f"y_true: label {wide[tuple(at)]} at position {place} is not a whole number")
    return wide.astype(np.int64)
