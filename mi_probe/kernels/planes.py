"""Joint counts by bit-planes: one bit a sample for each bin, 64 samples a word, ANDed and their ones counted.

The planes of the second variable lie side by side, so that one vector holds a word of eight of them: each lane counts a cell of
its own, and nothing is ever added up across lanes. Planes are packed in panels, `ROWS` or `LANES` of them by words, and a tile of
counts stays in registers until all words of a chunk are done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.threads import in_threads, jit, ranges
from mi_probe.kernels.vectors import BROAD, LANES, ROWS, TALL, WIDTH, add_into, count_part, mask_of, popcount, take_from

__all__ = ["count_by_planes"]

_WORD = 64
_CHUNK = 128 * _WORD  # samples whose planes of 32 lanes just fit into a first-level cache


@jit
def _pack(codes: Any, bins: int, first: int, last: int, planes: Any, margins: Any) -> None:
    """Planes of the variables of tiles `first` to `last`, as (tile, panel, word, lane), and their counts."""
    samples, variables = codes.shape
    words = (samples + 63) // 64
    turned = np.empty(LANES * 64, dtype=np.uint8)
    for tile in range(first, last):
        there = min(LANES, variables - tile * LANES)
        for w in range(words):
            turned[:] = 255
            for s in range(min(64, samples - w * 64)):
                for v in range(there):
                    turned[v * 64 + s] = codes[w * 64 + s, tile * LANES + v]
            for v in range(there):
                for b in range(bins):
                    lane = v * bins + b
                    word = mask_of(turned, v * 64, np.uint8(b))
                    planes[((tile * bins + lane // LANES) * words + w) * LANES + lane % LANES] = word
                    margins[tile * LANES + v, b] += np.int32(popcount(word))


@jit
def _row_panels(planes: Any, variables: int, words: int, bins: int, rows: int, first: int, last: int, panels: Any) -> None:
    """The first `rows` planes of the variables of blocks `first` to `last`, as (block, panel, word, row)."""
    for i in range(first * ROWS, min(variables, last * ROWS)):
        tile, block = i // LANES, i // ROWS
        for a in range(rows):
            lane, row = (i % LANES) * bins + a, (i % ROWS) * rows + a
            source = (tile * bins + lane // LANES) * words * LANES + lane % LANES
            target = (block * rows + row // ROWS) * words * ROWS + row % ROWS
            for w in range(words):
                panels[target + w * ROWS] = planes[source + w * LANES]


@jit
def _count(
    panels: Any, planes: Any, margins: Any, words: int, rows: int, first: int, last: int, low: int, high: int, apart: int,
    scratch: Any, tables: Any,
) -> None:  # fmt: skip
    """All pairs whose first variable is in blocks `first` to `last`, and from `low` to `high`, whose tables these are.

    A block of `ROWS` variables by a tile of `LANES` at a time. Second variables are those behind the first, or, where `apart` is
    not 0, those from there on.
    """
    variables, bins = margins.shape
    before = low * (2 * variables - low - 1) // 2
    others = variables - apart
    stride = LANES * bins
    whole = bins // WIDTH * WIDTH
    left = np.empty(bins, dtype=np.int32)
    for tile in range(max(first * ROWS, apart) // LANES, (variables + LANES - 1) // LANES):
        for block in range(first, min(last, (tile + 1) * LANES // ROWS)):
            for panel in range(bins):
                for part in range(rows):
                    for r in range(0, ROWS, TALL):
                        for lane in range(0, LANES, BROAD):
                            count_part(
                                panels, (block * rows + part) * words * ROWS + r,
                                planes, (tile * bins + panel) * words * LANES + lane,
                                words, scratch, (part * ROWS + r) * stride + panel * LANES + lane, stride,
                            )  # fmt: skip
            for i in range(max(block * ROWS, low), min(block * ROWS + ROWS, high)):
                for j in range(max(i + 1, apart, tile * LANES), min((tile + 1) * LANES, variables)):
                    behind = i * (2 * variables - i - 1) // 2 + (j - i - 1) - before
                    pair = (i - low) * others + (j - apart) if apart else behind
                    source = (i % ROWS) * rows * stride + (j % LANES) * bins
                    target = pair * bins * bins
                    for b in range(bins):
                        left[b] = margins[j, b]
                    for a in range(rows):
                        for b in range(0, whole, WIDTH):
                            add_into(tables, target + a * bins + b, scratch, source + a * stride + b)
                            take_from(left, b, scratch, source + a * stride + b)
                        for b in range(whole, bins):
                            tables[target + a * bins + b] += scratch[source + a * stride + b]
                            left[b] -= scratch[source + a * stride + b]
                    if rows < bins:  # the last row is what the others leave of the second variable's own counts
                        for b in range(bins):
                            tables[target + rows * bins + b] += left[b]


def count_by_planes(
    codes: NDArray[np.uint8],
    partners: NDArray[np.uint8] | None,
    tables: NDArray[np.integer],
    threads: int,
    rows: tuple[int, int] | None = None,
    apart: int = 0,
) -> None:
    """What `mi_probe.kernels.count_pairs` does, after it has checked that shapes and types fit."""
    rows = rows or (0, codes.shape[1] - 1)
    for start in range(0, len(codes), _CHUNK):
        part = slice(start, start + _CHUNK)
        _count_chunk(codes[part], None if partners is None else partners[part], tables, rows, apart, threads)


def _count_chunk(
    codes: NDArray[np.uint8],
    partners: NDArray[np.uint8] | None,
    tables: NDArray[np.integer],
    of: tuple[int, int],
    apart: int,
    threads: int,
) -> None:
    samples, variables = codes.shape
    bins = tables.shape[1]
    words = -(-samples // _WORD)
    low, high = of
    rows = bins if (codes[:, low:high] >= bins).any() else bins - 1  # where the first variable is never missing, one is given
    first, _ = _planes(codes, bins, low, threads)
    second, margins = (first, _) if partners is None else _planes(partners, bins, low, threads)
    begin, end = low // ROWS, -(-high // ROWS)
    panels = np.zeros(-(-variables // ROWS) * rows * words * ROWS, dtype=np.uint64)
    in_threads(
        lambda a, b: _row_panels(first, variables, words, bins, rows, begin + a, begin + b, panels),
        ranges(end - begin, np.ones_like, threads),
        threads,
    )

    flat = tables.reshape(-1)
    last = -(-variables // ROWS)

    def count(a: int, b: int) -> None:
        scratch = np.empty(ROWS * rows * LANES * bins, dtype=np.int32)
        _count(panels, second, margins, words, rows, begin + a, begin + b, low, high, apart, scratch, flat)

    parts = ranges(end - begin, np.ones_like if apart else lambda block: last - begin - block, threads)
    in_threads(count, parts, threads)


def _planes(
    codes: NDArray[np.uint8], bins: int, low: int, threads: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:  # fmt: skip
    """Planes and margins of the variables from the tile of `low` on; nothing before."""
    samples, variables = codes.shape
    begin, tiles = low // LANES, -(-variables // LANES)
    planes = np.zeros(tiles * bins * -(-samples // _WORD) * LANES, dtype=np.uint64)
    margins = np.zeros((variables, bins), dtype=np.int32)
    in_threads(
        lambda a, b: _pack(codes, bins, begin + a, begin + b, planes, margins),
        ranges(tiles - begin, np.ones_like, threads),
        threads,
    )
    return planes, margins
