"""The statistics and the metrics by name.

A *statistic* is one value per row, made of the columns of `Scores`. A state keeps the exact total of each; its weighted
mean is the metric of the same name. Other metrics are functions of such a mean.
"""

from __future__ import annotations

import difflib
import math
import re
from decimal import Context, Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import elementary
from daskxent.numbers.classes import CLASS_METRICS, KAPPAS
from daskxent.numbers.scores import UNRANKED
from daskxent.numbers.softmax_sums import BETAS, BETWEEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from daskxent.numbers.scores import Scores

LOSS, HIT = "crossentropy", "accuracy"
UNITS = "bytes", "words"  # of text
LN2 = 0.6931471805599453
ALL = 1 << 30  # a depth beyond all classes
LEAST_LOG = 700.0  # exp(-loss) of a larger loss is 0
_DIGITS = Context(prec=40, traps=[])  # more than twice those of a float64


class Statistic(NamedTuple):
    """One value per row.

    Attributes
    ----------
    name : str
        What it and its weighted mean are called.
    needs : frozenset of str
        Columns of `Scores` it is made of.
    value : callable
        From ``(scores, labels)`` to (n,) bool or float64: the value of every row. Float columns are NaN in rows
        without a value, and so is what is made of them.
    unit : str
        Unit of the value; "" for a share or a plain number.
    depth : int
        How many of the largest values `above` has to distinguish; 0 if `above` is not needed.
    share : bool
        Whether each value is 0 or 1, and the mean a share of the rows; more of them are better.
    most : float
        No value is above.
    whole : bool
        Whether values are whole numbers.
    better : bool
        Whether larger values are better, or of predictions that are surer.
    """

    name: str
    needs: frozenset[str]
    value: Callable[[Scores, NDArray[Any]], NDArray[Any]]
    unit: str = ""
    depth: int = 0
    share: bool = False
    most: float = math.inf
    whole: bool = False
    better: bool = False


class Metric(NamedTuple):
    """A function of the weighted mean of a statistic, or of the ratio of the totals of two.

    Attributes
    ----------
    name : str
        What users call it.
    statistic : str
        The statistic it is made of.
    finish : callable
        From the mean to the metric, which increases with it.
    slope : callable
        From the mean to the derivative of `finish` there.
    unit : str
        Unit of the metric; "" for a share or a plain number.
    per : str
        The statistic whose total the other's is divided by, instead of the weights; "" for a mean.
    """

    name: str
    statistic: str
    finish: Callable[[float], float]
    slope: Callable[[float], float]
    unit: str
    per: str = ""

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics that it takes: for the error of a ratio their sum too, as its square has their product."""
        return (self.statistic, self.per, both_of(self.per)) if self.per else (self.statistic,)


class Derived(NamedTuple):
    """A metric that is made of sums by key, and of statistics: see `numbers.derived`.

    Attributes
    ----------
    name : str
        What users call it.
    statistics : tuple of str
        The statistics that it takes.
    tables : str
        What rows are grouped by for it: "classes", "reliability", "fine reliability", "classwise", "temperatures".
    """

    name: str
    statistics: tuple[str, ...]
    tables: str


def statistic(name: str) -> Statistic:
    """Return the statistic called `name`.

    Raises
    ------
    ValueError
        There is no such statistic.

    Examples
    --------
    >>> sorted(statistic("top_5_accuracy").needs), statistic("top_5_accuracy").depth
    (['above'], 5)
    """
    k = depth_of(name) if isinstance(name, str) else 0
    if k:
        return _in_top(name, k)
    found = STATISTICS.get(name) or _INNER.get(name)
    if found is None:
        names = [*STATISTICS, *METRICS, *DERIVED]
        like = difflib.get_close_matches(str(name), names, 1)
        hint = f"; did you mean {like[0]!r}?" if like else ""
        known = ", ".join(map(repr, names))
        raise ValueError(f"metrics: {name!r} is unknown; known are {known} and 'top_K_accuracy' for any K{hint}")
    return found


def metric(name: str) -> Metric:
    """Return the metric called `name`.

    Raises
    ------
    ValueError
        There is no such metric.

    Examples
    --------
    >>> metric("bits").statistic, metric("bits").finish(LN2)
    ('crossentropy', 1.0)
    """
    if isinstance(name, str) and name in METRICS:
        return METRICS[name]
    if isinstance(name, str) and name in DERIVED:
        return Metric(name, "", lambda mean: math.nan, lambda mean: math.nan, "")
    return Metric(name, name, _mean, lambda mean: 1.0, statistic(name).unit)


def needed_by(name: str) -> tuple[str, ...]:
    """Return the statistics that a metric takes.

    Examples
    --------
    >>> needed_by("bits"), needed_by("macro_f1")
    (('crossentropy',), ('accuracy',))
    """
    return DERIVED[name].statistics if name in DERIVED else metric(name).statistics


def columns_of(name: str) -> frozenset[str]:
    """Return the columns of `Scores` that the statistics of a metric are made of."""
    return frozenset[str]().union(*(statistic(each).needs for each in needed_by(name)))


def depth_of(name: str) -> int:
    """Return K of a metric called top_K_accuracy, less than `ALL`, beyond which all are the same; 0 of others.

    Examples
    --------
    >>> depth_of("top_5_accuracy"), depth_of("top_99999999999999999999_accuracy") == ALL - 1, depth_of("accuracy")
    (5, True, 0)
    """
    top = re.fullmatch(r"top_([1-9]\d*)_accuracy", name, re.ASCII)
    return int(top[1]) if top and len(top[1]) < len(str(ALL)) else ALL - 1 if top else 0


def _in_top(name: str, k: int) -> Statistic:
    return Statistic(name, frozenset({"above"}), lambda scores, labels: scores.above < k, depth=k, share=True)


def _mean(mean: float) -> float:
    return mean


def _bits(mean: float) -> float:
    return mean / LN2


def _perplexity(mean: float) -> float:
    """Return e**mean, rounded correctly: the last bit of math.exp depends on the processor."""
    return float(Decimal(mean).exp(_DIGITS))


def _label_probability(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    loss = scores.loss
    with np.errstate(invalid="ignore"):
        finite = np.where(loss < LEAST_LOG, loss, 0.0)
        return np.where(loss < LEAST_LOG, elementary.exp(-finite), np.where(np.isnan(loss), np.nan, 0.0))


def _brier(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return sum_c (p_c - 1{c = y})**2, between 0 and 2.

    The squares of the other classes are sum_p2 - p**2, of which rounding may leave anything where p is near 1; they are
    at least 0, and at most the square of their sum, 1 - p.
    """
    p = _label_probability(scores, labels)
    most = (1.0 - p) ** 2
    return most + np.clip(scores.sum_p2 - p * p, 0.0, most)


