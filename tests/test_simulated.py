"""Simulated pairs: what is said to be known of them is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import dblquad, quad

import mi_probe
from mi_probe import simulated
from mi_probe.errors import InputError


@pytest.mark.parametrize("shape", simulated.all_shapes(), ids=lambda s: s.name)
def test_the_correlation_of_a_large_sample_is_the_one_said(shape: simulated.Shape) -> None:
    n = 200_000
    x, y = shape.sample(n, seed=3).T
    # Five standard errors of r for any distribution, by the spread of the products of standardised values.
    zx, zy = ((v - v.mean()) / v.std() for v in (x, y))
    r = (zx * zy).mean()
    error = (zx * zy - r * (zx**2 + zy**2) / 2).std() / np.sqrt(n)
    assert abs(r - shape.correlation) < 5 * error
    assert error < 0.005


def test_curves_that_turn_back_have_no_correlation_and_much_mi() -> None:
    for shape in (simulated.quadratic(), simulated.cosine(), simulated.circular()):
        assert shape.correlation == 0
        assert shape.mi > 0.5


@pytest.mark.parametrize("shape", simulated.all_shapes(), ids=lambda s: s.name)
def test_neighbours_which_know_no_formula_find_the_known_mi(shape: simulated.Shape) -> None:
    found = [mi_probe.ksg(shape.sample(4000, seed)).mi_pairs[0] for seed in range(5)]
    assert np.mean(found) == pytest.approx(shape.mi, abs=0.04)


def test_the_known_mi_of_a_line_and_of_a_circle_by_other_integrals() -> None:
    from scipy.special import i0
    from scipy.stats import norm

    noise = 0.3

    # Of x uniform on -1 to 1 plus noise, the density is a difference of two normal distribution functions.
    def density(y: float) -> float:
        return (norm.cdf((y + 1) / noise) - norm.cdf((y - 1) / noise)) / 2

    entropy = quad(lambda y: -density(y) * np.log(density(y)), -2.9, 2.9)[0]
    assert simulated.linear(noise).mi == pytest.approx(entropy - norm(scale=noise).entropy(), abs=1e-6)

    noise = 0.5

    def joint(x: float, y: float) -> float:
        return float(np.exp(-(x * x + y * y + 1) / (2 * noise**2)) * i0(np.hypot(x, y) / noise**2) / (2 * np.pi * noise**2))

    def margin(x: float) -> float:
        return quad(lambda y: joint(x, y), -4, 4)[0]

    both = dblquad(lambda x, y: -joint(x, y) * np.log(joint(x, y)), 0, 4, 0, 4, epsabs=1e-6)[0] * 4
    one = quad(lambda x: -margin(x) * np.log(margin(x)), 0, 4)[0] * 2
    assert simulated.circular(noise).mi == pytest.approx(2 * one - both, abs=1e-4)


def test_mi_of_correlated_noise_follows_the_formula_for_either_sign_and_covariance_follows_the_sign() -> None:
    rhos = np.arange(-9, 10) / 10
    found = simulated.measure(map(simulated.correlated_noise, rhos), samples=4000)
    exact = -0.5 * np.log1p(-(rhos**2))
    np.testing.assert_allclose(found["known_mi"], exact, atol=1e-12)
    z = (found["mi"] - exact) / found["se"]
    assert np.abs(z).max() < 4
    assert (np.abs(z) < 2).mean() > 0.8
    assert np.abs(found["covariance"] - rhos).max() < 4 * np.sqrt(2 / 4000)
    np.testing.assert_allclose(found["squared_covariance"], found["covariance"] ** 2)


def test_a_measured_row_is_what_pairwise_says_of_the_same_sample() -> None:
    shapes = [simulated.linear(), simulated.circular()]
    found = simulated.measure(shapes, samples=500, seed=7, bins=8)
    for k, shape in enumerate(shapes):
        x = shape.sample(500, 7 + k)
        alone = mi_probe.pairwise(x, bins=8)
        assert found["mi"][k] == alone.pairs("continuous")[0]
        assert found["correlation"][k] == pytest.approx(np.corrcoef(x.T)[0, 1], abs=1e-12)
        assert found["covariance"][k] == pytest.approx(np.cov(x.T)[0, 1], abs=1e-12)


def test_a_seed_gives_the_same_draws_and_another_seed_others() -> None:
    shape = simulated.cosine()
    np.testing.assert_array_equal(shape.sample(50, 1), shape.sample(50, 1))
    assert not np.array_equal(shape.sample(50, 1), shape.sample(50, 2))


def test_what_cannot_be_simulated_is_refused() -> None:
    for rho in (1, -1, 1.5, float("nan")):
        with pytest.raises(InputError, match="between -1 and 1"):
            simulated.correlated_noise(rho)
    for wrong in (0, -1, 0.001, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"at least 0\.01"):
            simulated.quadratic(wrong)
        with pytest.raises(InputError, match=r"at least 0\.01"):
            simulated.circular(wrong)
    with pytest.raises(InputError, match="whole number of periods"):
        simulated.cosine(periods=0.5)  # type: ignore[arg-type]
    for samples in (0, 2.5, True):
        with pytest.raises(InputError, match="at least 1"):
            simulated.linear().sample(samples)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="take more, or fewer bins"):
        simulated.measure([simulated.linear()], samples=50, bins=8)
