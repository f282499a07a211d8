"""Some dimensions, some pairs, some tokens: what is counted of them is what a full run counts of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_probe
from mi_probe import Binning, JointCounts, MIResult, Probe, ProbeState, cli, kernels
from mi_probe.binning import MISSING
from mi_probe.errors import BinningError, HookPointError, InputError, MergeError, ProbeError, StoreError
from mi_probe.kernels.listed import count_listed
from mi_probe.lags import LaggedCounts
from mi_probe.places import Places
from mi_probe.plots import distributions, heat_map
from mi_probe.serial import count_lags
from mi_probe.subset import Subset, most_variable
from mi_probe.tokens import BETWEEN

V = 18
ALL: dict[str, Any] = {"calibration_tokens": 200, "bins": 5, "shards": 16, "swap": True, "moments": True, "lags": 3}


def activations(seed: int = 0, gaps: float = 0.0, texts: int = 40) -> np.ndarray:
    """Texts of 20 tokens whose dimensions differ in variance; the largest variances are not the last dimensions'."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).standard_normal((V, V)) * np.exp(np.random.default_rng(98).standard_normal(V))
    x = (rng.standard_normal((texts, 20, V)) @ mixed).astype(np.float32)
    x[rng.random(x.shape) < gaps] = np.nan
    return x


def fed(x: np.ndarray, **probe: Any) -> ProbeState:
    state = ProbeState(Probe(**ALL | probe))
    state.update("a", x, documents=np.arange(len(x)))
    return state


def rank(i: Any, j: Any) -> np.ndarray:
    """Where pairs stand among all pairs."""
    return np.array([kernels.pair_index(int(a), int(b), V) for a, b in zip(i, j, strict=True)])


