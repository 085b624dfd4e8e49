"""Vectors across rows, one lane each: their two largest numbers, and the sums of their terms.

A tile holds class after class of some rows, PITCH apart. What a lane has found stays in registers from class to class.
"""

from llvmlite import ir
from numba import types

from daskxent.kernels.blocks import PITCH
from daskxent.kernels.llvm.compiling import instruction
from daskxent.kernels.llvm.instructions import INT64, at_every_level, constant, counts, scaled, term
from daskxent.kernels.llvm.vectors import VECTOR, added, higher, joined, lanes_of, splat

WIDTHS = 4, 8, VECTOR  # classes that are transposed at a time


@instruction(types.void)
def transpose(builder, numbers, begin, pitch, tile, at, width):
    """Widen VECTOR rows of classes, `pitch` apart from `begin` on, into ``tile[at + class * PITCH + row]``.

    There are `width` classes: one of WIDTHS, each with code of its own.
    """
    for classes in WIDTHS:
        with builder.if_then(builder.icmp_signed("==", width, INT64(classes))):
            rows = [numbers.load(builder.add(begin, builder.mul(pitch, INT64(k))), classes) for k in range(VECTOR)]
            # Squares lie side by side in so many vectors: row k of each of them in vector k.
            for k, vector in enumerate(_squares(builder, [joined(builder, rows[k::classes]) for k in range(classes)])):
                tile.store(builder.add(at, INT64(k * PITCH)), vector)


def _squares(builder, rows):
    """Transpose the squares that lie side by side in vectors."""
    by = len(rows) // 2
    while by:
        low = lanes_of([lane if not lane & by else VECTOR + lane - by for lane in range(VECTOR)])
        high = lanes_of([lane + by if not lane & by else VECTOR + lane for lane in range(VECTOR)])
        for k in (k for k in range(len(rows)) if not k & by):
            pair = rows[k], rows[k + by]
            rows[k], rows[k + by] = builder.shuffle_vector(*pair, low), builder.shuffle_vector(*pair, high)
        by //= 2
    return rows


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


def _add(builder, at, classes, tile, of, mass, by_level=False):
    """Add the units of the terms of some lanes to their sums; `of` makes terms of numbers."""
    zero = counts(builder, constant(tile.number, 0.0), by_level)
    places = mass.places(at, len(zero))

    def step(found, terms):
        return added(builder, found, counts(builder, terms[0], by_level))

    found = tile.loop(at, classes, [mass.load(place) for place in places], step, of, apart=PITCH)
    for place, each, top in zip(places, found, zero, strict=True):
        mass.store(place, builder.sub(each, splat(builder, builder.mul(classes, top))))


@instruction(types.void)
def lane_logits(builder, at, classes, tile, floor, around, mass, levels):
    """Add the terms of some logits of the lanes from `at` on to their sums, which are as in `Work`."""
    grid = floor.load(at), around.load(at)
    _add(builder, at, classes, tile, lambda x: term(builder, x, *grid), mass, at_every_level(levels))


@instruction(types.void)
def lane_probabilities(builder, at, classes, tile, mass):
    """Add some clipped probabilities of the lanes from `at` on to their sums."""
    _add(builder, at, classes, tile, lambda x: scaled(builder, x), mass)


@instruction(types.void)
def take_own(builder, at, peaks, floor, around, mass, levels):
    """Take the terms of the peaks of the lanes from `at` on away from their sums."""
    zero = counts(builder, constant(peaks.number, 0.0), at_every_level(levels))
    own = counts(builder, term(builder, peaks.load(at), floor.load(at), around.load(at)), at_every_level(levels))
    for place, each, top in zip(mass.places(at, len(zero)), own, zero, strict=True):
        mass.store(place, builder.add(mass.load(place), builder.sub(splat(builder, top), each)))
