"""Compiled tallies: whole rows scanned, their losses taken and summed, block by block in one call.

This is the quick way for rows without anything odd. A row that belongs in the audit for more than a weight of 0 or
the class to be ignored is not counted here but handed back, for `state.tally` to judge: the rules about odd rows
stand there alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from daskxent import elementary, scores
from daskxent.exact import ExactSum
from daskxent.kernels import (
    _E4,
    _E8,
    _L8,
    _LOG2E_F4,
    _LOG2E_F8,
    _N4,
    _REACH_F4,
    _REACH_F8,
    _ROUND_F4,
    _ROUND_F8,
    _USUAL_F8,
    CHUNK,
    GROUP,
    GROUP_BITS,
    LANES,
    LIMBS,
    LOGITS,
    LONG,
    NO_MASS,
    PITCH,
    PROBABILITIES,
    _add_terms,
    _arranged,
    _bits,
    _borrowed,
    _carry,
    _clip,
    _cut,
    _excess,
    _fetch,
    _from_bits,
    _intrinsic,
    _like,
    _load_along,
    _log1p,
    _mode,
    _near_power,
    _number,
    _order,
    _over_24,
    _overload,
    _plain,
    _scaled,
    _value,
    _widen,
    compiled,
    exact,
    inner,
)
from daskxent.rows import EPSILON, PROBABILITY_BASE, SLICE_BITS
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


class Work(NamedTuple):
    """What a block of rows needs on the way, one place a row; `peak`, `target` and `tile` as wide as the numbers."""

    tile: Any  # widened predictions, PITCH apart, or a row that does not lie in one piece
    tail: Any  # the rest of a row beyond a multiple of GROUP, as it is stored
    peak: Any
    low: Any
    target: Any
    best: Any
    above: Any
    fate: Any
    slices: Any
    sums: Any


def _work(wide: np.dtype[Any], stored: np.dtype[Any], classes: int) -> Work:
    number = np.float32 if wide == np.float32 else np.float64
    return Work(
        tile=np.zeros(max(min(classes + 16, CHUNK) * PITCH, classes), number),
        tail=np.zeros(GROUP, stored),
        peak=np.zeros(LANES, number),
        low=np.zeros(LANES, number),
        target=np.zeros(LANES, number),
        best=np.zeros(LANES, np.int32),
        above=np.zeros(LANES, np.int32),
        fate=np.zeros(LANES, np.int32),
        slices=np.zeros((4, LANES), np.uint32),
        sums=np.zeros((4, LANES), np.int64),
    )


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
        key = arranged.dtype
        if key not in self._records:
            self._records[key] = _work(wide, key, self.question.classes), wide.type(0)
        work, model = self._records[key]
        self.weighted = weights is not None
        odd = np.empty(labels.size, np.int64)  # pages that are never written cost nothing
        hidden = np.zeros((2, FIRST), np.int64)
        self.counts[IGNORED : ODD + 1] = 0
        entry = _tally_long if arranged.ndim == 2 and arranged.shape[1] >= LONG else _tally_lanes
        entry(
            arranged,
            _plain(np.ascontiguousarray(labels, np.int64)),
            _plain(np.ascontiguousarray(np.empty(0) if weights is None else weights)),
            self.rules,
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


# --- a block ----------------------------------------------------------------------------------------------------------

# Peaks below these in magnitude are treated here: all their classes in reach are small arguments of exp.
_NEAR_USUAL_F4 = np.float32(elementary.NEAR_F4 - 71.0)
# exp(r) doubled: the powers of two below are halved, so that what is added to the rounding constant is even.
_TWICE_E4, _TWICE_E8 = tuple(np.float32(2) * c for c in _E4), tuple(2.0 * c for c in _E8)


def _tame(peak: Any) -> Any:
    """Tell whether a row of logits with this peak is treated here."""


def _grid(peak: Any) -> Any:
    """Return floor and rounding constant of the terms of a row with this peak."""


def _term(x: Any, floor: Any, around: Any) -> Any:
    """Return exp(x) in units of the grid, to the bits of `kernels._term`."""


@_overload(_tame)
def _tame_typed(peak):
    limit = _NEAR_USUAL_F4 if peak == types.float32 else _USUAL_F8
    return lambda peak: abs(peak) < limit


@_overload(_grid)
def _grid_typed(peak):
    def f4(peak):
        base = _over_24((peak * _LOG2E_F4 + _ROUND_F4) - _ROUND_F4)
        return peak - _REACH_F4, _ROUND_F4 + np.float32(126 - SLICE_BITS * base)

    def f8(peak):
        base = _over_24((peak * _LOG2E_F8 + _ROUND_F8) - _ROUND_F8)
        return peak - _REACH_F8, _ROUND_F8 + (1022 - SLICE_BITS * base)

    return f4 if peak == types.float32 else f8


@_overload(_term)
def _term_typed(x, floor, around):
    e, f = _TWICE_E4, _TWICE_E8

    def f4(x, floor, around):
        x = x if x > floor else floor
        shifted = x * _LOG2E_F4 + around
        n = shifted - around
        r = (x - n * _N4[0]) - n * _N4[1]
        p = ((((e[5] * r + e[4]) * r + e[3]) * r + e[2]) * r + e[1]) * r + e[0]
        return p * _from_bits(np.int32(_bits(shifted) << 23))

    def f8(x, floor, around):
        x = x if x > floor else floor
        shifted = x * _LOG2E_F8 + around
        n = shifted - around
        r = ((x - n * _L8[0]) - n * _L8[1]) - n * _L8[2]
        high = (((((f[13] * r + f[12]) * r + f[11]) * r + f[10]) * r + f[9]) * r + f[8]) * r + f[7]
        p = ((((((high * r + f[6]) * r + f[5]) * r + f[4]) * r + f[3]) * r + f[2]) * r + f[1]) * r + f[0]
        return p * _from_bits(_bits(shifted) << 52)

    return f4 if x == types.float32 else f8


@inner
def _fates(labels, weights, start, rules, work, counts, hidden):
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
            if counts[why] < hidden.shape[1]:
                hidden[why - IGNORED, counts[why]] = start + i
            counts[why] += 1
        seen += fate[i] == 0 or fate[i] == ODD
    return seen > 0


@inner
def _losses(mode, tolerance, model, work, out):
    """Put the losses of a block into `out`; rows that are not treated here become odd."""
    a, b, c, d = work.sums[0], work.sums[1], work.sums[2], work.sums[3]
    peaks, targets, fate = work.peak, work.target, work.fate
    if mode == PROBABILITIES:
        for i in range(LANES):
            total = _value(a[i], b[i], c[i], d[i], model) * 2.0 ** (SLICE_BITS * PROBABILITY_BASE)
            fits = np.float64(targets[i]) >= EPSILON and abs(total - 1.0) <= tolerance
            fate[i] = fate[i] if fits or fate[i] else ODD
            own = _cut(_scaled(targets[i]))
            rest = _value(a[i] - own[0], b[i] - own[1], c[i] - own[2], d[i] - own[3], model)
            out[i] = _log1p(rest * 2.0 ** (SLICE_BITS * PROBABILITY_BASE) / np.float64(_clip(targets[i])))
        return
    for i in range(LANES):
        tame = _tame(peaks[i])
        fate[i] = fate[i] if tame or fate[i] else ODD
        peak = peaks[i] if tame else _like(0.0, model)
        power, p = _near_power(peak)
        excess = _excess(a[i], b[i], c[i], d[i], _over_24(np.float64(power)), np.float64(peak), power, p)
        out[i] = _log1p(excess) + (np.float64(peak) - np.float64(targets[i]))


@inner
def _settle(n, weights, start, rules, work, terms, limbs, counts, odd):
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
    _add_all(n, rules.mode < NO_MASS, weights.size, terms, limbs)
    if counts[USED] & 0xFFFFFFF < n:  # long before a digit overflows
        _carry_all(limbs)


@inner
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


@inner
def _add_all(n, mass, weighted, terms, limbs):
    for k in range(terms.shape[0]):
        if mass if k == LOSS else weighted:
            _add_terms(limbs[k], terms[k, :n])


@inner
def _carry_all(limbs):
    for k in range(limbs.shape[0]):
        _carry(limbs[k])


@inner
def _borrowed_work(w):
    return Work(
        _borrowed(w.tile),
        _borrowed(w.tail),
        _borrowed(w.peak),
        _borrowed(w.low),
        _borrowed(w.target),
        _borrowed(w.best),
        _borrowed(w.above),
        _borrowed(w.fate),
        _borrowed(w.slices),
        _borrowed(w.sums),
    )


# --- long rows --------------------------------------------------------------------------------------------------------


def _row(values: Any, i: Any, tile: Any) -> Any:
    """Return row i as an array that lies in one piece."""


@_overload(_row)
def _row_typed(values, i, tile):
    def copied(values, i, tile):
        row = tile[: values.shape[1]]
        for j in range(values.shape[1]):
            row[j] = _widen(values[i, j])
        return row

    return (lambda values, i, tile: values[i]) if values.layout == "C" else copied


@inner
def _extremes(row, low, high):
    """Lower and raise two keys to those of a row whose length is a multiple of GROUP."""
    for j in range((row.size >> GROUP_BITS) << GROUP_BITS):
        key = _order(_widen(row[j]))
        high = key if key > high else high
        low = key if key < low else low
    return low, high


@inner
def _mass(row, mode, floor, around, sums, at):
    """Add the slices of a row whose length is a multiple of GROUP to ``sums[:, at]``."""
    for start in range(0, row.size, CHUNK):
        chunk = row[start : start + CHUNK]
        count = (chunk.size >> GROUP_BITS) << GROUP_BITS
        _fetch(row, row.size + start)
        s0 = s1 = s2 = s3 = np.uint32(0)
        if mode == PROBABILITIES:
            for j in range(count):
                a, b, c, d = _cut(_scaled(_widen(chunk[j])))
                s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        else:
            for j in range(count):
                a, b, c, d = _cut(_term(_widen(chunk[j]), floor, around))
                s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        sums[0, at] += np.int64(s0)
        sums[1, at] += np.int64(s1)
        sums[2, at] += np.int64(s2)
        sums[3, at] += np.int64(s3)


@inner
def _tail(row, full, tail):
    """Copy what a row has beyond its first `full` numbers, and pad it with the first of all."""
    for j in range(GROUP):
        tail[j] = row[0]
    for j in range(row.size - full):
        tail[j] = row[full + j]


@inner
def _scan_row(row, full, label, i, rules, work):
    """Find peak, rank and target of a row."""
    first = _order(_widen(row[0]))
    low, high = _extremes(row[:full], first, first)
    low, high = _extremes(work.tail, low, high)
    peak, lowest, target = _number(high), _number(low), _widen(row[label])
    work.peak[i], work.target[i] = peak, target
    # Keys of NaN lie outside those of the infinities, so one of the two is NaN where the row has any.
    fits = -np.inf < peak < np.inf and lowest <= peak
    if not fits or (rules.mode == PROBABILITIES and (lowest < 0 or peak > 1)):
        work.fate[i] = ODD
    ahead = above = 0
    if target == peak:
        for j in range(label):
            ahead += _widen(row[j]) == peak
    work.best[i] = target == peak and ahead == 0
    if rules.tops.size:
        for j in range(row.size):
            above += _widen(row[j]) > target
    work.above[i] = above


@inner
def _sum_row(row, full, i, mode, work):
    """Sum the slices of a row; what its tail is padded with is taken away again."""
    sums, peak, main, tail = work.sums, work.peak[i], row[:full], work.tail
    sums[0, i] = sums[1, i] = sums[2, i] = sums[3, i] = 0
    floor, around = _grid(peak)
    if mode == PROBABILITIES:
        _mass(main, PROBABILITIES, floor, around, sums, i)
        _mass(tail, PROBABILITIES, floor, around, sums, i)
        a, b, c, d = _cut(_scaled(_widen(row[0])))
    elif _tame(peak):
        _mass(main, LOGITS, floor, around, sums, i)
        _mass(tail, LOGITS, floor, around, sums, i)
        a, b, c, d = _cut(_term(_widen(row[0]), floor, around))
    else:
        return
    padded = GROUP - (row.size - full)
    sums[0, i] -= np.int64(a) * padded
    sums[1, i] -= np.int64(b) * padded
    sums[2, i] -= np.int64(c) * padded
    sums[3, i] -= np.int64(d) * padded


@inner
def _scan_rows(values, start, labels, rules, work):
    full = (values.shape[1] >> GROUP_BITS) << GROUP_BITS
    for i in range(labels.size):
        if work.fate[i] == 0:
            row = _row(values, start + i, work.tile)
            _tail(row, full, work.tail)
            _scan_row(row, full, labels[i], i, rules, work)
            if rules.mode < NO_MASS:
                _sum_row(row, full, i, rules.mode, work)


@compiled
def _tally_long(values, labels, weights, rules, work, model, terms, limbs, counts, odd, hidden):
    values, labels, weights, work = _borrowed(values), _borrowed(labels), _borrowed(weights), _borrowed_work(work)
    terms, limbs, counts = _borrowed(terms), _borrowed(limbs), _borrowed(counts)
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        if _fates(here, weights, start, rules, work, counts, hidden):
            _scan_rows(values, start, here, rules, work)
            if rules.mode < NO_MASS:
                _losses(rules.mode, rules.tolerance, model, work, terms[LOSS])
            _settle(here.size, weights, start, rules, work, terms, limbs, counts, odd)
    _carry_all(limbs)


# --- lanes ------------------------------------------------------------------------------------------------------------

_SQUARE = 16  # rows and classes that are transposed in registers at a time


@_intrinsic
def _transpose(context, values, row, column, tile, at):
    """Widen 16 rows of 16 classes of a contiguous array into ``tile[at + class * PITCH + row]``."""

    def code(ctx, builder, sig, args):
        source, target = (ctx.make_array(sig.args[k])(ctx, builder, args[k]) for k in (0, 3))
        pitch = builder.extract_value(source.shape, 1)
        begin = builder.add(builder.mul(args[1], pitch), args[2])
        rows = []
        for k in range(_SQUARE):
            place = builder.gep(source.data, [builder.add(begin, builder.mul(pitch, pitch.type(k)))])
            number = source.data.type.pointee
            place = builder.bitcast(place, ir.PointerType(ir.VectorType(number, _SQUARE)))
            vector = builder.load(place, align=sig.args[0].dtype.bitwidth // 8)
            rows.append(_wide_vector(builder, sig.args[0].dtype, vector))
        for by in (8, 4, 2, 1):
            low = [lane if not lane & by else _SQUARE + lane - by for lane in range(_SQUARE)]
            high = [lane + by if not lane & by else _SQUARE + lane for lane in range(_SQUARE)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), _SQUARE), mask) for mask in (low, high)]
            for k in range(_SQUARE):
                if not k & by:
                    pair = rows[k], rows[k + by]
                    rows[k], rows[k + by] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        for k, vector in enumerate(rows):
            place = builder.gep(target.data, [builder.add(args[4], args[4].type(k * PITCH))])
            place = builder.bitcast(place, ir.PointerType(vector.type))
            builder.store(vector, place, align=sig.args[3].dtype.bitwidth // 8)
        return ctx.get_dummy_value()

    return types.void(values, types.int64, types.int64, tile, types.int64), code


def _wide_vector(builder, stored, vector):
    """Widen a vector as `kernels._widen` does a number."""
    if stored == types.uint16:
        halves = builder.bitcast(vector, ir.VectorType(ir.HalfType(), _SQUARE))
        return builder.fpext(halves, ir.VectorType(ir.FloatType(), _SQUARE))
    if stored == types.int16:
        whole = ir.VectorType(ir.IntType(32), _SQUARE)
        wide = builder.shl(builder.zext(vector, whole), ir.Constant(whole, [16] * _SQUARE))
        return builder.bitcast(wide, ir.VectorType(ir.FloatType(), _SQUARE))
    return vector


def _load(values: Any, start: Any, at: Any, classes: Any, n: Any, tile: Any) -> Any:
    """Widen the classes from `at` on of the rows from `start` on into ``tile[class * PITCH + row]``."""


@_overload(_load)
def _load_typed(values, start, at, classes, n, tile):
    def one_by_one(values, start, at, classes, n, tile):
        for i in range(n):
            for c in range(classes):
                tile[c * PITCH + i] = _widen(values[start + i, at + c])

    def transposed(values, start, at, classes, n, tile):
        # The last rows of few classes are left to the slow loop: a square of them would reach beyond the array.
        room = values.size - at - max(_SQUARE, classes)
        squares = min(n, room // values.shape[1] - start + 1) // _SQUARE * _SQUARE if room >= 0 else 0
        squares = max(squares, 0)
        for i in range(0, squares, _SQUARE):
            for c in range(0, classes, _SQUARE):
                c = max(0, min(c, classes - _SQUARE))
                _transpose(values, start + i, at + c, tile, c * PITCH + i)
        for i in range(squares, n):
            for c in range(classes):
                tile[c * PITCH + i] = _widen(values[start + i, at + c])

    if values.ndim == 3:
        return _load_along
    return transposed if values.layout == "C" else one_by_one


@inner
def _lane_peaks(tile, first, classes, work):
    """Raise peak and best, lower low of each lane; NaN makes low NaN for good."""
    peak, best, low = work.peak, work.best, work.low
    for c in range(classes):
        row, number = tile[c * PITCH : c * PITCH + LANES], np.int32(first + c)
        for i in range(LANES):
            x = row[i]
            risen = x > peak[i]
            peak[i] = x if risen else peak[i]
            best[i] = number if risen else best[i]
            low[i] = low[i] if low[i] <= x or low[i] != low[i] else x


@inner
def _lane_above(tile, classes, work):
    """Count the classes above the target of each lane."""
    target, above = work.target, work.above
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            above[i] += np.int32(row[i] > target[i])


@inner
def _lane_mass(tile, classes, mode, floor, around, work):
    """Add the slices of at most CHUNK classes of each lane."""
    a, b, c, d = work.slices[0], work.slices[1], work.slices[2], work.slices[3]
    for i in range(LANES):
        a[i] = b[i] = c[i] = d[i] = 0
    for at in range(classes):
        row = tile[at * PITCH : at * PITCH + LANES]
        if mode == PROBABILITIES:
            for i in range(LANES):
                p, q, r, s = _cut(_scaled(row[i]))
                a[i], b[i] = np.uint32(a[i] + p), np.uint32(b[i] + q)
                c[i], d[i] = np.uint32(c[i] + r), np.uint32(d[i] + s)
        else:
            for i in range(LANES):
                p, q, r, s = _cut(_term(row[i], floor[i], around[i]))
                a[i], b[i] = np.uint32(a[i] + p), np.uint32(b[i] + q)
                c[i], d[i] = np.uint32(c[i] + r), np.uint32(d[i] + s)
    for s in range(4):
        for i in range(LANES):
            work.sums[s, i] += np.int64(work.slices[s, i])


@inner
def _lane_targets(labels, first, classes, work):
    for i in range(labels.size):
        label = labels[i] - first
        if 0 <= label < classes:
            work.target[i] = work.tile[label * PITCH + i]


@inner
def _lane_grids(mode, floor, around, work):
    """Set the grid of each lane, clear its sums, and find the odd ones."""
    peak, low, fate = work.peak, work.low, work.fate
    for i in range(LANES):
        fits = -np.inf < peak[i] and peak[i] < np.inf and low[i] == low[i]
        fits = fits and (mode != PROBABILITIES or (low[i] >= 0 and peak[i] <= 1))
        fate[i] = fate[i] if fits or fate[i] else ODD
        floor[i], around[i] = _grid(peak[i])
    for s in range(4):
        for i in range(LANES):
            work.sums[s, i] = 0


@inner
def _scan_lanes(values, start, labels, rules, floor, around, work):
    """Scan a block of rows, class by class."""
    every, n, tile = values.shape[1], labels.size, work.tile
    for i in range(LANES):
        work.peak[i], work.low[i], work.best[i], work.above[i] = -np.inf, np.inf, 0, 0
    for at in range(0, every, CHUNK):
        classes = min(every - at, CHUNK)
        _load(values, start, at, classes, n, tile)
        _lane_peaks(tile, at, classes, work)
        _lane_targets(labels, at, classes, work)
    _lane_grids(rules.mode, floor, around, work)
    for at in range(0, every, CHUNK):
        classes = min(every - at, CHUNK)
        if every > CHUNK:
            _load(values, start, at, classes, n, tile)
        if rules.tops.size:
            _lane_above(tile, classes, work)
        if rules.mode < NO_MASS:
            _lane_mass(tile, classes, rules.mode, floor, around, work)
    for i in range(n):
        work.best[i] = work.best[i] == labels[i]


@compiled
def _tally_lanes(values, labels, weights, rules, work, model, terms, limbs, counts, odd, hidden):
    values, labels, weights, work = _borrowed(values), _borrowed(labels), _borrowed(weights), _borrowed_work(work)
    terms, limbs, counts = _borrowed(terms), _borrowed(limbs), _borrowed(counts)
    floor, around = np.zeros_like(work.peak), np.zeros_like(work.peak)
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        if _fates(here, weights, start, rules, work, counts, hidden):
            _scan_lanes(values, start, here, rules, floor, around, work)
            if rules.mode < NO_MASS:
                _losses(rules.mode, rules.tolerance, model, work, terms[LOSS])
            _settle(here.size, weights, start, rules, work, terms, limbs, counts, odd)
    _carry_all(limbs)
