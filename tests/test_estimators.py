"""Estimates against scikit-learn, closed forms and real permutations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from mi_probe import JointCounts, chance, kernels, pairwise
from mi_probe.binning import MISSING
from mi_probe.errors import InputError
from mi_probe.estimators import estimate


def skewed_codes(seed: int, samples: int, variables: int, bins: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = rng.dirichlet(np.full(bins, 0.7), size=variables)
    codes = np.stack([rng.choice(bins, size=samples, p=p) for p in shape], axis=1).astype(np.uint8)
    codes[:, 1] = np.where(rng.random(samples) < 0.5, codes[:, 0], codes[:, 1])
    return codes


def sklearn_chance(x: np.ndarray, y: np.ndarray) -> float:
    return float(expected_mutual_information(contingency_matrix(x, y, sparse=True).astype(np.int64), len(x)))


@pytest.mark.parametrize(("samples", "bins"), [(5, 3), (94, 5), (94, 15), (1000, 8), (3000, 4)])
def test_plug_in_chance_and_adjusted_values_are_those_of_scikit_learn(samples: int, bins: int) -> None:
    codes = skewed_codes(samples, samples, 6, bins)
    found = estimate(JointCounts.from_codes(codes, bins))
    for pair, (i, j) in enumerate(zip(*np.triu_indices(6, 1), strict=True)):
        x, y = codes[:, i], codes[:, j]
        assert found.raw[pair] == pytest.approx(mutual_info_score(x, y), abs=1e-12)
        assert found.chance[pair] == pytest.approx(sklearn_chance(x, y), abs=1e-9)
        smallest = min(found.entropy[i], found.entropy[j])
        ami = adjusted_mutual_info_score(x, y, average_method="min")
        if smallest - found.chance[pair] > 1e-6:
            assert found.mi[pair] == pytest.approx(ami * smallest, abs=1e-8)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 9))
def test_the_estimate_is_symmetric_and_blind_to_the_names_of_bins(seed: int, samples: int, bins: int) -> None:
    codes = skewed_codes(seed, samples, 2, bins)
    relabelled = np.random.default_rng(seed).permutation(bins).astype(np.uint8)[codes]
    first, swapped, renamed = (
        estimate(JointCounts.from_codes(c, bins)) for c in (codes, np.ascontiguousarray(codes[:, ::-1]), relabelled)
    )
    for what in ("mi", "raw", "chance", "joint_entropy"):
        np.testing.assert_allclose(getattr(first, what), getattr(swapped, what), atol=1e-10)
        np.testing.assert_allclose(getattr(first, what), getattr(renamed, what), atol=1e-10)


def gaussian_cells(rho: float, bins: int) -> np.ndarray:
    """Probabilities of the cells of a bivariate Gaussian cut at its quantiles."""
    edges = np.clip(norm.ppf(np.linspace(0, 1, bins + 1)), -9, 9)
    corner = np.array([[multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([a, b]) for b in edges] for a in edges])
    return np.clip(np.diff(np.diff(corner, axis=0), axis=1), 1e-15, None)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_a_gaussian_pair_gives_the_closed_form_of_its_discretised_mi(rho: float) -> None:
    bins, samples = 8, 200_000
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 2))
    x[:, 1] = rho * x[:, 0] + np.sqrt(1 - rho**2) * x[:, 1]
    p = gaussian_cells(rho, bins)
    truth = float((p * np.log(p * bins**2)).sum())
    found = pairwise(x, bins=bins)
    spread = np.sqrt(max(((p * np.log(p * bins**2) ** 2).sum() - truth**2) / samples, 1e-9))
    assert found.pairs("mi")[0] == pytest.approx(truth, abs=4 * spread + 1e-4)


@pytest.mark.parametrize(("rho", "share"), [(0.3, 0.89), (0.9, 0.84)])
def test_eight_bins_keep_the_share_of_a_gaussian_that_the_readme_says(rho: float, share: float) -> None:
    p = gaussian_cells(rho, 8)
    assert float((p * np.log(p * 64)).sum()) / (-0.5 * np.log(1 - rho**2)) == pytest.approx(share, abs=0.006)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"{share:.2f}".lstrip("0") in readme


def test_entropies_add_up() -> None:
    codes = skewed_codes(3, 500, 4, 6)
    found = estimate(JointCounts.from_codes(codes, 6))
    for pair, (i, j) in enumerate(zip(*np.triu_indices(4, 1), strict=True)):
        p = np.bincount(codes[:, i].astype(int) * 6 + codes[:, j], minlength=36) / 500
        assert found.joint_entropy[pair] == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=1e-12)
        assert found.raw[pair] == pytest.approx(found.entropy[i] + found.entropy[j] - found.joint_entropy[pair], abs=1e-12)


def test_miller_madow_counts_occupied_bins_and_cells() -> None:
    codes = skewed_codes(4, 60, 3, 5)
    counts = JointCounts.from_codes(codes, 5)
    plain, corrected = estimate(counts, correction="none"), estimate(counts, correction="miller_madow")
    for pair, (i, j) in enumerate(zip(*np.triu_indices(3, 1), strict=True)):
        k_x, k_y = len(np.unique(codes[:, i])), len(np.unique(codes[:, j]))
        k_xy = len(np.unique(codes[:, [i, j]], axis=0))
        assert corrected.mi[pair] - plain.mi[pair] == pytest.approx((k_x + k_y - k_xy - 1) / 120, abs=1e-12)
    np.testing.assert_array_equal(plain.mi, plain.raw)


# -- the chance level -------------------------------------------------------------------------------------------------


def test_independent_samples_in_15_equal_width_bins_show_the_known_offset_and_lose_it() -> None:
    x = np.random.default_rng(94).standard_normal((94, 768))
    found = pairwise(x, bins=15, method="equal_width")
    assert found.pairs("raw").mean() == pytest.approx(0.755, abs=0.01)
    assert abs(found.pairs("mi").mean()) < 0.002
    equal_count = pairwise(x, bins=15)
    assert equal_count.pairs("raw").mean() == pytest.approx(1.068, abs=0.01)
    assert abs(equal_count.pairs("mi").mean()) < 0.002
    assert abs(pairwise(x).pairs("mi").mean()) < 0.002


def test_the_chance_level_is_the_mean_over_real_permutations() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((94, 20)) ** np.array([1, 3])[rng.integers(0, 2, 20)]
    found = pairwise(x, bins=15, method="equal_width")
    for i in range(0, 20, 2):
        j = i + 1
        shuffled = np.column_stack([x[:, i], *(rng.permutation(x[:, j]) for _ in range(2000))])
        values = pairwise_with_first(shuffled)
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - found.chance[i, j]) < 4 * error


def pairwise_with_first(x: np.ndarray) -> np.ndarray:
    """Plug-in MI of column 0 with each other column, 15 equal-width bins, by np.histogram2d."""
    out = []
    for j in range(1, x.shape[1]):
        p = np.histogram2d(x[:, 0], x[:, j], bins=15)[0] / len(x)
        q = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
        out.append((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
    return np.array(out)


def test_the_three_ways_to_the_chance_level_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    margins = rng.multinomial(9_000, np.full(8, 1 / 8), size=12)
    closed = chance.chance_level(margins)  # every cell expects more than SERIES_FROM
    np.testing.assert_allclose(chance._by_table(margins, 9_000), closed, rtol=0, atol=1e-15)
    monkeypatch.setattr(chance, "SERIES_FROM", np.inf)  # sums only
    np.testing.assert_allclose(chance._by_table(margins, 9_000), closed, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("n", "a", "b"), [(10_000, 1000, 1000), (10_000, 9_990, 120), (10**6, 10**4, 10**4), (300, 299, 150)])
def test_the_expansion_meets_the_sum_where_it_takes_over(n: int, a: int, b: int) -> None:
    rows, columns = np.array([a]), np.array([b])
    by_sum = kernels.expected_xlogx(rows, columns, n, series_from=np.inf)[0, 0]
    by_series = kernels.expected_xlogx(rows, columns, n, series_from=0.0)[0, 0]
    assert by_series == pytest.approx(by_sum, abs=1e-8)


def test_the_chance_level_of_large_samples_is_the_chi_square_mean() -> None:
    margins = np.full((2, 8), 10**8)
    assert chance.chance_level(margins)[0, 1] == pytest.approx(49 / (2 * (8 * 10**8 - 1)), rel=1e-6)


# -- degenerate input -------------------------------------------------------------------------------------------------


def test_a_constant_variable_shares_nothing_and_a_copy_shares_everything() -> None:
    x = np.random.default_rng(7).standard_normal((94, 4))
    x[:, 1] = 2.0
    x[:, 3] = -5 * x[:, 0]
    found = pairwise(x, bins=6)
    assert found.mi[0, 1] == found.raw[0, 1] == found.chance[0, 1] == 0
    assert found.entropy[1] == 0
    assert found.mi[0, 3] == pytest.approx(found.entropy[0], abs=1e-12)


def test_missing_values_are_left_out_pair_by_pair() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((300, 4))
    x[:40, 0], x[250:, 2] = np.nan, np.inf
    found = pairwise(x, bins=5)
    assert found.missing.tolist() == [40, 0, 50, 0]
    assert found.n[0, 2] == 210
    assert found.n[1, 3] == 300
    codes = np.stack([np.where(np.isfinite(x[:, v]), 0, 1) for v in range(4)], axis=1)
    assert codes.sum() == 90
    binned = JointCounts.from_codes(_codes(x), 5)
    for i, j in ((0, 1), (0, 2), (1, 2), (1, 3)):
        both = np.isfinite(x[:, [i, j]]).all(axis=1)
        a, b = _codes(x)[both][:, [i, j]].T
        assert found.raw[i, j] == pytest.approx(mutual_info_score(a, b), abs=1e-12)
        assert found.chance[i, j] == pytest.approx(sklearn_chance(a, b), abs=1e-10)
    assert binned.n == 300


def _codes(x: np.ndarray) -> np.ndarray:
    from mi_probe import Binning

    return Binning.fit(x, bins=5).encode(x)


def test_a_variable_that_is_missing_throughout_is_nan() -> None:
    x = np.random.default_rng(9).standard_normal((50, 3))
    x[:, 1] = np.nan
    found = pairwise(x)
    assert np.isnan(found.mi[0, 1])
    assert np.isnan(found.entropy[1])
    assert np.isfinite(found.mi[0, 2])


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_too_few_samples_tell_nothing(samples: int) -> None:
    found = pairwise(np.random.default_rng(10).standard_normal((samples, 3)))
    expected = np.nan if samples == 0 else 0.0
    np.testing.assert_array_equal(found.pairs("mi"), np.full(3, expected))
    assert found.samples == samples


def test_no_value_is_clipped_at_zero() -> None:
    found = pairwise(np.random.default_rng(11).standard_normal((94, 60)))
    assert 0.3 < (found.pairs("mi") < 0).mean() < 0.7


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(InputError, match="adjusted"):
        estimate(JointCounts(2, 2), correction="chao_shen")


def test_a_missing_code_is_not_a_bin() -> None:
    codes = np.full((30, 2), MISSING, np.uint8)
    codes[:20] = np.random.default_rng(12).integers(0, 3, (20, 2))
    assert estimate(JointCounts.from_codes(codes, 3)).n.tolist() == [20]
