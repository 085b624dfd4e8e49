"""The scan: from predictions to the columns of whole rows, or to the records of blocks of classes.

A block of `LANES` rows is processed at a time, so that what one step leaves (widened numbers, sums, losses) is still in
the cache when the next one wants it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.kernels.blocks import LANES, Ask, work_for
from daskxent.kernels.columns import Columns, begin, finish, of_block
from daskxent.kernels.lanes import scan_lanes
from daskxent.kernels.llvm.compiling import INLINED, borrowed, compiled, expanded, inner, overload, widen
from daskxent.kernels.long_rows import scan_long
from daskxent.kernels.rows import is_plain, sum_exceptional_rows
from daskxent.kernels.slabs import Rows, along, is_given, row_of, slabs
from daskxent.numbers import records
from daskxent.numbers.records import HUGE
from daskxent.numbers.scores import Scores, sum_tolerance
from daskxent.numbers.status import Scored, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.numbers.records import Records

SLAB_ROWS = 1 << 17  # rows whose columns are made in one call; README.md says what fewer cost
_DTYPES = {"flags": "u1", "hit": "?", "above": "i4", "prediction": "i8", "status": "u2", "exceptional": "i4"}


def _scan_block(rows: Any, start: Any, labels: Any, first: Any, ask: Any, work: Any) -> None:
    """Scan a block of rows: `scan_long` or `scan_lanes`, known from their type."""


@overload(_scan_block, jit_options=INLINED)
def _scan_block_typed(rows, start, labels, first, ask, work):
    return scan_long if is_given(rows, "long") else scan_lanes


@expanded
def _scan_all(rows, start, labels, first, ask, work):
    """Scan a block, exceptional rows too; return whether there are none."""
    _scan_block(rows, start, labels, first, ask, work)
    plain = is_plain(work)
    if ask.mass and not ask.unit and not plain:
        sum_exceptional_rows(rows, start, labels.size, work)
    return plain


@compiled
def _score(rows, begin_at, labels, weights, ask, rules, tolerance, columns, work):
    """Score a slab into the first places of `columns`; return how many rows are exceptional."""
    rows, labels, weights = borrowed(rows), borrowed(labels), borrowed(weights)
    columns, work = borrowed(columns), borrowed(work)
    exceptional = np.int64(0)  # with a literal, numba would compile `finish` twice
    for at in range(0, labels.size, LANES):
        here, given, found = labels[at : at + LANES], weights[at : at + LANES], of_block(columns, at)
        shown, usual = begin(here, given, rules, found, work)
        plain = _scan_all(rows, begin_at + at, here, 0, ask, work) if shown else False
        exceptional = finish(here, given, at, ask, rules, tolerance, plain, usual, exceptional, found, work)
    return exceptional


@inner
def _keep_largest(kept, row):
    """Let the numbers of a row compete for the places in `kept`, which descends."""
    last = kept.size - 1
    for j in range(row.size):
        x = np.float64(widen(row[j]))
        if x > kept[last]:
            at = last
            while at > 0 and x > kept[at - 1]:
                kept[at] = kept[at - 1]
                at -= 1
            kept[at] = x


@expanded
def _keep(start, n, summed, found, work):
    """Write what was found of a block into records."""
    for i in range(n):
        found.peak[start + i], found.second[start + i] = work.peak[i], work.second[i]
        found.best[start + i], found.target[start + i] = work.best[i], work.target[i]
        found.flags[start + i] = work.flags[i]
    for i in range(n if summed else 0):
        found.base[start + i] = np.int64(work.base[i])
        found.ties[start + i] = work.ties[i] if HUGE <= abs(work.peak[i]) < np.inf else 0
    for s in range(found.mass.shape[0]):
        for i in range(n):
            found.mass[s, start + i] = work.mass[s, i]


@compiled
def _scan(rows, begin_at, labels, first, ask, found, at, work):
    """Scan a slab of rows of some classes into records, from one of them on."""
    rows, labels, found, work = borrowed(rows), borrowed(labels), borrowed(found), borrowed(work)
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        _scan_all(rows, begin_at + start, here, first, ask, work)
        _keep(at + start, here.size, ask.mass and not ask.unit, found, work)
        for i in range(here.size if found.top.shape[1] else 0):
            _keep_largest(found.top[at + start + i], row_of(rows, begin_at + start + i))


def scan(
    values: NDArray[Any],
    labels: NDArray[np.int64],
    first: int = 0,
    *,
    probabilities: bool = False,
    mass: bool = True,
    top: int = 0,
) -> Records:
    """Summarise rows over the classes ``first .. first + c - 1``, as `records.scan` does.

    Parameters
    ----------
    values : (before, c, after) array
        Predictions of before * after rows in C order, with any strides.
    labels, first, probabilities, mass, top
        As for `records.scan`.

    Returns
    -------
    Records
        The same bits as ``records.scan(np.moveaxis(values, 1, -1).reshape(-1, c), ...)``.

    Examples
    --------
    >>> found = scan(np.array([[[0.0, 3.0], [2.0, 1.0]]]), np.array([1, 0]))
    >>> found.best.tolist(), found.target.tolist()
    ([1, 0], [2.0, 3.0])
    """
    wide = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
    grid = records.grid_for(wide, probabilities=probabilities)
    found = records.empty(values.shape[0] * values.shape[2], grid, top, mass=mass)
    labels = along(labels, len(found.peak), np.int64, "labels")
    ask = Ask(probabilities, given=False, mass=mass, total=False, second=True, best=True, hit=False, depth=0)
    kept: Any = found._replace(grid=None)  # type: ignore[arg-type]  # compiled code knows it by the dtype
    work: Any = None
    for some, rows, begin_at in slabs(values, SLAB_ROWS) if values.size else ():
        work = work or work_for(rows, grid)
        _scan(rows, begin_at, labels[some], first, ask, kept, some.start, work)
    return found


_THREAD = threading.local()


class Scorer:
    """Scores whole rows; one thread's own.

    Parameters
    ----------
    question : Question
        With integer labels, not smoothed.
    slab_rows : int
        Most rows that are scored at a time, rounded up to whole blocks.

    Examples
    --------
    >>> from daskxent.numbers.question import Question
    >>> scorer = Scorer(Question(("crossentropy", "accuracy"), 2, from_logits=True))
    >>> [(_, scored)] = scorer.slabs(np.log([[[0.25], [0.75]], [[0.6], [0.4]]]), np.array([1, 0]), None)
    >>> scored.scores.hit.tolist(), scored.scores.loss.round(6).tolist(), scored.exceptional.tolist()
    ([True, True], [0.287682, 0.510826], [])
    """

    def __init__(self, question: Question, slab_rows: int = SLAB_ROWS) -> None:
        self.question, self.slab_rows, needs = question, -(-slab_rows // LANES) * LANES, question.needs
        self._ask = Ask(
            unit=not question.from_logits,
            given=question.log_probabilities,
            mass=question.summed,
            total=bool(needs & {"total", "confidence"}),
            second="second" in needs,
            best="prediction" in needs,
            hit="hit" in needs,
            depth=question.depth,
        )
        self._rules, self._tolerance = rules_of(question), sum_tolerance(question.classes)
        wanted = {"flags", "status", "exceptional", *needs}
        self._columns = Columns(
            *(np.empty(self.slab_rows if name in wanted else 0, _DTYPES.get(name, "f8")) for name in Columns._fields)
        )
        self._works: dict[Any, Any] = {}
        self._viewed: tuple[int, Any, Any] = (-1, None, None)

    @classmethod
    def of_thread(cls, question: Question, slab_rows: int) -> Scorer:
        """Return the scorer that the calling thread keeps, if it fits the question and the rows; else keep a new one.

        To make one takes 0.25 ms after each part of a dump, whose numbers have filled the cache.
        """
        found: Scorer | None = getattr(_THREAD, "scorer", None)
        if found is None or found.question is not question or found.slab_rows < slab_rows:
            found = _THREAD.scorer = cls(question, slab_rows)
        return found

    def slabs(
        self, values: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[np.float64] | None
    ) -> Iterator[tuple[slice, Scored]]:
        """Score a block of rows, some at a time.

        Parameters
        ----------
        values : (before, classes, after) array
        labels : (before * after,) int64
        weights : (before * after,) float64 or None

        Yields
        ------
        (slice, Scored)
            Which rows these are, and what is known of them until the next are asked for.
            Float columns of rows that label or weight hide are NaN: they are not scanned.
        """
        rows = values.shape[0] * values.shape[2]
        if values.shape[1] != self._rules.classes:
            raise ValueError(f"values: expected {self._rules.classes} classes, got shape {values.shape}")
        labels = along(labels, rows, np.int64, "labels")
        given = along(weights, rows, np.float64, "weights")
        for some, lying, begin_at in slabs(values, self.slab_rows) if rows else ():
            work = self._work_for(lying)
            exceptional = _score(
                lying, begin_at, labels[some], given[some], self._ask, self._rules, self._tolerance, self._columns, work
            )
            scores, status = self._views(some.stop - some.start)
            found = self._columns.exceptional[:exceptional]
            yield some, Scored(scores, labels[some], None if weights is None else weights[some], {}, status, found)

    def _work_for(self, rows: Rows) -> Any:
        """Return the work for a block; a single row may lie along itself where those of other blocks do not."""
        kind = rows.long, rows.numbers.dtype
        if kind not in self._works:
            self._works[kind] = work_for(rows)
        return self._works[kind]

    def _views(self, rows: int) -> tuple[Scores, Any]:
        """Return the first rows of all columns; those of the last number of rows are kept."""
        if rows != self._viewed[0]:
            columns: list[Any] = [column[:rows] if column.size else None for column in self._columns]
            self._viewed = rows, Scores(*columns[:-2]), columns[-2]
        return self._viewed[1:]
