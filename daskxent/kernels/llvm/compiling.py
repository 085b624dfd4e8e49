"""How kernels are compiled and kept, and the instructions that numba lacks.

Why the arithmetic is the same on every processor: LLVM fuses no multiplication with an addition unless it is asked
to (`fastmath` or `contract`; nothing here does), a fused operation that is spelled out is rounded once whether or not
the processor has an instruction for it, and sums are sums of integers.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import warnings
from importlib.resources import files
from typing import Any

import numba
from numba import extending, types

from daskxent.kernels.llvm.instructions import wide, widened
from daskxent.kernels.llvm.vectors import Numbers
from daskxent.numbers.clock import COMPILATION

# numba types these in a way that does not fit their use inside kernels.
_njit: Any = numba.njit
_intrinsic: Any = extending.intrinsic
overload: Any = extending.overload
_TUPLE: Any = types.BaseTuple

_PACKAGE = files("daskxent")
# Everything that ends up in compiled code: the kernels, and the modules whose numbers they take.
SOURCES = tuple(
    f"{folder}/{name}"
    for folder in ("numbers", "kernels", "kernels/llvm")
    for name in sorted(file.name for file in _PACKAGE.joinpath(folder).iterdir())
    if name.endswith(".py")
)
_DIGEST = hashlib.sha256(b"".join(_PACKAGE.joinpath(name).read_bytes() for name in SOURCES)).hexdigest()[:16]


class compiled:
    """Compile an entry point and keep the code on disk.

    numba looks at the file of the entry point alone to see whether code is still good, but code from all `SOURCES`
    ends up in it. So their digest is made part of the name it is kept under. Where nothing can be kept, or what is kept
    is damaged, the code is compiled anew, with a warning.
    """

    def __init__(self, function: Any) -> None:
        function.__qualname__ += f"_{_DIGEST}"
        self._function, self._options = function, {"nogil": True, "error_model": "numpy"}
        try:
            self._call = _njit(cache=True, **self._options)(function)
        except RuntimeError:  # no directory to write to
            _warn_once("compiled code cannot be kept: set NUMBA_CACHE_DIR to a directory that can be written")
            self._call = _njit(**self._options)(function)
        self._call.compile = COMPILATION.timed(self._call.compile)

    def __call__(self, *arguments: Any) -> Any:
        """Run the code, compiled at the first call."""
        try:
            return self._call(*arguments)
        except (EOFError, pickle.UnpicklingError) as error:  # no kernel raises these
            where = self._call.stats.cache_path
            _warn_once(f"compiled code that was kept is damaged ({error}): remove {where}")
            self._call = _njit(**self._options)(self._function)
            return self._call(*arguments)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(f"{message}; each process compiles for some 20 seconds", stacklevel=2)


# Wrappers that only Python needs would take a third of the time of compilation.
_INNER = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = _njit(**_INNER)
# For functions of a whole block: its arrays are a hundred words, which take 50 ns to hand over.
INLINED = _INNER | {"forceinline": True}
inlined = _njit(**INLINED)
# For the outermost of them: numba expands the call, so that LLVM does not optimise all that they call once more (15 %
# of the time of compilation). Expanding what these call in turn takes numba longer than LLVM saves.
expanded = _njit(inline="always", **_INNER)


def instruction(signature):
    """Let compiled code call a function that writes LLVM's instructions.

    The function takes the builder and the arguments, arrays as `Numbers`, and returns a value, several, or None.
    `signature` makes a signature of the types of the arguments; a type of numba's does.
    """

    def decorate(write):
        def code(ctx, builder, sig, args):
            pairs = zip(sig.args, args, strict=True)
            given = [Numbers(builder, ctx, *pair) if isinstance(pair[0], types.Array) else pair[1] for pair in pairs]
            found = write(builder, *given)
            if isinstance(found, (list, tuple)):
                return ctx.make_tuple(builder, sig.return_type, found)
            return ctx.get_dummy_value() if found is None else found

        # numba takes the names of the arguments from what is wrapped.
        return _intrinsic(functools.wraps(write)(lambda context, *kinds: (signature(*kinds), code)))

    return decorate


@_intrinsic
def wide_vectors(context):
    """Let LLVM make vectors of 512 bits of the loops of a function.

    It takes 256 otherwise, where longer ones used to slow processors down. Losses and sums take 0.8 of the time.
    """

    def code(ctx, builder, sig, args):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own `add` does not know it
        return ctx.get_dummy_value()

    return types.void(), code


_INTEGER: Any = {types.float32: types.int32, types.float64: types.int64}
_FLOAT: Any = {bits: number for number, bits in _INTEGER.items()}


def _cast(ctx, builder, sig, args):
    return builder.bitcast(args[0], ctx.get_value_type(sig.return_type))


@_intrinsic
def bits_of(context, number):
    """Return the bits of a float as an integer."""
    return _INTEGER[number](number), _cast


@_intrinsic
def from_bits(context, bits):
    """Return the float that has these bits."""
    return _FLOAT[bits](bits), _cast


@_intrinsic
def like(context, number, model):
    """Return `number` in the type of `model`."""
    return model(number, model), lambda ctx, builder, sig, args: ctx.cast(builder, args[0], sig.args[0], sig.args[1])


@_intrinsic
def widen(context, number):
    """Widen a prediction."""
    return wide(number)(number), lambda ctx, builder, sig, args: widened(builder, sig.args[0], args[0])


@_intrinsic
def borrowed(context, arrays):
    """Return an array, or a tuple of whatever holds arrays, without owners.

    Handing them to functions then counts no references, which takes a tenth of the time.
    """
    return arrays(arrays), lambda ctx, builder, sig, args: _unowned(ctx, builder, sig.args[0], args[0])


def _unowned(ctx, builder, kind, value):
    if isinstance(kind, _TUPLE):
        parts = [_unowned(ctx, builder, part, builder.extract_value(value, k)) for k, part in enumerate(kind)]
        return ctx.make_tuple(builder, kind, parts)
    if not isinstance(kind, types.Array):
        return value
    view = ctx.make_array(kind)(ctx, builder, value)
    view.meminfo, view.parent = view.meminfo.type(None), view.parent.type(None)
    return view._getvalue()
