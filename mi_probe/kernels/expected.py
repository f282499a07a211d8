"""Expected sums at independence: a cell's count is hypergeometric when the pairing of the samples is random."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.sums import f, f_table
from mi_probe.kernels.threads import in_threads, jit, ranges, threads_for

__all__ = ["expected_of_pairs", "expected_xlogx"]

_CACHE = 2**16

_WINDOW = 1e-18  # expected sums stop where the probability has fallen to this share of its peak


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
    value_sum = f(mode, small) - origin
    weight = 1.0
    for x in range(mode, high):
        weight *= (float(a - x) * float(b - x)) / (float(x + 1) * float(n - a - b + x + 1))
        if weight < _WINDOW:
            break
        weight_sum += weight
        value_sum += weight * (f(x + 1, small) - origin)
    weight = 1.0
    for x in range(mode, low, -1):
        weight *= (float(x) * float(n - a - b + x)) / (float(a - x + 1) * float(b - x + 1))
        if weight < _WINDOW:
            break
        weight_sum += weight
        value_sum += weight * (f(x - 1, small) - origin)
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
    # Pairs that lack a few samples here and there meet the same few counts again and again.
    known = np.zeros((_CACHE, 3), dtype=np.int64)
    values = np.zeros(_CACHE)
    for p in range(first, last):
        n = rows[p].sum()
        for a in rows[p]:
            for b in columns[p]:
                place = (n * 1_000_003 + a * 8_191 + b) & (_CACHE - 1)
                if known[place, 0] != n or known[place, 1] != a or known[place, 2] != b:
                    values[place] = _expected_one(n, a, b, series_from, small)
                    known[place, 0], known[place, 1], known[place, 2] = n, a, b
                out[p] += values[place]


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
    small = f_table()
    threads = threads_for(out.size * 50)
    in_threads(
        lambda a, b: _expected(rows, columns, n, series_from, small, a, b, out),
        ranges(len(rows), np.ones_like, threads),
        threads,
    )
    return out


def expected_of_pairs(rows: NDArray[np.int64], columns: NDArray[np.int64], *, series_from: float) -> NDArray[np.float64]:
    """The sum of `expected_xlogx` over the cells of each pair, for pairs of different n: (pairs, bins) twice -> (pairs,)."""
    out = np.zeros(len(rows))
    small = f_table()
    threads = threads_for(rows.size * rows.shape[1] * 50)
    in_threads(
        lambda a, b: _expected_of_pairs(rows, columns, series_from, small, a, b, out),
        ranges(len(rows), np.ones_like, threads),
        threads,
    )
    return out
