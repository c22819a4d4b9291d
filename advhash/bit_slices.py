"""The counting kernel: Hamming distances of 512 database rows at once, in bit slices.

A block of 2,048 database rows is transposed: slice k holds bit k of all its rows, 64 rows a word.
The distance of a query to all rows of the block is the sum of K slices (each as it is or inverted,
as the query has the bit 0 or 1), added with carry-save adders into about log2(K) planes: plane i
holds bit i of every distance. The rows at distance d are then a conjunction of the planes, the
relevant ones among them a conjunction with the union of the query's label slices, and both are
counted by population counts: per distance instead of per pair.

`Lanes` is a vector of 8 words for numba (LLVM's <8 x i64>): AVX-512 holds it in one register, other
processors in two or four. numba's own loops are not vectorised here, as LLVM cannot prove that the
slices do not overlap.
"""

# numba's compiler works on untyped builders and on functions that it types itself.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return,misc"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

__all__ = ["BLOCK_WORDS", "GROUP", "HALF", "Scratch", "add_histograms", "query_rows"]

LANES = 8  # words of 64 rows in a vector
BLOCK_WORDS = (
    32  # words in a slice of a block, 2,048 rows: 64 bits and their inverses fit in 32 KiB
)
GROUP = 16  # slices added at a time, into planes 0 to 3 and a carry: K is padded to a multiple
HALF = 32  # bits of a count: relevant rows are counted in the upper half of a word
_LOW = 4  # planes 0 to 3: a distance is GROUP · high + low

_WORD = ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, LANES)


class _LanesType(types.Type):
    def __init__(self):
        super().__init__(name="Lanes")


_lanes = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, front_end_type):
        super().__init__(manager, front_end_type, _VECTOR)


class _Array:
    """Words of a contiguous uint64 array, eight at a time; offsets are in words, unchecked."""

    def __init__(self, context, builder, array_type, value):
        self.data = context.make_array(array_type)(context, builder, value).data
        self.builder = builder

    def _pointer(self, offset):
        return self.builder.bitcast(self.builder.gep(self.data, [offset]), _VECTOR.as_pointer())

    def load(self, offset):
        return self.builder.load(self._pointer(offset), align=8)

    def store(self, offset, value):
        self.builder.store(value, self._pointer(offset), align=8)


def _size(value):
    return ir.Constant(_WORD, value)


def _full_adder(context, builder, bits):
    """Sum and carry of three bits in every position."""
    first, second, third = bits
    if "+avx512f" in context.codegen().magic_tuple()[2]:  # one instruction each, not two
        arguments = [_VECTOR, _VECTOR, _VECTOR, ir.IntType(32)]
        logic = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_VECTOR, arguments),
            "llvm.x86.avx512.pternlog.q.512",
        )
        tables = (0b10010110, 0b11101000)  # odd number of ones; at least two ones
        total, carry = (
            builder.call(logic, [*bits, ir.Constant(ir.IntType(32), table)]) for table in tables
        )
        return total, carry
    differ = builder.xor(first, second)
    carry = builder.or_(builder.and_(differ, third), builder.and_(first, second))
    return builder.xor(differ, third), carry


@intrinsic
def _add_slices(typing, slices, offsets, start, word, planes):
    """Add GROUP slices to planes 0 to 3 (at words 0, 8, 16, 24 of `planes`); the carry."""

    def generate(context, builder, signature, arguments):
        block = _Array(context, builder, signature.args[0], arguments[0])
        chosen = context.make_array(signature.args[1])(context, builder, arguments[1]).data
        total = _Array(context, builder, signature.args[4], arguments[4])
        addends = []
        for place in range(GROUP):
            row = builder.gep(chosen, [builder.add(arguments[2], _size(place))])
            addends.append(block.load(builder.add(builder.load(row), arguments[3])))
        for plane in range(_LOW):
            addends.append(total.load(_size(LANES * plane)))
            carries = []
            while len(addends) > 1:
                bits, addends = addends[:3], addends[3:]
                rest, carry = _full_adder(context, builder, bits)
                addends.append(rest)
                carries.append(carry)
            total.store(_size(LANES * plane), addends[0])
            addends = carries
        return addends[0]

    return _lanes(slices, offsets, types.intp, types.intp, planes), generate


