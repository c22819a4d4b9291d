"""The sums of reference programs in their own order, compiled: floats remember the order.

Products are rounded before they are added; the compiler may not contract them.
"""

# numba types what it compiles itself.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return,misc"

from __future__ import annotations

import numpy as np

from advhash.codes.lanes import compiled


@compiled
def running_means(values, before, after):
    """(N,M) float32: means of (N,M) over `before` and `after` neighbours along the first axis.

    One running sum a column, which gains the new neighbour before it loses the old one.
    """
    size, columns = values.shape
    result = np.empty((size, columns), np.float32)
    total = np.zeros(columns, np.float32)
    for place in range(min(after, size)):
        for column in range(columns):
            total[column] += values[place, column]
    for place in range(size):
        count = np.float32(min(place + after, size - 1) - max(place - before, 0) + 1)
        if place + after < size:
            for column in range(columns):
                total[column] += values[place + after, column]
        if place > before:
            for column in range(columns):
                total[column] -= values[place - before - 1, column]
        for column in range(columns):
            result[place, column] = total[column] / count
    return result


@compiled
def luminance(pixels):
    """(H,W) float32 of (H,W,3) uint8: 0.299, 0.587 and 0.114 of the colours, rounded once."""
    height, width, _ = pixels.shape
    result = np.empty((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            red = np.float64(pixels[row, column, 0])
            green = np.float64(pixels[row, column, 1])
            blue = np.float64(pixels[row, column, 2])
            result[row, column] = red * 0.299 + green * 0.587 + blue * 0.114
    return result


@compiled
def both_products(transform, values):
    """(I,I) float32: transform (I,N) · values (N,N) · transformᵀ, each sum in ascending order."""
    kept, size = transform.shape
    rows = np.zeros((kept, size), np.float32)
    for place in range(size):
        for row in range(kept):
            for column in range(size):
                rows[row, column] += transform[row, place] * values[place, column]
    result = np.zeros((kept, kept), np.float32)
    for place in range(size):
        for row in range(kept):
            for column in range(kept):
                result[row, column] += rows[row, place] * transform[column, place]
    return result


@compiled
def shared_out(pixels, places, weights, columns, shares, side):
    """(side,side) float64: each pixel of (H,W,3) uint8, its colours summed, in its blocks.

    places (H,2), weights (H,2): the block above and below of each row, and its shares in them
    columns (W,2), shares (W,2): likewise left and right
    """
    blocks = np.zeros((side, side), np.float64)
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            value = np.float64(
                np.int64(pixels[row, column, 0])
                + np.int64(pixels[row, column, 1])
                + np.int64(pixels[row, column, 2])
            )
            for one in range(2):
                part = value * weights[row, one]
                for other in range(2):
                    blocks[places[row, one], columns[column, other]] += part * shares[column, other]
    return blocks
