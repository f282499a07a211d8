"""Corrections of the plug-in estimate for undersampling, each from the counts alone.

Every entropy estimate that is a sum over counts gives a mutual information of one form. With f(n) = n ln n and a correction's
term d(n), the corrected value is the plug-in value plus

    [ sum over cells d(n_ij) - sum over rows d(a_i) - sum over columns d(b_j) + d0 ] / N,

so that one kernel with one lookup table serves them all (`kernels.pair_sums`). Panzeri and Treves' estimate has no such form and
a kernel of its own; "adjusted" and "chance" take the chance level (`mi_probe.chance`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.sums import SMALL, jackknife_table

__all__ = ["CORRECTIONS", "WORDS", "AdditiveTerms", "Correction", "additive_terms"]

Correction = Literal["adjusted", "none", "miller_madow", "grassberger", "jackknife", "panzeri_treves", "chance"]

CORRECTIONS: tuple[Correction, ...] = get_args(Correction)


WORDS: dict[Correction, str] = {
    "adjusted": "adjusted for chance",
    "none": "not corrected",
    "chance": "less the chance level",
    "miller_madow": "Miller-Madow corrected",
    "grassberger": "Grassberger corrected",
    "jackknife": "jackknifed",
    "panzeri_treves": "Panzeri-Treves corrected",
}
"""What a value is, in words."""


class AdditiveTerms(NamedTuple):
    """The terms d of an additive correction, in nats times samples."""

    tables: NDArray[np.float64]
    """Shape (2, 4096): d(n) for n = 0, 1, ...; for cells, and for margins."""
    tails: NDArray[np.float64]
    """Shape (2, 2, 2): beyond the table d(n) = limit + slope / n; by (cells or margins, even or odd n)."""

    def of_total(self, n: NDArray[np.int64], correction: Correction) -> NDArray[np.float64]:
        """d0 for each number of samples, shape (pairs,)."""
        if correction == "grassberger":  # ln N itself is known, and needs no correction
            return np.zeros(len(n))
        size = self.tables.shape[1]
        odd = n & 1
        beyond = self.tails[1, odd, 0] + self.tails[1, odd, 1] / np.maximum(n, 1)
        within = self.tables[1][np.minimum(n, size - 1)]
        return np.asarray(np.where(n < size, within, beyond))


def additive_terms(correction: Correction) -> AdditiveTerms | None:
    """The terms of a correction that is a sum over counts; None for the others.

    miller_madow
        d(n) = -1/2 for every occupied cell or bin (Miller 1955; Madow 1948).
    jackknife
        d(n) = n [f(n) - f(n-1)] - f(n): N I - (N-1) times the mean of I over the samples left out one at a time (Zahl 1977,
        Ecology 58:907), since leaving out one sample of a cell lowers that cell and its two margins by one. In the table it is n
        less, which cancels, so that nothing large is subtracted: n (n-1) ln(n/(n-1)) - n.
    grassberger
        Cells: d(n) = n G(n) - f(n), G(n) = psi(n) + (-1)^n/2 [psi((n+1)/2) - psi(n/2)] (Grassberger 2003,
        arXiv:physics/0307138). Margins: n psi(n) - f(n) (Grassberger 1988; Herzel 1988), since the alternating term only averages
        out where counts vary, and equal-count bins all hold one number: it would shift every pair by up to .04 at 94 samples.

    Examples
    --------
    >>> additive_terms("jackknife").tables[0, 1:4].round(4)
    array([-1.    , -0.6137, -0.5672])
    """
    from scipy.special import digamma

    n = np.arange(1, SMALL, dtype=np.float64)
    if correction == "miller_madow":
        cells = margins = np.full(len(n), -0.5)
        tails = np.array([[[-0.5, 0.0]] * 2] * 2)
    elif correction == "jackknife":
        cells = margins = jackknife_table()[1:]
        tails = np.array([[[-0.5, -1 / 6]] * 2] * 2)
    elif correction == "grassberger":
        margins = n * (digamma(n) - np.log(n))
        sign = np.where(n % 2, -1.0, 1.0)
        cells = margins + n * sign / 2 * (digamma((n + 1) / 2) - digamma(n / 2))
        tails = np.array([[[0.0, 1 / 6], [-1.0, -1 / 3]], [[-0.5, -1 / 12]] * 2])
    else:
        return None
    tables = np.zeros((2, SMALL))
    tables[:, 1:] = cells, margins
    return AdditiveTerms(tables, tails)
