"""Every dimension of one place with every one of another: the same laws as for the pairs of one place."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_probe
from mi_probe import Binning, Edges, JointCounts, MIProbeWarning, MIResult, Probe, ProbeState, cli, corpus, kernels, plots, store
from mi_probe.binning import Side
from mi_probe.counts import pairs_between
from mi_probe.errors import (
    BinningError,
    HookPointError,
    InputError,
    MemoryRefusedError,
    MergeError,
    PointError,
    ProbeError,
    Stopped,
    StoreError,
)
from mi_probe.footprint import Run, footprint, refuse_unless_it_fits, ways_out
from mi_probe.hooks import couples, resolve
from mi_probe.info import told
from mi_probe.kernels import planes
from mi_probe.shares import Share

from .test_kernels import random_codes, slow_tables

# -- the kernels ------------------------------------------------------------------------------------------------------


def rectangle_of(tables: np.ndarray, first: int, variables: int) -> np.ndarray:
    """The tables of each of the first variables with each of the others, picked out of those of all pairs."""
    i, j = np.triu_indices(variables, 1)
    return tables[(i < first) & (j >= first)]


@pytest.mark.parametrize("way", ["scatter", "bit_sliced", "auto"])
@pytest.mark.parametrize(("first", "others"), [(1, 1), (1, 40), (40, 1), (3, 5), (32, 32), (31, 34), (4, 70), (66, 7)])
def test_a_rectangle_of_pairs_has_the_tables_that_they_have_among_all(first: int, others: int, way: str) -> None:
    rng = np.random.default_rng(first * 100 + others)
    for samples, missing in ((0, 0.0), (65, 0.1), (300, 0.0)):
        codes = random_codes(rng, samples, first + others, 5, missing)
        for partners in (None, random_codes(rng, samples, first + others, 5, missing)):
            expected = rectangle_of(slow_tables(codes, codes if partners is None else partners, 5), first, first + others)
            tables = np.full(expected.shape, 7, dtype=np.int32)
            kernels.count_pairs(codes, tables, partners=partners, way=way, apart=first)
            np.testing.assert_array_equal(tables, expected + 7)
            low, high = first // 3, max(first // 3 + 1, first - 1)
            part = np.zeros_like(expected[low * others : high * others])
            kernels.count_pairs(codes, part, partners=partners, way=way, rows=(low, high), apart=first)
            np.testing.assert_array_equal(part, expected[low * others : high * others])


def test_tiles_chunks_and_threads_of_a_rectangle_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "_CHUNK", 128)
    rng = np.random.default_rng(5)
    for first, others in ((33, 40), (70, 2), (5, 67)):
        codes = random_codes(rng, 300, first + others, 5, 0.05)
        expected = rectangle_of(slow_tables(codes, codes, 5), first, first + others)
        for threads in (1, 2, 5):
            tables = np.zeros(expected.shape, dtype=np.int32)
            planes.count_by_planes(codes, None, tables, threads, (0, first), first)
            np.testing.assert_array_equal(tables, expected)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_counts_of_a_rectangle_and_its_shares_are_rows_of_all_pairs(first: int, others: int, of: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, 200, first + others, 4, 0.05)
    expected = rectangle_of(JointCounts.from_codes(codes, 4).tables, first, first + others)
    pairs = pairs_between(first, first + others)
    whole = JointCounts(first + others, 4, pairs)
    whole.update(codes)
    np.testing.assert_array_equal(whole.tables, expected)
    np.testing.assert_array_equal(np.stack(whole.pair_indices, axis=1), pairs)
    parts = []
    for number in range(of):
        part = JointCounts(first + others, 4, pairs.copy(), Share(number, of))
        part.update(codes)
        parts.append(part.tables)
    if first + others > 2:  # of two variables it is all pairs, which are shared out by rows
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_only_whole_rectangles_are_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("count_pairs", "count_listed"):
        slow: Any = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda codes, *a, _n=name, _s=slow, **k: (taken.append(_n), _s(codes, *a, **k)))
    codes = random_codes(np.random.default_rng(0), 50, 7, 3, 0.0)
    every = pairs_between(3, 7)
    swapped = np.array([[0, 3], [0, 4], [1, 2], [1, 3]])  # as many as a rectangle of 1 and 4 would have
    for pairs, fast in ((every, True), (every[:-1], False), (swapped, False), (np.array(every, dtype=np.int32), True)):
        taken.clear()
        counts = JointCounts(7 if len(pairs) > 4 else 5, 3, pairs)
        counts.update(np.ascontiguousarray(codes[:, : counts.variables]))
        i, j = counts.pair_indices
        np.testing.assert_array_equal(
            counts.tables, slow_tables(codes, codes, 3)[[kernels.pair_index(a, b, 7) for a, b in zip(i, j, strict=True)]]
        )
        assert ("count_pairs" in taken) == fast


# -- counts and estimates -----------------------------------------------------------------------------------------------

ALL: dict[str, Any] = {"calibration_tokens": 200, "bins": 5, "shards": 16, "swap": True, "moments": True, "lags": 3}


def two_places(seed: int = 0, texts: int = 40, gaps: float = 0.0, widths: tuple[int, int] = (7, 4)) -> list[np.ndarray]:
    """Activations at two places, of texts of 20 tokens: the second ones depend on the first ones."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((texts, 20, widths[0])) * np.exp(np.random.default_rng(98).standard_normal(widths[0]))
    y = rng.standard_normal((texts, 20, widths[1]))
    y[..., : min(widths)] += x[..., : min(widths)]
    found = [x.astype(np.float32), y.astype(np.float32)]
    for part in found:
        part[rng.random(part.shape) < gaps] = np.nan
    return found


