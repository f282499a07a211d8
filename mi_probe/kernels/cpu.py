"""The CPU kernels, in numba: encode values, count all pairs; and what all kernels share, threads above all.

Compiled code is cached on disk. The kernels release the interpreter lock and take a range of variables, so plain threads share
the work; each pair is written by one thread, hence the same integers for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["count_pairs", "encode", "in_threads", "jit", "pair_index", "ranges", "scatter_is_cheaper", "threads_for"]

Floats = NDArray[np.floating]
Counts = NDArray[np.integer]

_WORD = 64

jit = numba.njit(cache=True, nogil=True, boundscheck=False)


# --------------------------------------------------------------------------------------------------------------------
# threads


def ranges(rows: int, weight: Callable[[NDArray[np.int64]], NDArray[np.int64]], threads: int) -> list[tuple[int, int]]:
    """Ranges of rows of about equal weight, a few for each thread."""
    total = np.concatenate([[0], np.cumsum(weight(np.arange(rows)))])
    parts = min(rows, 1 if threads == 1 else 6 * threads)
    cuts = np.searchsorted(total, np.linspace(0, total[-1], parts + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], cuts, [rows]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def in_threads(work: Callable[[int, int], None], parts: list[tuple[int, int]], threads: int) -> None:
    if threads == 1 or len(parts) == 1:
        for first, last in parts:
            work(first, last)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda r: work(*r), parts))


def threads_for(cost: float) -> int:
    """Threads worth starting for about `cost` elementary steps; NUMBA_NUM_THREADS caps them."""
    return 1 if cost < 2e6 else int(numba.config.NUMBA_NUM_THREADS)


def pair_index(i: int, j: int, variables: int) -> int:
    """Where the pair i < j stands among all pairs, in the order of `numpy.triu_indices(variables, 1)`.

    Examples
    --------
    >>> [pair_index(i, j, 4) for i in range(4) for j in range(i + 1, 4)]
    [0, 1, 2, 3, 4, 5]
    """
    return i * (2 * variables - i - 1) // 2 + (j - i - 1)


# --------------------------------------------------------------------------------------------------------------------
# values to codes


@jit
def _encode(x: Any, edges: Any, missing: int, codes: Any) -> None:
    for row in range(x.shape[0]):
        for k in range(edges.shape[0]):  # edges outside, variables inside: the inner loop is vectorised
            for v in range(x.shape[1]):
                codes[row, v] += np.uint8(x[row, v] >= edges[k, v])
        for v in range(x.shape[1]):
            if not np.isfinite(x[row, v]):
                codes[row, v] = missing


def encode(x: Floats, edges: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Number of edges <= x, or 255 where x is not finite: (samples, variables) float32 or float64 -> uint8."""
    codes = np.zeros(x.shape, dtype=np.uint8)
    x = np.ascontiguousarray(x)
    by_edge = np.ascontiguousarray(edges.T)
    threads = threads_for(x.size * edges.shape[1] / 8)
    in_threads(lambda a, b: _encode(x[a:b], by_edge, 255, codes[a:b]), ranges(len(x), np.ones_like, threads), threads)
    return codes


# --------------------------------------------------------------------------------------------------------------------
# counting


@intrinsic
def _popcount(_context: Any, _word: Any) -> Any:
    """Number of ones in a 64-bit word, as LLVM's own instruction, which it vectorises."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@jit
def _scatter(codes: Any, partners: Any, first: int, last: int, tables: Any) -> None:
    variables, samples = codes.shape
    bins = tables.shape[1]
    wide = bins + 1  # the last row and column take the missing ones and are thrown away
    scratch = np.zeros(wide * wide, dtype=np.int32)
    for i in range(first, last):
        pair = i * (2 * variables - i - 1) // 2
        for j in range(i + 1, variables):
            scratch[:] = 0
            for s in range(samples):
                scratch[np.intp(codes[i, s]) * wide + np.intp(partners[j, s])] += 1
            for a in range(bins):
                for b in range(bins):
                    tables[pair, a, b] += scratch[a * wide + b]
            pair += 1


@jit
def _pack(codes: Any, planes: Any) -> None:
    variables, samples = codes.shape
    for v in range(variables):
        for s in range(samples):
            if codes[v, s] < planes.shape[1]:
                planes[v, codes[v, s], s >> 6] |= np.uint64(1) << np.uint64(s & 63)


@jit
def _bit_sliced(planes: Any, partners: Any, first: int, last: int, tables: Any) -> None:
    variables, bins, words = planes.shape
    for i in range(first, last):
        pair = i * (2 * variables - i - 1) // 2
        for j in range(i + 1, variables):
            for a in range(bins):
                for b in range(bins):
                    total = np.uint64(0)
                    for w in range(words):
                        total += _popcount(planes[i, a, w] & partners[j, b, w])
                    tables[pair, a, b] += np.int64(total)
            pair += 1


def scatter_is_cheaper(samples: int, bins: int) -> bool:
    """Which of the two ways costs less, by the costs measured in benchmarks/bench_counting.py (nanoseconds a pair)."""
    scatter = 45 + 0.35 * samples
    bit_sliced = 20 + bins * bins * (1.2 + 0.075 * -(-samples // _WORD))
    return scatter < bit_sliced


def count_pairs(
    codes: NDArray[np.uint8], tables: Counts, *, partners: NDArray[np.uint8] | None = None, way: str = "auto"
) -> None:
    """Add the joint counts of every pair i < j to `tables`.

    Parameters
    ----------
    codes : array, shape (samples, variables), uint8
        0 to bins - 1; any other code leaves the sample out of that variable's pairs.
    tables : array, shape (pairs, bins, bins), int32 or int64
        Changed in place. The caller makes sure that no cell can overflow.
    partners : array like `codes`, optional
        Where j's codes are taken from, while i's are from `codes`; the same array by default.
    way : {"auto", "scatter", "bit_sliced"}
        ``scatter`` walks over the samples of a pair and increments cells; ``bit_sliced`` keeps one bit a sample for each bin and
        counts the ones of two such planes ANDed, 64 samples a word. "auto" takes the cheaper.
    """
    samples, variables = codes.shape
    bins = tables.shape[1]
    if samples == 0 or variables < 2:
        return
    if way == "auto":
        way = "scatter" if scatter_is_cheaper(samples, bins) else "bit_sliced"
    if way == "scatter":
        kernel, prepare, cost = _scatter, _clipped, float(tables.shape[0] * samples)
    else:
        kernel, prepare, cost = _bit_sliced, _planes, tables.size * (3.0 + samples / 512)
    first = prepare(codes, bins)
    second = first if partners is None else prepare(partners, bins)
    threads = threads_for(cost)
    parts = ranges(variables - 1, lambda i: variables - 1 - i, threads)
    in_threads(lambda a, b: kernel(first, second, a, b, tables), parts, threads)


def _clipped(codes: NDArray[np.uint8], bins: int) -> NDArray[Any]:
    return np.minimum(np.ascontiguousarray(codes.T), np.uint8(bins))


def _planes(codes: NDArray[np.uint8], bins: int) -> NDArray[Any]:
    samples, variables = codes.shape
    planes = np.zeros((variables, bins, -(-samples // _WORD)), dtype=np.uint64)
    _pack(np.ascontiguousarray(codes.T), planes)
    return planes