# -- the kernel -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.sampled_from([0, 1, 63, 64, 65, 300]),
    st.sampled_from([2, 3, 5, 8, 15, 32]),
    st.integers(2, 9),
    st.sampled_from(["scatter", "bit_sliced", "auto"]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_listed_pairs_have_the_tables_that_they_have_among_all(
    samples: int, bins: int, variables: int, way: str, crossed: bool, seed: int
) -> None:
    check_kernel(samples, bins, variables, way, crossed, seed)


@pytest.mark.parametrize("samples", [4095, 4097])
@pytest.mark.parametrize("bins", [2, 7, 31, 32])
def test_listed_pairs_of_a_full_buffer_do_too(samples: int, bins: int) -> None:
    for way in ("scatter", "bit_sliced"):
        check_kernel(samples, bins, 40, way, crossed=False, seed=bins)


def check_kernel(samples: int, bins: int, variables: int, way: str, crossed: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, others = rng.integers(0, bins, (2, samples, variables), dtype=np.uint8)
    codes[rng.random(codes.shape) < 0.1] = MISSING
    every = np.stack(np.triu_indices(variables, 1), axis=1)
    rows = np.sort(rng.choice(len(every), rng.integers(0, len(every) + 1), replace=False))
    whole, some = np.ones((len(every), bins, bins), np.int64), np.ones((len(rows), bins, bins), np.int64)
    partners = others if crossed else None
    kernels.count_pairs(codes, whole, partners=partners)
    count_listed(codes, every[rows], some, partners=partners, way=way)
    np.testing.assert_array_equal(some, whole[rows])


# -- every column -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [0.0, 0.02])
@pytest.mark.parametrize("test", ["serial", "gamma", "none"])
def test_every_column_of_listed_pairs_is_exactly_that_of_a_full_run(gaps: float, test: Any) -> None:
    x = activations(gaps=gaps)
    whole, some = (fed(x, **more).estimate(p_values=test)["a"] for more in ({}, {"pairs": 40, "seed": 4}))
    at = rank(*some.pair_indices)
    assert len(some.pairs()) == 40
    assert some.columns == whole.columns
    assert set(some.columns) >= {"raw", "chance", "mi", "se", "shard_se", "gaussian", "linear", "continuous", "swap"}
    for what in set(some.columns) - {"q"}:
        np.testing.assert_array_equal(some.pairs(what), whole.pairs(what)[at], what)
    np.testing.assert_array_equal(some.entropy, whole.entropy)


@pytest.mark.parametrize("correction", ["none", "jackknife", "panzeri_treves"])
def test_every_correction_takes_listed_pairs(correction: Any) -> None:
    x = activations().reshape(-1, V)
    whole, some = (mi_probe.pairwise(x, correction=correction, pairs=pairs, p_values="none") for pairs in ("all", 30))
    np.testing.assert_array_equal(some.pairs(), whole.pairs()[rank(*some.pair_indices)])


@pytest.mark.parametrize(
    "more",
    [{"dimensions": [3, 11, 4, 17]}, {"dimensions": 6}, {"dimensions": 6, "chosen_by": "random"}, {"pairs": [[9, 2], [2, 5]]}],
)
def test_chosen_dimensions_have_what_they_have_among_all(more: dict[str, Any]) -> None:
    x = activations()
    whole, some = fed(x).estimate()["a"], fed(x, **more).estimate()["a"]
    names = np.array(some.names, dtype=int)
    first, second = some.pair_indices
    at = rank(names[first], names[second])
    for what in set(some.columns) - {"q"}:  # sums over other variables' distinct margins may round otherwise
        np.testing.assert_allclose(some.pairs(what), whole.pairs(what)[at], rtol=1e-12, atol=1e-15, err_msg=what)
    np.testing.assert_array_equal(fed(x, **more).counts["a"].tables, fed(x).counts["a"].tables[at])


def test_pairwise_takes_a_number_of_pairs_or_a_list_and_keeps_the_names_of_the_columns() -> None:
    x = activations().reshape(-1, V)
    whole, some = mi_probe.pairwise(x), mi_probe.pairwise(x, pairs=[[7, 2], [2, 3]])
    assert some.to_frame()[["i", "j"]].values.tolist() == [["2", "3"], ["2", "7"]]
    for what in set(whole.columns) - {"q"}:
        np.testing.assert_array_equal(some.pairs(what), whole.pairs(what)[rank([2, 2], [3, 7])], what)
    even = mi_probe.pairwise(x[:795], p_values="permutation"), mi_probe.pairwise(x[:795], p_values="permutation", pairs=9)
    np.testing.assert_array_equal(even[1].pairs("p"), even[0].pairs("p")[rank(*even[1].pair_indices)])
    for pairs in (0, 10**6, [[1, 1]], [[0, V]], "some"):
        with pytest.raises(InputError, match=r"pairs|dimension"):
            mi_probe.pairwise(x, pairs=pairs)


# -- the choice -------------------------------------------------------------------------------------------------------


def test_variance_chooses_by_the_calibration_tokens_alone_and_by_finite_values() -> None:
    x = activations(gaps=0.05)
    x[0, 0, 1] = np.inf
    later = x.copy()
    later[11:, :, 0] *= 1e4  # beyond the calibration: too late to be chosen
    expected = np.sort(np.argsort(-np.nanvar(np.where(np.isfinite(x[:10]), x[:10], np.nan), axis=(0, 1)))[:5])
    for values in (x, later):
        np.testing.assert_array_equal(fed(values, dimensions=5).binnings["a"].dimensions, expected)
    np.testing.assert_array_equal(most_variable(np.ones((3, 1)) * [0.0, 2.0, 1.0, 2.0] * [[0], [1], [2]], 1), [1])


def test_the_choice_and_the_counts_do_not_depend_on_batches_and_reading_changes_nothing() -> None:
    x = activations()
    at_once, pieces = fed(x, dimensions=5, pairs=6), ProbeState(Probe(**ALL, dimensions=5, pairs=6))
    for text, row in enumerate(x):
        pieces.update("a", row[None], documents=[text])
        if text in (3, 30):
            pieces.estimate()
    assert pieces.streams["a"].read() == at_once.streams["a"].read()


def test_random_dimensions_are_the_same_at_points_of_one_size_and_follow_the_seed() -> None:
    chosen = [Subset(8, "random", seed).columns(100) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()
    assert len(np.unique(chosen[0])) == 8
    seen = np.bincount(np.concatenate([Subset(5, "random", seed).columns(20) for seed in range(2000)]), minlength=20)
    assert (np.abs(seen - 500) < 5 * np.sqrt(500)).all()


@given(st.integers(2, 30), st.integers(0, 1000), st.data())
def test_random_pairs_are_sorted_and_never_repeat(variables: int, seed: int, data: st.DataObject) -> None:
    there = variables * (variables - 1) // 2
    wanted = data.draw(st.integers(1, there))
    positions = Subset(pairs=wanted, seed=seed).positions(None, variables)
    counts = JointCounts(variables, 2, positions)  # which checks that they are i < j, sorted, and unique
    assert counts.pairs == wanted
    assert (counts.listed is None) == (wanted == there)


def test_random_pairs_are_drawn_evenly() -> None:
    seen = np.zeros((6, 6), int)
    for seed in range(3000):
        i, j = Subset(pairs=5, seed=seed).positions(None, 6).T
        seen[i, j] += 1
    found = seen[np.triu_indices(6, 1)]
    assert found.sum() == 15000
    assert (np.abs(found - 1000) < 5 * np.sqrt(1000)).all()


def test_rows_are_kept_of_the_chosen_columns_only_unless_variance_chooses() -> None:
    x = activations(texts=2)
    assert fed(x, dimensions=[1, 5], calibration_tokens=500).streams["a"].rows().shape == (40, 2)
    assert fed(x, dimensions=2, chosen_by="random", calibration_tokens=500).streams["a"].rows().shape == (40, 2)
    assert fed(x, dimensions=2, calibration_tokens=500).streams["a"].rows().shape == (40, V)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"dimensions": [-1, 3]}, "indices from 0"),
        ({"dimensions": [3]}, "two or more"),
        ({"dimensions": 1}, "at least 2"),
        ({"dimensions": "all"}, "list of indices"),
        ({"dimensions": [0.5, 1]}, "list of indices"),
        ({"chosen_by": "random"}, "needs a number of dimensions"),
        ({"chosen_by": "random", "dimensions": [1, 2]}, "needs a number of dimensions"),
        ({"chosen_by": "varianse", "dimensions": 9}, "did you mean 'variance'"),
        ({"seed": -1}, "seed must be"),
        ({"pairs": 0}, "a number of random pairs"),
        ({"pairs": "every"}, "a number of random pairs"),
        ({"pairs": []}, "empty list"),
        ({"pairs": [[1, 2], [2, 1]]}, "twice"),
        ({"pairs": [[2, 2]]}, "two different"),
        ({"pairs": [[-2, 2]]}, "indices from 0"),
        ({"pairs": [[1, 2, 3]]}, "a list of"),
        ({"pairs": [[1, 2]], "dimensions": 9}, "leave dimensions out"),
        ({"pairs": [[1, 2]], "dimensions": [1, 3]}, r"lacks \[2\]"),
        ({"sample_every": 0}, "sample_every"),
    ],
)
def test_impossible_choices_are_refused(probe: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        Probe(**probe)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"dimensions": [3, V]}, f"at 'a', the probe asks for dimension {V}, and there are {V} here"),
        ({"dimensions": V + 1}, f"asks for {V + 1} dimensions, and there are {V}"),
        ({"dimensions": V + 1, "chosen_by": "random"}, f"asks for {V + 1} dimensions, and there are {V}"),
        ({"dimensions": 3, "pairs": 4}, "asks for 4 random pairs, and 3 dimensions have 3"),
        ({"pairs": [[0, V]]}, f"dimension {V}"),
    ],
)
def test_a_choice_that_a_hook_point_does_not_have_is_refused_with_both_numbers(probe: Any, message: str, tiny: Any) -> None:
    state = ProbeState(Probe(**probe))
    with pytest.raises(InputError, match=message):
        state.update("a", activations())
    assert not state.streams
    with pytest.raises(HookPointError, match="at hook point 'hidden_states"), mi_probe.attach(tiny, Probe(**probe)):
        tiny("four")
    with mi_probe.attach(tiny, Probe(layers=[0])) as after:
        tiny("four")
    assert after.tokens_seen == 4


