"""Significance for tokens of texts, which resemble the tokens before them.

Two slow series look alike by accident far more often than two of independent samples (Tavaré and Altham 1983, Biometrika 70:139).
With z_t,u = (1[c_t = u] - p_u) / sqrt(p_u) the score of bin u at token t, X^2 of a pair is the squared length of
N^-1/2 sum_t z_t (x) z'_t. Were the two series independent of each other, the covariance of that vector would be

    Sigma = sum_k w_k C_x(k) (x) C_y(k),     C(k) = E[z_t z_{t+k}^T],     w_k = N_k / N,

N_k being the number of places (t, t + k) within one text; so X^2 is a sum of chi-squares weighted by the eigenvalues of Sigma,
with cumulants tr Sigma, 2 tr Sigma^2, 8 tr Sigma^3. A trace of a Kronecker product is a product of traces; each cumulant is
therefore a sum over lags of (a number of x) times (a number of y), and over all pairs a matrix product. Independent samples have
d, 2d and 8d, d = (K_x - 1)(K_y - 1): the ratios to these scale the exact moments of `mi_probe.significance`, so that without any
autocorrelation this test is that one.

What was tried, on AR(1) series of 94 and 1,000 tokens (benchmarks/false_positives.py measures the result):

- C(k) divides by the number of products, N_k. Dividing by N shrinks it, and rejects too often in short texts.
- tr C(k) C(k)^T and tr C(k)^2 of a series without autocorrelation are not 0 but (K - 1)^2 / N_k and (K - 1) / N_k. They are
  subtracted: otherwise the noise of 2K lags makes the test too shy where there is no autocorrelation.
- The gamma of the first two cumulants has too short a tail where one slow component rules: with 1,000 tokens and phi = .9 it
  rejects seven times too often at .0001. The third cumulant mends it, and makes the test shy, never bold, in short texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.counts import JointCounts, PairIndices
from mi_probe.errors import InputError
from mi_probe.kernels import lagged as kernel
from mi_probe.kernels.squares import chi_square
from mi_probe.significance import PairMargins, exact_moments, pool_sparse, pooled, upper_tail

__all__ = [
    "Inflation",
    "autocovariances",
    "count_lags",
    "inflation",
    "serial_p_values",
]

Floats = NDArray[np.float64]
Counts = NDArray[np.integer] | NDArray[np.float64]  # whole numbers

_LEAST_MEAN = 0.1  # of independent samples; only noise, or strict alternation, goes below


class Inflation(NamedTuple):
    """How much larger each cumulant of X^2 is than with independent samples; 1 without autocorrelation. Each (pairs,)."""

    mean: Floats
    """tr Sigma / d."""
    variance: Floats
    """tr Sigma^2 / d."""
    third: Floats
    """tr Sigma^3 / d."""


def count_lags(codes: NDArray[np.uint8], lengths: NDArray[np.integer], out: NDArray[np.int64]) -> None:
    """Add the lagged counts of every variable to `out`.

    Parameters
    ----------
    codes : array, shape (tokens, variables), uint8
        Texts one after the other. 0 to bins - 1; any other code is a token left out of that variable: it keeps its place, so
        that the tokens on its two sides stay two apart.
    lengths : array, shape (texts,), integer
        Tokens of each text, in order. No lag reaches from one text into the next.
    out : array, shape (lags, variables, bins, bins), int64
        Changed in place: ``out[k - 1, v, a, b]`` grows by the number of t with code a at t and code b at t + k.

    Raises
    ------
    InputError
        Shapes that do not fit, or lengths that do not add up to the tokens. Nothing is counted then.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.zeros((1, 1, 2, 2), dtype=np.int64)
    >>> count_lags(np.array([[0], [1], [1], [0]], dtype=np.uint8), np.array([2, 2]), out)  # 0 1 | 1 0
    >>> out[0, 0]
    array([[0, 1],
           [1, 0]])
    """
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise InputError(f"codes must be uint8 of shape (tokens, variables); got {codes.dtype} of shape {codes.shape}.")
    tokens, variables = codes.shape
    if out.dtype != np.int64 or out.ndim != 4 or out.shape[1] != variables or out.shape[2] != out.shape[3]:
        raise InputError(f"out must be int64 of shape (lags, {variables}, bins, bins); got {out.dtype} of shape {out.shape}.")
    whole = np.asarray(lengths)
    if whole.ndim != 1 or whole.dtype.kind not in "iu" or (whole < 0).any() or whole.sum() != tokens:
        raise InputError(f"lengths must be whole numbers, one for each text, that add up to {tokens} tokens; got {lengths}.")
    kernel.count_lags(codes, whole.astype(np.int64), out)


def autocovariances(lagged: Counts, margins: NDArray[np.integer]) -> Floats:
    """C(k) of every variable, from counts: the mean of z_t z_{t+k}^T over the places where both tokens are present.

    With r and s the sums over the rows and columns of the lagged counts L and M their total,

        M C(k)_uv sqrt(p_u p_v) = L_uv - r_u p_v - p_u s_v + M p_u p_v.

    Parameters
    ----------
    lagged : array, shape (lags, variables, bins, bins)
        What `count_lags` adds up.
    margins : array, shape (variables, bins)
        Counts of each variable over its present tokens.

    Returns
    -------
    array, shape (variables, lags + 1, bins, bins)
        Lags 0, 1, ... C(-k) is the transpose of C(k). 0 where no two tokens are k apart, or where a bin is empty.

    Examples
    --------
    >>> import numpy as np
    >>> lagged = np.array([[[[0, 3], [2, 0]]]])  # 0 1 0 1 0 1, which is never the same twice
    >>> autocovariances(lagged, np.array([[3, 3]])).trace(axis1=2, axis2=3)
    array([[ 1., -1.]])
    """
    lags, variables, bins, _ = lagged.shape
    n = margins.sum(axis=1)
    p = margins / np.maximum(n, 1)[:, None]
    scale = np.divide(1.0, np.sqrt(p), out=np.zeros_like(p), where=p > 0)
    out = np.empty((variables, lags + 1, bins, bins))
    out[:, 0] = np.eye(bins) * (p > 0)[:, :, None] - np.sqrt(p[:, :, None] * p[:, None, :])
    for k in range(lags):
        counts = lagged[k].astype(np.float64)
        rows, columns = counts.sum(axis=2), counts.sum(axis=1)
        total = rows.sum(axis=1)[:, None, None]
        sums = counts - rows[:, :, None] * p[:, None, :] - p[:, :, None] * columns[:, None, :]
        sums += total * p[:, :, None] * p[:, None, :]
        out[:, k + 1] = sums * scale[:, :, None] * scale[:, None, :] / np.maximum(total, 1)
    return out


def inflation(lagged: Counts, margins: NDArray[np.integer], n: int, pairs: PairIndices | None = None) -> Inflation:
    """How autocorrelation changes the cumulants of X^2 of every pair i < j, or of some of them.

    Parameters
    ----------
    lagged : array, shape (lags, variables, bins, bins)
        What `count_lags` adds up.
    margins : array, shape (variables, bins)
        Counts of each variable over its present tokens.
    n : int
        Tokens.
    pairs : (array, array), each of shape (pairs,), optional
        The two variables of each pair; by default ``numpy.triu_indices(variables, 1)``.

    Returns
    -------
    Inflation
        1, 1, 1 for a pair with a constant variable.

    Notes
    -----
    Matrix products over ((2 lags + 1)^3) / 2 numbers a variable, a block of (2 lags + 1)^2 at a time.

    Examples
    --------
    >>> import numpy as np
    >>> series = np.repeat(np.random.default_rng(0).integers(0, 4, (250, 2)), 4, axis=0).astype(np.uint8)  # each value 4 times
    >>> lagged = np.zeros((12, 2, 4, 4), dtype=np.int64)
    >>> count_lags(series, np.array([1000]), lagged)
    >>> inflation(lagged, np.array([np.bincount(v, minlength=4) for v in series.T]), 1000).mean.round(1)
    array([2.8])
    """
    lags, variables, _, _ = lagged.shape
    first, second = np.triu_indices(variables, 1) if pairs is None else pairs
    degrees = np.maximum((margins > 0).sum(axis=1) - 1.0, 0.0)
    pair_degrees = degrees[first] * degrees[second]
    told = pair_degrees > 0
    scores, floor = _weighted(lagged, margins, n)
    centre, width = lags, 2 * lags + 1

    def of_pairs(x: Floats, weight: float = 1.0) -> Floats:
        by_variable = x.reshape(variables, -1)
        products: Floats = (by_variable @ by_variable.T)[first, second]
        return weight * products

    traces = np.trace(scores, axis1=2, axis2=3)
    rows = scores.reshape(variables, width, -1)
    squares = rows @ rows.transpose(0, 2, 1)  # tr A(k) A(l)^T
    for k in range(width):
        if k != centre:
            squares[:, k, k] -= floor[:, k] * degrees**2
            squares[:, k, width - 1 - k] -= floor[:, k] * degrees
    # tr A(k) A(l) A(m) = tr A(-m) A(-l) A(-k): the blocks of k and -k give the same sum. Where one of the three is lag 0, at
    # which A is a projection, two are left, and their noise is known.
    transposed = scores.transpose(0, 1, 3, 2).reshape(variables, width, -1)
    pairs_of_lags = squares[:, :, ::-1]  # tr A(k) A(l)
    third = of_pairs(pairs_of_lags)
    for k in range(centre + 1, width):
        block = (scores[:, None, k] @ scores).reshape(variables, width, -1) @ transposed.transpose(0, 2, 1)
        block[:, centre] = pairs_of_lags[:, k]
        block[:, :, centre] = pairs_of_lags[:, k]
        third += of_pairs(block, 2.0)

    def ratio(x: Floats) -> Floats:
        return np.asarray(np.divide(x, pair_degrees, out=np.ones_like(x), where=told))

    # No covariance matrix has smaller ratios than these (Cauchy and Schwarz); an estimated one may.
    mean = np.maximum(ratio(of_pairs(traces)), _LEAST_MEAN)
    variance = np.maximum(ratio(of_pairs(squares)), mean**2)
    return Inflation(mean, variance, np.maximum(ratio(third), variance**2 / mean))


def _weighted(lagged: Counts, margins: NDArray[np.integer], n: int) -> tuple[Floats, Floats]:
    """A(k) with A_x(k) (x) A_y(k) = w_k C_x(k) (x) C_y(k), lags -K to K; and the noise of its squares, for one degree of freedom.

    Where tokens are left out at random, a share 1 - q_x of x and 1 - q_y of y, a pair keeps w_k q_x q_y of its places: for each
    variable the factor is M / n_x / sqrt(w_k), M being its own places. All places are those of the variable with the fewest gaps,
    over its q^2.
    """
    places = lagged.sum(axis=(2, 3)).T.astype(np.float64)  # (variables, lags)
    own = np.maximum(margins.sum(axis=1), 1).astype(np.float64)[:, None]
    fullest = int(own.argmax())
    weight = np.minimum(places[fullest] * n / own[fullest] ** 2, 1.0)
    factor = np.divide(places / own, np.sqrt(weight), out=np.zeros_like(places), where=weight > 0)
    floor = np.divide(factor**2, places, out=np.zeros_like(places), where=places > 0)
    forward = autocovariances(lagged, margins)
    forward[:, 1:] *= factor[:, :, None, None]
    both = np.concatenate([forward[:, :0:-1].transpose(0, 1, 3, 2), forward], axis=1)
    return both, np.concatenate([floor[:, ::-1], np.zeros_like(own), floor], axis=1)


def serial_p_values(counts: JointCounts, lagged: NDArray[np.integer]) -> Floats:
    """P-values of every pair for independence of two series that may each be autocorrelated.

    Parameters
    ----------
    counts : JointCounts
    lagged : array, shape (lags, variables, bins, bins)
        Lagged counts of the same codes, which `count_lags` adds up; `LAGS` of them unless the series are slower than phi = .8.

    Returns
    -------
    array, shape (pairs,)
        NaN and 1 as in `mi_probe.significance.gamma_p_values`, whose p-values these are with no lags at all.

    Raises
    ------
    InputError
        Another number of variables or bins.

    Examples
    --------
    >>> import numpy as np
    >>> from mi_probe.extras import LAGS
    >>> codes = np.repeat(np.random.default_rng(0).integers(0, 4, (50, 2)), 4, axis=0).astype(np.uint8)
    >>> counts, lagged = JointCounts.from_codes(codes, bins=4), np.zeros((LAGS, 2, 4, 4), dtype=np.int64)
    >>> count_lags(codes, np.array([200]), lagged)
    >>> serial_p_values(counts, lagged).round(2), serial_p_values(counts, lagged[:0]).round(4)  # as 200 independent tokens
    (array([0.26]), array([0.0001]))
    """
    if lagged.ndim != 4 or lagged.shape[1:] != (counts.variables, counts.bins, counts.bins):
        raise InputError(
            f"lagged counts must have shape (lags, {counts.variables}, {counts.bins}, {counts.bins}); got {lagged.shape}."
        )
    groups = pool_sparse(counts.margins)
    member = (groups[:, :, None] == np.arange(counts.bins)).astype(np.float64)  # (variables, bins, groups)
    by_group = member.transpose(0, 2, 1) @ lagged @ member  # exact below 2^53
    found = inflation(by_group, pooled(counts.margins, groups), counts.n, counts.pair_indices)
    mean, variance = exact_moments(PairMargins.of(counts, groups))
    # The third cumulant of the gamma with these two moments, scaled like them.
    third = np.divide(2 * variance**2, mean, out=np.zeros_like(mean), where=mean > 0) * found.third
    variance = variance * found.variance
    skewness = np.divide(third, variance**1.5, out=np.zeros_like(mean), where=variance > 0)
    squares = counts.of_tables(lambda tables, pairs: chi_square(tables, groups, pairs))
    return upper_tail(squares, mean * found.mean, variance, skewness)
