"""Pearson's X^2 of every table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.threads import in_threads, jit, ranges, threads_for

__all__ = ["chi_square"]


@jit
def _chi_square(tables: Any, groups: Any, first: int, last: int, out: Any) -> None:
    variables, bins = groups.shape
    cells = np.zeros((bins, bins))
    rows = np.zeros(bins)
    columns = np.zeros(bins)
    for i in range(first, last):
        p = i * (2 * variables - i - 1) // 2
        for j in range(i + 1, variables):
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
            p += 1


def chi_square(tables: NDArray[np.integer], groups: NDArray[np.intp]) -> NDArray[np.float64]:
    """Pearson's X^2 = sum (n_ij - e_ij)^2 / e_ij, e_ij = a_i b_j / N, over the occupied rows and columns of every table.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins), integer
        In the order of ``numpy.triu_indices(variables, 1)``.
    groups : array, shape (variables, bins), intp
        0 to bins - 1; bins of a variable that have the same number are counted as one.

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
    rows = len(groups) - 1
    threads = threads_for(tables.size)
    parts = ranges(rows, lambda i: rows - i, threads)
    in_threads(lambda a, b: _chi_square(tables, groups, a, b, out), parts, threads)
    return out
