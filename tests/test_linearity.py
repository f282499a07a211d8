"""What covariance sees of what pairs share, and the pairs that it is blind to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm

import mi_probe
from mi_probe import linearity, simulated
from mi_probe.errors import InputError


def columns(*shapes: simulated.Shape, n: int = 2000, seed: int = 0) -> np.ndarray:
    """Two variables for each shape; those of different shapes are independent."""
    return np.concatenate([shape.sample(n, seed + k) for k, shape in enumerate(shapes)], axis=1)


def own_pairs(x: np.ndarray, **options: object) -> mi_probe.PairwiseMI:
    return mi_probe.pairwise(x, pairs=[(k, k + 1) for k in range(0, x.shape[1], 2)], **options)  # type: ignore[arg-type]


def test_correlation_is_that_of_numpy_in_arrays_and_streams_and_is_signed() -> None:
    x = columns(simulated.correlated_noise(-0.7), simulated.linear(), simulated.circular(), n=500)
    exact = np.corrcoef(x.T)
    found = mi_probe.pairwise(x)
    np.testing.assert_allclose(found.pairs("correlation"), exact[np.triu_indices(6, 1)], atol=1e-12)
    assert found.pairs("correlation")[0] < -0.6
    state = mi_probe.ProbeState(mi_probe.Probe(hooks=("a",), skip_first=0, moments=True))
    state.update("a", x)
    np.testing.assert_allclose(state.estimate()["a"].pairs("correlation"), found.pairs("correlation"), atol=2e-4)
    table = found.to_frame(units="bits")
    np.testing.assert_array_equal(table["correlation"], found.pairs("correlation"))  # no unit, so not changed by one


def test_shares_are_ratios_of_means_over_the_pairs() -> None:
    found = own_pairs(columns(simulated.correlated_noise(0.8), simulated.quadratic(), n=4000))
    means = linearity.explained(found)
    whole, line = found.pairs("continuous"), found.pairs("linear")
    assert means.pairs == 2
    assert means.linear_share == pytest.approx(line.sum() / whole.sum(), abs=1e-12)
    assert means.gaussian_share == pytest.approx(found.pairs("gaussian").sum() / whole.sum(), abs=1e-12)
    assert means.linear_share == pytest.approx(0.511 / (0.511 + 0.555), abs=0.05)  # the known values of both


def test_copies_and_absent_pairs_are_left_out_of_the_shares() -> None:
    x = columns(simulated.correlated_noise(0.8), simulated.correlated_noise(0.5))
    alone = linearity.explained(own_pairs(x))
    more = np.column_stack([x, x[:, 0], x[:, 0], x[:, 0], np.full(len(x), np.nan)])
    means = linearity.explained(own_pairs(more))
    assert means == alone
    nothing = linearity.explained(own_pairs(more[:, 4:6]))
    assert nothing.pairs == 0
    assert np.isnan([nothing.linear_share, nothing.gaussian_share]).all()


@pytest.mark.parametrize(("n", "bins"), [(112, 5), (500, 8)])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("over", ["linear", "gaussian"])
def test_gaussian_pairs_are_seldom_said_to_share_more_than_gaussians(n: int, bins: int, rho: float, over: linearity.Over) -> None:
    x = columns(*[simulated.correlated_noise(rho)] * 500, n=n)
    found = linearity.beyond_covariance(own_pairs(x, bins=bins, p_values="none"), over=over)
    assert (found.p <= 0.05).mean() < (0.07 if over == "linear" else 0.12)
    assert (found.p <= 0.001).mean() <= 0.004
    assert np.isfinite(found.p).all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "bins"), [(112, 5), (2000, 8)])
@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_the_p_values_of_gaussian_pairs_are_no_smaller_than_is_said(n: int, bins: int, rho: float) -> None:
    found: dict[linearity.Over, list[float]] = {"linear": [], "gaussian": []}
    for part in range(8):
        x = columns(*[simulated.correlated_noise(rho)] * 500, n=n, seed=1000 * part)
        point = own_pairs(x, bins=bins, p_values="none")
        for over, p in found.items():
            p += list(linearity.beyond_covariance(point, over=over).p)
    shares = {over: ((np.array(p) <= 0.05).mean(), (np.array(p) <= 0.001).mean()) for over, p in found.items()}
    print(n, bins, rho, shares)
    assert shares["linear"][0] <= 0.05
    assert shares["linear"][1] <= 0.0015
    assert shares["gaussian"][0] <= 0.085
    assert shares["gaussian"][1] <= 0.0025


def test_curves_are_found_among_many_lines_and_come_first() -> None:
    curves = [simulated.quadratic(), simulated.cosine(), simulated.circular(), simulated.circular(0.3)]
    lines = [simulated.correlated_noise(rho) for rho in np.linspace(-0.9, 0.9, 60)]
    found = linearity.beyond_covariance(own_pairs(columns(*lines, *curves)))
    first = {int(i) // 2 for i in found.i[:4]}
    assert first == {60, 61, 62, 63}
    assert (found.q[:4] < 1e-3).all()
    assert (found.q[4:] > 0.05).mean() > 0.9
    assert found.at_least.is_monotonic_decreasing


def test_a_bent_line_is_beyond_covariance_and_not_beyond_rank_correlation() -> None:
    x = columns(simulated.correlated_noise(0.7), n=4000)
    x[:, 1] = np.exp(2 * x[:, 1])
    point = own_pairs(x)
    over_linear, over_rank = (linearity.beyond_covariance(point, over=over) for over in ("linear", "gaussian"))
    assert over_linear.p[0] < 1e-6
    assert over_rank.p[0] > 0.01


def test_the_table_is_its_definition() -> None:
    point = mi_probe.pairwise(columns(simulated.quadratic(), simulated.linear(), n=300))
    found = linearity.beyond_covariance(point).set_index(["i", "j"]).sort_index()
    assert len(found) == 6
    for k, (i, j) in enumerate(zip(*point.pair_indices, strict=True)):
        row = found.loc[(str(i), str(j))]
        whole, error = point.pairs("continuous")[k], point.pairs("continuous_se")[k]
        assert row.excess == whole - point.pairs("linear")[k]
        assert row.at_least == row.excess - 2 * error
        assert row.p == pytest.approx(max(norm.sf(row.excess / error), point.pairs("p")[k]), rel=1e-9)
    np.testing.assert_allclose(found.q, false_discovery_control(found.p))


def test_shards_of_documents_widen_the_error_and_never_narrow_it() -> None:
    point = mi_probe.pairwise(columns(simulated.quadratic(), simulated.linear(), n=300))
    plain = linearity.beyond_covariance(point).set_index(["i", "j"])
    factor = np.array([3.0, 0.5, np.nan, 1.0, 2.0, 1.0])
    wide = replace(point, companions={**point.companions, "shard_se": point.pairs("se") * factor})
    found = linearity.beyond_covariance(wide).set_index(["i", "j"]).loc[plain.index]
    ratio = dict(zip(plain.index, found.se / plain.se, strict=True))
    expected = [3.0, 1.0, 1.0, 1.0, 2.0, 1.0]
    for k, (i, j) in enumerate(zip(*point.pair_indices, strict=True)):
        assert ratio[(str(i), str(j))] == pytest.approx(expected[k])


def test_constants_copies_and_absent_variables_have_no_excess() -> None:
    x = columns(simulated.correlated_noise(0.5), n=300)
    x = np.column_stack([x, x[:, 0], np.zeros(300), np.full(300, np.nan)])
    found = linearity.beyond_covariance(mi_probe.pairwise(x)).set_index(["i", "j"])
    assert found.loc[("0", "2"), "p"] == 1  # a copy: a Gaussian of correlation 1 shares without limit
    assert found.loc[("0", "3"), "p"] >= 0.5
    assert np.isnan(found.loc[("0", "4"), "p"])


def test_absent_columns_and_unknown_words_are_refused_with_the_way_out() -> None:
    x = np.random.default_rng(0).standard_normal((94, 3))
    wide = mi_probe.pairwise(x, method="equal_width")
    for function in (linearity.explained, linearity.beyond_covariance):
        with pytest.raises(InputError, match=r"not here: continuous.*equal-count"):
            function(wide)
    with pytest.raises(InputError, match=r"94 samples in 225 cells cannot show it.*fewer than 15 bins, or a longer text"):
        linearity.explained(mi_probe.pairwise(x, bins=15))
    with pytest.raises(InputError, match="did you mean 'linear'"):
        linearity.beyond_covariance(mi_probe.pairwise(x), over="linaer")  # type: ignore[arg-type]
