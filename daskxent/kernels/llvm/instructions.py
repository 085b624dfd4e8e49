"""The arithmetic of one class as LLVM instructions, for a single number or a vector of them.

numba's loops and the vectors of `along` are both made from these, so that there is one sequence of operations. Each
function takes the builder first; types are those of what it is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from daskxent.kernels.llvm.compiling import has
from daskxent.numbers import elementary
from daskxent.numbers.records import EPSILON, MAGIC, MAGIC_BITS, PROBABILITY_BITS, REST_BITS

_BITS = {"float": (32, 23), "double": (64, 52)}  # of a number, and of its fraction
INT64 = ir.IntType(64)
_DIRECT = has("avx512dq")  # rounds a vector of float32 to int64


def constant(kind: Any, value: float) -> Any:
    """Return a constant of a type; of a vector type, the same in every lane."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector of one number."""
    kind, place = ir.VectorType(value.type, lanes), ir.IntType(32)
    alone = builder.insert_element(ir.Constant(kind, ir.Undefined), value, place(0))
    return builder.shuffle_vector(alone, alone, ir.Constant(ir.VectorType(place, lanes), [0] * lanes))


def _lanewise(kind: Any, element: Any) -> Any:
    """Return the type of `element` that has as many lanes as another type."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _element(x: Any) -> str:
    return str(x.type.element if isinstance(x.type, ir.VectorType) else x.type)


def is_float(x: Any) -> bool:
    """Tell float32 from float64."""
    return _element(x) == "float"


def _integer(x: Any) -> Any:
    return _lanewise(x.type, ir.IntType(_BITS[_element(x)][0]))


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""
    lanes = f"v{a.type.count}" if isinstance(a.type, ir.VectorType) else ""
    name = f"llvm.fma.{lanes}f{_BITS[_element(a)][0]}"
    return builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(a.type, [a.type] * 3)), [a, b, c])


def largest(builder: Any, a: Any, b: Any) -> Any:
    """Return the larger of two numbers; b if one is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def reduced(builder: Any, x: Any, around: Any) -> tuple[Any, Any]:
    """Split x as n * log(2) + r: n, still on the constant that rounds it, and r."""
    if is_float(x):
        log2e, *ln2 = (constant(x.type, c) for c in (elementary.LOG2E_F4, *(-p for p in elementary.LN2_F4)))
        shifted = fma(builder, x, log2e, around)
        n = builder.fsub(shifted, around)
        return shifted, fma(builder, n, ln2[1], fma(builder, n, ln2[0], x))
    shifted = builder.fadd(builder.fmul(x, constant(x.type, elementary.LOG2E_F8)), around)
    n = builder.fsub(shifted, around)
    for piece in elementary.LN2_F8:
        x = builder.fsub(x, builder.fmul(n, constant(x.type, piece)))
    return shifted, x


def exponential(builder: Any, r: Any) -> Any:
    """Return exp of a number that is reduced."""
    coefficients = elementary.EXP_F4 if is_float(r) else elementary.EXP_F8
    result = constant(r.type, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        c = constant(r.type, c)
        result = fma(builder, result, r, c) if is_float(r) else builder.fadd(builder.fmul(result, r), c)
    return result


def term(builder: Any, x: Any, floor: Any, around: Any) -> Any:
    """Return exp(x) in units; see `arithmetic.grid`."""
    shifted, r = reduced(builder, largest(builder, x, floor), around)
    integer = _integer(x)
    # Added to the exponent, not multiplied: it is the multiplications that the loops wait for.
    power = builder.shl(builder.bitcast(shifted, integer), constant(integer, _BITS[_element(x)][1]))
    return builder.bitcast(builder.add(builder.bitcast(exponential(builder, r), integer), power), x.type)


def clipped(builder: Any, x: Any, bits: int = 0) -> Any:
    """Return a clipped probability times 2**bits; NaN counts as the lowest."""
    kind = np.float32 if is_float(x) else np.float64
    low, high = (constant(x.type, float(kind(bound)) * 2.0**bits) for bound in (EPSILON, 1 - EPSILON))
    x = largest(builder, builder.fmul(x, constant(x.type, 2.0**bits)), low)
    return builder.select(builder.fcmp_ordered("<", x, high), x, high)


def scaled(builder: Any, x: Any) -> Any:
    """Return a clipped probability in units."""
    return clipped(builder, x, PROBABILITY_BITS)


def units(builder: Any, t: Any, magic: float = MAGIC) -> tuple[Any, Any]:
    """Round a term to whole units, and of float64 what that leaves to finer ones; both on top of bits."""
    double = _lanewise(t.type, ir.DoubleType())
    integer, on_top = _lanewise(t.type, INT64), constant(double, magic)
    wide = builder.fpext(t, double) if is_float(t) else t
    rounded = builder.fadd(wide, on_top)
    high = builder.bitcast(rounded, integer)
    if is_float(t):
        return high, constant(integer, MAGIC_BITS)
    rest = builder.fmul(builder.fsub(t, builder.fsub(rounded, on_top)), constant(double, 2.0**REST_BITS))
    return high, builder.bitcast(builder.fadd(rest, on_top), integer)


def counts(builder: Any, t: Any) -> list[Any]:
    """Return the one or two integers of `units`, on top of `count_bits`, at half the price where the processor can.

    Too large a term (the peak's own, which is taken away again) gives what has nothing to do with `units`.
    """
    if not (is_float(t) and _DIRECT):
        return [*units(builder, t)][: len(count_bits(is_float(t)))]
    lanes = f"v{t.type.count}" if isinstance(t.type, ir.VectorType) else ""
    kind = ir.FunctionType(_lanewise(t.type, INT64), [t.type])
    return [builder.call(builder.module.declare_intrinsic(f"llvm.llrint.{lanes}i64.{lanes}f32", (), kind), [t])]


def count_bits(single: bool) -> list[int]:
    """Return what `counts` are put on top of."""
    return [0 if _DIRECT else MAGIC_BITS] if single else [MAGIC_BITS, MAGIC_BITS]
