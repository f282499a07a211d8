"""What is counted beside the pairs: lags, shards, swaps, moments; and outliers that are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_probe
from mi_probe import Binning, JointCounts, Probe, ProbeState
from mi_probe.errors import InputError, MergeError, MIProbeError, ProbeError
from mi_probe.estimators import estimate
from mi_probe.extras import Extras
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.shards import shard_errors

ALL = {"lags": 3, "shards": 16, "swap": True, "moments": True}


def texts(seed: int, count: int, most: int = 30, variables: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.cumsum(rng.standard_normal((int(rng.integers(1, most)), variables)), axis=0) for _ in range(count)]


def fed(parts: list[np.ndarray], **options: Any) -> ProbeState:
    state = ProbeState(Probe(**{"bins": 4, "calibration_tokens": 50, "skip_special": False, "skip_first": 0, **options}))
    for text in parts:
        state.update("a", text)
    return state


def counted(state: ProbeState) -> PointCounts:
    return state.streams["a"].read()


# -- lags, shards, swaps ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_lagged_counts_are_of_neighbours_within_a_text(seed: int) -> None:
    parts = texts(seed, 5)
    parts[1][::3, 2] = np.nan
    counts = counted(fed(parts, lags=3))
    for k in (1, 2, 3):
        expected = np.zeros((4, 4, 4), dtype=int)
        for text in parts:
            codes = counts.binning.encode(text)
            for v in range(4):
                for a, b in zip(codes[:, v], codes[k:, v], strict=False):
                    if max(a, b) < 4:
                        expected[v, a, b] += 1
        np.testing.assert_array_equal(counts.lagged[k - 1], expected)


def test_tokens_that_are_left_out_keep_their_place() -> None:
    x = np.random.default_rng(4).standard_normal((1, 60, 2))
    mask = np.ones((1, 60))
    mask[0, 10:15] = 0
    state = ProbeState(Probe(bins=2, lags=6))
    state.update("a", x, mask=mask)
    assert counted(state).lagged[:, 0].sum(axis=(1, 2)).tolist() == [53, 51, 49, 47, 45, 44]


@pytest.mark.parametrize("sizes", [[1] * 40, [5, 1, 20, 14], [40]])
def test_a_text_that_comes_in_pieces_is_counted_like_the_whole(sizes: list[int]) -> None:
    codes = np.random.default_rng(12).integers(0, 3, (40, 2), dtype=np.uint8)
    binning = Binning(np.tile([0.5, 1.5], (2, 1)), "equal_count")
    whole, pieces = (PointCounts(binning, Extras(lags=4)) for _ in range(2))
    whole.update(codes, Places.of_one_text(40))
    for part in np.split(np.arange(40), np.cumsum(sizes)[:-1]):
        pieces.update(codes[part], Places(np.zeros(len(part), int), part, np.zeros(len(part), int), np.full(len(part), 5)))
    assert pieces == whole


def test_what_does_not_follow_is_not_joined() -> None:
    codes = np.zeros((6, 1), dtype=np.uint8)
    counts = PointCounts(Binning(np.full((1, 1), 0.5), "equal_count"), Extras(lags=2))
    # Another text, a place again, a leap, and one that does not say that it goes on.
    for text, positions in ((0, [0, 1]), (1, [2, 3]), (0, [1, 2]), (1, [9, 10]), (-1, [0, 1]), (-1, [2, 3])):
        counts.update(codes[:2], Places(np.zeros(2, int), np.array(positions), np.zeros(2, int), np.full(2, text)))
    assert counts.lagged[:, 0, 0, 0].tolist() == [6, 0]


def test_rows_of_one_document_go_on_each_on_its_own(tiny: Any) -> None:
    found = []
    for documents in (None, [0, 0]):
        with mi_probe.attach(tiny, Probe(bins=3, lags=2)) as probe:
            probe.documents = documents
            prompts = tiny.to_tokens(["one text", "two more"])
            tiny.generate(prompts, max_new_tokens=6, do_sample=False, verbose=False, stop_at_eos=False)
        found.append(probe.streams["hidden_states.1"].read().lagged)
    np.testing.assert_array_equal(*found)
    assert found[0][0, 0].sum() > 20  # of 26 tokens in two rows


def test_counts_of_equal_edges_and_other_frames_do_not_merge_and_nothing_is_lost() -> None:
    values = np.repeat([0.0, 1, 2, 3], 25)[:, None] * [1, 1]
    far = values.copy()
    far[-1] = 50
    one, two = (fed([x], moments=True, calibration_tokens=100) for x in (values, far))
    before = counted(one).copy()
    with pytest.raises(MergeError, match="at hook point 'a', second moments differ"):
        one += two
    assert counted(one) == before


def test_few_known_neighbours_are_said() -> None:
    state, holed = ProbeState(Probe(bins=3)), ProbeState(Probe(bins=3))
    x = np.random.default_rng(13).standard_normal((400, 1, 3))
    for row in x[:60]:
        state.update("a", row)
    assert "no sample follows another within" in state.estimate()["a"].notes[0]
    x[np.random.default_rng(14).random(x.shape) < 0.4] = np.nan
    holed.update("a", x[:, 0])
    assert "known to follow" not in holed.estimate()["a"].notes[0]


def test_the_side_of_the_padding_does_not_matter_with_a_mask_alone() -> None:
    parts = texts(14, 6)
    longest = max(map(len, parts))
    found = []
    for before in (False, True):
        pads = [((longest - len(t), 0) if before else (0, longest - len(t)), (0, 0)) for t in parts]
        mask = np.stack([np.pad(np.ones(len(t)), pad[0]) for t, pad in zip(parts, pads, strict=True)])
        state = fed([], **ALL)
        state.update("a", np.stack([np.pad(t, pad) for t, pad in zip(parts, pads, strict=True)]), mask=mask)
        found.append(counted(state))
    assert found[0] == found[1]


def test_batches_of_padded_texts_count_like_the_texts_alone() -> None:
    parts = texts(5, 6)
    longest = max(map(len, parts))
    batch = np.stack([np.pad(t, ((0, longest - len(t)), (0, 0))) for t in parts])
    left = np.stack([np.pad(t, ((longest - len(t), 0), (0, 0))) for t in parts])
    mask = np.stack([np.arange(longest) < len(t) for t in parts])
    tokens = np.ones(mask.shape, dtype=int)
    alone = counted(fed(parts, **ALL))
    for values, here in ((batch, mask), (left, mask[:, ::-1])):
        together = ProbeState(fed([], **ALL).probe)
        together.update("a", values, mask=here, tokens=tokens)
        assert counted(together) == alone


def test_the_shards_add_up_and_documents_are_never_split() -> None:
    parts = texts(6, 40)
    state = ProbeState(Probe(bins=4, calibration_tokens=50, shards=16))
    for k, text in enumerate(parts):
        state.update("a", text, documents=k // 2)
    counts = counted(state)
    total = JointCounts(4, 4)
    for shard in counts.shards:
        total += shard
    assert total == counts.joint
    expected = [sum(len(t) for k, t in enumerate(parts) if (k // 2) % 16 == s) for s in range(16)]
    assert [shard.n for shard in counts.shards] == expected


def test_swapped_counts_pair_documents_at_the_same_positions() -> None:
    parts = [np.random.default_rng(k).standard_normal((20 + k, 3)) for k in range(2)]
    counts = counted(fed(parts, swap=True))
    first, second = (counts.binning.encode(t) for t in parts)
    expected = np.zeros((3, 4, 4), dtype=int)
    for pair, (i, j) in enumerate(zip(*np.triu_indices(3, 1), strict=True)):
        for one, two in ((first, second), (second, first)):
            np.add.at(expected[pair], (one[:20, i], two[:20, j]), 1)
    assert counts.swapped is not None
    np.testing.assert_array_equal(counts.swapped.tables, expected)
    assert counts.swapped.n == 40


def test_a_document_is_never_swapped_with_itself() -> None:
    state = ProbeState(Probe(bins=4, swap=True))
    for text in texts(7, 5):
        state.update("a", text, documents=3)
    found = state.estimate()["a"]
    assert "swap" not in found.columns
    assert any("two documents" in note for note in found.notes)


def test_the_swap_column_shows_what_position_explains_and_no_more() -> None:
    rng = np.random.default_rng(8)
    slope = np.linspace(-2, 2, 40)[:, None]
    parts = [slope * [1, 1, 0, 0] + 0.5 * rng.standard_normal((40, 4)) for _ in range(60)]
    for text in parts:
        text[:, 3] = text[:, 2] + 0.3 * rng.standard_normal(40)
    found = fed(parts, swap=True, calibration_tokens=400).estimate()["a"]
    assert found.matrix("swap")[0, 1] == pytest.approx(found.mi[0, 1], rel=0.1)
    assert found.mi[2, 3] > 0.3
    assert abs(found.matrix("swap")[2, 3]) < 0.02


def test_shards_see_the_error_that_the_formula_for_independent_samples_misses() -> None:
    """Each text has its own mean: tokens of one text are all but copies."""

    def one(seed: int) -> tuple[float, float, float]:
        rng = np.random.default_rng(seed)
        means = np.repeat(rng.standard_normal((64, 2)) @ [[1.0, 0.6], [0.0, 0.8]], 40, axis=0)
        codes = Binning.fit(means, bins=4).encode(means + 0.05 * rng.standard_normal(means.shape))
        shards = [JointCounts.from_codes(np.concatenate(np.split(codes, 64)[s::16]), 4) for s in range(16)]
        whole = JointCounts.from_codes(codes, 4)
        found = estimate(whole)
        assert found.se is not None
        return found.mi[0], found.se[0], shard_errors(whole, shards)[0]

    values, naive, honest = np.array([one(seed) for seed in range(60)]).T
    spread = values.std(ddof=1)
    assert naive.mean() < spread / 3
    assert honest.mean() == pytest.approx(spread, rel=0.35)


def test_batch_means_overstate_the_error_of_no_dependence_where_the_jackknife_over_shards_does_not() -> None:
    values, jackknife, batch = [], [], []
    for seed in range(80):
        codes = np.random.default_rng(seed).integers(0, 4, (16, 250, 2), dtype=np.uint8)
        shards = [JointCounts.from_codes(part, 4) for part in codes]
        whole = JointCounts.from_codes(codes.reshape(-1, 2), 4)
        values.append(estimate(whole).mi[0])
        jackknife.append(shard_errors(whole, shards)[0])
        batch.append(np.std([estimate(shard).mi[0] for shard in shards], ddof=1) / 4)
    spread = np.std(values, ddof=1)
    assert 3 < np.mean(batch) / spread < 5
    assert 0.8 < np.mean(jackknife) / spread < 1.6


def test_shard_errors_are_the_jackknife_by_its_definition() -> None:
    codes = np.random.default_rng(9).integers(0, 3, (600, 3), dtype=np.uint8)
    parts = np.split(codes, 20)
    shards = [JointCounts.from_codes(part, 3) for part in parts] + [JointCounts(3, 3)]
    without = [JointCounts.from_codes(np.concatenate(parts[:s] + parts[s + 1 :]), 3) for s in range(20)]
    rest = [estimate(counts, correction="jackknife").mi for counts in without]
    whole = estimate(JointCounts.from_codes(codes, 3))
    expected = np.sqrt(np.var(rest, axis=0) * 19 * (1 - np.minimum(whole.chance / whole.raw, 1) / 2))
    np.testing.assert_allclose(shard_errors(JointCounts.from_codes(codes, 3), shards, "jackknife"), expected, rtol=1e-9)
    assert np.isnan(shard_errors(shards[0], shards[:1])).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(0, 12))
def test_merged_parts_are_the_whole(seed: int, cut: int) -> None:
    parts = texts(seed, 12)
    edges = counted(fed(parts, **ALL)).binning
    documents = Places.of_batch(np.arange(30 * 12), 30, np.arange(12))

    def some(which: range) -> PointCounts:
        counts = PointCounts(edges, Extras(lags=3, shards=16, moments=True))
        for k in which:
            place = documents[30 * k : 30 * k + len(parts[k])]
            assert counts.moments is not None
            counts.update(edges.encode(parts[k]), place, counts.moments.steps(parts[k]))
        return counts

    left, right = some(range(cut)), some(range(cut, 12))
    twin = right.copy()
    right += left
    left += twin
    assert left == right == some(range(12))


def test_counts_that_keep_other_things_do_not_merge() -> None:
    parts = texts(10, 8)
    one, two = fed(parts, lags=3), fed(parts, lags=2)
    before = counted(one).copy()
    with pytest.raises(MergeError, match="lags is 3 against 2"):
        one += two
    assert counted(one) == before


def test_counting_that_was_interrupted_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = PointCounts(Binning(np.zeros((2, 1)), "equal_count"), Extras(lags=1))

    def stopped(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mi_probe.lags.count_lags", stopped)
    with pytest.raises(KeyboardInterrupt):
        counts.update(np.zeros((5, 2), np.uint8), Places.of_one_text(5))
    monkeypatch.undo()
    for read in (counts.flush, counts.copy, counts.to_arrays):
        with pytest.raises(MIProbeError, match="interrupted halfway"):
            read()


def test_impossible_extras_are_refused_all_at_once() -> None:
    with pytest.raises(ProbeError) as error:
        Probe(trim_z=-1, lags=-1, shards=4, swap=1, moments="yes")  # type: ignore[arg-type]
    for key in ("trim_z", "lags", "shards", "swap", "moments"):
        assert key in str(error.value)


def test_impossible_documents_are_refused_and_nothing_is_counted() -> None:
    state = fed([])
    for documents in ([1, 2, 3], [-1], [0.5]):
        with pytest.raises(InputError, match="documents of 'a'"):
            state.update("a", np.zeros((5, 2)), documents=documents)
    assert state.tokens_seen == 0


# -- in a model -------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_batch_are_documents_of_their_own(tiny: Any) -> None:
    with mi_probe.attach(tiny, Probe(bins=3, shards=16, swap=True)) as probe:
        tiny(["one text here", "another one"])
        tiny("a third")
    shards = [shard.n for shard in probe.streams["hidden_states.1"].read().shards]
    assert [n for n in shards if n] == shards[:3]
    assert sum(shards) == probe.tokens_seen


@pytest.mark.parametrize("cached", [True, False])
def test_all_steps_of_a_generation_are_one_document_and_follow_each_other(tiny: Any, cached: bool) -> None:
    with mi_probe.attach(tiny, Probe(bins=3, shards=16, lags=2)) as probe:
        tiny.generate("a text", max_new_tokens=6, do_sample=False, verbose=False, use_past_kv_cache=cached)
        n = probe.tokens_seen
        tiny("another")
    counts = probe.streams["hidden_states.1"].read()
    assert [shard.n for shard in counts.shards][:2] == [n, probe.tokens_seen - n]
    assert not any(shard.n for shard in counts.shards[2:])
    assert counts.lagged[:, 0].sum(axis=(1, 2)).tolist() == [n - 1 + probe.tokens_seen - n - 1, n - 2 + probe.tokens_seen - n - 2]


def test_windows_of_a_text_are_one_document_and_extras_do_not_depend_on_the_batch_size(tiny: Any) -> None:
    long = ["a long text that does not fit into one window of this model", "short", "and one more"]
    one, many = (mi_probe.accumulate(tiny, long, Probe(bins=3, **ALL), batch_size=size) for size in (1, 8))
    for name in one.streams:
        assert one.streams[name].read() == many.streams[name].read()
    shards = [shard.n for shard in one.streams["hidden_states.1"].read().shards]
    assert not any(shards[3:])


def test_impossible_documents_are_refused_when_they_are_given(tiny: Any) -> None:
    with mi_probe.attach(tiny, Probe(bins=3, shards=16)) as probe:
        tiny("one")
        for documents in ("a", ["a"], [0.5], [-1], [[1, 2]]):
            with pytest.raises(InputError, match="documents must be whole numbers"):
                probe.documents = documents  # type: ignore[assignment]
        assert probe.documents is None


def test_texts_may_be_numbered_over_several_runs(tiny: Any) -> None:
    run = mi_probe.accumulate(tiny, ["one", "two"], Probe(bins=3, shards=16), first_document=30)
    assert [k for k, shard in enumerate(run.streams["hidden_states.1"].read().shards) if shard.n] == [14, 15]
    assert any("only 2 of 16 shards" in note for note in run.estimate()["hidden_states.1"].notes)


def test_documents_of_another_number_than_the_rows_are_said_not_to_count(tiny: Any) -> None:
    with mi_probe.attach(tiny, Probe(bins=3, shards=16)) as probe:
        probe.documents = [5]
        with pytest.warns(mi_probe.MIProbeWarning, match="2 rows"):
            tiny(["one", "two"])
    assert probe.tokens_seen
