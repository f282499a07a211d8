"""One pass over every table: what the table and its half-size merger say, and how its neighbouring cells differ.

The loops behind `mi_probe.continuous`; compiled and shared among threads as in `mi_probe.kernels.cpu`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.sums import f_table, jackknife_table
from mi_probe.kernels.threads import in_threads, jit, ranges, threads_for

__all__ = ["Contrasts", "contrasts"]

Floats = NDArray[np.float64]

_STEP = 1 / 32  # spacing and end of the table of remainders
_END = 64.0


class Contrasts(NamedTuple):
    """Sums over one table a pair, each of shape (pairs,), nats; l is the log ratio ln(n N / (row column)).

    "fine" is the table, "coarse" its merger.
    """

    n: NDArray[np.int64]
    """Samples in the table."""
    fine: Floats
    """Plug-in mutual information, the mean of l."""
    coarse: Floats
    fine_fine: Floats
    """Mean product of l and l."""
    fine_coarse: Floats
    coarse_coarse: Floats
    fine_jackknife: Floats
    """What the jackknife adds to the plug-in value."""
    coarse_jackknife: Floats
    fine_remainder: Floats
    """Mean of the jackknifed value at independence, given the margins."""
    coarse_remainder: Floats
    fine_entropy: Floats
    """The smaller of the two margins' entropies."""
    coarse_entropy: Floats
    fine_freedom: Floats
    """(occupied rows - 1) (occupied columns - 1)."""
    coarse_freedom: Floats
    square: Floats
    """A quarter of the sum over neighbouring cells of p t^2: p their samples' share, t the difference of their densities over the
    sum. For small t it is what halving the bins across them would lose."""
    fourth: Floats
    """The same of p t^4."""
    rim: Floats
    """The part of `square` in which one of the two is an outermost bin."""


@lru_cache(maxsize=1)
def _tables() -> tuple[Floats, Floats]:
    """Jackknife terms d(n) of small counts, and what they leave of a cell of expected count m at independence.

    d(n) = n(n-1) ln(n/(n-1)) - n is what leaving out one sample at a time adds to n ln n (Zahl 1977, Ecology 58:907). What it
    leaves is E[g(X)] - m ln m, g(n) = n ln n + d(n): of shape (2, ...), for X Poisson, and what to add for each part of the
    variance that fixed margins take from X (half of E[g(X+2) - 2 g(X+1) + g(X)], less the half that the margins' own terms add).
    """
    term = jackknife_table()
    corrected = f_table() + term
    m = _STEP * np.arange(1, round(_END / _STEP) + 1)
    counts = np.arange(192)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    weights = np.exp(counts * np.log(m)[:, None] - m[:, None] - log_factorial)
    left = np.zeros((2, len(m) + 1))
    left[0, 1:] = weights @ corrected[counts] - m * np.log(m)
    left[1, 1:] = (1 - m * (weights @ np.diff(corrected[: counts[-1] + 3], 2))) / 2
    left[1, 0] = 0.5
    return term, left


@jit
def _term(count: float, table: Any) -> float:
    return table[int(count)] if count < table.shape[0] else -0.5 - 1 / (6 * count)


@jit
def _remainder(rows: Any, columns: Any, total: float, table: Any) -> float:
    """Sum over the cells at independence; beyond the table it is -1 / (12 m)."""
    sum_ = 0.0
    for a in rows:
        if a:
            for b in columns:
                m = a * b / total
                if m >= _END:
                    sum_ -= 1 / (12 * m)
                elif b:
                    place = m / _STEP
                    k = int(place)
                    part = place - k
                    taken = (a + b - m) / total
                    sum_ += (1 - part) * (table[0, k] + taken * table[1, k])
                    sum_ += part * (table[0, k + 1] + taken * table[1, k + 1])
    return sum_


@jit
def _margin(counts: Any, log_n: float, terms: Any, logs: Any) -> Any:
    """Logs of one margin (0 for 0) into `logs`; its entropy times the samples, jackknife terms, occupied bins."""
    entropy, jackknife, occupied = 0.0, 0.0, 0
    for a in range(counts.shape[0]):
        logs[a] = 0.0
        if counts[a]:
            logs[a] = np.log(counts[a])
            entropy += counts[a] * (log_n - logs[a])
            jackknife += _term(counts[a], terms)
            occupied += 1
    return entropy, jackknife, occupied


@jit
def _neighbours(a: float, b: float, row_a: float, row_b: float) -> Any:
    """s t^2 and s t^4 of two neighbouring cells, s = a + b, in bins that hold row_a and row_b samples; less what chance adds.

    s samples fall to either side as coins do, and the elementary symmetric polynomials of their signs are unbiased for the powers
    of t. As both bins' totals are fixed, the difference keeps only the share `free` of a coin's variance.
    """
    s = a + b
    if s < 2 or row_a == 0 or row_b == 0:
        return 0.0, 0.0
    x, y = a / row_a, b / row_b
    d = s * (x - y) / (x + y)
    free = 1.0 - s / (row_a + row_b)
    d2 = d * d
    second = (d2 - s * free) / (s - 1)
    if s < 4:
        return second, 0.0
    fourth = (d2 * d2 - (6 * s - 8) * free * d2 + (3 * s - 6) * s * free * free) / ((s - 1) * (s - 2) * (s - 3))
    return second, fourth


