"""Outliers that are left out: by which rule, counted apart, and as if they had not been there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mi_probe import Binning, MIResult, describe, pairwise
from mi_probe.binning import MISSING, TRIMMED
from mi_probe.errors import BinningError, MergeError


@pytest.mark.parametrize("method", ["equal_count", "equal_width"])
def test_outliers_are_left_out_as_if_they_had_not_been_there(method: Any) -> None:
    x = np.random.default_rng(0).standard_normal((94, 4))
    x[0, :2] = 3000.0
    found = pairwise(x, bins=5, method=method, trim_z=4)
    assert found.trimmed is not None
    assert found.trimmed.tolist() == found.missing.tolist() == [1, 1, 0, 0]
    without = pairwise(x[1:, :2], bins=5, method=method)
    assert found.mi[0, 1] == pytest.approx(without.mi[0, 1], abs=1e-12)
    assert found.n[0, 1] == 93
    assert found.matrix("linear")[0, 1] == pytest.approx(without.matrix("linear")[0, 1], abs=1e-12)


def test_the_rule_for_outliers_is_the_z_score_of_each_variable_over_all_of_its_values() -> None:
    x = np.random.default_rng(1).standard_t(2, (300, 6)) * [1, 1e3, 1e-3, 1, 1, 1]
    x[5, 3] = np.nan
    codes = Binning.fit(x, bins=5, trim_z=2.5).encode(x)
    z = (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)
    np.testing.assert_array_equal(codes == TRIMMED, np.abs(np.nan_to_num(z)) > 2.5)
    np.testing.assert_array_equal(codes == MISSING, np.isnan(x))


def test_limits_are_frozen_with_the_edges() -> None:
    x = np.random.default_rng(2).standard_normal((500, 2))
    binning = Binning.fit(x, bins=4, trim_z=3)
    far, near = binning.encode(np.array([[100.0, 0.0]]))[0]
    assert far == TRIMMED
    assert near < 4
    with pytest.raises(MergeError, match="outliers"):
        binning.require_same(Binning(binning.edges, binning.method))
    wider = Binning(binning.edges, binning.method, np.add(binning.limits, [[0, 0], [0, 1]]))
    with pytest.raises(MergeError, match="limits of variable 1"):
        binning.require_same(wider)


@pytest.mark.parametrize("trim_z", [0, -1, "4", True])
def test_an_impossible_limit_for_outliers_is_refused(trim_z: Any) -> None:
    with pytest.raises(BinningError, match="trim_z"):
        pairwise(np.eye(4), trim_z=trim_z)


def test_a_small_spread_around_a_large_mean_is_a_spread() -> None:
    x = np.random.default_rng(5).standard_normal((300, 2)) * 1e-4
    x[0] = 0.01
    near, far = (Binning.fit(v, bins=5, trim_z=5) for v in (x, x + 1e9))
    np.testing.assert_array_equal(near.encode(x)[0], far.encode(x + 1e9)[0])
    assert (near.encode(x)[0] == TRIMMED).all()
    assert near.frame is not None
    assert far.frame is not None
    np.testing.assert_allclose(far.frame[:, 1], near.frame[:, 1], rtol=1e-3)


def test_constants_have_no_outliers() -> None:
    x = np.full((40, 2), 0.1)
    x[:, 1] = np.arange(40)
    assert pairwise(x, trim_z=0.001).trimmed.tolist()[0] == 0  # type: ignore[union-attr]


def test_trimmed_values_are_counted_apart_and_reported() -> None:
    x = np.random.default_rng(3).standard_normal((94, 3))
    x[0, 1], x[1, 2] = 50.0, np.nan
    text = describe(MIResult({"toy": pairwise(x, trim_z=4)}))
    assert "Left out: 1 values that were NaN" in text
    assert "Trimmed:  1 outlying values left out, most of 1: 1." in text