def fed(x: np.ndarray, y: np.ndarray, **probe: Any) -> ProbeState:
    state = ProbeState(Probe(**{**ALL, "pairs": "between"} | probe))
    state.update(("a", "b"), (x, y), documents=np.arange(len(x)))
    return state


def flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1]).astype(np.float64)


def require_histograms(counts: JointCounts, binning: Binning, x: np.ndarray, y: np.ndarray) -> None:
    """Each table is what numpy.histogram2d says of a dimension of the one and a dimension of the other."""
    edges = np.concatenate([np.full((binning.variables, 1), -np.inf), binning.edges, np.full((binning.variables, 1), np.inf)], 1)
    first = binning.first
    columns = np.arange(x.shape[1] + y.shape[1]) if binning.dimensions is None else binning.dimensions
    values = np.concatenate([x, y], axis=1)[:, columns]
    assert first * (binning.variables - first) == len(counts.tables)
    tables = iter(counts.tables)
    for i in range(first):
        for j in range(first, binning.variables):
            there = np.isfinite(values[:, i]) & np.isfinite(values[:, j])
            bins = [np.unique(edges[v]) for v in (i, j)]
            assert [len(b) for b in bins] == [binning.bins + 1] * 2
            expected, _, _ = np.histogram2d(values[there, i], values[there, j], bins=bins)
            np.testing.assert_array_equal(next(tables), expected)


@pytest.mark.parametrize("gaps", [0.0, 0.03])
@pytest.mark.parametrize("widths", [(7, 4), (1, 5), (6, 6)])
def test_tables_are_the_histograms_of_each_dimension_of_one_place_with_each_of_the_other(gaps: float, widths: Any) -> None:
    x, y = two_places(gaps=gaps, widths=widths)
    state = fed(x, y)
    name = "a -> b"
    require_histograms(state.counts[name], state.binnings[name], flat(x), flat(y))
    point = state.estimate()[name]
    assert point.names == tuple([f"a:{k}" for k in range(widths[0])] + [f"b:{k}" for k in range(widths[1])])
    assert point.between("raw").shape == widths
    assert (point.between("n") == np.isfinite(flat(x)).astype(int).T @ np.isfinite(flat(y)).astype(int)).all()
    assert list(np.array(point.to_frame()[["i", "j"]])[point.itself].tolist()) == [
        [f"a:{k}", f"b:{k}"] for k in range(min(widths))
    ]


@pytest.mark.parametrize("gaps", [0.0, 0.02])
@pytest.mark.parametrize("test", ["serial", "gamma", "none"])
def test_every_column_is_that_of_the_same_pairs_among_all(gaps: float, test: Any) -> None:
    x, y = two_places(gaps=gaps)
    whole = ProbeState(Probe(**ALL))
    whole.update("both", np.concatenate([x, y], axis=2), documents=np.arange(len(x)))
    all_pairs, some = whole.estimate(p_values=test)["both"], fed(x, y).estimate(p_values=test)["a -> b"]
    assert some.columns == all_pairs.columns
    assert set(some.columns) >= {"raw", "chance", "mi", "se", "shard_se", "gaussian", "linear", "continuous", "swap"}
    for what in set(some.columns) - {"q"}:
        np.testing.assert_array_equal(some.between(what), all_pairs.matrix(what)[:7, 7:], what)
    np.testing.assert_array_equal(some.entropy, all_pairs.entropy)
    assert np.isnan(some.mi[0, 1])  # two dimensions of one place are no pair here


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"dimensions": [0, 3]}, ([0, 3], [0, 3])),
        ({"dimensions": 2}, None),
        ({"dimensions": 3, "chosen_by": "random", "seed": 4}, None),
    ],
)
def test_dimensions_are_chosen_at_each_place(more: dict[str, Any], kept: Any) -> None:
    x, y = two_places()
    state = fed(x, y, **more)
    alone = {}
    for name, part in (("a", x), ("b", y)):
        other = ProbeState(Probe(**ALL | more))
        other.update(name, part)
        alone[name] = np.arange(part.shape[2]) if other.binnings[name].dimensions is None else other.binnings[name].dimensions
    if kept is not None:
        assert [dimensions.tolist() for dimensions in alone.values()] == list(kept)
    names = [f"{name}:{k}" for name, dimensions in alone.items() for k in dimensions]
    point = state.estimate()["a -> b"]
    assert point.names == tuple(names)
    require_histograms(state.counts["a -> b"], state.binnings["a -> b"], flat(x), flat(y))
    note = " ".join(point.notes)
    assert "pairs were counted" not in note
    assert f"{len(alone['a'])} of 7 dimensions of a were counted" in note
    whole = fed(x, y).estimate()["a -> b"].between("mi")
    np.testing.assert_allclose(point.between("mi"), whole[np.ix_(alone["a"], alone["b"])], rtol=1e-12, atol=1e-15)


