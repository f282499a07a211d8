"""Figures that a person reads: distributions, heat maps, clouds, profiles over depth, tokens, MI beside covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.canvas import BLUE as _BLUE
from mi_probe.canvas import GREY as _GREY
from mi_probe.canvas import figure as _figure
from mi_probe.corrections import WORDS
from mi_probe.depth_plots import fading
from mi_probe.depth_plots import rectangle as _rectangle
from mi_probe.marks import colours as _colours
from mi_probe.marks import depth_axis as _depth_axis
from mi_probe.marks import family as _family
from mi_probe.marks import is_embedding as _is_embedding
from mi_probe.marks import label as _label
from mi_probe.pointresult import PairwiseMI
from mi_probe.relation_plots import mi_against_correlation, mi_and_covariance
from mi_probe.result import MIResult, as_result
from mi_probe.token_plots import (
    against_distance,
    against_neighbours,
    laminar,
    over_distance,
    token_depth,
    token_map,
    token_maps,
)
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "against_distance",
    "against_neighbours",
    "depth_profile",
    "distributions",
    "fading",
    "heat_map",
    "laminar",
    "mi_against_correlation",
    "mi_and_covariance",
    "over_distance",
    "pair_scatter",
    "settling",
    "token_depth",
    "token_map",
    "token_maps",
]

_CHUNK = 20_000  # values a density is estimated from; more would not move a line in the figure


def _density(values: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import gaussian_kde

    values = values[np.isfinite(values)]
    if len(values) > _CHUNK:
        values = values[:: len(values) // _CHUNK]
    if len(values) < 2 or np.ptp(values) < 1e-12:
        return np.zeros_like(grid)
    return np.asarray(gaussian_kde(values)(grid))


def distributions(result: MIResult | PairwiseMI, *, units: Units = "nats") -> Figure:
    """Distribution of the pairs' MI at every hook point: the plug-in value beside the corrected one.

    The dashed line in the left panel is the mean chance level, what the plug-in value would be on average without any dependence;
    the grey band holds the chance levels of the middle 90 % of the pairs, and the ticks on top are the means of the hook points.

    Parameters
    ----------
    result : MIResult
    units : {"nats", "bits"}

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> result = mi_probe.MIResult({"toy": mi_probe.pairwise(np.random.default_rng(0).standard_normal((94, 9)))})
    >>> len(distributions(result).axes)
    2
    """
    result = as_result(result)
    figure, (left, right) = _figure(1, 2, size=(12.5, 4.4), sharey=False)
    scale = per_nat(units)
    panels: dict[str, Axes] = {"raw": left, "mi": right}
    for what, axes in panels.items():
        every = scale * np.concatenate([p.pairs(what) for p in result.values()])
        every = every[np.isfinite(every)]
        low, high = np.quantile(every, [0.0005, 0.9995]) if len(every) else (0.0, 1.0)
        pad = 0.08 * (high - low) + 1e-6
        start = max(low - pad, 0.0) if what == "raw" else low - pad  # the plain estimate is never negative
        grid = np.linspace(start, high + pad, 400)
        for (name, point), colour in zip(result.items(), _colours(list(result)), strict=True):
            first = _is_embedding(name)
            axes.plot(
                grid,
                _density(scale * point.pairs(what), grid),
                color=colour,
                lw=2.4 if first else 1.2,
                zorder=3 if first else 2,
                label=_label(name),
            )
        axes.set_xlabel(f"mutual information of a pair ({units})")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("density over pairs")
    left.set_ylim(0, 1.12 * left.get_ylim()[1])  # room for the chance levels
    chance = scale * np.concatenate([p.pairs("chance") for p in result.values()])
    level = float(np.nanmean(chance))
    left.axvline(level, color=_GREY, ls="--", lw=1)
    left.axvspan(*np.nanquantile(chance, [0.05, 0.95]), color=_GREY, alpha=0.12, lw=0)  # it differs between pairs
    for (_, point), colour in zip(result.items(), _colours(list(result)), strict=True):
        mean = scale * float(np.nanmean(point.pairs("chance"))) if len(point.pairs()) else np.nan
        left.axvline(mean, 0.965, 1.0, color=colour, lw=2)
    left.text(level, 0.955, " chance level", transform=left.get_xaxis_transform(), va="top", color=_GREY, fontsize=9)
    right.axvline(0, color=_GREY, ls="--", lw=1)
    point = next(iter(result.values()))
    left.set_title(f"as counted (plug-in), {point.bins} {_words(point.method)} bins", loc="left", fontsize=10)
    right.set_title(WORDS[point.correction], loc="left", fontsize=10)
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside right center")
    return figure


def _words(method: str) -> str:
    return method.replace("_", "-")


def heat_map(
    point: PairwiseMI, *, title: str = "", most: int = 768, units: Units = "nats", variables: str = "variables"
) -> Figure:
    """Matrix of one hook point, its variables ordered so that those that share much stand together.

    Of pairs between two hook points it is the rectangle, in the order of the dimensions: those with themselves are its diagonal.

    Parameters
    ----------
    point : PairwiseMI
    title : str
    most : int
        With more variables than this, only those with the largest mean MI are drawn. Pairs that were not counted are left blank.
    units : {"nats", "bits"}
    variables : str
        What these are, in the reader's words.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> point = mi_probe.pairwise(np.random.default_rng(0).standard_normal((94, 9)))
    >>> len(heat_map(point, title="noise").axes)
    2
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    if point.sides:
        return _rectangle(point, title, most, units, variables)
    mi = per_nat(units) * np.nan_to_num(point.mi)
    np.fill_diagonal(mi, 0)
    blank = np.zeros(mi.shape, dtype=bool)
    if point.listed is not None:
        blank[:] = True
        blank[point.pair_indices] = blank[point.pair_indices[::-1]] = False
    partners = np.maximum(len(mi) - 1 - (blank.sum(axis=0) - blank.diagonal()), 1)
    chosen = np.argsort(-mi.sum(axis=0) / partners, kind="stable")[:most]
    mi, blank = mi[np.ix_(chosen, chosen)], blank[np.ix_(chosen, chosen)]
    labels = [point.names[k] for k in chosen]
    if len(mi) > 2:
        distance = mi.max() - mi
        np.fill_diagonal(distance, 0)
        condensed = squareform(distance, checks=False)
        tree = linkage(condensed, "average")
        if len(mi) <= 200:
            tree = optimal_leaf_ordering(tree, condensed)
        order = leaves_list(tree)
        mi, blank = mi[np.ix_(order, order)], blank[np.ix_(order, order)]
        labels = [labels[k] for k in order]
    np.fill_diagonal(mi, np.nan)  # a variable with itself is its entropy, not a dependence
    figure, axes = _figure(size=(6.2, 5.4))
    mi[blank] = np.nan
    top = float(np.nanquantile(mi, 0.999)) if np.isfinite(mi).any() else 1.0
    image = axes.imshow(mi, cmap="magma", vmin=0, vmax=max(top, 1e-3), interpolation="nearest")
    figure.colorbar(image, ax=axes, label=f"mutual information ({units})", extend="max", shrink=0.9)
    white = "\npairs that were not counted are white" if point.listed is not None else ""
    axes.set_xlabel(f"{len(mi)} {variables}, clustered\n(diagonal left out; values below 0 are black){white}")
    if len(mi) <= 40:
        axes.set_xticks(range(len(mi)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(mi)), labels, fontsize=7)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=10)
    return figure


