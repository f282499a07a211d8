"""Corrections and standard errors against definitions, leave-one-out, recursions and infomeasure."""

from __future__ import annotations

import infomeasure
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, xlogy

from mi_probe import JointCounts, kernels, pairwise
from mi_probe.chance import SERIES_FROM, chance_level
from mi_probe.corrections import CORRECTIONS, additive_terms
from mi_probe.estimators import estimate

from .test_estimators import skewed_codes

ADDITIVE = ("miller_madow", "jackknife", "grassberger")


def plug_in(table: np.ndarray) -> float:
    n = table.sum()
    return float((xlogy(table, table).sum() - sum(xlogy(m, m).sum() for m in (table.sum(0), table.sum(1)))) / n + np.log(n))


def corrected(table: np.ndarray, correction: str) -> float:
    """One table, straight from the definition."""
    n = int(table.sum())
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    if correction == "none":
        return plug_in(table)
    if correction == "miller_madow":
        k_x, k_y, k_xy = (np.count_nonzero(m) for m in (rows, columns, table))
        return plug_in(table) + (k_x + k_y - k_xy - 1) / (2 * n)
    if correction == "jackknife":
        left_out = 0.0
        for cell in np.argwhere(table):
            smaller = table.copy()
            smaller[tuple(cell)] -= 1
            left_out += table[tuple(cell)] * plug_in(smaller) / n
        return n * plug_in(table) - (n - 1) * left_out
    if correction == "grassberger":
        joint = sum(c * grassberger(c) for c in table.ravel() if c)
        margins = sum(c * digamma(c) for c in (*rows, *columns) if c)
        return float((joint - margins) / n + np.log(n))
    return plug_in(table) - (bias_by_relevant_bins(table) + bias_by_relevant_bins(table.T)) / 2


