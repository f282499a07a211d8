"""The chance level: the exact mean of the plug-in estimate when the pairing of the samples is random.

With both margins fixed and the pairing uniform, a cell's count is hypergeometric (Vinh, Epps, Bailey 2010, JMLR 11:2837), and

    chance = (1/N) sum_ij g(a_i, b_j),     g(a, b) = E[X ln X] - m ln m,     m = ab/N,

because the terms m ln m add up to those of the margins. Three ways to the same number:

- g by its sum, where few samples are expected in a cell (`kernels.expected_xlogx`);
- g by its expansion in 1/N, to the third order, where many are (derived from the first eight central moments of the
  hypergeometric distribution; the first neglected term is about 0.45/m^4 of a count);
- where every cell of every pair has many, the same expansion summed over the cells in closed form: it is a polynomial in N/a and
  N/b, so power sums of each variable are enough.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_probe import kernels
from mi_probe.errors import InputError

__all__ = ["SERIES_FROM", "chance_level", "chance_level_of_pairs"]

SERIES_FROM = 40.0
"""Expected count of a cell from which the expansion is used: it is then off by less than 1e-8 nats."""

_BLOCK = 512

# Coefficients of u^i v^j, i, j = -1 ... 3, at each order of 1/N; u = N/a, v = N/b
_ORDERS = np.zeros((4, 5, 5))
_ORDERS[0, :2, :2] = np.array([[1, -1], [-1, 1]]) / 2
_ORDERS[1, 0:3:2, 0:3:2] = np.array([[1, -1], [-1, 1]]) / 12
_ORDERS[2, 2:4, 2:4] = np.array([[1, -1], [-1, 1]]) / 12
_ORDERS[3] = (
    np.array(
        [
            [-1, 0, 0, 0, 1],
            [0, 0, 0, 0, 0],
            [0, 0, 0, -10, 10],
            [0, 0, -10, 40, -30],
            [1, 0, 10, -30, 19],
        ]
    )
    / 120
)


def chance_level(margins: NDArray[np.integer]) -> NDArray[np.float64]:
    """Chance level of every pair of variables that share their samples.

    Parameters
    ----------
    margins : array, shape (variables, bins)
        Counts of each variable over the same N samples: every row has the same sum.

    Returns
    -------
    array, shape (variables, variables), nats
        Symmetric; 0 everywhere where N is 0. The diagonal is the chance level of a variable against a shuffled copy of itself.

    Examples
    --------
    >>> import numpy as np
    >>> margins = np.array([[19, 19, 19, 19, 18]] * 2)  # 94 samples in 5 equal-count bins
    >>> round(float(chance_level(margins)[0, 1]), 4)
    0.0926
    """
    counts: NDArray[np.int64] = np.asarray(margins, dtype=np.int64)
    variables = counts.shape[0]
    totals = counts.sum(axis=1)
    if len(np.unique(totals)) > 1:
        raise InputError(f"margins must have one sum; got {np.unique(totals)}.")
    if variables == 0 or totals[0] == 0:
        return np.zeros((variables, variables))
    n = int(totals[0])
    smallest = int(counts[counts > 0].min())
    if smallest * smallest / n >= SERIES_FROM:
        return _closed_form(counts, n)
    return _by_table(counts, n)


def _closed_form(margins: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    occupied = margins > 0
    ratio = np.where(occupied, n / np.maximum(margins, 1), 0.0)
    power_sums = np.stack([np.ones(len(margins)), occupied.sum(axis=1), *(np.sum(ratio**k, axis=1) for k in (1, 2, 3))], axis=1)
    coefficients = np.tensordot((1.0 / n) ** np.arange(4), _ORDERS, axes=1)
    return np.asarray(power_sums @ coefficients @ power_sums.T / n)


def _by_table(margins: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """g for every two distinct counts, then one product: M g M^T, M[d, k] = bins of variable d that hold count k."""
    from scipy.sparse import csr_array

    distinct, where = np.unique(margins, return_inverse=True)
    variables, bins = margins.shape
    rows = np.repeat(np.arange(variables), bins)
    uses = csr_array((np.ones(rows.size), (rows, where.ravel())), shape=(variables, len(distinct)))
    uses.sum_duplicates()
    half = np.empty((variables, len(distinct)))  # M g, a block of columns at a time: g itself may not fit
    for start in range(0, len(distinct), _BLOCK):
        block = slice(start, start + _BLOCK)
        half[:, block] = uses @ kernels.expected_xlogx(distinct, distinct[block], n, series_from=SERIES_FROM)
    chance = np.asarray(uses @ half.T) / n
    return np.asarray((chance + chance.T) / 2)


def chance_level_of_pairs(rows: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[np.float64]:
    """Chance level of pairs that each have their own samples, as they do where values are missing.

    Parameters
    ----------
    rows, columns : arrays, shape (pairs, bins)
        The two margins of each pair; both sum to the pair's own number of samples.

    Returns
    -------
    array, shape (pairs,), nats
        0 where a pair has no sample.
    """
    first = np.ascontiguousarray(rows, dtype=np.int64)
    n = first.sum(axis=1)
    second = np.ascontiguousarray(columns, dtype=np.int64)
    total = kernels.expected_of_pairs(first, second, series_from=SERIES_FROM)
    return np.asarray(np.divide(total, n, out=np.zeros(len(rows)), where=n > 0))