def test_all_dimensions_and_all_pairs_are_no_choice() -> None:
    x = activations(texts=12)
    for more in ({"dimensions": V}, {"dimensions": range(V)}, {"pairs": V * (V - 1) // 2}):
        state = fed(x, **more)
        state += fed(x)
        assert state.tokens_seen == 480


def test_a_choice_round_trips_through_toml() -> None:
    for probe in (
        Probe(dimensions=np.array([5, 3, 5]), pairs=np.array([[5, 3]]), sample_every=3),
        Probe(dimensions=np.int64(7), chosen_by="random", seed=5, pairs=np.int32(4)),
    ):
        assert Probe.from_toml(probe.to_toml()) == probe
    assert Probe(dimensions=[5, 3, 5], pairs=[[5, 3]]).pairs == ((3, 5),)
    assert Probe(dimensions=[5, 3, 5]).dimensions == (3, 5)
    assert Probe.from_toml("[subset]\ndimensions = 256\npairs = 5000\n[tokens]\nsample_every = 4") == Probe(
        dimensions=256, pairs=5000, sample_every=4
    )


# -- edges, counts, merging -------------------------------------------------------------------------------------------


def test_edges_of_chosen_dimensions_take_whole_rows_or_their_own_columns() -> None:
    x = activations().reshape(-1, V)
    fitted = Binning.fit(x[:, [2, 7]], bins=4)
    chosen = Binning(fitted.edges, "equal_count", dimensions=[2, 7], width=V)
    np.testing.assert_array_equal(chosen.encode(x), fitted.encode(x[:, [2, 7]]))
    np.testing.assert_array_equal(chosen.encode(x[:, [2, 7]]), fitted.encode(x[:, [2, 7]]))
    with pytest.raises(InputError, match=f"2 of {V} variables"):
        chosen.encode(x[:, :5])
    for wrong in ([7, 2], [2, V], [2], [-1, 2], [2.0, 3.0], None):
        with pytest.raises(BinningError, match="dimensions"):
            Binning(fitted.edges, "equal_count", dimensions=wrong, width=V)
    for other in ([2, 8], [1, 7]):
        with pytest.raises(MergeError, match="is dimension"):
            chosen.require_same(Binning(fitted.edges, "equal_count", dimensions=other, width=V))
    with pytest.raises(MergeError, match=r"2 of 18 variables.*2 variables"):
        chosen.require_same(fitted)


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        ({"dimensions": [1, 2, 3]}, {"dimensions": [1, 2, 4]}, "variable 2 is dimension 3 against 4"),
        ({"dimensions": [1, 2, 3]}, {}, "3 of 18 variables"),
        ({"pairs": 5, "seed": 1}, {"pairs": 5, "seed": 2}, "pair 0 is of"),
        ({"pairs": 5}, {"pairs": 6}, "5 pairs against 6"),
        ({"pairs": 5}, {}, "5 pairs against 153"),
        ({"pairs": [[3, 5], [5, 9]]}, {"pairs": [[3, 5], [3, 9]]}, "pair 1 is of 5 and 9 against 3 and 9"),
        ({"sample_every": 2}, {}, "sample_every is 2 against 1"),
    ],
)
def test_states_of_other_dimensions_pairs_or_tokens_do_not_merge(one: Any, two: Any, message: str) -> None:
    x = activations(texts=12)
    for left, right in ((fed(x, **one), fed(x, **two)), (fed(x, **two), fed(x, **one))):
        before = left.counts["a"].copy()
        with pytest.raises(MergeError) as caught:
            left += right
        assert left.counts["a"] == before
        if left.probe == Probe(**ALL | one):
            assert message in str(caught.value)


