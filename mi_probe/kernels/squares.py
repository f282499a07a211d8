"""Pearson's X^2 of every table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.threads import in_threads, jit, ranges, threads_for

__all__ = ["chi_square"]


@jit
def _chi_square(tables: Any, groups: Any, ends: Any, others: Any, first: int, last: int, out: Any) -> None:
    bins = groups.shape[1]
    cells = np.zeros((bins, bins))
    rows = np.zeros(bins)
    columns = np.zeros(bins)
    for p in range(first, last):
        i, j = ends[p], others[p]
        cells[:] = 0
        rows[:] = 0
        columns[:] = 0
        n = 0.0
        for a in range(bins):
            for b in range(bins):
                count = float(tables[p, a, b])
                cells[groups[i, a], groups[j, b]] += count
                rows[groups[i, a]] += count
                columns[groups[j, b]] += count
                n += count
        total = 0.0 if n else np.nan
        for a in range(bins):
            if rows[a] == 0:
                continue
            # The squares of the differences, not N (sum n^2 / ab - 1), which loses N's digits.
            share = rows[a] / n
            for b in range(bins):
                expected = share * columns[b]
                if expected > 0:
                    difference = cells[a, b] - expected
                    total += difference * difference / expected
        out[p] = total


def chi_square(
    tables: NDArray[np.integer], groups: NDArray[np.intp], pairs: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
) -> NDArray[np.float64]:
    """Pearson's X^2 = sum (n_ij - e_ij)^2 / e_ij, e_ij = a_i b_j / N, over the occupied rows and columns of every table.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins), integer
    groups : array, shape (variables, bins), intp
        0 to bins - 1; bins of a variable that have the same number are counted as one.
    pairs : (array, array), each of shape (pairs,), optional
        The two variables of each pair; by default ``numpy.triu_indices(variables, 1)``.

    Returns
    -------
    array, shape (pairs,)
        NaN for a table without samples, 0 where a variable is constant.

    Examples
    --------
    >>> import numpy as np
    >>> each = np.tile(np.arange(2), (3, 1))
    >>> chi_square(np.array([[[5, 0], [0, 5]], [[4, 6], [0, 0]], [[0, 0], [0, 0]]]), each)
    array([10.,  0., nan])
    """
    out = np.zeros(len(tables))
    first, second = np.triu_indices(len(groups), 1) if pairs is None else pairs
    threads = threads_for(tables.size)
    parts = ranges(len(tables), np.ones_like, threads)
    in_threads(lambda a, b: _chi_square(tables, groups, first, second, a, b, out), parts, threads)
    return out
