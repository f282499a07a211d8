"""Edges and codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mi_probe import Binning, pairwise
from mi_probe.binning import MISSING, auto_bins
from mi_probe.errors import BinningError, InputError, MergeError


@pytest.mark.parametrize("bins", [2, 3, 5, 8, 15, 16])
@pytest.mark.parametrize("n", [16, 94, 500])
def test_equal_count_bins_differ_by_at_most_one_sample_without_ties(n: int, bins: int) -> None:
    x = np.random.default_rng(n).standard_normal((n, 20))
    codes = Binning.fit(x, bins=bins).encode(x)
    for v in range(20):
        counts = np.bincount(codes[:, v], minlength=bins)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("bins", [2, 7, 15, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", [None, 0.1])  # multiples of a step fall on the edges
def test_equal_width_codes_are_those_of_numpy_histogram(bins: int, dtype: type, step: float | None) -> None:
    x = np.random.default_rng(1).standard_normal((300, 12)) ** 3
    x = (x if step is None else step * np.round(x / step)).astype(dtype)
    codes = Binning.fit(x, method="equal_width", bins=bins).encode(x)
    for v in range(12):
        expected = np.histogram2d(x[:, v], x[:, v], bins=bins)[0].diagonal()
        np.testing.assert_array_equal(np.bincount(codes[:, v], minlength=bins), expected)


@given(arrays(np.float64, (40, 2), elements=st.integers(-4, 4).map(float)), st.integers(2, 9))
def test_equal_values_never_stand_in_two_bins(x: np.ndarray, bins: int) -> None:
    codes = Binning.fit(x, bins=bins).encode(x)
    for v in range(2):
        for value in np.unique(x[:, v]):
            assert len(np.unique(codes[x[:, v] == value, v])) == 1


@given(arrays(np.float64, (50, 1), elements=st.floats(-1e3, 1e3, width=32), unique=True))
def test_equal_count_codes_are_blind_to_monotone_maps(x: np.ndarray) -> None:
    stretched = np.arctan(x / 100) * 7 + 3
    if len(np.unique(stretched)) < len(x):
        return  # rounding made ties that were not there
    first, second = (Binning.fit(a, bins=5).encode(a) for a in (x, stretched))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("n", "bins"), [(94, 5), (94, 6), (94, 8), (95, 3), (95, 5), (96, 4), (7, 3)])
def test_equal_count_bins_are_blind_to_decreasing_maps(n: int, bins: int) -> None:
    x = np.random.default_rng(n).standard_normal((n, 8))
    up, down = (Binning.fit(a, bins=bins).encode(a) for a in (x, -x))
    np.testing.assert_array_equal(up, bins - 1 - down)


@pytest.mark.parametrize("share", [0.04, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("bins", [2, 3, 5, 8])
def test_two_values_are_told_apart_however_unequal_they_are(share: float, bins: int) -> None:
    x = (np.arange(100) < 100 * share).astype(float)[:, None]
    for values in (x, -x, 1 - x):
        codes = Binning.fit(values, bins=bins).encode(values)[:, 0]
        assert len(np.unique(codes)) == 2


@given(arrays(np.float64, (41, 1), elements=st.integers(-3, 3).map(float)), st.sampled_from([3, 5, 7, 9]))
def test_ties_do_not_make_a_decreasing_map_matter(x: np.ndarray, bins: int) -> None:
    up, down = (Binning.fit(a, bins=bins).encode(a)[:, 0] for a in (x, -x))
    pairs = set(zip(up.tolist(), down.tolist(), strict=True))
    assert len(pairs) == len(np.unique(up)) == len(np.unique(down))  # the same groups, under other names


def test_rectified_values_keep_what_they_share() -> None:
    x = np.random.default_rng(1).standard_normal((2000, 2))
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    rectified = np.maximum(x - 1.2, 0)
    shared = [pairwise(a, bins=8).pairs("mi")[0] for a in (rectified, -rectified)]
    assert shared[0] == pytest.approx(shared[1], abs=0.03)
    assert shared[0] > 0.2


def test_masked_values_are_missing() -> None:
    x = np.ma.masked_equal(np.array([[1.0, 2.0], [-999.0, 3.0], [4.0, 5.0]]), -999.0)
    assert Binning.fit(x, bins=2).encode(x)[:, 0].tolist() == [0, MISSING, 1]


def test_frozen_edges_are_nobodys_but_their_own() -> None:
    edges = np.array([[1.0, 2.0]])
    binning = Binning(edges, "equal_count")
    edges[0, 0] = 9.0
    assert binning.edges[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        binning.edges[0, 0] = 9.0


def test_values_that_are_not_finite_are_missing_and_move_no_edge() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((100, 3))
    clean = Binning.fit(x, bins=4)
    dirty = np.vstack([x, [[np.nan, np.inf, -np.inf]] * 5])
    for method in ("equal_count", "equal_width"):
        np.testing.assert_array_equal(
            Binning.fit(dirty, method=method, bins=4).edges,
            Binning.fit(x, method=method, bins=4).edges,
        )
    codes = clean.encode(dirty)
    assert (codes[100:] == MISSING).all()
    assert (codes[:100] < 4).all()


def test_a_constant_variable_has_one_bin() -> None:
    x = np.column_stack([np.full(50, 3.25), np.arange(50.0)])
    for method in ("equal_count", "equal_width"):
        codes = Binning.fit(x, method=method, bins=5).encode(x)
        assert len(np.unique(codes[:, 0])) == 1


def test_a_variable_without_a_finite_value_has_one_bin_for_later_values() -> None:
    x = np.full((10, 1), np.nan)
    for method in ("equal_count", "equal_width"):
        binning = Binning.fit(x, method=method, bins=5)
        assert binning.encode(np.array([[np.nan], [-5.0], [1e30]]))[:, 0].tolist() == [MISSING, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_torch_and_numpy_give_the_same_codes(dtype: torch.dtype) -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    same = x.double().numpy()
    binning = Binning.fit(same, bins=6)
    np.testing.assert_array_equal(binning.encode(x), binning.encode(same))


def test_encoding_in_float32_loses_nothing() -> None:
    x = np.random.default_rng(3).standard_normal((500, 4)).astype(np.float32)
    binning = Binning.fit(x, method="equal_width", bins=9)
    np.testing.assert_array_equal(binning.encode(x), binning.encode(x.astype(np.float64)))
    expected = (x.astype(np.float64)[:, :, None] >= binning.edges[None]).sum(axis=2)
    np.testing.assert_array_equal(binning.encode(x), expected)


def test_auto_bins_follow_the_rule() -> None:
    assert [auto_bins(n) for n in (1, 36, 94, 500, 768, 1024, 10**7)] == [3, 3, 5, 11, 14, 16, 16]


@pytest.mark.parametrize("bins", [0, 1, 65, 2.5, True, "many"])
def test_an_impossible_number_of_bins_is_refused(bins: object) -> None:
    with pytest.raises(BinningError, match="bins must be"):
        Binning.fit(np.eye(4), bins=bins)


def test_wrong_input_is_refused_with_its_shape() -> None:
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        Binning.fit(np.ones(3))
    with pytest.raises(InputError, match="2 variables"):
        Binning.fit(np.ones((3, 2))).encode(np.ones((3, 4)))
    with pytest.raises(InputError, match="real numbers"):
        Binning.fit(np.array([["a", "b"]]))
    with pytest.raises(BinningError, match="not known"):
        Binning.fit(np.ones((3, 2)), method="equal_mass")


def test_edges_must_ascend() -> None:
    with pytest.raises(BinningError, match="ascend"):
        Binning(np.array([[2.0, 1.0]]), "equal_count")


def test_the_first_differing_edge_is_named() -> None:
    x = np.random.default_rng(4).standard_normal((50, 3))
    one = Binning.fit(x, bins=4)
    edges = one.edges.copy()
    edges[1, 2] += 1e-9
    with pytest.raises(MergeError, match="edge 2 of variable 1"):
        one.require_same(Binning(edges, "equal_count"))


@pytest.mark.parametrize("outlier", [0.0, 50.0, 3000.0])
def test_fifteen_equal_width_bins_are_the_histogram_of_every_pair_offset_and_all(outlier: float) -> None:
    x = np.random.default_rng(2).standard_normal((94, 8))
    x[0, :3] += outlier
    found = pairwise(x, bins=15, method="equal_width", correction="none")
    for i in range(8):
        for j in range(i + 1, 8):
            p = np.histogram2d(x[:, i], x[:, j], bins=15)[0] / 94
            q = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
            expected = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
            assert found.mi[i, j] == pytest.approx(expected, abs=1e-12)
