"""Vectors along a long row of at least VECTOR numbers: its two largest, and the sum of its terms."""

from functools import reduce
from itertools import chain

from llvmlite import ir
from numba import types

from daskxent.kernels.llvm.compiling import instruction
from daskxent.kernels.llvm.instructions import INT64, at_every_level, constant, counts, scaled, term, wide
from daskxent.kernels.llvm.vectors import VECTOR, added, fold, higher, splat

_WAYS = 2  # vectors at a time, each with results of its own


@instruction(lambda row: types.Tuple((wide(row.dtype), wide(row.dtype), types.boolean))(row))
def two_largest(builder, row):
    """Return the largest number, the second largest (the same on a tie) and whether there is NaN."""
    lowest, never = constant(row.vector, float("-inf")), constant(ir.VectorType(ir.IntType(1), VECTOR), 0)

    def step(found, vectors):
        *pairs, nan = found
        raised = [higher(builder, pairs[2 * way : 2 * way + 2], [x, lowest]) for way, x in enumerate(vectors)]
        nan = builder.or_(nan, builder.fcmp_unordered("uno", vectors[0], vectors[-1]))
        return [*chain(*raised), *pairs[2 * len(vectors) :], nan]

    *found, nan = row.through([lowest] * (2 * _WAYS) + [never], step, _WAYS, of=lambda x: x, fill=float("-inf"))
    pair = fold(builder, higher(builder, found[:2], found[2:]), higher)
    flags = ir.IntType(VECTOR)
    return [*pair, builder.icmp_unsigned("!=", builder.bitcast(nan, flags), flags(0))]


def _sum(builder, row, ahead, of, mass, at, by_level=False):
    """Put the sums of the units of a row's terms where those of lane `at` are; `of` makes terms of numbers."""
    zero, ways = counts(builder, constant(row.number, 0.0), by_level), 1 if by_level else _WAYS

    def step(found, terms):
        more = [*chain(*(counts(builder, t, by_level) for t in terms))]
        return added(builder, found[: len(more)], more) + found[len(more) :]

    found = row.through([constant(ir.VectorType(INT64, VECTOR), 0)] * (ways * len(zero)), step, ways, of, 0.0, ahead)
    sums = fold(builder, [reduce(builder.add, found[k :: len(zero)]) for k in range(len(zero))], added)
    terms = builder.and_(builder.add(row.shape[0], INT64(VECTOR - 1)), INT64(-VECTOR))
    for place, each, top in zip(mass.places(at, len(zero)), sums, zero, strict=True):
        mass.store(place, builder.sub(each, builder.mul(terms, top)))


@instruction(types.void)
def sum_logits(builder, row, ahead, floor, around, mass, at, levels):
    """Put the sums of a row's terms where those of lane `at` are, as in `Work`; fetch what lies so far `ahead`."""
    grid = [splat(builder, each) for each in (floor, around)]
    _sum(builder, row, ahead, lambda x: term(builder, x, *grid), mass, at, at_every_level(levels))


@instruction(types.void)
def sum_probabilities(builder, row, ahead, mass, at):
    """Put the sum of the clipped probabilities of a row there likewise."""
    _sum(builder, row, ahead, lambda x: scaled(builder, x), mass, at)
