"""Compiled scans: the numbers of `rows`, bit for bit, at the speed of memory.

A block of `LANES` rows is processed at a time, so that what one step leaves (widened numbers, records, losses) is
still in the cache when the next one wants it. There are two ways through a block:

* *long rows* (the class axis is last and long): one row after the other, vectors along the classes;
* *lanes* (few classes, or the class axis is not last): one class after the other, vectors along the rows. Short rows
  are transposed into a tile first; maps lie that way already.

Both cut the class axis into pieces that fit the cache and join the pieces as `rows.merge` does, to the same bits.

Why the arithmetic is the same on every processor: LLVM fuses no multiplication with an addition unless it is told
to (`fastmath` or `contract`; nothing here does), and sums are sums of integers.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.resources import files
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

from daskxent import elementary
from daskxent.exact import UNIT_BITS, ExactSum
from daskxent.rows import (
    EPSILON,
    HAS_NAN,
    HUGE,
    HUGE_BASE,
    NO_BASE,
    OUTSIDE_UNIT,
    PROBABILITY_BASE,
    SLICE_BITS,
    SLICES,
    Rows,
    empty,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

LANES = 128  # rows of a block
PITCH = LANES + 16  # a tile's classes lie this far apart: a power of two would crowd them into few sets of the cache
LONG = 150  # classes from which going along a row is faster than transposing (measured: about equal there)
PIECE = 8192  # classes of a long row taken at a time
CHUNK = 256  # most terms below 2**24 whose sum fits 32 bits, unsigned; most classes of a tile, too
GROUP_BITS = 5  # a long row is padded to a multiple of 32 classes, so that no loop has a scalar rest
GROUP = 1 << GROUP_BITS

LOGITS, PROBABILITIES, NO_MASS = 0, 1, 2  # NO_MASS goes with either of the others

# numba types these in a way that does not fit their use inside kernels.
_njit: Any = numba.njit
_intrinsic: Any = extending.intrinsic
_overload: Any = extending.overload
SOURCES = ("elementary.py", "exact.py", "kernels.py", "rows.py", "state.py", "tallies.py")
_DIGEST = hashlib.sha256(b"".join(files("daskxent").joinpath(name).read_bytes() for name in SOURCES)).hexdigest()[:16]


def compiled(function: Any) -> Any:
    """Compile an entry point and keep the code on disk.

    numba looks at the file of the entry point alone to tell whether code is still good, but code from all `SOURCES`
    ends up in it. So their digest is made part of the name it is kept under.
    """
    function.__qualname__ += f"_{_DIGEST}"
    return _njit(nogil=True, cache=True, error_model="numpy")(function)


# Wrappers that only Python needs would take a third of the time of compilation.
inner = _njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

# --- bits -------------------------------------------------------------------------------------------------------------

_INTEGER: dict[Any, Any] = {types.float32: types.int32, types.float64: types.int64}
_FLOAT: dict[Any, Any] = {bits: number for number, bits in _INTEGER.items()}


@_intrinsic
def _bits(context: Any, number: Any) -> Any:
    """Return the bits of a float as an integer."""
    return _INTEGER[number](number), lambda ctx, builder, sig, args: builder.bitcast(
        args[0], ctx.get_value_type(sig.return_type)
    )


@_intrinsic
def _from_bits(context: Any, bits: Any) -> Any:
    """Return the float that has these bits."""
    return _FLOAT[bits](bits), lambda ctx, builder, sig, args: builder.bitcast(
        args[0], ctx.get_value_type(sig.return_type)
    )


@_intrinsic
def _like(context: Any, number: Any, model: Any) -> Any:
    """Return `number` in the type of `model`."""
    return model(number, model), lambda ctx, builder, sig, args: ctx.cast(builder, args[0], sig.args[0], sig.args[1])


def _converts_half() -> bool:
    """Tell whether the processor that is compiled for widens float16 itself: without F16C, x86 would call a library."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    config: Any = numba.config
    if config.CPU_NAME is not None:
        return "+f16c" in (config.CPU_FEATURES or "")
    return bool(llvmlite.binding.get_host_cpu_features().get("f16c"))


def _half_by_hand(builder: Any, half: Any) -> Any:
    """Widen the bits of a float16: its exponent and fraction, moved into place, count in units of 2**-112."""
    integer, number = ir.IntType(32), ir.FloatType()
    wide = builder.zext(half, integer)
    moved = builder.shl(builder.and_(wide, integer(0x7FFF)), integer(13))
    scaled = builder.bitcast(builder.fmul(builder.bitcast(moved, number), number(2.0**112)), integer)
    special = builder.icmp_unsigned(">=", moved, integer(0x7C00 << 13))  # infinity and NaN
    plain = builder.select(special, builder.or_(moved, integer(0x7F800000)), scaled)
    sign = builder.shl(builder.and_(wide, integer(0x8000)), integer(16))
    return builder.bitcast(builder.or_(plain, sign), number)


