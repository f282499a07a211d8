"""Sums over the tables of all pairs: what the plug-in estimate, its corrections and its standard error are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.threads import Counts, in_threads, jit, ranges, threads_for

__all__ = ["SMALL", "PairSums", "f", "f_table", "jackknife_table", "pair_sums"]

SMALL = 4096
"""Counts below this take n ln n and the like from a table that stays in the first-level cache's neighbourhood."""


class PairSums(NamedTuple):
    """What the estimates need of every table, each of shape (pairs,); f(n) = n ln n."""

    joint: NDArray[np.float64]
    """Sum of f over the cells."""
    row: NDArray[np.float64]
    """Sum of f over the first variable's margin."""
    column: NDArray[np.float64]
    """Sum of f over the second variable's margin."""
    correction: NDArray[np.float64]
    """Sum of the correction's table over the cells, less those over the two margins."""
    spread: NDArray[np.float64]
    """Sum over the cells of n ln^2(n N / (a b)), a and b the cell's margins and N the samples."""
    n: NDArray[np.int64]
    """Samples in the table."""
    rows: NDArray[np.int32]
    """Rows that are occupied."""
    columns: NDArray[np.int32]
    """Columns that are occupied."""


def f_table() -> NDArray[np.float64]:
    """n ln n for n below `SMALL`."""
    n = np.arange(SMALL, dtype=np.float64)
    return n * np.log(np.maximum(n, 1))


def jackknife_table() -> NDArray[np.float64]:
    """n(n-1) ln(n/(n-1)) - n for n below `SMALL`: what leaving out one sample at a time adds to n ln n, less n (Zahl 1977)."""
    n = np.arange(SMALL, dtype=np.float64)
    table = n * (n - 1) * -np.log1p(-1 / np.maximum(n, 1.5)) - n
    return np.asarray(table)


@jit
def f(n: int, small: Any) -> Any:
    """n ln n, from the table where it reaches."""
    return small[n] if n < small.shape[0] else n * np.log(n)


@jit
def _log(n: int, logs: Any) -> Any:
    return logs[n] if n < logs.shape[0] else np.log(n)


@jit
def _corrected(n: int, table: Any, tail: Any) -> Any:
    """A correction's term: from its table, and beyond from its limit and slope in 1/n, which differ for odd and even n."""
    return table[n] if n < table.shape[0] else tail[n & 1, 0] + tail[n & 1, 1] / n


@jit
def _pair_sums(
    tables: Any, small: Any, logs: Any, corrections: Any, tails: Any, first: int, last: int,
    joint: Any, row: Any, column: Any, correction: Any, spread: Any, n: Any, rows_used: Any, columns_used: Any,
) -> None:  # fmt: skip
    bins = tables.shape[1]
    rows = np.zeros(bins, dtype=np.int64)
    columns = np.zeros(bins, dtype=np.int64)
    log_columns = np.zeros(bins)
    for p in range(first, last):
        rows[:] = 0
        columns[:] = 0
        for a in range(bins):
            for b in range(bins):
                count = np.int64(tables[p, a, b])
                rows[a] += count
                columns[b] += count
        total = rows.sum()
        n[p] = total
        if total == 0:
            continue
        log_n = np.log(total)
        for b in range(bins):
            if columns[b]:
                column[p] += f(columns[b], small)
                correction[p] -= _corrected(columns[b], corrections[1], tails[1])
                log_columns[b] = _log(columns[b], logs) - log_n
                columns_used[p] += 1
        for a in range(bins):
            if not rows[a]:
                continue
            row[p] += f(rows[a], small)
            correction[p] -= _corrected(rows[a], corrections[1], tails[1])
            rows_used[p] += 1
            log_row = _log(rows[a], logs)
            for b in range(bins):
                count = np.int64(tables[p, a, b])
                if count:
                    joint[p] += f(count, small)
                    correction[p] += _corrected(count, corrections[0], tails[0])
                    ratio = _log(count, logs) - log_row - log_columns[b]
                    spread[p] += count * ratio * ratio


def pair_sums(
    tables: Counts, corrections: NDArray[np.float64] | None = None, tails: NDArray[np.float64] | None = None
) -> PairSums:
    """Read every table once: (pairs, bins, bins) -> `PairSums`, in float64.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins)
    corrections : array, shape (2, size), optional
        A term for every count from 0 on: for cells, and for margins. Zero by default.
    tails : array, shape (2, 2, 2), optional
        For counts beyond: (cells or margins, even or odd, limit and slope in 1/n).
    """
    pairs = tables.shape[0]
    joint, row, column, correction, spread = np.zeros((5, pairs))
    sums = PairSums(joint, row, column, correction, spread, np.zeros(pairs, np.int64), *np.zeros((2, pairs), np.int32))
    logs = np.log(np.maximum(np.arange(SMALL, dtype=np.float64), 1))
    corrections = np.zeros((2, 1)) if corrections is None else corrections
    tails = np.zeros((2, 2, 2)) if tails is None else tails
    threads = threads_for(tables.size * 2)
    in_threads(
        lambda a, b: _pair_sums(tables, f_table(), logs, corrections, tails, a, b, *sums),
        ranges(pairs, np.ones_like, threads),
        threads,
    )
    return sums