@intrinsic
def _low_masks(typing, planes, valid, low, word, stride):
    """Where planes 0 to 3 read 0 … 15, of the valid rows: mask i at `low[i·stride + word]`."""

    def generate(context, builder, signature, arguments):
        total = _Array(context, builder, signature.args[0], arguments[0])
        target = _Array(context, builder, signature.args[2], arguments[2])
        masks = [arguments[1]]
        for plane in reversed(range(_LOW)):
            bit = total.load(_size(LANES * plane))
            clear = builder.not_(bit)
            masks = [builder.and_(mask, side) for mask in masks for side in (clear, bit)]
        for value, mask in enumerate(masks):
            row = builder.mul(arguments[4], _size(value))
            target.store(builder.add(row, arguments[3]), mask)
        return context.get_dummy_value()

    return types.void(planes, valid, low, types.intp, types.intp), generate


@intrinsic
def _load(typing, array, offset):
    def generate(context, builder, signature, arguments):
        return _Array(context, builder, signature.args[0], arguments[0]).load(arguments[1])

    return _lanes(array, types.intp), generate


@intrinsic
def _store(typing, array, offset, value):
    def generate(context, builder, signature, arguments):
        target = _Array(context, builder, signature.args[0], arguments[0])
        target.store(arguments[1], arguments[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def _zero(typing):
    return _lanes(), lambda context, builder, signature, arguments: ir.Constant(_VECTOR, None)


def _operation(combine):
    """An intrinsic of two Lanes."""

    @intrinsic
    def operation(typing, first, second):
        def generate(context, builder, signature, arguments):
            return combine(builder, *arguments)

        return _lanes(first, second), generate

    return operation


_both = _operation(lambda builder, first, second: builder.and_(first, second))
_either = _operation(lambda builder, first, second: builder.or_(first, second))
_differ = _operation(lambda builder, first, second: builder.xor(first, second))
_without = _operation(lambda builder, first, second: builder.and_(first, builder.not_(second)))
_plus = _operation(lambda builder, first, second: builder.add(first, second))


def _external(name, result):
    """An intrinsic of LLVM that takes one Lanes; result: numba's type."""
    kind = _VECTOR if result is _lanes else _WORD

    @intrinsic
    def function(typing, value):
        def generate(context, builder, signature, arguments):
            declared = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [_VECTOR]), name
            )
            return builder.call(declared, arguments)

        return result(value), generate

    return function


@intrinsic
def _upper_half(typing, value):
    def generate(context, builder, signature, arguments):
        return builder.shl(arguments[0], ir.Constant(_VECTOR, [HALF] * LANES))

    return _lanes(value), generate


_population = _external("llvm.ctpop.v8i64", _lanes)
_total = _external("llvm.vector.reduce.add.v8i64", types.int64)
_union = _external("llvm.vector.reduce.or.v8i64", types.int64)


