"""One question: what is asked, of which arrays, stored in which way; and how a plain one is drawn.

Sizes lie on both sides of every limit at which the package goes another way.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import drawn
import numpy as np

if TYPE_CHECKING:
    from drawn import Draw
    from numpy.typing import NDArray

DTYPES = {"f4": 8, "f2": 3, "bfloat16": 3, "f8": 4}
EDGES = [1, 2, 3, *(limit + by for limit in drawn.LIMITS for by in (-1, 0, 1)), 20_000]
MOST = 1 << 17  # predictions, but for the large questions
ON_DISK = ("npy", "zarr2", "zarr3", "sharded")


class Question(NamedTuple):
    """What is asked, and of what.

    Attributes
    ----------
    call : str
        A function of `answers`.
    y_true, y_pred, sample_weight : arrays, or a number or None for weights
    options : dict
        What else the call is given.
    stored : dict
        By the name of an array how it is stored: see `stored.keep`.
    extra : dict
        What the function of `answers` wants to know beyond that.
    """

    call: str
    y_true: Any
    y_pred: NDArray[Any]
    sample_weight: Any
    options: dict[str, Any]
    stored: dict[str, dict[str, Any]]
    extra: dict[str, Any]

    def described(self) -> dict[str, Any]:
        """Return all but the arrays, of which it says what they are."""
        arrays = {name: _shown(getattr(self, name)) for name in ("y_true", "y_pred", "sample_weight")}
        return {"call": self.call, **arrays, "options": self.options, "stored": self.stored, "extra": self.extra}

    def digest(self) -> str:
        """Return a digest of the arrays: both revisions must be given the same."""
        found = hashlib.sha256()
        for given in (self.y_true, self.y_pred, self.sample_weight):
            found.update(
                np.ascontiguousarray(given).tobytes() if isinstance(given, np.ndarray) else repr(given).encode()
            )
        return found.hexdigest()[:16]


def _shown(given: Any) -> Any:
    return f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else repr(given)


def size(draw: Draw) -> tuple[int, int]:
    """Return a number of rows and of classes."""
    kind = draw.below(100)
    if kind < 40:
        return 1 + draw.below(60), 1 + draw.below(70)
    if kind < 65:
        return 1 + draw.below(700), 1 + draw.below(150)
    if kind < 90:
        classes = draw.among(EDGES)
        fits = [rows for rows in EDGES if rows * classes <= MOST] or [1]
        return draw.among(fits[-20:] if draw.chance(70) else fits), classes
    return 1 + draw.below(12), 1_000 + draw.below(19_001)


def shaped(draw: Draw, rows: int) -> tuple[int, ...]:
    """Return the shape of about this many positions."""
    if draw.chance(65):
        return (rows,)
    first = 1 + draw.below(min(rows, 6))
    rest = -(-rows // first)
    if draw.chance(50):
        return draw.among([(first, rest), (rest, first)])
    second = 1 + draw.below(min(rest, 5))
    return (first, second, -(-rest // second))


def laid(draw: Draw, values: NDArray[Any], positions: tuple[int, ...], axis: int) -> NDArray[Any]:
    """Return (rows, classes) values as an array with the class axis in its place."""
    return np.ascontiguousarray(np.moveaxis(values.reshape(*positions, -1), -1, axis))


def metrics(draw: Draw, classes: int) -> list[str]:
    """Return a choice of metrics; deep tops as well, and a few deeper than there are classes."""
    k = draw.among([1, 2, 3, 5, 5, 10, max(1, classes // 2), max(1, classes - 1), classes])
    known = ["crossentropy", "accuracy", f"top_{k}_accuracy", "perplexity", "bits", f"top_{1 + draw.below(7)}_accuracy"]
    chosen = [name for name in known if draw.chance(45)]
    return chosen or ["crossentropy", "accuracy"]


def basic(draw: Draw, rows: int, classes: int, dense: bool | None = None) -> Question:
    """Return an evaluation of arrays in memory."""
    positions = shaped(draw, rows)
    rows, dtype, from_logits = math.prod(positions), draw.weighted(DTYPES), draw.chance(65)
    ndim = len(positions) + 1
    axis = -1 if draw.chance(55) else draw.among(range(-ndim, ndim))
    values = drawn.predictions(draw, rows, classes, dtype, from_logits)
    options: dict[str, Any] = {"metrics": metrics(draw, classes)}
    options |= {"from_logits": True} if from_logits else {}
    options |= {"axis": axis} if axis != -1 or draw.chance(20) else {}
    options |= {"label_smoothing": draw.among([0.1, 0.3, 1.0, 1e-6])} if draw.chance(10) else {}
    if dense is None:
        dense = draw.chance(16)
    if dense:
        y_true = laid(draw, drawn.dense(draw, rows, classes), positions, axis)
    else:
        y_true = sparse(draw, values, positions, axis, options)
    with np.errstate(invalid="ignore"):  # signalling NaN
        invalid = not np.isfinite(values.astype(np.float64)).all() or draw.chance(30)
    options |= {"on_invalid": draw.weighted({"raise": 1, "skip": 3, "count": 3})} if invalid else {}
    options |= {"allow_negative_weights": True} if draw.chance(50) else {}
    y_pred = laid(draw, values, positions, axis)
    if dtype == "bfloat16" and draw.chance(50):
        y_pred, options["view"] = y_pred.view("u2"), "bfloat16"
    extra = {"threads": 1 + draw.below(2)}
    return Question("evaluate", y_true, y_pred, drawn.weights(draw, positions), options, {}, extra)


def sparse(
    draw: Draw, values: NDArray[Any], positions: tuple[int, ...], axis: int, options: dict[str, Any]
) -> NDArray[Any]:
    """Return integer labels; what goes with them is put into the options."""
    classes = values.shape[1]
    found = drawn.labels(draw, values)
    if draw.chance(20):
        options["ignore_class"] = draw.among([-1, 0, classes - 1, 255, draw.below(classes)])
        if draw.chance(70):
            found[draw.rows(len(found), 20)] = options["ignore_class"]
    if draw.chance(12):
        drawn.misplaced(draw, found, classes)
        options["on_invalid"] = draw.among(["raise", "skip", "skip", "count", "count"])
    labels = drawn.in_some_dtype(draw, found).reshape(positions)
    if labels.dtype.kind in "biu" and options.get("ignore_class", 0) not in (labels.dtype.type(0), *labels.flat):
        del options["ignore_class"]  # a class that no label of the dtype can be was not refused before
    if draw.chance(10):
        labels = np.expand_dims(labels, draw.among([-1, axis]))
    return labels


def without_errors(asked: Question) -> Question:
    """Return a question without invalid labels and weights: where tasks race, any of them raises the error."""
    classes, weights = asked.y_pred.shape[asked.options.get("axis", -1)], asked.sample_weight
    if weights is not None:
        weights = np.nan_to_num(weights) if isinstance(weights, np.ndarray) else 0.5
    if asked.y_true.shape == asked.y_pred.shape:
        labels = np.nan_to_num(asked.y_true)
    else:
        inside = (asked.y_true >= 0) & (asked.y_true < classes) | (asked.y_true == asked.options.get("ignore_class"))
        labels = np.where(inside, asked.y_true, asked.y_true.dtype.type(0))
    return asked._replace(y_true=labels, sample_weight=weights)


def storable(asked: Question) -> Question:
    """Return a question whose bfloat16 predictions, if they go to disk, go there as bits."""
    how = asked.stored.get("y_pred", {"kind": "plain"})
    if asked.y_pred.dtype.name != "bfloat16" or {how["kind"], how.get("of")}.isdisjoint(ON_DISK):
        return asked
    if asked.call in ("loss_function", "loss_class", "metric"):
        return asked._replace(stored={name: each for name, each in asked.stored.items() if name != "y_pred"})
    return asked._replace(y_pred=asked.y_pred.view("u2"), options=asked.options | {"view": "bfloat16"})
