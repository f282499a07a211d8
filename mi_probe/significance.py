"""Could a pair be independent? P-values from counts, and false discoveries over many pairs.

The statistic is Pearson's X^2, not 2 N MI: with one to four samples a cell, the likelihood ratio follows its chi-square law so
badly that it rejects far too often, and with fewer it never does. Both margins are held fixed, as in every pairing at random. The
mean and the variance of X^2 are then known exactly (Haldane 1940, Biometrika 31:346; Lewis, Saunders, Westcott 1984, Biometrika
71:515), and a gamma distribution with these two gives the p-value:

    E[X^2]   = N (K_x - 1)(K_y - 1) / (N - 1)
    Var[X^2] = 2N/(N - 3) (v_x - w_x)(v_y - w_y) + N^2/(N - 1) w_x w_y
    v = (K - 1)(N - K)/(N - 1),     w = (S - K^2)/(N - 2),     S = sum N/a_i

with K the number of occupied bins and a_i their counts. The gamma fails where two nearly empty bins meet: one sample in such a
cell adds about N to X^2. So neighbouring bins are pooled until a cell expects one sample (`pool_sparse`; Cochran 1954, Biometrics
10:417, asks the same of the smallest cells). Equal-count bins are pooled only below bins^2 samples.

This holds for samples that do not depend on each other: for tokens of a text see `mi_probe.serial`. Where all pairs have the same
few margins, `mi_probe.permutation` gives p-values without the gamma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mi_probe.counts import JointCounts
from mi_probe.errors import InputError
from mi_probe.kernels.squares import chi_square

__all__ = [
    "FalseDiscoveries",
    "PairMargins",
    "exact_moments",
    "false_discovery",
    "gamma_p_values",
    "pool_sparse",
    "pooled",
    "upper_tail",
]

FalseDiscoveries = Literal["bh", "by"]
Floats = NDArray[np.float64]

_BLOCK = 65_536
_FLAT = 1e-12  # a relative variance below this is rounding: every table with these margins has the same X^2
_SMALLEST = float(np.finfo(np.float64).tiny)
_SYMMETRIC = 1e-5  # below this skewness the gamma is normal to all digits, and its shape overflows


@dataclass(frozen=True, eq=False)
class PairMargins:
    """The two margins of every pair, each kept once.

    Attributes
    ----------
    pool : array, shape (any, bins), int64
        Margins: one row for each variable, then those of the pairs where a value is missing, which have their own samples.
    first, second : arrays, shape (pairs,), int
        Rows of `pool` with the margins of each pair's two variables.
    """

    pool: NDArray[np.int64]
    first: NDArray[np.intp]
    second: NDArray[np.intp]

    @classmethod
    def of(cls, counts: JointCounts, groups: NDArray[np.intp] | None = None) -> PairMargins:
        """Margins of every pair that is counted.

        Parameters
        ----------
        counts : JointCounts
        groups : array, shape (variables, bins), optional
            Which bins are pooled, as `pool_sparse` says.

        Examples
        --------
        >>> import numpy as np
        >>> codes = np.array([[0, 0, 1], [1, 0, 255], [1, 1, 1]], dtype=np.uint8)
        >>> margins = PairMargins.of(JointCounts.from_codes(codes, bins=2))
        >>> margins.pool[margins.first]  # the last pair has two samples
        array([[1, 2],
               [1, 1],
               [1, 1]])
        """
        first, second = counts.pair_indices
        gaps = counts.missing > 0
        broken = np.flatnonzero(gaps[first] | gaps[second])
        rows = np.empty((len(broken), counts.bins), dtype=np.int64)
        columns = np.empty_like(rows)
        for start in range(0, len(broken), _BLOCK):
            tables = counts.tables[broken[start : start + _BLOCK]]
            rows[start : start + _BLOCK] = tables.sum(axis=2)
            columns[start : start + _BLOCK] = tables.sum(axis=1)
        margins = counts.margins
        if groups is not None:
            margins, rows, columns = (
                pooled(margins, groups),
                pooled(rows, groups[first[broken]]),
                pooled(columns, groups[second[broken]]),
            )
        first, second = (side.copy() for side in counts.pair_indices)
        first[broken] = counts.variables + np.arange(len(broken))
        second[broken] = counts.variables + len(broken) + np.arange(len(broken))
        return cls(np.concatenate([margins, rows, columns]), first, second)


def pool_sparse(margins: NDArray[np.integer]) -> NDArray[np.intp]:
    """Groups of neighbouring bins of at least sqrt(N) samples each, so that a cell of two groups expects at least one.

    Bins are pooled from both ends towards the fullest one, and what is left over joins it: an outlier goes with the values next
    to it. The groups depend on the margin alone, which every pairing has, so that no p-value is bent by them.

    Parameters
    ----------
    margins : array, shape (variables, bins)

    Returns
    -------
    array, shape (variables, bins)
        The group of each bin: 0, 1, ... in the order of the bins.

    Examples
    --------
    >>> import numpy as np
    >>> pool_sparse(np.array([[1, 0, 9, 40, 38, 4, 2], [20, 20, 20, 20, 20, 0, 0]]))
    array([[0, 0, 0, 1, 2, 2, 2],
           [0, 1, 2, 3, 4, 4, 4]])
    """
    counts = np.asarray(margins, dtype=np.int64)
    variables, bins = counts.shape
    least = np.sqrt(counts.sum(axis=1))
    peak = counts.argmax(axis=1)
    every = np.arange(variables)
    begins = np.zeros((variables, bins + 1), dtype=bool)  # a group begins with this bin
    from_left, from_right = np.zeros(variables), np.zeros(variables)
    for b in range(bins):
        from_left += np.where(b < peak, counts[:, b], 0)
        full = (b < peak) & (from_left >= least)
        begins[:, b + 1] |= full
        from_left[full] = 0
        c = bins - 1 - b
        from_right += np.where(c > peak, counts[:, c], 0)
        full = (c > peak) & (from_right >= least)
        begins[:, c] |= full
        from_right[full] = 0
    # Where the fullest bin itself is too small: it joins a neighbouring group, the lower one if there is one.
    small = every[from_left + from_right + counts[every, peak] < least]
    for v in small:
        lower, upper = np.flatnonzero(begins[v, : peak[v] + 1]), np.flatnonzero(begins[v, peak[v] + 1 :])
        if lower.size:
            begins[v, lower[-1]] = False
        elif upper.size:
            begins[v, peak[v] + 1 + upper[0]] = False
    return np.cumsum(begins[:, :bins], axis=1)


def pooled(margins: NDArray[np.int64], groups: NDArray[np.intp]) -> NDArray[np.int64]:
    """Counts of the groups, in as many columns as there were bins: the last ones are 0.

    Examples
    --------
    >>> import numpy as np
    >>> pooled(np.array([[1, 10, 12, 3]]), np.array([[0, 0, 1, 1]]))
    array([[11, 15,  0,  0]])
    """
    out = np.zeros_like(margins)
    rows = np.arange(len(margins))
    for b in range(margins.shape[1]):
        out[rows, groups[:, b]] += margins[:, b]
    return out


def exact_moments(margins: PairMargins) -> tuple[Floats, Floats]:
    """Mean and variance of X^2 over all pairings of the same margins.

    Parameters
    ----------
    margins : PairMargins

    Returns
    -------
    mean, variance : arrays, shape (pairs,)
        NaN where a pair has no sample. 0 and 0 where a variable is constant, or where fewer than four samples leave no formula.

    Examples
    --------
    >>> import numpy as np
    >>> two = PairMargins(np.array([[2, 2]]), np.array([0]), np.array([0]))  # X^2 is 0 four times of six, otherwise 4
    >>> [moment.round(4).item() for moment in exact_moments(two)]
    [1.3333, 3.5556]
    """
    counts = margins.pool
    n = counts.sum(axis=1).astype(np.float64)
    occupied = counts > 0
    k = occupied.sum(axis=1).astype(np.float64)
    s = np.where(occupied, n[:, None] / np.maximum(counts, 1), 0.0).sum(axis=1)
    enough = n >= 4
    with np.errstate(divide="ignore", invalid="ignore"):
        v = np.where(enough, (k - 1) * (n - k) / (n - 1), 0.0)
        w = np.where(enough, (s - k * k) / (n - 2), 0.0)
    x, y, size = margins.first, margins.second, n[margins.first]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = size * (k[x] - 1) * (k[y] - 1) / (size - 1)
        variance = 2 * size / (size - 3) * (v - w)[x] * (v - w)[y] + size * size / (size - 1) * w[x] * w[y]
    told = (size >= 4) & (k[x] > 1) & (k[y] > 1)
    nothing = np.where(size == 0, np.nan, 0.0)
    return np.where(told, mean, nothing), np.where(told, np.maximum(variance, 0.0), nothing)


def upper_tail(x: Floats, mean: Floats, variance: Floats, skewness: Floats) -> Floats:
    """P(X >= x) for a Pearson type III variable X: a gamma, shifted so that its first three moments are the ones given.

    With skewness 2 sd / mean it is the gamma itself, with skewness 0 the normal.

    Parameters
    ----------
    x, mean, variance, skewness : arrays of one shape, or that broadcast
        Skewness is taken as 0 where it is negative: the tail of such a variable ends, and what is measured may lie beyond.

    Returns
    -------
    array
        Between the smallest normal number and 1, never 0. 1 where the variance is 0, or too small to be more than rounding:
        where there is one value only, nothing can be told. NaN where `x`, `mean` or `variance` is.

    Examples
    --------
    >>> import numpy as np
    >>> upper_tail(np.array([3.841459]), np.array([1.0]), np.array([2.0]), np.array([8**0.5])).round(6)  # chi-square, 1 degree
    array([0.05])
    """
    from scipy.special import gammaincc, ndtr

    x, mean, variance, skewness = np.broadcast_arrays(x, mean, variance, skewness)
    unknown = np.isnan(x) | np.isnan(mean) | np.isnan(variance)
    told = ~unknown & (variance > _FLAT * mean * mean)
    p = np.where(unknown, np.nan, 1.0)
    z = (x[told] - mean[told]) / np.sqrt(variance[told])
    skew = skewness[told]
    root = 2 / np.maximum(skew, _SYMMETRIC)  # of the gamma's shape
    p[told] = np.where(skew > _SYMMETRIC, gammaincc(root * root, np.maximum(root * (root + z), 0.0)), ndtr(-z))
    return np.where(unknown, np.nan, np.maximum(p, _SMALLEST))


def gamma_p_values(counts: JointCounts) -> Floats:
    """P-values of every pair for independence, if the samples are independent of each other.

    Parameters
    ----------
    counts : JointCounts

    Returns
    -------
    array, shape (pairs,)
        In the order of `JointCounts.pair_indices`. NaN for a pair without a sample; 1 where nothing can be told: a
        variable that is constant, or nearly so that `pool_sparse` leaves one group; fewer than four samples; margins that leave
        X^2 one value.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(94) % 5
    >>> codes = np.stack([x, x, np.sort(x)], axis=1).astype(np.uint8)
    >>> p = gamma_p_values(JointCounts.from_codes(codes, bins=5))
    >>> bool(p[0] < 1e-60), bool(p[1] > 0.99)  # a copy; every fifth token against the fifth of the text
    (True, True)
    """
    groups = pool_sparse(counts.margins)
    mean, variance = exact_moments(PairMargins.of(counts, groups))
    skewness = np.divide(2 * np.sqrt(variance), mean, out=np.zeros_like(mean), where=mean > 0)  # a gamma's
    return upper_tail(counts.of_tables(lambda tables, pairs: chi_square(tables, groups, pairs)), mean, variance, skewness)


def false_discovery(p: Floats, *, method: FalseDiscoveries = "bh") -> Floats:
    """P-values adjusted so that calling all pairs at or below q leaves a share of false ones of at most q, on average.

    Parameters
    ----------
    p : array, shape (pairs,)
        NaN stays NaN and does not count.
    method : {"bh", "by"}
        Benjamini and Hochberg (1995), for p-values that are independent or depend on each other positively; or Benjamini and
        Yekutieli (2001), for any dependence, at ln(pairs) + 0.58 times the price.

    Raises
    ------
    InputError
        Unknown method, or a value outside 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> false_discovery(np.array([0.01, np.nan, 0.04, 0.5]))
    array([0.03,  nan, 0.06, 0.5 ])
    """
    from scipy.stats import false_discovery_control

    if method not in get_args(FalseDiscoveries):
        raise InputError(f"method {method!r} is not known; choose one of {get_args(FalseDiscoveries)}.")
    known = ~np.isnan(p)
    values = p[known]
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise InputError(f"p-values must be between 0 and 1; got {values.min()} to {values.max()}.")
    adjusted = np.full(p.shape, np.nan)
    if values.size:
        adjusted[known] = false_discovery_control(values, method=method)
    return adjusted
