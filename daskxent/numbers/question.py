"""What is asked of every row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any

from daskxent.numbers import keys, reading, statistics
from daskxent.numbers.classes import CLASS_METRICS
from daskxent.numbers.keys import Group, Predicted
from daskxent.numbers.picks import MOST_ROWS, WORST_BY, Pick
from daskxent.numbers.reading import MOST
from daskxent.numbers.records import MOST_CLASSES
from daskxent.numbers.scores import COLUMNS, SUMMED
from daskxent.numbers.statistics import HIT

if TYPE_CHECKING:
    from daskxent.numbers.keys import By, Slicing
    from daskxent.numbers.statistics import Statistic


# By these sums of classes are kept.
TRUE_CLASS, PREDICTED_CLASS = Group("true class", "labels"), Predicted("predicted class")
_LISTS = ("metrics", "columns", "ignore_class", "class_weight")
_TYPES: dict[str, tuple[type, ...]] = {
    "from_logits": (bool,), "dense": (bool,), "ignore_class": (list,), "class_weight": (list,),
    "label_smoothing": (float, int),
    "worst": (int,), "worst_by": (str,), "sample": (int,), "seed": (int,),
    "per_class": (bool,), "confusions": (bool,), "average": (str,),
    "log_probabilities": (bool,),
    "on_invalid": (str,), "allow_negative_weights": (bool,),
    "on_missing": (str, NoneType),
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
    worst_by : {"crossentropy", "confidence"}
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

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - COLUMNS):
            raise ValueError(f"columns: {unknown[0]!r} is unknown; known are {', '.join(sorted(COLUMNS))}")
        if self.log_probabilities:
            self._check_log_probabilities()
        self._check_further()
        names = list(map(keys.name_of, self.slicings))
        if len(set(names)) < len(names):  # their sums would be under the same keys
            raise ValueError(f"by: expected groupings of different names, got {', '.join(names)}")
        if self.summed and self.classes > MOST_CLASSES:
            raise ValueError(f"y_pred: {self.classes} classes; crossentropy adds up at most {MOST_CLASSES}")

    def _check_further(self) -> None:
        """Refuse rows, means and weights that cannot be."""
        if self.class_weight and self.whole_rows:
            raise ValueError("class_weight: needs integer labels, without label_smoothing")
        if self.worst_by not in WORST_BY:
            raise ValueError(f"worst_by: expected one of {', '.join(WORST_BY)}, got {self.worst_by!r}")
        for name, count in (("worst", self.worst), ("sample", self.sample)):
            if not 0 <= count <= MOST_ROWS:
                raise ValueError(f"{name}: expected at most {MOST_ROWS:,} rows, got {count}")
        if self.average not in ("row", "cluster"):
            raise ValueError(f"average: expected row or cluster, got {self.average!r}")
        if self.average == "cluster" and self.clusters is None:
            raise ValueError("average: that of clusters needs clusters")

    def _check_log_probabilities(self) -> None:
        """Refuse what takes more than the log-probability of the label."""
        for what, asked in (("one-hot or soft labels", self.dense), ("label_smoothing", self.label_smoothing)):
            if asked:
                raise ValueError(f"predictions: log_probabilities are taken as they are; {what} would need logits")
        for name in sorted({"total", "confidence"} & self.needs):
            raise ValueError(f"predictions: log_probabilities are taken as they are; {name!r} would need logits")

    @cached_property
    def picks(self) -> dict[str, Pick]:
        """Which rows are kept one by one, by what they are called."""
        found = {"worst": Pick(self.worst, self.worst_by), "sample": Pick(self.sample, "", self.seed)}
        return {name: pick for name, pick in found.items() if pick.most}

    @cached_property
    def slicings(self) -> tuple[Slicing, ...]:
        """All slicings that sums are kept by: those asked for, that by clusters, and each of them by clusters too."""
        found = [*self.by]
        if self.per_class or not CLASS_METRICS.keys().isdisjoint(self.metrics):
            found += [(TRUE_CLASS,), (PREDICTED_CLASS,)]
        if self.clusters is not None:
            by = [*self.by, *([(TRUE_CLASS,)] if self.per_class else [])]
            found += [(self.clusters,), *((*slicing, self.clusters) for slicing in by)]
        return (*found, *([(TRUE_CLASS, PREDICTED_CLASS)] if self.confusions else []))

    @cached_property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that the metrics need, each once."""
        names = dict.fromkeys(statistics.metric(name).statistic for name in self.metrics)
        names |= {HIT: None} if self.per_class else {}
        return tuple(map(statistics.statistic, names))

    @cached_property
    def needs(self) -> frozenset[str]:
        """The columns that statistics and groupings need, and `target`, which the audit shows of probabilities."""
        needs = frozenset(self.columns)
        groupings = [by for slicing in self.slicings for by in slicing]
        needs = needs.union(*(each.needs for each in self.statistics), *(by.needs for by in groupings))
        needs = needs.union(*(pick.needs for pick in self.picks.values()))
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
        """Whether scoring needs all classes of a row in memory: with dense labels, and with smoothed ones."""
        return self.dense or bool(self.label_smoothing and self.needs_loss)

    @cached_property
    def depth(self) -> int:
        """How many of a row's largest values are needed."""
        return max((each.depth for each in self.statistics), default=0)

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
        for name, types in _TYPES.items():
            reading.one_of(read[name], name, *types)
        reading.whole(read["classes"], "classes", 1)
        for name in ("metrics", "columns"):
            for each in reading.several(read[name], name):
                reading.one_of(each, name, str)
        for name in read["metrics"]:
            statistics.metric(name)
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
