"""What the metrics are, written down once more: plainly, on whole arrays, in longdouble.

Nothing is shared with the package. Every function takes rows of all classes, (n, C), widened to longdouble; the rule by
which terms are rounded is stated at the end, of one row, in exact fractions.
"""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

EPSILON = np.longdouble(1e-7)


def rows(y_pred, axis=-1):
    """Return predictions as (n, C) longdouble, rows in C order of the positions."""
    moved = np.moveaxis(np.asarray(y_pred), axis, -1)
    return moved.reshape(-1, moved.shape[-1]).astype(np.float64).astype(np.longdouble)


def log_partition(x):
    """Return log(sum(exp(x))) - max(x) of each row, and max(x): exact even where the peak is nearly everything."""
    best = x.argmax(axis=1)
    peak = x[np.arange(len(x)), best]
    terms = np.exp(x - peak[:, None])
    terms[np.arange(len(x)), best] = 0
    return np.log1p(terms.sum(axis=1)), peak


def undefined(x):
    """Rows whose crossentropy from logits is NaN: with NaN, with +inf, or with nothing but -inf."""
    return np.isnan(x).any(axis=1) | np.isposinf(x).any(axis=1) | np.isneginf(x).all(axis=1)


def from_logits(x, labels):
    """-log softmax(x)[label]."""
    bad = undefined(x)
    rest, peak = log_partition(np.where(bad[:, None], 0, x))
    return np.where(bad, np.nan, rest + (peak - np.where(bad, 0, x[np.arange(len(x)), labels])))


def from_probabilities(p, labels):
    """Sparse labels, as tf.keras: clip, then normalise."""
    bad = np.isnan(p).any(axis=1)
    q = np.clip(np.where(np.isnan(p), 0.5, p), EPSILON, 1 - EPSILON)
    own = q[np.arange(len(q)), labels]
    q[np.arange(len(q)), labels] = 0
    return np.where(bad, np.nan, np.log1p(q.sum(axis=1) / own))


def smoothed(y, smoothing):
    return y * (1 - np.longdouble(smoothing)) + np.longdouble(smoothing) / y.shape[1]


def dense_from_logits(x, y):
    """-sum(y log softmax(x)), where a class with y = 0 adds nothing."""
    bad = undefined(x)
    rest, peak = log_partition(np.where(bad[:, None], 0, x))
    each = rest[:, None] + (peak[:, None] - np.where(bad[:, None], 0, x))
    return np.where(bad, np.nan, np.where(y == 0, 0, y * np.where(y == 0, 0, each)).sum(axis=1))


def dense_from_probabilities(p, y):
    """Dense labels, as Keras: normalise, then clip."""
    total = p.sum(axis=1, keepdims=True)
    bad = np.isnan(total) | np.isinf(total) | (total == 0)
    q = np.clip(np.where(bad, 0.5, p) / np.where(bad, 1, total), EPSILON, 1 - EPSILON)
    return np.where(bad[:, 0], np.nan, -np.where(y == 0, 0, y * np.log(q)).sum(axis=1))


def hits(x, labels, k=1):
    """Is the label the first of the largest (k = 1), or not below the k-th largest: ties at the boundary are in."""
    bad = np.isnan(x).any(axis=1)
    x = np.where(bad[:, None], 0, x)
    own = x[np.arange(len(x)), labels]
    above = (x > own[:, None]).sum(axis=1)
    if k == 1:  # accuracy: of those tied at the top the first alone
        before = np.arange(x.shape[1]) < labels[:, None]
        return ~bad & (above == 0) & ~((x == own[:, None]) & before).any(axis=1)
    return ~bad & (above < k)


def spread(sample_weight, positions):
    """Weights of all rows: left-aligned, repeated along the rest."""
    w = np.ones(()) if sample_weight is None else np.asarray(sample_weight, np.float64)
    return np.broadcast_to(w.reshape(w.shape + (1,) * (len(positions) - w.ndim)), positions).ravel()