def test_the_counts_do_not_depend_on_batches_and_add_up() -> None:
    x, y = two_places(gaps=0.02)
    at_once, pieces = fed(x, y), ProbeState(Probe(**ALL, pairs="between"))
    for text in range(len(x)):
        pieces.update(("a", "b"), (x[text : text + 1], y[text : text + 1]), documents=[text])
        if text in (3, 30):
            pieces.estimate()
    assert pieces.streams["a -> b"].read() == at_once.streams["a -> b"].read()
    parts = [ProbeState(Probe(**ALL, pairs="between")) for _ in range(2)]
    for part, texts in zip(parts, (slice(0, 25), slice(25, 40)), strict=True):
        part.update(("a", "b"), (x[:10], y[:10]), documents=np.arange(10))  # the same edges
        part.update(("a", "b"), (x[texts], y[texts]), documents=np.arange(len(x[texts])))
    expected = parts[0].counts["a -> b"].tables + parts[1].counts["a -> b"].tables
    whole = ProbeState(Probe(**ALL, pairs="between"))
    for part in parts:
        whole += part
    np.testing.assert_array_equal(whole.counts["a -> b"].tables, expected)
    assert whole.streams["a -> b"].copy().read() == whole.streams["a -> b"].read()


def test_masks_and_special_tokens_leave_out_the_same_tokens_at_both_places() -> None:
    x, y = two_places(texts=6)
    mask = np.arange(20)[None] < np.array([20, 12, 3, 20, 7, 19])[:, None]
    probe = Probe(bins=4, pairs="between", calibration_tokens=30, skip_first=2)
    state = ProbeState(probe, special_tokens=[9])
    tokens = np.random.default_rng(0).integers(0, 10, (6, 20))
    state.update(("a", "b"), (x, y), mask=mask, tokens=tokens)
    kept = mask & (tokens != 9) & (np.arange(20) >= 2)
    assert state.tokens_seen == kept.sum()
    require_histograms(state.counts["a -> b"], state.binnings["a -> b"], flat(x[kept]), flat(y[kept]))


def test_states_of_other_places_do_not_merge() -> None:
    x, y = two_places()
    for other in (fed(x[..., :4], np.concatenate([y, x[..., :3]], axis=2)), fed(x, y, dimensions=3)):
        one = fed(x, y)
        with pytest.raises(MergeError, match="at hook point 'a -> b', binnings differ"):
            one += other
        assert one.streams["a -> b"].read() == fed(x, y).streams["a -> b"].read()
    plain = ProbeState(Probe(**ALL))
    plain.update("a -> b", np.concatenate([x, y], axis=2))
    one = fed(x, y)
    with pytest.raises(MergeError, match=r"they are of a \(7\) and b \(4\) against one hook point"):
        one += plain


@pytest.mark.parametrize("more", [{}, {"dimensions": 3}])
def test_files_keep_everything_without_a_list_of_pairs(tmp_path: Path, more: dict[str, Any]) -> None:
    x, y = two_places(gaps=0.02)
    state = fed(x, y, **more)
    state.save(tmp_path / "state.safetensors")
    back = ProbeState.load(tmp_path / "state.safetensors")
    assert back.streams["a -> b"].read() == state.streams["a -> b"].read()
    assert back.probe == state.probe
    _, arrays = back.to_arrays()
    assert "0.pairs" not in arrays
    for one in (state, back):
        one.update(("a", "b"), (x[:5], y[:5]), documents=range(5))
    # The pool for pairs across documents is not in a file, so those alone may differ.
    assert back.counts["a -> b"] == state.counts["a -> b"]
    result = state.estimate()
    result.save(tmp_path / "result.safetensors")
    again = MIResult.load(tmp_path / "result.safetensors")["a -> b"]
    assert (again.names, again.sides, again.notes) == (result["a -> b"].names, result["a -> b"].sides, result["a -> b"].notes)
    for what in again.columns:
        np.testing.assert_array_equal(again.between(what), result["a -> b"].between(what))
    header, kept = store.read(tmp_path / "result.safetensors", "result", 4)
    assert "0.pairs" not in kept
    header["points"][0]["sides"][0][1] += 1
    store.write(tmp_path / "wrong.safetensors", "result/4", header, kept)
    with pytest.raises(StoreError, match="sides"):
        MIResult.load(tmp_path / "wrong.safetensors")
    header, kept = store.read(tmp_path / "state.safetensors", "state", 4)
    for wrong in ([["a", 7]], [["a", 11], ["b", 0]], [["a", 5], ["b", 4]], "ab", 3):
        header["points"][0]["sides"] = wrong
        store.write(tmp_path / "wrong.safetensors", "state/4", header, kept)
        with pytest.raises(StoreError, match="is not a usable state"):
            ProbeState.load(tmp_path / "wrong.safetensors")


def test_a_state_without_a_token_remembers_which_places_meet(tmp_path: Path, tiny: Any) -> None:
    probe = mi_probe.attach(tiny, Probe(pairs="between"))
    probe.detach()
    probe.save(tmp_path / "state.safetensors")
    back = ProbeState.load(tmp_path / "state.safetensors")
    assert back.streams["hidden_states.0 -> hidden_states.1"].between == ("hidden_states.0", "hidden_states.1")


def test_sides_that_do_not_fit_are_refused_and_one_of_them_is_a_binning() -> None:
    x, y = (flat(part) for part in two_places())
    fitted = Binning.fit(np.concatenate([x, y], axis=1), bins=4)
    both = Binning(fitted.edges, "equal_count", width=11, frame=fitted.frame, sides=(Side("a", 7), Side("b", 4)))
    for side, part in ((0, x), (1, y)):
        np.testing.assert_array_equal(both.of_side(side).encode(part), Binning.fit(part, bins=4).encode(part))
    assert repr(both) == "Binning(7 + 4 variables, 4 bins, equal_count)"
    for wrong in ([("a", 7)], [("a", 7), ("b", 5)], [("a", 11), ("b", 0)], [("a", 7), ("b", 2), ("c", 2)]):
        with pytest.raises(BinningError, match="sides must be two hook points"):
            Binning(fitted.edges, "equal_count", width=11, sides=wrong)
    with pytest.raises(BinningError, match="sides must be two hook points"):  # no variable of the second
        Binning(fitted.edges[:2], "equal_count", dimensions=[0, 1], width=11, sides=[("a", 7), ("b", 4)])


