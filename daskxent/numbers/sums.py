"""The exact sums over some rows: of values, of weights, and of what the errors of their means are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import reading
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.status import COUNTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.numbers.status import Scored


_NOTHING = ExactSum()


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums of products over clusters, of which each row is one if none are named.

    With A the sum of weight times value of a cluster and B that of its weights, the error of A's total over B's
    follows.

    Parameters
    ----------
    count : int
        Number of clusters.
    squares : mapping of str to ExactSum
        Sum of A * A for each statistic.
    products : mapping of str to ExactSum
        Sum of A * B for each statistic.
    weights : ExactSum
        Sum of B * B.
    """

    count: int = 0
    squares: Mapping[str, ExactSum] = field(default_factory=dict)
    products: Mapping[str, ExactSum] = field(default_factory=dict)
    weights: ExactSum = _NOTHING

    @classmethod
    def all(cls, several: Sequence[Moments]) -> Moments:
        """Return the moments of all clusters of several."""
        return cls(
            sum(each.count for each in several),
            _by_name(each.squares for each in several),
            _by_name(each.products for each in several),
            sum((each.weights for each in several), ExactSum()),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the moments as plain numbers and strings, losslessly."""
        return {
            "count": self.count,
            "squares": _named_to_json(self.squares),
            "products": _named_to_json(self.products),
            "weights": self.weights.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any, name: str) -> Moments:
        """Read what `to_json` wrote."""
        read = reading.mapping(data, name, "count", "squares", "products", "weights")
        return cls(
            reading.whole(read["count"], f"{name} count"),
            _named_from_json(read["squares"], "squares"),
            _named_from_json(read["products"], "products"),
            ExactSum.from_json(read["weights"], "weights"),
        )


@dataclass(frozen=True, slots=True)
class Sums:
    """The exact sums over the counted rows of one key.

    Parameters
    ----------
    totals : mapping of str to ExactSum
        Sum of weight times value for each statistic.
    weight : ExactSum
        Sum of the weights.
    counted : int
        Number of rows.
    clipped_loss : ExactSum
        What the rows whose label's probability was clipped add to the loss.
    moments : Moments
        Of the rows, each a cluster of its own.
    """

    totals: Mapping[str, ExactSum] = field(default_factory=dict)
    weight: ExactSum = _NOTHING
    counted: int = 0
    clipped_loss: ExactSum = _NOTHING
    moments: Moments = field(default_factory=Moments)

    @classmethod
    def of(cls, found: Mapping[str, ExactSum], counted: int, clipped_loss: ExactSum | None = None) -> Sums:
        """Return the sums of the terms that `terms_of` yields, by their names."""
        names = [name.removesuffix(TOTAL_OF) for name in found if name.endswith(TOTAL_OF)]
        totals = {name: found[name + TOTAL_OF] for name in names}
        squares = {name: found.get(name + SQUARES_OF, totals[name]) for name in names}
        products = {name: found.get(name + PRODUCTS_OF, totals[name]) for name in names}
        weight, own = (found.get(name, ExactSum.whole(counted)) for name in (WEIGHT, WEIGHT_SQUARES))
        return cls(totals, weight, counted, clipped_loss or ExactSum(), Moments(counted, squares, products, own))

    @classmethod
    def all(cls, several: Sequence[Sums]) -> Sums:
        """Return the sums over several sets of rows, in a time that grows with what they hold."""
        weight, clipped = (
            sum(each, ExactSum()) for each in zip(*((s.weight, s.clipped_loss) for s in several), strict=True)
        )
        counted, moments = sum(sums.counted for sums in several), Moments.all([sums.moments for sums in several])
        return cls(_by_name(sums.totals for sums in several), weight, counted, clipped, moments)

    def to_json(self) -> dict[str, Any]:
        """Return the sums as plain lists, numbers and strings, losslessly."""
        return {
            "totals": _named_to_json(self.totals),
            "weight": self.weight.to_json(),
            "counted": self.counted,
            "clipped_loss": self.clipped_loss.to_json(),
            "moments": self.moments.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Sums:
        """Read what `to_json` wrote."""
        read = reading.mapping(data, "sums", "totals", "weight", "counted", "clipped_loss", "moments")
        return cls(
            _named_from_json(read["totals"], "totals"),
            ExactSum.from_json(read["weight"], "weight"),
            reading.whole(read["counted"], "counted"),
            ExactSum.from_json(read["clipped_loss"], "clipped_loss"),
            Moments.from_json(read["moments"], "moments"),
        )

    def check(self, names: Sequence[str], rows: int, where: str) -> None:
        """Raise if the sums are not those of these statistics over at most this many rows."""
        for what, named in (
            ("totals", self.totals), ("squares", self.moments.squares), ("products", self.moments.products),
        ):  # fmt: skip
            reading.mapping(dict(named), f"{what} of {where}", *names)
        reading.whole(self.counted, "counted", 0, rows)
        reading.whole(self.moments.count, "moments count", 0, rows)


# Names of sums, and what the name of a statistic is followed by in them.
WEIGHT, WEIGHT_SQUARES = "weight", "squares"
TOTAL_OF, SQUARES_OF, PRODUCTS_OF = " total", " squares", " products"


def terms_of(question: Question, rows: Scored, at: Any, kept: frozenset[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield those terms in `kept` that are added up of some rows, all of which count, by name.

    They are bool where each is 0 or 1. Where there are no weights, what would be equal to another sum is left out: see
    `Sums.of`.
    """
    weights = None if rows.weights is None else rows.weights[at]
    for each in question.statistics:
        if each.name + TOTAL_OF not in kept:
            continue
        values = each.value(rows.scores, rows.labels)[at]
        if each.share and weights is None:
            yield each.name + TOTAL_OF, values.astype(bool, copy=False)
            continue
        names = [name for of in (TOTAL_OF, SQUARES_OF, PRODUCTS_OF) if (name := each.name + of) in kept]
        yield from zip(names, _terms(values, weights), strict=False)
    if weights is not None:
        yield from zip((WEIGHT, WEIGHT_SQUARES), _terms(weights, None), strict=True)


def exact_sums(
    values: NDArray[Any], weights: NDArray[np.float64] | None = None, status: NDArray[np.uint16] | None = None
) -> list[ExactSum]:
    """Return the sums of a column: of weight times value, of the squares of that, and of its products with the weight.

    Parameters
    ----------
    values : (n,) array
        Of float64 or bool.
    weights : (n,) float64, optional
        Without, all are 1, and there are no products.
    status : (n,) uint16, optional
        The rows that have `COUNTED` are added up; without, all are.
    """
    at: Any = slice(None) if status is None else np.flatnonzero(status & COUNTED)
    return [ExactSum.of(each) for each in _terms(values[at], None if weights is None else weights[at])]


def _terms(values: NDArray[Any], weights: NDArray[np.float64] | None) -> Iterator[NDArray[np.float64]]:
    """Yield weight times value, the squares of that, and, with weights, its products with the weight."""
    terms = values.astype(np.float64, copy=False) if weights is None else weighted(values, weights)
    yield terms
    yield squared(terms)
    if weights is not None:
        yield weighted(terms, weights)


def weighted(values: NDArray[Any], weights: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return values times weights; 0 stays 0, whatever the weight."""
    with np.errstate(over="ignore", invalid="ignore"):  # a product beyond float64 is infinite
        found: NDArray[np.float64] = values * weights
    found[values == 0] = 0.0
    return found


def squared(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squares of terms, infinite where they are beyond float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return terms * terms


def _by_name(several: Iterable[Mapping[str, ExactSum]]) -> dict[str, ExactSum]:
    found: dict[str, ExactSum] = {}
    for each in several:
        for name, total in each.items():
            found[name] = found[name] + total if name in found else total
    return found


def _named_to_json(sums: Mapping[str, ExactSum]) -> dict[str, Any]:
    return {name: total.to_json() for name, total in sorted(sums.items())}


def _named_from_json(data: Any, what: str) -> dict[str, ExactSum]:
    return {name: ExactSum.from_json(total, f"{what} {name}") for name, total in reading.mapping(data, what).items()}
