"""Figures of MI beside covariance; `mi_probe.plots` has them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mi_probe.canvas import BLUE, GREEN, GREY, VERMILION
from mi_probe.canvas import figure as new_figure
from mi_probe.linearity import explained
from mi_probe.pointresult import PairwiseMI
from mi_probe.units import Units, logarithm, per_nat

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["mi_against_correlation", "mi_and_covariance"]

_MANY = 3000  # pairs beyond which they are shown by how many lie at a place


def mi_and_covariance(table: pandas.DataFrame, *, units: Units = "nats") -> Figure:
    """MI, covariance and squared covariance of correlated noise over its correlation, each beside what is known of it.

    Parameters
    ----------
    table : DataFrame
        Of `mi_probe.simulated.measure`, with shapes of `mi_probe.simulated.correlated_noise`.
    units : {"nats", "bits"}
        Of the MI.

    Examples
    --------
    >>> from mi_probe import simulated
    >>> noises = [simulated.correlated_noise(rho) for rho in (-0.5, 0.0, 0.5)]
    >>> [axes.get_ylabel() for axes in mi_and_covariance(simulated.measure(noises)).axes][1:]
    ['covariance', 'squared covariance']
    """
    scale = per_nat(units)
    rho = table["known_correlation"].to_numpy()
    far = max(0.05, float(np.abs(rho).max(initial=0.0)))
    grid = np.linspace(-far, far, 401)
    exact = scale * -0.5 * np.log1p(-np.minimum(grid**2, 1 - 1e-12))
    figure, (left, middle, right) = new_figure(1, 3, size=(13, 4.2))
    left.plot(grid, exact, color=GREY, lw=1.2, label=f"exact, -½ {logarithm(units)}(1 - ρ²)")
    left.errorbar(rho, scale * table["mi"], 2 * scale * table["se"], fmt="o", ms=4, color=BLUE, lw=1, label="estimate ± 2 se")
    left.set_ylabel(f"mutual information ({units})")
    left.set_title("MI: a U, the same for both signs", loc="left", fontsize=10)
    middle.plot(grid, grid, color=GREY, lw=1.2, label="exact, ρ")
    middle.plot(rho, table["covariance"], "o", ms=4, color=VERMILION, label="of the sample")
    middle.set_ylabel("covariance")
    middle.set_title("covariance: a line, with the sign", loc="left", fontsize=10)
    right.plot(grid, grid**2, color=GREY, lw=1.2, label="exact, ρ²")
    right.plot(grid, -np.log1p(-np.minimum(grid**2, 1 - 1e-12)), color=BLUE, lw=1.2, ls="--", label="twice the MI, nats")
    right.plot(rho, table["squared_covariance"], "o", ms=4, color=GREEN, label="of the sample")
    right.set_ylabel("squared covariance")
    right.set_title("squared: a U as well, but it ends at 1", loc="left", fontsize=10)
    for axes in (left, middle, right):
        axes.set_xlabel("correlation ρ of the noise (both variances are 1)")
        _plain(axes)
        axes.legend(fontsize=8, frameon=False)
    middle.axhline(0, color=GREY, lw=0.6, ls=":")
    return figure


def mi_against_correlation(
    point: PairwiseMI, *, marked: pandas.DataFrame | None = None, title: str = "", units: Units = "nats"
) -> Figure:
    """MI of every pair against its correlation, with the curve that Gaussian pairs lie on, and the share that covariance sees.

    Parameters
    ----------
    point : PairwiseMI
        With the columns `continuous`, `gaussian`, `linear` and `correlation`.
    marked : DataFrame, optional
        Rows of `mi_probe.linearity.beyond_covariance`, drawn with bars of two standard errors and numbered from 1.
    title : str
    units : {"nats", "bits"}

    Raises
    ------
    InputError
        A column is not there.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> len(mi_against_correlation(mi_probe.pairwise(np.random.default_rng(0).standard_normal((94, 9)))).axes)
    2
    """
    from matplotlib.ticker import MaxNLocator

    means = explained(point)  # raises where a column is missing
    scale = per_nat(units)
    r, mi = np.abs(point.pairs("correlation")), scale * point.pairs("continuous")
    usable = np.isfinite(r) & np.isfinite(mi)
    r, mi = r[usable], mi[usable]
    figure, (left, right) = new_figure(1, 2, size=(12.5, 4.6), width_ratios=[1.35, 1])
    far = min(0.995, 1.05 * float(r.max(initial=0.1)))
    if len(r) > _MANY:
        cells = left.hexbin(r, mi, gridsize=60, bins="log", mincnt=1, cmap="viridis", lw=0.2)
        figure.colorbar(cells, ax=left, label="pairs at a place", shrink=0.9)
    else:
        left.scatter(r, mi, s=10, alpha=0.6, color=BLUE, lw=0, label="pairs")
    grid = np.linspace(0, far, 300)
    curve = f"Gaussian pairs, -½ {logarithm(units)}(1 - r²)"
    left.plot(grid, -0.5 * scale * np.log1p(-(grid**2)), color=VERMILION, lw=2, label=curve)
    if marked is not None and len(marked):
        x, y = marked["correlation"].abs(), scale * marked["continuous"]
        left.errorbar(x, y, 2 * scale * marked["se"], fmt="s", ms=5, color="black", lw=1, label="disagree most (± 2 se)")
        for k, (at, top) in enumerate(zip(x, y + 2 * scale * marked["se"], strict=True), start=1):
            left.annotate(str(k), (at, top), xytext=(0, 3), textcoords="offset points", ha="center", fontweight="bold")
    left.axhline(0, color=GREY, lw=0.8, ls="--")
    left.set_xlim(0, far)
    left.set_xlabel("|r|, Pearson's correlation without its sign")
    left.set_ylabel(f"mutual information of a pair ({units})")
    left.set_title(title, loc="left", fontsize=10)
    left.legend(fontsize=8, frameon=False, loc="upper left" if marked is None else "best")
    share = point.linear_share()
    told = share[np.isfinite(share)]
    right.hist(np.clip(told, -0.25, 1.75), bins=np.linspace(-0.25, 1.75, 41), color=BLUE, alpha=0.8)
    right.axvline(1, color=GREY, lw=1, ls="--", label="all of it: a Gaussian pair")
    if np.isfinite(means.linear_share):
        right.axvline(means.linear_share, color=VERMILION, lw=2, label=f"all pairs together: {means.linear_share:.2f}")
        right.axvline(means.gaussian_share, color=GREEN, lw=2, ls=":", label=f"by rank correlation: {means.gaussian_share:.2f}")
    right.set_xlabel(
        "share of a pair's MI that covariance sees (linear / continuous;\nshares beyond the axis are in the outermost bars)"
    )
    right.set_ylabel("pairs")
    right.set_title(f"{len(told):,} of {len(share):,} pairs: MI above two standard errors", loc="left", fontsize=10)
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylim(top=1.35 * max(bar.get_height() for bar in right.patches) or 1)  # bars end below the legend
    right.legend(fontsize=8, loc="upper right", facecolor="white", edgecolor="none", framealpha=1)
    for axes in (left, right):
        _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