def _compiled(function):
    """Compiled on first use and kept on disk, unless there is no folder to keep it in."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # a read-only installation without a home
        return njit(**options)(function)


class Scratch(NamedTuple):
    """What a thread needs beside its histograms: allocated here, since numba's own allocation
    takes most of a second to compile.
    """

    slices: npt.NDArray[np.int64]  # bit k of the block's rows in row 2k, its inverse in row 2k+1
    label_slices: npt.NDArray[np.int64]
    planes: npt.NDArray[np.int64]  # bits of the distances of 512 rows
    low: npt.NDArray[np.int64]  # where a distance modulo GROUP is 0 … 15
    groups: npt.NDArray[np.int64]  # where a distance divided by GROUP is 0, 1, …
    shared: npt.NDArray[np.int64]  # where a row shares a label with the query
    valid: npt.NDArray[np.int64]  # where there is a row: the last block is not full
    square: npt.NDArray[np.int64]  # 64 rows to be transposed

    @classmethod
    def allocate(cls, bits: int, code_words: int, label_words: int) -> Scratch:
        sizes = (
            128 * code_words * BLOCK_WORDS,
            128 * label_words * BLOCK_WORDS,
            LANES * max(bits.bit_length(), _LOW),
            GROUP * BLOCK_WORDS,
            (bits // GROUP + 1) * BLOCK_WORDS,
            BLOCK_WORDS,
            BLOCK_WORDS,
            64,
        )
        return cls(*(_aligned(size) for size in sizes))


def _aligned(size: int) -> npt.NDArray[np.int64]:
    """Zeros that begin on a cache line, so that no vector spans two: 1.4 times as fast."""
    room = np.zeros(size + LANES, np.int64)
    start = -room.ctypes.data // 8 % LANES
    return room[start : start + size]


def query_rows(
    bits: npt.NDArray[np.bool_], labels: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What `add_histograms` wants of N queries: code_rows, label_rows, label_starts.

    bits (N,K), labels (N,C). Distance bit k is the slice of bit k where the query has 0, else its
    inverse; slices K … G−1 are empty, as the words are padded with zeros.
    """
    queries, width = bits.shape
    slices = np.arange(-(-width // GROUP) * GROUP)
    rows = np.repeat(2 * slices[None], queries, axis=0)
    rows[:, :width] += bits
    starts = np.concatenate([[0], np.cumsum(labels.sum(axis=1))])
    return BLOCK_WORDS * rows, BLOCK_WORDS * 2 * np.nonzero(labels)[1], starts


@_compiled
def _slice_block(words, start, valid, slices, square):
    """Slices of the rows from `start` on: bit k at row 2k of `slices`, its inverse at row 2k+1.

    64 words at a time are transposed as a square of bits: bit j of word i becomes bit i of word j
    (Warren, Hacker's Delight, §7-3).
    """
    stride = valid.shape[0]
    for place in range(stride):
        first = start + 64 * place
        count = min(64, max(0, words.shape[0] - first))
        valid[place] = -1 if count == 64 else (1 << count) - 1
        for word in range(words.shape[1]):
            for row in range(64):
                square[row] = words[first + row, word] if row < count else 0
            width = 32
            mask = 0x00000000FFFFFFFF
            while width:
                row = 0
                while row < 64:
                    swap = ((square[row] >> width) ^ square[row + width]) & mask
                    square[row] ^= swap << width
                    square[row + width] ^= swap
                    row = (row + width + 1) & ~width
                width >>= 1
                mask ^= mask << width
            for bit in range(64):
                offset = 2 * (64 * word + bit) * stride + place
                slices[offset] = square[bit]
                slices[offset + stride] = ~square[bit]


@_compiled
def add_histograms(
    words, labels, code_rows, label_rows, label_starts, first, last, scratch, counts
):
    """Add the distance histograms of some blocks of BLOCK_WORDS · 64 database rows.

    words, labels:   int64 (M,·): packed codes and labels of the database
    code_rows:       int64 (N,G): from `query_rows`, offsets of the slices that a distance adds
    label_rows:      int64: offsets of the slices of its labels, query after query;
                     those of query i are label_rows[label_starts[i] : label_starts[i + 1]]
    counts:          int64 (N,K+1), added to: rows at each distance, and 2³² times the relevant ones
    """
    slices, label_slices, planes, low, groups, shared, valid, square = scratch
    bits = counts.shape[1] - 1
    stride = BLOCK_WORDS
    planes_count = planes.shape[0] // LANES
    for block in range(first, last):
        start = 64 * stride * block
        _slice_block(words, start, valid, slices, square)
        _slice_block(labels, start, valid, label_slices, square)
        for query in range(counts.shape[0]):
            offsets = code_rows[query]
            for word in range(0, stride, LANES):
                for plane in range(planes_count):
                    _store(planes, LANES * plane, _zero())
                reached = _LOW + 1  # planes that the sum so far can fill
                for place in range(0, offsets.shape[0], GROUP):
                    carry = _add_slices(slices, offsets, place, word, planes)
                    while (1 << reached) <= place + GROUP:
                        reached += 1
                    for plane in range(_LOW, min(reached, planes_count)):
                        old = _load(planes, LANES * plane)
                        _store(planes, LANES * plane, _differ(old, carry))
                        carry = _both(old, carry)
                rows = _load(valid, word)
                _low_masks(planes, rows, low, word, stride)
                for group in range(bits // GROUP + 1):
                    mask = rows
                    for plane in range(_LOW, planes_count):
                        bit = _load(planes, LANES * plane)
                        if (group >> (plane - _LOW)) & 1:
                            mask = _both(mask, bit)
                        else:
                            mask = _without(mask, bit)
                    _store(groups, group * stride + word, mask)
                union = _zero()
                for place in range(label_starts[query], label_starts[query + 1]):
                    union = _either(union, _load(label_slices, label_rows[place] + word))
                _store(shared, word, union)
            for group in range(bits // GROUP + 1):
                union = _zero()
                for word in range(0, stride, LANES):
                    union = _either(union, _load(groups, group * stride + word))
                if _union(union) == 0:
                    continue
                for value in range(min(GROUP, bits + 1 - GROUP * group)):
                    rows_here = _zero()
                    relevant_here = _zero()
                    for word in range(0, stride, LANES):
                        mask = _both(
                            _load(low, value * stride + word), _load(groups, group * stride + word)
                        )
                        rows_here = _plus(rows_here, _population(mask))
                        hits = _both(mask, _load(shared, word))
                        relevant_here = _plus(relevant_here, _population(hits))
                    both = _plus(rows_here, _upper_half(relevant_here))
                    counts[query, GROUP * group + value] += _total(both)
