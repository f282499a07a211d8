"""Gaussian companions: correlations, normal scores, second moments that add up exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from mi_probe import Binning, JointCounts, Probe, ProbeState, pairwise
from mi_probe.copula import binned_copula_correlation
from mi_probe.errors import InputError, MergeError
from mi_probe.gaussian import SecondMoments, gaussian_mi, normal_scores, pearson


def correlated(rho: float, n: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, 2))
    x[:, 1] = rho * x[:, 0] + np.sqrt(1 - rho**2) * x[:, 1]
    return x


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
def test_the_mean_over_small_gaussian_samples_is_the_true_value(rho: float) -> None:
    r = [pearson(correlated(rho, 20, seed))[0, 1] for seed in range(4000)]
    values = gaussian_mi(np.array(r), 20)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() + 0.5 * np.log(1 - rho**2)) < 4 * error


def test_the_bias_term_is_that_of_the_entropies_of_gaussian_samples() -> None:
    """H of a d-dimensional sample is biased by sum over k of psi((n - k)/2)/2 (Ince et al. 2017); H_x + H_y - H_xy is left."""
    from scipy.special import digamma

    n, r = 30, np.array([0.4])
    bias = [sum(digamma((n - k) / 2) for k in range(1, d + 1)) / 2 for d in (1, 2)]
    assert gaussian_mi(r, n)[0] == pytest.approx(-0.5 * np.log(1 - r[0] ** 2) - 2 * bias[0] + bias[1], abs=1e-12)


def test_a_copy_is_infinite_and_too_few_samples_are_nan() -> None:
    np.testing.assert_array_equal(gaussian_mi(np.array([1.0, -1.0]), 10), [np.inf, np.inf])
    assert np.isnan(gaussian_mi(np.array([0.5]), 3)).all()
    assert np.isnan(gaussian_mi(np.array([np.nan]), 10)).all()


def test_correlations_are_those_of_numpy_also_with_a_large_mean() -> None:
    x = np.random.default_rng(0).standard_normal((200, 5)) @ np.random.default_rng(1).standard_normal((5, 5)) + 1e6
    np.testing.assert_allclose(pearson(x), np.corrcoef(x.T), atol=1e-9)


def test_correlations_leave_missing_values_out_pair_by_pair() -> None:
    x = np.random.default_rng(2).standard_normal((80, 3))
    x[:20, 0], x[50:, 1] = np.nan, np.inf
    found = pearson(x)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = np.isfinite(x[:, [i, j]]).all(axis=1)
        assert found[i, j] == pytest.approx(np.corrcoef(x[both][:, [i, j]].T)[0, 1], abs=1e-12)


def test_constants_correlate_with_nothing_and_absent_variables_are_nan() -> None:
    x = np.random.default_rng(3).standard_normal((30, 4))
    x[:, 1], x[:, 2] = 0.1, np.nan
    found = pearson(x)
    assert found[0, 1] == 0
    assert np.isnan(found[0, 2])
    assert np.isfinite(found[0, 3])


def test_normal_scores_are_quantiles_of_ranks() -> None:
    x = np.array([[3.0], [1.0], [1.0], [np.nan], [9.0]])
    expected = norm.ppf(rankdata(x[[0, 1, 2, 4], 0]) / 5)
    np.testing.assert_allclose(normal_scores(x)[[0, 1, 2, 4], 0], expected)
    assert np.isnan(normal_scores(x)[3, 0])


def test_the_gaussian_column_is_blind_to_monotone_maps_and_the_linear_one_is_not() -> None:
    x = correlated(0.8, 1000)
    plain, bent = pairwise(x), pairwise(np.exp(2 * x))
    assert plain.pairs("gaussian")[0] == pytest.approx(bent.pairs("gaussian")[0], abs=1e-12)
    assert plain.pairs("gaussian")[0] == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.1)
    assert bent.pairs("linear")[0] < 0.8 * plain.pairs("linear")[0]


def test_curves_share_much_that_covariance_misses() -> None:
    x = np.random.default_rng(4).standard_normal((5000, 2))
    x[:, 1] = x[:, 0] ** 2 + 0.2 * x[:, 1]
    found = pairwise(x, bins=8)
    assert found.pairs("mi")[0] > 0.5
    assert abs(found.linear_share()[0]) < 0.05
    noise = pairwise(np.random.default_rng(5).standard_normal((500, 8)), bins=8)
    assert np.isnan(noise.linear_share()).mean() > 0.8  # a share of nothing is not given


@pytest.mark.parametrize("edges", [[-0.7, 0.0, 0.7], [-2.0, -1.5, 0.0], [0.5], list(np.linspace(-1.6, 1.6, 15))])
@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.5, 0.95])
def test_bins_of_any_margins_show_the_correlation_they_were_cut_from(rho: float, edges: list[float]) -> None:
    x = correlated(rho, 400_000, 9)
    binning = Binning(np.array([edges, edges[::-1]]) * [[1], [-1]], "equal_width")
    found = binned_copula_correlation(JointCounts.from_codes(binning.encode(x), binning.bins))
    assert found[0] == pytest.approx(rho, abs=0.012 if len(edges) > 1 else 0.02)  # the series is cut off


def test_bins_see_almost_what_ranks_see() -> None:
    x = np.random.default_rng(10).standard_normal((3000, 6)) @ np.random.default_rng(11).standard_normal((6, 6))
    found = binned_copula_correlation(JointCounts.from_codes(Binning.fit(np.exp(x), bins=16).encode(np.exp(x)), 16))
    np.testing.assert_allclose(found, pearson(normal_scores(x))[np.triu_indices(6, 1)], atol=0.01)


def test_bins_of_copies_constants_and_nothing_have_a_defined_correlation() -> None:
    x = np.random.default_rng(12).standard_normal((200, 5))
    x[:, 1], x[:, 2], x[:, 3] = x[:, 0], 1.0, np.nan
    found = binned_copula_correlation(JointCounts.from_codes(Binning.fit(x, bins=5).encode(x), 5))
    assert found[0] == 1
    assert found[1] == 0
    assert np.isnan(found[2])
    assert abs(found[3]) < 0.3


# -- streamed ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 400), st.lists(st.integers(0, 400), max_size=4))
def test_second_moments_are_equal_however_the_samples_come(seed: int, n: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3)) * [1.0, 1e-4, 1e4] + [0.0, 3.0, -1e5]
    x[rng.random(x.shape) < 0.05] = np.nan
    whole = SecondMoments.within(Binning.fit(x, bins=5))
    parts = whole.copy()
    whole.update(whole.steps(x))
    for part in np.split(x[rng.permutation(n)], sorted(min(c, n) for c in cuts)):
        shard = SecondMoments(parts.centre, parts.scale)
        shard.update(shard.steps(part))
        parts += shard
    assert parts == whole


def test_streamed_correlations_are_those_of_the_values() -> None:
    x = correlated(0.7, 3000, 6) * [1e-3, 1e5] + [5.0, 0.0]
    moments = SecondMoments.within(Binning.fit(x, bins=8))
    moments.update(moments.steps(x.astype(np.float64)))
    np.testing.assert_allclose(moments.correlation(), np.corrcoef(x.T), atol=2e-5)
    assert not moments.clipped.any()


def test_values_beyond_32_standard_deviations_count_as_that_far_and_are_counted() -> None:
    x = correlated(0.7, 3000, 7)
    x[0] = 1e9
    moments = SecondMoments.within(Binning.fit(x[1:]))
    moments.update(moments.steps(x))
    assert moments.clipped.tolist() == [1, 1]
    near = x.copy()
    near[0] = x[1:].mean(axis=0) + 32 * x[1:].std(axis=0)
    assert moments.correlation()[0, 1] == pytest.approx(np.corrcoef(near.T)[0, 1], abs=1e-3)
    state = ProbeState(Probe(bins=4, moments=True, calibration_tokens=100))
    state.update("a", np.concatenate([correlated(0.7, 100), np.full((5, 2), 1e9)]))
    assert any("32 standard deviations" in note for note in state.estimate()["a"].notes)


def test_rectified_values_are_not_clipped() -> None:
    x = np.maximum(correlated(0.6, 4000, 8) - 1.5, 0) * 0.01
    state = ProbeState(Probe(moments=True))
    state.update("a", x)
    assert state.estimate()["a"].pairs("linear")[0] == pytest.approx(pairwise(x).pairs("linear")[0], abs=2e-4)


def test_trimmed_values_are_in_no_moment() -> None:
    x = correlated(0.0, 3000, 9)
    x[0] = 31.0
    state = ProbeState(Probe(bins=8, trim_z=4, moments=True))
    state.update("a", x)
    found, whole = state.estimate()["a"], pairwise(x, bins=8, trim_z=4)
    assert found.pairs("linear")[0] == pytest.approx(whole.pairs("linear")[0], abs=1e-4)


def test_huge_values_are_no_trouble() -> None:
    x = correlated(0.6, 300, 10)
    plain, huge = (pairwise(v, trim_z=4).pairs("linear")[0] for v in (x, x * 1e200))
    assert huge == pytest.approx(plain, rel=1e-9)


def test_moments_of_other_edges_do_not_add_up() -> None:
    one, two = (SecondMoments.within(Binning.fit(correlated(0.5, 50, seed), bins=4)) for seed in (1, 2))
    before = one.copy()
    with pytest.raises(MergeError, match="standardised"):
        one += two
    assert one == before
    edges = Binning.fit(correlated(0.5, 50)).edges
    with pytest.raises(InputError, match=r"Binning\.fit"):
        SecondMoments.within(Binning(edges, "equal_count"))


def test_constant_and_absent_variables_have_a_scale_all_the_same() -> None:
    x = np.zeros((40, 3))
    x[:, 1], x[:, 2] = 7.0, np.nan
    moments = SecondMoments.within(Binning.fit(x, bins=4))
    moments.update(moments.steps(x))
    assert moments.correlation()[0, 1] == 0
    assert np.isnan(moments.correlation()[0, 2])
