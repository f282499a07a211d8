"""Continuous pairs whose mutual information is known: what estimates of it are measured on.

Every value is a closed form or a one- or two-dimensional integral, evaluated when it is first asked for. All were checked to 1e-5
nats against the mean log density ratio over a million points of a Sobol sequence. Shapes that `mi_probe.simulated` has come from
there. `SUITE` holds the shapes that the constants of `mi_probe.continuous` were fitted on (with more parameters of each),
`HELD_OUT` other parameters and other shapes, left out of the fit.

Monotone transforms of either variable are left out: they change neither the mutual information nor equal-count bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import beta, psi

from mi_probe import simulated
from mi_probe.simulated import NORMAL_ENTROPY, entropy_of_density, entropy_with_noise, normal_density

__all__ = ["HELD_OUT", "SUITE", "Distribution"]

Floats = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, int], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Distribution:
    """One pair of continuous variables.

    Attributes
    ----------
    name : str
    kind : str
        gaussian, heavy tails, bounded, clusters, not monotone, other tails or uneven noise.
    sample : callable
        ``(rng, n) -> (x, y)``, each of shape (n,).
    known : callable
        The mutual information in nats.
    how : str
        Where that value comes from.
    """

    name: str
    kind: str
    sample: Sampler
    known: Callable[[], float]
    how: str

    @cached_property
    def mi(self) -> float:
        """The mutual information in nats."""
        return float(self.known())


def _of(shape: simulated.Shape, name: str, kind: str, how: str) -> Distribution:
    """One that the library has, under the name that seeds its samples here."""
    return Distribution(name, kind, shape.draw, lambda: shape.mi, how)


# --------------------------------------------------------------------------------------------------------------------
# the shapes


def _gaussian(rho: float) -> Distribution:
    return _of(simulated.correlated_noise(rho), f"Gaussian, rho {rho}", "gaussian", "closed form")


def _student(df: int, rho: float) -> Distribution:
    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        x, y = _gaussian(rho).sample(rng, n)
        scale = np.sqrt(df / rng.chisquare(df, n))
        return x * scale, y * scale

    def known() -> float:
        tails = 2 * np.log(np.sqrt(df / (2 * np.pi)) * beta(df / 2, 0.5)) - (2 + df) / df
        return float(-0.5 * np.log1p(-rho * rho) + tails + (1 + df) * (psi((df + 1) / 2) - psi(df / 2)))

    return Distribution(f"Student t, {df} df, rho {rho}", "heavy tails", sample, known, "closed form")


def _uniform_noise(width: float) -> Distribution:
    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        x = rng.random(n)
        return x, x + width * rng.random(n)

    def known() -> float:
        return width / 2 - float(np.log(width)) if width <= 1 else 1 / (2 * width)

    return Distribution(f"uniform plus uniform noise, width {width}", "bounded", sample, known, "closed form")


def _clusters(name: str, centres: Sequence[tuple[float, float]], sd: float) -> Distribution:
    places = np.array(centres, dtype=np.float64)
    weights = np.full(len(places), 1 / len(places))

    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        chosen = places[rng.integers(len(places), size=n)]
        return chosen[:, 0] + sd * rng.standard_normal(n), chosen[:, 1] + sd * rng.standard_normal(n)

    def known() -> float:
        reach = float(np.abs(places).max()) + 9 * sd
        grid = np.linspace(-reach, reach, 1201)
        step = float(grid[1] - grid[0])
        by_x, by_y = (normal_density((grid[:, None] - places[:, k]) / sd) / sd for k in (0, 1))
        joint = (by_x * weights) @ by_y.T
        margins = sum(entropy_with_noise(places[:, k], weights, sd) for k in (0, 1))
        return float(margins - entropy_of_density(joint, step * step))

    return Distribution(name, "clusters", sample, known, "integral over both")


def _circle(sd: float) -> Distribution:
    return _of(simulated.circular(sd), f"circle, noise {sd}", "not monotone", "integral over the radius")


def _cosine(periods: int, sd: float) -> Distribution:
    name = f"cosine, {periods} periods, noise {sd}"
    return _of(simulated.cosine(sd, periods), name, "not monotone", "integral over y")


def _parabola(sd: float) -> Distribution:
    return _of(simulated.quadratic(sd), f"square of a uniform, noise {sd}", "not monotone", "integral over y")


def _square(sd: float) -> Distribution:
    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        x = rng.standard_normal(n)
        return x, x * x + sd * rng.standard_normal(n)

    def known() -> float:
        grid = np.linspace(-9, 9, 4001)
        weights = normal_density(grid) * float(grid[1] - grid[0])
        return entropy_with_noise(grid * grid, weights, sd) - NORMAL_ENTROPY - float(np.log(sd))

    return Distribution(f"square of a normal, noise {sd}", "not monotone", sample, known, "integral over y")


def _uneven(spread: float) -> Distribution:
    """The scale of y is exp(spread x): no correlation of any kind."""

    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        x = rng.standard_normal(n)
        return x, np.exp(spread * x) * rng.standard_normal(n)

    def known() -> float:
        x = np.linspace(-9, 9, 2001)
        weights = normal_density(x) * float(x[1] - x[0])
        t = np.linspace(-14, 14, 4001)  # y = sinh t: the density of y has a sharp peak and long tails
        scale = np.exp(-spread * x)
        density = np.concatenate(
            [normal_density(block[:, None] * scale) @ (scale * weights) for block in np.array_split(np.sinh(t), 8)]
        )
        return entropy_of_density(density, np.cosh(t) * float(t[1] - t[0])) - NORMAL_ENTROPY

    return Distribution(f"uneven noise, spread {spread}", "uneven noise", sample, known, "integral over y")


def _laplace(sd: float) -> Distribution:
    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        x = rng.laplace(size=n)
        return x, x + sd * rng.laplace(size=n)

    def known() -> float:
        y = np.linspace(0, 60, 600_001)
        density = (np.exp(-y) - sd * np.exp(-y / sd)) / (2 * (1 - sd * sd))
        weights = np.full(y.size, float(y[1]))
        weights[0] /= 2
        return 2 * entropy_of_density(density, weights) - 1 - float(np.log(2 * sd))

    return Distribution(f"Laplace plus Laplace noise, {sd}", "other tails", sample, known, "integral over y")


def _clayton(theta: float) -> Distribution:
    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        frailty = rng.gamma(1 / theta, size=n)
        x, y = ((1 + rng.exponential(size=n) / frailty) ** (-1 / theta) for _ in range(2))
        return x, y

    return Distribution(
        f"Clayton copula, theta {theta}", "other tails", sample, lambda: np.log1p(theta) - theta / (1 + theta), "closed form"
    )


def _frank(theta: float) -> Distribution:
    def sample(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        u, t = rng.random(n), rng.random(n)
        return u, -np.log1p(t * np.expm1(-theta) / (t + (1 - t) * np.exp(-theta * u))) / theta

    def known() -> float:
        nodes, weights = np.polynomial.legendre.leggauss(200)
        u, v = (nodes[:, None] + 1) / 2, (nodes[None] + 1) / 2
        below = np.expm1(-theta) + np.expm1(-theta * u) * np.expm1(-theta * v)
        density = -theta * np.expm1(-theta) * np.exp(-theta * (u + v)) / below**2
        return float(weights @ (density * np.log(density)) @ weights / 4)

    return Distribution(f"Frank copula, theta {theta}", "other tails", sample, known, "integral over both")


_ROTATED = [(-3.0, -1.0), (-1.0, 3.0), (1.0, -3.0), (3.0, 1.0)]
_DIAMOND = [(-1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (1.0, 0.0)]

SUITE: tuple[Distribution, ...] = (
    _gaussian(0.3),
    _gaussian(0.6),
    _gaussian(0.9),
    _student(2, 0.0),
    _student(3, 0.6),
    _uniform_noise(2.0),
    _uniform_noise(0.2),
    _clusters("2 clusters, 3 apart", [(-1.5, -1.5), (1.5, 1.5)], 1.0),
    _clusters("4 clusters, noise 0.5", _ROTATED, 0.5),
    _circle(0.2),
    _square(0.5),
    _cosine(2, 0.3),
)

HELD_OUT: tuple[Distribution, ...] = (
    _gaussian(0.95),
    _student(2, 0.6),
    _student(3, 0.0),
    _uniform_noise(4.0),
    _uniform_noise(0.5),
    _clusters("2 clusters, 5 apart", [(-2.5, -2.5), (2.5, 2.5)], 1.0),
    _clusters("4 clusters in a diamond, noise 0.3", _DIAMOND, 0.3),
    _circle(0.1),
    _parabola(0.2),
    _cosine(1, 0.3),
    _cosine(3, 0.6),
    _uneven(1.0),
    _laplace(0.5),
    _clayton(2.0),
    _frank(5.0),
)
