"""Figures draw what they are given."""

from __future__ import annotations

import numpy as np
import pytest

import mi_probe
from mi_probe import MIResult, plots
from mi_probe.canvas import VERMILION


def noise(seed: int, samples: int = 94, variables: int = 12) -> mi_probe.PairwiseMI:
    return mi_probe.pairwise(np.random.default_rng(seed).standard_normal((samples, variables)))


def test_the_embedding_is_told_apart_from_the_blocks() -> None:
    result = MIResult({f"hidden_states.{i}": noise(i) for i in range(4)})
    figure = plots.distributions(result)
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    colours = [line.get_color() for name, line in lines.items() if name.startswith("hidden_states")]
    assert lines["hidden_states.0 (embedding)"].get_color() == VERMILION
    assert len({str(c) for c in colours}) == 4


def test_the_left_panel_shows_the_shift_that_the_right_one_lacks() -> None:
    figure = plots.distributions(MIResult({"a": noise(0)}))
    left, right = (axes.get_lines()[0].get_data() for axes in figure.axes)
    peaks = [x[np.argmax(y)] for x, y in (left, right)]
    assert peaks[0] == pytest.approx(0.09, abs=0.02)
    assert peaks[1] == pytest.approx(0.0, abs=0.02)


def test_the_heat_map_puts_variables_that_share_side_by_side() -> None:
    x = np.random.default_rng(1).standard_normal((300, 10))
    x[:, 7] = x[:, 1] + 0.1 * x[:, 7]
    figure = plots.heat_map(mi_probe.pairwise(x))
    matrix = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    i, j = np.unravel_index(np.nanargmax(matrix), matrix.shape)
    assert abs(int(i) - int(j)) == 1
    assert np.isnan(np.diagonal(matrix)).all()
    assert plots.heat_map(noise(0), most=5).axes[0].images[0].get_array().shape == (5, 5)


def test_the_profile_follows_the_quantiles() -> None:
    result = MIResult({f"hidden_states.{i}": noise(i) for i in range(3)})
    median = plots.depth_profile(result).axes[0].get_lines()[0].get_ydata()
    np.testing.assert_allclose(median, [np.median(p.pairs()) for p in result.values()])


@pytest.mark.parametrize("variables", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 2, 94])
def test_hardly_any_data_still_draws(samples: int, variables: int) -> None:
    point = noise(0, samples, variables)
    result = MIResult({"hidden_states.0": point})
    if variables > 1:
        plots.distributions(result).canvas.draw()
        plots.depth_profile(result).canvas.draw()
    plots.heat_map(point).canvas.draw()
