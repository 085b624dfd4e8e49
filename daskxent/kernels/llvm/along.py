"""Vectors along a long row: its two largest numbers, and the sum of its terms.

The last vector overlaps the one before it; what was seen already is replaced by -inf (0 among probabilities).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types

from daskxent.kernels.arithmetic import counts, scaled
from daskxent.kernels.llvm import instructions
from daskxent.kernels.llvm.compiling import inner, intrinsic, like, widen
from daskxent.kernels.llvm.instructions import INT64, constant, splat
from daskxent.kernels.llvm.vectors import VECTOR, Numbers, fold, higher, wide

if TYPE_CHECKING:
    from collections.abc import Callable

_WAYS = 2  # vectors at a time, each with results of its own


@intrinsic
def two_largest(context, row):
    """Return the largest number, the second largest (the same on a tie) and whether there is NaN.

    A row has at least VECTOR numbers.
    """

    def code(ctx, builder, sig, args):
        source = Numbers(builder, ctx, row, args[0])
        lowest = constant(source.vector, float("-inf"))
        never = constant(ir.VectorType(ir.IntType(1), VECTOR), 0)

        def step(found, vectors, at):
            stepped = list(found)
            for way, x in enumerate(vectors):
                pair = slice(2 * way, 2 * way + 2)
                stepped[pair] = higher(builder, found[pair], [x, lowest])
            stepped[-1] = builder.or_(found[-1], builder.fcmp_unordered("uno", vectors[0], vectors[-1]))
            return stepped

        middle = source.whole(_WAYS)
        found = source.loop(INT64(0), middle, [lowest] * (2 * _WAYS) + [never], step, vectors=_WAYS)
        *found, nan = source.last(source.loop(middle, source.whole(1), found, step), step, float("-inf"))
        pair = fold(builder, higher(builder, found[:2], found[2:]), lambda a, b: higher(builder, a, b))
        flags = builder.bitcast(nan, ir.IntType(VECTOR))
        return ctx.make_tuple(builder, sig.return_type, [*pair, builder.icmp_unsigned("!=", flags, flags.type(0))])

    return types.Tuple((wide(row), wide(row), types.boolean))(row), code


def _sum(ctx: Any, builder: Any, sig: Any, args: list[Any], of: Callable[[Any], Any], fill: float) -> Any:
    """Make the code that sums the units of terms; `of` makes a term of a vector."""
    source = Numbers(builder, ctx, sig.args[0], args[0])
    bits = instructions.count_bits(sig.args[0].dtype != types.float64)

    def step(found, vectors, at):
        stepped = list(found)
        for way, numbers in enumerate(vectors):
            source.fetch(builder.add(builder.add(at, INT64(VECTOR * way)), args[1]))
            for k, more in enumerate(instructions.counts(builder, of(numbers)), len(bits) * way):
                stepped[k] = builder.add(found[k], more)
        return stepped

    def join(a, b):
        return [builder.add(x, y) for x, y in zip(a, b, strict=True)]

    nothing, middle = constant(ir.VectorType(INT64, VECTOR), 0), source.whole(_WAYS)
    found = source.loop(INT64(0), middle, [nothing] * (_WAYS * len(bits)), step, vectors=_WAYS)
    found = source.last(source.loop(middle, source.whole(1), found, step), step, fill)
    sums = fold(builder, join(found[: len(bits)], found[len(bits) :]), join)
    vectors = builder.udiv(builder.add(source.size, INT64(VECTOR - 1)), INT64(VECTOR))
    on_top = [builder.mul(vectors, INT64(VECTOR * each % 2**64)) for each in bits]
    sums = [builder.sub(each, top) for each, top in zip(sums, on_top, strict=True)]
    return ctx.make_tuple(builder, sig.return_type, [*sums, INT64(0)][:2])


@intrinsic
def sum_logits(context, row, ahead, floor, around):
    """Return the sum of the terms of a row of logits in units, and in finer ones what those leave.

    What lies so many numbers `ahead` is fetched meanwhile.
    """

    def code(ctx, builder, sig, args):
        beside = [splat(builder, arg, VECTOR) for arg in args[2:]]
        return _sum(ctx, builder, sig, args, lambda x: instructions.term(builder, x, *beside), float("-inf"))

    return types.UniTuple(types.int64, 2)(row, types.int64, floor, around), code


@intrinsic
def _sum_padded(context, row, ahead):
    def code(ctx, builder, sig, args):
        return _sum(ctx, builder, sig, args, lambda x: instructions.scaled(builder, x), 0.0)

    return types.UniTuple(types.int64, 2)(row, types.int64), code


@inner
def sum_probabilities(row, ahead):
    """Return the sum of the clipped probabilities of a row, likewise."""
    high, low = _sum_padded(row, ahead)
    a, b = counts(scaled(like(0.0, widen(row[0]))))
    padded = -row.size % VECTOR
    return high - padded * a, low - padded * b
