"""Loops over vectors of numbers, in LLVM's own language.

For what LLVM does not find by itself: two maxima at a time, the last few numbers of a row, results that stay in
registers while a loop runs along or across rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types

from daskxent.kernels.llvm import instructions
from daskxent.kernels.llvm.compiling import widened
from daskxent.kernels.llvm.instructions import INT64, constant, splat

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[list[Any], list[Any], Any], list[Any]]  # of results, vectors and the place of the first one

VECTOR = 16  # numbers
_PLACE = ir.IntType(32)


def wide(array: Any) -> Any:
    """Return the type that the numbers of an array are widened to."""
    return types.float32 if array.dtype in (types.uint16, types.int16) else array.dtype


class Numbers:
    """A contiguous array while code for it is made."""

    def __init__(self, builder: Any, ctx: Any, kind: Any, value: Any) -> None:
        array = ctx.make_array(kind)(ctx, builder, value)
        self.builder, self.kind, self.data = builder, kind, array.data
        self.size = builder.extract_value(array.shape, 0)
        self.vector = ir.VectorType(ctx.get_value_type(wide(kind)), VECTOR)

    def whole(self, vectors: int) -> Any:
        """Return how many numbers are in as many vectors as can be taken so many at a time."""
        stride = INT64(VECTOR * vectors)
        return self.builder.mul(self.builder.udiv(self.size, stride), stride)

    def _place(self, at: Any) -> Any:
        place = self.builder.gep(self.data, [at])
        return self.builder.bitcast(place, ir.PointerType(ir.VectorType(self.data.type.pointee, VECTOR)))

    def load(self, at: Any) -> Any:
        """Return VECTOR numbers from `at` on, widened."""
        numbers = self.builder.load(self._place(at), align=self.kind.dtype.bitwidth // 8)
        return widened(self.builder, self.kind.dtype, numbers, VECTOR)

    def store(self, at: Any, numbers: Any) -> None:
        """Put VECTOR numbers where they belong."""
        self.builder.store(numbers, self._place(at), align=self.kind.dtype.bitwidth // 8)

    def fetch(self, at: Any) -> None:
        """Ask for what will be wanted soon, by its place as seen from this array."""
        builder, flag = self.builder, ir.IntType(32)
        place = builder.bitcast(builder.gep(self.data, [at]), ir.PointerType(ir.IntType(8)))
        kind = ir.FunctionType(ir.VoidType(), [place.type, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (place.type,), kind)
        builder.call(prefetch, [place, flag(0), flag(3), flag(1)])

    def loop(
        self, begin: Any, end: Any, start: list[Any], step: Step, *, vectors: int = 1, apart: int = VECTOR
    ) -> list[Any]:
        """Take what lies from `begin` to `end`, some vectors at a time, into results."""
        builder = self.builder
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", begin, end), loop, after)

        builder.position_at_end(loop)
        at, carried = builder.phi(INT64), [builder.phi(value.type) for value in start]
        numbers = [self.load(builder.add(at, INT64(apart * k))) for k in range(vectors)]
        stepped = step(carried, numbers, at)
        following = builder.add(at, INT64(apart * vectors))
        for phi, first, then in zip([at, *carried], [begin, *start], [following, *stepped], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(then, loop)
        builder.cbranch(builder.icmp_signed("<", following, end), loop, after)

        builder.position_at_end(after)
        return [self._joined(pair, (before, loop)) for pair in zip(start, stepped, strict=True)]

    def last(self, results: list[Any], step: Step, fill: float) -> list[Any]:
        """Take what no full vector holds: the last VECTOR numbers, with `fill` for those that were seen already."""
        builder, begin = self.builder, self.builder.sub(self.size, INT64(VECTOR))
        rest = builder.trunc(builder.urem(self.size, INT64(VECTOR)), _PLACE)
        before = builder.block
        with builder.if_then(builder.icmp_unsigned("!=", rest, _PLACE(0))):
            lanes = ir.Constant(ir.VectorType(_PLACE, VECTOR), list(range(VECTOR)))
            fresh = builder.icmp_signed(">=", lanes, splat(builder, builder.sub(_PLACE(VECTOR), rest), VECTOR))
            numbers = builder.select(fresh, self.load(begin), constant(self.vector, fill))
            stepped = step(results, [numbers], begin)
            inside = builder.block
        return [self._joined(pair, (before, inside)) for pair in zip(results, stepped, strict=True)]

    def _joined(self, values: Any, blocks: Any) -> Any:
        """Return one of two values, by the block that was left last."""
        phi = self.builder.phi(values[0].type)
        for value, block in zip(values, blocks, strict=True):
            phi.add_incoming(value, block)
        return phi


def fold(builder: Any, vectors: list[Any], join: Callable[[list[Any], list[Any]], list[Any]]) -> list[Any]:
    """Join the lanes of each vector into one number."""
    lanes = VECTOR
    while lanes > 1:
        lanes //= 2
        halves = []
        for first in (0, lanes):
            mask = ir.Constant(ir.VectorType(_PLACE, lanes), list(range(first, first + lanes)))
            halves.append([builder.shuffle_vector(vector, vector, mask) for vector in vectors])
        vectors = join(*halves)
    return [builder.extract_element(vector, _PLACE(0)) for vector in vectors]


def higher(builder: Any, a: list[Any], b: list[Any]) -> list[Any]:
    """Join two pairs of the largest and the second largest number."""
    risen = builder.fcmp_ordered(">", b[0], a[0])
    lower = builder.select(risen, a[0], b[0])
    second = instructions.largest(builder, lower, instructions.largest(builder, b[1], a[1]))
    return [builder.select(risen, b[0], a[0]), second]
