"""Lagged counts: how often a variable's code is a at one token and b at the k-th token after it, within one text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.cpu import in_threads, jit, ranges, threads_for

__all__ = ["count_lags"]


@jit
def _count_lags(codes: Any, lengths: Any, first: int, last: int, out: Any) -> None:
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


def count_lags(codes: NDArray[np.uint8], lengths: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """What `mi_probe.serial.count_lags` does, after it has checked that shapes and types fit."""
    if codes.size == 0 or out.size == 0:
        return
    by_variable = np.minimum(np.ascontiguousarray(codes.T), np.uint8(out.shape[2]))
    threads = threads_for(float(codes.size) * out.shape[0])
    in_threads(lambda a, b: _count_lags(by_variable, lengths, a, b, out), ranges(codes.shape[1], np.ones_like, threads), threads)
