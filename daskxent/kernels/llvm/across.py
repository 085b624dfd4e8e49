"""Vectors across rows, one lane each: their two largest numbers, and the sums of their terms.

A tile holds class after class of some rows, PITCH apart. What a lane has found stays in registers from class to class.
"""

from llvmlite import ir
from numba import types

from daskxent.kernels.blocks import PITCH
from daskxent.kernels.llvm.compiling import instruction
from daskxent.kernels.llvm.instructions import INT64, SUMS, constant, counts, scaled, term
from daskxent.kernels.llvm.vectors import VECTOR, added, higher, lanes_of, splat


@instruction(types.void)
def transpose(builder, numbers, begin, pitch, tile, at):
    """Widen VECTOR rows of VECTOR classes, `pitch` apart from `begin` on, into ``tile[at + class * PITCH + row]``."""
    rows = [numbers.load(builder.add(begin, builder.mul(pitch, INT64(k)))) for k in range(VECTOR)]
    for by in (8, 4, 2, 1):
        low = lanes_of([lane if not lane & by else VECTOR + lane - by for lane in range(VECTOR)])
        high = lanes_of([lane + by if not lane & by else VECTOR + lane for lane in range(VECTOR)])
        for k in (k for k in range(VECTOR) if not k & by):
            pair = rows[k], rows[k + by]
            rows[k], rows[k + by] = builder.shuffle_vector(*pair, low), builder.shuffle_vector(*pair, high)
    for k, vector in enumerate(rows):
        tile.store(builder.add(at, INT64(k * PITCH)), vector)


@instruction(types.int64)
def lane_peaks(builder, least, at, classes, tile, peaks, seconds):
    """Raise the two largest numbers of the lanes from `at` on; return a bit for each with NaN or less than `least`."""
    lowest, never = constant(tile.vector, float("-inf")), constant(ir.VectorType(ir.IntType(1), VECTOR), 0)
    bound = splat(builder, least)

    def step(found, vectors):
        (*pair, exceptional), [x] = found, vectors
        return [*higher(builder, pair, [x, lowest]), builder.or_(exceptional, builder.fcmp_unordered("<", x, bound))]

    start = [peaks.load(at), seconds.load(at), never]
    peak, second, exceptional = tile.loop(at, classes, start, step, lambda x: x, apart=PITCH)
    peaks.store(at, peak)
    seconds.store(at, second)
    return builder.zext(builder.bitcast(exceptional, ir.IntType(VECTOR)), INT64)


def _add(builder, at, classes, tile, of, sums, by_level=False):
    """Add the units of the terms of some lanes to sums, pairs of an array and a place; `of` makes terms of numbers."""
    zero = counts(builder, constant(tile.number, 0.0), by_level)

    def step(found, terms):
        return added(builder, found, counts(builder, terms[0], by_level))

    start = [array.load(place) for array, place in sums[: len(zero)]]
    found = tile.loop(at, classes, start, step, of, apart=PITCH)
    for (array, place), each, top in zip(sums, found, zero, strict=False):
        array.store(place, builder.sub(each, splat(builder, builder.mul(classes, top))))


@instruction(types.void)
def lane_logits(builder, at, classes, tile, floor, around, high, low):
    """Add the terms of some logits of the lanes from `at` on to their sums."""
    grid = floor.load(at), around.load(at)
    _add(builder, at, classes, tile, lambda x: term(builder, x, *grid), [(high, at), (low, at)])


@instruction(types.void)
def lane_logits_by_level(builder, at, classes, tile, floor, around, mass):
    """Add them at every level to the first rows of `mass`, as in `Records.mass`."""
    grid = floor.load(at), around.load(at)
    sums = [(mass, builder.add(at, builder.mul(mass.shape[1], INT64(k)))) for k in range(SUMS)]
    _add(builder, at, classes, tile, lambda x: term(builder, x, *grid), sums, by_level=True)


@instruction(types.void)
def lane_probabilities(builder, at, classes, tile, high, low):
    """Add some clipped probabilities of the lanes from `at` on to their sums."""
    _add(builder, at, classes, tile, lambda x: scaled(builder, x), [(high, at), (low, at)])
