"""The largest numbers of a long row, in vectors: LLVM vectorises neither the maximum of floats nor two at a time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from daskxent.kernels.blocks import GROUP, GROUP_BITS
from daskxent.kernels.compiling import inner, intrinsic, widen, widened

_LANES = GROUP // 2
_INDEX, _PLACE, _FLAG = ir.IntType(64), ir.IntType(32), ir.IntType(1)


def _join(builder: Any, a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the two largest of two pairs, lane by lane."""
    risen = builder.fcmp_ordered(">", b[0], a[0])
    lower = builder.select(risen, a[0], b[0])
    second = builder.select(builder.fcmp_ordered(">", b[1], a[1]), b[1], a[1])
    second = builder.select(builder.fcmp_ordered(">", lower, second), lower, second)
    return builder.select(risen, b[0], a[0]), second


def _raise(builder: Any, pair: tuple[Any, Any], x: Any) -> tuple[Any, Any]:
    """Let a number compete for the places of a pair; NaN gets none."""
    risen = builder.fcmp_ordered(">", x, pair[0])
    lower = builder.select(risen, pair[0], x)
    second = builder.select(builder.fcmp_ordered(">", lower, pair[1]), lower, pair[1])
    return builder.select(risen, x, pair[0]), second


def _fold(builder: Any, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the two largest over the lanes of a pair."""
    lanes = _LANES
    while lanes > 1:
        lanes //= 2
        halves = []
        for first in (0, lanes):
            mask = ir.Constant(ir.VectorType(_PLACE, lanes), list(range(first, first + lanes)))
            halves.append(tuple(builder.shuffle_vector(vector, vector, mask) for vector in pair))
        pair = _join(builder, *halves)
    return tuple(builder.extract_element(vector, _PLACE(0)) for vector in pair)


@intrinsic
def _two_largest(context, row):
    """Return the largest number, the second largest (the same on a tie) and whether there is NaN.

    Of a contiguous array of predictions whose length is a multiple of GROUP, at least one; what there is not is -inf.
    """
    wide = row.dtype if row.dtype == types.float64 else types.float32

    def code(ctx, builder, sig, args):
        array = ctx.make_array(sig.args[0])(ctx, builder, args[0])
        number = ctx.get_value_type(wide)
        vector = ir.VectorType(number, _LANES)
        lowest = ir.Constant(vector, [float("-inf")] * _LANES)
        never = ir.Constant(ir.VectorType(_FLAG, _LANES), [0] * _LANES)
        stored = ir.PointerType(ir.VectorType(array.data.type.pointee, _LANES))

        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        carried = [builder.phi(vector) for _ in range(4)]
        nan, at = builder.phi(never.type), builder.phi(_INDEX)
        numbers = []
        for first in (0, _LANES):
            place = builder.gep(array.data, [builder.add(at, _INDEX(first))])
            x = builder.load(builder.bitcast(place, stored), align=row.dtype.bitwidth // 8)
            numbers.append(widened(builder, row.dtype, x, _LANES))
        pairs = [_raise(builder, (carried[k], carried[k + 1]), numbers[k // 2]) for k in (0, 2)]
        met = builder.or_(nan, builder.fcmp_unordered("uno", *numbers))
        following = builder.add(at, _INDEX(GROUP))
        for phi, fresh, value in zip(
            (*carried, nan, at), (*[lowest] * 4, never, _INDEX(0)), (*pairs[0], *pairs[1], met, following), strict=True
        ):
            phi.add_incoming(fresh, before)
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, builder.extract_value(array.shape, 0)), loop, after)
        builder.position_at_end(after)
        largest, second = _fold(builder, _join(builder, *pairs))
        flags = builder.bitcast(met, ir.IntType(_LANES))
        has_nan = builder.icmp_unsigned("!=", flags, ir.IntType(_LANES)(0))
        return ctx.make_tuple(builder, sig.return_type, [largest, second, has_nan])

    return types.Tuple((wide, wide, types.boolean))(row), code


@inner
def largest_of(row):
    """Return the largest number of a row, the second largest (the same on a tie) and whether there is NaN."""
    full = (row.size >> GROUP_BITS) << GROUP_BITS
    largest, second, nan = _two_largest(row[:full])
    for j in range(full, row.size):
        x = widen(row[j])
        if x > second:
            second = min(x, largest)
            largest = max(x, largest)
        nan |= x != x
    return largest, second, nan
