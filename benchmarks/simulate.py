"""Samples of which the truth is known, for the rates of the tests of independence: what is rejected that should not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning
from mi_probe.counts import JointCounts
from mi_probe.estimators import estimate
from mi_probe.extras import LAGS
from mi_probe.permutation import DRAWS, permutation_p_values
from mi_probe.serial import count_lags, serial_p_values
from mi_probe.significance import FalseDiscoveries, PairMargins, false_discovery, gamma_p_values

__all__ = ["LEVELS", "Case", "Discoveries", "Rates", "discoveries", "false_positives", "repetition", "series"]

Floats = NDArray[np.float64]

LEVELS = (0.05, 0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Case:
    """What is simulated, and how it is tested.

    Attributes
    ----------
    test : {"gamma", "permutation", "serial"}
    samples : int
        Tokens of each text.
    bins : int
    method : {"equal_count", "equal_width"}
    phi : float
        Correlation of each token with the one before, in every variable.
    texts : int
    lags : int
        Of the serial test.
    """

    test: Literal["gamma", "permutation", "serial"]
    samples: int
    bins: int
    method: Literal["equal_count", "equal_width"] = "equal_count"
    phi: float = 0.0
    texts: int = 1
    lags: int = LAGS


class Rates(NamedTuple):
    """Share of p-values at or below each of `LEVELS`, and its standard error over repeats, in which variables are shared."""

    share: Floats
    error: Floats


class Discoveries(NamedTuple):
    """Over repeats: mean share of false ones among the discoveries, its standard error, mean share of the true pairs found."""

    false: float
    error: float
    found: float


def series(rng: np.random.Generator, case: Case, variables: int, *, rho: float = 0.0, linked: int = 0) -> Floats:
    """AR(1) Gaussian series, shape (tokens, variables), each text begun anew; the first `linked` pairs (0, 1), (2, 3) ... of
    variables have correlation rho, all others none."""
    noise = rng.standard_normal((case.texts, case.samples, variables))
    second = slice(1, 2 * linked, 2)
    noise[:, :, second] = rho * noise[:, :, 0 : 2 * linked : 2] + np.sqrt(1 - rho**2) * noise[:, :, second]
    x = noise
    for t in range(1, case.samples):
        x[:, t] = case.phi * x[:, t - 1] + np.sqrt(1 - case.phi**2) * noise[:, t]
    return x.reshape(-1, variables)


def _p_values(case: Case, texts: list[Floats]) -> list[Floats]:
    """P-values of all pairs of each array of series."""
    found: list[Floats] = []
    raw: list[Floats] = []
    for x in texts:
        codes = Binning.fit(x, bins=case.bins, method=case.method).encode(x)
        counts = JointCounts.from_codes(codes, case.bins)
        if case.test == "permutation":  # one null for all repeats: equal-count bins have the same margins in each
            margins = PairMargins.of(counts)
            raw.append(estimate(counts, correction="none").raw)
        elif case.test == "gamma":
            found.append(gamma_p_values(counts))
        else:
            lagged = np.zeros((case.lags, counts.variables, case.bins, case.bins), dtype=np.int64)
            count_lags(codes, np.full(case.texts, case.samples), lagged)
            found.append(serial_p_values(counts, lagged))
    if case.test != "permutation":
        return found
    every = PairMargins(margins.pool, np.tile(margins.first, len(raw)), np.tile(margins.second, len(raw)))
    return np.split(permutation_p_values(np.concatenate(raw), every, draws=DRAWS), len(raw))


def repetition(words: NDArray[np.int64], case: Case, *, noise: float = 0.3, repeats: int, variables: int = 100) -> Rates:
    """The same where tokens are words that recur: each word has one value in each variable, drawn anew, and each token noise."""
    rng = np.random.default_rng(0)
    types, which = np.unique(words, return_inverse=True)
    texts = [
        rng.standard_normal((len(types), variables))[which] + noise * rng.standard_normal((len(words), variables))
        for _ in range(repeats)
    ]
    p = np.stack(_p_values(case, texts))
    shares = np.stack([(p <= level).mean(axis=1) for level in LEVELS], axis=1)
    return Rates(shares.mean(axis=0), shares.std(axis=0, ddof=1) / np.sqrt(repeats))


def false_positives(case: Case, *, repeats: int, variables: int = 100, seed: int = 0) -> Rates:
    """How often pairs of independent series are called dependent."""
    rng = np.random.default_rng(seed)
    p = np.stack(_p_values(case, [series(rng, case, variables) for _ in range(repeats)]))
    shares = np.stack([(p <= level).mean(axis=1) for level in LEVELS], axis=1)
    return Rates(shares.mean(axis=0), shares.std(axis=0, ddof=1) / np.sqrt(repeats))


def discoveries(
    case: Case, *, rho: float, q: float, method: FalseDiscoveries, repeats: int, variables: int = 98, seed: int = 0
) -> Discoveries:
    """What is discovered where each variable depends on one other, one pair of about a hundred: 49 of 4,753."""
    rng = np.random.default_rng(seed)
    linked = variables // 2
    first, second = np.triu_indices(variables, 1)
    true = (first % 2 == 0) & (second == first + 1)
    wrong, found = [], []
    for p in _p_values(case, [series(rng, case, variables, rho=rho, linked=linked) for _ in range(repeats)]):
        called = false_discovery(p, method=method) <= q
        wrong.append((called & ~true).sum() / max(called.sum(), 1))
        found.append((called & true).sum() / true.sum())
    return Discoveries(float(np.mean(wrong)), float(np.std(wrong, ddof=1) / np.sqrt(repeats)), float(np.mean(found)))
