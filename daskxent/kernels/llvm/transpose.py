"""A square of a block, transposed in registers."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from daskxent.kernels.blocks import PITCH
from daskxent.kernels.llvm.compiling import intrinsic, widened

SQUARE = 16  # rows and classes that are transposed at a time


@intrinsic
def transpose(context, values, row, column, tile, at):
    """Widen 16 rows of 16 classes of a contiguous array into ``tile[at + class * PITCH + row]``."""

    def code(ctx, builder, sig, args):
        source, target = (ctx.make_array(sig.args[k])(ctx, builder, args[k]) for k in (0, 3))
        pitch = builder.extract_value(source.shape, 1)
        begin = builder.add(builder.mul(args[1], pitch), args[2])
        rows = []
        for k in range(SQUARE):
            place = builder.gep(source.data, [builder.add(begin, builder.mul(pitch, pitch.type(k)))])
            number = source.data.type.pointee
            place = builder.bitcast(place, ir.PointerType(ir.VectorType(number, SQUARE)))
            vector = builder.load(place, align=sig.args[0].dtype.bitwidth // 8)
            rows.append(widened(builder, sig.args[0].dtype, vector, SQUARE))
        for by in (8, 4, 2, 1):
            low = [lane if not lane & by else SQUARE + lane - by for lane in range(SQUARE)]
            high = [lane + by if not lane & by else SQUARE + lane for lane in range(SQUARE)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), SQUARE), mask) for mask in (low, high)]
            for k in range(SQUARE):
                if not k & by:
                    pair = rows[k], rows[k + by]
                    rows[k], rows[k + by] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        for k, vector in enumerate(rows):
            place = builder.gep(target.data, [builder.add(args[4], args[4].type(k * PITCH))])
            place = builder.bitcast(place, ir.PointerType(vector.type))
            builder.store(vector, place, align=sig.args[3].dtype.bitwidth // 8)
        return ctx.get_dummy_value()

    return types.void(values, types.int64, types.int64, tile, types.int64), code
