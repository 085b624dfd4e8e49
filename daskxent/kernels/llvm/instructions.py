"""The arithmetic of one class as LLVM instructions, for a single number or a vector of them.

numba's loops and the vectors of `along` and `across` are both made from these, so that there is one sequence of
operations. Each function takes LLVM's builder first; types are those of what it is given.
"""

from __future__ import annotations

import platform
from itertools import chain
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types

from daskxent.numbers.elementary import EXP_F4, EXP_F8, LN2_F4, LN2_F8, LOG2E_F4, LOG2E_F8
from daskxent.numbers.records import EPSILON, LOGITS, MAGIC, PROBABILITIES, REST_BITS

INT64 = ir.IntType(64)
_X86 = platform.machine().lower() in ("x86_64", "amd64")


def _has(feature: str) -> bool:
    """Report whether the processor that is compiled for is an x86 with some instructions."""
    config: Any = numba.config
    asked = (config.CPU_FEATURES or "").split(",")
    if f"+{feature}" in asked or f"-{feature}" in asked:
        return _X86 and f"+{feature}" in asked
    return _X86 and config.CPU_NAME is None and bool(llvmlite.binding.get_host_cpu_features().get(feature))


DIRECT = _has("avx512dq")  # rounds a vector of float32 to int64
WIDENS_HALF = _has("f16c") or not _X86  # without, x86 would call a library


def constant(kind, value):
    """Return a constant of a type; of a vector type, the same in every lane."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _lanewise(kind, element):
    """Return the type of `element` that has as many lanes as another type."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _is_single(kind):
    """Return whether a type is float32, not float64."""
    return getattr(kind, "element", kind) == ir.FloatType()


def wide(stored):
    """Return the numba type that predictions are widened to: uint16 holds the bits of float16, int16 of bfloat16."""
    return types.float32 if stored in (types.uint16, types.int16) else stored


def widened(builder, stored, value):
    """Widen predictions that are stored in some numba type."""
    if wide(stored) == stored:
        return value
    number, bits = _lanewise(value.type, ir.FloatType()), _lanewise(value.type, ir.IntType(32))
    if stored == types.uint16 and WIDENS_HALF:
        return builder.fpext(builder.bitcast(value, _lanewise(value.type, ir.HalfType())), number)
    above = builder.shl(builder.zext(value, bits), constant(bits, 16))
    if stored == types.int16:
        return builder.bitcast(above, number)
    # The exponent of a float32 is 3 bits longer. Moved into place, exponent and fraction count in units of 2**-112.
    moved = builder.and_(builder.ashr(above, constant(bits, 3)), constant(bits, 0x8FFFFFFF))
    counted = builder.fmul(builder.bitcast(moved, number), constant(number, 2.0**112))
    highest = constant(bits, 0x1F << 23)  # of infinity and NaN
    special = builder.icmp_signed("==", builder.and_(moved, highest), highest)
    return builder.select(special, builder.bitcast(builder.or_(moved, constant(bits, 0xFF << 23)), number), counted)


def call(builder, name, returns, *values):
    """Call one of LLVM's functions, whose name has the lanes of the values in it."""
    lanes = f"v{returns.count}" if isinstance(returns, ir.VectorType) else ""
    kind = ir.FunctionType(returns, [value.type for value in values])
    return builder.call(builder.module.declare_intrinsic(name.format(lanes), (), kind), values)


def _multiply_add(builder, a, b, c):
    """Return a * b + c: of float32 rounded once, of float64 twice."""
    if _is_single(a.type):
        return call(builder, "llvm.fma.{0}f32", a.type, a, b, c)
    return builder.fadd(builder.fmul(a, b), c)


def largest(builder, a, b):
    """Return the larger of two numbers; b if one is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def reduced(builder, x, around):
    """Split x as n * log(2) + r: n, still on the constant that rounds it, and r."""
    log2e, ln2 = (LOG2E_F4, LN2_F4) if _is_single(x.type) else (LOG2E_F8, LN2_F8)
    shifted = _multiply_add(builder, x, constant(x.type, log2e), around)
    n = builder.fsub(shifted, around)
    for piece in ln2:
        x = _multiply_add(builder, n, constant(x.type, -piece), x)
    return shifted, x


def exponential(builder, r):
    """Return exp of a number that is reduced."""
    result, *rest = (constant(r.type, each) for each in reversed(EXP_F4 if _is_single(r.type) else EXP_F8))
    for each in rest:
        result = _multiply_add(builder, result, r, each)
    return result


def term(builder, x, floor, around):
    """Return exp(x) in units; see `arithmetic.grid`."""
    shifted, r = reduced(builder, largest(builder, x, floor), around)
    width, fraction = (32, 23) if _is_single(x.type) else (64, 52)
    bits = _lanewise(x.type, ir.IntType(width))
    # Added to the exponent, not multiplied: it is the multiplications that the loops wait for.
    power = builder.shl(builder.bitcast(shifted, bits), constant(bits, fraction))
    return builder.bitcast(builder.add(builder.bitcast(exponential(builder, r), bits), power), x.type)


def scaled(builder, x):
    """Return a clipped probability in units; NaN counts as the lowest."""
    number, scale = np.float32 if _is_single(x.type) else np.float64, 2.0 ** PROBABILITIES["float32"].unit
    low, high = (constant(x.type, float(number(bound)) * scale) for bound in (EPSILON, 1 - EPSILON))
    x = largest(builder, builder.fmul(x, constant(x.type, scale)), low)
    return builder.select(builder.fcmp_ordered("<", x, high), x, high)


def units(builder, t, magic=MAGIC):
    """Round a term to whole units, and of float64 what that leaves to finer ones, on top of the bits of a constant."""
    double, bits = _lanewise(t.type, ir.DoubleType()), _lanewise(t.type, INT64)
    on_top = constant(double, magic)
    rounded = builder.fadd(builder.fpext(t, double), on_top)
    if _is_single(t.type):
        return [builder.bitcast(rounded, bits)]
    rest = builder.fmul(builder.fsub(t, builder.fsub(rounded, on_top)), constant(double, 2.0**REST_BITS))
    return [builder.bitcast(each, bits) for each in (rounded, builder.fadd(rest, on_top))]


def at_every_level(levels):
    """Return whether sums are kept at every level: `Work.levels` is a number then, not None."""
    return levels.type == INT64


def counts(builder, t, by_level=False):
    """Return a term in units, at every level or the lowest, then, of float64, what those leave; on top of those of 0.

    The lowest alone is half the price where the processor can. Too large a term (the peak's own, which is taken away
    again) then gives what has nothing to do with `units`.
    """
    single = _is_single(t.type)
    if DIRECT and single and not by_level:
        return [call(builder, "llvm.llrint.{0}i64.{0}f32", _lanewise(t.type, INT64), t)]
    grid = LOGITS["float32" if single else "float64"]
    levels = range(grid.levels if by_level else 1)
    return [*chain(*zip(*(units(builder, t, MAGIC * 2.0 ** (grid.step * level)) for level in levels), strict=True))]
