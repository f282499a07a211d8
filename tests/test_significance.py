"""P-values against SciPy, enumeration, direct permutation and simulation."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import factorial

import numpy as np
import pytest
from scipy import stats

from mi_probe.binning import MISSING, Binning
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError
from mi_probe.estimators import estimate
from mi_probe.extras import LAGS
from mi_probe.kernels.squares import chi_square
from mi_probe.permutation import permutation_p_values
from mi_probe.serial import count_lags, serial_p_values
from mi_probe.significance import (
    PairMargins,
    exact_moments,
    false_discovery,
    gamma_p_values,
    pool_sparse,
    pooled,
    upper_tail,
)


def codes_of(seed: int, samples: int, variables: int, bins: int, *, missing: float = 0.0, phi: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, variables))
    for t in range(1, samples):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * x[t]
    x[:, 1] += x[:, 0]
    x[rng.random(x.shape) < missing] = np.nan
    return Binning.fit(x, bins=bins).encode(x)


def lagged_of(codes: np.ndarray, lengths: list[int], bins: int, lags: int = LAGS) -> np.ndarray:
    out = np.zeros((lags, codes.shape[1], bins, bins), dtype=np.int64)
    count_lags(codes, np.array(lengths), out)
    return out


def two(row: list[int], column: list[int]) -> PairMargins:
    bins = max(len(row), len(column))
    pool = np.array([m + [0] * (bins - len(m)) for m in (row, column)])
    return PairMargins(pool, np.array([0]), np.array([1]))


# -- X^2 and its exact moments ----------------------------------------------------------------------------------------


def test_chi_square_is_that_of_scipy_over_the_occupied_rows_and_columns() -> None:
    rng = np.random.default_rng(0)
    tables = rng.poisson(1.3, size=(45, 6, 6))
    tables[::3, 2] = 0
    tables[::5, :, 4] = 0
    found = chi_square(tables, np.tile(np.arange(6), (10, 1)))
    for table, value in zip(tables, found, strict=True):
        kept = table[table.any(axis=1)][:, table.any(axis=0)]
        assert value == pytest.approx(stats.chi2_contingency(kept, correction=False).statistic, rel=1e-12)


def test_chi_square_of_groups_is_that_of_the_pooled_table() -> None:
    rng = np.random.default_rng(1)
    tables, groups = rng.poisson(2.0, size=(6, 5, 5)), np.sort(rng.integers(0, 3, (4, 5)), axis=1)
    for pair, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        small = np.zeros((5, 5), dtype=np.int64)
        np.add.at(small, (groups[i][:, None], groups[j][None, :]), tables[pair])
        small = small[small.any(axis=1)][:, small.any(axis=0)]
        expected = stats.chi2_contingency(small, correction=False).statistic
        assert chi_square(tables, groups)[pair] == pytest.approx(expected, rel=1e-12)


def test_chi_square_keeps_its_digits_with_billions_of_samples() -> None:
    table = np.full((1, 2, 2), 10**9)
    table[0, 0, 0] += 10
    each = np.tile(np.arange(2), (2, 1))
    exact = Fraction(4 * 10**9 + 10) * (10 * 10**9) ** 2 / Fraction((2 * 10**9 + 10) ** 2 * (2 * 10**9) ** 2)
    assert chi_square(table, each)[0] == pytest.approx(float(exact), rel=1e-6)


def tables_with(row: list[int], column: list[int]) -> list[list[list[int]]]:
    """All tables with these margins."""
    if len(row) == 1:
        return [[column]]
    firsts = [list(c) for c in itertools.product(*(range(c + 1) for c in column)) if sum(c) == row[0]]
    return [[f, *rest] for f in firsts for rest in tables_with(row[1:], [c - x for c, x in zip(column, f, strict=True)])]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ([2, 2], [2, 2]),
        ([3, 2], [4, 1]),
        ([2, 2, 1], [3, 1, 1]),
        ([1, 1, 2, 3], [3, 4]),
        ([4, 3, 2], [5, 2, 2]),
        ([5, 1], [3, 3]),
    ],
)
def test_the_moments_are_those_of_all_tables_with_the_same_margins(row: list[int], column: list[int]) -> None:
    n = sum(row)
    first = second = whole = Fraction(0)
    for table in tables_with(row, column):
        weight = Fraction(1)
        for m in (*row, *column):
            weight *= factorial(m)
        weight /= factorial(n)
        square = Fraction(-n)
        for a, cells in zip(row, table, strict=True):
            for b, cell in zip(column, cells, strict=True):
                weight /= factorial(cell)
                square += Fraction(cell * cell * n, a * b)
        whole, first, second = whole + weight, first + weight * square, second + weight * square**2
    assert whole == 1
    mean, variance = exact_moments(two(row, column))
    assert mean[0] == pytest.approx(float(first), rel=1e-12)
    assert variance[0] == pytest.approx(float(second - first**2), rel=1e-12, abs=1e-12)


def test_the_moments_are_those_of_many_random_tables() -> None:
    row, column = [60, 20, 10, 4], [50, 30, 13, 1]
    tables = stats.random_table(row, column).rvs(200_000, random_state=np.random.default_rng(0))
    square = (tables**2 * (94 / np.outer(row, column))).sum(axis=(1, 2)) - 94
    mean, variance = exact_moments(two(row, column))
    assert square.mean() == pytest.approx(mean[0], abs=4 * square.std() / np.sqrt(len(square)))
    centred = (square - square.mean()) ** 2
    assert centred.mean() == pytest.approx(variance[0], abs=4 * centred.std() / np.sqrt(len(square)))


# -- the tail ---------------------------------------------------------------------------------------------------------


def test_the_tail_is_that_of_scipy_gamma_pearson3_and_normal() -> None:
    x = np.linspace(-3, 60, 64)
    one = np.ones_like(x)
    shape, scale = 4.0, 2.5
    gamma = upper_tail(x, shape * scale * one, shape * scale**2 * one, 2 / np.sqrt(shape) * one)
    np.testing.assert_allclose(gamma, stats.gamma.sf(x, shape, scale=scale), rtol=1e-9)
    for skew in (0.05, 0.4, 1.3):
        found = upper_tail(x, 9 * one, 16 * one, skew * one)
        np.testing.assert_allclose(found, stats.pearson3.sf(x, skew, loc=9, scale=4), rtol=1e-6)
    np.testing.assert_allclose(upper_tail(x, 9 * one, 16 * one, 0 * one), stats.norm.sf(x, 9, 4), rtol=1e-12)
    np.testing.assert_allclose(upper_tail(x, 9 * one, 16 * one, 2e-5 * one), stats.norm.sf(x, 9, 4), rtol=1e-2)


def test_no_tail_is_zero() -> None:
    for skew in (-1.0, 0.0, 0.5):
        p = upper_tail(np.array([1e9]), np.array([1.0]), np.array([1.0]), np.array([skew]))
        assert 0 < p[0] < 1e-300


# -- sparse bins ------------------------------------------------------------------------------------------------------


def test_pooled_bins_are_neighbours_full_enough_and_hold_every_sample() -> None:
    rng = np.random.default_rng(2)
    for bins in (1, 2, 3, 8, 15):
        margins = np.concatenate(
            [rng.multinomial(n, rng.dirichlet(np.full(bins, c)))[None] for n in (0, 3, 30, 94, 5000) for c in (0.1, 1, 10)]
        )
        groups = pool_sparse(margins)
        assert (groups[:, 0] == 0).all()
        assert set(np.diff(groups, axis=1).ravel()) <= {0, 1}
        small = pooled(margins, groups)
        np.testing.assert_array_equal(small.sum(axis=1), margins.sum(axis=1))
        last = groups.max(axis=1)
        for m, k in zip(small, last, strict=True):
            assert (m[: k + 1] >= np.sqrt(m.sum())).all()
            assert not m[k + 1 :].any()


def test_a_margin_read_backwards_is_pooled_backwards() -> None:
    margins = np.array([[1, 0, 9, 40, 38, 4, 2], [5, 3, 50, 0, 1, 9, 2], [30, 1, 1, 1, 1, 1, 1]])
    forward, backward = (pooled(m, pool_sparse(m)) for m in (margins, margins[:, ::-1]))
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a[a > 0], b[b > 0][::-1])


@pytest.mark.parametrize(("samples", "bins"), [(94, 5), (94, 8), (500, 8), (1000, 16)])
def test_equal_count_bins_are_left_as_they_are(samples: int, bins: int) -> None:
    margins = np.bincount(np.arange(samples) % bins)[None]
    np.testing.assert_array_equal(pool_sparse(margins)[0], np.arange(bins))


# -- p-values of independent samples ----------------------------------------------------------------------------------


def test_gamma_p_values_are_scipys_for_each_pair_with_or_without_missing_values() -> None:
    for missing in (0.0, 0.1):
        counts = JointCounts.from_codes(codes_of(3, 300, 6, 5, missing=missing), 5)
        found = gamma_p_values(counts)
        for table, p in zip(counts.tables, found, strict=True):
            mean, variance = exact_moments(two(table.sum(axis=1).tolist(), table.sum(axis=0).tolist()))
            square = stats.chi2_contingency(table, correction=False).statistic
            expected = stats.gamma.sf(square, mean[0] ** 2 / variance[0], scale=variance[0] / mean[0])
            assert p == pytest.approx(expected, rel=1e-8)
            assert p == pytest.approx(stats.chi2.sf(square, 16), rel=0.3, abs=1e-3)  # near the usual one


def test_nothing_can_be_told_from_a_constant_or_from_three_samples() -> None:
    codes = codes_of(4, 94, 4, 5)
    codes[:, 2] = 3
    counts = JointCounts.from_codes(codes, 5)
    lagged = lagged_of(codes, [94], 5)
    for p in (gamma_p_values(counts), serial_p_values(counts, lagged)):
        matrix = np.full((4, 4), np.nan)
        matrix[np.triu_indices(4, 1)] = p
        assert matrix[0, 2] == matrix[1, 2] == matrix[2, 3] == 1
        assert matrix[0, 1] < 1e-6
        assert 0 < matrix[0, 3] < 1
    np.testing.assert_array_equal(gamma_p_values(JointCounts.from_codes(codes[:3], 5)), 1)
    raw = estimate(counts, correction="none").raw
    assert (permutation_p_values(raw, PairMargins.of(counts), draws=1000)[[1, 3, 5]] == 1).all()
    for empty in (JointCounts(4, 5), JointCounts.from_codes(np.full((9, 4), MISSING, dtype=np.uint8), 5)):
        assert np.isnan(gamma_p_values(empty)).all()
        assert np.isnan(serial_p_values(empty, 0 * lagged)).all()
        raw = estimate(empty, correction="none").raw
        assert np.isnan(permutation_p_values(raw, PairMargins.of(empty), draws=1000)).all()


def test_pairs_without_a_common_sample_are_nan_and_do_not_touch_the_others() -> None:
    codes = codes_of(5, 200, 3, 4)
    codes[:100, 0], codes[100:, 2] = MISSING, MISSING
    p = gamma_p_values(JointCounts.from_codes(codes, 4))
    assert np.isnan(p[1])
    assert not np.isnan(p[[0, 2]]).any()
    assert not np.isnan(serial_p_values(JointCounts.from_codes(codes, 4), lagged_of(codes, [200], 4))[[0, 2]]).any()


def test_p_values_do_not_depend_on_order_side_or_names() -> None:
    codes = codes_of(6, 240, 5, 6, phi=0.6)
    order = np.array([3, 0, 4, 2, 1])
    names = np.random.default_rng(0).permutation(6).astype(np.uint8)
    upper = np.triu_indices(5, 1)

    def by_pair(codes: np.ndarray, test: str) -> np.ndarray:
        counts = JointCounts.from_codes(codes, 6)
        if test == "gamma":
            p = gamma_p_values(counts)
        elif test == "serial":
            p = serial_p_values(counts, lagged_of(codes, [240], 6))
        else:
            p = permutation_p_values(estimate(counts, correction="none").raw, PairMargins.of(counts), draws=1000)
        matrix = np.ones((5, 5))
        matrix[upper] = p
        matrix.T[upper] = p
        return matrix

    for test in ("gamma", "serial", "permutation"):
        found = by_pair(codes, test)
        np.testing.assert_allclose(by_pair(codes[:, order], test), found[np.ix_(order, order)], rtol=1e-9)
        np.testing.assert_allclose(by_pair(names[codes], test), found, rtol=1e-9)
    np.testing.assert_allclose(by_pair(codes[::-1], "serial"), by_pair(codes, "serial"), rtol=1e-9)  # time reversed


# -- false discoveries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bh", "by"])
def test_adjusted_p_values_are_scipys_and_nan_does_not_count(method: str) -> None:
    p = np.random.default_rng(0).random(50) ** 3
    holed = np.insert(p, [0, 20, 50], np.nan)
    found = false_discovery(holed, method=method)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(holed))
    np.testing.assert_array_equal(found[~np.isnan(holed)], stats.false_discovery_control(p, method=method))
    assert np.isnan(false_discovery(np.array([np.nan, np.nan]))).all()
    assert false_discovery(np.array([])).size == 0


def test_false_discovery_refuses_an_unknown_method_and_impossible_values() -> None:
    with pytest.raises(InputError, match="'bonferroni' is not known; choose one of"):
        false_discovery(np.array([0.1]), method="bonferroni")
    for wrong in (-0.1, 1.1):
        with pytest.raises(InputError, match="between 0 and 1"):
            false_discovery(np.array([0.5, wrong]))
