"""Which test of independence a set of counts allows, and why there is none."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import InputError, nearest
from mi_probe.permutation import permutation_p_values
from mi_probe.pointcounts import PointCounts
from mi_probe.serial import serial_p_values
from mi_probe.significance import PairMargins, gamma_p_values

__all__ = ["MOST_TOKENS", "PValues", "p_values"]

PValues = Literal["auto", "serial", "gamma", "permutation", "none"]

_FEW_NEIGHBOURS = 0.5

MOST_TOKENS = 100_000
"""Beyond, "auto" gives no p-values: with so many tokens every pair differs from independence, if only by position in the text."""


def p_values(counts: PointCounts, raw: NDArray[np.float64], test: PValues = "auto") -> tuple[NDArray[np.float64] | None, str]:
    """P-values of every pair for independence, with a line that says where they come from, or why there are none.

    Parameters
    ----------
    counts : PointCounts
    raw : array, shape (pairs,), nats
        Plug-in MI.
    test : {"auto", "serial", "gamma", "permutation", "none"}
        - ``"serial"``: a chi-square test that allows for tokens that resemble those before them (`mi_probe.serial`); needs lagged
          counts. For tokens.
        - ``"gamma"``: the same for independent samples (`mi_probe.significance`).
        - ``"permutation"``: a million random pairings that all pairs share, for independent samples in equal-count bins without
          missing values (`mi_probe.permutation`). Exact; takes seconds.
        - ``"auto"``: "serial" where there are lagged counts, else "gamma"; none beyond 100,000 samples.

    Returns
    -------
    p : array, shape (pairs,), or None
    note : str
        Empty if no test was asked for.

    Raises
    ------
    InputError
        Unknown test, one that these counts do not allow.

    Examples
    --------
    >>> import numpy as np
    >>> from mi_probe.binning import Binning
    >>> counts = PointCounts(Binning(np.zeros((2, 1)), "equal_count"))
    >>> p_values(counts, np.array([0.1]), "none")
    (None, '')
    """
    if test not in get_args(PValues):
        raise InputError(
            f"p_values {test!r} is not a test known here{nearest(str(test), get_args(PValues))}; choose one of "
            f"{', '.join(get_args(PValues))}."
        )
    if test == "none":
        return None, ""
    if test == "auto" and counts.joint.n > MOST_TOKENS:
        return None, (
            f"no p-values: with {counts.joint.n:,} samples, more than {MOST_TOKENS:,}, nearly every pair differs from "
            "independence, however little; read mi with its error. p_values='serial' or 'gamma' computes them all the same"
        )
    lags = counts.extras.lags
    if test == "auto":
        test = "serial" if lags else "gamma"
    if test == "serial":
        if not lags:
            raise InputError("the serial test needs lagged counts, and none were kept: use Probe(lags=12), or p_values='gamma'.")
        note = f"p-values: chi-square, allowing for resemblance up to {lags} samples apart"
        present = counts.joint.margins.sum(axis=1).astype(np.float64)
        # Of a variable with gaps a share q of the samples is there, and q^2 of the neighbours.
        # The nearest ones: where one token in four is kept, those four apart.
        neighbours = counts.lagged.sum(axis=(2, 3)).max(axis=0) * counts.joint.n / np.maximum(present, 1) ** 2
        followed = min(1.0, float(neighbours.max(initial=0.0)))
        if present.max(initial=0) > 1 and not followed:
            note = f"p-values: chi-square; no sample follows another within {lags}, so that all are taken as independent"
        elif present.max(initial=0) > 1 and followed < _FEW_NEIGHBOURS:
            note += f"; but only {followed:.0%} of the samples are known to follow another: elsewhere none is allowed for"
        return serial_p_values(counts.joint, counts.lagged), note
    if test == "gamma":
        return gamma_p_values(counts.joint), "p-values: chi-square with exact moments, for independent samples"
    p = permutation_p_values(raw, PairMargins.of(counts.joint))
    return p, "p-values: random pairings shared by all pairs, for independent samples"
