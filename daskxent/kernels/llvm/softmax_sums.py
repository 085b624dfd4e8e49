"""Vectors along the distances of a row's logits to their peak: sums of functions of their exponentials."""

from llvmlite import ir
from numba import types

from daskxent.kernels.llvm.compiling import instruction
from daskxent.kernels.llvm.instructions import INT64, constant, exponential, reduced
from daskxent.numbers.elementary import ROUND_F8
from daskxent.numbers.softmax_sums import BETAS, LANES, LOWEST, STEP


def _exp(builder, d, scale):
    """Return exp(scale * d), 0 for what is lowest."""
    shifted, r = reduced(builder, builder.fmul(d, constant(d.type, scale)), constant(d.type, ROUND_F8))
    bits = ir.VectorType(INT64, LANES)
    power = builder.shl(builder.bitcast(shifted, bits), constant(bits, 52))
    found = builder.bitcast(builder.add(builder.bitcast(exponential(builder, r), bits), power), d.type)
    return builder.select(builder.fcmp_ordered(">", d, constant(d.type, LOWEST)), found, constant(d.type, 0.0))


def _add(builder, distances, count, sums, several, of, step):
    """Add what `step` makes of so many vectors to several sums, which lie one after the other."""
    places = [INT64(LANES * k) for k in range(several)]
    start = [sums.load(place, LANES) for place in places]
    found = distances.loop(INT64(0), count, start, step, of, apart=LANES)
    for place, each in zip(places, found, strict=True):
        sums.store(place, each)


@instruction(types.void)
def add_shape(builder, distances, count, sums):
    """Add so many vectors of distances to the three sums of `Shape`, LANES numbers each."""

    def step(found, terms):
        [(d, e)] = terms
        more = e, builder.fmul(d, e), builder.fmul(e, e)
        return [builder.fadd(x, y) for x, y in zip(found, more, strict=True)]

    _add(builder, distances, count, sums, 3, lambda d: (d, _exp(builder, d, 1.0)), step)


@instruction(types.void)
def add_curve(builder, distances, count, sums):
    """Add so many vectors of distances to the sums of exponentials at each inverse temperature."""

    def step(found, terms):
        [u] = terms
        square = builder.fmul(u, u)
        powers = [builder.fmul(square, square)]
        while len(powers) < len(BETAS):
            powers.append(builder.fmul(powers[-1], u))
        return [builder.fadd(x, y) for x, y in zip(found, powers, strict=True)]

    _add(builder, distances, count, sums, len(BETAS), lambda d: _exp(builder, d, STEP), step)
