"""Groups of MI values compared: held to scipy and to formulas, and to data with and without a difference."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mi_probe.comparison import (
    Alternative,
    MeanDifference,
    bonferroni,
    collect,
    compare_correlations,
    compare_means,
    rank_trend,
)
from mi_probe.errors import InputError

ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "less", "greater")


def tau_b(x: np.ndarray, y: np.ndarray) -> float:
    """By its definition, over all pairs of points."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]
    both = sum(a * b for a, b in signs)
    return float(both / np.sqrt(sum(a * a for a, _ in signs) * sum(b * b for _, b in signs)))


# -- tau


def test_tau_is_that_of_all_pairs_of_points_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 4, 7, 30):
        for levels in (2, 5, 1000):
            x, y = rng.integers(levels, size=n), rng.integers(levels, size=n) / 7
            if np.ptp(x) and np.ptp(y):
                found = rank_trend(x, y)
                assert found.tau == pytest.approx(tau_b(x, y), abs=1e-12)
                assert found.n == n
                assert not found.note


def test_few_points_have_an_exact_p_value() -> None:
    assert rank_trend([1, 2, 3, 4], [4, 3, 2, 1]).p == pytest.approx(2 / 24)  # one order of 24 at either end
    assert rank_trend([1, 2, 3, 4], [4, 3, 2, 1], alternative="less").p == pytest.approx(1 / 24)
    assert rank_trend([1, 2, 3, 4], [4, 3, 2, 1], alternative="greater").p == pytest.approx(1)


def test_mi_that_falls_with_distance_gives_a_negative_tau_and_a_small_p() -> None:
    rng = np.random.default_rng(1)
    distance = np.repeat(np.arange(1, 11), 8)  # many values at each distance: ties
    falling = rank_trend(distance, 0.3 * np.exp(-distance / 4) + 0.02 * rng.standard_normal(80))
    assert falling.tau < -0.5
    assert falling.p < 1e-8
    level = [rank_trend(distance, 0.3 + 0.02 * rng.standard_normal(80)).p for _ in range(400)]
    assert np.mean(np.array(level) < 0.05) == pytest.approx(0.05, abs=0.035)


def test_points_that_are_not_finite_are_left_out() -> None:
    found = rank_trend([1, 2, np.inf, 3, 4, 5], [5.0, 4.0, 1.0, np.nan, 3.0, 2.0])
    assert found == rank_trend([1, 2, 4, 5], [5.0, 4.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("distance", "values", "note"),
    [
        ([], [], "0 points"),
        ([1, 2], [3, 4], "2 points"),
        ([1, 2, 3], [1.0, np.nan, 3.0], "2 points"),
        ([2, 2, 2], [1, 2, 3], "all 3 distances are equal"),
        ([1, 2, 3, 4], [5, 5, 5, 5], "all 4 values are equal"),
    ],
)
def test_where_there_is_no_trend_to_tell_it_is_nan_with_a_note(distance: list, values: list, note: str) -> None:
    found = rank_trend(distance, values)
    assert np.isnan([found.tau, found.p]).all()
    assert note in found.note


def test_what_is_no_trend_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
        rank_trend([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="two rows"):
        rank_trend(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="did you mean 'less'"):
        rank_trend([1, 2, 3], [1, 2, 3], alternative="les")  # type: ignore[arg-type]


# -- means


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("equal_variances", [False, True])
@pytest.mark.parametrize("sizes", [(2, 2), (2, 40), (15, 15), (100, 7)])
def test_t_tests_are_those_of_scipy(sizes: tuple[int, int], equal_variances: bool, alternative: Alternative) -> None:
    rng = np.random.default_rng(sizes)
    one, two = rng.normal(0.3, 0.1, sizes[0]), rng.normal(0.25, 0.02, sizes[1])
    found = compare_means(one, two, equal_variances=equal_variances, alternative=alternative)
    theirs = stats.ttest_ind(one, two, equal_var=equal_variances, alternative=alternative)
    assert (found.t, found.p, found.df) == pytest.approx((theirs.statistic, theirs.pvalue, theirs.df), rel=1e-9)
    interval = stats.ttest_ind(one, two, equal_var=equal_variances).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (found.mean_first, found.mean_second, found.n_first, found.n_second) == (one.mean(), two.mean(), *sizes)


def test_tiny_p_values_do_not_vanish() -> None:
    rng = np.random.default_rng(0)
    found = compare_means(rng.normal(0, 1, 3000), rng.normal(0.8, 1, 3000))
    assert 0 < found.p < 1e-100
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.t), found.df), rel=1e-6)