@pytest.mark.parametrize(
    ("probe", "point", "values", "message"),
    [
        ({"pairs": "between"}, "a", 0, "give the names of two places"),
        ({"pairs": "between"}, ("a", "a"), (0, 0), "give the names of two places"),
        ({"pairs": "between"}, ("a", "b"), 0, "the activations of both"),
        ({}, ("a", "b"), (0, 0), "meet in a probe with pairs='between'"),
        ({"pairs": "between"}, ("a", "b"), (0, 1), "of the same tokens"),
        ({"pairs": "between"}, ("a", "b"), (2, 0), "activations of 'a' must be"),
    ],
)
def test_update_says_what_it_takes(probe: Any, point: Any, values: Any, message: str) -> None:
    arrays = [np.zeros((3, 5)), np.zeros((4, 5)), np.zeros(3)]
    state = ProbeState(Probe(**probe))
    given = tuple(arrays[k] for k in values) if isinstance(values, tuple) else arrays[values]
    with pytest.raises(InputError, match=message):
        state.update(point, given)
    assert not state.streams


def test_a_place_that_changes_its_width_is_named() -> None:
    x, y = two_places(texts=2)
    for calibration in (10, 1000):
        state = fed(x, y, calibration_tokens=calibration)
        with pytest.raises(InputError, match="this point has 4 variables of 'b'; got rows"):
            state.update(("a", "b"), (x, x))
        assert state.tokens_seen == 40


def test_results_of_one_place_have_no_rectangle() -> None:
    point = mi_probe.pairwise(np.random.default_rng(0).standard_normal((90, 3)))
    with pytest.raises(InputError, match="of one hook point"):
        point.between()
    with pytest.raises(InputError, match="of one hook point"):
        _ = point.itself


# -- probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"pairs": "betwen"}, "did you mean 'between'"),
        ({"between": "next"}, "takes pairs = 'between'; pairs is 'all'"),
        ({"between": "next", "pairs": 50}, "takes pairs = 'between'; pairs is 50"),
        ({"pairs": "between", "between": "frist"}, "did you mean 'first'"),
        ({"pairs": "between", "between": []}, r"a list of \[name, name\]; got \[\]"),
        ({"pairs": "between", "between": 3}, "got 3"),
        ({"pairs": "between", "between": [["a"]]}, r"got \['a'\] in it"),
        ({"pairs": "between", "between": [["a", 3]]}, r"got \['a', 3\] in it"),
        ({"pairs": "between", "between": ["embed"]}, "got 'embed' in it"),
        ({"pairs": "between", "between": [["a", "a"]]}, "pairs 'a' with itself"),
        ({"pairs": "between", "between": [["a", "b"], ["b", "a"]]}, "twice"),
    ],
)
def test_impossible_meetings_are_refused(probe: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        Probe(**probe)


def test_all_mistakes_are_told_at_once() -> None:
    text = '[subset]\npairs = "between"\nbetween = [["a", "a"], ["b"]]\ndimensions = 1\n'
    with pytest.raises(ProbeError) as caught:
        Probe.from_toml(text)
    assert [word for word in ("'a' with itself", "['b'] in it", "at least 2") if word not in str(caught.value)] == []
    with pytest.raises(ProbeError, match=r"it belongs under \[subset\]"):
        Probe.from_toml('between = "first"')


def test_probes_round_trip_and_those_before_stay_as_they_were() -> None:
    for between in (None, "next", "first", [["resid_pre.0", "attn_out.0"], ("mlp_out", "resid_post")]):
        probe = Probe(pairs="between", between=between)
        assert Probe.from_toml(probe.to_toml()) == probe
        assert hash(probe) == hash(Probe.from_toml(probe.to_toml()))
    assert Probe(pairs="between") == Probe(pairs="between", between="next")
    assert "between" not in Probe().to_toml()  # so that files of before are of the same probe


# -- models -----------------------------------------------------------------------------------------------------------

TEXTS = ["A cup of coffee, and another one.", "tea", "Water is drunk from a glass, or from the hand."]


def captured(model: Any, probe: Probe, texts: Any = TEXTS) -> dict[str, np.ndarray]:
    """The rows that a plain probe would count, at each of its hook points."""
    with mi_probe.attach(model, Probe(hooks=probe.hooks, layers=probe.layers, calibration_tokens=10**6)) as plain:
        model(texts)
    return {key: stream.rows().astype(np.float64) for key, stream in plain.streams.items()}


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (
            {},
            [
                ("hidden_states.0", "hidden_states.1"),
                ("hidden_states.1", "hidden_states.2"),
                ("hidden_states.2", "hidden_states.3"),
            ],
        ),
        ({"between": "first"}, [("hidden_states.0", f"hidden_states.{k}") for k in (1, 2, 3)]),
        ({"layers": [3, 1]}, [("hidden_states.1", "hidden_states.3")]),
        (  # sets meet in the order of the blocks
            {"hooks": ["attn_out", "embed", "resid_post"]},
            list(pairwise(["embed", *(f"{name}.{k}" for k in range(3) for name in ("attn_out", "resid_post"))])),
        ),
        (
            {"hooks": ["attn_out", "resid_pre"], "between": [["resid_pre.2", "attn_out.1"], ["attn_out.0", "resid_pre.0"]]},
            [("resid_pre.2", "attn_out.1"), ("attn_out.0", "resid_pre.0")],
        ),
        (
            {"hooks": ["attn_out", "resid_pre"], "between": [["attn_out", "resid_pre"]]},
            [(f"attn_out.{k}", f"resid_pre.{k}") for k in range(3)],
        ),
        (
            {"hooks": ["blocks.*.mlp.hook_out", "resid_mid"], "between": [["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"]]},
            [("resid_mid.1", "blocks.1.mlp.hook_out")],
        ),
    ],
)
def test_hook_points_that_meet_are_those_that_were_asked_for(tiny: Any, probe: dict[str, Any], expected: Any) -> None:
    what = Probe(pairs="between", bins=3, calibration_tokens=20, **probe)
    assert list(couples(tiny, what).values()) == expected
    assert {point.key for point in resolve(tiny, what)} == {key for two in expected for key in two}
    with mi_probe.attach(tiny, what) as attached:
        tiny(TEXTS)
    rows = captured(tiny, what)
    assert list(attached.counts) == [f"{one} -> {two}" for one, two in expected]
    for (name, counts), (one, two) in zip(attached.counts.items(), expected, strict=True):
        require_histograms(counts, attached.binnings[name], rows[one], rows[two])


