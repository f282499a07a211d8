"""Tables that cannot be of the margins that they come with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.threads import Counts, in_threads, jit, ranges, threads_for

__all__ = ["first_misfit"]


@jit
def _first_misfit(tables: Any, margins: Any, missing: Any, n: int, ends: Any, others: Any, first: int, last: int) -> int:
    bins = margins.shape[1]
    columns = np.zeros(bins, dtype=np.int64)
    for p in range(first, last):
        i, j = ends[p], others[p]
        columns[:] = 0
        total = np.int64(0)
        wrong: Any = False
        for a in range(bins):
            row = np.int64(0)
            beyond = np.int64(0)
            for b in range(bins):
                count = np.int64(tables[p, a, b])
                beyond |= count | (n - count)  # negative if either is: what follows cannot overflow
                row += count
                columns[b] += count
            wrong |= beyond < 0 or row > margins[i, a]
            total += row
        for b in range(bins):
            wrong |= columns[b] > margins[j, b]
        if wrong or total < n - missing[i] - missing[j]:
            return p
    return -1


def first_misfit(
    tables: Counts, margins: Counts, missing: Counts, n: int, pairs: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> int | None:
    """The first pair whose table holds a negative count, more than the margins, or fewer samples than both variables must share.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins), int32 or int64
    margins : array, shape (variables, bins), int64
    missing : array, shape (variables,), int64
        Samples without a bin.
    n : int
        Samples, at most 2^50.
    pairs : (array, array), each of shape (pairs,)
        The two variables of each pair.

    Returns
    -------
    int or None
        None if all fit.

    Examples
    --------
    >>> import numpy as np
    >>> margins, pairs = np.array([[2, 1], [1, 2]]), (np.array([0, 0]), np.array([1, 1]))
    >>> first_misfit(np.array([[[1, 1], [0, 1]], [[1, 1], [1, 0]]]), margins, np.zeros(2, dtype=int), 3, pairs)
    1
    """
    found: list[int] = []

    def work(first: int, last: int) -> None:
        wrong = _first_misfit(tables, margins, missing, n, *pairs, first, last)
        if wrong >= 0:
            found.append(wrong)

    threads = threads_for(tables.size)
    in_threads(work, ranges(len(tables), np.ones_like, threads), threads)
    return min(found, default=None)