def test_groups_that_differ_are_told_apart_and_equal_ones_are_not_whatever_their_spread() -> None:
    rng = np.random.default_rng(2)
    assert compare_means(rng.normal(0.30, 0.05, 60), rng.normal(0.25, 0.05, 60)).p < 1e-4
    p = np.array([compare_means(rng.normal(0, 0.1, 10), rng.normal(0, 1, 40)).p for _ in range(2000)])
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    small = [(rng.normal(0, 1, 10), rng.normal(0, 0.1, 40)) for _ in range(2000)]  # the small group spreads more:
    student = np.array([compare_means(*pair, equal_variances=True).p for pair in small])  # then Student's test misleads
    welch = np.array([compare_means(*pair).p for pair in small])
    assert (student < 0.05).mean() > 0.2
    assert (welch < 0.05).mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("equal_variances", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ([], [1.0, 2.0], "groups of 0 and 2"),
        ([1.0], [1.0, 2.0], "groups of 1 and 2"),
        ([1.0, np.nan], [1.0, 2.0], "groups of 1 and 2"),
        ([0.1, 0.1, 0.1], [0.3, 0.3, 0.3], "all equal"),
    ],
)
def test_groups_without_a_spread_have_a_note_in_place_of_a_p_value(
    first: list, second: list, note: str, equal_variances: bool
) -> None:
    found = compare_means(first, second, equal_variances=equal_variances)
    assert np.isnan([found.t, found.p, found.se, found.df, found.low, found.high]).all()
    assert note in found.note
    if len(first) == 3:
        assert found.difference == pytest.approx(-0.2)


def test_one_constant_group_is_no_hindrance() -> None:
    found = compare_means([0.5, 0.5, 0.5], [0.3, 0.31, 0.29])  # as one group of three against a known mean
    theirs = stats.ttest_1samp([0.3, 0.31, 0.29], 0.5)
    assert (found.t, found.p, found.df) == pytest.approx((-theirs.statistic, theirs.pvalue, 2), rel=1e-9)
    assert not found.note


# -- correlations


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize(("kind", "a", "b"), [("pearson", 1.0, 3), ("kendall", 0.437, 4)])
def test_fishers_z_is_its_formula(kind: str, a: float, b: int, alternative: Alternative) -> None:
    for r1, n1, r2, n2 in ((0.5, 20, 0.3, 50), (-0.5, 12, 0.3, 1000), (0.2, 30, 0.2, 30)):
        found = compare_correlations(r1, n1, r2, n2, kind=kind, alternative=alternative)  # type: ignore[arg-type]
        inverse = [0.5 * np.log((1 + r) / (1 - r)) for r in (r1, r2)]
        z = (inverse[0] - inverse[1]) / np.sqrt(a / (n1 - b) + a / (n2 - b))
        p = {"two-sided": 2 * stats.norm.sf(abs(z)), "less": stats.norm.cdf(z), "greater": stats.norm.sf(z)}[alternative]
        assert (found.z, found.p) == pytest.approx((z, p), rel=1e-9, abs=1e-12)
        assert found.difference == r1 - r2


def test_a_textbook_value() -> None:
    """r = .5 of 103 and r = .4 of 103 samples: z' = .5493 and .4236, z = (.5493 - .4236) / sqrt(.02) = .889."""
    assert compare_correlations(0.5, 103, 0.4, 103).z == pytest.approx(0.8886, abs=2e-4)


