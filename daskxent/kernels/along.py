"""Vectors along a long row: its two largest numbers, and the sum of its terms.

Loops in LLVM's own language, because it would vectorise neither two maxima at a time nor the last few numbers of a
row. The last vector overlaps the one before it; what was seen already is replaced by -inf (0 among probabilities).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types

from daskxent.kernels import instructions
from daskxent.kernels.arithmetic import scaled, units
from daskxent.kernels.compiling import inner, intrinsic, like, widen, widened
from daskxent.kernels.instructions import INT64, constant
from daskxent.rows import MAGIC_BITS

if TYPE_CHECKING:
    from collections.abc import Callable

VECTOR = 16  # a row of fewer numbers is not long
_FLAG, _PLACE = ir.IntType(1), ir.IntType(32)
_WAYS = 2  # vectors at a time, each with results of its own


def _wide(row: Any) -> Any:
    return row.dtype if row.dtype == types.float64 else types.float32


class _Row:
    """A row while code for it is made."""

    def __init__(self, builder: Any, ctx: Any, row: Any, value: Any) -> None:
        array = ctx.make_array(row)(ctx, builder, value)
        self.builder, self.row, self.data = builder, row, array.data
        self.size = builder.extract_value(array.shape, 0)
        self.vector = ir.VectorType(ctx.get_value_type(_wide(row)), VECTOR)

    def load(self, at: Any) -> Any:
        """Return VECTOR numbers from `at` on, widened."""
        stored = ir.PointerType(ir.VectorType(self.data.type.pointee, VECTOR))
        place = self.builder.bitcast(self.builder.gep(self.data, [at]), stored)
        numbers = self.builder.load(place, align=self.row.dtype.bitwidth // 8)
        return widened(self.builder, self.row.dtype, numbers, VECTOR)

    def fetch(self, at: Any) -> None:
        """Ask for what lies as far behind `at` as the row is long: in rows side by side, the next row."""
        builder, flag = self.builder, ir.IntType(32)
        place = builder.gep(self.data, [builder.add(at, self.size)])
        place = builder.bitcast(place, ir.PointerType(ir.IntType(8)))
        kind = ir.FunctionType(ir.VoidType(), [place.type, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (place.type,), kind)
        builder.call(prefetch, [place, flag(0), flag(3), flag(1)])

    def last(self, fill: float) -> Any:
        """Return the last VECTOR numbers, with those that belong to full vectors before them replaced by `fill`."""
        builder = self.builder
        numbers = self.load(builder.sub(self.size, INT64(VECTOR)))
        rest = builder.trunc(builder.urem(self.size, INT64(VECTOR)), _PLACE)
        seen = builder.sub(_PLACE(VECTOR), rest)
        lanes = ir.Constant(ir.VectorType(_PLACE, VECTOR), list(range(VECTOR)))
        fresh = builder.icmp_signed(">=", lanes, splat(builder, seen))
        return builder.select(fresh, numbers, constant(self.vector, fill))

    def reduce(
        self, start: list[Any], step: Callable[[list[Any], Any], list[Any]], fill: float, *, ahead: bool = False
    ) -> list[list[Any]]:
        """Take every vector of the row into one of `_WAYS` lists of results; `ahead` fetches the next row meanwhile."""
        builder = self.builder
        stride = INT64(VECTOR * _WAYS)
        whole = builder.mul(builder.udiv(self.size, stride), stride)
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        results = [list(start) for _ in range(_WAYS)]
        builder.cbranch(builder.icmp_signed(">", whole, INT64(0)), loop, after)

        builder.position_at_end(loop)
        at = builder.phi(INT64)
        carried = [[builder.phi(value.type) for value in start] for _ in range(_WAYS)]
        stepped = [step(carried[way], self.load(builder.add(at, INT64(VECTOR * way)))) for way in range(_WAYS)]
        for way in range(_WAYS if ahead else 0):
            self.fetch(builder.add(at, INT64(VECTOR * way)))
        following = builder.add(at, stride)
        at.add_incoming(INT64(0), before)
        at.add_incoming(following, loop)
        for olds, news in zip(carried, stepped, strict=True):
            for old, new, value in zip(olds, news, start, strict=True):
                old.add_incoming(value, before)
                old.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, whole), loop, after)

        builder.position_at_end(after)
        for way, news in enumerate(stepped):
            for k, new in enumerate(news):
                joined = builder.phi(new.type)
                joined.add_incoming(start[k], before)
                joined.add_incoming(new, loop)
                results[way][k] = joined
        return self._rest(results, step, whole, fill)

    def _rest(self, results: list[list[Any]], step: Any, whole: Any, fill: float) -> list[list[Any]]:
        """Take what is behind the loop: at most one full vector, and the last one."""
        builder = self.builder
        left = builder.sub(self.size, whole)
        with_full = builder.icmp_signed(">=", left, INT64(VECTOR))
        results[0] = self._if(with_full, results[0], lambda: step(results[0], self.load(whole)))
        with_last = builder.icmp_unsigned("!=", builder.urem(self.size, INT64(VECTOR)), INT64(0))
        results[1] = self._if(with_last, results[1], lambda: step(results[1], self.last(fill)))
        return results

    def _if(self, condition: Any, old: list[Any], change: Callable[[], list[Any]]) -> list[Any]:
        builder = self.builder
        before = builder.block
        with builder.if_then(condition):
            new = change()
            inside = builder.block
        merged = []
        for was, becomes in zip(old, new, strict=True):
            phi = builder.phi(was.type)
            phi.add_incoming(was, before)
            phi.add_incoming(becomes, inside)
            merged.append(phi)
        return merged


def splat(builder: Any, value: Any) -> Any:
    """Return a vector of one number."""
    kind = ir.VectorType(value.type, VECTOR)
    alone = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _PLACE(0))
    return builder.shuffle_vector(alone, alone, ir.Constant(ir.VectorType(_PLACE, VECTOR), [0] * VECTOR))


def _fold(builder: Any, results: list[list[Any]], join: Callable[[list[Any], list[Any]], list[Any]]) -> list[Any]:
    """Join the results of all ways and lanes into one of each."""
    vectors = join(results[0], results[1])
    lanes = VECTOR
    while lanes > 1:
        lanes //= 2
        halves = []
        for first in (0, lanes):
            mask = ir.Constant(ir.VectorType(_PLACE, lanes), list(range(first, first + lanes)))
            halves.append([builder.shuffle_vector(vector, vector, mask) for vector in vectors])
        vectors = join(*halves)
    return [builder.extract_element(vector, _PLACE(0)) for vector in vectors]


@intrinsic
def two_largest(context, row):
    """Return the largest number, the second largest (the same on a tie) and whether there is NaN."""

    def code(ctx, builder, sig, args):
        source = _Row(builder, ctx, row, args[0])
        lowest = constant(source.vector, float("-inf"))
        never = ir.Constant(ir.VectorType(_FLAG, VECTOR), [0] * VECTOR)

        def step(found, x):
            peak, second, nan = found
            risen = builder.fcmp_ordered(">", x, peak)
            lower = builder.select(risen, peak, x)
            nan = builder.or_(nan, builder.fcmp_unordered("uno", x, x))
            return [builder.select(risen, x, peak), instructions.largest(builder, lower, second), nan]

        def join(a, b):
            risen = builder.fcmp_ordered(">", b[0], a[0])
            lower = builder.select(risen, a[0], b[0])
            second = instructions.largest(builder, lower, instructions.largest(builder, b[1], a[1]))
            return [builder.select(risen, b[0], a[0]), second]

        ways = source.reduce([lowest, lowest, never], step, float("-inf"))
        flags = builder.bitcast(builder.or_(ways[0].pop(), ways[1].pop()), ir.IntType(VECTOR))
        has_nan = builder.icmp_unsigned("!=", flags, ir.IntType(VECTOR)(0))
        return ctx.make_tuple(builder, sig.return_type, [*_fold(builder, ways, join), has_nan])

    return types.Tuple((_wide(row), _wide(row), types.boolean))(row), code


def _sum(ctx: Any, builder: Any, sig: Any, value: Any, of: Callable[[Any], Any], fill: float) -> Any:
    """Make the code that sums the units of terms; `of` makes a term of a vector."""
    source = _Row(builder, ctx, sig.args[0], value)
    double = sig.args[0].dtype == types.float64
    nothing = constant(ir.VectorType(INT64, VECTOR), 0)

    def step(found, x):
        return [builder.add(a, b) for a, b in zip(found, instructions.units(builder, of(x)), strict=False)]

    def join(a, b):
        return [builder.add(x, y) for x, y in zip(a, b, strict=True)]

    sums = _fold(builder, source.reduce([nothing] * (1 + double), step, fill, ahead=True), join)
    vectors = builder.udiv(builder.add(source.size, INT64(VECTOR - 1)), INT64(VECTOR))
    bits = builder.mul(vectors, INT64(VECTOR * MAGIC_BITS % 2**64))
    sums = [builder.sub(each, bits) for each in sums]
    return ctx.make_tuple(builder, sig.return_type, sums if double else [*sums, INT64(0)])


@intrinsic
def sum_logits(context, row, floor, around):
    """Return the sum of the terms of a row of logits in units, and in finer ones what those leave."""

    def code(ctx, builder, sig, args):
        beside = [splat(builder, arg) for arg in args[1:]]
        return _sum(ctx, builder, sig, args[0], lambda x: instructions.term(builder, x, *beside), float("-inf"))

    return types.UniTuple(types.int64, 2)(row, floor, around), code


@intrinsic
def _sum_padded(context, row):
    def code(ctx, builder, sig, args):
        return _sum(ctx, builder, sig, args[0], lambda x: instructions.scaled(builder, x), 0.0)

    return types.UniTuple(types.int64, 2)(row), code


@inner
def sum_probabilities(row):
    """Return the sum of the clipped probabilities of a row, likewise."""
    high, low = _sum_padded(row)
    a, b = units(scaled(like(0.0, widen(row[0]))))
    padded = -row.size % VECTOR
    return high - padded * (a - MAGIC_BITS), low - padded * (b - MAGIC_BITS)