def test_states_of_the_same_choice_add_up_and_copies_keep_it() -> None:
    x = activations()
    probe = Probe(**ALL, dimensions=[2, 3, 5, 7], pairs=4)
    one, two = ProbeState(probe), ProbeState(probe)
    for state, part in ((one, x[:30]), (two, x[30:])):
        state.update("a", x[:10], documents=np.arange(10))
        state.update("a", part, documents=np.arange(len(part)))
    expected = one.counts["a"].tables + two.counts["a"].tables
    whole = ProbeState(probe)
    for state in (one, two):
        whole += state
    np.testing.assert_array_equal(whole.counts["a"].tables, expected)
    assert whole.streams["a"].copy().read() == whole.streams["a"].read()
    assert whole.streams["a"].read().copy() == whole.streams["a"].read()


@pytest.mark.parametrize("pairs", [[[1, 0]], [[0, 1], [0, 1]], [[1, 2], [0, 1]], [[0, 9]], [0, 1], [[0.0, 1.0]]])
def test_lists_of_pairs_that_are_none_are_refused(pairs: Any) -> None:
    with pytest.raises(InputError, match="pairs must be"):
        JointCounts(4, 2, pairs)


# -- results and files ------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_dimensions_everywhere(tmp_path: Path) -> None:
    x = activations()
    x[..., 17] = x[..., 4]
    result = fed(x, pairs=[[17, 4], [4, 9], [2, 9]]).estimate()
    point = result["a"]
    assert point.names == ("2", "4", "9", "17")
    assert point.top_pairs(1)[["i", "j"]].values.tolist() == [["4", "17"]]
    assert result.to_frame()[["i", "j"]].values.tolist() == [["2", "9"], ["4", "9"], ["4", "17"]]
    assert {name for pair in point.chance_spread(3).least for name in pair[:2]} == {"2", "4", "9", "17"}
    assert result.summary().loc["a", "pairs"] == 3
    counted = np.zeros((4, 4), bool)
    counted[[0, 1, 1], [2, 2, 3]] = True
    for matrix in (point.mi, point.raw, point.chance, point.joint_entropy, point.n):
        np.testing.assert_array_equal(np.isnan(matrix), ~(counted | counted.T | np.eye(4, dtype=bool)))
        np.testing.assert_array_equal(matrix, matrix.T)
    assert point.mi[1, 3] == point.pairs()[2]
    text = mi_probe.describe(result)
    for words in ("3 pairs", "4 of 18 dimensions were counted", "3 of 6 pairs were counted", "4 and 17 share"):
        assert words in text
    figure = heat_map(point)
    assert "were not counted" in figure.axes[0].get_xlabel()
    assert np.isnan(np.asarray(figure.axes[0].images[0].get_array().filled(np.nan))).sum() == 4 + 6
    assert len(distributions(result).axes) == 2
    result.save(tmp_path / "r.safetensors")
    back = MIResult.load(tmp_path / "r.safetensors")["a"]
    np.testing.assert_array_equal(back.mi, point.mi)
    assert (back.names, back.notes, back.columns) == (point.names, point.notes, point.columns)


