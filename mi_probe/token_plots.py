"""Figures of what tokens share, over their text, over depth and over distance; `mi_probe.plots` has them, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.canvas import BLUE, GREEN, GREY, VERMILION
from mi_probe.canvas import figure as new_figure
from mi_probe.marks import colours, depth_axis, family, label
from mi_probe.pointresult import PairwiseMI
from mi_probe.result import MIResult
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["against_distance", "against_neighbours", "laminar", "over_distance", "token_depth", "token_map", "token_maps"]

_CLIP = 0.98  # equal tokens share nearly all they have: without a clip, they would be all that is to be seen
_PANELS = 12
_KINDS = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"))  # told apart by shape, too
_SIGNS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥"})


def token_map(point: PairwiseMI, *, title: str = "", units: Units = "nats", most: int = 120) -> Figure:
    """Matrix of one hook point in the order of the text, the tokens on both axes.

    Parameters
    ----------
    point : PairwiseMI
        Its variables are tokens, named by their position and text: ``"17 coffee"``.
    title : str
    units : {"nats", "bits"}
    most : int
        Of a longer text, only so many tokens from its start are drawn, and the figure says so.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> point = mi_probe.pairwise(np.random.default_rng(0).standard_normal((128, 3)), names=["1 the", "2 cup", "3 the"])
    >>> [tick.get_text() for tick in token_map(point).axes[0].get_xticklabels()]
    ['1 the', '2 cup', '3 the']
    """
    mi = _off_diagonal(point, units)[:most, :most]
    size = len(mi)
    side = float(np.clip(0.09 * size, 4.2, 10.8))
    figure, axes = new_figure(size=(side + 2.0, side + 1.2))
    _draw(figure, [axes], [mi], units)
    labels = [_shown(name) for name in point.names[:size]]
    font = {"fontsize": min(8.0, 0.8 * 72 * side / max(size, 1)), "parse_math": False}  # a $ in a text is a dollar
    axes.set_xticks(range(size), labels, rotation=90, **font)
    axes.set_yticks(range(size), labels, **font)
    axes.tick_params(length=1.5)
    some = f"the first {size} of {len(point.names)} tokens" if len(point.names) > size else f"{size} tokens"
    axes.set_xlabel(f"{some}, in the order of the text\n({_left_out([point])})")
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    return figure


def token_maps(result: MIResult, *, points: Sequence[str] | None = None, units: Units = "nats") -> Figure:
    """Matrices of a few hook points side by side, in the order of the text and with one scale of colours.

    Parameters
    ----------
    result : MIResult
        Its variables are tokens, named by their position and text.
    points : sequence of str, optional
        Hook points; the first, the middle and the last one by default.
    units : {"nats", "bits"}

    Raises
    ------
    PointError
        The result has no such hook point.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> texts = {f"hidden_states.{k}": mi_probe.pairwise(rng.standard_normal((128, 9))) for k in range(5)}
    >>> [axes.get_title("left") for axes in token_maps(mi_probe.MIResult(texts)).axes[:3]]
    ['hidden_states.0 (embedding)', 'hidden_states.2', 'hidden_states.4']
    """
    names = list(result)
    chosen = list(points) if points is not None else list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
    several = [result[name] for name in chosen]
    figure, panels = new_figure(1, len(chosen), size=(4.3 * len(chosen) + 1.2, 4.9), squeeze=False)
    _draw(figure, list(panels[0]), [_off_diagonal(point, units) for point in several], units)
    for axes, name, point in zip(panels[0], chosen, several, strict=True):
        size = len(point.names)
        ticks = range(0, size, max(1, -(-size // 24)))
        labels = [_shown(point.names[k]) for k in ticks]
        axes.set_xticks(ticks, labels, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(ticks, labels if axes is panels[0][0] else [], fontsize=7, parse_math=False)
        axes.tick_params(length=2)
        axes.set_title(label(name), loc="left", fontsize=10)
    sizes = " or ".join(f"{size:,}" for size in dict.fromkeys(len(point.names) for point in several))
    figure.supxlabel(f"{sizes} tokens, in the order of the text ({_left_out(several)})", fontsize=10)
    figure.draw_without_rendering()  # squares find their room at the second drawing; at the first, titles stand half outside
    return figure


def token_depth(result: MIResult, null: MIResult | None = None, *, units: Units = "nats") -> Figure:
    """Median of the MI of pairs of tokens over depth, with bands for the middle half and the middle 90 %.

    Parameters
    ----------
    result : MIResult
        Pairs of tokens of a text.
    null : MIResult, optional
        The same for tokens of unrelated texts: in grey and dashed, at the hook points that both have.
    units : {"nats", "bits"}

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> point = mi_probe.pairwise(np.random.default_rng(0).standard_normal((128, 9)))
    >>> result = mi_probe.MIResult({"hidden_states.0": point, "hidden_states.1": point})
    >>> [text.get_text() for text in token_depth(result, result).axes[0].get_legend().get_texts()][-1]
    'unrelated texts: middle 90 %'
    """
    names = list(result)
    figure, axes = new_figure(size=(7.8, 4.4))
    quantiles = _quantiles(names, result, units)
    of_null = _quantiles(names, null, units) if null is not None else None
    families = [family(name) for name in names]
    labels = ["middle 90 % of pairs", "middle half", "median", "unrelated texts: median", "unrelated texts: middle 90 %"]
    for kind in dict.fromkeys(families):  # lines join the layers of one kind, not one kind with another
        at = np.flatnonzero([other == kind for other in families])
        low, lower, middle, upper, high = quantiles[at].T
        if len(at) == 1:  # a band of one hook point would have no width
            axes.vlines(at, low, high, color=BLUE, alpha=0.4, lw=1.5, label=labels[0])
            axes.vlines(at, lower, upper, color=BLUE, alpha=0.6, lw=5, label=labels[1])
        else:
            axes.fill_between(at, low, high, color=BLUE, alpha=0.15, lw=0, label=labels[0])
            axes.fill_between(at, lower, upper, color=BLUE, alpha=0.3, lw=0, label=labels[1])
        axes.plot(at, middle, color=BLUE, lw=2, marker="o", ms=3, label=labels[2])
        if of_null is not None:
            marker = "_" if len(at) == 1 else ""
            low, _, middle, _, high = of_null[at].T
            axes.plot(at, middle, color=GREY, lw=1.8, ls="--", marker=marker, ms=14, label=labels[3])
            axes.plot(at, low, color=GREY, lw=1, ls=":", marker=marker, ms=8, label=labels[4])
            axes.plot(at, high, color=GREY, lw=1, ls=":", marker=marker, ms=8)
        labels = [""] * 5  # an empty one stays out of the legend
    axes.axhline(0, color=GREY, lw=0.6)
    depth_axis(axes, names)
    axes.set_ylabel(f"mutual information of a pair of tokens ({units})")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def over_distance(table: pandas.DataFrame, *, units: Units = "nats", log: bool = True) -> Figure:
    """Mean MI of two tokens over the distance between them, a line for each hook point; bars are two standard errors.

    Parameters
    ----------
    table : DataFrame
        A row for each hook point and band of distances: ``point``; ``first`` and ``last``, the least and the largest distance in
        the band, in tokens; ``key``; ``mi`` and ``se``, in nats. Where ``key`` is ``"unrelated"`` the tokens are of different
        texts, and have no distance: they stand in a panel of their own at the right edge.
    units : {"nats", "bits"}
    log : bool
        A logarithmic axis of distances. A band stands at its geometric middle.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [("1", 1, 1, 0.3), ("2 to 3", 2, 3, 0.2), ("unrelated", None, None, 0.1)]
    >>> table = pd.DataFrame([("embed", *row, 0.01) for row in rows], columns=["point", "key", "first", "last", "mi", "se"])
    >>> [axes.get_xlabel() for axes in over_distance(table).axes]
    ['distance (tokens)', 'unrelated\\ntexts']
    """
    scale = per_nat(units)
    names = list(dict.fromkeys(table["point"]))
    apart = table["key"] == "unrelated"
    columns = -(-len(names) // 26)  # a large model has more hook points than the figure has lines
    if table.loc[apart, "mi"].notna().any():
        figure, (axes, edge) = new_figure(1, 2, size=(6.4 + 2.2 * columns, 4.6), sharey=True, width_ratios=[8, 1])
    else:
        figure, axes = new_figure(size=(5.8 + 2.2 * columns, 4.6))
        edge = None
    for k, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        rows = table[(table["point"] == name) & ~apart].sort_values("first")
        style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 3, "elinewidth": 0.8, "zorder": 2}
        if colour == VERMILION:
            style |= {"lw": 2.4, "zorder": 3}
        middle = np.sqrt(rows["first"] * rows["last"])
        axes.errorbar(middle, scale * rows["mi"], 2 * scale * rows["se"], **{"lw": 1.2} | style, label=label(name))
        beside = table[(table["point"] == name) & apart]
        if edge is not None:
            edge.errorbar([k] * len(beside), scale * beside["mi"], 2 * scale * beside["se"], **style | {"ls": "none"})
    if edge is not None:
        edge.set_xlim(-1.5, len(names) + 0.5)
        edge.set_xticks([])
        edge.set_xlabel("unrelated\ntexts")
        edge.axhline(0, color=GREY, lw=0.8, ls="--")
        edge.spines[["top", "right", "left"]].set_visible(False)
        edge.tick_params(axis="y", left=False)
    if log:
        _tokens_axis(axes)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set_xlabel("distance (tokens)")
    axes.set_ylabel(f"mean mutual information of a pair ({units})")
    bars = "bars: two standard errors" if table["se"].notna().any() else "no errors: they take several texts"
    axes.set_title(bars, loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside right center", ncols=columns)
    return figure


def against_distance(table: pandas.DataFrame, trends: pandas.DataFrame | None = None, *, units: Units = "nats") -> Figure:
    """MI of every pair of occurrences of a word over the distance between them, a panel for each block.

    Of more than twelve blocks, twelve evenly spaced ones are drawn, the first and the last among them, and the figure says so.

    Parameters
    ----------
    table : DataFrame
        A row for each pair of tokens: ``kind`` ("attention", "MLP"), ``block``, ``distance`` in tokens, ``mi`` in nats.
    trends : DataFrame, optional
        ``kind``, ``block``, and Kendall's ``tau`` of MI and distance with its ``p``: written over the panels.
    units : {"nats", "bits"}

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [(kind, block, d, 0.5 / d) for kind in ("attention", "MLP") for block in range(48) for d in (3, 8, 20)]
    >>> figure = against_distance(pd.DataFrame(rows, columns=["kind", "block", "distance", "mi"]))
    >>> [axes.get_title("left") for axes in figure.axes][:4]
    ['block 0', 'block 4', 'block 9', 'block 13']
    """
    scale = per_nat(units)
    blocks = np.unique(table["block"])
    chosen = blocks[np.unique(np.linspace(0, len(blocks) - 1, min(_PANELS, len(blocks))).round().astype(int))]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    size = (2.9 * columns + 1.4, 2.3 * rows + 0.9)
    figure, panels = new_figure(rows, columns, size=size, sharex=True, sharey=True, squeeze=False)
    kinds = list(dict.fromkeys(table["kind"]))
    for axes in panels.flat[len(chosen) :]:
        axes.remove()
    for axes, block in zip(panels.flat, chosen, strict=False):
        for k, kind in enumerate(kinds):
            colour, marker = _KINDS[k % len(_KINDS)]
            of = table[(table["block"] == block) & (table["kind"] == kind)]
            few = len(of) < 300
            x, y = of["distance"], scale * of["mi"]
            axes.scatter(x, y, s=13 if few else 4, alpha=0.75 if few else 0.4, color=colour, marker=marker, lw=0, label=kind)
            words = _trend(trends, kind, block)
            height = 1.02 + 0.095 * (len(kinds) - 1 - k)
            axes.text(1, height, words, transform=axes.transAxes, ha="right", va="bottom", color=colour, fontsize=7.5)
        axes.axhline(0, color=GREY, lw=0.6, ls="--")
        axes.set_title(f"block {block}", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[max(0, len(chosen) - columns) : len(chosen)]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
    some = f"; {len(chosen)} of {len(blocks)} blocks" if len(chosen) < len(blocks) else ""
    figure.supxlabel(f"distance (tokens){some}", fontsize=10)
    figure.supylabel(f"mutual information of a pair ({units})", fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), fontsize=9, frameon=False, loc="outside right center")
    return figure


def against_neighbours(table: pandas.DataFrame, *, units: Units = "nats") -> Figure:
    """MI of every pair by the histogram over MI by nearest neighbours, a panel for each kind, colours for the blocks.

    Where both put pairs in the same order, the points of a block climb together; what bins lose puts them under the dashed line.

    Parameters
    ----------
    table : DataFrame
        A row for each pair: ``kind`` ("attention", "MLP"), ``block``, ``mi`` and ``ksg`` in nats.
    units : {"nats", "bits"}

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [(kind, block, 0.1 * block, 0.12 * block) for kind in ("attention", "MLP") for block in range(12)]
    >>> figure = against_neighbours(pd.DataFrame(rows, columns=["kind", "block", "mi", "ksg"]))
    >>> [axes.get_title("left") for axes in figure.axes[:2]]
    ['attention', 'MLP']
    """
    from matplotlib.ticker import MaxNLocator

    scale = per_nat(units)
    kinds = list(dict.fromkeys(table["kind"]))
    size = (4.6 * len(kinds) + 1.2, 4.4)
    figure, panels = new_figure(1, len(kinds), size=size, sharex=True, sharey=True, squeeze=False)
    first, last = float(table["block"].min()), float(table["block"].max())
    ends = {"vmin": first, "vmax": max(last, first + 1)}  # one block alone would leave no scale
    both = scale * table[["mi", "ksg"]].to_numpy(dtype=np.float64)
    both = both[np.isfinite(both).all(axis=1)]
    line = [both.min(initial=0.0), both.max(initial=0.0)]
    for axes, kind in zip(panels[0], kinds, strict=True):
        of = table[table["kind"] == kind]
        x, y = scale * of["ksg"], scale * of["mi"]
        cloud = axes.scatter(x, y, c=of["block"], s=13, alpha=0.8, cmap="viridis", lw=0, **ends)
        axes.plot(line, line, color=GREY, lw=0.8, ls="--", label="both the same")
        axes.set_title(kind, loc="left", fontsize=10)
        axes.set_xlabel(f"by nearest neighbours ({units})")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel(f"mutual information of a pair, by histogram ({units})")
    panels[0, 0].legend(fontsize=8, frameon=False, loc="upper left")
    figure.colorbar(cloud, ax=list(panels[0]), label="block", ticks=MaxNLocator(integer=True), shrink=0.9)
    return figure


def laminar(table: pandas.DataFrame, *, units: Units = "nats", differs: str = "attention and MLP differ") -> Figure:
    """Mean MI over the blocks, a line for what attention writes and one for what the MLP does; bars are two standard errors.

    Parameters
    ----------
    table : DataFrame
        ``block``, ``kind`` ("attention", "MLP"), and ``mean`` and ``se`` of the MI, in nats. With a column of truth values
        ``differs``, markers are filled where it is true and open elsewhere.
    units : {"nats", "bits"}
    differs : str
        What a filled marker says, for the legend.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [(block, kind, 0.1, 0.01, block > 0) for kind in ("attention", "MLP") for block in range(3)]
    >>> figure = laminar(pd.DataFrame(rows, columns=["block", "kind", "mean", "se", "differs"]))
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['filled: attention and MLP differ', 'attention', 'MLP']
    """
    from matplotlib.ticker import MaxNLocator

    scale = per_nat(units)
    figure, axes = new_figure(size=(7.4, 4.2))
    told = "differs" in table.columns
    if told:
        axes.plot([], [], "o", color=GREY, ms=5, label=f"filled: {differs}")
    for k, kind in enumerate(dict.fromkeys(table["kind"])):
        colour, marker = _KINDS[k % len(_KINDS)]
        rows = table[table["kind"] == kind].sort_values("block")
        mean = scale * rows["mean"]
        style = {"color": colour, "marker": marker, "ms": 5}
        inside = "white" if told else colour
        axes.errorbar(rows["block"], mean, 2 * scale * rows["se"], mfc=inside, lw=1.4, elinewidth=0.8, label=kind, **style)
        if told:
            filled = rows["differs"].to_numpy(dtype=bool)
            axes.plot(rows["block"][filled], mean[filled], ls="none", zorder=4, **style)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    axes.set_xlabel("block")
    axes.set_ylabel(f"mean mutual information of a pair ({units})")
    axes.set_title("bars: two standard errors", loc="left", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _off_diagonal(point: PairwiseMI, units: Units) -> NDArray[np.float64]:
    """The matrix without what a token shares with itself."""
    mi = per_nat(units) * point.mi
    np.fill_diagonal(mi, np.nan)
    return np.asarray(mi, dtype=np.float64)


def _draw(figure: Figure, panels: list[Axes], matrices: list[NDArray[np.float64]], units: Units) -> None:
    """Matrices as images, under one scale of colours."""
    values = np.concatenate([mi[np.isfinite(mi)] for mi in matrices])
    top = max(float(np.quantile(values, _CLIP)) if len(values) else 1.0, 1e-3)
    for axes, mi in zip(panels, matrices, strict=True):
        image = axes.imshow(mi, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    what = f"mutual information of a pair ({units})"
    figure.colorbar(
        image, ax=panels, label=what, extend="max" if values.max(initial=0) > top else "neither", shrink=0.9, aspect=35
    )


def _left_out(several: Sequence[PairwiseMI]) -> str:
    white = ", pairs that were not counted are white" if any(point.listed is not None for point in several) else ""
    return f"diagonal left out; colours end at the {100 * _CLIP:.0f} % quantile and at 0{white}"


def _shown(name: str) -> str:
    """The name of a token so that white space in it is seen and a long one does not push the figure aside."""
    place, _, text = name.partition(" ")
    text = text.strip(" ") if text.strip() else text.replace(" ", "␣")
    text = "".join(c if c.isprintable() else "�" for c in text.translate(_SIGNS))
    return f"{place} {text if len(text) <= 14 else text[:13] + '…'}".rstrip()


def _quantiles(names: list[str], result: MIResult, units: Units) -> NDArray[np.float64]:
    """5, 25, 50, 75 and 95 % of the pairs, shape (hook points, 5); NaN where there are none."""
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    quantiles = np.full((len(names), len(levels)), np.nan)
    for k, name in enumerate(names):
        values = result[name].pairs("mi") if name in result else np.empty(0)
        if np.isfinite(values).any():
            quantiles[k] = per_nat(units) * np.nanquantile(values, levels)
    return quantiles


def _tokens_axis(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _trend(trends: pandas.DataFrame | None, kind: str, block: int) -> str:
    if trends is None:
        return ""
    of = trends[(trends["kind"] == kind) & (trends["block"] == block)]
    if not len(of) or not np.isfinite(of["tau"].iloc[0]):
        return ""
    tau, p = of["tau"].iloc[0], of["p"].iloc[0]
    return f"τ = {tau:+.2f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}".replace("-", "−")