def losses(y_true, y_pred, *, axis=-1, from_logits=False, label_smoothing=0.0, **_):
    """Crossentropy of each row, and the class each row should be."""
    x = rows(y_pred, axis)
    sparse, dense = (_from_logits, dense_from_logits) if from_logits else (from_probabilities, dense_from_probabilities)
    if np.shape(y_true) == np.shape(y_pred):
        y = rows(y_true, axis)
        return dense(x, smoothed(y, label_smoothing)), y.argmax(axis=1)
    labels = np.asarray(y_true).astype(np.int64).ravel()
    if label_smoothing:
        return dense(x, smoothed(np.eye(x.shape[1], dtype=np.longdouble)[labels], label_smoothing)), labels
    return sparse(x, labels), labels


_from_logits = from_logits  # the option of `losses` has the name of the function


def evaluate(y_true, y_pred, *, metrics, sample_weight=None, ignore_class=None, axis=-1, **options):
    """Return the metrics, in longdouble: nan over no weight."""
    value, label = losses(y_true, y_pred, axis=axis, **options)
    positions = np.delete(np.shape(y_pred), axis)
    w = spread(sample_weight, tuple(positions)).astype(np.longdouble)
    used = w != 0
    if ignore_class is not None:
        used &= label != ignore_class
    x, w, value, label = rows(y_pred, axis)[used], w[used], value[used], label[used]

    def mean(terms):
        return (w * terms).sum() / w.sum() if w.sum() else np.longdouble("nan")

    nats = mean(value)
    with np.errstate(over="ignore"):
        answers = {"crossentropy": nats, "perplexity": np.exp(nats), "bits": nats / np.log(np.longdouble(2))}
    answers["accuracy"] = mean(hits(x, label))
    for name in metrics:
        if name.startswith("top_"):
            answers[name] = mean(
                hits(x, label, int(name.split("_")[1])) if name != "top_1_accuracy" else hits1(x, label)
            )
    return {name: answers[name] for name in metrics}


def hits1(x, labels):
    """top_1_accuracy: unlike accuracy, every class tied at the top is in."""
    own = x[np.arange(len(x)), labels]
    return ~np.isnan(x).any(axis=1) & ~(x > own[:, None]).any(axis=1)


# Bits from a position of the grid to the next, bits of a position that are counted, positions a sum is kept at, and the
# bits of a unit that are counted apart.
GRIDS = {"float32": (8, 36, 6, None), "float64": (24, 20, 4, 44)}
NO_POSITION = 2**30  # from here on, to either side


def whole_units(x, powers, dtype):
    """Return the position a row of logits is counted at, and its sum in units: by level, then what those leave.

    `powers` holds n and p of each class, where exp(x) is p * 2**n, as exact numbers. Logits that are not above -2**30
    add nothing, and there is nothing to add to a peak that has no position.
    """
    step, unit, levels, rest = GRIDS[dtype]
    second, peak = sorted(range(len(x)), key=x.__getitem__)[-2:]
    if not abs(x[peak]) < NO_POSITION:
        return 0, [0] * (levels if rest is None else 2 * levels)
    base = powers[peak][0] // step - 9  # 9 positions below the peak at most
    if x[second] > -NO_POSITION:
        base = max(base, powers[second][0] // step)
    others = [powers[j] for j in range(len(x)) if j != peak and x[j] > -NO_POSITION]
    units, left = [0] * levels, [0] * levels
    for level in range(levels):
        for n, p in others:
            term = p * Fraction(2) ** max(n - step * (base + level) + unit, -99)  # less would be 0 just as well
            units[level] += round(term)  # ties to even
            left[level] += round((term - round(term)) * 2 ** (rest or 0))
    return base, units if rest is None else units + left


def loss_of_units(base, units, peak, target, dtype):
    """Return log1p(sum of the other terms / exp(peak)) and peak - target, whose sum is the loss, in 60 digits."""
    step, unit, levels, rest = GRIDS[dtype]
    total = Fraction(units[0]) + (0 if rest is None else Fraction(units[levels], 2**rest))
    with localcontext() as context:
        context.prec = 60
        scale = ((step * base - unit) * Decimal(2).ln() - Decimal(peak)).exp()
        others = scale * Decimal(total.numerator) / Decimal(total.denominator)
        return (1 + others).ln() if others > Decimal("1e-30") else others, Decimal(peak) - Decimal(target)
