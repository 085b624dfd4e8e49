"""Compiled tallies: whole rows scanned, their losses taken and summed, block by block in one call.

This is the quick way for rows without anything odd. A row that belongs in the audit for more than a weight of 0 or
the class to be ignored is not counted here but handed back, for `state.tally` to judge: the rules about odd rows
stand there alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent import scores
from daskxent.exact import ExactSum
from daskxent.kernels import (
    LANES,
    LIMBS,
    NO_MASS,
    PROBABILITIES,
    _add_terms,
    _arranged,
    _carry,
    _losses_block,
    _mode,
    _plain,
    _scan_block,
    _value,
    _work,
    compiled,
    exact,
    inner,
)
from daskxent.rows import EPSILON, PROBABILITY_BASE, SLICE_BITS, empty
from daskxent.state import FIRST, SUM_TOLERANCE, Finding, Question, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

USED, IGNORED, MASKED, ODD, SEEN = 0, 1, 2, 3, 4  # places in `counts`; hits without weights are counted from SEEN on
WEIGHT, LOSS, HIT = 0, 1, 2  # rows of `terms` and `limbs`; the top-k statistics follow


class Rules(NamedTuple):
    """What the compiled loop must know of a question."""

    mode: int
    classes: int
    has_ignore: bool
    ignore: int
    tops: NDArray[np.int64]
    tolerance: float


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
        tops = [scores.depth(statistic) for statistic in question.statistics if scores.depth(statistic)]
        self.rules = Rules(
            _mode(not question.from_logits, question.needs_loss),
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
            Ignored and masked rows of this block, numbered within it.
        odd : (m,) int64
            Rows that were left out and must be judged elsewhere, ascending.
        """
        arranged, wide = _arranged(values)
        if wide not in self._records:
            self._records[wide] = empty(LANES, wide, self.question.top), _work(wide), wide.type(0)
        records, work, model = self._records[wide]
        self.weighted = weights is not None
        odd = np.empty(labels.size, np.int64)  # pages that are never written cost nothing
        hidden = np.zeros((2, FIRST), np.int64)
        self.counts[IGNORED : ODD + 1] = 0
        _tally(
            arranged,
            _plain(np.ascontiguousarray(labels, np.int64)),
            _plain(np.ascontiguousarray(np.empty(0) if weights is None else weights)),
            self.rules,
            records,
            work,
            model,
            self._terms,
            self.limbs,
            self.counts,
            odd,
            hidden,
        )
        audit = {}
        for kind, at in (("ignored", IGNORED), ("masked", MASKED)):
            if count := int(self.counts[at]):
                first = hidden[at - IGNORED, : min(count, FIRST)].tolist()
                value = float(self.rules.ignore) if at == IGNORED else 0.0
                audit[kind] = Finding(count, tuple((row, value) for row in first))
        return audit, odd[: self.counts[ODD]]

    def state(self) -> State:
        """Return the sums so far, without audit and coverage."""
        question, used = self.question, int(self.counts[USED])
        names = [scores.LOSS, scores.HIT, *(f"{scores.HIT_IN_TOP}{k}" for k in self.rules.tops.tolist())]
        sums = {}
        for at, name in enumerate(names):
            counted = at and not self.weighted
            sums[name] = ExactSum.whole(int(self.counts[SEEN + at - 1])) if counted else exact(self.limbs[LOSS + at])
        weight = exact(self.limbs[WEIGHT]) if self.weighted else ExactSum.whole(used)
        return State({name: sums[name] for name in question.statistics}, weight, used)


@compiled
def _tally(values, labels, weights, rules, rows, work, model, terms, limbs, counts, odd, hidden):
    added = 0
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        if not _any_seen(here, weights, start, rules):
            _hide_all(here, weights, start, rules, counts, hidden)
            continue
        _scan_block(values, start, here, 0, rules.mode, rows, 0, work)
        if rules.mode < NO_MASS:
            _losses_block(rows, 0, here.size, rules.mode, model, terms[LOSS])
        _sort_block(here, weights, start, rules, rows, model, terms, counts, odd, hidden)
        n = here.size
        if rules.mode < NO_MASS:
            _add_terms(limbs[LOSS], terms[LOSS, :n])
        if weights.size:
            _add_terms(limbs[WEIGHT], terms[WEIGHT, :n])
            for k in range(HIT, terms.shape[0]):
                _add_terms(limbs[k], terms[k, :n])
        added += 1
        if added & 0xFFFF == 0:
            _carry_all(limbs)
    _carry_all(limbs)


@inner
def _carry_all(limbs):
    for k in range(limbs.shape[0]):
        _carry(limbs[k])


@inner
def _hidden_as(label, weight, rules):
    """Why a row is left out: IGNORED, MASKED or 0 if it is not."""
    if rules.has_ignore and label == rules.ignore:
        return IGNORED
    return MASKED if weight == 0.0 else 0


@inner
def _any_seen(labels, weights, start, rules):
    """Tell whether a block holds any row to look at: padding is not even scanned."""
    if not (rules.has_ignore or weights.size):
        return True
    for i in range(labels.size):
        if not _hidden_as(labels[i], weights[start + i] if weights.size else 1.0, rules):
            return True
    return False


@inner
def _hide(why, row, counts, hidden):
    if counts[why] < hidden.shape[1]:
        hidden[why - IGNORED, counts[why]] = row
    counts[why] += 1


@inner
def _hide_all(labels, weights, start, rules, counts, hidden):
    for i in range(labels.size):
        _hide(_hidden_as(labels[i], weights[start + i] if weights.size else 1.0, rules), start + i, counts, hidden)


@inner
def _sort_block(labels, weights, start, rules, rows, model, terms, counts, odd, hidden):
    """Turn losses into terms of the sums, count hits, and put hidden and odd rows aside."""
    d = rows.mass[rows.mass.shape[0] - 1]
    for i in range(labels.size):
        label = labels[i]
        weight = weights[start + i] if weights.size else 1.0
        why = _hidden_as(label, weight, rules)
        fits = 0 <= label < rules.classes and rows.flags[i] == 0 and 0.0 < weight < np.inf
        fits = fits and -np.inf < rows.peak[i] < np.inf
        if rules.mode == PROBABILITIES:
            total = _value(rows.mass[0, i], rows.mass[1, i], rows.mass[2, i], d[i], model)
            total *= 2.0 ** (SLICE_BITS * PROBABILITY_BASE)
            fits = fits and rows.target[i] >= EPSILON and abs(total - 1.0) <= rules.tolerance
        if why or not fits:
            for k in range(terms.shape[0]):
                terms[k, i] = 0.0
            if why:
                _hide(why, start + i, counts, hidden)
            else:
                odd[counts[ODD]] = start + i
                counts[ODD] += 1
            continue
        counts[USED] += 1
        terms[WEIGHT, i] = weight
        terms[LOSS, i] *= weight
        hit = rows.best[i] == label
        terms[HIT, i] = weight if hit else 0.0
        counts[SEEN] += hit
        for k in range(rules.tops.size):
            hit = rows.target[i] >= rows.top[i, rules.tops[k] - 1]
            terms[HIT + 1 + k, i] = weight if hit else 0.0
            counts[SEEN + 1 + k] += hit