def pair_scatter(pairs: list[tuple[str, str, str, NDArray[Any], NDArray[Any]]], *, columns: int | None = None) -> Figure:
    """Clouds of some pairs, side by side.

    Parameters
    ----------
    pairs : list of (title, name of x, name of y, x, y)
        One panel each; x and y of shape (samples,).
    columns : int, optional
        Panels in a row; all of them by default.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).standard_normal((2, 94))
    >>> len(pair_scatter([("independent", "x", "y", x, y)]).axes)
    1
    """
    columns = columns or len(pairs)
    rows = -(-len(pairs) // columns)
    figure, panels = _figure(rows, columns, size=(4.6 * columns, 4.4 * rows), squeeze=False)
    for axes in panels.flat[len(pairs) :]:
        axes.remove()
    for axes, (title, x_name, y_name, x, y) in zip(panels.flat, pairs, strict=False):
        axes.scatter(x, y, s=14 if len(x) < 500 else 5, alpha=0.7 if len(x) < 500 else 0.4, color=_BLUE, lw=0)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.set_title(title, loc="left", fontsize=10)
        axes.locator_params(nbins=6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def depth_profile(result: MIResult | PairwiseMI, *, units: Units = "nats") -> Figure:
    """Median of the pairs' MI over depth, with bands for the middle half and the middle 90 %.

    Parameters
    ----------
    result : MIResult
    units : {"nats", "bits"}

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> point = mi_probe.pairwise(np.random.default_rng(0).standard_normal((94, 9)))
    >>> len(depth_profile(mi_probe.MIResult({"hidden_states.0": point, "hidden_states.1": point})).axes)
    1
    """
    result = as_result(result)
    names = list(result)
    scale = per_nat(units)
    quantiles = scale * np.array([np.nanquantile(result[n].pairs("mi"), [0.05, 0.25, 0.5, 0.75, 0.95]) for n in names]).T
    means = scale * np.array([np.nanmean(result[n].pairs("mi")) for n in names])
    place = np.arange(len(names))
    figure, axes = _figure(size=(7.4, 4.2))
    families = [_family(n) for n in names]
    labels = ["middle 90 % of pairs", "middle half", "median", "mean"]
    for family in dict.fromkeys(families):  # lines join the layers of one kind, not one kind with another
        of = np.array([f == family for f in families])
        at, low, lower, middle, upper, high = place[of], *quantiles[:, of]
        axes.fill_between(at, low, high, color=_BLUE, alpha=0.15, lw=0, label=labels[0])
        axes.fill_between(at, lower, upper, color=_BLUE, alpha=0.3, lw=0, label=labels[1])
        axes.plot(at, middle, color=_BLUE, lw=2, label=labels[2])
        axes.plot(at, means[of], color="black", lw=1.2, ls=":", marker="o", ms=3, label=labels[3])
        labels = [""] * 4  # an empty one stays out of the legend
    axes.axhline(0, color=_GREY, lw=0.8, ls="--")
    _depth_axis(axes, names)
    axes.set_ylabel(f"mutual information of a pair ({units})")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def settling(table: pandas.DataFrame, *, units: Units = "nats") -> Figure:
    """Mean MI of the pairs at every hook point as tokens come in, each doubling a step to the right.

    Parameters
    ----------
    table : DataFrame
        Of `mi_probe.convergence`.
    units : {"nats", "bits"}

    Examples
    --------
    >>> import mi_probe
    >>> rows = [{"tokens": n, "points": {"embed": {"mi": 0.1 + 1 / n, "se": 0.001}}} for n in (8192, 16384, 32768)]
    >>> len(settling(mi_probe.convergence(rows)).axes)
    1
    """
    scale = per_nat(units)
    names = list(dict.fromkeys(table["point"]))
    figure, axes = _figure(size=(7.4, 4.2))
    for name, colour in zip(names, _colours(names), strict=True):
        rows = table[table["point"] == name]
        first = _is_embedding(name)
        axes.plot(
            rows["tokens"], scale * rows["mi"], color=colour, lw=2.4 if first else 1.2, marker="o", ms=3, label=_label(name)
        )
    axes.set_xscale("log", base=2)
    ticks = sorted(set(table["tokens"]))
    axes.set_xticks(ticks, [f"{n:,.0f}" for n in ticks], rotation=30, ha="right", fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("tokens counted")
    axes.set_ylabel(f"mean mutual information of a pair ({units})")
    axes.set_title("settling: where lines are level, more text changes little", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside right center")
    return figure
