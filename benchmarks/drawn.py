"""Numbers for the questions of `against`, drawn as integers: the same in every process with the same NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

# Where the package changes its way: lanes, tiles, pieces, vectors, rows kept, NumPy or compiled.
LIMITS = (16, 32, 56, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 12288, 16384)
INTEGERS = ("i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1")


class Draw:
    """The choices of one question."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = np.random.default_rng([seed, number])

    def below(self, n: int) -> int:
        return int(self.rng.integers(n))

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def among(self, choices: Sequence[Any]) -> Any:
        return choices[self.below(len(choices))]

    def weighted(self, weights: dict[Any, int]) -> Any:
        """Return a key, as often as its weight says."""
        return self.among([key for key, weight in weights.items() for _ in range(weight)])

    def integers(self, low: int, high: int, *shape: int) -> NDArray[np.int64]:
        return self.rng.integers(low, high, shape)

    def places(self, n: int, *shape: int) -> NDArray[np.int64]:
        """Return places below n, half of them at either end or on either side of a limit."""
        near = np.array([0, n - 1, *(at for limit in LIMITS for at in (limit - 1, limit) if at < n)])
        return np.where(
            self.integers(0, 2, *shape) == 0, self.integers(0, n, *shape), near[self.integers(0, len(near), *shape)]
        )

    def rows(self, n: int, most: int = 5) -> NDArray[np.int64]:
        """Return a few rows of n, one at least."""
        return self.places(n, 1 + self.below(min(n, most)))

    def cuts(self, length: int, most: int = 4) -> tuple[int, ...]:
        """Cut a length into unequal pieces, none of them empty."""
        inside = {1 + self.below(length - 1) for _ in range(self.below(most))} if length > 1 else set()
        edges = [0, *sorted(inside), length]
        return tuple(stop - start for start, stop in pairwise(edges))