def _margin(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):  # of infinities, and of the largest numbers
        return scores.peak - scores.second


def _rank(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return 1 and how many classes are larger than the label's."""
    return np.where(scores.above == UNRANKED, np.nan, scores.above + 1.0)


def _reciprocal_rank(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    return 1.0 / _rank(scores, labels)


def _logsumexp(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # of infinities
        return elementary.log(scores.total) + scores.peak


def _z_loss(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    found = _logsumexp(scores, labels)
    with np.errstate(over="ignore"):  # beyond 1e154
        return found * found


def _distance(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far the number of the predicted class is from that of the label; only a class has a target."""
    known = (scores.prediction >= 0) & ~np.isnan(scores.target)
    return np.where(known, np.abs(labels - scores.prediction), np.nan)


def _squared_distance(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    found = _distance(scores, labels)
    return found * found


def _text_loss(scores: Scores, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the loss; 0 where the label stands for no bytes."""
    return scores.loss if scores.bytes is None else np.where(scores.bytes > 0, scores.loss, 0.0)


def both_of(per: str) -> str:
    """Return what the sum of two statistics is called, of which a ratio is made."""
    return f"_nats_and_{per}"


def at(what: str, beta: float) -> str:
    """Return what a statistic at an inverse temperature is called: the "loss", its "slope" or the "confidence"."""
    return f"_{what}_at_{beta:g}"


def _at_temperatures() -> Iterator[Statistic]:
    """Yield loss and confidence at each inverse temperature, and the slope of the loss between two."""
    for what, betas in (("loss", BETAS), ("confidence", BETAS), ("slope", BETWEEN)):
        for place, beta in enumerate(betas):
            yield Statistic(at(what, beta), frozenset({"curve"}), partial(_of_curve, what=what, place=place))


def _of_curve(scores: Scores, labels: NDArray[Any], what: str, place: int) -> NDArray[np.float64]:
    curve = scores.curve
    return curve.slope(place) if what == "slope" else (curve.loss if what == "loss" else curve.confidence)[place]


STATISTICS = {
    each.name: each
    for each in (
        Statistic(LOSS, frozenset({"loss"}), lambda scores, labels: scores.loss, "nats"),
        Statistic(HIT, frozenset({"hit"}), lambda scores, labels: scores.hit, share=True),
        Statistic("entropy", frozenset({"entropy"}), lambda scores, labels: scores.entropy, "nats"),
        Statistic("brier", frozenset({"sum_p2", "loss"}), _brier, most=2.0),
        Statistic(
            "confidence", frozenset({"confidence"}), lambda scores, labels: scores.confidence, most=1.0, better=True
        ),
        Statistic("label_probability", frozenset({"loss"}), _label_probability, most=1.0, better=True),
        Statistic("margin", frozenset({"peak", "second"}), _margin, better=True),
        Statistic("rank", frozenset({"above"}), _rank, depth=ALL, whole=True),
        Statistic("mrr", frozenset({"above"}), _reciprocal_rank, depth=ALL, most=1.0, better=True),
        Statistic("logsumexp", frozenset({"peak", "total"}), _logsumexp, "nats"),
        Statistic("z_loss", frozenset({"peak", "total"}), _z_loss),
        Statistic("class_distance", frozenset({"prediction", "target"}), _distance, whole=True),
        Statistic("squared_class_distance", frozenset({"prediction", "target"}), _squared_distance, whole=True),
        Statistic("bytes", frozenset({"bytes"}), lambda scores, labels: scores.bytes, "bytes"),
        Statistic("words", frozenset({"words"}), lambda scores, labels: scores.words, "words"),
    )
}
# Those that are values of rows to be counted or binned.
VALUES = tuple(name for name in STATISTICS if name not in (HIT, *UNITS))
# What others are made of; no metrics.
_INNER = {
    each.name: each
    for each in (
        Statistic("_confidence_squared", frozenset({"confidence"}), lambda scores, labels: scores.confidence**2),
        Statistic(
            "_confidence_of_hits",
            frozenset({"confidence", "hit"}),
            lambda scores, labels: np.where(scores.hit, scores.confidence, 0.0),
        ),
        Statistic("_text_loss", frozenset({"loss", "bytes"}), _text_loss),
        Statistic(
            "_nats_and_bytes",
            frozenset({"loss", "bytes"}),
            lambda scores, labels: _text_loss(scores, labels) + scores.bytes,
        ),
        Statistic("_nats_and_words", frozenset({"loss", "words"}), lambda scores, labels: scores.loss + scores.words),
        *_at_temperatures(),
    )
}
# What the sums of a class in a bin are of: its probability, and whether it is the label.
CLASS_PROBABILITY = Statistic(
    "_class_probability", frozenset({"probabilities"}), lambda scores, labels: scores.probabilities
)
IS_LABEL = Statistic("_is_label", frozenset(), lambda scores, labels: labels, share=True)
# Statistics that are kept as columns of rows, besides those that are columns of `Scores`.
KEPT = ("brier", "label_probability", "margin", "rank", "logsumexp", "z_loss")
# Those that only integer labels have, without smoothing: they take exp(-loss) for the probability of the label.
OF_ONE_LABEL = frozenset({"brier", "label_probability", "temperature", "classwise_ece"})
# Those that take logits.
OF_LOGITS = frozenset({"logsumexp", "z_loss", "temperature"})
METRICS = {
    each.name: each
    for each in (
        Metric("perplexity", LOSS, _perplexity, _perplexity, ""),
        Metric("bits", LOSS, _bits, lambda mean: 1 / LN2, "bits"),
        Metric("bits_per_byte", "_text_loss", _bits, lambda mean: 1 / LN2, "bits", "bytes"),
        Metric("byte_perplexity", "_text_loss", _perplexity, _perplexity, "", "bytes"),
        Metric("word_perplexity", LOSS, _perplexity, _perplexity, "", "words"),
    )
}
CALIBRATION = (HIT, "confidence", "_confidence_squared", "_confidence_of_hits")
_AT_TEMPERATURES = tuple(each.name for each in _at_temperatures())
DERIVED = {
    each.name: each
    for each in (
        *(Derived(name, (HIT,), "classes") for name in CLASS_METRICS),
        *(Derived(name, (HIT, distance), "classes") for name, distance in KAPPAS.items()),
        *(
            Derived(name, CALIBRATION, "reliability")
            for name in ("ece", "mce", "rmsce", "ece_debiased", "overconfidence")
        ),
        Derived("ece_equal_mass", CALIBRATION, "fine reliability"),
        Derived("classwise_ece", (), "classwise"),
        Derived("temperature", (*CALIBRATION, *_AT_TEMPERATURES), "temperatures"),
    )
}
