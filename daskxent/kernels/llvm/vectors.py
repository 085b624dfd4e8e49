"""Loops over vectors of numbers, in LLVM's own language.

For what LLVM does not find by itself: two maxima at a time, the last few numbers of a row, results that stay in
registers while a loop runs along or across rows.
"""

from llvmlite import ir

from daskxent.kernels.llvm.instructions import INT64, call, constant, largest, wide, widened

VECTOR = 16  # numbers
_PLACE = ir.IntType(32)


def lanes_of(lanes):
    """Return the numbers of lanes, for `shuffle_vector`."""
    return ir.Constant(ir.VectorType(_PLACE, len(lanes)), list(lanes))


def splat(builder, value):
    """Return a vector of one number."""
    alone = builder.insert_element(ir.Constant(ir.VectorType(value.type, VECTOR), ir.Undefined), value, _PLACE(0))
    return builder.shuffle_vector(alone, alone, lanes_of([0] * VECTOR))


def joined(builder, vectors):
    """Return one vector of the numbers of several, as many as a power of two."""
    while len(vectors) > 1:
        lanes = lanes_of(range(2 * vectors[0].type.count))
        vectors = [builder.shuffle_vector(*pair, lanes) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


class Numbers:
    """A contiguous array while code for it is made."""

    def __init__(self, builder, ctx, kind, value):
        array = ctx.make_array(kind)(ctx, builder, value)
        self.builder, self.dtype = builder, kind.dtype
        # numba's pointers have types that llvmlite compares what is stored with, and it casts none to one without.
        holder = ir.Constant(ir.LiteralStructType([ir.PointerType()]), ir.Undefined)
        self.data = builder.extract_value(builder.insert_value(holder, array.data, 0), 0)
        self.shape = [builder.extract_value(array.shape, axis) for axis in range(kind.ndim)]
        self.stored, self.number = ctx.get_value_type(kind.dtype), ctx.get_value_type(wide(kind.dtype))
        self.vector = ir.VectorType(self.number, VECTOR)

    def _place(self, at):
        return self.builder.gep(self.data, [at], source_etype=self.stored)

    def load(self, at, numbers=VECTOR):
        """Return so many numbers from `at` on, widened."""
        kind, align = ir.VectorType(self.stored, numbers), self.dtype.bitwidth // 8
        return widened(self.builder, self.dtype, self.builder.load(self._place(at), align=align, typ=kind))

    def places(self, at, count):
        """Return where the numbers at a place of the first rows of a 2-D array are."""
        return [self.builder.add(at, self.builder.mul(self.shape[1], INT64(k))) for k in range(count)]

    def store(self, at, numbers):
        """Put a number or a vector where it belongs."""
        self.builder.store(numbers, self._place(at), align=self.dtype.bitwidth // 8)

    def loop(self, begin, count, start, step, of, vectors=1, apart=VECTOR, ahead=None):
        """Take vectors from `begin` on into results, a few at a time and so many times.

        `of` makes terms of a vector of numbers, `step` new results of those so far and some terms. Vectors are as far
        `apart` as they are long, or farther. What lies so many numbers `ahead` is fetched meanwhile, even beyond the
        array.
        """
        builder, stride = self.builder, INT64(apart * vectors)
        end = builder.add(begin, builder.mul(count, stride))
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", begin, end), loop, after)

        builder.position_at_end(loop)
        at, carried = builder.phi(INT64), [builder.phi(value.type) for value in start]
        places, terms = [builder.add(at, INT64(apart * k)) for k in range(vectors)], []
        for place, numbers in [(place, self.load(place, min(apart, VECTOR))) for place in places]:
            if ahead is not None:  # between the terms: two fetches on end cost a third of the time of long rows
                there = self._place(builder.add(place, ahead))
                call(builder, "llvm.prefetch.p0", ir.VoidType(), there, _PLACE(0), _PLACE(3), _PLACE(1))
            terms.append(of(numbers))
        stepped = step(carried, terms)
        following = builder.add(at, stride)
        builder.cbranch(builder.icmp_signed("<", following, end), loop, after)

        builder.position_at_end(after)
        results = [builder.phi(value.type) for value in start]
        ways = [begin, *start * 2], [following, *stepped * 2]
        for phi, first, then in zip([at, *carried, *results], *ways, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(then, loop)
        return results

    def through(self, start, step, ways, of, fill, ahead=None):
        """Take all of at least VECTOR numbers into results, as many vectors at a time as there are ways.

        What fills no vector is taken as the last VECTOR numbers, with `fill` for the terms that were taken already.
        """
        builder, size, done = self.builder, self.shape[0], INT64(0)
        for vectors in sorted({ways, 1}, reverse=True):
            count = builder.udiv(builder.sub(size, done), INT64(VECTOR * vectors))
            start = self.loop(done, count, start, step, of, vectors, ahead=ahead)
            done = builder.add(done, builder.mul(count, INT64(VECTOR * vectors)))
        rest = builder.sub(size, done)
        taken = splat(builder, builder.trunc(builder.sub(INT64(VECTOR), rest), _PLACE))
        fresh = builder.icmp_signed(">=", lanes_of(range(VECTOR)), taken)
        once = builder.zext(builder.icmp_signed("!=", rest, INT64(0)), INT64)
        begin, filled = builder.sub(size, INT64(VECTOR)), constant(self.vector, fill)
        return self.loop(begin, once, start, step, lambda x: builder.select(fresh, of(x), filled), ahead=ahead)


def fold(builder, vectors, join):
    """Join the lanes of each vector into one number."""
    lanes = VECTOR
    while lanes > 1:
        lanes //= 2
        halves = lanes_of(range(lanes)), lanes_of(range(lanes, 2 * lanes))
        vectors = join(builder, *([builder.shuffle_vector(each, each, half) for each in vectors] for half in halves))
    return [builder.extract_element(each, _PLACE(0)) for each in vectors]


def added(builder, a, b):
    """Join sums."""
    return [builder.add(x, y) for x, y in zip(a, b, strict=True)]


def higher(builder, a, b):
    """Join two pairs of the largest and the second largest number."""
    risen = builder.fcmp_ordered(">", b[0], a[0])
    lower = builder.select(risen, a[0], b[0])
    second = largest(builder, lower, largest(builder, b[1], a[1]))
    return [builder.select(risen, b[0], a[0]), second]
