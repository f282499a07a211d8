"""The CPU kernels, in numba: encode values, count all pairs, sum over the tables, expected sums at independence.

Compiled code is cached on disk. The kernels release the interpreter lock and take a range of variables, so plain threads share
the work; each pair is written by one thread, hence the same integers for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["PairSums", "count_pairs", "encode", "expected_of_pairs", "expected_xlogx", "pair_index", "pair_sums"]

Floats = NDArray[np.floating]
Counts = NDArray[np.integer]

_WORD = 64
_SMALL = 4096  # counts below this take n ln n from a table that stays in the first-level cache's neighbourhood
_WINDOW = 1e-18  # expected sums stop where the probability has fallen to this share of its peak

jit = numba.njit(cache=True, nogil=True, boundscheck=False)


# --------------------------------------------------------------------------------------------------------------------
# threads


def _ranges(rows: int, weight: Callable[[NDArray[np.int64]], NDArray[np.int64]], threads: int) -> list[tuple[int, int]]:
    """Ranges of rows of about equal weight, a few for each thread."""
    total = np.concatenate([[0], np.cumsum(weight(np.arange(rows)))])
    parts = min(rows, 1 if threads == 1 else 6 * threads)
    cuts = np.searchsorted(total, np.linspace(0, total[-1], parts + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], cuts, [rows]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _in_threads(work: Callable[[int, int], None], ranges: list[tuple[int, int]], threads: int) -> None:
    if threads == 1 or len(ranges) == 1:
        for first, last in ranges:
            work(first, last)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda r: work(*r), ranges))


def _threads(cost: float) -> int:
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
    threads = _threads(x.size * edges.shape[1] / 8)
    _in_threads(lambda a, b: _encode(x[a:b], by_edge, 255, codes[a:b]), _ranges(len(x), np.ones_like, threads), threads)
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
def _scatter(codes: Any, first: int, last: int, tables: Any) -> None:
    variables, samples = codes.shape
    bins = tables.shape[1]
    wide = bins + 1  # the last row and column take the missing ones and are thrown away
    scratch = np.zeros(wide * wide, dtype=np.int32)
    for i in range(first, last):
        pair = i * (2 * variables - i - 1) // 2
        for j in range(i + 1, variables):
            scratch[:] = 0
            for s in range(samples):
                scratch[np.intp(codes[i, s]) * wide + np.intp(codes[j, s])] += 1
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
def _bit_sliced(planes: Any, first: int, last: int, tables: Any) -> None:
    variables, bins, words = planes.shape
    for i in range(first, last):
        pair = i * (2 * variables - i - 1) // 2
        for j in range(i + 1, variables):
            for a in range(bins):
                for b in range(bins):
                    total = np.uint64(0)
                    for w in range(words):
                        total += _popcount(planes[i, a, w] & planes[j, b, w])
                    tables[pair, a, b] += np.int64(total)
            pair += 1


def scatter_is_cheaper(samples: int, bins: int) -> bool:
    """Which of the two ways costs less, by the costs measured in benchmarks/bench_counting.py (nanoseconds a pair)."""
    scatter = 45 + 0.35 * samples
    bit_sliced = 20 + bins * bins * (1.2 + 0.075 * -(-samples // _WORD))
    return scatter < bit_sliced


def count_pairs(codes: NDArray[np.uint8], tables: Counts, *, way: str = "auto") -> None:
    """Add the joint counts of every pair i < j to `tables`.

    Parameters
    ----------
    codes : array, shape (samples, variables), uint8
        0 to bins - 1; any other code leaves the sample out of that variable's pairs.
    tables : array, shape (pairs, bins, bins), int32 or int64
        Changed in place. The caller makes sure that no cell can overflow.
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
    by_variable = np.ascontiguousarray(codes.T)
    if way == "scatter":
        source: NDArray[Any] = np.minimum(by_variable, np.uint8(bins))
        kernel, cost = _scatter, float(tables.shape[0] * samples)
    else:
        source = np.zeros((variables, bins, -(-samples // _WORD)), dtype=np.uint64)
        _pack(by_variable, source)
        kernel, cost = _bit_sliced, tables.size * (3.0 + samples / 512)
    threads = _threads(cost)
    ranges = _ranges(variables - 1, lambda i: variables - 1 - i, threads)
    _in_threads(lambda a, b: kernel(source, a, b, tables), ranges, threads)


# --------------------------------------------------------------------------------------------------------------------
# sums over the tables


class PairSums(NamedTuple):
    """What the plug-in estimate needs of every table, each of shape (pairs,); f(n) = n ln n."""

    joint: NDArray[np.float64]
    """Sum of f over the cells."""
    row: NDArray[np.float64]
    """Sum of f over the first variable's margin."""
    column: NDArray[np.float64]
    """Sum of f over the second variable's margin."""
    n: NDArray[np.int64]
    """Samples in the table."""
    occupied: NDArray[np.int32]
    """Shape (pairs, 3): occupied cells, rows, columns."""


@jit
def _f(n: int, small: Any) -> Any:
    return small[n] if n < small.shape[0] else n * np.log(n)


@jit
def _pair_sums(tables: Any, small: Any, first: int, last: int, joint: Any, row: Any, column: Any, n: Any, occupied: Any) -> None:
    bins = tables.shape[1]
    columns = np.zeros(bins, dtype=np.int64)
    for p in range(first, last):
        columns[:] = 0
        total = np.int64(0)
        for a in range(bins):
            margin = np.int64(0)
            for b in range(bins):
                count = np.int64(tables[p, a, b])
                if count:
                    margin += count
                    columns[b] += count
                    joint[p] += _f(count, small)
                    occupied[p, 0] += 1
            if margin:
                row[p] += _f(margin, small)
                occupied[p, 1] += 1
            total += margin
        for b in range(bins):
            if columns[b]:
                column[p] += _f(columns[b], small)
                occupied[p, 2] += 1
        n[p] = total


def _small_table() -> NDArray[np.float64]:
    n = np.arange(_SMALL, dtype=np.float64)
    return n * np.log(np.maximum(n, 1))


def pair_sums(tables: Counts) -> PairSums:
    """Read every table once: (pairs, bins, bins) -> `PairSums`, in float64."""
    pairs = tables.shape[0]
    sums = PairSums(np.zeros(pairs), np.zeros(pairs), np.zeros(pairs), np.zeros(pairs, np.int64), np.zeros((pairs, 3), np.int32))
    small = _small_table()
    threads = _threads(tables.size)
    _in_threads(lambda a, b: _pair_sums(tables, small, a, b, *sums), _ranges(pairs, np.ones_like, threads), threads)
    return sums


# --------------------------------------------------------------------------------------------------------------------
# expected sums at independence


@jit
def _excess(n: int, a: int, b: int, small: Any) -> Any:
    """E[f(X)] - f(ab/n) for X hypergeometric (n, a, b), by summing outwards from the mode.

    Weights follow p(x + 1) / p(x) = (a - x)(b - x) / ((x + 1)(n - a - b + x + 1)) from 1 at the mode and are divided by their
    sum, so no factorial is needed and nothing cancels.
    """
    low, high = max(0, a + b - n), min(a, b)
    mode = min(max(((a + 1) * (b + 1)) // (n + 2), low), high)
    mean = float(a) * float(b) / n
    origin = mean * np.log(mean)
    weight_sum = 1.0
    value_sum = _f(mode, small) - origin
    weight = 1.0
    for x in range(mode, high):
        weight *= (float(a - x) * float(b - x)) / (float(x + 1) * float(n - a - b + x + 1))
        if weight < _WINDOW:
            break
        weight_sum += weight
        value_sum += weight * (_f(x + 1, small) - origin)
    weight = 1.0
    for x in range(mode, low, -1):
        weight *= (float(x) * float(n - a - b + x)) / (float(a - x + 1) * float(b - x + 1))
        if weight < _WINDOW:
            break
        weight_sum += weight
        value_sum += weight * (_f(x - 1, small) - origin)
    return value_sum / weight_sum


@jit
def _series(n: float, a: float, b: float) -> Any:
    """The same by its expansion in 1/n (see `mi_probe.chance`), for ab/n large."""
    p, q, e = a / n, b / n, 1.0 / n
    u, v = 1.0 / p, 1.0 / q
    zeroth = 0.5 * (1 - p) * (1 - q)
    first = (1 - p * p) * (1 - q * q) * u * v / 12
    second = (1 - p) * (1 - q) * u * u * v * v / 12
    third = (
        -(1 - p)
        * (1 - q)
        * ((p * p * p + p * p + p) * (q * q * q + q * q + q) + (p * p * p + p * p) + (q * q * q + q * q) + 11 * (p + q) - 19)
        * (u * v) ** 3
        / 120
    )
    return zeroth + e * (first + e * (second + e * third))


@jit
def _expected_one(n: int, a: int, b: int, series_from: float, small: Any) -> Any:
    if a == 0 or b == 0:
        return 0.0
    if float(a) * float(b) / n >= series_from:
        return _series(float(n), float(a), float(b))
    return _excess(n, a, b, small)


@jit
def _expected(rows: Any, columns: Any, n: int, series_from: float, small: Any, first: int, last: int, out: Any) -> None:
    for i in range(first, last):
        for k in range(columns.shape[0]):
            out[i, k] = _expected_one(n, rows[i], columns[k], series_from, small)


@jit
def _expected_of_pairs(rows: Any, columns: Any, series_from: float, small: Any, first: int, last: int, out: Any) -> None:
    for p in range(first, last):
        n = rows[p].sum()
        for a in rows[p]:
            for b in columns[p]:
                out[p] += _expected_one(n, a, b, series_from, small)


def expected_xlogx(rows: NDArray[np.int64], columns: NDArray[np.int64], n: int, *, series_from: float) -> NDArray[np.float64]:
    """E[X ln X] - m ln m, m = ab/n, for X hypergeometric: n samples, margins a and b paired at random.

    Parameters
    ----------
    rows, columns : arrays of margins a and b, int64
    n : number of samples, at least 1
    series_from : expected counts m from here on take the expansion in 1/n; below, the sum itself.

    Returns
    -------
    array, shape (rows, columns), float64
    """
    out = np.empty((len(rows), len(columns)))
    small = _small_table()
    threads = _threads(out.size * 50)
    _in_threads(
        lambda a, b: _expected(rows, columns, n, series_from, small, a, b, out),
        _ranges(len(rows), np.ones_like, threads),
        threads,
    )
    return out


def expected_of_pairs(rows: NDArray[np.int64], columns: NDArray[np.int64], *, series_from: float) -> NDArray[np.float64]:
    """The sum of `expected_xlogx` over the cells of each pair, for pairs of different n: (pairs, bins) twice -> (pairs,)."""
    out = np.zeros(len(rows))
    small = _small_table()
    threads = _threads(rows.size * rows.shape[1] * 50)
    _in_threads(
        lambda a, b: _expected_of_pairs(rows, columns, series_from, small, a, b, out),
        _ranges(len(rows), np.ones_like, threads),
        threads,
    )
    return out
