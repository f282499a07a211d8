"""The correlation of a Gaussian copula from the counts of its bins, for streams that keep no values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_probe.counts import JointCounts
from mi_probe.kernels.copula import copula_correlations

__all__ = ["binned_copula_correlation"]

Floats = NDArray[np.float64]

_TERMS = 48


def binned_copula_correlation(counts: JointCounts) -> Floats:
    """Correlation of the normal variables that every pair of binned variables would come from, if it were a Gaussian copula.

    Each bin is given the mean s of a standard normal variable within it. With a_k the coefficients of s in normalised Hermite
    polynomials, two variables of correlation rho have E[s_x s_y] = sum_k a_k b_k rho^k (Mehler 1866; as for polychoric
    correlations, Olsson 1979, Psychometrika 44:443); rho is what makes that equal to the mean over the sample.

    Parameters
    ----------
    counts : JointCounts
        Bins in ascending order of the values; of any margins.

    Returns
    -------
    array, shape (pairs,)
        -1 to 1; NaN for a pair without a sample, 0 with a constant variable. The series is cut off, so strong correlations in
        few bins come out too high: .98 as .984 in 4 bins, .99 as .992 in 8.

    Examples
    --------
    >>> import numpy as np
    >>> from mi_probe.binning import Binning
    >>> x = np.random.default_rng(0).standard_normal((100_000, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    >>> x[:, 1] = np.exp(x[:, 1])
    >>> round(float(binned_copula_correlation(JointCounts.from_codes(Binning.fit(x, bins=5).encode(x), 5))[0]), 2)
    0.6
    """
    means, coefficients = _scores(counts.margins)
    return counts.of_tables(lambda tables, pairs: copula_correlations(tables, pairs, means, coefficients))


def _scores(margins: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean of a standard normal variable in each bin, and its Hermite coefficients, (variables, bins) and (variables, terms)."""
    from scipy.special import ndtri

    n = np.maximum(margins.sum(axis=1, keepdims=True), 1)
    share = margins / n
    edges = ndtri(np.clip(np.cumsum(share, axis=1)[:, :-1], 0.0, 1.0))
    edges = np.concatenate([np.full((len(n), 1), -np.inf), edges, np.full((len(n), 1), np.inf)], axis=1)
    density = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
    finite = np.where(np.isfinite(edges), edges, 0.0)
    means = np.divide(density[:, :-1] - density[:, 1:], share, out=np.zeros_like(share), where=share > 0)
    # The integral of h_k over a bin is [h_(k-1) density / sqrt(k)] from its upper to its lower edge, h_k normalised.
    before, now = np.zeros_like(finite), density
    coefficients = np.empty((len(n), _TERMS))
    for k in range(1, _TERMS + 1):
        coefficients[:, k - 1] = (means * (now[:, :-1] - now[:, 1:])).sum(axis=1) / np.sqrt(k)
        before, now = now, (finite * now - np.sqrt(k - 1) * before) / np.sqrt(k)
    return means, coefficients
