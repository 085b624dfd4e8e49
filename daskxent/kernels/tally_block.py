"""What a tally does to a block of rows of either kind: judge them by label and weight, take losses, add to the sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.kernels.arithmetic import counts, grid, term, usual_base
from daskxent.kernels.blocks import CHUNK, LANES, NO_MASS, PITCH, PROBABILITIES
from daskxent.kernels.crossentropy import counted, excess_of, log1p, unit_loss
from daskxent.kernels.llvm.compiling import inlined, inner, widen
from daskxent.kernels.sums import add_block, carry
from daskxent.numbers.records import EPSILON, PROBABILITY_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Places in `counts`; of some kinds the first rows are noted in `told`. Hits without weights are counted from SEEN on.
USED, IGNORED, MASKED, CLIPPED, ODD, SEEN = 0, 1, 2, 3, 4, 5
WEIGHT, LOSS, CLIPPED_LOSS, HIT = 0, 1, 2, 3  # rows of `terms` and `limbs`; the top-k statistics follow


class Rules(NamedTuple):
    """What the compiled loop must know of a question."""

    mode: int
    classes: int
    has_ignore: bool
    ignore: int
    tops: NDArray[np.int64]
    tolerance: float


class Work(NamedTuple):
    """What a block of rows needs on the way, one place a row; floats are as wide as the numbers."""

    tile: Any  # widened predictions, PITCH apart, or a row that does not lie in one piece
    peak: Any
    second: Any
    target: Any
    best: Any
    above: Any
    fate: Any
    base: Any
    floor: Any
    around: Any
    high: Any  # the sum of a row in units, and for float64 in finer ones what those leave
    low: Any


def work_for(wide: np.dtype[Any], classes: int) -> Work:
    """Return room for a block of numbers that are widened to `wide`."""
    number = np.float32 if wide == np.float32 else np.float64
    return Work(
        tile=np.zeros(max(min(classes + 16, CHUNK) * PITCH, classes), number),
        peak=np.zeros(LANES, number),
        second=np.zeros(LANES, number),
        target=np.zeros(LANES, number),
        best=np.zeros(LANES, np.int32),
        above=np.zeros(LANES, np.int32),
        fate=np.zeros(LANES, np.int32),
        base=np.zeros(LANES, np.int64),
        floor=np.zeros(LANES, number),
        around=np.zeros(LANES, number),
        high=np.zeros(LANES, np.int64),
        low=np.zeros(LANES, np.int64),
    )


@inner
def _tell(kind, row, counts, told):
    """Count a row of a kind, and note it if it is among the first."""
    if counts[kind] < told.shape[1]:
        told[kind - IGNORED, counts[kind]] = row
    counts[kind] += 1


@inner
def holds(row, stop, value):
    """Tell whether any of the first numbers of a row is a value."""
    found = 0
    for j in range(stop):
        found += widen(row[j]) == value
    return found > 0


@inlined
def fates(labels, weights, start, rules, work, counts, told):
    """Decide by label and weight what becomes of each row; tell whether any is to be looked at."""
    fate, seen = work.fate, 0
    for i in range(labels.size):
        fate[i] = 0 if 0 <= labels[i] < rules.classes else ODD
    if not (rules.has_ignore or weights.size):
        return True
    for i in range(labels.size):
        weight = weights[start + i] if weights.size else 1.0
        why = IGNORED if rules.has_ignore and labels[i] == rules.ignore else MASKED if weight == 0.0 else 0
        if not 0.0 <= weight < np.inf:
            fate[i] = ODD
        elif why:
            fate[i] = why
            _tell(why, start + i, counts, told)
        seen += fate[i] == 0 or fate[i] == ODD
    return seen > 0


@inlined
def set_grids(first, stop, work):
    """Set where some rows of logits are counted."""
    for i in range(first, stop):
        work.base[i] = usual_base(work.peak[i], work.second[i])
        work.floor[i], work.around[i] = grid(work.base[i], work.peak[i])


@inlined
def take_own(work):
    """Take away the terms of the peaks themselves."""
    for i in range(LANES):
        a, b = counts(term(work.peak[i], work.floor[i], work.around[i]))
        work.high[i] -= a
        work.low[i] -= b


@inlined
def block_losses(mode, tolerance, model, work, out):
    """Put the losses of a block into `out`; probabilities that do not sum to one are odd."""
    high, low, peaks, targets, fate = work.high, work.low, work.peak, work.target, work.fate
    if mode == PROBABILITIES:
        for i in range(LANES):
            total = counted(high[i], low[i], model) * 2.0**-PROBABILITY_BITS
            fits = abs(total - 1.0) <= tolerance
            fate[i] = fate[i] if fits or fate[i] else ODD
            out[i] = unit_loss(high[i], low[i], targets[i])
        return
    for i in range(LANES):
        excess = excess_of(high[i], low[i], work.base[i], np.float64(peaks[i]), model)
        out[i] = log1p(excess) + (np.float64(peaks[i]) - np.float64(targets[i]))


@inlined
def settle(n, weights, start, rules, work, terms, limbs, counts, odd, told):
    """Add a block to the sums; put odd rows aside."""
    fate, best, above = work.fate, work.best, work.above
    used = hits = 0
    for i in range(n):
        ok = fate[i] == 0
        used += ok
        hits += ok & (best[i] != 0)
    counts[USED] += used
    counts[SEEN] += hits
    for k in range(rules.tops.size):
        for i in range(n):
            counts[SEEN + 1 + k] += (fate[i] == 0) & (above[i] < rules.tops[k])
    if used < n:
        for i in range(n):
            terms[LOSS, i] = terms[LOSS, i] if fate[i] == 0 else 0.0
            if fate[i] == ODD:
                odd[counts[ODD]] = start + i
                counts[ODD] += 1
    if weights.size:
        _weigh(n, weights, start, rules, work, terms)
    if rules.mode == PROBABILITIES:
        _note_clipped(n, start, work, terms, limbs, counts, told)
    _add_all(n, rules.mode < NO_MASS, weights.size, terms, limbs)
    if counts[USED] & 0xFFFFFFF < n:  # long before a digit overflows
        carry_all(limbs)


@inlined
def _weigh(n, weights, start, rules, work, terms):
    """Multiply the terms of a block, hits included, with the weights."""
    for i in range(n):
        used = work.fate[i] == 0
        weight = weights[start + i] if used else 0.0
        terms[WEIGHT, i] = weight
        terms[LOSS, i] *= weight if used else 1.0
        terms[HIT, i] = weight if work.best[i] != 0 else 0.0
        for k in range(rules.tops.size):
            terms[HIT + 1 + k, i] = weight if work.above[i] < rules.tops[k] else 0.0


@inlined
def _note_clipped(n, start, work, terms, limbs, counts, told):
    """Count the rows whose label's probability is clipped, and what they add to the loss."""
    fate, targets, before = work.fate, work.target, counts[CLIPPED]
    for i in range(n):
        terms[CLIPPED_LOSS, i] = 0.0
        if fate[i] == 0 and np.float64(targets[i]) < EPSILON:
            terms[CLIPPED_LOSS, i] = terms[LOSS, i]
            _tell(CLIPPED, start + i, counts, told)
    if counts[CLIPPED] > before:
        add_block(limbs[CLIPPED_LOSS], terms[CLIPPED_LOSS, :n])


@inlined
def _add_all(n, mass, weighted, terms, limbs):
    for k in range(terms.shape[0]):
        if mass if k == LOSS else weighted and k != CLIPPED_LOSS:
            add_block(limbs[k], terms[k, :n])


@inlined
def carry_all(limbs):
    """Carry in all sums."""
    for k in range(limbs.shape[0]):
        carry(limbs[k])
