"""How kernels are compiled and kept, and the instructions that numba lacks.

Why the arithmetic is the same on every processor: LLVM fuses no multiplication with an addition unless it is told
to (`fastmath` or `contract`; nothing here does), a fused operation that is spelled out is rounded once whether or not
the processor has an instruction for it, and sums are sums of integers.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.resources import files
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import extending, types

# numba types these in a way that does not fit their use inside kernels.
_njit: Any = numba.njit
intrinsic: Any = extending.intrinsic
overload: Any = extending.overload

_PACKAGE = files("daskxent")
# Everything that ends up in compiled code: the kernels, and the modules whose numbers they take.
SOURCES = tuple(
    f"{folder}/{name}"
    for folder in ("numbers", "kernels", "kernels/llvm")
    for name in sorted(file.name for file in _PACKAGE.joinpath(folder).iterdir())
    if name.endswith(".py")
)
_DIGEST = hashlib.sha256(b"".join(_PACKAGE.joinpath(name).read_bytes() for name in SOURCES)).hexdigest()[:16]


def compiled(function: Any) -> Any:
    """Compile an entry point and keep the code on disk.

    numba looks at the file of the entry point alone to tell whether code is still good, but code from all `SOURCES`
    ends up in it. So their digest is made part of the name it is kept under.
    """
    function.__qualname__ += f"_{_DIGEST}"
    return _njit(nogil=True, cache=True, error_model="numpy")(function)


# Wrappers that only Python needs would take a third of the time of compilation.
inner = _njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
# For functions of a whole block: its arrays are a hundred words, which take 50 ns to hand over.
inlined = _njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)

_INTEGER: dict[Any, Any] = {types.float32: types.int32, types.float64: types.int64}
_FLOAT: dict[Any, Any] = {bits: number for number, bits in _INTEGER.items()}


@intrinsic
def bits_of(context: Any, number: Any) -> Any:
    """Return the bits of a float as an integer."""
    return _INTEGER[number](number), lambda ctx, builder, sig, args: builder.bitcast(
        args[0], ctx.get_value_type(sig.return_type)
    )


@intrinsic
def from_bits(context: Any, bits: Any) -> Any:
    """Return the float that has these bits."""
    return _FLOAT[bits](bits), lambda ctx, builder, sig, args: builder.bitcast(
        args[0], ctx.get_value_type(sig.return_type)
    )


@intrinsic
def like(context: Any, number: Any, model: Any) -> Any:
    """Return `number` in the type of `model`."""
    return model(number, model), lambda ctx, builder, sig, args: ctx.cast(builder, args[0], sig.args[0], sig.args[1])


def has(feature: str) -> bool:
    """Tell whether the processor that is compiled for is an x86 with some instructions."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    config: Any = numba.config
    if config.CPU_NAME is not None:
        return f"+{feature}" in (config.CPU_FEATURES or "")
    return bool(llvmlite.binding.get_host_cpu_features().get(feature))


def _converts_half() -> bool:
    """Tell whether the processor that is compiled for widens float16 itself: without F16C, x86 would call a library."""
    return has("f16c") or platform.machine().lower() not in ("x86_64", "amd64")


def widened(builder: Any, stored: Any, value: Any, lanes: int | None = None) -> Any:
    """Widen a prediction, or a vector of `lanes` of them: uint16 holds the bits of float16, int16 those of bfloat16."""
    if stored not in (types.uint16, types.int16):
        return value

    def of(kind: Any) -> Any:
        return ir.VectorType(kind, lanes) if lanes else kind

    def all_of(kind: Any, number: Any) -> Any:
        return ir.Constant(of(kind), [number] * lanes if lanes else number)

    integer, number = ir.IntType(32), ir.FloatType()
    if stored == types.uint16 and _converts_half():
        return builder.fpext(builder.bitcast(value, of(ir.HalfType())), of(number))
    wide = builder.zext(value, of(integer))
    if stored == types.int16:
        return builder.bitcast(builder.shl(wide, all_of(integer, 16)), of(number))
    # The exponent and the fraction of a float16, moved into place, count in units of 2**-112.
    moved = builder.shl(builder.and_(wide, all_of(integer, 0x7FFF)), all_of(integer, 13))
    counted = builder.fmul(builder.bitcast(moved, of(number)), all_of(number, 2.0**112))
    special = builder.icmp_unsigned(">=", moved, all_of(integer, 0x7C00 << 13))  # infinity and NaN
    bits = builder.select(
        special, builder.or_(moved, all_of(integer, 0x7F800000)), builder.bitcast(counted, of(integer))
    )
    sign = builder.shl(builder.and_(wide, all_of(integer, 0x8000)), all_of(integer, 16))
    return builder.bitcast(builder.or_(bits, sign), of(number))


@intrinsic
def widen(context: Any, number: Any) -> Any:
    """Widen a prediction."""
    wide = number if number in _INTEGER else types.float32
    return wide(number), lambda ctx, builder, sig, args: widened(builder, sig.args[0], args[0])


@intrinsic
def borrowed(context: Any, array: Any) -> Any:
    """Return an array without its owner, so that handing it to functions counts no references (a tenth of the time)."""

    def code(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        view = ctx.make_array(sig.args[0])(ctx, builder, args[0])
        view.meminfo, view.parent = view.meminfo.type(None), view.parent.type(None)
        return view._getvalue()

    return array(array), code
