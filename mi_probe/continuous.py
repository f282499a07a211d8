"""What equal-count bins lose, undone from the counts alone: an estimate of the mutual information of the values themselves.

Three things that a table of B x B equal-count bins says beyond its own mutual information I tell how much was lost:

- what merging its bins in twos loses again, D = I - I', of which the loss sought is some multiple c: 1/3 where the density is
  smooth (every doubling of the bins then quarters the loss), 1 at a jump, more still towards the corners of heavy tails;
- how much of the contrast between neighbouring cells lies at the outermost bins, e, where tails hide;
- how sharp that contrast is, s: near 0 where all neighbours differ a little, near 1 where few do and those altogether.

What e and s are for a Gaussian copula is known, and so is its c. The estimate is exact for it and moves with the departures:

    continuous = I + c D,    c = c_G(I) + 1.4 [e - e_G(I)] + 1.7 [s - s_G(D)],    1/3 <= c <= 2

where c_G(I) and e_G(I) belong to the Gaussian copula whose table has that I, and s_G(D) to the one whose table loses that D. The
two slopes were fitted to exact tables of 8 and 16 bins of some forty distributions; 1.2 to 1.5 and 1.5 to 2 do about as well
(benchmarks/continuous_accuracy.py shows distributions that were fitted and others that were not). The bounds are a smooth density
and two more doublings of the bins that each gain what the last did.

D, e and s are differences of small numbers when there are few samples. They count by the weight w = A^2 / (A^2 + 32 v), A the
contrast and v its variance at independence: where noise hides the contrast, D is the Gaussian's of the same I, c is c_G, and what
is left is `gaussian_equivalent`.

An extrapolation cannot see what is finer than the bins: many periods of a cosine in 16 bins, or whether a narrow band has sharp
or soft edges.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.errors import InputError
from mi_probe.kernels.coarse import Contrasts, contrasts

__all__ = ["Continuous", "continuous", "gaussian_binned_mi", "gaussian_equivalent", "merging"]

Floats = NDArray[np.float64]

# The constants of the formula above, in its order.
_RIM = 1.4
_SHARPNESS = 1.7
_SMOOTH = 1 / 3
_CAP = 2.0
_NOISE = 32.0
_FEW = 6
_FADE = 6
_GRID = 80


class Continuous(NamedTuple):
    """What `continuous` returns, each of shape (pairs,), in nats."""

    mi: Floats
    """Estimated mutual information of the values before binning."""
    se: Floats
    """Its standard error for independent samples. It does not know how far the shape misleads the extrapolation."""


def gaussian_binned_mi(rho: ArrayLike, bins: int) -> Floats:
    """Mutual information of two Gaussian variables, each cut into equal-count bins.

    Parameters
    ----------
    rho : array
        Correlations, |rho| < 1.
    bins : int

    Returns
    -------
    array, shape of `rho`, nats
        By integrating the conditional normal cumulative distribution over the first variable.

    Examples
    --------
    >>> gaussian_binned_mi([0.3, 0.6, -0.6], bins=16).round(4)  # .0472 and .2231 before binning
    array([0.045 , 0.2119, 0.2119])
    """
    values = np.asarray(rho, dtype=np.float64)
    cells = _gaussian_cells(np.abs(values).ravel(), bins)
    return _mutual_information(cells).reshape(values.shape)


def _gaussian_cells(rho: Floats, bins: int) -> Floats:
    """Cell probabilities of Gaussian tables, shape (rhos, bins, bins): midpoints in the first variable's rank."""
    from scipy.special import ndtr, ndtri

    each = max(32, 2048 // bins)
    x = ndtri((np.arange(bins * each) + 0.5) / (bins * each))
    edges = ndtri(np.arange(1, bins) / bins)
    cells = np.empty((len(rho), bins, bins))
    for k, r in enumerate(rho):
        below = np.ones((bins, bins * each))
        below[:-1] = ndtr((edges[:, None] - r * x) / np.sqrt(1 - r * r))
        below = below.reshape(bins, bins, each).mean(axis=2)
        cells[k] = np.diff(below, axis=0, prepend=0.0).T / bins
    return cells


def _mutual_information(cells: Floats) -> Floats:
    from scipy.special import xlogy

    rows, columns = cells.sum(axis=2), cells.sum(axis=1)
    joint = xlogy(cells, cells).sum(axis=(1, 2))
    return np.asarray(joint - xlogy(rows, rows).sum(axis=1) - xlogy(columns, columns).sum(axis=1))


class _Gaussian(NamedTuple):
    """What Gaussian copulas say at one number of bins: interpolants of arrays, in which the last value holds on."""

    loss: Callable[[Floats], Floats]
    """What the bins lose, by the table's mutual information."""
    factor: Callable[[Floats], Floats]
    """c, the loss over D, by the table's mutual information."""
    step: Callable[[Floats], Floats]
    """D, by the table's mutual information."""
    rim: Callable[[Floats], Floats]
    """e, by the table's mutual information."""
    sharpness: Callable[[Floats], Floats]
    """s, by D."""


@lru_cache(maxsize=64)
def _gaussian(bins: int) -> _Gaussian:
    from scipy.interpolate import PchipInterpolator

    # Even steps of the true value up to ln 3B; then functional dependence, given ln 4B: what four times the bins could hold.
    true = np.linspace(0, np.log(3 * bins), _GRID + 1)[1:]
    cells = np.concatenate([_gaussian_cells(np.sqrt(-np.expm1(-2 * true)), bins), np.eye(bins)[None] / bins])
    true = np.append(true, np.log(4 * bins))
    mi = _mutual_information(cells)
    merged = _merge(cells, merging(bins))
    step = mi - _mutual_information(merged)
    square, fourth, rim = _contrast(cells)

    def curve(x: Floats, y: Floats, at_zero: float) -> Callable[[Floats], Floats]:
        rising = np.diff(np.maximum.accumulate(x), prepend=0.0) > 1e-9  # a table of few bins saturates before the end
        pchip = PchipInterpolator(np.concatenate([[0.0], x[rising]]), np.concatenate([[at_zero], y[rising]]))
        end = float(x[rising][-1])
        return lambda at: np.asarray(pchip(np.clip(at, 0.0, end)), dtype=np.float64)

    def ratio(x: Floats, y: Floats) -> Callable[[Floats], Floats]:
        return curve(x, y, y[0])

    return _Gaussian(
        loss=curve(mi, true - mi, 0.0),
        factor=ratio(mi, (true - mi) / step),
        step=curve(mi, step, 0.0),
        rim=ratio(mi, rim / square),
        sharpness=ratio(step, fourth / square),
    )


def _contrast(cells: Floats) -> tuple[Floats, Floats, Floats]:
    """Of exact tables what `kernels.coarse.contrasts` estimates of counts: square, fourth, rim."""
    square, fourth, rim = (np.zeros(len(cells)) for _ in range(3))
    for p in (cells, cells.swapaxes(1, 2)):
        both = p[:, 1:] + p[:, :-1]
        t2 = np.divide(p[:, 1:] - p[:, :-1], both, out=np.zeros_like(both), where=both > 0) ** 2
        square += (both * t2).sum(axis=(1, 2)) / 4
        fourth += (both * t2 * t2).sum(axis=(1, 2)) / 4
        ends = [0] if both.shape[1] == 1 else [0, -1]
        rim += (both * t2)[:, ends].sum(axis=(1, 2)) / 4
    return square, fourth, rim


def merging(bins: int) -> NDArray[np.int64]:
    """The half-size bin that each bin falls into: neighbours in twos from both ends.

    An odd number leaves one bin, or three, together in the middle, so that reversing a variable changes nothing.

    Examples
    --------
    >>> merging(8)
    array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> merging(5), merging(7)
    (array([0, 0, 1, 2, 2]), array([0, 0, 1, 1, 1, 2, 2]))
    """
    if bins % 2 == 0:
        return np.arange(bins) // 2
    ends = (bins - 1) // 4  # twos at either end
    middle = bins - 4 * ends
    return np.concatenate([np.arange(2 * ends) // 2, np.full(middle, ends), ends + 1 + np.arange(2 * ends) // 2])


def _merge(tables: Floats, groups: NDArray[np.int64]) -> Floats:
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.asarray(np.add.reduceat(np.add.reduceat(tables, starts, axis=1), starts, axis=2))


def gaussian_equivalent(mi: ArrayLike, bins: int) -> Floats:
    """-ln(1 - rho^2)/2 of the Gaussian copula whose table of equal-count bins has the given mutual information.

    Parameters
    ----------
    mi : array
        Mutual information of tables, corrected for chance.
    bins : int

    Returns
    -------
    array, shape of `mi`, nats
        Odd in `mi`, so that an estimate that is 0 on average stays so. At ln `bins`, where one bin tells the other, the Gaussian
        copula's value is infinite, and nothing in the table says how finely the values tell each other: exact up to ln 3 `bins`,
        the map goes on to ln 4 `bins`, what four times the bins could hold, and ends there.

    Examples
    --------
    >>> gaussian_equivalent(gaussian_binned_mi([0.3, 0.9], bins=8), bins=8).round(4)
    array([0.0472, 0.8304])
    >>> gaussian_equivalent([-0.01, 0.01, 0.0], bins=8).round(4)
    array([-0.0112,  0.0112,  0.    ])
    >>> bool(np.isclose(gaussian_equivalent(np.log(8), bins=8), np.log(32)))
    True
    """
    values = np.asarray(mi, dtype=np.float64)
    if bins < 2:
        return values.copy()
    return values + np.sign(values) * _gaussian(bins).loss(np.abs(values))


def continuous(tables: NDArray[np.integer]) -> Continuous:
    """Estimate the mutual information of continuous variables from the joint counts of their equal-count bins.

    See the top of `mi_probe.continuous` for the method. I and I' are jackknifed (Zahl 1977), which leaves less under strong
    dependence than subtracting the chance level does, less the mean that the jackknife still has at independence, which fades as
    the sixth power of what is left up to the entropy.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins), integers
        Joint counts of equal-count bins. Equal-width bins would give a number without a meaning. Unequal margins (ties, edges
        that were fixed on other samples) are allowed for by comparing densities, not counts, of neighbours; the Gaussian copula's
        tables are still those of equal bins. A discrete variable loses nothing in bins, and this is not meant for it.

    Returns
    -------
    Continuous
        NaN for a pair without a sample, 0 for one with a constant variable. Slightly negative values are kept. Fewer than 6 bins
        are too few to halve: their value is `gaussian_equivalent`. With fewer samples than cells the value is not worth having.
        At functional dependence nothing in a table says how much finer than the bins it is. The value stays finite, at
        ln 4 `bins`: read it as "ln `bins` or more".

    Raises
    ------
    InputError
        `tables` are not square tables of counts.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal(50_000)
    >>> y = 0.8 * x + 0.6 * rng.standard_normal(50_000)  # they share .5108 nats, their 8 bins .4409
    >>> ranks = np.argsort(np.argsort([x, y], axis=1), axis=1) * 8 // 50_000
    >>> table = np.bincount(ranks[0] * 8 + ranks[1], minlength=64).reshape(1, 8, 8)
    >>> found = continuous(table)
    >>> round(float(found.mi[0]), 2), round(float(found.se[0]), 3)
    (0.52, 0.004)
    """
    counts = np.asarray(tables)
    if counts.ndim != 3 or counts.shape[1] != counts.shape[2] or counts.shape[1] < 1 or counts.dtype.kind not in "iu":
        raise InputError(
            f"tables must be whole numbers of shape (pairs, bins, bins); got {counts.dtype} of shape {counts.shape}."
        )
    bins = counts.shape[1]
    groups = merging(bins)
    found = contrasts(counts, groups)
    n = np.maximum(found.n, 1).astype(np.float64)
    mi = _corrected(found.fine, found.fine_jackknife, found.fine_remainder, found.fine_entropy)
    if bins < _FEW:
        value = gaussian_equivalent(mi, bins)
        by_fine = (gaussian_equivalent(mi + 1e-4, bins) - gaussian_equivalent(mi - 1e-4, bins)) / 2e-4
        by_coarse = noise = np.zeros_like(mi)
    else:
        coarse = _corrected(found.coarse, found.coarse_jackknife, found.coarse_remainder, found.coarse_entropy)
        gaussian = _gaussian(bins)
        size = np.abs(mi)
        expected = np.sign(mi) * gaussian.step(size)

        # The contrast is a quarter of 2B(B-1) squares over n, each of variance 2 at independence.
        square = np.maximum(found.square, 1e-300)
        variance = bins * (bins - 1) / (4 * n * n)
        weight = square**2 / (square**2 + _NOISE * variance)
        step = expected + weight * (mi - coarse - expected)

        plain = gaussian.factor(size)
        rim = np.clip(found.rim / square, 0, 1) - gaussian.rim(size)
        sharpness = np.clip(found.fourth / square, 0, 1) - gaussian.sharpness(step)
        factor = np.clip(plain + weight * (_RIM * rim + _SHARPNESS * sharpness), _SMOOTH, np.maximum(_CAP, plain))
        value = mi + factor * step

        slope = (gaussian.step(size + 1e-4) - gaussian.step(size)) / 1e-4
        by_fine = 1 + factor * (weight + (1 - weight) * slope)
        by_coarse = -factor * weight
        # Two shares of a noisy whole are about as noisy as it is.
        noise = (_RIM**2 + _SHARPNESS**2) * variance * (step * square / (square**2 + _NOISE * variance)) ** 2

    se = np.sqrt(_variance(found, n, by_fine, by_coarse) + noise)
    constant = found.fine_entropy == 0  # shares nothing; rounding must not say otherwise
    return Continuous(np.where(constant, 0.0, value), np.where(constant, 0.0, se))


def _corrected(raw: Floats, jackknife: Floats, remainder: Floats, entropy: Floats) -> Floats:
    once = raw + jackknife
    told = entropy - remainder
    room = 1 - np.divide(once - remainder, told, out=np.zeros_like(once), where=told > 1e-9)
    return np.asarray(once - remainder * np.clip(room, 0, 1) ** _FADE)


def _variance(found: Contrasts, n: Floats, by_fine: Floats, by_coarse: Floats) -> Floats:
    """Delta method through by_fine I + by_coarse I', with the variance at independence as its floor.

    With few samples a cell the noise of the log ratios adds the floor once more. It is left in: the jackknife is noisier too.
    """
    spread = (
        by_fine**2 * (found.fine_fine - found.fine**2)
        + 2 * by_fine * by_coarse * (found.fine_coarse - found.fine * found.coarse)
        + by_coarse**2 * (found.coarse_coarse - found.coarse**2)
    )
    chance = (by_fine + by_coarse) ** 2 * found.coarse_freedom + by_fine**2 * (found.fine_freedom - found.coarse_freedom)
    return np.maximum(spread / n, chance / (2 * n * n))
