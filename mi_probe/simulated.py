"""Pairs of variables that are made up, with their mutual information and their correlation known: what estimates are tried on.

>>> from mi_probe import simulated
>>> print(simulated.measure([simulated.quadratic()])[["shape", "known_mi", "known_correlation"]].round(2).to_string(index=False))
               shape  known_mi  known_correlation
quadratic, noise 0.2      0.56                0.0

Every value is a closed form or an integral, evaluated when it is first asked for. `benchmarks/distributions.py` has more shapes,
made of the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import InputError
from mi_probe.estimation import pairwise

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Shape", "all_shapes", "circular", "correlated_noise", "cosine", "linear", "measure", "quadratic"]

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]

NORMAL_ENTROPY = 0.5 * float(np.log(2 * np.pi * np.e))
"""Of a standard normal variable, nats."""

_POINTS = 4000


@dataclass(frozen=True)
class Shape:
    """A pair of continuous variables, x and y.

    Attributes
    ----------
    name : str
    draw : callable
        ``(rng, n) -> (x, y)``, each of shape (n,).
    known_mi : callable
        Gives the mutual information in nats.
    correlation : float
        Pearson's r of x and y, not of a sample.

    Examples
    --------
    >>> shape = correlated_noise(-0.6)
    >>> shape.sample(94).shape, round(shape.mi, 4), shape.correlation
    ((94, 2), 0.2231, -0.6)
    """

    name: str
    draw: Draw
    known_mi: Callable[[], float]
    correlation: float

    @cached_property
    def mi(self) -> float:
        """The mutual information, nats."""
        return float(self.known_mi())

    def sample(self, samples: int = 1000, seed: int = 0) -> Floats:
        """Independent draws, the same for the same seed, shape (samples, 2).

        Raises
        ------
        InputError
            Fewer than one sample.
        """
        if not hasattr(samples, "__index__") or isinstance(samples, bool) or samples < 1:
            raise InputError(f"samples must be a whole number, at least 1; got {samples!r}.")
        return np.stack(self.draw(np.random.default_rng(seed), int(samples)), axis=1)


def correlated_noise(rho: float = 0.6) -> Shape:
    """Two standard normal variables of correlation rho, which share -1/2 ln(1 - rho^2) whatever the sign.

    Raises
    ------
    InputError
        rho is not between -1 and 1.

    Examples
    --------
    >>> correlated_noise(0.6).mi == correlated_noise(-0.6).mi
    True
    """
    if not -1 < rho < 1:
        raise InputError(f"rho must be between -1 and 1, neither of which it can be: a copy shares without limit; got {rho!r}.")

    def draw(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        x = rng.standard_normal(n)
        return x, rho * x + np.sqrt(1 - rho * rho) * rng.standard_normal(n)

    return Shape(f"correlated noise, rho {rho}", draw, lambda: -0.5 * float(np.log1p(-rho * rho)), float(rho))


def linear(noise: float = 0.3) -> Shape:
    """y = x + noise, x uniform on -1 to 1: a line, of which covariance sees nearly all.

    Examples
    --------
    >>> round(linear(0.3).correlation, 2)
    0.89
    """
    return _curve(f"linear, noise {noise}", lambda x: x, -1.0, noise, np.sqrt((1 / 3) / (1 / 3 + noise * noise)))


def quadratic(noise: float = 0.2) -> Shape:
    """y = x^2 + noise, x uniform on -1 to 1: as much goes up on the left as on the right, and nothing is left of covariance.

    Examples
    --------
    >>> quadratic().correlation
    0.0
    """
    return _curve(f"quadratic, noise {noise}", lambda x: x * x, -1.0, noise, 0.0)


def cosine(noise: float = 0.3, periods: int = 2) -> Shape:
    """y = cos(2 pi periods x) + noise, x uniform on 0 to 1: whole periods, so no correlation.

    Raises
    ------
    InputError
        No whole number of periods.

    Examples
    --------
    >>> round(cosine(0.3, periods=1).mi, 2) == round(cosine(0.3, periods=3).mi, 2)
    True
    """
    if not hasattr(periods, "__index__") or periods < 1:
        raise InputError(f"a cosine takes a whole number of periods, at least 1, to have no correlation; got {periods!r}.")
    return _curve(f"cosine, {periods} periods, noise {noise}", lambda x: np.cos(2 * np.pi * periods * x), 0.0, noise, 0.0)


def circular(noise: float = 0.1) -> Shape:
    """A point anywhere on the unit circle, with noise in both directions.

    Examples
    --------
    >>> round(circular(0.1).mi, 3)
    0.679
    """
    _require_noise(noise)

    def draw(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        angle = 2 * np.pi * rng.random(n)
        return np.cos(angle) + noise * rng.standard_normal(n), np.sin(angle) + noise * rng.standard_normal(n)

    def known() -> float:
        from scipy.special import i0e

        angles = 2 * np.pi * (np.arange(2000) + 0.5) / 2000
        radius = np.linspace(0, 1 + 12 * noise, 200_001)
        density = np.exp(-((radius - 1) ** 2) / (2 * noise * noise)) * i0e(radius / noise**2) / (2 * np.pi * noise * noise)
        joint = entropy_of_density(density, 2 * np.pi * radius * float(radius[1]))
        return 2 * entropy_with_noise(np.cos(angles), np.full(2000, 1 / 2000), noise) - joint

    return Shape(f"circular, noise {noise}", draw, known, 0.0)


def all_shapes(noise: float | None = None, rho: float = 0.6) -> list[Shape]:
    """A line, a parabola, a cosine, a circle and correlated noise.

    Parameters
    ----------
    noise : float, optional
        Standard deviation of the noise around the four curves; each its own by default.
    rho : float
        Correlation of the correlated noise.

    Examples
    --------
    >>> [shape.name.partition(",")[0] for shape in all_shapes()]
    ['linear', 'quadratic', 'cosine', 'circular', 'correlated noise']
    """
    own: dict[str, Any] = {} if noise is None else {"noise": noise}
    return [linear(**own), quadratic(**own), cosine(**own), circular(**own), correlated_noise(rho)]


def measure(shapes: Iterable[Shape], *, samples: int = 1000, seed: int = 0, bins: int | Literal["auto"] = "auto") -> pd.DataFrame:
    """What samples of some shapes say, beside what is known of them: a row a shape, MI in nats.

    Columns: `shape`; `mi`, the estimate before binning (`continuous`), and its standard error `se`; `known_mi`; `correlation` of
    the sample, `known_correlation`; `covariance` of the sample, `squared_covariance`; `linear`, what Gaussian variables of that
    correlation share.

    Parameters
    ----------
    shapes : iterable of Shape
    samples : int
    seed : int
        The k-th shape is drawn from ``seed + k``.
    bins : int or "auto"
        As in `mi_probe.pairwise`.

    Raises
    ------
    InputError
        Too few samples to tell what bins lose: there must be one a cell at least.

    Examples
    --------
    >>> found = measure([correlated_noise(-0.8), correlated_noise(0.8)], samples=2000)
    >>> found[["mi", "known_mi", "correlation"]].round(1).values.tolist()  # the same MI, with one sign and with the other
    [[0.5, 0.5, -0.8], [0.5, 0.5, 0.8]]
    """
    import pandas as pd

    rows = []
    for k, shape in enumerate(shapes):
        values = shape.sample(samples, seed + k)
        found = pairwise(values, bins=bins, p_values="none")
        if "continuous" not in found.columns:
            raise InputError(
                f"{samples:,} samples in {found.bins**2} cells cannot show what bins lose: take more, or fewer bins."
            )
        covariance = float(np.cov(values.T)[0, 1])
        rows.append(
            {
                "shape": shape.name,
                "mi": found.pairs("continuous")[0],
                "se": found.pairs("continuous_se")[0],
                "known_mi": shape.mi,
                "correlation": found.pairs("correlation")[0],
                "known_correlation": shape.correlation,
                "covariance": covariance,
                "squared_covariance": covariance**2,
                "linear": found.pairs("linear")[0],
            }
        )
    return pd.DataFrame(rows)


def _curve(name: str, f: Callable[[Floats], Floats], low: float, noise: float, correlation: float) -> Shape:
    """y = f(x) + normal noise, x uniform from `low` to 1: MI is the entropy of y less that of the noise."""
    _require_noise(noise)

    def draw(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        x = low + (1 - low) * rng.random(n)
        clean = f(x)
        return x, clean + noise * rng.standard_normal(n)

    def known() -> float:
        grid = low + (1 - low) * (np.arange(_POINTS) + 0.5) / _POINTS
        return entropy_with_noise(f(grid), np.full(_POINTS, 1 / _POINTS), noise) - NORMAL_ENTROPY - float(np.log(noise))

    return Shape(name, draw, known, float(correlation))


def _require_noise(noise: float) -> None:
    if not 0.01 <= noise < np.inf:
        raise InputError(
            f"noise must be a standard deviation of at least 0.01; got {noise!r}. Without noise a curve shares without limit."
        )


# --------------------------------------------------------------------------------------------------------------------
# integrals


def entropy_of_density(density: Floats, step: float | Floats) -> float:
    """-sum f ln f times the step, nats: the trapezoid rule for a density that is 0 at both ends.

    Examples
    --------
    >>> import numpy as np
    >>> grid = np.linspace(-9, 9, 2001)
    >>> bool(np.isclose(entropy_of_density(normal_density(grid), grid[1] - grid[0]), NORMAL_ENTROPY))
    True
    """
    positive = density > 0
    terms = np.zeros_like(density)
    np.log(density, where=positive, out=terms)
    return float(-(terms * density * step).sum())


def normal_density(z: Floats) -> Floats:
    """Of a standard normal variable.

    Examples
    --------
    >>> import numpy as np
    >>> normal_density(np.zeros(1)).round(4)
    array([0.3989])
    """
    return np.asarray(np.exp(-z * z / 2) / np.sqrt(2 * np.pi))


def entropy_with_noise(places: Floats, weights: Floats, noise: float, points: int = 8001) -> float:
    """Entropy of a discrete variable with normal noise added, nats.

    Parameters
    ----------
    places, weights : arrays, shape (any,)
        Its values and their probabilities.
    noise : float
        Standard deviation of the noise.
    points : int
        Of the grid that the integral is taken over.

    Examples
    --------
    >>> import numpy as np
    >>> bool(np.isclose(entropy_with_noise(np.zeros(1), np.ones(1), 1.0), NORMAL_ENTROPY))
    True
    """
    grid = np.linspace(places.min() - 9 * noise, places.max() + 9 * noise, points)
    blocks = np.array_split(grid, max(1, grid.size * places.size // 4_000_000))
    density = np.concatenate([normal_density((block[:, None] - places) / noise) @ weights / noise for block in blocks])
    return entropy_of_density(density, float(grid[1] - grid[0]))
