"""Figures of tokens draw what they are given, and say what they leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import mi_probe
from mi_probe import MIResult, plots
from mi_probe.canvas import VERMILION
from mi_probe.errors import InputError, PointError

BITS = 1 / np.log(2)
ODD = ("1 $5", "2 and $6", "3 my_old_town", "4  leading", "5 \n", "6 a\\b", "7 ", "8 \x07", "9 unreasonablylongtoken", "10 ^{2}")


def texts(seed: int, names: tuple[str, ...] = ODD, samples: int = 128) -> mi_probe.PairwiseMI:
    return mi_probe.pairwise(np.random.default_rng(seed).standard_normal((samples, len(names))), names=names)


def layers(count: int, **options: Any) -> MIResult:
    return MIResult({f"hidden_states.{k}": texts(k, **options) for k in range(count)})


def image(axes: Any) -> Any:
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def ticks(axis: Any) -> list[str]:
    return [tick.get_text() for tick in axis.get_ticklabels()]


def legend(figure: Figure) -> list[str]:
    boxes = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for box in boxes for text in box.get_texts()]


def bands(points: int = 3, unrelated: bool = True) -> pd.DataFrame:
    rows = []
    for k in range(points):
        point = f"hidden_states.{k}"
        rows += [(point, "1", 1, 1, 0.3 + k, 0.01), (point, "4 to 9", 4, 9, 0.2 + k, 0.02)]
        rows += [(point, "unrelated", None, None, 0.1 + k, 0.03)] if unrelated else []
    return pd.DataFrame(rows, columns=["point", "key", "first", "last", "mi", "se"])


def occurrences(blocks: int) -> pd.DataFrame:
    rows = [(kind, b, d, b + 1 / d) for kind in ("attention", "MLP") for b in range(blocks) for d in (3, 8, 20, 41)]
    return pd.DataFrame(rows, columns=["kind", "block", "distance", "mi"])


def by_block(blocks: int) -> pd.DataFrame:
    rows = [(b, kind, 0.1 * b, 0.01, b == 1) for kind in ("attention", "MLP") for b in range(blocks)]
    return pd.DataFrame(rows, columns=["block", "kind", "mean", "se", "differs"])


# -- token_map, token_maps --------------------------------------------------------------------------------------------


def test_the_map_keeps_the_order_of_the_text_and_leaves_the_diagonal_out() -> None:
    point = texts(0)
    axes = plots.token_map(point, units="bits").axes[0]
    expected = BITS * point.mi
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_array_equal(image(axes), expected)
    assert "diagonal left out" in axes.get_xlabel()


@pytest.mark.parametrize("of", [plots.token_map, lambda point, **_: plots.token_maps(MIResult({"embed": point}))])
def test_no_text_of_a_token_breaks_a_label(of: Callable[..., Figure]) -> None:
    figure = of(texts(0), title="from $3 to $4_")
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert ticks(axis) == [
            "1 $5", "2 and $6", "3 my_old_town", "4 leading", "5 ↵", "6 a\\b", "7", "8 �", "9 unreasonablyl…", "10 ^{2}",
        ]  # fmt: skip
        assert not any(tick.get_parse_math() for tick in axis.get_ticklabels())


def test_a_token_of_blanks_only_shows_them() -> None:
    axes = plots.token_map(texts(0, ("1  ", "2  \t", "3   a b"))).axes[0]
    assert ticks(axes.xaxis) == ["1 ␣", "2 ␣⇥", "3 a b"]


def test_of_a_long_text_the_first_tokens_are_drawn_and_the_figure_says_so() -> None:
    axes = plots.token_map(texts(0), most=4).axes[0]
    assert image(axes).shape == (4, 4)
    assert ticks(axes.xaxis)[-1] == "4 leading"
    assert "the first 4 of 10 tokens" in axes.get_xlabel()
    assert "the first" not in plots.token_map(texts(0)).axes[0].get_xlabel()


def test_equal_tokens_do_not_use_up_the_colours() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 40))
    x[:, 7] = x[:, 3]
    point = mi_probe.pairwise(x)
    top = plots.token_map(point).axes[0].images[0].get_clim()[1]
    assert point.pairs().max() > 5 * top
    assert top == pytest.approx(np.quantile(point.pairs(), 0.98), rel=0.05)


def test_pairs_that_were_not_counted_are_left_white_and_the_figure_says_so() -> None:
    rng = np.random.default_rng(0)
    point = mi_probe.pairwise(rng.standard_normal((128, 4)), pairs=[(0, 1), (1, 3)])
    axes = plots.token_map(point).axes[0]
    assert np.isfinite(image(axes)).sum() == 4
    assert "not counted are white" in axes.get_xlabel()
    assert "white" not in plots.token_map(texts(0)).axes[0].get_xlabel()


def test_maps_side_by_side_have_one_scale_of_colours() -> None:
    result = layers(5)
    figure = plots.token_maps(result)
    panels = figure.axes[:3]
    assert [axes.get_title("left") for axes in panels] == ["hidden_states.0 (embedding)", "hidden_states.2", "hidden_states.4"]
    assert len({axes.images[0].get_clim() for axes in panels}) == 1
    assert figure.axes[3].get_ylabel() == "mutual information of a pair (nats)"
    chosen = plots.token_maps(result, points=["hidden_states.3"]).axes[0]
    np.testing.assert_array_equal(np.nan_to_num(image(chosen)), np.where(np.eye(10), 0, result["hidden_states.3"].mi))


def test_maps_of_a_hook_point_that_is_not_there_are_refused() -> None:
    with pytest.raises(PointError, match=r"hidden_states\.7"):
        plots.token_maps(layers(2), points=["hidden_states.7"])


@pytest.mark.parametrize("text", ["I", "coffee", "unreasonablylong"])
def test_maps_of_few_tokens_are_whole_at_the_first_drawing(text: str) -> None:
    figure = plots.token_maps(layers(3, names=tuple(f"{k + 100} {text}" for k in range(7))))
    figure.canvas.draw()
    words = [text for axes in figure.axes[:3] for text in (axes.title, axes._left_title, *axes.get_xticklabels())]  # type: ignore[attr-defined]
    ends = [text.get_window_extent() for text in words if text.get_text()]
    assert max(end.y1 for end in ends) <= figure.bbox.height
    assert min(end.y0 for end in ends) >= figure._supxlabel.get_window_extent().y1  # type: ignore[attr-defined]


def test_maps_of_a_long_text_name_only_some_tokens() -> None:
    names = tuple(f"{k + 1} word" for k in range(130))
    axes = plots.token_maps(layers(1, names=names)).axes[0]
    assert image(axes).shape == (130, 130)
    labels = ticks(axes.xaxis)
    assert 10 < len(labels) < 30
    assert [names[int(at)] for at in axes.get_xticks()] == labels


# -- token_depth ------------------------------------------------------------------------------------------------------


def test_the_depth_of_tokens_follows_the_quantiles_of_the_text_and_of_unrelated_ones() -> None:
    result, null = layers(3), MIResult({f"hidden_states.{k}": texts(100 + k) for k in range(2)})
    axes = plots.token_depth(result, null, units="bits").axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_allclose(lines["median"], [BITS * np.median(point.pairs()) for point in result.values()])
    expected = [*(BITS * np.median(point.pairs()) for point in null.values()), np.nan]  # where only one has the hook point
    np.testing.assert_allclose(lines["unrelated texts: median"], expected)
    low = [*(BITS * np.quantile(point.pairs(), 0.05) for point in null.values()), np.nan]
    np.testing.assert_allclose(lines["unrelated texts: middle 90 %"], low)
    high = [BITS * np.quantile(point.pairs(), 0.95) for point in result.values()]
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(max(high))
    assert axes.get_ylabel().endswith("(bits)")
    first, *rest = axes.get_xticklabels()
    assert first.get_color() == VERMILION
    assert VERMILION not in {tick.get_color() for tick in rest}


def test_without_unrelated_texts_the_legend_does_not_speak_of_them() -> None:
    assert legend(plots.token_depth(layers(3))) == ["middle 90 % of pairs", "middle half", "median"]


def test_layers_of_two_kinds_are_not_joined_and_stand_in_the_legend_once() -> None:
    result = MIResult({f"{kind}.{k}": texts(k) for kind in ("attn_out", "mlp_out") for k in range(2)})
    figure = plots.token_depth(result, result)
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines() if line.get_label() == "median"] == [2]
    assert len(legend(figure)) == 5


# -- over_distance ----------------------------------------------------------------------------------------------------


def test_a_band_of_distances_stands_at_its_geometric_middle_with_its_error() -> None:
    figure = plots.over_distance(bands(), units="bits")
    axes, edge = figure.axes
    assert axes.get_xscale() == "log"
    for k, line in enumerate(axes.containers):
        np.testing.assert_allclose(line.lines[0].get_xdata(orig=False), [1, 6])
        np.testing.assert_allclose(line.lines[0].get_ydata(orig=False), BITS * np.array([0.3 + k, 0.2 + k]))
        bars = [np.ptp(segment[:, 1]) for segment in line.lines[2][0].get_segments()]
        np.testing.assert_allclose(bars, BITS * np.array([0.04, 0.08]))  # two errors to each side
        np.testing.assert_allclose(edge.containers[k].lines[0].get_ydata(orig=False), [BITS * (0.1 + k)])
        assert to_hex(edge.containers[k].lines[0].get_color()) == to_hex(line.lines[0].get_color())
    assert to_hex(axes.containers[0].lines[0].get_color()) == VERMILION.lower()
    assert legend(figure) == ["hidden_states.0 (embedding)", "hidden_states.1", "hidden_states.2"]
    assert axes.get_ylabel().endswith("(bits)")
    assert axes.get_xlabel() == "distance (tokens)"


def test_the_legend_of_a_large_model_names_all_its_layers_inside_the_figure() -> None:
    figure = plots.over_distance(bands(49))
    figure.canvas.draw()
    assert len(legend(figure)) == 49
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert box.x0 >= figure.axes[1].get_window_extent().x1


def test_of_one_text_the_figure_shows_and_says_neither_errors_nor_unrelated_texts() -> None:
    table = bands()
    assert plots.over_distance(table).axes[0].get_title("left") == "bars: two standard errors"
    alone = plots.over_distance(table.assign(se=np.nan, mi=table.mi.where(table.key != "unrelated")))
    alone.canvas.draw()
    assert [axes.get_title("left") for axes in alone.axes] == ["no errors: they take several texts"]


def test_without_unrelated_tokens_there_is_no_panel_for_them() -> None:
    assert len(plots.over_distance(bands(unrelated=False)).axes) == 1
    assert plots.over_distance(bands(), log=False).axes[0].get_xscale() == "linear"


# -- against_distance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 3, 5, 12])
def test_every_block_has_a_panel_with_both_kinds(blocks: int) -> None:
    table = occurrences(blocks)
    figure = plots.against_distance(table)
    assert [axes.get_title("left") for axes in figure.axes] == [f"block {b}" for b in range(blocks)]
    for b, axes in enumerate(figure.axes):
        for kind, cloud in zip(("attention", "MLP"), axes.collections, strict=True):
            of = table[(table["block"] == b) & (table["kind"] == kind)]
            np.testing.assert_allclose(cloud.get_offsets(), of[["distance", "mi"]])
        assert len({to_hex(cloud.get_facecolor()[0]) for cloud in axes.collections}) == 2
    assert legend(figure) == ["attention", "MLP"]
    assert figure.get_supylabel() == "mutual information of a pair (nats)"
    assert "blocks" not in figure.get_supxlabel()
    figure.canvas.draw()


def test_of_many_blocks_twelve_are_drawn_from_the_first_to_the_last_and_the_figure_says_so() -> None:
    figure = plots.against_distance(occurrences(48), units="bits")
    titles = [axes.get_title("left") for axes in figure.axes]
    assert len(titles) == 12
    assert (titles[0], titles[-1]) == ("block 0", "block 47")
    assert "12 of 48 blocks" in figure.get_supxlabel()
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets()[:, 1], BITS / np.array([3, 8, 20, 41]))


def test_each_trend_stands_over_its_own_panel() -> None:
    rows = [("attention", 0, -0.25, 0.0321), ("MLP", 0, 0.5, 0.0001), ("attention", 1, np.nan, np.nan)]
    figure = plots.against_distance(occurrences(2), pd.DataFrame(rows, columns=["kind", "block", "tau", "p"]))
    words = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert words == [["τ = −0.25, p = 0.032", "τ = +0.50, p < 0.001"], ["", ""]]


# -- against_neighbours -----------------------------------------------------------------------------------------------


def two_estimates(blocks: int) -> pd.DataFrame:
    return occurrences(blocks).assign(ksg=lambda table: 1.5 * table["mi"] + 0.01 * table["distance"])


@pytest.mark.parametrize("blocks", [1, 3, 48])
def test_each_kind_has_a_panel_of_one_estimate_over_the_other_with_colours_for_the_blocks(blocks: int) -> None:
    table = two_estimates(blocks)
    figure = plots.against_neighbours(table, units="bits")
    figure.canvas.draw()
    assert [axes.get_title("left") for axes in figure.axes] == ["attention", "MLP", ""]
    for axes, kind in zip(figure.axes, ("attention", "MLP"), strict=False):
        of = table[table["kind"] == kind]
        np.testing.assert_allclose(axes.collections[0].get_offsets(), BITS * of[["ksg", "mi"]])
        np.testing.assert_array_equal(axes.collections[0].get_array(), of["block"])
        assert axes.collections[0].get_clim() == figure.axes[0].collections[0].get_clim()
        x, y = axes.get_lines()[0].get_data()
        np.testing.assert_array_equal(x, y)
        assert max(x) == BITS * table[["mi", "ksg"]].to_numpy().max()
        assert axes.get_xlabel() == "by nearest neighbours (bits)"
    assert figure.axes[-1].get_ylabel() == "block"
    assert legend(figure) == ["both the same"]


# -- laminar ----------------------------------------------------------------------------------------------------------


def test_markers_are_filled_where_the_kinds_differ_and_open_elsewhere() -> None:
    figure = plots.laminar(by_block(4), units="bits", differs="told apart")
    axes = figure.axes[0]
    for bars in axes.containers:
        line = bars.lines[0]
        np.testing.assert_allclose(line.get_ydata(orig=False), BITS * 0.1 * np.arange(4))
        assert line.get_markerfacecolor() == "white"
    filled = [line for line in axes.get_lines() if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in filled] == [[1], [1]]
    assert {to_hex(line.get_markerfacecolor()) for line in filled} == {to_hex(b.lines[0].get_color()) for b in axes.containers}
    assert legend(figure) == ["filled: told apart", "attention", "MLP"]
    assert axes.get_ylabel().endswith("(bits)")


def test_without_a_test_all_markers_are_filled_and_nothing_is_said() -> None:
    figure = plots.laminar(by_block(4).drop(columns="differs"))
    assert legend(figure) == ["attention", "MLP"]
    assert "white" not in {bars.lines[0].get_markerfacecolor() for bars in figure.axes[0].containers}


# -- all --------------------------------------------------------------------------------------------------------------

EVERY: dict[str, Callable[[Any], Figure]] = {
    "token_map": lambda units: plots.token_map(texts(0), units=units),
    "token_maps": lambda units: plots.token_maps(layers(2), units=units),
    "token_depth": lambda units: plots.token_depth(layers(2), units=units),
    "over_distance": lambda units: plots.over_distance(bands(), units=units),
    "against_distance": lambda units: plots.against_distance(occurrences(2), units=units),
    "against_neighbours": lambda units: plots.against_neighbours(two_estimates(2), units=units),
    "laminar": lambda units: plots.laminar(by_block(2), units=units),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_says_its_unit_and_refuses_another(name: str) -> None:
    for units in ("nats", "bits"):
        figure = EVERY[name](units)
        figure.canvas.draw()
        words = [figure.get_supylabel(), *(axes.get_ylabel() for axes in figure.axes)]
        assert sum(f"({units})" in word for word in words) == 1
    with pytest.raises(InputError, match="nats or bits"):
        EVERY[name]("meters")


@pytest.mark.parametrize("samples", [1, 2, 128])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_hardly_any_tokens_still_draw(size: int, samples: int) -> None:
    result = layers(1, names=ODD[:size], samples=samples)
    for figure in (plots.token_map(result["hidden_states.0"]), plots.token_maps(result), plots.token_depth(result, result)):
        figure.canvas.draw()


def test_values_that_are_not_there_leave_gaps() -> None:
    x = np.random.default_rng(0).standard_normal((128, 4))
    x[:, 1] = np.nan
    point = mi_probe.pairwise(x)
    result = MIResult({"embed": point, "hidden_states.1": point})
    assert np.isnan(point.pairs()).any()
    plots.token_map(point).canvas.draw()
    plots.token_maps(result).canvas.draw()
    plots.token_depth(result, result).canvas.draw()
    distances, words, blocks = bands(), occurrences(2), by_block(3)
    distances.loc[0, ["mi", "se"]] = words.loc[0, "mi"] = blocks.loc[0, ["mean", "se"]] = np.nan
    plots.over_distance(distances).canvas.draw()
    plots.against_distance(words).canvas.draw()
    plots.against_neighbours(two_estimates(2).assign(mi=words["mi"])).canvas.draw()
    plots.laminar(blocks).canvas.draw()


def test_a_single_hook_point_block_or_kind_draws() -> None:
    plots.over_distance(bands(1)).canvas.draw()
    plots.against_distance(occurrences(1).query("kind == 'MLP'")).canvas.draw()
    plots.against_neighbours(two_estimates(1).query("kind == 'MLP'")).canvas.draw()
    plots.laminar(by_block(1).query("kind == 'MLP'")).canvas.draw()
    figure = plots.token_depth(MIResult({"embed": texts(0)}), MIResult({"embed": texts(1)}))
    figure.canvas.draw()
    assert figure.axes[0].get_xlabel() == "hook point"
