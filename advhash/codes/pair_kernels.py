"""The loops of `close_pairs`, compiled."""

# numba types what it compiles itself.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return,misc"

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from advhash.codes.lanes import compiled


@intrinsic
def _ones(typing, word):
    """How many bits of a word are 1."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


@compiled
def _distances(words, row, others, start, stop, far):
    """The distances of one row to the rows start … stop−1, word by word, into `far`."""
    if words.shape[0] == 4:  # the sums stay in registers: three times as fast
        one, two = words[0, row], words[1, row]
        three, four = words[2, row], words[3, row]
        for place in range(stop - start):
            other = start + place
            far[place] = (
                _ones(one ^ others[0, other])
                + _ones(two ^ others[1, other])
                + _ones(three ^ others[2, other])
                + _ones(four ^ others[3, other])
            )
        return
    for place in range(stop - start):
        far[place] = 0
    for word in range(words.shape[0]):
        mine = words[word, row]
        for place in range(stop - start):
            far[place] += _ones(mine ^ others[word, start + place])


@compiled
def count_pairs(words, others, first, last, start, stop, same, counts):
    """Add the pairs of rows first … last−1 and start … stop−1 to counts (K+1,), by distance.

    words, others: int64 (W,N) and (W,M); same: whether both ranges are one, each pair once
    """
    far = np.empty(max(stop - start, 1), np.int64)
    for row in range(first, last):
        begin = row + 1 if same else start
        _distances(words, row, others, begin, stop, far)
        for place in range(stop - begin):
            counts[far[place]] += 1


@compiled
def list_pairs(
    words, others, first, last, start, stop, same, threshold, listed, of_others, of_words
):
    """How many pairs are within the threshold; the first of them stand in listed (R,3).

    listed: row, other row, distance; of_words, of_others: one more for each row of a pair, by the
    group of the other one: int32 columns that no other call writes to
    """
    size = 0
    far = np.empty(max(stop - start, 1), np.int64)
    for row in range(first, last):
        begin = row + 1 if same else start
        _distances(words, row, others, begin, stop, far)
        for place in range(stop - begin):
            if far[place] <= threshold:
                if size < listed.shape[0]:
                    listed[size, 0] = row
                    listed[size, 1] = begin + place
                    listed[size, 2] = far[place]
                size += 1
                of_words[row] += 1
                of_others[begin + place] += 1
    return size