@pytest.mark.parametrize(
    "more", [{"dimensions": 5}, {"pairs": 7}, {"dimensions": [1, 4, 6], "pairs": [[1, 6]]}, {"sample_every": 3}]
)
def test_a_state_of_a_choice_comes_back_and_goes_on(more: dict[str, Any], tmp_path: Path) -> None:
    x = activations()
    state = fed(x, **more)
    state.save(tmp_path / "s.safetensors")
    back = ProbeState.load(tmp_path / "s.safetensors")
    assert back.probe == state.probe
    assert back.streams["a"].read() == state.streams["a"].read()
    for each in (state, back):
        each.update("a", activations(1))
        with pytest.raises(InputError, match=f"this point has {V} variables"):
            each.update("a", activations()[..., :5])
    assert back.counts["a"] == state.counts["a"]
    back += state
    assert back.counts["a"].n == 2 * state.counts["a"].n


def test_files_whose_choice_contradicts_the_rest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    fed(activations(), dimensions=5, pairs=7).save(path)
    header, arrays = mi_probe.store.read(path, "state", 4)
    rest = {key: value for key, value in header.items() if key not in ("schema", "writer")}
    for name, change in (
        ("dimensions", -arrays["0.dimensions"]),
        ("pairs", arrays["0.pairs"][:3]),
        ("pairs", arrays["0.pairs"][::-1]),
    ):
        mi_probe.store.write(path, "state/4", rest, arrays | {f"0.{name}": change})
        with pytest.raises(StoreError, match="not a usable state"):
            ProbeState.load(path)


