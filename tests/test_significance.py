"""P-values against SciPy, enumeration, direct permutation and simulation."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from fractions import Fraction
from math import factorial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from mi_probe import permutation
from mi_probe.binning import MISSING, Binning
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError
from mi_probe.estimators import estimate
from mi_probe.kernels.squares import chi_square
from mi_probe.permutation import permutation_p_values
from mi_probe.serial import (
    LAGS,
    autocovariances,
    count_lags,
    inflation,
    mean_inflation,
    serial_chance,
    serial_p_values,
)
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


# -- the shared permutation null --------------------------------------------------------------------------------------


def test_permutation_p_values_are_those_of_real_permutations_of_a_pair() -> None:
    codes = codes_of(7, 60, 8, 4)
    counts = JointCounts.from_codes(codes, 4)
    raw = estimate(counts, correction="none").raw
    p = permutation_p_values(raw, PairMargins.of(counts), draws=200_000)
    rng = np.random.default_rng(0)
    for pair in (5, 12, 20, 27):
        i, j = (int(side[pair]) for side in np.triu_indices(8, 1))
        tables = np.zeros((20_000, 4, 4), dtype=np.int64)
        shuffled = rng.permuted(np.tile(codes[:, j], (len(tables), 1)), axis=1)
        for t in range(60):
            tables[np.arange(len(tables)), codes[t, i], shuffled[:, t]] += 1
        share = tables / 60
        null = np.sum(share * np.log(np.maximum(share, 1e-9)), axis=(1, 2)) + 2 * np.log(4)  # 15 samples in each bin
        direct = (null >= raw[pair] - 1e-6).mean()
        assert p[pair] == pytest.approx(direct, abs=4 * np.sqrt(p[pair] * (1 - p[pair]) / len(tables)) + 1e-3)


def test_a_discrete_null_counts_ties_in_full() -> None:
    margins = two([3, 3], [3, 3])  # the diagonal holds 0 or 3 of 3, once in ten, or 1 or 2
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [1, 1]], dtype=np.uint8)
    smallest = estimate(JointCounts.from_codes(codes, 2)).raw[0]
    values = np.array([np.log(2), np.log(2) - 1e-14, np.log(2) + 1e-14, smallest])
    four = PairMargins(margins.pool, np.zeros(4, int), np.ones(4, int))
    p = permutation_p_values(values, four, draws=100_000)
    np.testing.assert_allclose(p, [0.1, 0.1, 0.1, 1.0], atol=0.004)
    assert p[3] == 1


def test_the_fitted_tail_joins_falls_and_is_near_what_more_draws_say() -> None:
    margins = two(*[np.bincount(np.arange(94) % 5).tolist()] * 2)
    mi = np.linspace(0, 1.6, 3001)
    every = PairMargins(margins.pool, np.zeros(3001, int), np.ones(3001, int))
    few, many = (permutation_p_values(mi, every, draws=draws, seed=draws) for draws in (100_000, 1_000_000))
    for p in (few, many):
        assert (np.diff(p) <= 0).all()
        assert p[0] == 1
        assert 0 < p[-1] < 1e-30
        assert (p[:-1] / p[1:])[p[1:] > 1e-12].max() < 1.5  # no step where the tail begins
    for level in (1e-3, 1e-4, 3e-5):
        at = np.searchsorted(-many, -level)
        assert few[at] == pytest.approx(level, rel=0.35)


def test_the_same_seed_gives_the_same_p_values_whatever_else_is_asked() -> None:
    counts = [JointCounts.from_codes(codes_of(s, 94, 4, b), 5) for s, b in ((8, 5), (9, 4))]
    raw = [estimate(c, correction="none").raw for c in counts]
    margins = [PairMargins.of(c) for c in counts]
    alone = permutation_p_values(raw[0], margins[0], draws=2000)
    np.testing.assert_array_equal(alone, permutation_p_values(raw[0], margins[0], draws=2000))
    assert (alone != permutation_p_values(raw[0], margins[0], draws=2000, seed=1)).any()
    both = PairMargins(
        np.concatenate([m.pool for m in margins[::-1]]),
        np.concatenate([margins[1].first, margins[0].first + 4]),
        np.concatenate([margins[1].second, margins[0].second + 4]),
    )
    np.testing.assert_array_equal(permutation_p_values(np.concatenate(raw[::-1]), both, draws=2000)[6:], alone)


def test_many_different_margins_are_refused_with_the_way_out() -> None:
    counts = JointCounts.from_codes(np.random.default_rng(0).integers(0, 6, (200, 6)).astype(np.uint8), 6)
    raw, margins = estimate(counts, correction="none").raw, PairMargins.of(counts)
    with pytest.raises(InputError, match=f"15 distinct pairs of margins.*at most {permutation.MOST_NULLS}; use the gamma test"):
        permutation_p_values(raw, margins)
    with pytest.raises(InputError, match="at least 1,000; got 999"):
        permutation_p_values(raw, margins, draws=999)
    with pytest.raises(InputError, match="each of 15 pairs; got shape"):
        permutation_p_values(raw[:3], margins)


# -- lagged counts ----------------------------------------------------------------------------------------------------


def obvious_lags(codes: np.ndarray, lengths: list[int], bins: int, lags: int) -> np.ndarray:
    out = np.zeros((lags, codes.shape[1], bins, bins), dtype=np.int64)
    for text in np.split(codes, np.cumsum(lengths)[:-1]):
        for k in range(1, min(lags, len(text) - 1) + 1):
            for v in range(codes.shape[1]):
                a, b = text[:-k, v].astype(int), text[k:, v].astype(int)
                kept = (a < bins) & (b < bins)
                np.add.at(out[k - 1, v], (a[kept], b[kept]), 1)
    return out


@pytest.mark.parametrize("lengths", [[40], [1] * 40, [0, 3, 20, 1, 0, 16], [13, 27]])
def test_lagged_counts_are_those_of_the_obvious_loop(lengths: list[int]) -> None:
    codes = codes_of(10, 40, 5, 4, missing=0.15)
    codes[7, 2] = 254  # any code beyond the bins
    np.testing.assert_array_equal(lagged_of(codes, lengths, 4), obvious_lags(codes, lengths, 4, LAGS))


def test_lagged_counts_add_up_over_texts_and_threads() -> None:
    codes = codes_of(11, 4000, 60, 6, missing=0.05)
    lengths = [1000, 500, 2000, 500]
    together = lagged_of(codes, lengths, 6)
    np.testing.assert_array_equal(together, obvious_lags(codes, lengths, 6, LAGS))
    apart = np.zeros_like(together)
    for text in np.split(codes, np.cumsum(lengths)[:-1]):
        count_lags(text, np.array([len(text)]), apart)
    np.testing.assert_array_equal(apart, together)


def test_lagged_counts_refuse_what_does_not_fit() -> None:
    codes = codes_of(12, 20, 3, 4)
    out = np.zeros((2, 3, 4, 4), dtype=np.int64)
    for lengths in ([19], [21], [30, -10], [20.0], [[20]]):
        with pytest.raises(InputError, match="add up to 20 tokens"):
            count_lags(codes, np.array(lengths), out)
    with pytest.raises(InputError, match="codes must be uint8"):
        count_lags(codes.astype(np.int64), np.array([20]), out)
    for wrong in (out.astype(np.int32), out[:, :2], out[:, :, :3], out[0]):
        with pytest.raises(InputError, match=r"out must be int64 of shape \(lags, 3, bins, bins\)"):
            count_lags(codes, np.array([20]), wrong)
    assert not out.any()
    with pytest.raises(InputError, match="lagged counts must have shape"):
        serial_p_values(JointCounts.from_codes(codes, 4), out[:, :2])


def scores_of(codes: np.ndarray, bins: int) -> np.ndarray:
    """z of the definition, (variables, tokens, bins); 0 where a token is missing."""
    one = codes.T[:, :, None] == np.arange(bins)
    p = one.sum(axis=1, keepdims=True) / one.sum(axis=(1, 2), keepdims=True)
    z = np.divide(one - p, np.sqrt(p), out=np.zeros(one.shape), where=p > 0)
    z[codes.T == MISSING] = 0
    return z


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_autocovariances_from_counts_are_those_of_the_definition(missing: float) -> None:
    codes = codes_of(13, 94, 4, 5, missing=missing, phi=0.7)
    codes[codes[:, 3] == 1, 3] = 2  # an empty bin
    lagged = lagged_of(codes, [94], 5)
    margins = JointCounts.from_codes(codes, 5).margins
    found, z, there = autocovariances(lagged, margins), scores_of(codes, 5), codes.T < 5
    np.testing.assert_allclose(found[:, 0], np.einsum("vta,vtb->vab", z, z) / margins.sum(1)[:, None, None], atol=1e-12)
    for k in range(1, LAGS + 1):
        products = np.einsum("vta,vtb->vab", z[:, :-k], z[:, k:])
        places = (there[:, :-k] & there[:, k:]).sum(axis=1)
        np.testing.assert_allclose(found[:, k], products / places[:, None, None], rtol=0, atol=1e-12)
        if not missing:  # R(k) of the definition divides by N
            np.testing.assert_allclose(found[:, k] * (94 - k) / 94, products / 94, rtol=0, atol=1e-12)


def test_the_inflation_is_that_of_the_covariance_written_out() -> None:
    bins, lags, n = 4, 3, 400
    codes = codes_of(14, n, 3, bins, phi=0.8)
    lagged, margins = lagged_of(codes, [n], bins, lags), JointCounts.from_codes(codes, bins).margins
    found = inflation(lagged, margins, n)
    c = autocovariances(lagged, margins)
    for pair, (i, j) in enumerate(itertools.combinations(range(3), 2)):
        sigma = np.kron(c[i, 0], c[j, 0])
        noise_of_squares = noise_of_cubes = 0.0
        for k in range(1, lags + 1):
            w = (n - k) / n
            sigma = sigma + w * np.kron(c[i, k], c[j, k]) + w * np.kron(c[i, k].T, c[j, k].T)

            def cleaned(product: float, other: float, noise: float) -> float:  # what is subtracted of a product of two traces
                return product * other - (product - noise) * (other - noise)

            squares = [(c[v, k] ** 2).sum() for v in (i, j)]
            crossed = [np.trace(c[v, k] @ c[v, k]) for v in (i, j)]
            noise = w * w * (cleaned(*squares, 9 / (n - k)) + cleaned(*crossed, 3 / (n - k)))
            noise_of_squares += 2 * noise
            # {0, k, -k} in six orders, {0, k, k} in three and {0, -k, -k} in three
            noise_of_cubes += w * w * 6 * (cleaned(*squares, 9 / (n - k)) + cleaned(*crossed, 3 / (n - k)))
        assert found.mean[pair] == pytest.approx(np.trace(sigma) / 9, rel=1e-10)
        square = np.trace(sigma @ sigma) - noise_of_squares
        assert found.variance[pair] == pytest.approx(square / 9, rel=1e-10)
        cube = np.trace(sigma @ sigma @ sigma) - noise_of_cubes
        assert found.third[pair] == pytest.approx(cube / 9, rel=1e-10)
    np.testing.assert_array_equal(mean_inflation(lagged, margins, n), found.mean)


def test_without_lags_the_serial_test_is_the_gamma_test() -> None:
    codes = codes_of(15, 94, 6, 5, missing=0.05)
    counts = JointCounts.from_codes(codes, 5)
    np.testing.assert_allclose(serial_p_values(counts, lagged_of(codes, [94], 5, 0)), gamma_p_values(counts), rtol=1e-9)
    np.testing.assert_allclose(serial_p_values(counts, lagged_of(codes, [1] * 94, 5)), gamma_p_values(counts), rtol=1e-9)


def test_more_lags_than_tokens_and_sparse_bins_are_no_trouble() -> None:
    for samples, bins in ((5, 3), (9, 8), (20, 15)):
        codes = codes_of(16, samples, 6, bins)
        counts, lagged = JointCounts.from_codes(codes, bins), lagged_of(codes, [samples], bins, 30)
        assert all(np.isfinite(part).all() for part in inflation(lagged, counts.margins, counts.n))
        p = serial_p_values(counts, lagged)
        assert ((p > 0) & (p <= 1)).all()


@pytest.mark.parametrize("one_is_whole", [False, True])
def test_values_left_out_at_random_thin_the_inflation_of_a_pair(one_is_whole: bool) -> None:
    whole, holed = (codes_of(17, 3000, 12, 5, phi=0.8, missing=m) for m in (0.0, 0.1))
    if one_is_whole:
        holed[:, 5] = whole[:, 5]
    mean = [mean_inflation(lagged_of(c, [3000], 5), JointCounts.from_codes(c, 5).margins, 3000) for c in (whole, holed)]
    kept = (mean[1] - 1) / (mean[0] - 1)  # a pair keeps .9 * .9 of its places
    assert np.median(kept) == pytest.approx(0.81, abs=0.03)


def test_the_serial_chance_level_is_the_mean_mi_of_independent_slow_series() -> None:
    raw, level = [], []
    for seed in range(4):
        codes = codes_of(100 + seed, 1000, 30, 8, phi=0.8)[:, 2:]
        counts = JointCounts.from_codes(codes, 8)
        found = estimate(counts)
        raw.append(found.raw.mean())
        level.append(serial_chance(found.chance, mean_inflation(lagged_of(codes, [1000], 8), counts.margins, 1000)).mean())
        assert raw[-1] > 1.1 * found.chance.mean()
    assert np.mean(level) == pytest.approx(np.mean(raw), rel=0.03)


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


# -- simulations ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "simulate.py"
    spec = importlib.util.spec_from_file_location("simulate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module  # where a dataclass looks up its annotations
    spec.loader.exec_module(module)
    return module


def test_the_tests_keep_their_level_at_a_glance(simulate: ModuleType) -> None:
    """A short form of the simulations below: 4,950 pairs, twice."""
    for case in (simulate.Case("gamma", 94, 5), simulate.Case("serial", 94, 5, phi=0.9)):
        assert simulate.false_positives(case, repeats=2).share[0] == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "bins"), [(94, 5), (94, 8), (500, 5), (500, 8)])
def test_permutation_rejects_independent_pairs_as_often_as_it_says(simulate: ModuleType, samples: int, bins: int) -> None:
    rates = simulate.false_positives(simulate.Case("permutation", samples, bins), repeats=60)
    for level, share, error in zip(simulate.LEVELS, *rates, strict=True):
        assert share == pytest.approx(level, abs=4 * error + 0.01 * level)


@pytest.mark.slow
@pytest.mark.parametrize("test", ["gamma", "serial"])
@pytest.mark.parametrize(
    ("samples", "bins", "method"),
    [
        (94, 5, "equal_count"),
        (94, 8, "equal_count"),
        (500, 5, "equal_count"),
        (500, 8, "equal_count"),
        (94, 15, "equal_width"),
        (500, 15, "equal_width"),
    ],
)
def test_gamma_rejects_independent_pairs_about_as_often_as_it_says(
    simulate: ModuleType, test: str, samples: int, bins: int, method: str
) -> None:
    rates = simulate.false_positives(simulate.Case(test, samples, bins, method), repeats=60)
    tolerances = {0.05: 0.005, 0.01: 0.002, 0.001: 0.0005, 0.0001: 0.00015}
    for level, share, error in zip(simulate.LEVELS, *rates, strict=True):
        assert share == pytest.approx(level, abs=3 * error + tolerances[level])


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.8, 0.9])
@pytest.mark.parametrize(("samples", "bins", "texts"), [(94, 5, 1), (94, 8, 1), (1000, 8, 1), (30, 5, 33)])
def test_the_serial_test_is_not_bold_where_tokens_resemble_each_other(
    simulate: ModuleType, samples: int, bins: int, texts: int, phi: float
) -> None:
    case = simulate.Case("serial", samples, bins, phi=phi, texts=texts)
    rates = simulate.false_positives(case, repeats=40)
    assert 0.04 < rates.share[0] < 0.06
    assert rates.share[1] < 0.014
    assert rates.share[2] < 0.0022
    naive = simulate.false_positives(simulate.Case("gamma", samples, bins, phi=phi, texts=texts), repeats=4)
    assert naive.share[0] > 0.12


@pytest.mark.slow
@pytest.mark.parametrize("test", ["gamma", "permutation", "serial"])
@pytest.mark.parametrize(("method", "q"), [("bh", 0.05), ("bh", 0.1), ("by", 0.1)])
def test_false_discoveries_stay_below_what_was_asked(simulate: ModuleType, test: str, method: str, q: float) -> None:
    got = simulate.discoveries(simulate.Case(test, 94, 5), rho=0.6, q=q, method=method, repeats=100)
    assert got.false < q + 3 * got.error
    assert got.found > 0.3


@pytest.mark.slow
def test_false_discoveries_among_slow_series_are_controlled_by_the_serial_test_only(simulate: ModuleType) -> None:
    serial, naive = (
        simulate.discoveries(simulate.Case(t, 1000, 8, phi=0.8), rho=0.3, q=0.1, method="bh", repeats=30)
        for t in ("serial", "gamma")
    )
    assert serial.false < 0.13 + 3 * serial.error  # .127 over many repeats: its far tail is a little too short
    assert serial.found > 0.5
    assert naive.false > 0.5
