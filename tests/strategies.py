"""What the tests draw: predictions, labels, weights, and ways to cut an axis.

Hypothesis draws the structure (shapes, kinds, seeds, cuts); the numbers come from a generator seeded by what it drew.
"""

import itertools

import ml_dtypes
import numpy as np
import zarr
from hypothesis import settings
from hypothesis import strategies as st


def draws(examples):
    """Return settings that draw this many examples; a profile of other than the usual 100 draws its share of them."""
    return settings(max_examples=max(1, examples * settings.default.max_examples // 100), deadline=None)


SOME, MANY = draws(30), draws(80)

DTYPES = tuple(map(np.dtype, ("float16", ml_dtypes.bfloat16, "float32", "float64")))
LABEL_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def stored(values, chunks):
    """Return a zarr array in memory that holds values."""
    z = zarr.create_array({}, shape=values.shape, dtype=values.dtype, chunks=chunks)
    z[...] = values
    return z


def usual(rng, shape):
    return rng.normal(0, 3, shape)


def tied(rng, shape):
    return rng.integers(-2, 3, shape).astype(float)


def negative(rng, shape):
    return rng.uniform(-80, -60, shape)


def extreme(rng, shape):
    return rng.choice([-700.0, 700.0, 699.5, -1.0, 0.0, -0.0], shape)


def spread(rng, shape):
    return rng.uniform(-60_000, 60_000, shape)


def masked(rng, shape):
    """Logits of which some are -inf, and whole rows too: a masked vocabulary."""
    x = rng.normal(0, 3, shape)
    x[rng.random(shape) < 0.5] = -np.inf
    return x


def huge(rng, shape):
    return rng.choice([3e9, -3e9, 1e20, -1e20, 1e30, 1.0, -np.inf], shape)


def broken(rng, shape):
    return rng.choice([np.nan, np.inf, -np.inf, 0.0, 1.0, 5.0, -700.0], shape, p=[0.05, 0.05, 0.2, 0.2, 0.2, 0.2, 0.1])


FINITE = (usual, tied, negative, extreme, spread)
ANY = (*FINITE, masked, huge, broken)


@st.composite
def logits(draw, shape, kinds=ANY, dtypes=DTYPES):
    """Draw an array of logits; what does not fit float16 becomes infinite."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values, dtype = draw(st.sampled_from(kinds))(rng, shape), draw(st.sampled_from(dtypes))
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype)


@st.composite
def probabilities(draw, shape, axis=-1, dtypes=DTYPES):
    """Draw rows that sum to one (within their precision), some classes 0, some rows sure."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.3, 3.0, 30.0]))
    x = np.exp(rng.normal(0, scale, shape))
    x[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = 0
    total = x.sum(axis=axis, keepdims=True)
    return np.where(total == 0, 1 / shape[axis], x / np.where(total == 0, 1, total)).astype(
        draw(st.sampled_from(dtypes))
    )


@st.composite
def weights(draw, shape):
    """Draw weights, many of them 0, some far apart."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["uniform", "whole", "far"]))
    w = {"uniform": rng.random(shape), "whole": rng.integers(0, 4, shape), "far": 10 ** rng.uniform(-12, 12, shape)}
    w = np.asarray(w[kind], float)
    w[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = 0
    return w


@st.composite
def labels(draw, shape, classes, dtypes=LABEL_DTYPES):
    """Draw classes, as numbers of any integer type that holds them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    fitting = [dtype for dtype in dtypes if np.iinfo(dtype).max >= classes - 1]
    return rng.integers(0, classes, shape).astype(draw(st.sampled_from(fitting)))


@st.composite
def partitions(draw, length):
    """Cut an axis into pieces of random lengths, unequal as a rule."""
    cuts = draw(st.lists(st.integers(1, max(1, length - 1)), max_size=5, unique=True)) if length > 1 else []
    edges = [0, *sorted(cuts), length]
    return tuple(b - a for a, b in itertools.pairwise(edges))


@st.composite
def shapes(draw, most=7, classes=12):
    """Draw the shape of predictions and where their class axis is: positions of one to three axes."""
    positions = draw(st.lists(st.integers(1, most), min_size=1, max_size=3))
    axis = draw(st.integers(0, len(positions)))
    shape = list(positions)
    shape.insert(axis, draw(st.integers(2, classes)))
    return tuple(shape), axis


@st.composite
def questions(draw):
    """Draw labels, predictions and the options of `evaluate` that belong to them."""
    shape, axis = draw(shapes())
    positions, classes = shape[:axis] + shape[axis + 1 :], shape[axis]
    from_logits = draw(st.booleans())
    y_pred = draw(logits(shape)) if from_logits else draw(probabilities(shape, axis))
    options = {
        "from_logits": from_logits,
        "axis": draw(st.sampled_from([axis, axis - len(shape)])),
        "metrics": ("crossentropy", "accuracy", "top_2_accuracy", "top_5_accuracy", "perplexity", "bits"),
    }
    form = draw(st.sampled_from(["sparse", "trailing 1", "class axis 1", "one-hot", "soft"]))
    y_true = draw(labels(positions, classes))
    options["label_smoothing"] = draw(st.sampled_from([0.0, 0.0, 0.1]))
    if form == "trailing 1":
        y_true = y_true[..., None]
    elif form == "class axis 1":
        y_true = np.expand_dims(y_true, axis)
    elif form in ("one-hot", "soft"):
        y_true = np.moveaxis(np.eye(classes)[y_true.astype(int)], -1, axis)
        y_true = y_true.astype(draw(st.sampled_from(["float32", "uint8", "bool"])))
        if form == "soft":
            y_true = draw(probabilities(shape, axis, dtypes=(np.dtype("float64"), np.dtype("float32"))))
    elif draw(st.booleans()):
        options["ignore_class"] = int(y_true.flat[0])
    if draw(st.booleans()):
        along = draw(st.integers(1, len(positions)))
        own = tuple(draw(st.sampled_from([1, n])) for n in positions[:along])
        options["sample_weight"] = draw(weights(own))
    return y_true, y_pred, options