def test_the_golden_files_with_a_choice_still_read_with_all_they_hold() -> None:
    folder = Path(__file__).parent / "golden"
    state = ProbeState.load(folder / "state-3.safetensors")
    assert (state.probe.dimensions, state.probe.pairs, state.probe.sample_every) == (4, 5, 2)
    counts = state.streams["a"].read()
    assert (counts.binning.width, counts.joint.variables, counts.joint.pairs, len(counts.shards)) == (7, 4, 5, 16)
    again, kept = state.estimate()["a"], MIResult.load(folder / "result-3.safetensors")["a"]
    assert kept.names == again.names
    assert set(again.columns) - set(kept.columns) == {"correlation"}  # which came after that file
    np.testing.assert_array_equal(kept.listed, counts.joint.listed)
    for what in kept.columns:
        np.testing.assert_allclose(kept.pairs(what), again.pairs(what), rtol=1e-7, atol=1e-12)


# -- on a model -------------------------------------------------------------------------------------------------------


def test_a_model_is_measured_at_its_chosen_dimensions_and_edges_carry_the_choice(tiny: Any) -> None:
    texts = ["a cup of coffee, and another one", "tea and the sea, and nothing else", "the third text of them all"]
    probe = Probe(dimensions=4, pairs=5, calibration_tokens=30, bins=3)
    one = mi_probe.accumulate(tiny, texts, probe)
    whole = mi_probe.accumulate(tiny, texts, Probe(calibration_tokens=30, bins=3))
    for name, binning in one.binnings.items():
        cloud = mi_probe.sample_activations(tiny, texts, name, probe, max_tokens=30)
        assert cloud.shape[1] == 16
        np.testing.assert_array_equal(binning.dimensions, most_variable(cloud, 4))
        names = binning.dimensions
        first, second = one.counts[name].pair_indices
        at = [kernels.pair_index(int(i), int(j), 16) for i, j in zip(names[first], names[second], strict=True)]
        np.testing.assert_array_equal(one.counts[name].tables, whole.counts[name].tables[at])
    assert len({tuple(binning.dimensions) for binning in one.binnings.values()}) > 1
    two = mi_probe.accumulate(tiny, "another text, about neither", Probe(pairs=5), edges=one.binnings)
    assert two.probe.dimensions == 4
    before = one.tokens_seen
    one += two
    assert one.tokens_seen == before + two.tokens_seen
    for wrong in (Probe(dimensions=5), Probe(dimensions=[1, 2, 3, 4]), Probe(dimensions=4, chosen_by="random")):
        with pytest.raises(HookPointError, match="other dimensions than the probe asks for"):
            mi_probe.attach(tiny, wrong, edges=one.binnings)
    with pytest.raises(HookPointError, match="other dimensions"):
        mi_probe.attach(tiny, probe, edges=whole.binnings)
    with pytest.raises(HookPointError, match="not for this probe"):
        mi_probe.attach(tiny, Probe(pairs=[[0, 99]]), edges=whole.binnings)


