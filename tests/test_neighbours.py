"""Nearest-neighbour estimates against scikit-learn, the formula itself, closed forms and the laws of mutual information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import infomeasure
import numba
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from scipy.stats import norm, rankdata
from sklearn.feature_selection import mutual_info_regression

from mi_probe.errors import InputError
from mi_probe.kernels.neighbours import _BLOCK
from mi_probe.neighbours import ksg


def related(samples: int, variables: int, seed: int = 0) -> np.ndarray:
    """Columns that share a source; the weaker the later."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, variables))
    return x + np.linspace(2, 0, variables) * rng.standard_normal((samples, 1))


def by_formula(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Kraskov et al. 2004, eq. 8, word by word."""
    n = len(x)
    d_x, d_y = abs(x[:, None] - x), abs(y[:, None] - y)
    d = np.maximum(d_x, d_y)
    np.fill_diagonal(d, np.inf)
    radius = np.sort(d, axis=1)[:, k - 1, None]
    n_x, n_y = (d_x < radius).sum(axis=1) - 1, (d_y < radius).sum(axis=1) - 1
    return float(digamma(n) + digamma(k) - np.mean(digamma(n_x + 1) + digamma(n_y + 1)))


def scores(x: np.ndarray) -> np.ndarray:
    grid = norm.ppf((np.arange(1, len(x) + 1) - 0.375) / (len(x) + 0.25))
    grid = (grid - grid[::-1]) / 2  # mirrored ranks have distances that are equal, not nearly so
    return np.asarray(grid[rankdata(x).astype(int) - 1])


def of_two(x: np.ndarray, y: np.ndarray, **options: Any) -> float:
    return float(ksg(np.stack([x, y], axis=1), **options).pairs()[0])


# -- the same numbers as others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("samples", [9, 94, _BLOCK, _BLOCK + 1, 1000])
def test_matched_values_are_those_of_scikit_learn_where_it_does_not_clip(samples: int, k: int) -> None:
    x = 3 + related(samples, 12, seed=samples)
    ours = ksg(x, k=k, match="sklearn", seed=5).mi[:-1, -1]
    theirs = mutual_info_regression(x[:, :-1], x[:, -1], n_neighbors=k, random_state=5)
    np.testing.assert_allclose(np.maximum(ours, 0), theirs, rtol=0, atol=1e-12)
    if samples == 94:
        assert (ours < 0).any()


@pytest.mark.parametrize("samples", [94, 400])
@pytest.mark.parametrize("levels", [2, 5, 60])
def test_with_ties_the_noise_of_scikit_learn_decides_alike(samples: int, levels: int) -> None:
    rng = np.random.default_rng(levels)
    x = rng.integers(0, levels, (samples, 8)).astype(np.float64)
    x[:, -1] = np.where(rng.random(samples) < 0.5, x[:, 0], x[:, -1])
    x[:, 3] = 7.0
    for seed in (0, 1):
        ours = ksg(x, match="sklearn", seed=seed).mi[:-1, -1]
        theirs = mutual_info_regression(x[:, :-1], x[:, -1], random_state=seed)
        np.testing.assert_allclose(np.maximum(ours, 0), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [60, 193, 1000])
def test_far_from_zero_the_noise_of_scikit_learn_is_large_and_the_same(samples: int) -> None:
    x = 1e5 + 1e-3 * related(samples, 4)
    for seed in range(5):
        ours = ksg(x, k=5, match="sklearn", seed=seed).mi[:-1, -1]
        theirs = mutual_info_regression(x[:, :-1], x[:, -1], n_neighbors=5, random_state=seed)
        np.testing.assert_allclose(np.maximum(ours, 0), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("samples", "k"), [(2, 1), (6, 5), (50, 3), (95, 4), (130, 3), (200, 129), (300, 11), (700, 3)])
def test_every_pair_has_the_value_of_the_formula(samples: int, k: int) -> None:
    x = related(samples, 4, seed=samples)
    found = ksg(x, k=k)
    for value, i, j in zip(found.pairs(), *np.triu_indices(4, 1), strict=True):
        assert value == pytest.approx(by_formula(scores(x[:, i]), scores(x[:, j]), k), abs=1e-10)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_a_gaussian_pair_gives_its_closed_form(rho: float) -> None:
    rng = np.random.default_rng(7)
    x, noise = rng.standard_normal((2, 20, 1000))
    y = rho * x + np.sqrt(1 - rho**2) * noise
    found = np.array([of_two(a, b) for a, b in zip(x, y, strict=True)])
    assert found.mean() == pytest.approx(-0.5 * np.log(1 - rho**2), abs=4 * found.std() / np.sqrt(20) + 0.01)


def test_values_of_independent_pairs_fall_on_both_sides_of_zero() -> None:
    found = ksg(np.random.default_rng(0).standard_normal((94, 100))).pairs()
    assert abs(found.mean()) < 0.006
    assert 0.4 < (found < 0).mean() < 0.6


# -- laws -------------------------------------------------------------------------------------------------------------

pairs_of_samples = st.tuples(st.integers(0, 10**6), st.integers(5, 300))


@settings(deadline=None, max_examples=30)
@given(pairs_of_samples)
def test_swapping_the_variables_or_reordering_the_samples_changes_nothing(drawn: tuple[int, int]) -> None:
    seed, samples = drawn
    x = related(samples, 2, seed)
    value = of_two(*x.T)
    assert of_two(*x[:, ::-1].T) == pytest.approx(value, abs=1e-12)
    assert of_two(*np.random.default_rng(seed).permutation(x).T) == pytest.approx(value, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(pairs_of_samples, st.sampled_from([np.exp, np.cbrt, np.arctan, lambda v: 1e3 - 1e-3 * v, np.negative]))
def test_monotone_maps_change_nothing(drawn: tuple[int, int], bend: Callable[[np.ndarray], np.ndarray]) -> None:
    seed, samples = drawn
    x = related(samples, 2, seed)
    assert of_two(bend(x[:, 0]), x[:, 1]) == pytest.approx(of_two(*x.T), abs=1e-12)
    assert of_two(bend(x[:, 0]), bend(x[:, 1])) == pytest.approx(of_two(*x.T), abs=1e-12)


def test_a_massive_activation_weighs_no_more_than_any_other_largest_value() -> None:
    x = related(94, 3)
    x[5] = x.max(axis=0) + 1
    expected = ksg(x).pairs()
    x[5] *= 3000
    np.testing.assert_array_equal(ksg(x).pairs(), expected)


def test_a_copy_has_the_largest_value_there_is() -> None:
    x = np.random.default_rng(0).standard_normal(200)
    assert of_two(x, x) == pytest.approx(digamma(200) - digamma(3), abs=1e-12)


def test_a_constant_shares_exactly_nothing_and_is_named() -> None:
    x = related(60, 4)
    x[:, 1] = 0.1
    found = ksg(x, names=["a", "b", "c", "d"])
    assert found.constant == ("b",)
    np.testing.assert_array_equal(found.mi[1, [0, 2, 3]], 0)
    x[:30, 0], x[30:, 2], x[30:, 3] = 5.0, np.nan, np.inf  # a is constant in the samples that it shares with c and d
    found = ksg(x)
    assert found.constant == ("1",)
    np.testing.assert_array_equal(found.mi[0, [1, 2, 3]], 0)
    assert found.mi[2, 3] != 0


def test_ties_fall_as_the_seed_says_and_independently_in_each_variable() -> None:
    x = np.random.default_rng(0).integers(0, 3, (400, 2)).astype(np.float64)
    assert ksg(x, seed=1).pairs()[0] == ksg(x, seed=1).pairs()[0]
    drawn = np.array([ksg(x, seed=s).pairs()[0] for s in range(20)])
    assert len(np.unique(drawn)) == 20
    assert abs(drawn.mean()) < 0.05
    unique = related(50, 2)
    assert ksg(unique, seed=1).pairs()[0] == ksg(unique, seed=2).pairs()[0]


def test_more_variables_change_no_value_of_the_first_ones() -> None:
    x = np.random.default_rng(0).integers(0, 9, (94, 6))
    np.testing.assert_array_equal(ksg(x).mi[:4, :4], ksg(x[:, :4]).mi)


@pytest.mark.parametrize("samples", [94, 300])
def test_values_do_not_depend_on_the_number_of_threads(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = related(samples, 40)
    x[:3, ::5] = np.nan
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found.append(ksg(x).pairs())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


# -- missing values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [40, 400])
def test_missing_values_are_left_out_pair_by_pair_as_if_dropped_by_hand(samples: int) -> None:
    rng = np.random.default_rng(samples)
    x = related(samples, 5)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[0, 0], x[1, 1] = np.inf, -np.inf
    found = ksg(x)
    np.testing.assert_array_equal(found.missing, (~np.isfinite(x)).sum(axis=0))
    np.testing.assert_array_equal(np.diag(found.n), np.isfinite(x).sum(axis=0))
    for i, j in zip(*np.triu_indices(5, 1), strict=True):
        both = x[np.isfinite(x[:, i]) & np.isfinite(x[:, j])][:, [i, j]]
        assert found.mi[i, j] == pytest.approx(ksg(both).pairs()[0], abs=1e-12)
        assert found.n[i, j] == len(both)


def test_too_few_samples_give_nan_and_say_how_many_there_were() -> None:
    x = related(20, 4)
    x[:, 1] = np.nan
    x[3:, 2] = np.nan
    found = ksg(x, k=3)
    np.testing.assert_array_equal(found.n[0], [20, 0, 3, 20])
    np.testing.assert_array_equal(np.isnan(found.mi), [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    assert found.constant == ()
    assert np.isfinite(ksg(x, k=2).mi[0, 2])
    for samples, match in ((20, None), (3, "sklearn")):
        with pytest.raises(InputError, match=f"less than the number of samples, {samples}"):
            ksg(x[:samples, [0, 3]], k=samples, match=match)


@pytest.mark.parametrize("match", [None, "sklearn"])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (5, 0), (5, 1)])
def test_empty_arrays_have_no_values(shape: tuple[int, int], match: Any) -> None:
    found = ksg(np.zeros(shape), match=match)
    assert found.mi.shape == found.n.shape == (shape[1], shape[1])
    assert np.isnan(found.mi).all()


# -- labels and errors ------------------------------------------------------------------------------------------------


def test_tables_carry_the_names_of_a_data_frame() -> None:
    found = ksg(pd.DataFrame(related(50, 3), columns=["a", "b", "c"]))
    table = found.to_frame()
    assert table.columns.tolist() == ["i", "j", "mi", "n"]
    assert table["j"].tolist() == ["b", "c", "c"]
    assert found.top_pairs(1)[["i", "j"]].to_numpy().tolist() == [["a", "b"]]
    assert repr(ksg(related(50, 3), match="sklearn")) == "NeighbourMI(3 variables, 3 pairs, 50 samples, k=3, match='sklearn')"


def test_float32_and_whole_numbers_are_taken_as_they_are() -> None:
    x = related(94, 3).astype(np.float32)
    np.testing.assert_array_equal(ksg(x).pairs(), ksg(x.astype(np.float64)).pairs())
    whole = np.argsort(x, axis=0)
    np.testing.assert_array_equal(ksg(whole).pairs(), ksg(whole.astype(np.float64)).pairs())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k must be a whole number of neighbours, at least 1; got 0"),
        ({"k": 2.5}, "got 2.5"),
        ({"k": True}, "got True"),
        ({"match": "scipy"}, r"match must be None or one of \('sklearn',\); got 'scipy'"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295; got -1"),
        ({"seed": 2**32}, "got 4294967296"),
        ({"names": ["a"]}, "1 names were given for 3 variables"),
    ],
)
def test_what_cannot_be_done_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ksg(related(10, 3), **options)


def test_matching_scikit_learn_refuses_missing_values_as_it_does() -> None:
    x = related(10, 3)
    x[2, 1] = np.nan
    with pytest.raises(InputError, match="1 of 10 values of variable '1' are NaN or infinite"):
        ksg(x, match="sklearn")


@pytest.mark.parametrize("k", [3, 4])
def test_infomeasure_agrees_on_the_same_values(k: int) -> None:
    x = np.random.default_rng(21).standard_normal((150, 2))
    x[:, 1] += x[:, 0]
    x /= x.std(axis=0)  # infomeasure takes them as they are
    expected = infomeasure.mutual_information(x[:, 0], x[:, 1], approach="ksg", k=k, noise_level=0, minkowski_p=np.inf)
    assert ksg(x, k=k, match="sklearn").pairs()[0] == pytest.approx(expected, abs=1e-8)
