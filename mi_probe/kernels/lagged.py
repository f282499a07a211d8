"""Lagged counts: how often a variable's code is a at one token and b at the k-th token after it, within one text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.costs import LAGS_BY_PLANES, LAGS_BY_TOKENS
from mi_probe.kernels.threads import in_threads, jit, ranges, threads_for
from mi_probe.kernels.vectors import mask_of, popcount

__all__ = ["count_lags"]

_WORD = 64


@jit
def _by_tokens(codes: Any, lengths: Any, first: int, last: int, out: Any) -> None:
    lags, _, bins, _ = out.shape
    wide = bins + 1  # the last row and column take the missing ones and are thrown away
    scratch = np.zeros((lags, wide * wide), dtype=np.int64)
    for v in range(first, last):
        scratch[:] = 0
        start = 0
        for length in lengths:
            end = start + length
            for t in range(start, end):
                row = np.intp(codes[v, t]) * wide
                # Lags inside: one after the other they write to different tables, and none waits for the one before.
                for k in range(min(lags, end - 1 - t)):
                    scratch[k, row + np.intp(codes[v, t + 1 + k])] += 1
            start = end
        for k in range(lags):
            for a in range(bins):
                for b in range(bins):
                    out[k, v, a, b] += scratch[k, a * wide + b]


@jit
def _by_planes(codes: Any, inside: Any, first: int, last: int, out: Any) -> None:
    """One bit a token for each code; the plane of the later token is moved by the lag, and the ones of both are counted."""
    lags, _, bins, _ = out.shape
    words = inside.shape[1]
    size = codes.shape[1]
    flat = codes.reshape(-1)
    planes = np.zeros((bins, words + 2), dtype=np.uint64)
    earlier = np.empty((bins, words), dtype=np.uint64)
    later = np.empty((bins, words), dtype=np.uint64)
    for v in range(first, last):
        for b in range(bins):
            for w in range(words):
                planes[b, w] = mask_of(flat, v * size + w * 64, np.uint8(b))
        for k in range(lags):
            far, near = (k + 1) >> 6, np.uint64((k + 1) & 63)
            for b in range(bins):
                for w in range(words):
                    earlier[b, w] = planes[b, w] & inside[k, w]
                    # Two moves, since by 64 at once is undefined.
                    carried = (planes[b, w + far + 1] << np.uint64(1)) << (np.uint64(63) - near)
                    later[b, w] = (planes[b, w + far] >> near) | carried
            for a in range(bins):
                for b in range(bins):
                    total = np.uint64(0)
                    for w in range(words):
                        total += popcount(earlier[a, w] & later[b, w])
                    out[k, v, a, b] += np.int64(total)


def _places_inside(lengths: NDArray[np.int64], lags: int) -> NDArray[np.uint64]:
    """A bit for each token that has another one k tokens further on in its text, shape (lags, words)."""
    tokens = int(lengths.sum())
    words = -(-tokens // _WORD)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(
        tokens
    )  # tokens from here to the end of the text, this one included
    bits = np.zeros((lags, words * _WORD), dtype=bool)
    bits[:, :tokens] = left > np.arange(1, lags + 1)[:, None]
    return np.packbits(bits, axis=1, bitorder="little").view(np.dtype("<u8")).astype(np.uint64)


def count_lags(codes: NDArray[np.uint8], lengths: NDArray[np.int64], out: NDArray[np.int64], *, way: str = "auto") -> None:
    """What `mi_probe.serial.count_lags` does, after it has checked that shapes and types fit.

    `way` is "by_tokens" or "by_planes"; by default the cheaper.
    """
    if codes.size == 0 or out.size == 0:
        return
    tokens, variables = codes.shape
    lags, bins = out.shape[0], out.shape[2]
    words = -(-tokens // _WORD)
    if way == "auto" and lags > _WORD:  # planes are moved by a word at most
        way = "by_tokens"
    elif way == "auto":
        way = "by_tokens" if LAGS_BY_TOKENS.of(tokens, bins) < LAGS_BY_PLANES.of(tokens, bins) else "by_planes"
    threads = threads_for(float(codes.size) * lags)
    parts = ranges(variables, np.ones_like, threads)
    if way == "by_tokens":
        by_variable = np.minimum(np.ascontiguousarray(codes.T), np.uint8(bins))
        in_threads(lambda a, b: _by_tokens(by_variable, lengths, a, b, out), parts, threads)
        return
    padded = np.full((variables, words * _WORD), 255, dtype=np.uint8)
    padded[:, :tokens] = codes.T
    inside = _places_inside(lengths, lags)
    in_threads(lambda a, b: _by_planes(padded, inside, a, b, out), parts, threads)
