"""The recipe mi_vs_covariance, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mi_probe
from mi_probe import cli, linearity, plots, simulated
from mi_probe.errors import InputError, MIProbeError


def call(*arguments: str) -> None:
    cli.app(list(arguments), result_action="return_value", exit_on_error=False)


def test_the_recipe_writes_what_it_says_and_its_tables_are_those_of_the_library(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    draw = plots.pair_scatter

    def drawn(panels: Any, **options: Any) -> Any:
        titles.extend(panel[0] for panel in panels)
        return draw(panels, **options)

    monkeypatch.setattr(plots, "pair_scatter", drawn)
    (tmp_path / "one.txt").write_text("a short text about coffee and nothing else, " * 5)
    out = tmp_path / "out"
    options = ["--at", "hidden_states.1", "--bins", "4", "--text-file", str(tmp_path / "one.txt"), "--units", "bits"]
    call("run", "mi_vs_covariance", "--model", str(tiny_folder), "--samples", "300", "--out", str(out), *options)
    printed = capsys.readouterr().out
    for figure in ("shapes", "sweep", "mi_vs_r", "clouds"):
        assert (out / f"{figure}.png").stat().st_size > 5000
        assert str(out / f"{figure}.png") in printed
    result = mi_probe.MIResult.load(out / "result.safetensors")
    point = result["hidden_states.1"]
    assert {"correlation", "linear", "continuous"} <= set(point.columns)
    found = pd.read_csv(out / "beyond_covariance.csv", dtype={"i": str, "j": str})
    pd.testing.assert_frame_equal(found, linearity.beyond_covariance(point), rtol=1e-9)
    shapes = pd.read_csv(out / "shapes.csv")
    pd.testing.assert_frame_equal(shapes, simulated.measure(simulated.all_shapes(), samples=300), rtol=1e-9)
    assert pd.read_csv(out / "sweep.csv")["known_correlation"].tolist() == [k / 10 for k in range(-9, 10)]
    first = found[found.correlation.abs() <= 0.2].iloc[0]  # in clouds ± is two standard errors, as the bars beside it are
    mi, error = (first[["continuous", "se"]] / np.log(2)).astype(float)
    assert f"1: much MI, weak r\nMI {mi:.2f} ± {2 * error:.2f} bits, r {first.correlation:+.2f}" in titles
    share = 100 * linearity.explained(point).linear_share
    assert f"At hidden_states.1: 120 pairs share {linearity.explained(point).continuous / np.log(2):.3f} bits" in printed
    assert f"{share:.0f} %" in printed


def test_a_wrong_hook_point_is_refused_before_anything_is_counted(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MIProbeError, match=r"hidden_states\.3"):
        call("run", "mi_vs_covariance", "--model", str(tiny_folder), "--at", "hidden_states.99", "--out", str(tmp_path))
    assert not list(tmp_path.glob("*"))


def test_a_text_too_short_to_tell_leaves_its_counts_and_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    common = ["run", "mi_vs_covariance", "--model", str(tiny_folder), "--samples", "300", "--out", str(tmp_path)]
    with pytest.raises(MIProbeError, match="at least as many samples as cells"):
        call(*common, "--text", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize(("units", "scale"), [("nats", 1.0), ("bits", 1 / np.log(2))])
def test_the_sweep_draws_a_u_a_line_and_a_parabola_through_the_estimates(units: mi_probe.units.Units, scale: float) -> None:
    table = simulated.measure([simulated.correlated_noise(k / 10) for k in range(-9, 10, 3)], samples=500)
    left, middle, right = plots.mi_and_covariance(table, units=units).axes
    rho, exact = left.get_lines()[0].get_data()
    np.testing.assert_allclose(exact, -0.5 * scale * np.log(1 - rho**2), atol=1e-12)
    points = left.containers[0].lines[0]
    np.testing.assert_allclose(np.asarray(points.get_ydata(), dtype=float), scale * table["mi"])
    assert units in left.get_ylabel()
    assert f"-½ {'ln' if units == 'nats' else 'log₂'}(" in left.get_legend().get_texts()[0].get_text()
    for axes, known, drawn in (
        (middle, lambda r: r, "covariance"),
        (right, lambda r: r**2, "squared_covariance"),
    ):
        lines = {line.get_label(): line for line in axes.get_lines()}
        np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), known(rho))
        np.testing.assert_allclose(lines["of the sample"].get_ydata(), table[drawn])


@pytest.mark.parametrize("variables", [8, 90])  # drawn one by one, and by how many lie at a place
def test_pairs_are_drawn_above_the_gaussian_curve_and_marked_ones_are_numbered(variables: int) -> None:
    x = np.random.default_rng(0).standard_normal((300, variables))
    x[:, 1] += 2 * x[:, 0] ** 2
    point = mi_probe.pairwise(x, p_values="none")
    found = linearity.beyond_covariance(point)
    figure = plots.mi_against_correlation(point, marked=found.head(2), title="made up")
    left, right = figure.axes[:2]
    r, curve = next(line.get_data() for line in left.get_lines() if str(line.get_label()).startswith("Gaussian"))
    np.testing.assert_allclose(curve, -0.5 * np.log(1 - r**2), atol=1e-12)
    drawn = left.collections[0]
    shown = drawn.get_array().sum() if variables == 90 else len(drawn.get_offsets())
    assert shown == len(point.pairs())
    assert [text.get_text() for text in left.texts] == ["1", "2"]
    shares = point.linear_share()
    assert sum(bar.get_height() for bar in right.patches) == np.isfinite(shares).sum()


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_the_curve_says_the_logarithm_of_its_unit_and_bars_end_below_the_legend(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((112, 40))
    x += 0.3 * x[:, :1] + 0.3 * x[:, 1:2] ** 2  # lines and curves: shares from 0 to 1, a few pairs each
    figure = plots.mi_against_correlation(mi_probe.pairwise(x, p_values="none"), units="bits")
    figure.canvas.draw()
    left, right = figure.axes
    assert left.get_lines()[0].get_label() == "Gaussian pairs, -½ log₂(1 - r²)"
    box = right.get_legend().get_window_extent()
    assert len([bar for bar in right.patches if bar.get_height()]) > 5
    assert not any(bar.get_window_extent().overlaps(box) for bar in right.patches if bar.get_height())


def test_hardly_any_pairs_still_draw_and_absent_columns_are_refused() -> None:
    x = np.random.default_rng(0).standard_normal((94, 2))
    x[:, 1] = 1.0  # constant: no share of nothing
    point = mi_probe.pairwise(x)
    plots.mi_against_correlation(point, marked=linearity.beyond_covariance(point)).canvas.draw()
    with pytest.raises(InputError, match="equal-count"):
        plots.mi_against_correlation(mi_probe.pairwise(x, method="equal_width"))


def test_clouds_go_on_in_the_next_row() -> None:
    x = np.random.default_rng(0).standard_normal(20)
    figure = plots.pair_scatter([(str(k), "x", "y", x, x) for k in range(5)], columns=3)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list("01234")
    rows = {round(axes.get_subplotspec().get_position(figure).y0, 3) for axes in figure.axes}
    assert len(rows) == 2
