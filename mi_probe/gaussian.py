"""What a Gaussian would share: MI from correlations, of the values themselves or of their ranks.

Beside the estimate from bins it says how much of a dependence covariance sees. Second moments are kept as whole numbers, so that
they add up over texts exactly, as counts do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning
from mi_probe.errors import InputError, MergeError

__all__ = ["SecondMoments", "gaussian_mi", "normal_scores", "pearson"]

_STEP = 2.0**-10
"""Resolution of a standardised value, in standard deviations."""

_COLUMNS = 64

_FARTHEST = 2**15 - 1
"""In steps: values beyond 32 standard deviations count as that far."""


def gaussian_mi(correlation: NDArray[np.float64], n: NDArray[Any] | int) -> NDArray[np.float64]:
    """MI of two Gaussian variables by their sample correlation, without the bias of a small sample.

        -1/2 ln(1 - r^2) + 1/2 [psi((n-2)/2) - psi((n-1)/2)]

    The second term is the bias of the entropies of Gaussian samples (Misra, Singh and Demchuk 2005, J. Multivariate Analysis
    92:324; as in Ince et al. 2017, Human Brain Mapping 38:1541). For other variables it is what a Gaussian of that correlation
    shares; with the correlation of normal scores (`normal_scores`) it is a lower bound of their MI, up to noise.

    Parameters
    ----------
    correlation : array
    n : array or int
        Samples each correlation was computed from.

    Returns
    -------
    array, nats
        Not clipped, so slightly negative at independence. ``inf`` for a correlation of 1 or -1, 0 for one of exactly 0, which is
        that of a constant; NaN below 4 samples.

    Examples
    --------
    >>> import numpy as np
    >>> gaussian_mi(np.array([0.0, 0.6]), 10**6).round(4)
    array([0.    , 0.2231])
    """
    from scipy.special import digamma

    samples = np.asarray(n, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = (digamma((samples - 2) / 2) - digamma((samples - 1) / 2)) / 2
        rest = (1 - correlation) * (1 + correlation)
        mi = np.where(rest > 1e-12, -0.5 * np.log(np.maximum(rest, 1e-300)), np.inf) + bias
    mi = np.where(correlation == 0, 0.0, mi)
    return np.where((samples >= 4) & ~np.isnan(correlation), mi, np.nan)


def normal_scores(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each column's ranks as quantiles of a normal distribution; equal values share their mean rank, missing ones stay NaN.

    Parameters
    ----------
    x : array, shape (samples, variables)
        Values that are not finite are missing.

    Examples
    --------
    >>> import numpy as np
    >>> normal_scores(np.array([[3.0], [1.0], [2.0]])).round(3)[:, 0]
    array([ 0.674, -0.674,  0.   ])
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores = np.empty(x.shape)
    for start in range(0, x.shape[1], _COLUMNS):  # ranking takes several times the memory of what is ranked
        part = x[:, start : start + _COLUMNS]
        present = np.isfinite(part)
        ranks = rankdata(np.where(present, part, np.nan), axis=0, nan_policy="omit")
        scores[:, start : start + _COLUMNS] = ndtri(ranks / (present.sum(axis=0) + 1))
    return scores


class SecondMoments:
    """Means, variances and covariances of every pair of variables, as whole numbers that add up exactly.

    A value is standardised by a frozen centre and scale and rounded to 1/1024 of the scale; values further than 32 scales off
    count as 32 (`clipped` counts them).

    Parameters
    ----------
    centre, scale : arrays, shape (variables,)
        Roughly the mean and standard deviation of each variable; 0 and 1 stand for those of a variable without finite values.

    Attributes
    ----------
    clipped : array, shape (variables,), int64
    n, sums, squares, products : arrays, shape (variables, variables), int64
        Over the samples in which both variables are present: their number, and the sums of x, x^2 and x y in steps; rows are x.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((1000, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    >>> moments = SecondMoments.within(Binning.fit(x))
    >>> moments.update(moments.steps(x))
    >>> bool(abs(moments.correlation()[0, 1] - np.corrcoef(x.T)[0, 1]) < 1e-4)
    True
    """

    SUMS = ("clipped", "n", "sums", "squares", "products")

    def __init__(self, centre: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        self.centre = np.array(centre, dtype=np.float64)
        self.scale = np.array(scale, dtype=np.float64)
        size = len(self.centre)
        if self.centre.shape != self.scale.shape or not (np.isfinite(self.centre).all() and (self.scale > 0).all()):
            raise InputError("second moments need a finite centre and a scale above 0 for every variable.")
        self.clipped = np.zeros(size, dtype=np.int64)
        self.n, self.sums, self.squares, self.products = (np.zeros((size, size), dtype=np.int64) for _ in range(4))

    @classmethod
    def nbytes_for(cls, variables: int) -> int:
        """Bytes of the sums, and of a file that holds them."""
        return (4 * variables + 1) * variables * 8

    @classmethod
    def within(cls, binning: Binning) -> SecondMoments:
        """Empty moments, with the mean and standard deviation that came with the edges: equal edges always add up.

        Raises
        ------
        InputError
            These edges came without.
        """
        if binning.frame is None:
            raise InputError(
                "second moments need the mean and standard deviation that Binning.fit keeps with its edges, and these edges have "
                "none: fit them on a sample, or leave out moments=True."
            )
        return cls(*binning.frame.T)

    def steps(self, x: NDArray[np.floating], which: slice = slice(None)) -> NDArray[np.int16]:
        """Standardised values in steps, and the lowest 16-bit number where a value is not finite; of some variables, if said."""
        with np.errstate(invalid="ignore"):
            wide = np.rint((x.astype(np.float64) - self.centre[which]) / (self.scale[which] * _STEP))
            steps = np.clip(wide, -_FARTHEST, _FARTHEST)
        return np.where(np.isfinite(x), steps, -_FARTHEST - 1).astype(np.int16)

    def update(self, steps: NDArray[np.int16]) -> None:
        """Add samples, shape (samples, variables), as `steps` gives them."""
        for start in range(0, len(steps), 4096):  # far below what float64 adds up without rounding
            part = steps[start : start + 4096]
            present = part > -_FARTHEST - 1
            values = np.where(present, part, 0).astype(np.float64)
            self.clipped += (np.abs(values) == _FARTHEST).sum(axis=0)
            self.products += (values.T @ values).astype(np.int64)
            if present.all():
                self.n += len(part)
                self.sums += values.sum(axis=0).astype(np.int64)[:, None]
                self.squares += (values**2).sum(axis=0).astype(np.int64)[:, None]
            else:
                here = present.astype(np.float64)
                self.n += (here.T @ here).astype(np.int64)
                self.sums += (values.T @ here).astype(np.int64)
                self.squares += ((values**2).T @ here).astype(np.int64)

    def require_same(self, other: SecondMoments) -> None:
        """Raise `MergeError` unless both standardise alike."""
        if not (np.array_equal(self.centre, other.centre) and np.array_equal(self.scale, other.scale)):
            raise MergeError("second moments differ: their values were standardised by other centres or scales.")

    def __iadd__(self, other: SecondMoments) -> SecondMoments:
        """Add other moments of the same centre and scale."""
        self.require_same(other)
        for name in self.SUMS:
            getattr(self, name).__iadd__(getattr(other, name))
        return self

    def restore(self, arrays: dict[str, NDArray[np.integer]]) -> None:
        """Take sums from a file.

        Raises
        ------
        InputError
            Arrays of another shape, or not whole numbers.
        """
        for name in self.SUMS:
            mine, theirs = getattr(self, name), arrays[name]
            if theirs.shape != mine.shape or theirs.dtype != np.int64:
                raise InputError(f"second moments '{name}' must be int64 of {mine.shape}; got {theirs.dtype} of {theirs.shape}.")
        n, squares, products = (arrays[name].astype(np.float64) for name in ("n", "squares", "products"))
        if min(int(arrays[name].min(initial=0)) for name in ("clipped", "n", "squares")) < 0 or not (
            np.array_equal(products, products.T)
            and (products**2 <= squares * squares.T * (1 + 1e-9)).all()
            and (arrays["sums"].astype(np.float64) ** 2 <= n * squares * (1 + 1e-9)).all()
        ):
            raise InputError("second moments contradict each other.")
        for name in self.SUMS:
            getattr(self, name)[:] = arrays[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecondMoments) and all(np.array_equal(a, getattr(other, k)) for k, a in vars(self).items())

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def copy(self) -> SecondMoments:
        """An independent copy."""
        twin = SecondMoments(self.centre, self.scale)
        twin += self
        return twin

    def correlation(self) -> NDArray[np.float64]:
        """Pearson's correlation of every pair over the samples in which both are present, shape (variables, variables).

        NaN for a pair without a sample, 0 with a constant variable.
        """
        return _correlation(*(a.astype(np.float64) for a in (self.n, self.sums, self.squares, self.products)))


def pearson(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson's correlation of every two columns over the samples in which both are finite, shape (variables, variables).

    NaN for a pair without a sample, 0 with a constant variable.

    Examples
    --------
    >>> import numpy as np
    >>> pearson(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])).round(6)
    array([[1., 1.],
           [1., 1.]])
    """
    present = np.isfinite(x)
    values = np.where(present, x, 0.0).astype(np.float64)
    # Centred and scaled first, so that nothing large is subtracted below, nor squared.
    count = np.maximum(present.sum(axis=0), 1)
    for _ in range(2):
        largest = np.abs(values).max(axis=0, initial=0.0)
        values = np.where(present, values / np.where(largest > 0, largest, 1.0), 0.0)
        values = np.where(present, values - values.sum(axis=0) / count, 0.0)
    here = present.astype(np.float64)
    return _correlation(here.T @ here, values.T @ here, (values**2).T @ here, values.T @ values)


def _correlation(
    n: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64], products: NDArray[np.float64]
) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / n
        variance = squares / n - mean**2
        spread = np.sqrt(np.maximum(variance * variance.T, 0.0))
        told = (variance > 1e-14 * squares / n) & (1e-14 * squares.T / n < variance.T)
        r = np.where(told, (products / n - mean * mean.T) / spread, 0.0)
    return np.where(n > 0, np.clip(r, -1, 1), np.nan)