@jit
def _contrasts(tables: Any, groups: Any, terms: Any, left: Any, first: int, last: int, n: Any, out: Any) -> None:
    bins = tables.shape[1]
    halves = groups[bins - 1] + 1
    cells = np.zeros((bins, bins))
    rows, columns, log_rows, log_columns = np.zeros(bins), np.zeros(bins), np.zeros(bins), np.zeros(bins)
    merged = np.zeros((halves, halves))
    wide = np.zeros((halves, halves))
    half_rows, half_columns = np.zeros(halves), np.zeros(halves)
    log_half_rows, log_half_columns = np.zeros(halves), np.zeros(halves)
    for p in range(first, last):
        merged[:] = 0
        rows[:] = 0
        columns[:] = 0
        half_rows[:] = 0
        half_columns[:] = 0
        for a in range(bins):
            for b in range(bins):
                count = float(tables[p, a, b])
                cells[a, b] = count
                rows[a] += count
                columns[b] += count
                merged[groups[a], groups[b]] += count
        for a in range(bins):
            half_rows[groups[a]] += rows[a]
            half_columns[groups[a]] += columns[a]
        total = rows.sum()
        n[p] = np.int64(total)
        if total == 0:
            out[:, p] = np.nan
            continue
        log_n = np.log(total)
        h_row, j_row, k_row = _margin(rows, log_n, terms, log_rows)
        h_column, j_column, k_column = _margin(columns, log_n, terms, log_columns)
        jackknife = _term(total, terms) - j_row - j_column
        half_h_row, j_row, half_k_row = _margin(half_rows, log_n, terms, log_half_rows)
        half_h_column, j_column, half_k_column = _margin(half_columns, log_n, terms, log_half_columns)
        half_jackknife = _term(total, terms) - j_row - j_column

        coarse, coarse_coarse = 0.0, 0.0
        for a in range(halves):
            for b in range(halves):
                count = merged[a, b]
                if count:
                    ratio = np.log(count) + log_n - log_half_rows[a] - log_half_columns[b]
                    wide[a, b] = ratio
                    coarse += count * ratio
                    coarse_coarse += count * ratio * ratio
                    half_jackknife += _term(count, terms)
        fine, fine_fine, fine_coarse = 0.0, 0.0, 0.0
        square, fourth, rim = 0.0, 0.0, 0.0
        for a in range(bins):
            for b in range(bins):
                count = cells[a, b]
                if count:
                    ratio = np.log(count) + log_n - log_rows[a] - log_columns[b]
                    fine += count * ratio
                    fine_fine += count * ratio * ratio
                    fine_coarse += count * ratio * wide[groups[a], groups[b]]
                    jackknife += _term(count, terms)
                if a + 1 < bins:
                    second, power4 = _neighbours(count, cells[a + 1, b], rows[a], rows[a + 1])
                    square += second
                    fourth += power4
                    if a == 0 or a + 2 == bins:
                        rim += second
                if b + 1 < bins:
                    second, power4 = _neighbours(count, cells[a, b + 1], columns[b], columns[b + 1])
                    square += second
                    fourth += power4
                    if b == 0 or b + 2 == bins:
                        rim += second
        out[0, p] = fine / total
        out[1, p] = coarse / total
        out[2, p] = fine_fine / total
        out[3, p] = fine_coarse / total
        out[4, p] = coarse_coarse / total
        out[5, p] = jackknife / total
        out[6, p] = half_jackknife / total
        out[7, p] = _remainder(rows, columns, total, left) / total
        out[8, p] = _remainder(half_rows, half_columns, total, left) / total
        out[9, p] = min(h_row, h_column) / total
        out[10, p] = min(half_h_row, half_h_column) / total
        out[11, p] = (k_row - 1) * (k_column - 1)
        out[12, p] = (half_k_row - 1) * (half_k_column - 1)
        out[13, p] = square / (4 * total)
        out[14, p] = fourth / (4 * total)
        out[15, p] = rim / (4 * total)


def contrasts(tables: NDArray[np.integer], groups: NDArray[np.int64]) -> Contrasts:
    """Read every table once.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins), integers
    groups : array, shape (bins,), int64
        The merged bin that each bin belongs to, ascending from 0.

    Returns
    -------
    Contrasts
        NaN where a table is empty.
    """
    pairs = tables.shape[0]
    n = np.zeros(pairs, dtype=np.int64)
    out = np.zeros((16, pairs))
    terms, left = _tables()
    threads = threads_for(tables.size * 10)
    in_threads(lambda a, b: _contrasts(tables, groups, terms, left, a, b, n, out), ranges(pairs, np.ones_like, threads), threads)
    return Contrasts(n, *out)