@_intrinsic
def _widen(context: Any, number: Any) -> Any:
    """Widen a prediction: uint16 holds the bits of a float16, int16 those of a bfloat16."""
    if number in _INTEGER:
        return number(number), lambda ctx, builder, sig, args: args[0]

    def half(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        if _converts_half():
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        return _half_by_hand(builder, args[0])

    def brain(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(number), half if number == types.uint16 else brain


@_intrinsic
def _prefetch(context: Any, array: Any, offset: Any) -> Any:
    """Ask for the memory `offset` bytes behind the start of an array; harmless where there is none."""

    def code(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = ctx.make_array(sig.args[0])(ctx, builder, args[0]).data
        pointer = builder.inttoptr(
            builder.add(builder.ptrtoint(data, ir.IntType(64)), args[1]), ir.PointerType(ir.IntType(8))
        )
        flag = ir.IntType(32)
        call = builder.module.declare_intrinsic(
            "llvm.prefetch", (pointer.type,), ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        )
        builder.call(call, [pointer, flag(0), flag(3), flag(1)])
        return ctx.get_dummy_value()

    return types.void(array, types.int64), code


@_intrinsic
def _borrowed(context: Any, array: Any) -> Any:
    """Return an array without its owner, so that handing it to functions counts no references (a tenth of the time)."""

    def code(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        view = ctx.make_array(sig.args[0])(ctx, builder, args[0])
        view.meminfo, view.parent = view.meminfo.type(None), view.parent.type(None)
        return view._getvalue()

    return array(array), code


# --- exp of one class -------------------------------------------------------------------------------------------------

_N4 = tuple(np.float32(c) for c in elementary.LN2_NEAR_F4)
_NEAR_F4 = np.float32(elementary.NEAR_F4)
_E4 = tuple(np.float32(c) for c in elementary.EXP_F4)
_L4 = tuple(np.float32(c) for c in elementary.LN2_F4)
_E8, _L8, _A8 = elementary.EXP_F8, elementary.LN2_F8, elementary.ATANH_F8
_LOG2E_F4, _ROUND_F4 = np.float32(elementary.LOG2E), np.float32(elementary.ROUND_F4)
_LOG2E_F8, _ROUND_F8 = elementary.LOG2E, elementary.ROUND_F8
_CUT_F4, _CUT_F8 = np.float32(2.0**SLICE_BITS), 2.0**SLICE_BITS
# Adding this to the bits of a number plus _ROUND, shifted to the exponent, leaves a power of two.
_UNITY_F4 = 127 - int(np.float32(elementary.ROUND_F4).view(np.int32))
_UNITY_F8 = 1023 - int(np.float64(elementary.ROUND_F8).view(np.int64))
# Logits this far below the peak count for nothing in the lowest slice; the powers of two above stay normal numbers.
_REACH_F4, _REACH_F8 = np.float32(70.0), 100.0
# Peaks below this in magnitude: the usual case, which the vectorised loops treat. All their classes in reach are near.
_SQRT_HALF = float(np.sqrt(0.5))
_FAR_F4 = np.float32(elementary.FAR_F4)
_USUAL_F4, _USUAL_F8 = elementary.FAR_F4 - 128.0, HUGE - 128.0
_UNIT_F4 = np.float32(EPSILON), np.float32(1 - EPSILON)
_UNIT_F8 = EPSILON, 1 - EPSILON


@inner
def _exp_f4(r):
    e = _E4
    return ((((e[5] * r + e[4]) * r + e[3]) * r + e[2]) * r + e[1]) * r + e[0]


@inner
def _exp_f8(r):
    e = _E8
    high = (((((e[13] * r + e[12]) * r + e[11]) * r + e[10]) * r + e[9]) * r + e[8]) * r + e[7]
    return ((((((high * r + e[6]) * r + e[5]) * r + e[4]) * r + e[3]) * r + e[2]) * r + e[1]) * r + e[0]


@inner
def _reduce_f4(x):
    shifted = x * _LOG2E_F4 + _ROUND_F4
    n = shifted - _ROUND_F4
    near = (x - n * _N4[0]) - n * _N4[1]
    wide = ((x - n * _L4[0]) - n * _L4[1]) - n * _L4[2]
    return shifted, near if abs(x) < _NEAR_F4 else wide


@inner
def _reduce_f8(x):
    shifted = x * _LOG2E_F8 + _ROUND_F8
    n = shifted - _ROUND_F8
    return shifted, ((x - n * _L8[0]) - n * _L8[1]) - n * _L8[2]


# Stubs; the compiled forms below differ by type.
def _power(x: Any) -> Any:
    """Write exp(x) as p * 2**n like `elementary.power_of_two`: n, p."""


def _term(x: Any, floor: Any, scale: Any) -> Any:
    """Return exp(x) in units of a grid position; `floor` and `scale` as `_grid` gives them."""


def _cut(u: Any) -> Any:
    """Take 24 bits at a time from a number below 2**24: four whole numbers (the last is 0 in float32)."""


def _grid(peak: Any) -> Any:
    """Return base, floor and scale for rows with this peak, if it is a usual one."""


def _usual(peak: Any) -> Any:
    """Tell whether the vectorised loops treat rows with this peak."""


def _clip(x: Any) -> Any:
    """Clip a probability; NaN counts as the lowest."""


def _scaled(x: Any) -> Any:
    """Clip a probability and count it in units of its grid: the same as `_clip` times 2**24, which is exact."""


@_overload(_power)
def _power_typed(x):
    def f4(x):
        if abs(x) >= _FAR_F4:
            shifted, wide = _reduce_f8(np.float64(x))
            return np.int64(shifted - _ROUND_F8), _exp_f4(np.float32(wide))
        shifted, r = _reduce_f4(x)
        return np.int64(shifted - _ROUND_F4), _exp_f4(r)

    def f8(x):
        shifted, r = _reduce_f8(x)
        return np.int64(shifted - _ROUND_F8), _exp_f8(r)

    return f4 if x == types.float32 else f8


@_overload(_term)
def _term_typed(x, floor, scale):
    def f4(x, floor, scale):
        shifted, r = _reduce_f4(x if x > floor else floor)
        return _exp_f4(r) * _from_bits(np.int32(np.int32(_bits(shifted) << 23) + scale))

    def f8(x, floor, scale):
        shifted, r = _reduce_f8(x if x > floor else floor)
        return _exp_f8(r) * _from_bits((_bits(shifted) << 52) + scale)

    return f4 if x == types.float32 else f8


@_overload(_cut)
def _cut_typed(u):
    def f4(u):
        a = np.int32(u)
        u = (u - np.float32(a)) * _CUT_F4
        b = np.int32(u)
        u = (u - np.float32(b)) * _CUT_F4
        return a, b, np.int32(u), np.int32(0)

    def f8(u):
        a = np.int32(u)
        u = (u - a) * _CUT_F8
        b = np.int32(u)
        u = (u - b) * _CUT_F8
        c = np.int32(u)
        return a, b, c, np.int32((u - c) * _CUT_F8)

    return f4 if u == types.float32 else f8


@_overload(_grid)
def _grid_typed(peak):
    def f4(peak):
        base = _over_24(_reduce_f4(peak)[0] - _ROUND_F4)
        return base, peak - _REACH_F4, np.int32((_UNITY_F4 - SLICE_BITS * base) << 23)

    def f8(peak):
        base = _over_24(_reduce_f8(peak)[0] - _ROUND_F8)
        return base, peak - _REACH_F8, (_UNITY_F8 - SLICE_BITS * base) << 52

    return f4 if peak == types.float32 else f8


@_overload(_usual)
def _usual_typed(peak):
    limit = _USUAL_F4 if peak == types.float32 else _USUAL_F8
    return lambda peak: abs(peak) < limit


@_overload(_clip)
def _clip_typed(x):
    low, high = _UNIT_F4 if x == types.float32 else _UNIT_F8

    def clip(x):
        x = x if x > low else low
        return x if x < high else high

    return clip


@_overload(_scaled)
def _scaled_typed(x):
    unit, cut = (_UNIT_F4, _CUT_F4) if x == types.float32 else (_UNIT_F8, _CUT_F8)
    low, high = unit[0] * cut, unit[1] * cut

    def scaled(x):
        u = x * cut
        u = u if u > low else low
        return u if u < high else high

    return scaled


@inner
def _over_24(n):
    """Divide a whole number by 24, rounding down (Python's // would not vectorise)."""
    quotient = (n + 0.5) * (1.0 / SLICE_BITS)
    whole = np.int64(quotient)
    return whole - (quotient < whole)


# --- sums of slices ---------------------------------------------------------------------------------------------------


@inner
def _sum_logits(source, row, floor, scale, sums):
    """Add the slices of a piece of a row to `sums`; its length is a multiple of GROUP. Fetch what follows `source`."""
    for at in range(0, row.size, CHUNK):
        chunk = row[at : at + CHUNK]
        _fetch(source, source.size + at)
        s0 = s1 = s2 = s3 = np.uint32(0)
        for j in range((chunk.size >> GROUP_BITS) << GROUP_BITS):
            a, b, c, d = _cut(_term(chunk[j], floor, scale))
            s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        _add(sums, s0, s1, s2, s3, 1)


@inner
def _sum_units(source, row, sums):
    """Do the same for probabilities."""
    for at in range(0, row.size, CHUNK):
        chunk = row[at : at + CHUNK]
        _fetch(source, source.size + at)
        s0 = s1 = s2 = s3 = np.uint32(0)
        for j in range((chunk.size >> GROUP_BITS) << GROUP_BITS):
            a, b, c, d = _cut(_scaled(chunk[j]))
            s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        _add(sums, s0, s1, s2, s3, 1)


@inner
def _fetch(source, at):
    """Ask for a chunk of memory that will be read soon."""
    for j in range(0, CHUNK * source.itemsize, 64):
        _prefetch(source, at * source.itemsize + j)


@inner
def _zero(sums):
    for i in range(sums.size):
        sums[i] = 0


@inner
def _add(sums, a, b, c, d, times):
    sums[0] += np.int64(a) * times
    sums[1] += np.int64(b) * times
    sums[2] += np.int64(c) * times
    sums[3] += np.int64(d) * times


@inner
def _sum_odd(row, count, step, peak, sums):
    """Add the slices of a row with an unusual peak, one class at a time; return its base."""
    if np.isinf(peak) and peak < 0:
        return NO_BASE
    if abs(peak) >= HUGE:
        if not np.isinf(peak):
            for j in range(count):
                sums[0] += row[j * step] == peak
        return HUGE_BASE if peak > 0 else -HUGE_BASE
    base = _power(peak)[0] // SLICE_BITS
    for j in range(count):
        x = row[j * step]
        if x > peak - _like(_REACH_F8, x) and x > -HUGE:
            n, p = _power(x)
            a, b, c, d = _cut(p * _like(2.0 ** (n - SLICE_BITS * base), p))
            _add(sums, a, b, c, d, 1)
    return base


@inner
def _join(rows, i, fresh, peak, best, base, nan, sums):
    """Join a piece of row i to its record, as `rows.merge` does; pieces come in the order of the classes."""
    if fresh:
        rows.peak[i], rows.best[i], rows.base[i] = peak, best, base
        rows.flags[i] = HAS_NAN if nan else 0
        for s in range(rows.mass.shape[0]):
            rows.mass[s, i] = sums[s]
        return
    if nan:
        rows.flags[i] |= HAS_NAN
    old_peak, old_base = rows.peak[i], rows.base[i]
    if peak > old_peak:
        rows.peak[i], rows.best[i] = peak, best
    highest = max(base, old_base)
    rows.base[i] = highest
    slices = rows.mass.shape[0]
    down = slices if abs(old_base) == HUGE_BASE and old_peak < peak else highest - old_base
    for s in range(slices - 1, -1, -1):
        rows.mass[s, i] = rows.mass[s - down, i] if s >= down else 0
    down = slices if abs(base) == HUGE_BASE and peak < old_peak else highest - base
    for s in range(down, slices):
        rows.mass[s, i] += sums[s - down]


@inner
def _keep(kept, row, count, step):
    """Let the `count` numbers of a row compete for the places in `kept`, which descends."""
    last = kept.size - 1
    for j in range(count):
        x = np.float64(row[j * step])
        if x > kept[last]:
            at = last
            while at > 0 and x > kept[at - 1]:
                kept[at] = kept[at - 1]
                at -= 1
            kept[at] = x


# --- long rows --------------------------------------------------------------------------------------------------------


def _order(x: Any) -> Any:
    """Map floats to integers in the same order: LLVM vectorises the maximum of integers, not that of floats."""


@_overload(_order)
def _order_typed(x):
    def f4(x):
        bits = _bits(x)
        return np.int32(bits ^ (np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))

    def f8(x):
        bits = _bits(x)
        return bits ^ ((bits >> 63) & np.int64(0x7FFFFFFFFFFFFFFF))

    return f4 if x == types.float32 else f8


def _number(key: Any) -> Any:
    """Undo `_order`, which is its own inverse."""


@_overload(_number)
def _number_typed(key):
    def f4(key):
        return _from_bits(np.int32(key ^ (np.int32(key >> 31) & np.int32(0x7FFFFFFF))))

    def f8(key):
        return _from_bits(key ^ ((key >> 63) & np.int64(0x7FFFFFFFFFFFFFFF)))

    return f4 if key == types.int32 else f8


@inner
def _extremes(row):
    """Return the smallest and the largest key of a row whose length is a multiple of GROUP."""
    low = high = _order(row[0])
    for j in range((row.size >> GROUP_BITS) << GROUP_BITS):
        key = _order(row[j])
        high = key if key > high else high
        low = key if key < low else low
    return low, high


@inner
def _first(row, value):
    """Return the first index at which a row holds a value; its length is a multiple of GROUP."""
    first = np.int32(CHUNK)
    for j in range((row.size >> GROUP_BITS) << GROUP_BITS):
        at = np.int32(j) if row[j] == value else np.int32(CHUNK)
        first = at if at < first else first
    return first


@inner
def _load(source, piece, fill):
    """Widen a chunk of a row; return its smallest and largest key. `fill` goes behind it (NaN: its first number)."""
    if source.size == CHUNK:
        low = high = _order(_widen(source[0]))
        for j in range(CHUNK):
            x = _widen(source[j])
            piece[j] = x
            key = _order(x)
            high = key if key > high else high
            low = key if key < low else low
        return low, high
    for j in range(source.size):
        piece[j] = _widen(source[j])
    fill = piece[0] if fill != fill else _like(fill, piece[0])
    for j in range(source.size, piece.size):
        piece[j] = fill
    return _extremes(piece)


@inner
def _peak(source, piece, fill):
    """Widen a piece of a row; return its peak, the first index of it, the lowest number and whether there is NaN."""
    none = _like(-np.inf, piece[0])
    floor, ceiling = _order(none), _order(-none)
    peak, lowest, where, nan = none, -none, 0, False
    for at in range(0, piece.size, CHUNK):
        chunk = piece[at : at + CHUNK]
        low, high = _load(source[at : at + CHUNK], chunk, fill)
        if low < floor or high > ceiling:  # keys of NaN lie outside those of the infinities
            nan = True
            for j in range(chunk.size):
                if chunk[j] != chunk[j]:
                    chunk[j] = none
                else:
                    lowest = min(lowest, chunk[j])
            high = _extremes(chunk)[1]
        else:
            lowest = min(lowest, _number(low))
        if _number(high) > peak:  # as floats, so that -0.0 and 0.0 tie
            peak, where = _number(high), at
    return peak, where + _first(piece[where : where + CHUNK], peak), lowest, nan


@inner
def _piece_mass(source, piece, peak, mode, sums):
    """Add the slices of a piece to `sums`; return its base."""
    if mode == PROBABILITIES:
        _sum_units(source, piece, sums)
        a, b, c, d = _cut(_scaled(piece[piece.size - 1]))
        _add(sums, a, b, c, d, source.size - piece.size)  # takes away what `_load` put behind the row
        return np.int64(PROBABILITY_BASE)
    if not _usual(peak):
        return _sum_odd(piece, source.size, 1, peak, sums)
    base, floor, scale = _grid(peak)
    _sum_logits(source, piece, floor, scale, sums)
    return base


@inner
def _scan_long(values, start, labels, first, mode, rows, offset, work):
    """Scan the rows from `start` on, one for each label, into the records from `offset` on."""
    classes = values.shape[1]
    unit = (mode & PROBABILITIES) != 0
    fill = np.nan if unit else -np.inf
    for i in range(labels.size):
        record = offset + i
        low = np.inf
        for place in range(rows.top.shape[1]):
            rows.top[record, place] = -np.inf
        for at in range(0, classes, PIECE):
            source = values[start + i, at : at + PIECE]
            piece = work.tile[: ((source.size + GROUP - 1) >> GROUP_BITS) << GROUP_BITS]
            peak, best, lowest, nan = _peak(source, piece, fill)
            low = min(low, lowest)
            _zero(work.sums)
            base = np.int64(NO_BASE)
            if mode < NO_MASS:
                base = _piece_mass(source, piece, peak, mode, work.sums)
            if rows.top.shape[1] and peak > rows.top[record, -1]:
                _keep(rows.top[record], piece, source.size, 1)
            _join(rows, record, at == 0, peak, first + at + best, base, nan, work.sums)
        if unit:
            rows.flags[record] |= _outside(low, rows.peak[record])
        label = labels[i] - first
        rows.target[record] = _widen(values[start + i, label]) if 0 <= label < classes else 0.0


# --- lanes ------------------------------------------------------------------------------------------------------------


def _load_lanes(values: Any, start: int, at: int, classes: int, n: int, tile: Any) -> None:
    """Widen the classes from `at` on of the rows from `start` on into ``tile[class * PITCH + row]``."""


@_overload(_load_lanes)
def _load_lanes_typed(values, start, at, classes, n, tile):
    return _load_transposed if values.ndim == 2 else _load_along


def _load_transposed(values, start, at, classes, n, tile):
    block = values[start : start + n, at : at + classes]
    fours = n >> 2 << 2
    for i in range(0, fours, 4):  # one store instead of four
        for c in range(classes):
            for k in range(4):
                tile[c * PITCH + i + k] = _widen(block[i + k, c])
    for i in range(fours, n):
        for c in range(classes):
            tile[c * PITCH + i] = _widen(block[i, c])


def _load_along(values, start, at, classes, n, tile):
    after = values.shape[2]
    done = 0
    while done < n:
        b, a = divmod(start + done, after)
        run = min(after - a, n - done)
        for c in range(classes):
            source = values[b, at + c, a : a + run]
            lanes = tile[c * PITCH + done : c * PITCH + done + run]
            for i in range(run):
                lanes[i] = _widen(source[i])
        done += run


@inner
def _lane_peaks(tile, classes, work):
    """Find peak, best and NaN of each lane."""
    peak, best, nan = work.peak, work.best, work.nan
    for i in range(LANES):
        peak[i], best[i], nan[i] = -np.inf, 0, 0
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            x = row[i]
            risen = x > peak[i]
            peak[i] = x if risen else peak[i]
            best[i] = np.int32(c) if risen else best[i]
            nan[i] = np.int32(nan[i] | (x != x))


@inner
def _lane_lows(tile, classes, fresh, low):
    """Find the lowest number of each lane, NaN left aside."""
    if fresh:
        for i in range(LANES):
            low[i] = np.inf
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            low[i] = row[i] if row[i] < low[i] else low[i]


@inner
def _lane_logits(tile, classes, work):
    """Sum the slices of each lane, given its base."""
    floor, scale, slices = work.floor, work.scale, work.slices
    a, b, c, d = slices[:LANES], slices[LANES:], slices[2 * LANES :], slices[3 * LANES :]
    for i in range(LANES):
        work.base[i], floor[i], scale[i] = _grid(work.peak[i])
    _zero(work.slices)
    for at in range(classes):
        row = tile[at * PITCH : at * PITCH + LANES]
        for i in range(LANES):
            p, q, r, s = _cut(_term(row[i], floor[i], scale[i]))
            a[i], b[i] = np.uint32(a[i] + p), np.uint32(b[i] + q)
            c[i], d[i] = np.uint32(c[i] + r), np.uint32(d[i] + s)


@inner
def _lane_units(tile, classes, work):
    """Sum the slices of the probabilities of each lane."""
    slices = work.slices
    a, b, c, d = slices[:LANES], slices[LANES:], slices[2 * LANES :], slices[3 * LANES :]
    _zero(work.slices)
    for at in range(classes):
        row = tile[at * PITCH : at * PITCH + LANES]
        for i in range(LANES):
            p, q, r, s = _cut(_scaled(row[i]))
            a[i], b[i] = np.uint32(a[i] + p), np.uint32(b[i] + q)
            c[i], d[i] = np.uint32(c[i] + r), np.uint32(d[i] + s)


@inner
def _lane_odd(n, classes, work):
    """Sum the lanes with an unusual peak again, the slow way."""
    for i in range(n):
        if not _usual(work.peak[i]):
            _zero(work.sums)
            work.base[i] = _sum_odd(work.tile[i:], classes, PITCH, work.peak[i], work.sums)
            for s in range(4):
                work.slices[s * LANES + i] = work.sums[s]


@inner
def _lane_sums(mode, n, classes, work):
    """Put base and slices of each lane into `work`."""
    if mode == LOGITS:
        _lane_logits(work.tile, classes, work)
        unusual = 0
        for i in range(LANES):
            unusual += not _usual(work.peak[i])
        if unusual:
            _lane_odd(n, classes, work)
        return
    for i in range(LANES):
        work.base[i] = PROBABILITY_BASE if mode == PROBABILITIES else NO_BASE
    if mode == PROBABILITIES:
        _lane_units(work.tile, classes, work)
    else:
        _zero(work.slices)


@inner
def _lane_records(rows, offset, n, first, work):
    """Write the records of rows of which these are the first classes."""
    peak, best, base, flags = rows.peak[offset:], rows.best[offset:], rows.base[offset:], rows.flags[offset:]
    for i in range(n):
        peak[i], best[i], base[i] = work.peak[i], first + work.best[i], work.base[i]
        flags[i] = HAS_NAN if work.nan[i] else 0
        rows.target[offset + i] = 0
    for i in range(n * rows.top.shape[1]):
        rows.top[offset + i // rows.top.shape[1], i % rows.top.shape[1]] = -np.inf
    for s in range(rows.mass.shape[0]):
        mass, slices = rows.mass[s, offset:], work.slices[s * LANES :]
        for i in range(n):
            mass[i] = slices[i]


@inner
def _lane_extras(labels, first, rows, offset, classes, work):
    """Note the values at the labels and the largest values of each lane."""
    for i in range(labels.size):
        label = labels[i] - first
        if 0 <= label < classes:
            rows.target[offset + i] = work.tile[label * PITCH + i]
    if rows.top.shape[1]:
        for i in range(labels.size):
            if work.peak[i] > rows.top[offset + i, -1]:
                _keep(rows.top[offset + i], work.tile[i:], classes, PITCH)


@inner
def _scan_lanes(values, start, labels, first, mode, rows, offset, work):
    """Scan the rows from `start` on, one for each label, into the records from `offset` on."""
    every, n = values.shape[1], labels.size
    unit = (mode & PROBABILITIES) != 0
    for at in range(0, every, CHUNK):
        classes = min(every - at, CHUNK)
        _load_lanes(values, start, at, classes, n, work.tile)
        _lane_peaks(work.tile, classes, work)
        _lane_sums(mode, n, classes, work)
        if at == 0:
            _lane_records(rows, offset, n, first, work)
        else:
            for i in range(n):
                for s in range(4):
                    work.sums[s] = work.slices[s * LANES + i]
                best = first + at + work.best[i]
                _join(rows, offset + i, False, work.peak[i], best, work.base[i], work.nan[i], work.sums)
        if unit:
            _lane_lows(work.tile, classes, at == 0, work.low)
        _lane_extras(labels, first + at, rows, offset, classes, work)
    if unit:
        for i in range(n):
            rows.flags[offset + i] |= _outside(work.low[i], rows.peak[offset + i])


@inner
def _outside(low, peak):
    """Return the flag of probabilities outside [0, 1]."""
    return OUTSIDE_UNIT if low < 0 or peak > 1 else 0


class Work(NamedTuple):
    """What a block of rows needs on the way; floats and `scale` are as wide as the numbers."""

    tile: Any  # widened predictions
    peak: Any
    low: Any
    floor: Any
    scale: Any
    best: Any
    nan: Any
    base: Any
    slices: Any
    sums: Any


def _work(wide: np.dtype[Any]) -> Work:
    number = np.float32 if wide == np.float32 else np.float64
    integer = np.int32 if wide == np.float32 else np.int64
    return Work(
        tile=np.zeros(max(CHUNK * PITCH, PIECE), number),
        peak=np.zeros(LANES, number),
        low=np.zeros(LANES, number),
        floor=np.zeros(LANES, number),
        scale=np.zeros(LANES, integer),
        best=np.zeros(LANES, np.int32),
        nan=np.zeros(LANES, np.int32),
        base=np.zeros(LANES, np.int64),
        slices=np.zeros(4 * LANES, np.uint32),
        sums=np.zeros(4, np.int64),
    )


def _scan_block(values: Any, *rest: Any) -> None:
    """Scan a block of rows into records."""


@_overload(_scan_block)
def _scan_block_typed(values, start, labels, first, mode, rows, offset, work):
    def rows_of_classes(values, start, labels, first, mode, rows, offset, work):
        if values.shape[1] >= LONG:
            _scan_long(values, start, labels, first, mode, rows, offset, work)
        else:
            _scan_lanes(values, start, labels, first, mode, rows, offset, work)

    def maps(values, start, labels, first, mode, rows, offset, work):
        _scan_lanes(values, start, labels, first, mode, rows, offset, work)

    return rows_of_classes if values.ndim == 2 else maps


# --- losses -----------------------------------------------------------------------------------------------------------


@inner
def _log1p(x):
    """Return log(1 + x) like `elementary.log1p`."""
    u = 1.0 + x
    lost = x - (u - 1.0)
    bits = _bits(u)
    mantissa = _from_bits((bits & np.int64(0xFFFFFFFFFFFFF)) | np.int64(0x3FE0000000000000))
    low = mantissa < _SQRT_HALF
    f = (2.0 * mantissa if low else mantissa) - 1.0
    n = np.float64((bits >> 52) - 1022 - low)
    s = f / (2.0 + f)
    t = s * s
    a = _A8
    series = (((((a[10] * t + a[9]) * t + a[8]) * t + a[7]) * t + a[6]) * t + a[5]) * t + a[4]
    tail = t * ((((series * t + a[3]) * t + a[2]) * t + a[1]) * t + a[0])
    return (n * _L8[0] + (f - (s * f - (2.0 * s * tail + n * _L8[1])))) + lost / u


@inner
def _excess(a, b, c, d, base, peak, n, p):
    """Return sum_j exp(x_j - peak) - 1 from the slices of a row whose peak is p * 2**n, like `rows.excesses`."""
    scale = _from_bits((n - SLICE_BITS * base + 1023) << 52)
    own = _cut(p * _like(scale, p))
    bits = np.float64(SLICE_BITS * base)
    shifted, r = _reduce_f8(((bits * _L8[0] - peak) + bits * _L8[1]) + bits * _L8[2])
    unit = _exp_f8(r) * _from_bits((_bits(shifted) << 52) + np.int64(_UNITY_F8 << 52))
    return _value(a - own[0], b - own[1], c - own[2], d - own[3], p) * unit


def _value(a: Any, b: Any, c: Any, d: Any, model: Any) -> Any:
    """Return the number that slices stand for, like `rows._value`; three of them where `model` is float32."""


@_overload(_value)
def _value_typed(a, b, c, d, model):
    def f4(a, b, c, d, model):
        return (np.float64(c) * 2.0**-24 + b) * 2.0**-24 + a

    def f8(a, b, c, d, model):
        return ((np.float64(d) * 2.0**-24 + c) * 2.0**-24 + b) * 2.0**-24 + a

    return f4 if model == types.float32 else f8


def _near_power(x: Any) -> Any:
    """Write exp(x) as p * 2**n for usual peaks: n, p."""


@_overload(_near_power)
def _near_power_typed(x):
    def f4(x):
        shifted, r = _reduce_f4(x)
        return np.int64(_bits(shifted) - _bits(_ROUND_F4)), _exp_f4(r)

    def f8(x):
        shifted, r = _reduce_f8(x)
        return _bits(shifted) - _bits(_ROUND_F8), _exp_f8(r)

    return f4 if x == types.float32 else f8


@inner
def _logit_losses(rows, d, at, n, model, out):
    """Losses of finished rows of logits; `d` is the fourth slice, or anything where there are three."""
    peaks, bases = rows.peak[at : at + n], rows.base[at : at + n]
    targets, flags = rows.target[at : at + n], rows.flags[at : at + n]
    a, b, c = rows.mass[0, at : at + n], rows.mass[1, at : at + n], rows.mass[2, at : at + n]
    unusual = 0
    for i in range(n):
        peak = peaks[i]
        usual = _usual(_like(peak, model))
        unusual += not usual
        peak = peak if usual else 0.0
        base = bases[i] if usual else 0
        power, p = _near_power(_like(peak, model))
        loss = _log1p(_excess(a[i], b[i], c[i], d[i], base, peak, power, p)) + (peak - targets[i])
        out[i] = np.nan if (flags[i] & HAS_NAN) or targets[i] != targets[i] else loss
    if unusual:
        for i in range(n):
            peak = peaks[i]
            if not _usual(_like(peak, model)):
                excess = 0.0
                if abs(peak) < HUGE:
                    power, p = _power(_like(peak, model))
                    excess = _excess(a[i], b[i], c[i], d[i], bases[i], peak, power, p)
                elif not np.isinf(peak):
                    excess = np.float64(max(a[i] - 1, 0))
                broken = (flags[i] & HAS_NAN) or targets[i] != targets[i] or np.isinf(peak)
                out[i] = np.nan if broken else _log1p(excess) + (peak - targets[i])


@inner
def _unit_losses(rows, d, at, n, model, out):
    """Losses of finished rows of probabilities; `d` as in `_logit_losses`."""
    targets, flags = rows.target[at : at + n], rows.flags[at : at + n]
    a, b, c = rows.mass[0, at : at + n], rows.mass[1, at : at + n], rows.mass[2, at : at + n]
    for i in range(n):
        target = _clip(_like(targets[i], model))
        own = _cut(_scaled(_like(targets[i], model)))
        rest = _value(a[i] - own[0], b[i] - own[1], c[i] - own[2], d[i] - own[3], model)
        loss = _log1p(rest * 2.0 ** (SLICE_BITS * PROBABILITY_BASE) / np.float64(target))
        out[i] = np.nan if flags[i] & HAS_NAN else loss


@inner
def _losses_block(rows, at, n, mode, model, out):
    """Put the losses of the records at .. at + n - 1 into `out`."""
    d = rows.mass[rows.mass.shape[0] - 1, at : at + n]
    if mode == PROBABILITIES:
        _unit_losses(rows, d, at, n, model, out)
    else:
        _logit_losses(rows, d, at, n, model, out)


@inner
def _borrowed_rows(r):
    return Rows(
        _borrowed(r.peak),
        _borrowed(r.best),
        _borrowed(r.base),
        _borrowed(r.mass),
        _borrowed(r.target),
        _borrowed(r.top),
        _borrowed(r.flags),
    )


@compiled
def _losses(rows, mode, model, out):
    rows, out = _borrowed_rows(rows), _borrowed(out)
    for at in range(0, out.size, LANES):
        n = min(LANES, out.size - at)
        _losses_block(rows, at, n, mode, model, out[at : at + n])


def losses(rows: Rows, *, probabilities: bool = False) -> NDArray[np.float64]:
    """Return the crossentropy of finished rows, as `rows.losses` does, to the same bits.

    Examples
    --------
    >>> losses(scan(np.log([[[0.25], [0.75]]]), np.array([0]))).round(12).tolist()
    [1.38629436112]
    """
    out = np.empty(len(rows.peak))
    model = np.float32(0) if len(rows.mass) == SLICES[np.dtype(np.float32)] else np.float64(0)
    _losses(Rows(*(_plain(field) for field in rows)), _mode(probabilities, True), model, out)
    return out


# --- exact sums -------------------------------------------------------------------------------------------------------

# A sum is an array of whole numbers: digits of 32 bits, in units of 2**-1074, and how many terms were NaN, +inf, -inf.
# Adding a term changes a digit by less than 2**32, so 2**31 terms may be added before `_carry`.
DIGITS = 68
NAN_TERMS, POSINF_TERMS, NEGINF_TERMS = DIGITS, DIGITS + 1, DIGITS + 2
LIMBS = DIGITS + 3
# Four grids for the usual term: below 2**20 in magnitude, with no bits below 2**-108. Adding 1.5 * 2**52 units of a
# grid rounds to the grid, and the bits then count in units: sums of those are vectorised.
GRID_BITS = 12, 44, 76, 108
_ON_GRID = tuple(1.5 * 2.0 ** (52 - bits) for bits in GRID_BITS)
_BELOW = 2.0**20


@inner
def _add_units(limbs, magnitude, position, sign):
    """Add sign * magnitude * 2**position units."""
    at, by = position >> 5, position & 31
    low, high = magnitude & 0xFFFFFFFF, magnitude >> 32
    limbs[at] += sign * ((low << by) & 0xFFFFFFFF)
    limbs[at + 1] += sign * (((low >> (32 - by)) | (high << by)) & 0xFFFFFFFF)
    limbs[at + 2] += sign * (high >> (32 - by))


@inner
def _add_term(limbs, term):
    """Add one float64 term to a sum."""
    bits = _bits(term)
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & 0xFFFFFFFFFFFFF
    if exponent == 0x7FF:
        limbs[NAN_TERMS if mantissa else POSINF_TERMS if bits > 0 else NEGINF_TERMS] += 1
    elif exponent:
        _add_units(limbs, mantissa | (1 << 52), exponent - 1, 1 if bits > 0 else -1)
    else:
        _add_units(limbs, mantissa, 0, 1 if bits > 0 else -1)


@inner
def _add_terms(limbs, terms):
    """Add at most 2**20 terms to a sum."""
    k0 = k1 = k2 = k3 = np.int64(0)
    odd = 0
    for i in range(terms.size):
        x = terms[i]
        odd += not abs(x) < _BELOW
        t = x + _ON_GRID[0]
        k0 += _bits(t) - _bits(_ON_GRID[0])
        x -= t - _ON_GRID[0]
        t = x + _ON_GRID[1]
        k1 += _bits(t) - _bits(_ON_GRID[1])
        x -= t - _ON_GRID[1]
        t = x + _ON_GRID[2]
        k2 += _bits(t) - _bits(_ON_GRID[2])
        x -= t - _ON_GRID[2]
        t = x + _ON_GRID[3]
        k3 += _bits(t) - _bits(_ON_GRID[3])
        odd += x != t - _ON_GRID[3]
    if odd:
        for i in range(terms.size):
            _add_term(limbs, terms[i])
        return
    _add_units(limbs, abs(k0), UNIT_BITS - GRID_BITS[0], 1 if k0 > 0 else -1)
    _add_units(limbs, abs(k1), UNIT_BITS - GRID_BITS[1], 1 if k1 > 0 else -1)
    _add_units(limbs, abs(k2), UNIT_BITS - GRID_BITS[2], 1 if k2 > 0 else -1)
    _add_units(limbs, abs(k3), UNIT_BITS - GRID_BITS[3], 1 if k3 > 0 else -1)


@inner
def _carry(limbs):
    """Bring all digits but the highest between 0 and 2**32 - 1."""
    for at in range(DIGITS - 1):
        limbs[at + 1] += limbs[at] >> 32
        limbs[at] &= 0xFFFFFFFF


@compiled
def add_terms(limbs, terms):
    """Add fewer than 2**31 float64 terms to a sum."""
    for at in range(0, terms.size, LANES):
        _add_terms(limbs, terms[at : at + LANES])
    _carry(limbs)


@compiled
def _add_grouped(limbs, terms, groups):
    """Add fewer than 2**31 terms to the sums ``limbs[groups[i]]``."""
    for i in range(terms.size):
        _add_term(limbs[groups[i]], terms[i])
    for group in range(limbs.shape[0]):
        _carry(limbs[group])


def sums_by_group(terms: NDArray[np.float64], groups: NDArray[np.int64], count: int) -> list[ExactSum]:
    """Sum float64 terms by group, ``0 <= groups < count``, each sum as `ExactSum.of` does.

    Examples
    --------
    >>> [float(total) for total in sums_by_group(np.array([1e16, 2.0, 1.0, -1e16]), np.array([0, 1, 0, 0]), 2)]
    [1.0, 2.0]
    """
    limbs = np.zeros((count, LIMBS), np.int64)
    _add_grouped(limbs, _plain(np.ascontiguousarray(terms, np.float64)), _plain(np.ascontiguousarray(groups, np.int64)))
    return [exact(each) for each in limbs]


def exact(limbs: NDArray[np.int64]) -> ExactSum:
    """Return the sum that an array of `LIMBS` whole numbers stands for."""
    digits = limbs[:DIGITS].tolist()
    units = sum(digit << 32 * at for at, digit in enumerate(digits))
    return ExactSum(units, *limbs[DIGITS:].tolist())


def exact_sum(terms: NDArray[np.float64]) -> ExactSum:
    """Sum float64 terms, as `ExactSum.of` does.

    Examples
    --------
    >>> float(exact_sum(np.array([1e16, 1.0, -1e16])))
    1.0
    """
    limbs = np.zeros(LIMBS, np.int64)
    add_terms(limbs, _plain(np.ascontiguousarray(terms, np.float64).ravel()))
    return exact(limbs)


# --- whole chunks -----------------------------------------------------------------------------------------------------


@compiled
def _scan(values, labels, first, mode, rows, work):
    values, labels, rows, work = _borrowed(values), _borrowed(labels), _borrowed_rows(rows), _borrowed_work(work)
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        _scan_block(values, start, here, first, mode, rows, start, work)


@inner
def _borrowed_work(w):
    return Work(
        _borrowed(w.tile),
        _borrowed(w.peak),
        _borrowed(w.low),
        _borrowed(w.floor),
        _borrowed(w.scale),
        _borrowed(w.best),
        _borrowed(w.nan),
        _borrowed(w.base),
        _borrowed(w.slices),
        _borrowed(w.sums),
    )


def scan(
    values: NDArray[Any],
    labels: NDArray[np.int64],
    first: int = 0,
    *,
    probabilities: bool = False,
    mass: bool = True,
    top: int = 0,
) -> Rows:
    """Summarise rows over the classes ``first .. first + c - 1``, as `rows.scan` does.

    Parameters
    ----------
    values : (before, c, after) array
        Predictions of before * after rows in C order, with any strides.
    labels, first, probabilities, mass, top
        As for `rows.scan`.

    Returns
    -------
    Rows
        The same bits as ``rows.scan(np.moveaxis(values, 1, -1).reshape(-1, c), ...)``.

    Examples
    --------
    >>> rows = scan(np.array([[[0.0, 3.0], [2.0, 1.0]]]), np.array([1, 0]))
    >>> rows.best.tolist(), rows.target.tolist()
    ([1, 0], [2.0, 3.0])
    """
    arranged, wide = _arranged(values)
    rows = empty(values.shape[0] * values.shape[2], wide, top)
    if values.size:
        classes = _plain(np.ascontiguousarray(labels, np.int64))
        _scan(arranged, classes, first, _mode(probabilities, mass), rows, _work(wide))
    return rows


def _mode(probabilities: bool, mass: bool) -> int:
    return (PROBABILITIES if probabilities else LOGITS) | (0 if mass else NO_MASS)


def _arranged(values: NDArray[Any]) -> tuple[NDArray[Any], np.dtype[Any]]:
    """Return a view for the kernels, (rows, classes) or (before, classes, after), and the dtype it is widened to."""
    wide = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
    bits = {"float16": np.uint16, "bfloat16": np.int16, "float32": np.float32, "float64": np.float64}
    view = values.view(bits[values.dtype.name])
    moved = np.moveaxis(view, 1, 2)
    if moved.flags.c_contiguous:
        view = moved.reshape(values.shape[0] * values.shape[2], values.shape[1])
    elif values.shape[2] == 1 and abs(values.strides[1]) < abs(values.strides[0]):
        view = view[:, :, 0]
    elif values.shape[2] == 1:
        view = view.transpose(2, 1, 0)
    return _plain(view), wide


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that numba takes for writable: it would compile all again for arrays that are not."""
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(SimpleNamespace(__array_interface__=interface, held=array))  # which keeps the memory alive
