"""Score the rows of a block of predictions that is in memory, in the way that its kind allows, and add them up."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import audit, records
from daskxent.numbers.audit import Finding, findings
from daskxent.numbers.chosen_rows import Picked, picked
from daskxent.numbers.grouping import Totals
from daskxent.numbers.scores import SHAPED, SUM_TOLERANCE, finish, like_probabilities
from daskxent.numbers.softmax_sums import probabilities_of
from daskxent.numbers.state import MOST_RUNS, State, few_runs
from daskxent.numbers.statistics import UNITS
from daskxent.numbers.status import ALL_EQUAL, HIDDEN, NOT_FINITE, Scored, classify, rules_of
from daskxent.sources.sizes import USUAL, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from daskxent.kernels import Scorer
    from daskxent.numbers.question import Question
    from daskxent.numbers.records import Records
    from daskxent.numbers.scores import Scores
    from daskxent.run.sink import Pages
    from daskxent.sources.boxes import Aligned


@dataclass(frozen=True)
class Block:
    """All classes of a box of positions, with what lies along its rows.

    Attributes
    ----------
    question : Question
    aligned : Aligned
        The box, and the columns along it.
    positions : tuple of int
        Shape of all positions, in which the rows are numbered.
    values : (before, classes, after) array, or None
        Predictions; rows are numbered over before and after in C order.
    records : Records or None
        What was scanned instead, where the classes came in several blocks.
    dense : (n, classes) array, or None
        One-hot or soft labels.
    missing : mapping of str to (n,) bool
        By kinds of the audit: rows of which something is not stored and was read as the fill value.
    sizes : Sizes
    """

    question: Question
    aligned: Aligned
    positions: tuple[int, ...]
    values: NDArray[Any] | None = None
    records: Records | None = None
    dense: NDArray[Any] | None = None
    missing: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    sizes: Sizes = USUAL

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.aligned.shape)

    def place(self, row: int) -> int:
        """Return the number that a row of the block has among all rows."""
        return int(self._numbers(row))

    @cached_property
    def _labels(self) -> NDArray[np.int64] | None:
        """The labels; those of all classes that are ignored are that of the first."""
        labels, ignored = self.aligned.labels, self.question.ignore_class
        if labels is None or len(ignored) < 2:
            return labels
        return np.where(np.isin(labels, ignored), ignored[0], labels)

    @cached_property
    def _weights(self) -> NDArray[np.float64] | None:
        """The weights, each multiplied by that of the row's class; 0 where the mask is."""
        given, labels, by_class = self.aligned.weights, self._labels, self.question.class_weight
        if by_class and labels is not None:
            known = (labels >= 0) & (labels < len(by_class))
            own = np.where(known, np.array(by_class)[np.where(known, labels, 0)], 1.0)
            given = own if given is None else own * given
        mask = self.aligned.columns.get("mask")
        if mask is None:
            return given
        return np.where(mask.values, 1.0 if given is None else given, 0.0)

    def covered(self) -> tuple[tuple[int, int], ...]:
        """Return the rows of the block as ranges."""
        shape = self.aligned.shape
        if 0 in shape:
            return ()
        whole = len(shape)  # axes from here on are covered in full
        while whole > 1 and shape[whole - 1] == self.positions[whole - 1]:
            whole -= 1
        run = math.prod(shape[whole - 1 :])
        starts = self._numbers(np.arange(0, math.prod(shape), run))
        return tuple((start, start + run) for start in starts.tolist())

    def state(self, scorer: Scorer | None, totals: Totals, pages: Pages | None = None, probable: bool = True) -> State:
        """Add the rows to `totals`, and return what else is known of them, numbered among all rows; without coverage.

        With `pages` columns of the rows are kept there. `probable` says whether all rows before may well be
        probabilities: if not, these need no look.
        """
        columns: dict[str, NDArray[Any]] = {}
        equal: list[NDArray[Any]] = []
        found: Mapping[str, Finding] = {}
        asked, largest, picks = self.question, -1, {name: list[Picked]() for name in self.question.picks}
        probable &= asked.from_logits and asked.summed and asked.classes > 1 and not asked.log_probabilities
        for some, rows in self.scored(scorer):
            probable = probable and self._like_probabilities(some, rows)
            for name, values in pages.sink.columns(rows).items() if pages is not None else ():
                if name not in columns:
                    columns[name] = np.empty(self.rows, values.dtype)
                columns[name][some] = values
            for name, pick in self.question.picks.items():
                picks[name].append(picked(pick, rows, self._numbers(np.arange(some.start, some.stop))))
            largest = largest_class(rows.labels, asked.classes, largest)
            totals.add(rows)
            own = findings(asked, rows)
            if "equal" in own:
                equal.append(some.start + rows.exceptional[(rows.status[rows.exceptional] & ALL_EQUAL) != 0])
            found = audit.joined(found, audit.renumbered(own, partial(add, some.start))) if own else found
        for kind, where in self.missing.items():
            found = audit.joined(found, audit.missing(kind, where))
        if pages is not None:
            pages.add(self.aligned.box, columns)
        return State(
            audit=audit.renumbered(found, self.place),
            like_probabilities=probable,
            equal=self._runs(np.concatenate(equal)) if equal else (),
            picked={name: merged for name, several in picks.items() if len(merged := Picked.merged(several))},
            largest=largest,
            unshifted=self._unshifted(),
        )

    def _unshifted(self) -> bool:
        """Return whether the very first labels match the predictions of the row before them far better than their own.

        Logits of language models are those of the token after, so this is what tokens look like that were not shifted.
        """
        if len(self.positions) < 2 or self._labels is None or any(s.start for s in self.aligned.box):
            return False
        some = slice(0, min(self.aligned.shape[-1], FEW))
        if self.records is not None:
            best = self.records.best[some]
        else:
            best = np.nan_to_num(self._values(some)[:, :, 0].astype(np.float32)).argmax(axis=1)
        return match_the_row_before(self._labels[some], best, self.question.classes)

    def _numbers(self, rows: NDArray[Any] | int) -> NDArray[np.int64]:
        """Return the numbers that rows of the block have among all rows."""
        at = np.unravel_index(rows, self.aligned.shape)
        whole = tuple(i + s.start for i, s in zip(at, self.aligned.box, strict=True))
        return np.asarray(np.ravel_multi_index(whole, self.positions), np.int64)

    def _runs(self, rows: NDArray[Any]) -> tuple[tuple[int, int], ...] | None:
        """Return some rows of the block as ranges of all rows; None if these are many."""
        number = self._numbers(rows)
        begin = np.flatnonzero(np.diff(number, prepend=-2) != 1)
        covered = self.covered()
        if begin.size > MOST_RUNS + 2 * len(covered):  # no more than two touch an end of each piece
            return None
        stops = number[np.append(begin[1:], number.size) - 1] + 1
        return few_runs(tuple(zip(number[begin].tolist(), stops.tolist(), strict=True)), covered)

    def checked(self) -> Iterator[tuple[slice, Scored]]:
        """Yield rows like `scored`, of a block that is a part of its own; raise the first finding that is an error."""
        for some, rows in self.scored(compiled_for(self.question, self.rows, self.sizes)[0]):
            if rows.exceptional.size:
                own = audit.renumbered(findings(self.question, rows), partial(add, some.start))
                audit.raise_first_error(self.question, audit.renumbered(own, self.place), self.positions)
            yield some, rows

    def evaluated(self) -> State:
        """Add up the rows of a block that is a part of its own."""
        scorer, totals = compiled_for(self.question, self.rows, self.sizes)
        return replace(self.state(scorer, totals), total=totals.sums(), tables=totals.tables())

    def scored(self, scorer: Scorer | None = None) -> Iterator[tuple[slice, Scored]]:
        """Yield which rows these are, and what is known of them until the next are asked for."""
        labels, weights = self._labels, self._weights
        if scorer is not None and self.values is not None and labels is not None and not self.question.softened:
            for some, rows in scorer.slabs(self.values, labels, weights):
                yield some, rows._replace(along=self._along(some), scores=self._completed(some, rows.scores))
            return
        most = min(self.sizes.scored_rows, most_rows(self.question))
        for start in range(0, self.rows, most):
            some = slice(start, min(start + most, self.rows))
            scores, labels = self._scores(some)
            scores = self._completed(some, scores)
            given = None if weights is None else weights[some]
            yield some, Scored.of(self.question, scores, labels, given, self._along(some))

    def _completed(self, some: slice, scores: Scores) -> Scores:
        """Return scores with the columns that take the peaks of whole rows, or come from elsewhere."""
        needs, found = self.question.needs, dict[str, Any]()
        for name in needs.intersection(UNITS):
            found[name] = self._text(name, some)
        if needs & SHAPED:
            values = self._values(some)
            interpreted = values.size < self.sizes.few or _interpreted()
            found |= _shaped(values, scores, needs, self.question.from_logits, interpreted)
        return scores._replace(**found) if found else scores

    def _text(self, name: str, some: slice) -> NDArray[np.float64]:
        """Return how many bytes or words the labels of some rows stand for."""
        given = self.aligned.columns[name].values[some]
        wrong = np.flatnonzero(~(given >= 0) | np.isinf(given))
        wrong = wrong[self._shown(some.start + wrong)] if wrong.size else wrong
        if wrong.size:
            place, value = self.place(some.start + int(wrong[0])), given[wrong[0]]
            shown = "nan, as for a label beyond a table," if np.isnan(value) else value
            raise ValueError(f"{name}: expected finite numbers that are not negative, got {shown} at row {place}")
        return given

    def _shown(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which of some rows neither label nor weight hides."""
        labels = -1 if self._labels is None else self._labels[rows]
        weights = 1.0 if self._weights is None else self._weights[rows]
        return np.asarray((classify(rules_of(self.question), 0, labels, weights) & HIDDEN) == 0)

    def _values(self, some: slice) -> NDArray[Any]:
        """Return the predictions of some rows as (n, classes, 1)."""
        assert self.values is not None
        after = self.values.shape[2]
        if after == 1:
            return self.values[some]
        number = np.arange(some.start, some.stop)
        return np.asarray(self.values[number // after, :, number % after])[:, :, None]

    def _along(self, some: slice) -> dict[str, NDArray[Any]]:
        """Return the arrays that groupings may read, and labels that do not fit int64, of some rows."""
        columns = self.aligned.columns
        wanted = {by.array for slicing in self.question.slicings for by in slicing} & columns.keys() - {"labels"}
        found = {name: columns[name].values[some] for name in wanted}
        if "labels" in columns and (beyond := columns["labels"].beyond) is not None:
            found["labels"] = beyond[some]
        return found

    def _like_probabilities(self, some: slice, rows: Scored) -> bool:
        """Return whether all rows that are not hidden may well be probabilities; a look at the first rules out most."""
        shown = (rows.status & HIDDEN) == 0
        first = int(shown.argmax())
        if not shown[first]:
            return True
        if self.records is None:
            few = np.flatnonzero(shown[first : first + max(1, FEW_NUMBERS // self.question.classes)])
            here = slice(some.start + first, some.start + first + int(few[-1]) + 1)
            with np.errstate(invalid="ignore"):  # NaN is not below 1; in float16 the tolerance would be another
                peaks = self._values(here)[few].max(axis=1).astype(float)
                if not ((peaks > 0) & (peaks < 1 + SUM_TOLERANCE)).all():
                    return False
            found = scan(self.question, self._values(some), rows.labels, 0, self.sizes)
        else:
            found = self.records.some(some)
        scores = finish(found, rows.labels, self.question.classes, frozenset({"peak", "total"}))
        return bool(like_probabilities(scores, self.question.classes)[shown].all())

    def _scores(self, some: slice) -> tuple[Scores, NDArray[np.int64]]:
        """Score some rows by way of their records; return the labels as classes too."""
        question, losses = self.question, None
        known = partial(finish, log_probabilities=question.log_probabilities)
        if self.dense is not None:
            labels = largest(self.dense[some])
        else:
            assert self._labels is not None
            labels = self._labels[some]
        if self.records is not None:
            return known(self.records.some(some), labels, question.classes, question.needs), labels
        values = self._values(some)
        found = scan(question, values, labels, 0, self.sizes)
        if question.softened and question.needs_loss:
            dense = labels if self.dense is None else self.dense[some]
            losses = _dense_losses(question, values, dense, found, self.sizes)
        above = _above(values, found.target, self.sizes.dense_bytes) if question.ranked else None
        return known(found, labels, question.classes, question.needs, losses, above=above), labels


def _shaped(
    values: NDArray[Any], scores: Scores, needs: frozenset[str], logits: bool, interpreted: bool
) -> dict[str, Any]:
    """Return those columns of (n, classes, 1) predictions that take a second look at them."""
    found: dict[str, Any] = {}
    if interpreted:
        from daskxent.numbers import softmax_sums

        values = values[:, :, 0]
    else:
        from daskxent.kernels import softmax_sums  # type: ignore[no-redef]
    if needs & {"entropy", "sum_p2"}:
        shape = softmax_sums.shape_of(values, scores.peak, probabilities=not logits)
        found |= {"entropy": shape.entropy(), "sum_p2": shape.sum_p2()}
    if "probabilities" in needs:
        found["probabilities"] = probabilities_of(
            values if interpreted else values[:, :, 0], scores.peak, probabilities=not logits
        )
    if "curve" in needs:
        found["curve"] = softmax_sums.curve_of(values, scores.peak, scores.target)
    return {name: column for name, column in found.items() if name in needs}


def _above(values: NDArray[Any], target: NDArray[np.float64], most_bytes: int) -> NDArray[np.int64]:
    """Count the classes of (n, classes, 1) predictions that are larger than the label's."""
    found, some = np.empty(len(target), np.int64), max(1, most_bytes // (8 * values.shape[1]))
    for at in range(0, len(target), some):
        few = values[at : at + some, :, 0]
        with np.errstate(invalid="ignore"):
            found[at : at + some] = (few > target[at : at + some, None]).sum(axis=1)
    return found


def largest_class(labels: NDArray[np.int64], classes: int, known: int) -> int:
    """Return the largest label that is a class, or one that is known if that is larger; -1 if there is none."""
    found = known if known == classes - 1 else int(labels.max(initial=known))
    return found if found < classes else int(np.where(labels < classes, labels, -1).max(initial=known))


def match_the_row_before(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> bool:
    """Return whether labels match the predictions of the row before them, beyond chance.

    Examples
    --------
    >>> labels = np.arange(40) % 7
    >>> match_the_row_before(labels, np.roll(labels, -1), 7), match_the_row_before(labels, labels, 7)
    (True, False)
    """
    known = labels >= 0
    own, before = (predictions == labels)[known], (predictions[:-1] == labels[1:])[known[1:]]
    if classes < LEAST_CLASSES or not before.size:
        return False
    chance = max(own.mean(), 1 / classes)
    lucky = chance * before.size + 5 * math.sqrt(chance * before.size)  # five standard deviations
    return bool(before.sum() > lucky and before.mean() > 2 * own.mean() + 0.1)


FEW_NUMBERS = 1 << 10  # of the first rows that are looked at for whether they may be probabilities
FEW, LEAST_CLASSES = 64, 3  # rows of a sequence that are looked at; with two classes a wrong one is the other


def compiled_for(question: Question, rows: int, sizes: Sizes) -> tuple[Scorer | None, Totals]:
    """Return what scores this many rows in compiled code, if that is worth it, and what adds them up."""
    if rows * question.classes < sizes.few or _interpreted():
        return None, Totals(question)
    from daskxent.kernels import COMPILED, SLAB_ROWS, Scorer

    return Scorer.of_thread(question, min(rows, SLAB_ROWS, most_rows(question))), Totals(question, COMPILED)


def most_rows(question: Question) -> int:
    """Return how many rows to score at a time: few where numbers of all their classes are kept or copied meanwhile."""
    few = COPIED_NUMBERS if question.needs & SHAPED else MOST
    return max(1, (KEPT_NUMBERS if "probabilities" in question.needs else few) // question.classes)


KEPT_NUMBERS, COPIED_NUMBERS, MOST = 1 << 20, 1 << 22, 1 << 62


def _interpreted() -> bool:
    """Return whether numba is set not to compile, as it is under coverage: NumPy then does the same, slowly."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def scan(question: Question, values: Any, labels: NDArray[np.int64], first: int, sizes: Sizes) -> Records:
    """Scan a (before, classes, after) block of predictions with what the question needs."""
    wants: Any = {"probabilities": not question.from_logits, "mass": question.summed}
    wants["top"] = 0 if question.ranked else question.depth
    if values.size < sizes.few or _interpreted():
        whole = np.moveaxis(values, 1, -1).reshape(len(labels), values.shape[1])
        return records.scan(whole, labels, first, **wants)
    from daskxent import kernels

    return kernels.scan(values, labels, first, **wants)


def largest(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class with the largest label of each row of dense labels, or a key of `NOT_FINITE`."""
    found: NDArray[np.int64] = labels.argmax(axis=1).astype(np.int64)
    if labels.dtype.kind in "biu":
        return found
    finite = np.isfinite(labels)
    bad = np.flatnonzero(~finite.all(axis=1))
    with np.errstate(invalid="ignore"):  # of signalling NaN
        first = labels[bad, finite[bad].argmin(axis=1)].astype(np.float64)
    for code, value in NOT_FINITE.items():
        found[bad[np.isnan(first) if math.isnan(value) else first == value]] = code
    return found


def _dense_losses(
    question: Question, values: Any, labels: NDArray[Any], found: Records, sizes: Sizes
) -> NDArray[np.float64]:
    """Return the crossentropy of (n, classes, 1) predictions with (n, classes) labels, or (n,) classes.

    Rows are widened, and classes written out as one-hot labels, a few at a time.
    """
    if values.size < sizes.few or _interpreted():
        from daskxent.numbers.crossentropy import dense_losses
    else:
        from daskxent.kernels import dense_losses
    classes = values.shape[1]
    losses, some = np.empty(len(labels)), max(1, sizes.dense_bytes // (8 * classes))
    for at in range(0, len(labels), some):
        few = slice(at, min(at + some, len(labels)))
        with np.errstate(over="ignore", invalid="ignore"):  # of labels that are not finite, or nearly
            losses[few] = dense_losses(
                values[few, :, 0],
                labels[few] if labels.ndim == 2 else _one_hot(labels[few], classes),
                found.some(few),
                smoothing=question.label_smoothing,
                class_weight=question.class_weight,
            )
    if question.class_weight and labels.ndim == 1:  # rows are weighted by their classes too
        own = np.array(question.class_weight)[np.clip(labels, 0, classes - 1)]
        with np.errstate(divide="ignore", invalid="ignore"):  # of rows whose weight is 0
            losses /= own
    return losses


def _one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Write classes out as dense labels; there is nothing in the rows of those that are out of range."""
    dense = np.zeros((len(labels), classes), np.float32)
    inside = np.flatnonzero((labels >= 0) & (labels < classes))
    dense[inside, labels[inside]] = 1
    return dense


def as_rows(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return an array as (before, classes, after), where rows are numbered over before and after in C order."""
    shape = values.shape
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return values.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def as_dense(labels: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return dense labels as (n, classes)."""
    return np.moveaxis(as_rows(labels, axis), 1, -1).reshape(-1, labels.shape[axis])