def test_the_recipe_takes_a_probe_with_a_choice(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text("layers = [0, 3]\n[subset]\ndimensions = 20\npairs = 60\n[tokens]\nsample_every = 2\n")
    arguments = ["run", "dimension_pairs", "--probe", str(tmp_path / "some.toml"), "--out", str(tmp_path / "out")]
    cli.app(arguments, result_action="return_value", exit_on_error=False)
    point = MIResult.load(tmp_path / "out" / "result.safetensors")["hidden_states.3"]
    assert (len(point.names), len(point.pairs()), point.samples) == (20, 60, 56)
    assert (tmp_path / "out" / "pairs.png").is_file()


# -- some tokens ------------------------------------------------------------------------------------------------------


def test_one_token_in_so_many_is_kept_by_its_position_and_the_others_are_in_the_books() -> None:
    x = torch.arange(20.0).reshape(2, 10, 1).expand(2, 10, 3)
    tokens, mask = torch.ones(2, 10, dtype=torch.int64), torch.ones(2, 10, dtype=torch.int64)
    mask[1, :3] = 0  # padded on the left: positions begin behind it
    tokens[0, 4] = 9
    state = ProbeState(Probe(sample_every=3), special_tokens=[9])
    state.update("p", x, mask, tokens)
    np.testing.assert_array_equal(state.streams["p"].rows()[:, 0], [1, 7, 14, 17])
    assert state.status().points["p"].left_out == {
        "padding": 3, "first positions": 2, "special tokens": 1, BETWEEN: 10,
    }  # fmt: skip


def test_which_tokens_are_kept_does_not_depend_on_batches_or_steps(tiny: Any) -> None:
    texts = ["a cup of coffee, and a pot of tea " * 3, "tea"] * 3
    found = [mi_probe.accumulate(tiny, texts, Probe(sample_every=4, bins=3), batch_size=size) for size in (1, 5)]
    assert found[0].counts["hidden_states.1"] == found[1].counts["hidden_states.1"]
    assert found[0].ledger.tokens[BETWEEN] > 2 * found[0].tokens_seen
    with mi_probe.attach(tiny, Probe(sample_every=4, bins=3)) as stepwise:
        tokens = tiny.generate("a cup", max_new_tokens=9, do_sample=False, verbose=False, return_type="tokens")
    with mi_probe.attach(tiny, Probe(sample_every=4, bins=3)) as at_once:
        tiny(tokens[:, :-1])
    assert stepwise.ledger.tokens[BETWEEN] == at_once.ledger.tokens[BETWEEN] > 8
    assert stepwise.tokens_seen == at_once.tokens_seen > 2


@pytest.mark.parametrize("every", [1, 2, 3, 5, 6, 7])
def test_sampled_tokens_have_the_lagged_counts_of_those_places(every: int) -> None:
    rng = np.random.default_rng(every)
    codes = rng.integers(0, 3, (90, 2), dtype=np.uint8)
    places = Places(np.repeat([0, 1, 2], 30), np.tile(np.arange(30), 3), np.repeat([0, 1, 2], 30))
    kept = np.flatnonzero(places.position % every == 1 % every)
    holed = np.full_like(codes, MISSING)
    holed[kept] = codes[kept]
    expected = np.zeros((6, 2, 3, 3), np.int64)
    count_lags(holed, np.array([30, 30, 30]), expected)
    lagged = LaggedCounts(6, 2, 3)
    lagged.update(codes[kept], Places(places.sequence[kept], places.position[kept], places.document[kept]))
    np.testing.assert_array_equal(lagged.counts, expected)
    assert lagged.counts.any() == (every <= 6)


def test_p_values_of_sampled_tokens_allow_for_what_is_near_and_say_where_nothing_is() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6000, 24))
    for t in range(1, len(x)):
        x[t] += 0.95 * x[t - 1]
    found = {}
    for every in (4, 50):
        state = ProbeState(Probe(bins=5, sample_every=every, skip_special=False))
        state.update("p", x, tokens=np.ones(6000, int))
        found[every] = {test: state.estimate(p_values=test)["p"] for test in ("serial", "gamma")}
    near, far = found[4], found[50]
    assert (near["gamma"].pairs("p") < 0.05).mean() > 0.25 > 0.12 > (near["serial"].pairs("p") < 0.05).mean()
    assert not any("known to follow" in note for note in near["serial"].notes)
    np.testing.assert_allclose(far["serial"].pairs("p"), far["gamma"].pairs("p"), rtol=1e-12)
    assert any("no sample follows another within 12" in note for note in far["serial"].notes)