def test_places_of_different_widths_meet(tiny: Any) -> None:
    between = [["resid_mid.1", "blocks.1.mlp.hook_pre"], ["blocks.2.mlp.hook_pre", "mlp_out.2"]]
    what = Probe(hooks=["resid_mid", "blocks.*.mlp.hook_pre", "mlp_out"], pairs="between", between=between, bins=3)
    what = replace(what, calibration_tokens=20)
    with mi_probe.attach(tiny, what) as attached:
        tiny(TEXTS)
    rows = captured(tiny, what)
    shapes = []
    for (name, counts), (one, two) in zip(attached.counts.items(), between, strict=True):
        require_histograms(counts, attached.binnings[name], rows[one], rows[two])
        shapes.append(attached.estimate(p_values="none")[name].between().shape)
    assert shapes == [(16, 64), (64, 16)]
    found = mi_probe.plan(tiny, what, measure=False)
    assert list(found.widths.values()) == [(16, 64), (64, 16)]
    assert found.footprint.points[0].pairs == 1024


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"layers": [1]}, "takes two hook points, and the probe has one: hidden_states.1"),
        ({"hooks": "embed"}, "takes two hook points, and the probe has one: embed"),
        ({"between": [["hidden_states.0", "hidden_states.9"]]}, "names 'hidden_states.9', which is not among .*did you mean"),
        ({"between": [["hidden_states.0", "attn_out.1"]]}, "'attn_out.1', which is not among .* these are hidden_states.0, "),
        ({"layers": [0, 1], "between": [["hidden_states.0", "hidden_states.2"]]}, "'hidden_states.2', which is not among"),
        ({"hooks": ["resid_pre"], "between": [["resid_pre", "attn_out"]]}, "names 'resid_pre', which is not among"),
        ({"between": [["hidden_states.1", "blocks.1.hook_resid_pre"]]}, "are the same place in this model"),
        ({"between": [["hidden_states.1", "blocks.1.hook_in"]]}, "are the same place in this model"),
    ],
)
def test_places_that_cannot_meet_are_refused_by_name(tiny: Any, probe: dict[str, Any], message: str) -> None:
    what = Probe(pairs="between", **probe)
    for ask in (lambda: mi_probe.attach(tiny, what), lambda: mi_probe.plan(tiny, what, measure=False)):
        with pytest.raises(HookPointError, match=message):
            ask()


