"""A vector of 8 words for numba: what the kernels of `bit_slices` and `popcounts` are written in.

`Lanes` is LLVM's <8 x i64>: AVX-512 holds it in one register, other processors in two or four.
numba's own loops are not vectorised here, as LLVM cannot prove that arrays do not overlap.
"""

# numba's compiler works on untyped builders and on functions that it types itself.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return,misc"

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

LANES = 8  # words in a vector

WORD = ir.IntType(64)
VECTOR = ir.VectorType(WORD, LANES)


class _LanesType(types.Type):
    def __init__(self):
        super().__init__(name="Lanes")


lanes = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, front_end_type):
        super().__init__(manager, front_end_type, VECTOR)


class Array:
    """Words of a contiguous uint64 array, eight at a time; offsets are in words, unchecked."""

    def __init__(self, context, builder, array_type, value):
        self.data = context.make_array(array_type)(context, builder, value).data
        self.builder = builder

    def _pointer(self, offset):
        return self.builder.bitcast(self.builder.gep(self.data, [offset]), VECTOR.as_pointer())

    def load(self, offset):
        return self.builder.load(self._pointer(offset), align=8)

    def store(self, offset, value):
        self.builder.store(value, self._pointer(offset), align=8)


def size(value):
    return ir.Constant(WORD, value)


@intrinsic
def load(typing, array, offset):
    def generate(context, builder, signature, arguments):
        return Array(context, builder, signature.args[0], arguments[0]).load(arguments[1])

    return lanes(array, types.intp), generate


@intrinsic
def store(typing, array, offset, value):
    def generate(context, builder, signature, arguments):
        target = Array(context, builder, signature.args[0], arguments[0])
        target.store(arguments[1], arguments[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def zero(typing):
    return lanes(), lambda context, builder, signature, arguments: ir.Constant(VECTOR, None)


def _operation(combine):
    """An intrinsic of two Lanes."""

    @intrinsic
    def operation(typing, first, second):
        def generate(context, builder, signature, arguments):
            return combine(builder, *arguments)

        return lanes(first, second), generate

    return operation


both = _operation(lambda builder, first, second: builder.and_(first, second))
either = _operation(lambda builder, first, second: builder.or_(first, second))
differ = _operation(lambda builder, first, second: builder.xor(first, second))
without = _operation(lambda builder, first, second: builder.and_(first, builder.not_(second)))
plus = _operation(lambda builder, first, second: builder.add(first, second))


def _external(name, result):
    """An intrinsic of LLVM that takes one Lanes; result: numba's type."""
    kind = VECTOR if result is lanes else WORD

    @intrinsic
    def function(typing, value):
        def generate(context, builder, signature, arguments):
            declared = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [VECTOR]), name
            )
            return builder.call(declared, arguments)

        return result(value), generate

    return function


population = _external("llvm.ctpop.v8i64", lanes)
sum_of = _external("llvm.vector.reduce.add.v8i64", types.int64)
any_of = _external("llvm.vector.reduce.or.v8i64", types.int64)


def compiled(function):
    """Compiled on first use and kept on disk, unless there is no folder to keep it in.

    What numba keeps are pickles: for a user without a home it would keep them, and read those that
    others put there, in the working folder.
    """
    options = {"nogil": True, "error_model": "numpy"}
    homeless = os.path.expanduser("~") == "~" and not os.environ.get("NUMBA_CACHE_DIR")
    try:
        return njit(cache=not homeless, **options)(function)
    except RuntimeError:  # a read-only installation without a home
        return njit(**options)(function)


def aligned(size: int) -> npt.NDArray[np.int64]:
    """Zeros that begin on a cache line, so that no vector spans two: 1.4 times as fast."""
    room = np.zeros(size + LANES, np.int64)
    start = -room.ctypes.data // 8 % LANES
    return room[start : start + size]