@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("n", [12, 40])
@pytest.mark.parametrize("kind", ["pearson", "kendall"])
def test_equal_correlations_of_normal_variables_are_seldom_told_apart(kind: str, n: int, rho: float) -> None:
    rng = np.random.default_rng(n)
    measure = {"pearson": lambda x, y: np.corrcoef(x, y)[0, 1], "kendall": lambda x, y: stats.kendalltau(x, y).statistic}[kind]

    def one() -> float:
        x, e = rng.standard_normal((2, n))
        return float(measure(x, rho * x + np.sqrt(1 - rho**2) * e))

    p = [compare_correlations(one(), n, one(), n, kind=kind).p for _ in range(1000)]  # type: ignore[arg-type]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.025)
    far = compare_correlations(0.7, n * 3, -0.1, n * 3, kind=kind)  # type: ignore[arg-type]
    assert far.p < 1e-3


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ((np.nan, 20, 0.3, 20), "not known"),
        ((0.1, 3, 0.3, 20), "3 and 20 samples"),
        ((0.1, 20, 1.0, 20), "1 or -1"),
        ((-1, 20, 0.2, 20), "1 or -1"),
    ],
)
def test_correlations_without_an_error_have_a_note_in_place_of_a_p_value(arguments: tuple, note: str) -> None:
    found = compare_correlations(*arguments)
    assert np.isnan([found.z, found.p]).all()
    assert note in found.note


def test_tau_takes_one_sample_more() -> None:
    assert not compare_correlations(0.1, 4, 0.3, 20).note
    assert "more than 4" in compare_correlations(0.1, 4, 0.3, 20, kind="kendall").note


def test_what_is_no_correlation_is_refused() -> None:
    with pytest.raises(InputError, match="between -1 and 1"):
        compare_correlations(1.2, 20, 0.1, 20)
    for n in (-1, 20.5, True):
        with pytest.raises(InputError, match="whole number"):
            compare_correlations(0.2, n, 0.1, 20)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'kendall'"):
        compare_correlations(0.2, 20, 0.1, 20, kind="kendal")  # type: ignore[arg-type]


# -- many blocks


def test_p_values_of_blocks_are_adjusted_for_those_that_have_one() -> None:
    rng = np.random.default_rng(3)
    blocks = {f"blocks.{k}": compare_means(rng.normal(0.05 * k, 0.1, 30), rng.normal(0, 0.1, 30)) for k in range(5)}
    blocks["blocks.5"] = compare_means([1.0], [2.0, 3.0])
    table = collect(blocks)
    p = np.array([blocks[name].p for name in table.index])
    assert list(table.index) == list(blocks)
    np.testing.assert_array_equal(table["p"], p)
    np.testing.assert_allclose(table["p_bonferroni"][:5], np.minimum(5 * p[:5], 1))
    np.testing.assert_allclose(table["q"][:5], stats.false_discovery_control(p[:5]))
    assert table.loc["blocks.5", ["p", "p_bonferroni", "q"]].isna().all()
    assert "too small" in table.loc["blocks.5", "note"]
    np.testing.assert_allclose(collect(blocks, method="by")["q"][:5], stats.false_discovery_control(p[:5], method="by"))
    assert set(MeanDifference.__dataclass_fields__) < set(table.columns)


def test_all_kinds_of_results_make_a_table() -> None:
    trends = collect({"a": rank_trend([1, 2, 3], [3, 2, 1]), "b": rank_trend([1, 2], [2, 1])})
    assert trends["tau"].isna().tolist() == [False, True]
    assert trends["p"].dtype == float
    differences = collect({"a": compare_correlations(0.5, 20, 0.1, 20)})
    assert differences["q"]["a"] == differences["p"]["a"] == differences["p_bonferroni"]["a"]
    assert isinstance(differences, pd.DataFrame)


def test_results_of_several_kinds_or_none_make_no_table() -> None:
    with pytest.raises(InputError, match="got none"):
        collect({})
    mixed = {"a": rank_trend([1, 2, 3], [3, 2, 1]), "b": compare_means([1, 2], [3, 4])}
    with pytest.raises(InputError, match="got MeanDifference, RankTrend"):
        collect(mixed)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got float"):
        collect({"a": 0.5})  # type: ignore[dict-item]


def test_bonferroni_refuses_what_is_no_p_value() -> None:
    assert bonferroni(np.array([])).size == 0
    with pytest.raises(InputError, match="between 0 and 1"):
        bonferroni(np.array([0.5, 1.5]))