def test_a_place_that_fires_twice_meets_the_other_with_the_firing_that_counts(tiny: Any) -> None:
    what = Probe(layers=[1, 2], pairs="between", bins=3, calibration_tokens=20)
    x = torch.randn(1, 24, 16)
    tokens = torch.randint(1, 99, (1, 24))
    point = tiny.hook_dict["blocks.1.hook_resid_pre"]

    def again(activation: Any, hook: Any) -> None:
        if not torch.equal(activation, x):
            point(x)

    for visit in (None, -1, 0):
        rows = {}
        with (
            mi_probe.attach(tiny, Probe(layers=[1, 2], visit=visit, calibration_tokens=10**6)) as plain,
            mi_probe.attach(tiny, replace(what, visit=visit)) as probe,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            for name in ("blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"):  # while the first place's partner is there, too
                tiny.run_with_hooks(tokens, fwd_hooks=[(name, again)])
            rows = {key: stream.rows().astype(np.float64) for key, stream in plain.streams.items()}
        assert probe.tokens_seen == plain.tokens_seen > 20
        assert plain.status().points["hidden_states.1"].fired == 4
        ((name, counts),) = probe.counts.items()
        require_histograms(counts, probe.binnings[name], rows["hidden_states.1"], rows["hidden_states.2"])


def test_a_pass_that_does_not_reach_both_places_is_not_counted(tiny: Any) -> None:
    with mi_probe.attach(tiny, Probe(pairs="between", calibration_tokens=5)) as probe:
        tiny("one whole text")
        before = probe.counts["hidden_states.0 -> hidden_states.1"].copy()
        with pytest.warns(MIProbeWarning, match="early"):
            tiny("another", stop_at_layer=2)
        assert probe.counts["hidden_states.0 -> hidden_states.1"] == before
    status = str(probe.status())
    assert "hidden_states.2 -> hidden_states.3" in status
    assert "blocks.2.hook_resid_pre -> ln_final.hook_out" in status


def test_a_calibration_that_another_thread_completes_between_two_places_changes_nothing() -> None:
    x, y = two_places(texts=10)
    for more in ({}, {"dimensions": 3}, {"dimensions": [0, 2]}):
        whole = fed(x, y, **more)
        part = fed(x[:8], y[:8], **more, calibration_tokens=300)
        stream = part.streams["a -> b"]
        first = stream.prepare(x[8:].reshape(-1, 7), 0)
        assert first.codes is None
        part.update(("a", "b"), (x[:8], y[:8]), documents=range(8))
        assert stream.calibrated
        second = stream.prepare(y[8:].reshape(-1, 4), 1)
        joined = stream.joined(first, second)
        expected = stream.counts.binning.encode(np.concatenate([x[8:], y[8:]], axis=2).reshape(40, -1))
        np.testing.assert_array_equal(joined.codes, expected)
        assert whole.tokens_seen == 200


def test_values_that_are_to_be_counted_on_their_device_are_the_same(tiny: Any) -> None:
    counted = []
    for where in ("cpu", "device"):
        with mi_probe.attach(tiny, Probe(pairs="between", calibration_tokens=10, bins=3), count_on=where) as probe:
            for text in TEXTS:
                tiny(text)
        counted.append(probe.counts)
    assert counted[0] == counted[1]


CORPUS = [f"text {k}: " + "the quick brown fox jumps over the lazy dog, and on; " * (1 + k % 5) for k in range(12)]
BETWEEN = Probe(pairs="between", calibration_tokens=200, bins=4, lags=2, shards=16, moments=True)


@pytest.mark.filterwarnings("ignore:the edges do not represent")
def test_runs_are_the_same_for_any_batch_size_and_gone_on_with(tiny: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(corpus, "_PIECE", 100)
    monkeypatch.setattr(corpus, "_BLOCK", 300)
    runs = [mi_probe.accumulate(tiny, CORPUS, BETWEEN, batch_size=size) for size in (1, 3, 8)]
    path = tmp_path / "state.safetensors"
    mi_probe.accumulate(tiny, CORPUS, BETWEEN, max_tokens=500, checkpoint=path)
    left = 30

    def stop(activation: Any, hook: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    path.unlink()
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", stop)]), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, CORPUS, BETWEEN, checkpoint=path, batch_size=2)
    assert 200 < ProbeState.load(path).tokens_seen < runs[0].tokens_seen
    runs.append(mi_probe.accumulate(tiny, CORPUS, BETWEEN, checkpoint=path, resume=True))
    runs.append(ProbeState.load(path))
    for run in runs[1:]:
        assert [stream.read() for stream in run.streams.values()] == [stream.read() for stream in runs[0].streams.values()]
    rows = captured_corpus(tiny)
    for k, (name, counts) in enumerate(runs[0].counts.items()):
        require_histograms(counts, runs[0].binnings[name], rows[k], rows[k + 1])


def captured_corpus(model: Any) -> list[np.ndarray]:
    rows = [mi_probe.sample_activations(model, CORPUS, f"hidden_states.{k}", max_tokens=10**6) for k in range(4)]
    return [part.astype(np.float64) for part in rows]


@pytest.mark.filterwarnings("ignore:edges are fitted on")
@pytest.mark.parametrize("more", [{}, {"dimensions": 5}, {"dimensions": [1, 4, 15]}, {"dimensions": 3, "chosen_by": "random"}])
def test_edges_of_a_sample_are_saved_and_used_again(tiny: Any, tmp_path: Path, more: dict[str, Any]) -> None:
    probe = replace(BETWEEN, **more)
    edges = mi_probe.calibrate(tiny, CORPUS, probe, seed=1)
    edges.save(tmp_path / "edges.safetensors")
    again = Edges.load(tmp_path / "edges.safetensors")
    assert again == edges
    assert [side.point for side in edges["hidden_states.1 -> hidden_states.2"].sides] == ["hidden_states.1", "hidden_states.2"]
    counted = mi_probe.accumulate(tiny, CORPUS, probe, edges=again)
    if not more:  # the probe may leave to the edges which dimensions are counted
        assert counted.counts == mi_probe.accumulate(tiny, CORPUS, BETWEEN, edges=again).counts
    elif more != {"dimensions": 5}:
        fewer = mi_probe.accumulate(tiny, CORPUS, BETWEEN, edges=again)
        assert fewer.counts == counted.counts
        assert fewer.probe.dimensions is not None
    rows = captured_corpus(tiny)
    for k, (name, counts) in enumerate(counted.counts.items()):
        require_histograms(counts, edges[name], rows[k], rows[k + 1])
    with pytest.raises(HookPointError, match=r"edges and probe differ at 'hidden_states\.0 -> hidden_states\.1'"):
        mi_probe.attach(tiny, Probe(), edges=again)
    plain = {name: Binning(b.edges, b.method, frame=b.frame) for name, b in edges.items()}
    with pytest.raises(HookPointError, match="side by side"):
        mi_probe.attach(tiny, Probe(pairs="between"), edges=plain)
    with pytest.raises(HookPointError, match="other dimensions than the probe asks for"):
        mi_probe.attach(tiny, Probe(pairs="between", dimensions=[7, 8]), edges=again)


def test_memory_is_known_before_it_is_taken_and_the_ways_out_are_true() -> None:
    probe = Probe(pairs="between", bins=8, lags=0)
    widths: dict[str, Any] = {f"a.{k} -> b.{k}": (400, 300) for k in range(10)} | {"wide": (800, 200), "unknown": "why"}
    run = Run(pass_tokens=0, rows=0)
    found = footprint(probe, widths, run)
    assert found.points[0].counts == JointCounts.nbytes_for(700, 120_000, 8)
    assert (found.points[0].pairs, found.points[10].pairs) == (120_000, 160_000)
    for share in (2, 3):
        assert footprint(probe, widths, replace(run, shares=share)).points[0].pairs == -(-120_000 // share)
    ways = ways_out(probe, widths, run, 0.6 * found.most_needed)
    words = [way.what for way in ways]
    assert any("pairs of hook points (between=)" in what for what in words)
    assert not any("(pairs=)" in what for what in words)
    (fewer,) = [what for what in words if "dimensions at each place" in what]
    k = int(fewer.split()[0])
    assert footprint(replace(probe, dimensions=k), {"wide": (800, 400)}, run).points[0].pairs == k * k
    with pytest.raises(MemoryRefusedError, match=r"at 11 pairs of hook points[\s\S]*between="):
        refuse_unless_it_fits(probe, {k: v for k, v in widths.items() if k != "unknown"}, run, 1e7 * 6)


def test_attach_refuses_what_does_not_fit_and_counts_nothing(tiny: Any) -> None:
    with pytest.raises(MemoryRefusedError, match="3 pairs of hook points"):
        mi_probe.attach(tiny, Probe(pairs="between"), memory=1000)
    state = ProbeState(Probe(pairs="between", calibration_tokens=100), memory=1000)
    x, y = two_places(texts=6)
    with pytest.raises(MemoryRefusedError):
        state.update(("a", "b"), (x, y))
    assert not state.streams


# -- what a person sees -----------------------------------------------------------------------------------------------


def depth() -> MIResult:
    """A place whose dimensions fade: two later ones have them, each with more noise, in places of 6 dimensions."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2000, 6))
    state = ProbeState(Probe(pairs="between", bins=5, calibration_tokens=1000))
    later = {
        "hidden_states.1": x + 0.3 * rng.standard_normal(x.shape),
        "hidden_states.2": x[:, :4] + rng.standard_normal((2000, 4)),
    }
    for name, y in later.items():
        state.update(("hidden_states.0", name), (x, y))
    return state.estimate()


def test_fading_is_what_the_rectangle_says() -> None:
    result = depth()
    table = mi_probe.fading(result)
    assert table["start"].tolist() == ["hidden_states.0"] * 2
    assert table["place"].tolist() == ["hidden_states.1", "hidden_states.2"]
    assert table["dimensions"].tolist() == [6, 4]
    for row, point in zip(table.itertuples(), result.values(), strict=True):
        mi, se = point.between("mi"), point.between("se")
        same = np.eye(*mi.shape, dtype=bool)
        np.testing.assert_allclose([row.itself_low, row.itself, row.itself_high], np.quantile(mi[same], [0.25, 0.5, 0.75]))
        np.testing.assert_allclose([row.others, row.chance], [mi[~same].mean(), point.between("chance").mean()])
        np.testing.assert_allclose([row.itself_se, row.others_se], [se[same].mean(), se[~same].mean()])
        np.testing.assert_allclose(row.entropy, np.log(5), atol=1e-3)
        np.testing.assert_allclose(row.kept, row.itself / row.entropy)
    assert table["itself"][0] > 2 * table["itself"][1] > 20 * abs(table["others"].max())
    bits = mi_probe.fading(result, units="bits")
    np.testing.assert_allclose(bits["others"], table["others"] / np.log(2))
    np.testing.assert_allclose(bits["kept"], table["kept"])
    with pytest.raises(InputError, match="'toy' is of one place"):
        mi_probe.fading(MIResult({"toy": mi_probe.pairwise(np.zeros((90, 3)))}))


def test_a_dimension_is_itself_by_its_index_not_by_its_place_among_those_that_were_chosen() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 600, 5))
    x *= [1, 9, 1, 9, 1]
    y *= [9, 1, 1, 9, 1]
    state = ProbeState(Probe(pairs="between", dimensions=2, bins=3))
    state.update(("a", "a:b"), (x, y))
    point = state.estimate()["a -> a:b"]
    assert point.names == ("a:1", "a:3", "a:b:0", "a:b:3")
    assert point.itself.tolist() == [3]
    table = mi_probe.fading(MIResult({"a -> a:b": point}))
    assert table["dimensions"].tolist() == [1]


def test_figures_draw_the_rectangle_and_what_fades() -> None:
    result = depth()
    for point in result.values():
        figure = plots.heat_map(point, title="two places")
        axes = figure.axes[0]
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), point.between("mi"))
        assert axes.get_ylabel() == "6 variables of hidden_states.0"
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(k) for k in range(point.between().shape[1])]
        figure.canvas.draw()
    few = plots.heat_map(result["hidden_states.0 -> hidden_states.1"], most=3).axes[0].images[0].get_array()
    assert few.shape == (3, 3)
    profile = plots.depth_profile(result).axes[0]
    assert [label.get_text() for label in profile.get_xticklabels()] == ["0 → 1", "0 → 2"]
    plots.distributions(result).canvas.draw()
    table = mi_probe.fading(result)
    figure = plots.fading(table)
    figure.canvas.draw()
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    np.testing.assert_array_equal(lines["from hidden_states.0 (embedding)"].get_ydata(), table["itself"])
    np.testing.assert_array_equal(lines["from hidden_states.0 (embedding)"].get_xdata(), [1, 2])
    np.testing.assert_array_equal(right.get_lines()[0].get_ydata(), table["others"])
    with pytest.raises(InputError, match="units"):
        plots.fading(table, units="hartleys")


def test_words_say_that_pairs_are_of_two_places() -> None:
    result = depth()
    said = mi_probe.describe(result, variables="hidden dimensions", top=2)
    assert "36 or 24 pairs of hidden dimensions, one at each of two places, for each of 2 pairs of places" in said
    assert "hidden_states.0:" in said.splitlines()[-1]
    assert " at hidden" not in said.splitlines()[-1]
    alone = mi_probe.describe(MIResult({"a -> b": result["hidden_states.0 -> hidden_states.1"]}))
    assert "one at each of two places, from a -> b, over 2,000" in alone
    assert repr(result["hidden_states.0 -> hidden_states.2"]).startswith("PairwiseMI(6 x 4 variables, 24 pairs")


def test_info_and_plan_tell_of_two_places(tmp_path: Path, tiny_folder: Path) -> None:
    x, y = two_places()
    fed(x, y).save(tmp_path / "state.safetensors")
    fed(x, y).estimate().save(tmp_path / "result.safetensors")
    for name in ("state", "result"):
        line = told(tmp_path / f"{name}.safetensors", check=True).splitlines()[-1]
        assert line.split()[:8] == ["a", "->", "b", "7", "and", "4", "28", "5"]
    planned = str(mi_probe.plan(tiny_folder, "between_states", measure=False))
    assert "at 3 pairs of hook points" in planned
    assert "256" in planned.splitlines()[2]


def test_a_plan_asks_for_what_is_counted(tiny: Any) -> None:
    probe = Probe(pairs="between", calibration_tokens=20, bins=4, shards=16, moments=True, swap=True)
    found = mi_probe.plan(tiny, probe, measure=False).footprint
    with mi_probe.attach(tiny, probe) as attached:
        tiny(TEXTS)
    for point, (name, counts) in zip(found.points, attached.counts.items(), strict=True):
        assert (point.key, point.variables, point.pairs, point.bins) == (name, 32, counts.pairs, counts.bins)
    _, arrays = attached.to_arrays()
    # Tables and all beside them; edges, limits and samples are some kB.
    kept = sum(a.nbytes for name, a in arrays.items() if name.split(".")[-1] not in ("edges", "frame", "sample", "dimensions"))
    assert kept == pytest.approx(found.state_file, rel=0.02)


# -- recipes ----------------------------------------------------------------------------------------------------------


def run_recipe(name: str, model: Path, out: Path, *options: str) -> MIResult:
    cli.app(["run", name, "--model", str(model), "--out", str(out), *options], result_action="return_value")
    return MIResult.load(out / "result.safetensors")


def test_across_depth_measures_from_each_start_to_all_later_places(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    text = ("--text", "a short text about coffee, and nothing else of note; " * 4)
    result = run_recipe("across_depth", tiny_folder, tmp_path, *text, "--bins", "4")
    expected = [("0", later) for later in "123"] + [("1", later) for later in "23"]
    assert list(result) == [f"hidden_states.{a} -> hidden_states.{b}" for a, b in expected]
    table = pandas.read_csv(tmp_path / "across_depth.csv")
    np.testing.assert_allclose(table["itself"], mi_probe.fading(result)["itself"])
    printed = capsys.readouterr().out
    assert "From hidden_states.1, where a dimension's entropy is" in printed
    assert "256 pairs each" in printed
    kept = mi_probe.ProbeState.load(tmp_path / "state.safetensors").estimate(p_values="none")
    np.testing.assert_array_equal(kept[list(result)[-1]].between(), result[list(result)[-1]].between())
    options = ("--hooks", "resid_post", "--start", "resid_post.1", "--dimensions", "5", "--units", "bits")
    fewer = run_recipe("across_depth", tiny_folder, tmp_path / "fewer", *text, *options)
    assert list(fewer) == ["resid_post.1 -> resid_post.2"]
    point = fewer["resid_post.1 -> resid_post.2"]
    assert (point.between().shape, len(point.itself)) == ((5, 5), 5)
    assert "bits" in capsys.readouterr().out
    for wrong in (
        ("--start", "hidden_states.3"),
        ("--start", "resid_pre.0"),
        ("--heat-map-at", "hidden_states.2 -> hidden_states.3"),
    ):
        with pytest.raises(PointError, match="there is no hook point"):
            run_recipe("across_depth", tiny_folder, tmp_path / "wrong", *text, *wrong)
    assert not list((tmp_path / "wrong").glob("*.safetensors"))


def test_dimension_pairs_takes_a_probe_between_places(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    at = "hidden_states.2 -> hidden_states.3"
    result = run_recipe("dimension_pairs", tiny_folder, tmp_path, "--probe", "between_states", "--heat-map-at", at)
    assert at in result
    assert len(result) == 3
    assert "pairs of hidden dimensions, one at each of two places" in capsys.readouterr().out
    assert (tmp_path / "pairs.png").is_file()
    with pytest.raises(PointError, match=r"there is no hook point 'hidden_states\.2'"):
        run_recipe("dimension_pairs", tiny_folder, tmp_path, "--probe", "between_states", "--heat-map-at", "hidden_states.2")


def test_a_text_of_one_token_has_nothing_that_could_fade(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing varies at .* over its 1 samples"):
        run_recipe("across_depth", tiny_folder, tmp_path, "--text", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
