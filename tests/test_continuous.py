"""What bins lose, undone: exact where it must be, blind to what does not matter, near the truth elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from mi_probe.chance import chance_level_of_pairs
from mi_probe.continuous import _contrast, _gaussian_cells, continuous, gaussian_binned_mi, gaussian_equivalent, merging
from mi_probe.errors import InputError
from mi_probe.estimators import adjust
from mi_probe.kernels.coarse import contrasts


def benchmark(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


shapes = benchmark("distributions")


def gaussian_mi(rho: np.ndarray) -> np.ndarray:
    return -0.5 * np.log1p(-(rho**2))


def gaussian_cells(rho: float, bins: int) -> np.ndarray:
    """Cell probabilities from the bivariate distribution function, a way of its own."""
    edges = np.concatenate([[-9.0], norm.ppf(np.arange(1, bins) / bins), [9.0]])
    x, y = np.meshgrid(edges, edges, indexing="ij")
    below = multivariate_normal.cdf(np.stack([x, y], axis=-1), cov=[[1, rho], [rho, 1]], abseps=1e-8, releps=1e-8)
    return np.clip(np.diff(np.diff(below, axis=0), axis=1), 0, None)


def plug_in(cells: np.ndarray) -> float:
    independent = cells.sum(axis=1, keepdims=True) * cells.sum(axis=0, keepdims=True)
    held = cells > 0
    return float((cells[held] * np.log(cells[held] / independent[held])).sum())


def table(x: np.ndarray, y: np.ndarray, bins: int) -> np.ndarray:
    rows, columns = (np.argsort(np.argsort(v)) * bins // len(v) for v in (x, y))
    return np.bincount(rows * bins + columns, minlength=bins * bins).reshape(bins, bins)


def samples(shape: object, n: int, repeats: int, bins: int, seed: int = 0) -> np.ndarray:
    rngs = (np.random.default_rng([seed, n, r]) for r in range(repeats))
    return np.stack([table(*shape.sample(rng, n), bins) for rng in rngs])


def adjusted(tables: np.ndarray) -> np.ndarray:
    n = tables[0].sum()
    raw = np.array([plug_in(t / n) for t in tables])
    chance = chance_level_of_pairs(tables.sum(axis=2), tables.sum(axis=1))
    return adjust(raw, chance, np.full(len(raw), np.log(tables.shape[1])))


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def any_tables(seed: int, bins: int, pairs: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.5, 8.0, size=(pairs, bins, bins)))


# -- Gaussian tables


@pytest.mark.parametrize(("rho", "bins"), [(0.3, 3), (0.3, 8), (0.9, 5), (0.9, 8), (-0.7, 6)])
def test_gaussian_tables_agree_with_the_bivariate_distribution_function(rho: float, bins: int) -> None:
    assert gaussian_binned_mi(rho, bins) == pytest.approx(plug_in(gaussian_cells(rho, bins)), abs=3e-5)


def test_two_bins_have_the_closed_form_of_quadrants() -> None:
    rho = np.array([-0.99, -0.5, 0.0, 0.2, 0.9])
    same = 0.5 + np.arcsin(rho) / np.pi
    closed = np.log(2) + same * np.log(same) + (1 - same) * np.log(1 - same)
    np.testing.assert_allclose(gaussian_binned_mi(rho, 2), closed, atol=2e-5)


@pytest.mark.parametrize("bins", [2, 3, 4, 5, 8, 15, 16, 32, 64])
def test_the_map_gives_a_gaussian_its_own_value_back(bins: int) -> None:
    rho = np.array([0.0, 0.02, 0.1, 0.37, 0.6, 0.85, 0.95, -0.5])
    np.testing.assert_allclose(gaussian_equivalent(gaussian_binned_mi(rho, bins), bins), gaussian_mi(rho), atol=5e-6)


@pytest.mark.parametrize("bins", [2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 31, 32, 64])
def test_exact_tables_of_a_gaussian_give_its_own_value_at_any_number_of_bins(bins: int) -> None:
    rho = np.array([0.05, 0.3, 0.6, 0.9, -0.9])
    cells = np.stack([_gaussian_cells(np.array([abs(r)]), bins)[0][:: int(np.sign(r))] for r in rho])
    found = continuous(np.rint(cells * 1e12).astype(np.int64))
    np.testing.assert_allclose(found.mi, gaussian_mi(rho), atol=1e-4)


@pytest.mark.parametrize("bins", [2, 5, 8, 16])
def test_the_map_is_monotone_and_odd_and_never_less_than_what_it_maps(bins: int) -> None:
    mi = np.linspace(0, np.log(bins), 4001)
    mapped = gaussian_equivalent(mi, bins)
    assert mapped[0] == 0
    assert (np.diff(mapped) > 0).all()
    assert (mapped >= mi).all()
    np.testing.assert_array_equal(gaussian_equivalent(-mi, bins), -mapped)
    assert mapped[-1] == pytest.approx(np.log(4 * bins))


def test_one_bin_holds_nothing() -> None:
    assert gaussian_equivalent(0.0, 1) == 0
    found = continuous(np.array([[[7]]]))
    assert (found.mi[0], found.se[0]) == (0, 0)


# -- merging


@pytest.mark.parametrize("bins", range(1, 65))
def test_merging_is_the_same_from_both_ends_and_leaves_no_group_out(bins: int) -> None:
    groups = merging(bins)
    sizes = np.bincount(groups)
    assert len(groups) == bins
    assert (np.diff(groups) >= 0).all()
    np.testing.assert_array_equal(sizes, sizes[::-1])
    assert set(sizes) <= ({2} if bins % 2 == 0 else {1, 2, 3})


@pytest.mark.parametrize(("bins", "n"), [(16, 1600), (16, 1000), (8, 640), (6, 333)])
def test_merged_neighbours_are_what_binning_at_half_the_bins_would_be(bins: int, n: int) -> None:
    rng = np.random.default_rng(bins)
    x = rng.standard_normal(n)
    y = x + rng.standard_normal(n)
    found = contrasts(table(x, y, bins)[None], merging(bins))
    half = table(x, y, bins // 2)
    assert found.coarse[0] == pytest.approx(plug_in(half / n), abs=1e-12)
    assert found.fine[0] == pytest.approx(plug_in(table(x, y, bins) / n), abs=1e-12)


# -- the sums over tables


def test_the_jackknife_is_that_of_leaving_out_one_sample_at_a_time() -> None:
    one = any_tables(3, 4, 1)[0]
    n = one.sum()
    without = 0.0
    for a, b in np.argwhere(one > 0):
        fewer = one.copy()
        fewer[a, b] -= 1
        without += one[a, b] / n * plug_in(fewer / (n - 1))
    found = contrasts(one[None], merging(4))
    assert found.fine[0] + found.fine_jackknife[0] == pytest.approx(n * plug_in(one / n) - (n - 1) * without, abs=1e-9)


@pytest.mark.parametrize(("n", "bins"), [(94, 5), (500, 11), (1000, 16), (3000, 8)])
def test_the_remainder_is_the_mean_of_the_jackknife_at_independence(n: int, bins: int) -> None:
    rng = np.random.default_rng(n)
    ranks = np.arange(n)
    tables = np.stack([table(ranks, rng.permutation(n), bins) for _ in range(1500)])
    found = contrasts(tables, merging(bins))
    for jackknifed, remainder in (
        (found.fine + found.fine_jackknife, found.fine_remainder),
        (found.coarse + found.coarse_jackknife, found.coarse_remainder),
    ):
        assert jackknifed.mean() == pytest.approx(remainder[0], abs=4 * jackknifed.std() / np.sqrt(1500) + 2e-4)


@pytest.mark.parametrize(("index", "n", "bins"), [(1, 1000, 8), (1, 1000, 16), (2, 1000, 16), (9, 1000, 16), (9, 300, 8)])
def test_contrasts_of_few_samples_are_those_of_many_on_average(index: int, n: int, bins: int) -> None:
    shape = shapes.SUITE[index]
    few = contrasts(samples(shape, n, 600, bins), merging(bins))
    many = _contrast(samples(shape, 1_000_000, 1, bins) / 1e6)
    for estimated, exact in zip((few.square, few.fourth, few.rim), many, strict=True):
        assert estimated.mean() == pytest.approx(exact[0], rel=0.1, abs=4 * estimated.std() / np.sqrt(600) + 5e-4)


# -- what must not matter


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_reversing_and_swapping_axes_changes_nothing(seed: int, bins: int) -> None:
    tables = any_tables(seed, bins)
    found = continuous(tables)
    for other in (tables[:, ::-1], tables[:, :, ::-1], tables.swapaxes(1, 2)):
        again = continuous(other)
        np.testing.assert_allclose(again.mi, found.mi, atol=1e-9)
        np.testing.assert_allclose(again.se, found.se, atol=1e-9)


def test_pairs_do_not_know_each_other() -> None:
    tables = any_tables(1, 8, 40)
    together = continuous(tables)
    for p in range(0, 40, 7):
        alone = continuous(tables[p : p + 1])
        assert (alone.mi[0], alone.se[0]) == (together.mi[p], together.se[p])


def test_the_integer_type_does_not_matter() -> None:
    tables = any_tables(2, 8)
    np.testing.assert_array_equal(continuous(tables.astype(np.int32)).mi, continuous(tables.astype(np.uint64)).mi)


# -- the ends


@pytest.mark.parametrize("bins", [1, 2, 3, 5, 8, 16])
def test_no_sample_is_nan_and_a_constant_variable_is_zero(bins: int) -> None:
    tables = np.zeros((3, bins, bins), dtype=np.int64)
    tables[1, :, bins // 2] = 11
    tables[2, bins - 1] = 5
    found = continuous(tables)
    assert np.isnan([found.mi[0], found.se[0]]).all()
    np.testing.assert_array_equal(found.mi[1:], 0)
    np.testing.assert_array_equal(found.se[1:], 0)


@pytest.mark.parametrize("bins", [2, 3, 5, 8, 16, 64])
def test_functional_dependence_stays_finite_at_what_four_times_the_bins_could_hold(bins: int) -> None:
    identity = np.eye(bins, dtype=np.int64) * 1000
    found = continuous(np.stack([identity, identity[::-1]]))
    np.testing.assert_allclose(found.mi, np.log(4 * bins), atol=0.005)
    assert (found.se < 0.02).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(0, 60))
def test_every_table_has_a_finite_value_and_error(seed: int, bins: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    tables = rng.multinomial(n, rng.dirichlet(np.full(bins * bins, 0.1), size=8)).reshape(8, bins, bins)
    found = continuous(tables)
    assert np.isfinite(found.mi).all() == (n > 0)
    assert np.isfinite(found.se).all() == (n > 0)
    if n:
        assert (found.se >= 0).all()
        assert (np.abs(found.mi) < 3 * np.log(4 * bins) + 1).all()


def test_no_pairs() -> None:
    assert continuous(np.zeros((0, 8, 8), dtype=np.int32)).mi.shape == (0,)


@pytest.mark.parametrize("wrong", [np.zeros((2, 3)), np.zeros((1, 2, 3), int), np.zeros((1, 2, 2)), np.zeros((1, 0, 0), int)])
def test_what_is_not_square_tables_of_counts_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match="whole numbers"):
        continuous(wrong)


# -- accuracy


@pytest.mark.parametrize(
    ("n", "bins", "repeats"), [(94, 5, 1500), (500, 11, 800), (1000, 8, 800), (1000, 16, 800), (10_000, 16, 200)]
)
def test_independence_is_zero_on_average_with_an_honest_error(n: int, bins: int, repeats: int) -> None:
    rng = np.random.default_rng([n, bins])
    ranks = np.arange(n)
    found = continuous(np.stack([table(ranks, rng.permutation(n), bins) for _ in range(repeats)]))
    spread = found.mi.std()
    assert found.mi.mean() == pytest.approx(0, abs=0.2 * spread)
    assert found.mi.min() < 0
    assert 0.9 < rms(found.se) / spread < 1.6


@pytest.mark.parametrize("shape", [*shapes.SUITE, *shapes.HELD_OUT], ids=lambda s: s.name)
def test_most_of_the_loss_is_undone(shape: object) -> None:
    tables = samples(shape, 20_000, 4, 16)
    halves = tables.reshape(4, 8, 2, 8, 2).sum(axis=(2, 4))
    for counts, share in ((tables, 0.35), (halves, 0.75)):
        lost, left = rms(adjusted(counts) - shape.mi), rms(continuous(counts).mi - shape.mi)
        assert left < share * lost + 0.012


def test_the_error_over_all_shapes_is_a_fraction_of_that_of_the_bins() -> None:
    every = [*shapes.SUITE, *shapes.HELD_OUT]
    for n, sixteen in ((1000, 0.6), (10_000, 0.3)):
        errors = []
        for shape in every:
            tables = samples(shape, n, 4, 16, seed=1)
            halves = tables.reshape(4, 8, 2, 8, 2).sum(axis=(2, 4))
            values = (adjusted(tables), continuous(tables).mi, adjusted(halves), continuous(halves).mi)
            errors.append([rms(v - shape.mi) for v in values])
        binned16, undone16, binned8, undone8 = np.mean(errors, axis=0)
        assert undone16 < sixteen * binned16
        assert undone8 < (0.4 if n == 1000 else 0.3) * binned8


@pytest.mark.parametrize("index", [1, 4, 5, 7, 9, 10])
@pytest.mark.parametrize("n", [1000, 10_000])
def test_the_standard_error_is_about_the_spread(index: int, n: int) -> None:
    repeats = 150 if n == 1000 else 60
    found = continuous(samples(shapes.SUITE[index], n, repeats, 16))
    assert 0.65 < rms(found.se) / found.mi.std() < 1.6


# -- the distributions themselves


def test_two_of_the_known_values_by_other_integrals() -> None:
    known = {s.name: s.mi for s in (*shapes.SUITE, *shapes.HELD_OUT)}

    def density(y: float) -> float:  # of a uniform plus a uniform of width 1/2
        return min(y, 0.5, 1.5 - y) / 0.5

    entropy = quad(lambda y: -density(y) * np.log(density(y)), 1e-12, 1.5 - 1e-12, points=[0.5, 1.0])[0]
    assert known["uniform plus uniform noise, width 0.5"] == pytest.approx(entropy - np.log(0.5), abs=1e-8)

    u, t = np.random.default_rng(0).random((2, 400_000))
    v = (1 + u**-2.0 * (t ** (-2 / 3) - 1)) ** -0.5
    log_density = np.log(3) - 3 * np.log(u * v) - 2.5 * np.log(u**-2 + v**-2 - 1)
    assert known["Clayton copula, theta 2.0"] == pytest.approx(log_density.mean(), abs=0.004)
