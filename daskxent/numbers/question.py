"""What is asked of every row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any

from daskxent.numbers import keys, reading, statistics
from daskxent.numbers.keys import Bins, Cells, Classwise, Group, Predicted, Ranks, Reliability
from daskxent.numbers.reading import MOST
from daskxent.numbers.records import MOST_CLASSES
from daskxent.numbers.row_choices import MOST_ROWS, SHOWN_COLUMNS, WORST_BY, Pick
from daskxent.numbers.scores import COLUMNS, SHAPED, SUMMED
from daskxent.numbers.softmax_sums import BETAS
from daskxent.numbers.statistics import (
    CALIBRATION,
    CLASS_PROBABILITY,
    DERIVED,
    HIT,
    IS_LABEL,
    OF_LOGITS,
    OF_ONE_LABEL,
    UNITS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from daskxent.numbers.keys import By, Slicing
    from daskxent.numbers.statistics import Statistic


# By these sums of classes are kept.
TRUE_CLASS, PREDICTED_CLASS = Group("true class", "labels"), Predicted("predicted class")
RANKS = Ranks("rank of the label")
FINE_BINS = 4096  # of which bins of about equal mass are made
MOST_BINS = 1000
CLASSWISE = "class in a bin"
MOST_CLASSWISE = 10_000
_LISTS = ("metrics", "columns", "ignore_class", "class_weight", "histograms")
# What JSON has for fields of these types; the others are read by more than their type.
_TYPES: dict[Any, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "float": (float, int), "str": (str,),
    "float | None": (float, int, NoneType), "str | None": (str, NoneType),
    "tuple[int, ...]": (list,), "tuple[float, ...]": (list,),
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is asked of every row.

    Parameters
    ----------
    metrics : tuple of str
        Names known to `statistics.metric`.
    classes : int
        Number of classes.
    from_logits : bool
        Predictions are logits; otherwise probabilities.
    log_probabilities : bool
        Predictions are log-probabilities, which are logits whose loss is taken as it is.
    dense : bool
        Labels are one-hot or soft, one number per class.
    ignore_class : tuple of int
        Rows with one of these labels are left out.
    label_smoothing : float
        Share of each label spread evenly over the classes.
    on_invalid : {"raise", "skip", "count"}
        What to do with labels out of range or not finite and with rows of NaN or infinities; see `evaluate`.
    allow_negative_weights : bool
        Negative weights are an error otherwise.
    on_missing : {"raise", "fill"} or None
        What to do with chunks that are not stored; None raises for predictions and fills labels and weights.
    by : tuple of Slicing
        By which sums are kept as well, each of another name.
    class_weight : tuple of float
        What the weight of a row is multiplied by, by its label.
    worst, sample : int
        How many rows to keep in which `worst_by` is largest, and at random; `seed` chooses those.
    worst_by : {"crossentropy", "confidence", "entropy"}
        "confidence" is that of wrong predictions.
    seed : int
    per_class, confusions : bool
        Whether sums are kept for each class that is true, or predicted, and for each pair of them.
    clusters : By, optional
        What rows of one key are taken to depend on one another by; by default no rows do.
    average : {"row", "cluster"}
        Whether means are over rows or over the means of clusters.
    columns : tuple of str
        Columns of `Scores` that are wanted besides those that metrics and groupings need.
    bins : int
        Of confidences, for the calibration.
    histograms : tuple of str
        Statistics whose values are counted in cells.
    ranks : bool
        Whether it is counted how many classes are larger than the label's.
    bytes, words : int
        Of the whole text; 0 if there are none, or an array along the rows.
    temperature : float
        What the logits were divided by.
    worst_per_group : bool
        Whether the worst rows are kept of each group as well.
    zero_division : {0, 1} or None
        What precision and recall are of a class that is never predicted, or never true; None leaves it out of means.
    """

    metrics: tuple[str, ...]
    classes: int
    from_logits: bool = False
    dense: bool = False
    ignore_class: tuple[int, ...] = ()
    label_smoothing: float = 0.0
    on_invalid: str = "raise"
    allow_negative_weights: bool = False
    on_missing: str | None = None
    by: tuple[Slicing, ...] = ()
    columns: tuple[str, ...] = ()
    log_probabilities: bool = False
    class_weight: tuple[float, ...] = ()
    worst: int = 0
    worst_by: str = "crossentropy"
    sample: int = 0
    seed: int = 0
    per_class: bool = False
    confusions: bool = False
    clusters: By | None = None
    average: str = "row"
    bins: int = 15
    histograms: tuple[str, ...] = ()
    ranks: bool = False
    bytes: int = 0
    words: int = 0
    temperature: float = 1.0
    worst_per_group: bool = False
    zero_division: float | None = 0.0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - COLUMNS):
            raise ValueError(f"columns: {unknown[0]!r} is unknown; known are {', '.join(sorted(COLUMNS))}")
        if self.log_probabilities:
            self._check_log_probabilities()
        self._check_further()
        names = list(map(keys.name_of, self.slicings))
        if len(set(names)) < len(names):  # their sums would be under the same keys
            own = list(map(keys.name_of, self.by))
            if len(set(own)) < len(own):
                raise ValueError(f"by: expected groupings of different names, got {', '.join(own)}")
            clash = next((name for name in own if names.count(name) > 1), names[-1])
            raise ValueError(
                f"by: {clash!r} is what sums for another option are called; give the grouping another name"
            )
        if self.summed and self.classes > MOST_CLASSES:
            raise ValueError(f"y_pred: {self.classes} classes; crossentropy adds up at most {MOST_CLASSES}")

    def _check_further(self) -> None:
        """Refuse metrics, bins and means that cannot be."""
        binned = {by.of for slicing in self.by for by in slicing if isinstance(by, Bins)}
        self.check_values({*self.metrics, *self.histograms, *binned})
        self._check_rows()
        if "classwise_ece" in self.metrics and self.classes > MOST_CLASSWISE:
            raise ValueError(f"metrics: 'classwise_ece' is of at most {MOST_CLASSWISE:,} classes, got {self.classes:,}")
        if not 1 <= self.bins <= MOST_BINS:
            raise ValueError(f"calibration_bins: expected 1 to {MOST_BINS}, got {self.bins}")
        if self.zero_division not in (0, 1, None):
            raise ValueError(f"zero_division: expected 0, 1 or NaN, got {self.zero_division!r}")
        if self.average not in ("row", "cluster"):
            raise ValueError(f"average: expected row or cluster, got {self.average!r}")
        if self.average == "cluster" and self.clusters is None:
            raise ValueError("average: that of clusters needs clusters")
        if self.average == "cluster" and self.given_units:
            unit = min(self.given_units)
            raise ValueError(f"{unit}: a number is of the whole text; means of clusters need an array along the labels")
        self._check_names()

    def _check_names(self) -> None:
        """Refuse groupings that are called like a column of the tables that they are in."""
        own = {"rows", "weight"}.union(*({name, f"{name}_se", f"{name}_low", f"{name}_high"} for name in self.metrics))
        tables = {"slices": own, "worst rows": SHOWN_COLUMNS if self.worst_per_group else ()}
        for table, columns in tables.items():
            if clash := sorted({by.name for slicing in self.by for by in slicing}.intersection(columns)):
                raise ValueError(
                    f"by: {clash[0]!r} is a column of the table of {table}; give the grouping another name"
                )

    def check_values(self, names: AbstractSet[str]) -> None:
        """Refuse values of rows that these labels or predictions do not have.

        Raises
        ------
        ValueError
            One of them takes the probability of one label, or logits.
        """
        if (self.dense or self.label_smoothing) and names & OF_ONE_LABEL:
            raise ValueError(f"metrics: {min(names & OF_ONE_LABEL)!r} needs integer labels, without label_smoothing")
        if not self.from_logits and names & OF_LOGITS:
            raise ValueError(f"metrics: {min(names & OF_LOGITS)!r} is of logits: from_logits=True")

    def _check_rows(self) -> None:
        """Refuse single rows that cannot be kept."""
        if self.worst_by not in WORST_BY:
            raise ValueError(f"worst_by: expected one of {', '.join(WORST_BY)}, got {self.worst_by!r}")
        for name, count in (("worst", self.worst), ("sample", self.sample)):
            if not 0 <= count <= MOST_ROWS:
                raise ValueError(f"{name}: expected at most {MOST_ROWS:,} rows, got {count}")
        if self.worst_per_group and not (self.worst and self.by):
            raise ValueError("worst_per_group: needs worst=N, and by")

    def _check_log_probabilities(self) -> None:
        """Refuse what takes more than the log-probability of the label."""
        for what, asked in (("one-hot or soft labels", self.dense), ("label_smoothing", self.label_smoothing)):
            if asked:
                raise ValueError(f"predictions: log_probabilities are taken as they are; {what} would need logits")
        for name in sorted({"total", "confidence", *SHAPED} & self.needs):
            takers = (each for each in (*self.metrics, *self.histograms) if name in statistics.columns_of(each))
            what = next(takers, name)
            raise ValueError(f"predictions: log_probabilities are taken as they are; {what!r} would need logits")

    @cached_property
    def picks(self) -> dict[str, Pick]:
        """Which rows are kept one by one, by what they are called."""
        logs = self.log_probabilities
        found = {
            "worst": Pick(self.worst, self.worst_by, logs=logs),
            "sample": Pick(self.sample, "", self.seed, logs=logs),
        }
        for slicing in self.by if self.worst_per_group else ():
            found[f"worst by {keys.name_of(slicing)}"] = Pick(self.worst, self.worst_by, per=slicing, logs=logs)
        return {name: pick for name, pick in found.items() if pick.most}

    @cached_property
    def slicings(self) -> tuple[Slicing, ...]:
        """All slicings that sums are kept by: those asked for, that by clusters, and each of them by clusters too."""
        found, tables = [*self.by], self._tables
        if self.per_class or "classes" in tables:
            found += [(TRUE_CLASS,), (PREDICTED_CLASS,)]
        if self.clusters is not None:
            by = [*self.by, *([(TRUE_CLASS,)] if self.per_class else [])]
            found += [(self.clusters,), *((*slicing, self.clusters) for slicing in by)]
        found += [(TRUE_CLASS, PREDICTED_CLASS)] if self.confusions else []
        found += [(each,) for each in self.reliabilities.values()]
        found += [(Classwise(CLASSWISE, self.bins),)] if "classwise" in tables else []
        found += [(Cells(f"cells of {name}", name),) for name in self.histograms]
        return (*found, *([(RANKS,)] if self.ranks else []))

    @cached_property
    def _tables(self) -> frozenset[str]:
        """What rows are grouped by for the metrics: see `Derived.tables`."""
        return frozenset(DERIVED[name].tables for name in self.metrics if name in DERIVED)

    @cached_property
    def reliabilities(self) -> dict[str, Reliability]:
        """The groupings by confidence: of the predictions, in fine bins, and at each temperature."""
        found = {}
        if self._tables & {"reliability", "temperatures"}:
            found["reliability"] = Reliability("confidence bin", self.bins)
        if "fine reliability" in self._tables:
            found["fine"] = Reliability("fine confidence bin", FINE_BINS)
        for place, beta in enumerate(BETAS if "temperatures" in self._tables else ()):
            found[f"{beta:g}"] = Reliability(f"confidence bin at {beta:g}", self.bins, place)
        return found

    def kept_by(self, slicing: Slicing) -> tuple[tuple[Statistic, ...], bool]:
        """Return the statistics that a slicing has sums of, and whether their squares are kept too, for errors.

        Errors over clusters follow from the totals of each.
        """
        by = slicing[0]
        if isinstance(by, (Cells, Ranks)) or PREDICTED_CLASS in slicing:
            return (), False  # rows are only counted, and their weights added up
        if isinstance(by, Classwise):
            return (CLASS_PROBABILITY, IS_LABEL), False
        if isinstance(by, Reliability):
            names = CALIBRATION if by.place < 0 else (HIT, statistics.at("confidence", BETAS[by.place]))
            return tuple(each for each in self.statistics if each.name in names), False
        if slicing == (self.clusters,):
            return self.statistics, False
        return self._of_means, self.clusters is None

    @cached_property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that the metrics need, each once."""
        return self._of(self.metrics)

    def of_text(self, name: str) -> bool:
        """Return whether a metric is per byte or word of a whole text whose length was given as a number."""
        return statistics.metric(name).per in self.given_units

    @cached_property
    def given_units(self) -> dict[str, int]:
        """The bytes and words of the whole text that were given as numbers."""
        return {name: getattr(self, name) for name in UNITS if getattr(self, name)}

    @cached_property
    def _of_means(self) -> tuple[Statistic, ...]:
        """The statistics of metrics that groups of rows have too."""
        return self._of(name for name in self.metrics if name not in DERIVED)

    def _of(self, metrics: Iterable[str]) -> tuple[Statistic, ...]:
        names = dict.fromkeys(each for name in metrics for each in statistics.needed_by(name))
        names |= {HIT: None} if self.per_class or "classes" in self._tables else {}
        left_out = self.given_units.keys() | set(map(statistics.both_of, self.given_units))
        return tuple(statistics.statistic(name) for name in names if name not in left_out)

    @cached_property
    def needs(self) -> frozenset[str]:
        """The columns that statistics and groupings need, and `target`, which the audit shows of probabilities.

        Where rows of an infinite loss, or of none, are left out, it takes the loss to know them.
        """
        needs = frozenset(self.columns)
        groupings = [by for slicing in self.slicings for by in slicing]
        needs = needs.union(*(each.needs for each in self.statistics), *(by.needs for by in groupings))
        needs = needs.union(*(pick.needs for pick in self.picks.values()))
        needs -= self.given_units.keys()
        may_lack_loss = self.from_logits or self.dense or bool(self.label_smoothing)
        needs |= {"loss"} if self.on_invalid == "skip" and may_lack_loss else frozenset()
        needs |= {"peak"} if needs & SHAPED else frozenset()
        needs |= {"target"} if "curve" in needs else frozenset()
        return needs if self.from_logits or not needs & SUMMED else needs | {"target"}

    @property
    def needs_loss(self) -> bool:
        """Whether anything is made of the loss."""
        return "loss" in self.needs

    @property
    def summed(self) -> bool:
        """Whether anything is made of the sum over the classes."""
        return bool(self.needs & SUMMED)

    @property
    def whole_rows(self) -> bool:
        """Whether scoring needs all classes of a row in memory."""
        return self.softened or bool(self.needs & SHAPED) or self.ranked

    @property
    def softened(self) -> bool:
        """Whether labels are numbers of all classes: dense ones, and smoothed ones."""
        return self.dense or bool(self.label_smoothing and self.needs_loss)

    @cached_property
    def depth(self) -> int:
        """How many of a row's largest values are needed; a label is among as many as there are classes anyway."""
        if "above" in self.columns or any("above" in by.needs for slicing in self.slicings for by in slicing):
            return statistics.ALL
        depths = (each.depth for each in self.statistics)
        return max((1 if self.classes <= depth < statistics.ALL else depth for depth in depths), default=0)

    @property
    def ranked(self) -> bool:
        """Whether `above` is needed beyond any depth."""
        return self.depth == statistics.ALL

    def to_json(self) -> dict[str, Any]:
        """Return the question as plain lists, numbers and strings."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        clusters = None if self.clusters is None else keys.to_json((self.clusters,))
        return found | lists | {"by": list(map(keys.to_json, self.by)), "clusters": clusters}

    @classmethod
    def from_json(cls, data: Any) -> Question:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else: the message names the field.
        """
        read = reading.mapping(data, "question", *cls.__dataclass_fields__)
        for name, each in cls.__dataclass_fields__.items():
            if each.type in _TYPES:
                reading.one_of(read[name], name, *_TYPES[each.type])
        reading.whole(read["classes"], "classes", 1)
        for name in ("metrics", "columns", "histograms"):
            for each in reading.several(read[name], name):
                reading.one_of(each, name, str)
        for name in UNITS:
            reading.whole(read[name], name, 0)
        for name in read["metrics"]:
            statistics.metric(name)
        for name in read["histograms"]:
            statistics.statistic(name)
        for weight in read["class_weight"]:
            reading.one_of(weight, "class_weight", float, int)
        for label in read["ignore_class"]:
            reading.whole(label, "ignore_class", -MOST, MOST)
        tuples = {name: tuple(read[name]) for name in _LISTS}
        by = tuple(map(keys.from_json, reading.several(read["by"], "by")))
        clusters = None if read["clusters"] is None else keys.from_json(read["clusters"])[0]
        return cls(**{**read, **tuples, "by": by, "clusters": clusters})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields alone: what is made of them holds functions that do not pickle.

        The last ones are left out if they are as usual: questions go with every task.
        """
        values = [(getattr(self, name), each.default) for name, each in self.__dataclass_fields__.items()]
        while values[-1][0] == values[-1][1]:
            values.pop()
        return type(self), tuple(value for value, _ in values)
