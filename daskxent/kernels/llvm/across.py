"""Vectors across rows, one lane each: their two largest numbers, and the sums of their terms.

A tile holds class after class of some rows, PITCH apart. What a lane has found stays in registers from class to class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types

from daskxent.kernels.blocks import PITCH
from daskxent.kernels.llvm import instructions
from daskxent.kernels.llvm.compiling import intrinsic
from daskxent.kernels.llvm.instructions import INT64, constant
from daskxent.kernels.llvm.vectors import VECTOR, Numbers, higher

if TYPE_CHECKING:
    from collections.abc import Callable


class _Lanes:
    """VECTOR lanes of a tile, and arrays with one place for each lane, while code for them is made."""

    def __init__(self, builder: Any, ctx: Any, sig: Any, args: Any) -> None:
        arrays = [Numbers(builder, ctx, *each) for each in zip(sig.args[2:], args[2:], strict=True)]
        self.tile, self.beside = arrays[0], arrays[1:]
        self.at = args[0]
        self.end = builder.add(self.at, builder.mul(args[1], INT64(PITCH)))

    def kept(self) -> list[Any]:
        """Return what the arrays beside the tile hold for these lanes."""
        return [array.load(self.at) for array in self.beside]

    def keep(self, found: list[Any]) -> None:
        """Put results into the last of the arrays beside the tile."""
        for array, numbers in zip(self.beside[len(self.beside) - len(found) :], found, strict=True):
            array.store(self.at, numbers)

    def loop(self, start: list[Any], step: Callable[[list[Any], Any], list[Any]]) -> list[Any]:
        """Take class after class into results."""
        return self.tile.loop(self.at, self.end, start, lambda found, vectors, at: step(found, *vectors), apart=PITCH)


@intrinsic
def lane_peaks(context, least, at, classes, tile, peaks, seconds):
    """Raise the two largest numbers of the lanes from `at` on.

    Return a bit for each lane that has NaN, or less than `least`.
    """

    def code(ctx, builder, sig, args):
        lanes = _Lanes(builder, ctx, sig.return_type(*sig.args[1:]), args[1:])
        bound = instructions.splat(builder, args[0], VECTOR)
        never = constant(ir.VectorType(ir.IntType(1), VECTOR), 0)

        def step(found, x):
            peak, second, odd = found
            lowest = constant(x.type, float("-inf"))
            odd = builder.or_(odd, builder.fcmp_unordered("<", x, bound))
            return [*higher(builder, [peak, second], [x, lowest]), odd]

        *pair, odd = lanes.loop([*lanes.kept(), never], step)
        lanes.keep(pair)
        return builder.zext(builder.bitcast(odd, ir.IntType(VECTOR)), INT64)

    return types.int64(least, types.int64, types.int64, tile, peaks, seconds), code


def _sums(ctx: Any, builder: Any, sig: Any, args: Any, of: Callable[..., Any]) -> Any:
    """Make the code that adds units to the last two arrays; `of` makes a term of a vector and what is beside it."""
    lanes = _Lanes(builder, ctx, sig, args)
    *beside, high, low = lanes.kept()
    single = lanes.tile.kind.dtype == types.float32
    bits = instructions.count_bits(single)

    def step(found, x):
        return [builder.add(a, b) for a, b in zip(found, instructions.counts(builder, of(x, *beside)), strict=True)]

    found = lanes.loop([high, low][: len(bits)], step)
    on_top = [instructions.splat(builder, builder.mul(args[1], INT64(each)), VECTOR) for each in bits]
    found = [builder.sub(each, top) for each, top in zip(found, on_top, strict=True)]
    lanes.keep([*found, low][:2])
    return ctx.get_dummy_value()


@intrinsic
def lane_logits(context, at, classes, tile, floor, around, high, low):
    """Add the terms of some logits of the lanes from `at` on to their sums."""
    return types.void(types.int64, types.int64, tile, floor, around, high, low), lambda ctx, builder, sig, args: _sums(
        ctx, builder, sig, args, lambda x, *beside: instructions.term(builder, x, *beside)
    )


@intrinsic
def lane_probabilities(context, at, classes, tile, high, low):
    """Add some clipped probabilities of the lanes from `at` on to their sums."""
    return types.void(types.int64, types.int64, tile, high, low), lambda ctx, builder, sig, args: _sums(
        ctx, builder, sig, args, lambda x: instructions.scaled(builder, x)
    )
