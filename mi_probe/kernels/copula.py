"""The correlation of the Gaussian copula that each table would come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.threads import Counts, in_threads, jit, ranges, threads_for

__all__ = ["copula_correlations"]

_ENOUGH = 1e-11
_MOST_STEPS = 60
_ONE = 1 - 1e-6  # as far as it goes


@jit
def _correlations(
    tables: Any, means: Any, coefficients: Any, first_of: Any, second_of: Any, first: int, last: int, rho: Any
) -> None:  # fmt: skip
    bins, terms = tables.shape[1], coefficients.shape[1]
    both = np.empty(terms)
    for p in range(first, last):
        i, j = first_of[p], second_of[p]
        n = product = 0.0
        for a in range(bins):
            row = 0.0
            for b in range(bins):
                count = float(tables[p, a, b])
                n += count
                row += count * means[j, b]
            product += row * means[i, a]
        if n == 0:
            rho[p] = np.nan
            continue
        product /= n
        for k in range(terms):
            both[k] = coefficients[i, k] * coefficients[j, k]
        if both[0] <= 0:  # a constant variable
            rho[p] = 0.0
            continue
        # Newton's steps, and halvings where these leave the interval: the sum of c_k rho^(k+1) rises with rho.
        low, high = -1.0, 1.0
        x = min(max(product / both[0], -0.99), 0.99)
        for _ in range(_MOST_STEPS):
            value = slope = 0.0
            for k in range(terms - 1, -1, -1):
                slope = slope * x + value
                value = value * x + both[k]
            off = x * value - product
            if off < 0:
                low = x
            else:
                high = x
            rise = value + x * slope
            following = x - off / rise if rise > 0 else np.inf
            if not low <= following <= high:
                following = (low + high) / 2
            moved = abs(following - x)
            x = following
            if moved < _ENOUGH:
                break
        rho[p] = np.sign(x) if abs(x) > _ONE else x


def copula_correlations(
    tables: Counts,
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
    means: NDArray[np.float64],
    coefficients: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The rho from -1 to 1 with sum_k a_k b_k rho^k = the mean of s_x s_y, for each table.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins), integer
    pairs : two arrays, each of shape (pairs,)
        The variables of each table.
    means : array, shape (variables, bins)
        s for each bin.
    coefficients : array, shape (variables, terms)
        a_1, a_2, ... of each variable.

    Returns
    -------
    array, shape (pairs,)
        NaN for a table without samples, 0 where a variable is constant.
    """
    rho = np.empty(len(tables))
    threads = threads_for(len(tables) * 500.0)
    parts = ranges(len(tables), np.ones_like, threads)
    in_threads(lambda a, b: _correlations(tables, means, coefficients, *pairs, a, b, rho), parts, threads)
    return rho
