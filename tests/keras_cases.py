"""Random labels, predictions and weights, and what Keras makes of them."""

from dataclasses import dataclass

import keras
import numpy as np
import zarr
from hypothesis import strategies as st

EPSILON = 1e-7


@dataclass
class Case:
    labels: np.ndarray
    predictions: np.ndarray
    weights: object  # None, a number, or an array along the leading axes of the positions
    axis: int
    from_logits: bool
    ignore_class: int | None

    @property
    def positions(self):
        return np.moveaxis(self.predictions, self.axis, -1).shape[:-1]

    @property
    def wide(self):
        """The predictions as float64, class axis last: what every reference computes with."""
        return np.moveaxis(self.predictions, self.axis, -1).astype(np.float64)

    @property
    def full_weights(self):
        """The weights of all positions, lined up on the left: Keras's losses line them up on the right."""
        if self.weights is None:
            return None
        weights = np.asarray(self.weights, np.float64)
        spread = weights.reshape(weights.shape + (1,) * (len(self.positions) - weights.ndim))
        return np.broadcast_to(spread, self.positions)


@st.composite
def cases(draw, dense=False, ties=False, dtypes=(np.float32, np.float64), weighted=True, ignore=True):
    positions = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    classes = draw(st.integers(2, 6))
    axis = draw(st.integers(-len(positions) - 1, len(positions)))
    from_logits = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.normal(size=(*positions, classes)) * draw(st.sampled_from([0.1, 3.0, 30.0]))
    if ties:
        x = np.round(x) + 0.0  # Keras 3 takes -0.0 for less than 0.0
    elif not from_logits:
        x = np.exp(x - x.max(-1, keepdims=True))
        x /= x.sum(-1, keepdims=True)
    predictions = np.ascontiguousarray(np.moveaxis(x, -1, axis).astype(draw(st.sampled_from(dtypes))))
    if dense:
        labels = np.moveaxis(random.dirichlet(np.ones(classes), positions), -1, axis)
        ignored = None
    else:
        kinds = [np.uint8, np.int16, np.int64]
        labels = random.integers(0, classes, positions).astype(draw(st.sampled_from(kinds)))
        ignored = draw(st.sampled_from([None, 0, classes - 1])) if ignore else None
    weights = draw(st.sampled_from(["none", "number", "array"])) if weighted else "none"
    shape = tuple(n if draw(st.booleans()) else 1 for n in positions[: draw(st.integers(1, len(positions)))])
    given = {"none": None, "number": 1.75, "array": random.integers(0, 9, shape) / 4}[weights]
    return Case(labels, predictions, given, axis, from_logits, ignored)


def sparse_losses(case):
    """The losses per row in float64; 0 where ignored."""
    labels = case.labels.astype(np.int64)
    if case.from_logits:
        losses = keras.ops.sparse_categorical_crossentropy(labels, case.wide, from_logits=True)
    else:
        # tf.keras clips, then normalises; Keras 3 on NumPy does it the other way round.
        z = np.log(np.clip(case.wide, EPSILON, 1 - EPSILON))
        losses = np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, labels[..., None], -1)[..., 0]
    return np.where(labels == case.ignore_class, 0.0, losses)


def dense_losses(case, smoothing=0.0):
    """The losses per row; Keras smooths labels in float32, so that is spelled out here."""
    labels = np.moveaxis(case.labels, case.axis, -1).astype(np.float64)
    labels = labels * (1 - smoothing) + smoothing / labels.shape[-1]
    return np.asarray(keras.ops.categorical_crossentropy(labels, case.wide, from_logits=case.from_logits))


class Given(keras.losses.Loss):
    """Keras's weighting and reduction of losses that are given."""

    def call(self, y_true, y_pred):
        return y_pred


def reduced(case, losses, reduction):
    """What Keras makes of losses per row, those of ignored rows left out; it computes this in float32."""
    kept = (case.labels != case.ignore_class).ravel() if losses.shape == case.labels.shape else slice(None)
    weights = case.full_weights
    losses, weights = losses.ravel()[kept], None if weights is None else weights.ravel()[kept]
    if losses.size == 0:
        return 0.0  # Keras hands back an empty array
    with np.errstate(invalid="ignore"):  # Keras warns of 0 / 0 before it makes that 0
        return Given(reduction=reduction)(losses, losses, weights)


def mean_metric(values, weights):
    """Keras's weighted mean of values; it computes this in float32."""
    mean = keras.metrics.Mean()
    mean.update_state(values.ravel(), None if weights is None else weights.ravel())
    return result(mean)


def result(metric):
    """The result of one of Keras's metrics, which warns of 0 / 0 before it makes that 0."""
    with np.errstate(invalid="ignore"):
        return metric.result()


def chunks(draw, length):
    """Cut an axis into chunks, unequal where it can be."""
    cuts = sorted(draw(st.sets(st.integers(1, length - 1), max_size=3))) if length > 1 else []
    return tuple(int(n) for n in np.diff([0, *cuts, length]))


def stored(draw, array):
    """Keep an array in zarr, in chunks of any size, also where they hold nothing but zeros."""
    sizes = tuple(draw(st.integers(1, length)) for length in array.shape)
    config = {"write_empty_chunks": True}
    return zarr.create_array(zarr.storage.MemoryStore(), data=array, chunks=sizes, config=config)


@st.composite
def chunked(draw, shape):
    """Chunks for every axis of a shape."""
    return tuple(chunks(draw, length) for length in shape)
