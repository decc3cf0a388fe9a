"""Pillow's bicubic resize of RGB pixels, the same bits in a quarter of the time.

Pillow resamples 8-bit pixels in integers (`src/libImaging/Resample.c`): the weights of each row or column are fractions
of 22 bits, and sums are rounded and clipped to 8 bits after each of the two passes. Whole numbers add up the same in
any order, so here many pixels are weighed at once, in the processor's vectors, where Pillow's loops take one after
the other. On an EPYC with AVX512: 512 x 512 to 768 x 768 in 1.2 ms and 4.6, 4000 x 3000 to 384 x 384 in 14 ms and 52.

Importing this takes a quarter of a second, and a second more where what was compiled before could not be kept beside
this file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from numba import njit, types

from pipeline.types import Pixels, Size

Ints = npt.NDArray[np.int32]
Loops = Callable[[Pixels, Ints, Ints, Pixels], None]

CUBIC = -0.5  # Pillow's parameter of Keys' cubic convolution (1981)
REACH = 2.0  # of the cubic to both sides, in pixels of the smaller of both pictures
BITS = 22  # of a weight's fraction: with 8 of a pixel, and 2 for sums below 0 and above 255, a number of 32
AT_ONCE = 4  # rows that are weighed in one pass over the sums
SLAB = 32  # rows that stand side by side while columns are weighed: of 4,000 pixels, they are 0.4 MB
PILLOW = int(PIL.__version__.partition(".")[0])


def resize(pixels: Pixels, size: Size) -> Pixels:
    """uint8 (height, width, 3) to (size.height, size.width, 3): what Pillow's BICUBIC makes of them.

    `pixels` are contiguous, and themselves the answer where they have this size.
    """
    height, width, _ = pixels.shape
    passes = [_wide, _high]
    if _rows_first(Size(width, height), size):
        passes.reverse()
    for one in passes:
        pixels = one(pixels, size)
    return pixels


def _rows_first(size: Size, into: Size) -> bool:
    """Whether Pillow resizes rows before columns: where it loses more than twice as many of them (pull request 9549).

    Before Pillow 13, where there are fewer in a picture more than 100 times as high as wide (9524).
    """
    lost = size.height - into.height
    if PILLOW < 13:
        return lost > 0 and size.height > 100 * size.width
    return lost > max(2 * (size.width - into.width), 0)


def _wide(pixels: Pixels, size: Size) -> Pixels:
    """To its width."""
    height, width, channels = pixels.shape
    if width == size.width:
        return pixels
    into = np.empty((height, size.width, channels), np.uint8)
    _weigh_columns(pixels, *_weights(width, size.width), into)
    return into


def _high(pixels: Pixels, size: Size) -> Pixels:
    """To its height."""
    height, width, channels = pixels.shape
    if height == size.height:
        return pixels
    first, weights = _weights(height, size.height)
    rows = pixels.reshape(height, -1)
    if (missing := weights.shape[1] - height) > 0:
        rows = np.pad(rows, ((0, missing), (0, 0)))  # they weigh nothing
    into = np.empty((size.height, width, channels), np.uint8)
    _weigh_rows(rows, first, weights, into.reshape(size.height, -1))
    return into


def _weights(size: int, into: int) -> tuple[Ints, Ints]:
    """Of each of `into` pixels in a line: the first of the `size` that count, and the weights of those from there.

    There are as many for each, a multiple of `AT_ONCE`; what is beyond the cubic's reach, or the line, weighs 0.
    (`precompute_coeffs` and `normalize_coeffs_8bpc`, in the same order of the same operations.)
    """
    scale = size / into
    wide = max(scale, 1.0)
    reach = REACH * wide
    centre = ((np.arange(into) + 0.5) * scale)[:, None]
    begin = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + reach + 0.5).astype(np.int64), size)
    count = math.ceil((math.ceil(reach) * 2 + 1) / AT_ONCE) * AT_ONCE
    first = np.minimum(begin, max(size - count, 0))
    at = first + np.arange(count)
    x = np.abs((at - centre + 0.5) * (1.0 / wide))
    near = ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights[(at < begin) | (at >= end)] = 0.0
    weights /= weights.cumsum(axis=1)[:, -1:]  # `sum` adds in another order
    rounded = np.trunc(weights * (1 << BITS) + np.where(weights < 0, -0.5, 0.5))
    return first[:, 0].astype(np.int32), rounded.astype(np.int32)


def _compiled(dimensions: int) -> Callable[[Loops], Loops]:
    """For pixels in so many dimensions: now, as a decoder's process may write no file once it has opened one."""
    given, into = (types.Array(types.uint8, dimensions, "C", readonly=own) for own in (True, False))
    signature = types.void(given, types.int32[::1], types.int32[:, ::1], into)
    kept = os.access(Path(__file__).parent, os.W_OK)
    found: Callable[[Loops], Loops] = njit(signature, cache=kept, nogil=True)
    return found


@_compiled(2)
def _weigh_rows(rows: Pixels, first: Ints, weights: Ints, into: Pixels) -> None:
    """Each of `into` is what its weights make of as many of `rows`."""
    width = into.shape[1]
    sums = np.empty(width, np.int32)
    for row in range(len(into)):
        sums[:] = 1 << (BITS - 1)
        own = weights[row]
        for k in range(0, len(own), AT_ONCE):
            at = first[row] + k
            a, b, c, d = rows[at], rows[at + 1], rows[at + 2], rows[at + 3]
            e, f, g, h = own[k], own[k + 1], own[k + 2], own[k + 3]
            for x in range(width):
                sums[x] += np.int32(a[x]) * e + np.int32(b[x]) * f + np.int32(c[x]) * g + np.int32(d[x]) * h
        found = into[row]
        for x in range(width):
            found[x] = min(max(sums[x] >> BITS, 0), 255)


@_compiled(3)
def _weigh_columns(pixels: Pixels, first: Ints, weights: Ints, into: Pixels) -> None:
    """The same of columns, which are rows while a slab of the picture is turned."""
    height, width, _ = pixels.shape
    turned = np.zeros((max(width, weights.shape[1]), SLAB * 3), np.uint8)
    found = np.empty((into.shape[1], SLAB * 3), np.uint8)
    for top in range(0, height, SLAB):
        rows = min(SLAB, height - top)
        for y in range(rows):
            own = pixels[top + y]
            for x in range(width):
                line = turned[x]
                line[3 * y], line[3 * y + 1], line[3 * y + 2] = own[x, 0], own[x, 1], own[x, 2]
        _weigh_rows(turned, first, weights, found)
        for y in range(rows):
            made = into[top + y]
            for x in range(into.shape[1]):
                line = found[x]
                made[x, 0], made[x, 1], made[x, 2] = line[3 * y], line[3 * y + 1], line[3 * y + 2]