def grassberger(n: int) -> float:
    """G(n) by the recursion of Grassberger (2003): G(1) = -gamma - ln 2, G(2) = 2 + G(1), G(2m + 2) = G(2m) + 2/(2m + 1)."""
    value = -np.euler_gamma - np.log(2)
    return float(value + sum(2 / (2 * m + 1) for m in range(n // 2)))


def bias_by_relevant_bins(table: np.ndarray) -> float:
    """Panzeri and Treves (1996): (1/2N) [sum over rows (R_s - 1) - (R - 1)], bins counted by their Bayesian procedure."""
    rows = [relevant_bins(row) - 1 for row in table if row.sum()]
    return (sum(rows) - (relevant_bins(table.sum(axis=0)) - 1)) / (2 * table.sum())


def relevant_bins(counts: np.ndarray) -> int:
    seen, n = counts[counts > 0], counts.sum()
    occupied = len(seen)

    def distance(extra: int) -> float:
        if not extra:
            return abs(occupied - (1 - (1 - seen / n) ** n).sum())
        share = extra * (1 - (n / (n + occupied)) ** (1 / n))
        among_seen = 1 - (1 - (1 - share) * (seen + 1) / (n + occupied)) ** n
        return abs(occupied - among_seen.sum() - extra * (1 - (1 - share / extra) ** n))

    extra = 0
    while occupied + extra < len(counts) and distance(extra + 1) < distance(extra):
        extra += 1
    return occupied + extra


@pytest.mark.parametrize(("samples", "bins"), [(6, 3), (40, 5), (94, 15), (700, 4)])
@pytest.mark.parametrize("correction", ["none", *ADDITIVE, "panzeri_treves"])
def test_each_correction_is_its_definition(samples: int, bins: int, correction: str) -> None:
    counts = JointCounts.from_codes(skewed_codes(samples, samples, 5, bins), bins)
    found = estimate(counts, correction=correction)
    for pair, table in enumerate(counts.tables.astype(np.int64)):
        constant = min(np.count_nonzero(table.sum(axis=k)) for k in (0, 1)) == 1
        assert found.mi[pair] == pytest.approx(0.0 if constant else corrected(table, correction), abs=1e-10)


@pytest.mark.parametrize(("correction", "theirs"), [("none", "discrete"), ("miller_madow", "miller_madow")])
def test_infomeasure_agrees_where_it_is_right(correction: str, theirs: str) -> None:
    codes = skewed_codes(3, 94, 4, 5)
    found = estimate(JointCounts.from_codes(codes, 5), correction=correction)
    for pair, (i, j) in enumerate(zip(*np.triu_indices(4, 1), strict=True)):
        expected = infomeasure.mutual_information(codes[:, i], codes[:, j], approach=theirs)
        assert found.mi[pair] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("correction", ADDITIVE)
def test_the_terms_go_on_beyond_their_table(correction: str) -> None:
    terms = additive_terms(correction)
    assert terms is not None
    size = terms.tables.shape[1]
    for which in (0, 1):
        for n in (size - 2, size - 1):
            beyond = terms.tails[which, n % 2, 0] + terms.tails[which, n % 2, 1] / n
            assert terms.tables[which, n] == pytest.approx(beyond, abs=1e-7)
    tables = np.array([[[9000, 4093], [5000, 12_001]]])
    shorter = kernels.pair_sums(tables, terms.tables[:, :3], terms.tails)  # all but 0, 1, 2 by the formula beyond
    assert kernels.pair_sums(tables, *terms).correction == pytest.approx(shorter.correction, abs=1e-6)


def test_less_the_chance_level_is_that() -> None:
    counts = JointCounts.from_codes(skewed_codes(5, 94, 4, 8), 8)
    found = estimate(counts, correction="chance")
    np.testing.assert_array_equal(found.mi, found.raw - found.chance)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 9), st.sampled_from(CORRECTIONS))
def test_every_correction_is_symmetric_and_blind_to_the_names_of_bins(
    seed: int, samples: int, bins: int, correction: str
) -> None:
    codes = skewed_codes(seed, samples, 2, bins)
    relabelled = np.random.default_rng(seed).permutation(bins).astype(np.uint8)[codes]
    first, swapped, renamed = (
        estimate(JointCounts.from_codes(c, bins), correction=correction)
        for c in (codes, np.ascontiguousarray(codes[:, ::-1]), relabelled)
    )
    for what in ("mi", "se"):
        np.testing.assert_allclose(getattr(first, what), getattr(swapped, what), atol=1e-10)
        np.testing.assert_allclose(getattr(first, what), getattr(renamed, what), atol=1e-10)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_constant_shares_0_under_every_correction(correction: str) -> None:
    x = np.random.default_rng(7).standard_normal((94, 3))
    x[:, 1] = 2.0
    found = pairwise(x, bins=6, correction=correction)
    assert found.mi[0, 1] == 0
    assert found.matrix("se")[0, 1] == 0
    assert any("constant variables: 1;" in note for note in found.notes)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_pair_without_samples_is_nan_under_every_correction(correction: str) -> None:
    x = np.random.default_rng(8).standard_normal((60, 3))
    x[:30, 0], x[30:, 1] = np.nan, np.nan
    found = pairwise(x, bins=4, correction=correction)
    assert np.isnan(found.mi[0, 1])
    assert np.isnan(found.matrix("se")[0, 1])
    assert np.isfinite(found.mi[0, 2])


def samples_of(rho: float, n: int, pairs: int, seed: int) -> np.ndarray:
    x, y = np.random.default_rng(seed).standard_normal((2, n, pairs))
    return np.stack([x, rho * x + np.sqrt(1 - rho**2) * y], axis=2)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("correction", ["adjusted", "none", "miller_madow"])
def test_the_standard_error_is_the_spread_over_samples(rho: float, correction: str) -> None:
    x = samples_of(rho, 2000, 300, 1)
    each = [pairwise(x[:, k], bins=8, correction=correction, p_values="none") for k in range(300)]
    spread = np.std([e.pairs("mi")[0] for e in each], ddof=1)
    assert np.mean([e.pairs("se")[0] for e in each]) == pytest.approx(spread, rel=0.15)


def test_the_chance_level_has_no_step_where_it_changes_its_way() -> None:
    """Across the number of samples at which the exact sum gives way to the expansion, and that to its closed form."""
    for bins, skew in ((2, 1), (8, 1), (5, 4), (15, 3)):
        shares = np.linspace(1, skew, bins)
        shares /= shares.sum()
        smallest = shares.min()
        switch = int(SERIES_FROM / smallest**2)  # where the smallest cell expects so many
        levels = []
        for n in range(switch - 40, switch + 40):
            margin = np.floor(shares * n).astype(np.int64)
            margin[-1] += n - margin.sum()
            levels.append(chance_times_n(margin))
        steps = np.diff(levels) / switch
        assert np.abs(steps - np.median(steps)).max() < 1e-6


def chance_times_n(margin: np.ndarray) -> float:
    return float(chance_level(np.stack([margin, margin]))[0, 1] * margin.sum())
