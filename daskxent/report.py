"""The answer: metrics with what they were made of, readable by people, notebooks and programs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from numbers import Real
from types import NoneType
from typing import TYPE_CHECKING, Any

from daskxent.numbers import derived, reading, statistics
from daskxent.numbers.audit import AUDIT
from daskxent.numbers.errors import symmetric
from daskxent.numbers.estimates import Estimates
from daskxent.numbers.exact import ratio
from daskxent.numbers.keys import name_of
from daskxent.numbers.question import Question
from daskxent.numbers.reading import MOST
from daskxent.numbers.state import State, merge_all
from daskxent.numbers.statistics import DERIVED
from daskxent.numbers.sums import Moments, Sums
from daskxent.run.failures import DoubtfulResult, warn_caller
from daskxent.show.answers import Tables
from daskxent.show.merging import check_same, in_all, joined
from daskxent.show.summary import doubts_of, lines_of
from daskxent.show.tables import as_html, as_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    import pandas

    from daskxent.show.listing import Listing
    from daskxent.show.rows import RowTable
    from daskxent.show.slices import Slices


FORMAT = 6
_FURTHER: dict[str, tuple[type, ...]] = {
    "elapsed": (float, int), "nbytes": (int,), "retries": (int,), "journal": (str, NoneType),
    "available": (int, NoneType), "inputs": (dict, NoneType), "made": (dict, NoneType),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report(Tables):
    """Metrics over the rows evaluated so far.

    A mapping from the name of a metric to its value. Two reports are equal when they give the same
    answer to the same question: the sums, the audit and the coverage are compared, the time it took is not.

    Attributes
    ----------
    question : Question
        What was asked.
    state : State
        The exact sums behind the values.
    expected : int
        Number of rows there are to evaluate.
    elapsed : float
        Seconds since the evaluation began, without those in which this process compiled.
    nbytes : int
        Bytes of predictions evaluated, decoded.
    retries : int
        How often storage failed and a part, or a single request, was read again.
    notes : tuple of str
        Further remarks.
    journal : str or None
        The journal that was kept.
    available : int or None
        Number of rows in the arrays, of which `expected` were asked for.
    inputs : mapping or None
        What identifies the arrays, with which others it is merged: see `sources.fingerprint`.
    made : mapping or None
        "version" of daskxent, "date" (UTC) when the evaluation began, "host", and what it ran "on".

    Examples
    --------
    >>> import daskxent as dx
    >>> report = dx.evaluate([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    >>> round(report["crossentropy"], 7), report["accuracy"], report.rows
    (1.1769392, 0.5, 2)
    >>> dict(report) == report.metrics
    True
    """

    question: Question
    state: State
    expected: int
    elapsed: float = field(default=0.0, compare=False)
    nbytes: int = field(default=0, compare=False)
    retries: int = field(default=0, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    journal: str | None = field(default=None, compare=False)
    available: int | None = None
    inputs: Mapping[str, Any] | None = field(default=None, compare=False)
    made: Mapping[str, str] | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> float:
        """Return the value of a metric that was asked for; NaN over no rows or no weight."""
        if name not in self.question.metrics:
            raise KeyError(f"{name!r} was not asked for; this report has {', '.join(self.question.metrics)}")
        if name == "temperature":
            return self.temperature().value
        if name in DERIVED:
            return derived.value(name, self.question, self.state)
        return self._estimates.value(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.question.metrics)

    def __len__(self) -> int:
        return len(self.question.metrics)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, in float64."""
        return dict(self)

    @property
    def se(self) -> dict[str, float]:
        """The standard error of each metric; rows are taken as independent, or the clusters that were named.

        NaN over fewer than two of them, and where the metric is not finite. It does not change when weights are scaled.
        """
        found = self._estimates
        errors = {name: found.standard_error(name) for name in self}
        return errors | ({"temperature": self.temperature().error} if "temperature" in errors else {})

    @property
    def design_effect(self) -> dict[str, float]:
        """By how much the variance of each metric is larger than if rows were independent; 1 without clusters."""
        found = self._of_rows
        return {name: found.design_effect(name) for name in self}

    @property
    def _of_rows(self) -> Estimates:
        """What metrics that are means over rows are estimated from."""
        given = {} if self.gaps else self.question.given_units  # the bytes and words are those of all rows
        moments = None
        if self.question.clusters is not None:
            table = self.state.tables.get(self.question.clusters.name)
            moments = Moments() if table is None else table.all_moments
        return Estimates(self.state.total, moments, given)

    @property
    def _estimates(self) -> Estimates:
        if self.question.average == "row" or self.question.clusters is None:
            return self._of_rows
        table = self.state.tables.get(self.question.clusters.name)
        sums = Sums() if table is None else table.all_averages
        return Estimates(sums, sums.moments)

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Return a confidence interval of a metric.

        Wilson's for accuracies, with the number of rows of equal weight that have the same error; else by Student's t,
        for perplexity the exponential of that of the crossentropy.

        Parameters
        ----------
        name : str
            A metric that was asked for.
        level : float
            Between 0 and 1.

        Returns
        -------
        (float, float)
            Its lower and upper end; NaN where there is no standard error.

        Raises
        ------
        KeyError
            The metric was not asked for.
        ValueError
            The level is not between 0 and 1.

        Examples
        --------
        >>> import daskxent as dx
        >>> report = dx.evaluate([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
        >>> [round(edge, 4) for edge in report.interval("accuracy")]
        [0.3006, 0.9544]
        """
        if not isinstance(level, Real) or not 0 < float(level) < 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
        self[name]
        if name == "temperature":
            found = self.temperature()
            return symmetric(found.value, found.error, self._of_rows.moments.count - 1, float(level))
        return self._estimates.interval(name, float(level))

    @property
    def effective_rows(self) -> float:
        """Kish's effective number of rows, (sum w)**2 / sum w**2: how many of equal weight say as much."""
        return Estimates(self.state.total).effective_rows

    @property
    def rows(self) -> int:
        """Number of rows evaluated."""
        return self.state.rows

    @property
    def counted(self) -> int:
        """Number of rows that the metrics are over: not ignored, left out or of weight 0."""
        return self.state.total.counted

    @property
    def weight(self) -> float:
        """Sum of the weights of the counted rows."""
        return float(self.state.total.weight)

    @property
    def complete(self) -> bool:
        """Whether every row there is has been evaluated."""
        return self.rows == self.expected

    @property
    def audit(self) -> dict[str, dict[str, Any]]:
        """What was exceptional: for each kind found its meaning, the count, and the first ten rows.

        Of rows whose predictions are all equal also the ranges of rows that they form, unless these are many.
        """
        found: dict[str, dict[str, Any]] = {
            kind: {"what": AUDIT[kind], "count": found.count, "rows": [row for row, _ in found.first]}
            for kind, found in self.state.audit.items()
        }
        if "equal" in found and self.state.equal is not None:
            found["equal"]["runs"] = [list(run) for run in self.state.equal]
        return found

    @property
    def clipped_share(self) -> float:
        """Share of the summed loss that comes from rows whose label's probability was clipped."""
        total = self.state.total.totals.get(statistics.LOSS)
        return ratio(self.state.total.clipped_loss, total) if total and total.units else 0.0

    @property
    def doubts(self) -> tuple[str, ...]:
        """What makes it doubtful that the numbers mean what was asked for: `evaluate` warns of it."""
        return doubts_of(self)

    def warn(self) -> None:
        """Warn of `doubts`."""
        for doubt in self.doubts:
            warn_caller(doubt, DoubtfulResult)

    def to_dict(self) -> dict[str, Any]:
        """Return metrics, their standard errors and 95 % intervals, counts and audit as plain Python objects."""
        intervals = {name: self.interval(name) for name in self}
        return {
            **self.metrics,
            "se": self.se,
            "low": {name: low for name, (low, _) in intervals.items()},
            "high": {name: high for name, (_, high) in intervals.items()},
            "rows": self.rows,
            "counted": self.counted,
            "weight": self.weight,
            "complete": self.complete,
            "audit": self.audit,
            "clipped_share": self.clipped_share,
            "independent": "rows" if self.question.clusters is None else "clusters",
            **{name: list(self._rows_called(name)) for name in self.question.picks},
            **({"reliability": list(self.reliability())} if "reliability" in self.question.reliabilities else {}),
            **({"at_temperature": self.temperature()._asdict()} if "temperature" in self.question.metrics else {}),
            "by": {name_of(each.slicing): each.rows for each in self.slices},
            "elapsed": self.elapsed,
            "nbytes": self.nbytes,
            "retries": self.retries,
            "notes": list(self.notes),
        }

    def to_pandas(self) -> pandas.DataFrame:
        """Return a line for each metric: value, standard error, and the ends of its 95 % interval.

        Raises
        ------
        ImportError
            pandas is not installed: ``pip install 'daskxent[pandas]'``.
        """
        import pandas

        errors = self.se
        lines = [(value, errors[name], *self.interval(name)) for name, value in self.items()]
        return pandas.DataFrame(lines, index=pandas.Index(self, name="metric"), columns=["value", "se", "low", "high"])

    def to_html(self, title: str = "daskxent report") -> str:
        """Return the report as a page of HTML that needs nothing else: with plots, tables, and where it comes from."""
        from daskxent.show.page import page

        return page(self, title)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file: of HTML, to be looked at, or of JSON, which `from_json` reads.

        Parameters
        ----------
        path : path
            Ends in .html or .json.

        Raises
        ------
        ValueError
            It ends in something else.
        """
        from pathlib import Path

        into = Path(path).expanduser()
        if into.suffix not in (".html", ".json"):
            raise ValueError(f"save: expected a path that ends in .html or .json, got {str(path)!r}")
        into.write_text(self.to_html(into.stem) if into.suffix == ".html" else self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """Return the whole report, exact sums and coverage included, as one JSON object."""
        data = {
            "format": FORMAT,
            "question": self.question.to_json(),
            "state": self.state.to_json(),
            "expected": self.expected,
            "journal": self.journal,
            "available": self.available,
            "inputs": self.inputs,
            "made": self.made,
        }
        return json.dumps({**_strict(self.to_dict()), **data})

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            The text is not a report of this format; the message names the field that does not belong in one.
        """
        try:
            data = json.loads(text)
        except RecursionError:
            data = None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a daskxent report of format {FORMAT}")
        names = ("question", "state", "expected", "notes", *_FURTHER)
        data = reading.mapping({name: data[name] for name in names if name in data}, "report", *names)
        for name, types in _FURTHER.items():
            reading.one_of(data[name], name, *types)
        reading.whole((data["inputs"] or {}).get("class_blocks", 1), "class_blocks", 1)
        if data["made"] is not None:
            for name, value in reading.mapping(data["made"], "made", "version", "date", "host", "on").items():
                reading.one_of(value, name, str)
        for note in reading.several(data["notes"], "notes"):
            reading.one_of(note, "notes", str)
        question = Question.from_json(data["question"])
        state = State.from_json(data["state"]).check(question)
        available = MOST if data["available"] is None else reading.whole(data["available"], "available")
        expected = reading.whole(data["expected"], "expected", state.rows, available)
        if state.covered:
            reading.whole(state.covered[-1][1], "covered", 0, available)
        further = {name: data[name] for name in _FURTHER}
        return cls(question, state, expected, notes=tuple(data["notes"]), **further)

    def merge(self, *others: Report, dumps: bool = False) -> Report:
        """Join the reports of different rows of the same arrays: the report that one run over all would have given.

        Parameters
        ----------
        *others : Report
        dumps : bool
            The reports are about different dumps, which are joined one after the other along the first axis.

        Raises
        ------
        TypeError
            One of them is not a report: a list of reports is merged by ``first.merge(*others)``.
        ValueError
            The reports ask different questions, are of different arrays or do not say of which, or cover the same rows.
            With `dumps`: groups are indexes along the first axis, or rows were sampled, which the joined dumps would
            number in another way.
        """
        for other in others:
            if not isinstance(other, Report):
                raise TypeError(f"merge: expected reports, each an argument of its own, got a {type(other).__name__}")
            check_same(self, other, dumps=dumps)
        every = (self, *others)
        states, rows, inputs, question = [each.state for each in every], self.available, self.inputs, self.question
        if dumps:
            states, rows, inputs = joined(every)
            question = in_all(report.question for report in every)
        return replace(
            self,
            question=question,
            state=merge_all(states),
            expected=rows or self.expected,
            available=rows,
            inputs=inputs,
            elapsed=sum(report.elapsed for report in every),
            nbytes=sum(report.nbytes for report in every),
            retries=sum(report.retries for report in every),
            notes=tuple(dict.fromkeys(note for report in every for note in report.notes)),
            journal=None,
        )

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """The ranges of rows of the arrays that are not covered."""
        edges = [0, *(edge for span in self.state.covered for edge in span), self.available or self.expected]
        return tuple((start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop)

    def lines(self) -> list[tuple[str, str]]:
        """Return (label, text) pairs: what the tables for terminals and notebooks show."""
        return lines_of(self)

    def __repr__(self) -> str:
        return "\n".join([as_text("Report", self.lines()), *map(repr, self.tables())])

    def _repr_html_(self) -> str:
        return as_html("daskxent report", self.lines()) + "".join(each._repr_html_() for each in self.tables())

    def tables(self) -> list[Slices | RowTable | Listing]:
        """Return the tables that were asked for: of slices, of single rows, of calibration."""
        listed = [self.reliability()] if "reliability" in self.question.reliabilities else []
        return [*self.slices, *map(self._rows_called, self.question.picks), *listed]


def _strict(value: Any) -> Any:
    """Replace the numbers that JSON does not know by null."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
