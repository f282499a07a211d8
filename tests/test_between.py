"""Every dimension of one place with every one of another: the same laws as for the pairs of one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_probe
from mi_probe import Binning, JointCounts, MIResult, Probe, ProbeState, kernels, store
from mi_probe.binning import Side
from mi_probe.counts import pairs_between
from mi_probe.errors import (
    BinningError,
    InputError,
    MergeError,
    ProbeError,
    StoreError,
)
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
