"""Figures of pairs between two hook points; `mi_probe.plots` has them, too."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from mi_probe.canvas import BLUE, GREEN, GREY, VERMILION
from mi_probe.canvas import figure as new_figure
from mi_probe.marks import depth_axis, is_embedding, label
from mi_probe.pointresult import PairwiseMI
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["fading", "rectangle"]

_STARTS = [BLUE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000"]  # Okabe and Ito's, told apart by everyone


def fading(table: pandas.DataFrame, *, units: Units = "nats") -> Figure:
    """What dimensions tell about themselves at later places (left), and about the others (right), from each place to start from.

    Left, the line is the median over dimensions and the band their middle half; the ring is their entropy at the start, which is
    what a dimension shares with itself there. Right, the mean over all pairs of different dimensions.

    Parameters
    ----------
    table : DataFrame
        Of `mi_probe.fading`, in the same units.
    units : {"nats", "bits"}
        What the table is in.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> state = mi_probe.ProbeState(mi_probe.Probe(pairs="between", bins=4))
    >>> x, noise = np.random.default_rng(0).standard_normal((2, 800, 5))
    >>> state.update(("before", "after"), (x, x + noise))
    >>> len(fading(mi_probe.fading(state.estimate())).axes)
    2
    """
    per_nat(units)  # which refuses other words
    starts = list(dict.fromkeys(table["start"]))
    order = {name: k for k, name in enumerate(dict.fromkeys([*starts[:1], *table["place"], *starts]))}
    figure, (left, right) = new_figure(1, 2, size=(11.0, 4.4))
    others = cycle(_STARTS)
    for start in starts:
        colour = VERMILION if is_embedding(start) else next(others)  # that of its tick
        rows = table[table["start"] == start]
        at = [order[name] for name in rows["place"]]
        left.fill_between(at, rows["itself_low"], rows["itself_high"], color=colour, alpha=0.25, lw=0)
        left.plot([order[start], at[0]], [rows["entropy"].iloc[0], rows["itself"].iloc[0]], color=colour, lw=1, ls=":")
        left.plot(order[start], rows["entropy"].iloc[0], color=colour, marker="o", mfc="white", ms=6, ls="")
        left.plot(at, rows["itself"], color=colour, lw=2, marker="o", ms=3, label=f"from {label(start)}")
        right.plot(at, rows["others"], color=colour, lw=2, marker="o", ms=3)
    titles = "a dimension with itself: median, middle half", "with the other dimensions: mean of all pairs"
    for axes, title in zip((left, right), titles, strict=True):
        depth_axis(axes, list(order))
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.set_ylabel(f"mutual information ({units})")
        axes.axhline(0, color=GREY, lw=0.8, ls="--")
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    left.plot([], [], color=GREY, marker="o", mfc="white", ms=6, ls="", label="entropy at the start")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    return figure


def rectangle(point: PairwiseMI, title: str, most: int, units: Units, variables: str) -> Figure:
    """Matrix of pairs between two hook points, in the order of the dimensions; `mi_probe.plots.heat_map` draws it."""
    mi = per_nat(units) * point.between()
    means = np.nan_to_num(mi)
    rows, columns = (np.sort(np.argsort(-means.mean(axis=axis), kind="stable")[:most]) for axis in (1, 0))
    labels = [point.names[k] for k in rows], [point.names[len(mi) + k] for k in columns]
    mi = mi[np.ix_(rows, columns)]
    figure, axes = new_figure(size=(6.6, 5.4))
    top = float(np.nanquantile(mi, 0.999)) if np.isfinite(mi).any() else 1.0
    image = axes.imshow(mi, cmap="magma", vmin=0, vmax=max(top, 1e-3), interpolation="nearest")
    axes.set_aspect("equal" if len(rows) == len(columns) else "auto")
    figure.colorbar(image, ax=axes, label=f"mutual information ({units})", extend="max", shrink=0.9)
    first, second = (side.point for side in point.sides)
    same = "\n(the diagonal is a dimension with itself; values below 0 are black)" if len(point.itself) else ""
    axes.set_xlabel(f"{len(columns)} {variables} of {second}{same}")
    axes.set_ylabel(f"{len(rows)} {variables} of {first}")
    for axis, names in zip((axes.yaxis, axes.xaxis), labels, strict=True):
        few = [name.rpartition(":")[2] for name in names] if len(names) <= 40 else []
        axis.set_ticks(range(len(few)), few, fontsize=7)
    axes.set_title(title, loc="left", fontsize=10)
    return figure
