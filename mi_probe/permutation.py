"""P-values from one permutation null that all pairs with the same margins share.

With equal-count bins every variable has the same margins, so the plug-in MI of a random pairing has one distribution for all
pairs (TINGe: Zola, Aluru, Sarje, Aluru 2010, IEEE TPDS 21:1721). It is drawn once, as tables with these margins (Patefield 1981,
Applied Statistics 30:91), a million of them for what a few permutations of every pair would cost. As with all permutations, the
samples must not depend on each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_probe import kernels
from mi_probe.errors import InputError
from mi_probe.significance import PairMargins, upper_tail

__all__ = ["DRAWS", "MOST_NULLS", "nulls_of", "permutation_p_values", "require_few"]

Floats = NDArray[np.float64]

DRAWS = 1_000_000
"""Tables drawn for each null: two to five seconds with up to 1,000 samples in 8 bins."""

MOST_NULLS = 8
"""Distinct pairs of margins from which on the gamma test is the better bargain."""

_CHUNK = 50_000
_TAIL = 400  # with fewer draws at or above, the count says too little (5 % of itself) and the fitted tail takes over
_TIE = 1e-10  # nats: two orders of one sum differ by less


def permutation_p_values(raw: Floats, margins: PairMargins, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """P-values of every pair for independence, if the samples are independent of each other.

    A pair's p-value is (1 + b) / (1 + draws), b of the draws having at least its MI (Phipson and Smyth 2010, Statistical
    Applications in Genetics and Molecular Biology 9:39), down to a few hundred draws. Beyond, it follows the tail of a Pearson
    type III distribution with the mean, variance and skewness of the draws, scaled to join.

    Parameters
    ----------
    raw : array, shape (pairs,), nats
        Plug-in MI.
    margins : PairMargins
        Margins of the same pairs.
    draws : int
        At least 1,000.
    seed : int
        The same seed gives the same p-values; each null depends on it and on its own margins only.

    Returns
    -------
    array, shape (pairs,)
        NaN where `raw` is, as for a pair without samples; 1 for a constant variable.

    Raises
    ------
    InputError
        More than `MOST_NULLS` distinct pairs of margins, too few draws, or another number of pairs.

    Examples
    --------
    >>> import numpy as np
    >>> fair = np.full((1, 2), 4)  # 8 samples in two bins: 4 or 0 on the diagonal once in 35
    >>> margins = PairMargins(fair, np.zeros(2, int), np.zeros(2, int))
    >>> permutation_p_values(np.array([0.0, np.log(2)]), margins).round(2)
    array([1.  , 0.03])
    """
    if draws < 1000:
        raise InputError(f"draws must be at least 1,000; got {draws}.")
    if raw.shape != margins.first.shape:
        raise InputError(f"raw must have one value for each of {margins.first.size} pairs; got shape {raw.shape}.")
    p = np.full(raw.shape, np.nan)
    known = np.flatnonzero(~np.isnan(raw))
    # Which bin has which count does not matter, nor which variable is the first.
    shapes, nulls, null_of = _nulls(margins, known)
    require_few(len(nulls))
    for k, (row, column) in enumerate(nulls):
        among = known[null_of == k]
        p[among] = _p_values(raw[among], _sorted_null(shapes[row], shapes[column], draws, seed))
    return p


def nulls_of(raw: Floats, margins: PairMargins) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The distinct pairs of margins, each a null of its own; the parameters are those of `permutation_p_values`."""
    shapes, nulls, _ = _nulls(margins, np.flatnonzero(~np.isnan(raw)))
    return {(tuple(shapes[row].tolist()), tuple(shapes[column].tolist())) for row, column in nulls}


def require_few(nulls: int) -> None:
    """Raise `InputError` if there are more nulls than it is worth to draw."""
    if nulls > MOST_NULLS:
        raise InputError(
            f"these pairs have {nulls} distinct pairs of margins, and a permutation null is drawn for at most {MOST_NULLS}; "
            "use the gamma test, or equal-count bins without missing values."
        )


def _nulls(
    margins: PairMargins, known: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:  # fmt: skip
    """Distinct margins, pairs of them of which there are some, and which of these each pair has."""
    shapes, shape_of = np.unique(-np.sort(-margins.pool, axis=1), axis=0, return_inverse=True)
    ends = np.stack([shape_of.ravel()[margins.first[known]], shape_of.ravel()[margins.second[known]]], axis=1)
    nulls, null_of = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
    return shapes, nulls, null_of.ravel()


def _sorted_null(row: NDArray[np.int64], column: NDArray[np.int64], draws: int, seed: int) -> Floats:
    """Plug-in MI of tables drawn with these margins, ascending."""
    from scipy.stats import random_table

    rng = np.random.default_rng([seed, *row.tolist(), *column.tolist()])
    a, b = row[row > 0], column[column > 0]
    bins = len(row)
    n = int(a.sum())
    constant = sum(float(np.sum(m * np.log(m))) for m in (a, b)) - n * np.log(n)
    values = np.empty(draws)
    tables = np.zeros((min(_CHUNK, draws), bins, bins), dtype=np.int64)  # the kernel takes square ones
    law = random_table(a, b)
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        tables[:size, : len(a), : len(b)] = law.rvs(size, random_state=rng)
        values[start : start + size] = (kernels.pair_sums(tables[:size]).joint - constant) / n
    values.sort()
    return values


def _p_values(raw: Floats, null: Floats) -> Floats:
    """The share of a null, ascending, that reaches each value; where hardly any does, the fitted tail."""
    from scipy.stats import skew

    draws = len(null)
    # Permuted tables with one multiset of counts have one MI, summed in another order: within rounding is a tie.
    reached = draws - np.searchsorted(null, raw - _TIE)
    p = (1 + reached) / (1 + draws)
    joint = null[-min(_TAIL, draws // 100)]  # where the tail takes over
    beyond = raw > joint + _TIE
    mean, variance = null.mean(), null.var()
    if beyond.any() and variance > _TIE**2:
        skewness = skew(null)
        at_joint = (1 + draws - np.searchsorted(null, joint - _TIE)) / (1 + draws)
        tail = upper_tail(np.append(raw[beyond], joint), mean, variance, skewness)
        p[beyond] = np.maximum(at_joint * (tail[:-1] / tail[-1]), np.finfo(np.float64).tiny)
    return np.asarray(p)