def bell(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    """Return numbers with a standard deviation of about 3, all bits of which are in use."""
    terms = 3 if rows * classes < 1 << 20 else 1  # large arrays are not worth the time
    return sum(draw.integers(-(1 << 23), 1 << 23, rows, classes) for _ in range(terms)) * (3.0**0.5 / (1 << 22))


# --- Predictions: (rows, classes) float64, to be rounded to their dtype. ---


def ties(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return draw.integers(-2, 3, rows, classes).astype(np.float64)


def equal(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return np.repeat(bell(draw, rows, 1), classes, axis=1)


def huge(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return bell(draw, rows, classes) * 10.0 ** draw.integers(3, draw.among([5, 39, 300]), rows, 1)


def minute(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return bell(draw, rows, classes) * 2.0 ** -draw.integers(8, draw.among([24, 140, 1060]), rows, 1)


def shifted(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return bell(draw, rows, classes) + draw.integers(-100_000, 100_000, rows, 1)


def spread(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return bell(draw, rows, classes) * draw.integers(1, 200, rows, 1)


def zeros(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return draw.among([0.0, -0.0]) * np.ones((rows, classes))


def peaked(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    values = bell(draw, rows, classes)
    values[np.arange(rows), draw.places(classes, rows)] += draw.among([10, 100, 1000])
    return values


def tied(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    """Return rows whose largest number stands in two or three places, often next to one another."""
    values, each = bell(draw, rows, classes), np.arange(rows)
    peak, at = values.max(axis=1), draw.places(classes, rows)
    for by in (0, 1, draw.among([0, 2, classes // 2])):
        values[each, (at + by) % classes] = peak
    return values


def holes(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return np.where(draw.integers(0, 4, rows, classes) == 0, -np.inf, bell(draw, rows, classes))


def normalised(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    parts = draw.integers(1, 1 << draw.among([1, 4, 30]), rows, classes)
    return parts / parts.sum(axis=1, keepdims=True)


def unnormalised(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    return normalised(draw, rows, classes) * draw.integers(1, 1 << 20, rows, 1) * 2.0**-18


def certain(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    values = np.zeros((rows, classes))
    values[np.arange(rows), draw.places(classes, rows)] = 1
    return values


def near_one(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    """Return rows that sum to 1 within about the tolerance of the audit, some just beyond it."""
    return normalised(draw, rows, classes) * (1 + draw.integers(-1200, 1200, rows, 1) * 1e-6)


LOGITS: dict[Callable[..., Any], int] = {
    bell: 10, ties: 4, equal: 1, huge: 2, minute: 2, shifted: 2, spread: 2, zeros: 1, peaked: 2, holes: 2, tied: 3,
}  # fmt: skip
PROBABILITIES: dict[Callable[..., Any], int] = {
    normalised: 12, unnormalised: 3, certain: 2, near_one: 3, zeros: 1, bell: 1, ties: 1,
}  # fmt: skip

INVALID = (np.nan, -np.nan, np.inf, -np.inf)


def with_exceptions(draw: Draw, values: NDArray[np.float64]) -> None:
    """Overwrite some rows, or single numbers, with what has rules of its own."""
    rows, classes = values.shape
    for _ in range(1 + draw.below(3)):
        some = draw.rows(rows)
        filling = draw.among([*INVALID, 0.0, -0.0, 1.0, 2.0, -1.0, 1e-8, 1e-7, 1e30, 5e-324])
        if draw.chance(50):
            values[some] = filling
        else:
            values[some, draw.places(classes, len(some))] = filling


def rounded(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Round to the dtype of predictions."""
    import ml_dtypes

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def any_bits(draw: Draw, rows: int, classes: int, dtype: str) -> NDArray[Any]:
    """Return predictions of random bits: subnormals, infinities and NaN of every kind among them."""
    import ml_dtypes

    of = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    drawn = draw.integers(-(1 << 62), 1 << 62, rows, classes) >> (63 - 8 * of.itemsize)
    return drawn.astype(f"i{of.itemsize}").view(of)


def predictions(draw: Draw, rows: int, classes: int, dtype: str, from_logits: bool) -> NDArray[Any]:
    """Return (rows, classes) predictions of any kind."""
    if draw.chance(4):
        return any_bits(draw, rows, classes, dtype)
    values = draw.weighted(LOGITS if from_logits else PROBABILITIES)(draw, rows, classes)
    if draw.chance(20):
        with_exceptions(draw, values)
    return rounded(values, dtype)


# --- Labels. ---


def labels(draw: Draw, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return a class of each row: the first or last of the largest, or any."""
    rows, classes = values.shape
    with np.errstate(invalid="ignore"):
        numbers = np.nan_to_num(values.astype(np.float64))
    first, last = numbers.argmax(axis=1), classes - 1 - numbers[:, ::-1].argmax(axis=1)
    return np.choose(
        draw.integers(0, 4, rows), [first, last, draw.integers(0, classes, rows), draw.places(classes, rows)]
    )


def misplaced(draw: Draw, found: NDArray[np.int64], classes: int) -> None:
    """Overwrite some labels with ones out of range."""
    found[draw.rows(len(found))] = draw.among([-1, -2, classes, classes + 1, 255, 1 << 31, -(1 << 40)])


def in_some_dtype(draw: Draw, found: NDArray[np.int64]) -> NDArray[Any]:
    """Return labels in one of the integer dtypes that can hold them, sometimes with one that only uint64 holds."""
    low, high = int(found.min()), int(found.max())
    fits = [name for name in INTEGERS if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    stored = found.astype(draw.among(fits))
    if stored.dtype == np.uint64 and draw.chance(10):
        stored[draw.below(len(stored))] = draw.among([(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    return stored


def dense(draw: Draw, rows: int, classes: int) -> NDArray[Any]:
    """Return one-hot or soft labels."""
    if draw.chance(50):
        found = certain(draw, rows, classes)
    else:
        found = draw.among([normalised, unnormalised, ties, zeros])(draw, rows, classes)
    dtype = draw.among(["f4", "f4", "f8", "f2", "bfloat16"])
    if draw.chance(15):
        found[draw.rows(rows), draw.below(classes)] = draw.among([*INVALID, -0.5, 7.0])
    elif draw.chance(30) and (found == np.trunc(found)).all():
        return found.astype(draw.among(["i8", "i1", "u1" if found.min() >= 0 else "i2", "?"]))
    return rounded(found, dtype)


# --- Weights. ---


def weights(draw: Draw, positions: tuple[int, ...]) -> Any:
    """Return None, a number, or an array along the leading axes of the positions, each of that length or 1."""
    if draw.chance(45):
        return None
    if draw.chance(15):
        return draw.among([0, 1, 2, 0.5, 0.1, 1e-300, 1e300, -1.0, np.nan])
    shape = [n if draw.chance(85) else 1 for n in positions[: 1 + draw.below(len(positions))]]
    found = draw.integers(0, 1 << 20, *shape) * (0.3 / (1 << 16))
    if draw.chance(40):
        found[draw.integers(0, 3, *shape) == 0] = 0
    if draw.chance(10):
        found *= 2.0 ** draw.integers(*draw.among([(-1060, 960), (-30, 30)]), *shape)
    if draw.chance(25):
        special = {np.nan: 1, np.inf: 1, -np.inf: 1, -1.5: 2, -1e-9: 3, -0.0: 2, 5e-324: 2}
        found.reshape(-1)[draw.rows(found.size, 3)] = draw.weighted(special)
    dtype = draw.weighted({"f8": 5, "f4": 4, "f2": 1, "i4": 1, "?": 1})
    if dtype in ("i4", "?") and not (np.abs(found) < 1 << 20).all():
        dtype = "f8"
    return rounded(found, dtype)
