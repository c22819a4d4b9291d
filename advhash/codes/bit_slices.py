"""The counting kernel: Hamming distances of 512 database rows at once, in bit slices.

A block of 2,048 database rows is transposed: slice k holds bit k of all its rows, 64 rows a word.
The distance of a query to all rows of the block is the sum of K slices (each as it is or inverted,
as the query has the bit 0 or 1), added with carry-save adders into about log2(K) planes: plane i
holds bit i of every distance. The rows at distance d are then a conjunction of the planes, the
relevant ones among them a conjunction with the union of the query's label slices, and both are
counted by population counts: per distance instead of per pair.
"""

# numba's compiler works on untyped builders and on functions that it types itself.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return,misc"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from advhash.codes.lanes import (
    LANES,
    VECTOR,
    Array,
    aligned,
    any_of,
    both,
    compiled,
    differ,
    either,
    lanes,
    load,
    plus,
    population,
    size,
    store,
    sum_of,
    without,
    zero,
)

BLOCK_WORDS = (
    32  # words in a slice of a block, 2,048 rows: 64 bits and their inverses fit in 32 KiB
)
GROUP = 16  # slices added at a time, into planes 0 to 3 and a carry: K is padded to a multiple
HALF = 32  # bits of a count: relevant rows are counted in the upper half of a word
_LOW = 4  # planes 0 to 3: a distance is GROUP · high + low


def _full_adder(context, builder, bits):
    """Sum and carry of three bits in every position."""
    first, second, third = bits
    if "+avx512f" in context.codegen().magic_tuple()[2]:  # one instruction each, not two
        arguments = [VECTOR, VECTOR, VECTOR, ir.IntType(32)]
        logic = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(VECTOR, arguments),
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
        block = Array(context, builder, signature.args[0], arguments[0])
        chosen = context.make_array(signature.args[1])(context, builder, arguments[1]).data
        total = Array(context, builder, signature.args[4], arguments[4])
        addends = []
        for place in range(GROUP):
            row = builder.gep(chosen, [builder.add(arguments[2], size(place))])
            addends.append(block.load(builder.add(builder.load(row), arguments[3])))
        for plane in range(_LOW):
            addends.append(total.load(size(LANES * plane)))
            carries = []
            while len(addends) > 1:
                bits, addends = addends[:3], addends[3:]
                rest, carry = _full_adder(context, builder, bits)
                addends.append(rest)
                carries.append(carry)
            total.store(size(LANES * plane), addends[0])
            addends = carries
        return addends[0]

    return lanes(slices, offsets, types.intp, types.intp, planes), generate


@intrinsic
def _low_masks(typing, planes, valid, low, word, stride):
    """Where planes 0 to 3 read 0 … 15, of the valid rows: mask i at `low[i·stride + word]`."""

    def generate(context, builder, signature, arguments):
        total = Array(context, builder, signature.args[0], arguments[0])
        target = Array(context, builder, signature.args[2], arguments[2])
        masks = [arguments[1]]
        for plane in reversed(range(_LOW)):
            bit = total.load(size(LANES * plane))
            clear = builder.not_(bit)
            masks = [builder.and_(mask, side) for mask in masks for side in (clear, bit)]
        for value, mask in enumerate(masks):
            row = builder.mul(arguments[4], size(value))
            target.store(builder.add(row, arguments[3]), mask)
        return context.get_dummy_value()

    return types.void(planes, valid, low, types.intp, types.intp), generate


@intrinsic
def _upper_half(typing, value):
    def generate(context, builder, signature, arguments):
        return builder.shl(arguments[0], ir.Constant(VECTOR, [HALF] * LANES))

    return lanes(value), generate


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
        return cls(*(aligned(size) for size in sizes))


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


@compiled
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


@compiled
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
                    store(planes, LANES * plane, zero())
                reached = _LOW + 1  # planes that the sum so far can fill
                for place in range(0, offsets.shape[0], GROUP):
                    carry = _add_slices(slices, offsets, place, word, planes)
                    while (1 << reached) <= place + GROUP:
                        reached += 1
                    for plane in range(_LOW, min(reached, planes_count)):
                        old = load(planes, LANES * plane)
                        store(planes, LANES * plane, differ(old, carry))
                        carry = both(old, carry)
                rows = load(valid, word)
                _low_masks(planes, rows, low, word, stride)
                for group in range(bits // GROUP + 1):
                    mask = rows
                    for plane in range(_LOW, planes_count):
                        bit = load(planes, LANES * plane)
                        if (group >> (plane - _LOW)) & 1:
                            mask = both(mask, bit)
                        else:
                            mask = without(mask, bit)
                    store(groups, group * stride + word, mask)
                union = zero()
                for place in range(label_starts[query], label_starts[query + 1]):
                    union = either(union, load(label_slices, label_rows[place] + word))
                store(shared, word, union)
            for group in range(bits // GROUP + 1):
                union = zero()
                for word in range(0, stride, LANES):
                    union = either(union, load(groups, group * stride + word))
                if any_of(union) == 0:
                    continue
                for value in range(min(GROUP, bits + 1 - GROUP * group)):
                    rows_here = zero()
                    relevant_here = zero()
                    for word in range(0, stride, LANES):
                        mask = both(
                            load(low, value * stride + word), load(groups, group * stride + word)
                        )
                        rows_here = plus(rows_here, population(mask))
                        hits = both(mask, load(shared, word))
                        relevant_here = plus(relevant_here, population(hits))
                    both_here = plus(rows_here, _upper_half(relevant_here))
                    counts[query, GROUP * group + value] += sum_of(both_here)
