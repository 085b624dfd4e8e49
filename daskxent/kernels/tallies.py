"""Tallies: whole rows scanned, their losses taken and summed, block by block in one call.

This is the quick way for rows without anything odd. A row that belongs in the audit for more than a weight of 0, the
class to be ignored or a clipped label is not counted here but handed back, for `state.tally` to judge: the rules about
odd rows stand there alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.kernels.blocks import LANES, LONG, arrange, mode_of, plain
from daskxent.kernels.sums import LIMBS, exact
from daskxent.kernels.tally_block import (
    CLIPPED,
    CLIPPED_LOSS,
    HIT,
    IGNORED,
    LOSS,
    MASKED,
    ODD,
    SEEN,
    USED,
    WEIGHT,
    Rules,
    work_for,
)
from daskxent.kernels.tally_lanes import tally_lanes
from daskxent.kernels.tally_long import tally_long
from daskxent.numbers import statistics
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.state import FIRST, SUM_TOLERANCE, Finding, Question, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_WEIGHTS = np.empty(0)


class Tally:
    """The running sums over blocks of whole rows; one thread's own.

    Parameters
    ----------
    question : Question
        With sparse labels.

    Examples
    --------
    >>> tally = Tally(Question(("crossentropy", "accuracy"), 2, from_logits=True))
    >>> found, odd = tally.add(np.log([[[0.25], [0.75]], [[0.5], [0.5]]]), np.array([1, 0]), None)
    >>> odd.tolist(), tally.state().counted
    ([], 2)
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        tops = [statistics.depth(statistic) for statistic in question.statistics if statistics.depth(statistic)]
        self.rules = Rules(
            mode_of(not question.from_logits, question.needs_loss),
            question.classes,
            question.ignore_class is not None,
            question.ignore_class or 0,
            np.array(tops, np.int64),
            # A little tighter than the rule in `state`, which has the last word on the rows handed back.
            0.99 * (SUM_TOLERANCE + question.classes * 1e-7),
        )
        sums = HIT + 1 + len(tops)
        self.limbs = np.zeros((sums, LIMBS), np.int64)
        self.counts = np.zeros(SEEN + 1 + len(tops), np.int64)
        self.weighted = False
        self._terms = np.zeros((sums, LANES))
        self._records: dict[Any, Any] = {}

    def add(
        self, values: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[np.float64] | None
    ) -> tuple[dict[str, Finding], NDArray[np.int64]]:
        """Add a block of rows.

        Parameters
        ----------
        values : (before, classes, after) array
        labels : (n,) int64
        weights : (n,) float64 or None
            None for every block, or for none.

        Returns
        -------
        audit : dict
            Ignored, masked and clipped rows of this block, numbered within it.
        odd : (m,) int64
            Rows that were left out and must be judged elsewhere, ascending.
        """
        arranged, wide = arrange(values)
        key = arranged.dtype
        if key not in self._records:
            self._records[key] = work_for(wide, self.question.classes), wide.type(0)
        work, model = self._records[key]
        self.weighted = weights is not None
        odd = np.empty(labels.size, np.int64)  # pages that are never written cost nothing
        told = np.zeros((ODD - IGNORED, FIRST), np.int64)
        self.counts[IGNORED : ODD + 1] = 0
        entry = tally_long if arranged.ndim == 2 and arranged.shape[1] >= LONG else tally_lanes
        entry(
            arranged,
            plain(np.ascontiguousarray(labels, np.int64)),
            _NO_WEIGHTS if weights is None else plain(np.ascontiguousarray(weights)),
            self.rules,
            work,
            model,
            self._terms,
            self.limbs,
            self.counts,
            odd,
            told,
        )
        audit = {}
        for kind, at in (("ignored", IGNORED), ("masked", MASKED), ("clipped", CLIPPED)):
            if count := int(self.counts[at]):
                first = told[at - IGNORED, : min(count, FIRST)]
                value = {IGNORED: np.full(len(first), self.rules.ignore), MASKED: np.zeros(len(first))}.get(at)
                if value is None:
                    value = values[first // values.shape[2], labels[first], first % values.shape[2]]
                audit[kind] = Finding(count, tuple(zip(first.tolist(), value.astype(float).tolist(), strict=True)))
        return audit, odd[: self.counts[ODD]]

    def state(self) -> State:
        """Return the sums so far, without audit and coverage."""
        question, used = self.question, int(self.counts[USED])
        names = [statistics.HIT, *(f"{statistics.HIT_IN_TOP}{k}" for k in self.rules.tops.tolist())]
        sums = {statistics.LOSS: exact(self.limbs[LOSS])}
        for at, name in enumerate(names):
            sums[name] = exact(self.limbs[HIT + at]) if self.weighted else ExactSum.whole(int(self.counts[SEEN + at]))
        weight = exact(self.limbs[WEIGHT]) if self.weighted else ExactSum.whole(used)
        return State({name: sums[name] for name in question.statistics}, weight, used, exact(self.limbs[CLIPPED_LOSS]))
