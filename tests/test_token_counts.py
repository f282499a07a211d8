"""Pairs of tokens over many texts: counts equal a loop over texts and pairs, whatever the batches, and add up."""

from __future__ import annotations

import os
import signal
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import Binning, Edges, MIProbeWarning, Probe, ProbeState
from mi_probe.errors import HookPointError, InputError, MergeError, ProbeError, Stopped, StoreError
from mi_probe.estimators import estimate_tables
from mi_probe.footprint import Run, footprint
from mi_probe.keyed import key_values
from mi_probe.ledger import NO_EDGES
from mi_probe.places import Places
from mi_probe.tokencounts import OTHERS, TokenCounts, rank_codes, ranks_of, sizes_of_bins
from mi_probe.tokenkeys import TokenKeys, bands

TEXTS = [f"{k}: " + "the quick brown fox jumps over the lazy dog, and on; " * (1 + k % 3) for k in range(12)]
WHAT = Probe(hooks="resid_post", layers=[0, 2], variables="tokens", furthest=20, bins=4, calibration_tokens=100)


def counts_of(state: ProbeState, point: str = "resid_post.2") -> TokenCounts:
    counts = state.streams[point].read().tokens
    assert counts is not None
    return counts


def same(one: ProbeState, other: ProbeState) -> bool:
    return all(a.read() == b.read() for a, b in zip(one.streams.values(), other.streams.values(), strict=True))


def cut(x: np.ndarray, centre: np.ndarray, scale: np.ndarray, bins: int) -> np.ndarray:
    """Standardised values of each token in bins of equal count, as slowly as it can be said."""
    codes = np.empty(x.shape, dtype=int)
    for t, row in enumerate((x.astype(np.float64) - centre) / scale):
        edges = Binning.fit(row[:, None], bins=bins).edges[0]
        codes[t] = [np.count_nonzero(edges <= value) for value in row]
    return codes


def test_ranks_in_bins_are_what_equal_count_edges_give() -> None:
    rng = np.random.default_rng(0)
    for dimensions, bins in ((94, 5), (64, 3), (97, 16), (768, 14)):
        x = rng.standard_normal((7, dimensions))
        centre, scale = rng.standard_normal(dimensions), rng.uniform(0.5, 2, dimensions)
        codes = rank_codes(ranks_of(x, centre, scale), bins)
        np.testing.assert_array_equal(codes, cut(x, centre, scale, bins))
        np.testing.assert_array_equal(np.bincount(codes[0], minlength=bins), sizes_of_bins(dimensions, bins))


def test_bands_hold_every_distance_once() -> None:
    for furthest in (1, 5, 16, 17, 24, 25, 64, 100, 1000):
        found = bands(furthest)
        every = np.concatenate([np.arange(first, last + 1) for first, last in found])
        np.testing.assert_array_equal(every, np.arange(1, furthest + 1))


@pytest.mark.parametrize("by", ["distance", "position", "label"])
def test_keyed_counts_equal_a_loop_over_texts_and_pairs(by: Any) -> None:
    rng = np.random.default_rng(1)
    keys = TokenKeys(by, furthest=19, labels=("a", "b", "c") if by == "label" else (), bins=3, shards=4)
    x = rng.standard_normal((90, 20)) * rng.uniform(0.1, 5, 20) + rng.standard_normal(20)
    chosen = np.sort(rng.choice(6 * 25, 90, replace=False))  # tokens that were left out leave gaps
    labels = rng.integers(-1, 3, (6, 25))
    places = Places.of_batch(chosen, 25, np.array([0, 0, 1, 5, 6, 9]), labels=labels)
    counts = TokenCounts(keys, Binning.fit(x))
    x[17, 3] = np.nan  # this token is left out, and no other
    counts.update(counts.codes(x), places)

    codes = cut(np.nan_to_num(x), counts.centre, counts.scale, 3)
    tables: dict[int, np.ndarray] = {}
    cells: Counter[tuple[int, int, int]] = Counter()
    for s in range(90):
        for t in range(s + 1, 90):
            distance = places.position[t] - places.position[s]
            if places.sequence[s] != places.sequence[t] or distance > 19 or 17 in (s, t):
                continue
            number = distance if by == "distance" else places.position[t]
            if by != "label":
                key = next(k for k, (first, last) in enumerate(keys.bounds) if first <= number <= last)
            elif -1 in (places.labels[s], places.labels[t]):
                continue
            else:
                key = places.labels[s] * 3 + places.labels[t]
            table, *_ = np.histogram2d(codes[s], codes[t], bins=[np.arange(4) - 0.5] * 2)
            tables[key] = tables.get(key, 0) + table
            for size in table.ravel().astype(int):
                cells[key, int(places.document[s]) % 4, size] += 1
    assert len(tables) >= 8
    expected = np.zeros_like(counts.tables)
    for key, table in tables.items():
        expected[key] = table
    np.testing.assert_array_equal(counts.tables, expected)
    found = {where: int(counts.cells[where]) for where in zip(*map(np.ndarray.tolist, counts.cells.nonzero()), strict=True)}
    assert found == dict(cells)
    assert counts.tokens.tolist() == [90, 1]


def test_the_mean_of_a_key_is_the_mean_over_its_pairs() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((30, 40)) + rng.standard_normal((30, 1)) * rng.standard_normal(40)
    counts = TokenCounts(TokenKeys(furthest=4, bins=4), Binning.fit(x))
    counts.update(counts.codes(x), Places.of_batch(np.arange(30), 10, np.array([0, 1, 2])))
    codes = counts.codes(x)
    found = key_values(counts)
    for distance in range(1, 5):
        pairs = [(s, s + distance) for s in range(30) if s // 10 == (s + distance) // 10]
        tables = np.zeros((len(pairs), 4, 4), dtype=np.int64)
        for k, (s, t) in enumerate(pairs):
            np.add.at(tables[k], (codes[s], codes[t]), 1)
        mi, _, raw, chance = estimate_tables(tables)
        assert counts.pairs[distance - 1] == len(pairs)
        np.testing.assert_allclose(found["mi"][distance - 1], mi.mean(), rtol=1e-12)
        np.testing.assert_allclose(found["raw"][distance - 1], raw.mean(), rtol=1e-12)
        np.testing.assert_allclose(found["chance"][distance - 1], chance.mean(), rtol=1e-12)
        kept = [np.array([s // 10 != shard for s, _ in pairs]) for shard in range(3)]
        moved = np.array([mi[keep].mean() for keep in kept])
        np.testing.assert_allclose(found["se"][distance - 1], np.sqrt(2 / 3 * ((moved - moved.mean()) ** 2).sum()), rtol=1e-9)
    assert np.isnan(found["mi"][-1])  # there is no other text here


def test_each_token_meets_one_of_another_document_whatever_comes_with_it() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 24))
    binning = Binning.fit(x)
    others, documents = rng.permuted(np.tile(np.arange(24, dtype=np.uint16), (6, 1)), axis=1), np.array([0, 0, 1, 2, 2, 3])
    binning = replace(binning, others=others, others_from=documents)
    keys = TokenKeys(furthest=1, bins=3)
    places = Places.of_batch(np.arange(40), 10, np.array([0, 1, 2, 7]))
    whole = TokenCounts(keys, binning)
    whole.update(whole.codes(x), places)
    apart = TokenCounts(keys, binning)
    for document in (2, 0, 7, 1):
        rows = np.flatnonzero(places.document == document)
        apart.update(apart.codes(x[rows]), places[slice(rows[0], rows[-1] + 1)])
    assert whole == apart
    assert whole.pairs[-1] == 40
    np.testing.assert_array_equal(whole.by_other.sum(axis=1), whole.cells[-1])
    assert np.count_nonzero(whole.by_other.sum(axis=(0, 2))) == 6
    alone = TokenCounts(keys, replace(binning, others=others[:2], others_from=documents[:2]))  # all of document 0
    alone.update(alone.codes(x), places)
    assert alone.pairs[-1] == 30


def test_counts_are_the_same_for_any_batch_size_and_through_a_stop(tiny: Any, tmp_path: Path) -> None:
    whole = mi_probe.accumulate(tiny, TEXTS, WHAT, batch_size=8)
    assert same(whole, mi_probe.accumulate(tiny, TEXTS, WHAT, batch_size=1))
    path = tmp_path / "state.safetensors"

    def stop(activation: Any, hook: Any) -> None:
        passes.append(1)
        if len(passes) == 25:
            os.kill(os.getpid(), signal.SIGINT)

    passes: list[int] = []
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", stop)]), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path, batch_size=1)
    assert 100 < ProbeState.load(path).tokens_seen < whole.tokens_seen
    mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path, resume=True)
    assert same(whole, ProbeState.load(path))
    table = whole.estimate_token_pairs()
    assert ProbeState.load(path).estimate_token_pairs().equals(table)
    assert set(table["point"]) == {"resid_post.0", "resid_post.2"}
    assert table["key"].tolist()[:2] == ["1", "2"]
    assert (table.groupby("point").key.last() == "unrelated").all()
    assert table.loc[table.key == "unrelated", "pairs"].tolist() == [whole.tokens_seen] * 2


def test_states_of_parts_add_up_to_the_whole(tiny: Any) -> None:
    edges = mi_probe.calibrate(tiny, TEXTS, WHAT)
    whole = mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges)
    one = mi_probe.accumulate(tiny, TEXTS[:5], WHAT, edges=edges)
    one += mi_probe.accumulate(tiny, TEXTS[5:], WHAT, edges=edges, first_document=5)
    assert same(whole, one)
    other = mi_probe.accumulate(tiny, TEXTS, WHAT)
    with pytest.raises(MergeError, match="binnings differ"):
        one += other
    further = mi_probe.accumulate(tiny, TEXTS, replace(WHAT, furthest=21), edges=edges)
    with pytest.raises(MergeError, match=r"furthest=20.*furthest=21"):
        one += further
    assert same(whole, one)


def test_edges_keep_the_tokens_of_other_texts(tiny: Any, tmp_path: Path) -> None:
    edges = mi_probe.calibrate(tiny, TEXTS, WHAT)
    edges.save(tmp_path / "edges.safetensors")
    again = Edges.load(tmp_path / "edges.safetensors")
    assert again == edges
    binning = again["resid_post.0"]
    assert binning.others is not None
    assert binning.others.shape == (100, 16)
    assert len(np.unique(binning.others_from)) > 3
    given = mi_probe.accumulate(tiny, TEXTS, WHAT, edges=again)
    assert same(given, mi_probe.accumulate(tiny, TEXTS, WHAT, calibration="sample"))


def test_the_same_texts_in_another_order_than_that_of_the_edges_are_told_of(tiny: Any, tmp_path: Path) -> None:
    corpus = mi_probe.sources.as_corpus(TEXTS)
    sampled, ran = mi_probe.calibrate(tiny, corpus, WHAT), mi_probe.accumulate(tiny, corpus, WHAT)
    ran.save(tmp_path / "state.safetensors")
    for edges in (sampled, Edges.load(tmp_path / "state.safetensors")):
        with pytest.warns(MIProbeWarning, match=r"in another order \(as it comes there, shuffled, seed 3 here\)"):
            mi_probe.accumulate(tiny, corpus.shuffled(3), WHAT, edges=edges)
        with warnings.catch_warnings():
            warnings.simplefilter("error", MIProbeWarning)
            mi_probe.accumulate(tiny, corpus, WHAT, edges=edges)
            mi_probe.accumulate(tiny, TEXTS[:5], WHAT, edges=edges)
    of_dimensions = replace(WHAT, variables="dimensions", furthest=64)
    assert "order" not in mi_probe.calibrate(tiny, corpus, of_dimensions).about


def test_auto_bins_are_those_of_a_token_with_given_edges_and_without(tiny: Any) -> None:
    what = replace(WHAT, bins="auto")
    one = mi_probe.accumulate(tiny, TEXTS, what)
    assert counts_of(one).bins == 3  # of 16 dimensions
    assert same(one, mi_probe.accumulate(tiny, TEXTS, what, edges=one.binnings))


def test_a_file_whose_pairs_of_tokens_contradict_each_other_is_refused(tiny: Any, tmp_path: Path) -> None:
    state = mi_probe.accumulate(tiny, TEXTS, WHAT)
    header, arrays = state.to_arrays()
    header = {**header, "schema": "state/4"}

    def damaged(name: str, change: Any) -> dict[str, np.ndarray]:
        copies = {key: array.copy() for key, array in arrays.items()}
        copies[name] = change(copies[name])
        return copies

    assert same(state, ProbeState.from_arrays(header, damaged("0.tokens.cells", lambda a: a), where="here"))
    for name, change in (
        ("0.tokens.cells", lambda a: a[:, 1:]),
        ("0.tokens.cells", lambda a: a + np.eye(1, a.size, 3, dtype=np.int64).reshape(a.shape)),
        ("0.tokens.tables", lambda a: a + 1),
        ("0.tokens.tables", lambda a: -a),
        ("0.tokens.tables", lambda a: a.astype(np.int32)),
        ("0.tokens.tokens", lambda a: a + np.array([1, 0])),
        ("0.tokens.by_other", lambda a: a + 1),
        ("0.others", lambda a: a + np.uint16(1)),
        ("0.others_from", lambda a: a[1:]),
    ):
        with pytest.raises(StoreError, match="not a usable state"):
            ProbeState.from_arrays(header, damaged(name, change), where="here")
    lacking = {key: array for key, array in arrays.items() if key != "1.tokens.cells"}
    with pytest.raises(StoreError, match="not a usable state"):
        ProbeState.from_arrays(header, lacking, where="here")


def test_labels_go_with_the_tokens_of_each_pass(tiny: Any) -> None:
    import torch

    what = replace(WHAT, by="label", labels=("letter", "blank"))
    space = tiny.tokenizer(" ")["input_ids"][-1]

    def blanks(ids: Any) -> Any:
        return (ids == space).long()

    whole = mi_probe.accumulate(tiny, TEXTS, what, labels=blanks)
    with mi_probe.attach(tiny, what, edges=whole.binnings) as by_hand:
        for k, text in enumerate(TEXTS):
            ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
            for start in range(0, len(ids), 31):
                tokens = torch.tensor([[0, *ids[start : start + 31]]])
                by_hand.documents = [k]
                by_hand.labels = blanks(tokens)
                tiny(tokens)
    assert same(whole, by_hand)
    table = whole.estimate_token_pairs()
    assert table["key"].tolist()[:5] == ["letter, letter", "letter, blank", "blank, letter", "blank, blank", "unrelated"]
    assert np.isnan(table["first"]).all()


def test_edges_of_a_sample_take_no_labels(tiny: Any) -> None:
    what = replace(WHAT, by="label", labels=("letter", "blank"))
    by_distance, by_label = (mi_probe.calibrate(tiny, TEXTS, probe) for probe in (WHAT, what))
    for name, binning in by_label.items():
        binning.require_same(by_distance[name])
    counted = mi_probe.accumulate(tiny, TEXTS, what, labels=lambda ids: ids % 2, calibration="sample")
    assert counted.binnings["resid_post.2"].others is not None
    assert (counts_of(counted).pairs > 0).all()


def test_a_pass_with_which_no_edges_can_be_fitted_is_in_the_books(tiny: Any) -> None:
    def flatten(activation: Any, hook: Any) -> Any:
        return torch.ones_like(activation)

    with mi_probe.attach(tiny, replace(WHAT, when="after", calibration_tokens=6)) as probe:
        with (
            tiny.hooks(fwd_hooks=[("blocks.2.hook_resid_post", flatten)]),
            pytest.raises(InputError, match=r"at hook point 'resid_post.2', pairs of tokens take tokens that differ"),
        ):
            tiny("abcdefgh")
        assert probe.ledger.passes == {NO_EDGES: 1}
        assert probe.ledger.tokens.total() == 9
        assert probe.tokens_seen == 0
        tiny("abcdefgh")
        assert probe.tokens_seen == 8
        assert (probe.estimate_token_pairs().pairs > 0).any()


def test_labels_that_do_not_fit_are_named_and_nothing_is_counted(tiny: Any) -> None:
    what = replace(WHAT, by="label", labels=("letter", "blank"))
    with mi_probe.attach(tiny, what) as probe:
        probe.labels = np.zeros((1, 3), dtype=int)
        with pytest.raises(InputError, match=r"labels of this forward pass must have shape \(1, 6\); got \(1, 3\)"):
            tiny("abcde")
        with pytest.raises(InputError, match=r"there are no labels: set probe.labels"):
            tiny("abcde")
        probe.labels = [0, 1, 2, 0, 0, 0]
        with pytest.raises(InputError, match=r"-1 for none or one of 0 \(letter\), 1 \(blank\); got int64, 0 to 2"):
            tiny("abcde")
        assert probe.tokens_seen == 0
        assert probe.status().passes == {"it had no labels, or others than one for each token": 3}
        probe.labels = [-1, 0, 1, 0, 1, 0]
        tiny("abcde")
        assert probe.tokens_seen == 5
    with mi_probe.attach(tiny, WHAT) as probe:
        with pytest.raises(InputError, match="does not count by label"):
            probe.labels = [0]
        tiny("a")
    state = ProbeState(replace(what, skip_special=False))
    with pytest.raises(InputError, match=r"labels of 'x' must have shape \(30,\); got \(29,\)"):
        state.update("x", np.random.default_rng(0).standard_normal((30, 16)), labels=np.zeros(29, dtype=int))


def test_labels_may_be_of_any_whole_numbers_and_nothing_else(tiny: Any) -> None:
    what = replace(WHAT, by="label", labels=("letter", "blank"))
    with mi_probe.attach(tiny, what) as probe:
        for kind in (torch.uint8, torch.int16, torch.int64):
            probe.labels = torch.tensor([[0, 1, 0, 1]], dtype=kind)
            tiny("abc")
        probe.labels = np.array([[0, 1, 0, 1]], dtype=np.uint64)
        tiny("abc")
        assert probe.tokens_seen == 12
        byte = np.full((1, 4), 255, dtype=np.uint8)
        for wrong in ([[0, 1], [0]], torch.zeros((1, 4), dtype=torch.bfloat16), byte, [["letter"] * 4], [None] * 4):
            probe.labels = wrong
            with pytest.raises(InputError, match="the labels of this forward pass must be"):
                tiny("abc")
    assert probe.tokens_seen == 12
    assert probe.status().passes["it had no labels, or others than one for each token"] == 5


def test_labels_of_a_pass_that_failed_are_not_those_of_the_next(tiny: Any) -> None:
    what = replace(WHAT, by="label", labels=("letter", "blank"))

    def fail(activation: Any, hook: Any) -> None:
        raise RuntimeError("in the middle")

    with mi_probe.attach(tiny, what) as probe:
        probe.labels = [0, 1, 0, 1]
        with tiny.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", fail)]), pytest.raises(RuntimeError, match="in the middle"):
            tiny("abc")
        with pytest.raises(InputError, match="there are no labels"):
            tiny("xyz")
        assert probe.tokens_seen == 0
        probe.labels = [0, 1, 0, 1]
        with probe.pause():
            tiny("a patched run")
        tiny("xyz")
        assert probe.tokens_seen == 3


def test_noise_that_grows_with_distance_is_found_again() -> None:
    rng = np.random.default_rng(4)
    state = ProbeState(Probe(variables="tokens", furthest=8, calibration_tokens=512, skip_first=0, skip_special=False))
    for _ in range(32):  # each text a walk: tokens k apart correlate as .8^k
        x = [rng.standard_normal(256)]
        for _ in range(39):
            x.append(0.8 * x[-1] + 0.6 * rng.standard_normal(256))
        state.update("walk", np.array(x))
    table = state.estimate_token_pairs().set_index("key")
    near, unrelated = table.drop("unrelated"), table.loc["unrelated"]
    assert (np.diff(near["mi"]) < 0).all()
    for distance in (1, 2, 4, 8):
        true = -0.5 * np.log(1 - 0.8 ** (2 * distance))
        mi, se = near.loc[str(distance), ["mi", "se"]]
        assert 0.78 * true - 4 * se < mi < true + 4 * se, distance  # bins lose up to a fifth
    assert abs(unrelated["mi"]) < 4 * unrelated["se"]
    assert 0 < unrelated["se"] < 0.005


def test_the_error_of_unrelated_pairs_allows_for_the_tokens_that_all_are_compared_with() -> None:
    rng = np.random.default_rng(6)
    found = []
    word = rng.standard_normal(64)
    what = Probe(variables="tokens", furthest=1, bins=4, calibration_tokens=3840, skip_first=0, skip_special=False)
    for _ in range(30):
        # Half of all tokens are one word: what a token shares with others hangs on how many of these are that word.
        state = ProbeState(what)
        for _ in range(32):
            x = rng.standard_normal((120, 64))
            same_word = rng.random(120) < 0.5
            x[same_word] = 0.9 * word + 0.436 * x[same_word]
            state.update("x", x)
        row = state.estimate_token_pairs().iloc[-1]
        found.append((row["mi"], row["se"]))
    mi, se = np.array(found).T
    assert 0.7 < mi.std() / np.sqrt((se**2).mean()) < 1.4  # from documents alone it is 2.4


def test_dimensions_that_do_not_vary_are_in_no_pair_with_edges_of_its_own_and_given_ones() -> None:
    rng = np.random.default_rng(7)
    texts = [rng.standard_normal((20, 40)) for _ in range(8)]
    dead = [3, 17, 18, 39]
    what = Probe(variables="tokens", furthest=2, bins=4, calibration_tokens=100, skip_first=0, skip_special=False)
    alone, among = ProbeState(what), ProbeState(what)
    for x in texts:
        among.update("x", x)
        with_dead = np.insert(x, [3, 16, 16, 36], 5.0, axis=1)
        assert (with_dead[:, dead] == 5.0).all()
        alone.update("x", with_dead)
    kept = alone.binnings["x"].dimensions
    assert kept is not None
    assert kept.tolist() == [k for k in range(44) if k not in dead]
    for one, other in zip(counts_of(alone, "x").SUMS, counts_of(among, "x").SUMS, strict=True):
        np.testing.assert_array_equal(getattr(counts_of(alone, "x"), one), getattr(counts_of(among, "x"), other))
    by_list = ProbeState(replace(what, dimensions=range(2, 30)))
    by_list.update("x", np.concatenate([np.insert(x, [3, 16, 16, 36], 5.0, axis=1) for x in texts]))
    assert by_list.binnings["x"].names == tuple(str(k) for k in range(2, 30) if k not in dead)
    nothing = ProbeState(what)
    with pytest.raises(InputError, match=r"at hook point 'x', .* over the 100 that edges are fitted on no dimension varies"):
        nothing.update("x", np.ones((100, 40)))
    nothing.update("x", np.ones((50, 40)))
    with pytest.raises(InputError, match=r"at hook point 'x', .* over the 50 that edges"):
        nothing.estimate_token_pairs()
    with pytest.raises(InputError, match=r"at hook point 'x', .* over the 50 that edges"):
        nothing.save("nowhere.safetensors")


def test_edges_are_taken_whatever_varies_and_refused_for_dimensions_that_were_not_asked_for(tiny: Any) -> None:
    what = replace(WHAT, dimensions=(1, 2, 5, 6, 7, 8, 9, 11, 12, 13))
    edges = mi_probe.calibrate(tiny, TEXTS, what)
    assert same(mi_probe.accumulate(tiny, TEXTS, what, edges=edges), mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges))
    with pytest.raises(HookPointError, match="for other dimensions than the probe asks for"):
        mi_probe.attach(tiny, replace(what, dimensions=range(8)), edges=edges)


def test_tokens_with_a_value_that_is_not_finite_are_told_of() -> None:
    state = ProbeState(replace(WHAT, skip_first=0, skip_special=False))
    x = np.random.default_rng(8).standard_normal((60, 16))
    x[4, 2] = np.inf
    state.update("x", x)
    with pytest.warns(MIProbeWarning, match="1 of 60 tokens at 'x' are in no pair"):
        table = state.estimate_token_pairs()
    assert table["pairs"].iloc[0] == 57  # neither with the one before nor with the one behind


def test_tokens_that_a_generation_adds_have_no_label(tiny: Any) -> None:
    what = replace(WHAT, by="label", labels=("letter", "blank"))
    tokens = tiny.to_tokens("a b c d e f", prepend_bos=True)
    with mi_probe.attach(tiny, what) as probe:
        probe.labels = (tokens == tokens[0, 2]).long()
        tiny.generate(tokens, max_new_tokens=3, verbose=False, do_sample=False)
    assert probe.tokens_seen > 10
    assert probe.status().passes["counted"] >= 3
    table = probe.estimate_token_pairs()
    assert (table[table.key != "unrelated"].groupby("point").pairs.sum() == 11 * 10 / 2).all()  # those within the prompt


def test_without_another_text_there_is_nothing_to_compare_with() -> None:
    state = ProbeState(replace(WHAT, skip_first=0))
    state.update("x", np.random.default_rng(5).standard_normal((40, 16)))
    last = state.estimate_token_pairs().iloc[-1]
    assert (last["key"], last["pairs"]) == ("unrelated", 0)
    assert np.isnan(last["mi"])


def test_what_does_not_go_with_pairs_of_tokens_is_said_at_once(tiny: Any) -> None:
    with pytest.raises(ProbeError) as caught:
        Probe(variables="tokens", by="labels", furthest=0, moments=True, method="equal_width", pairs=5)  # type: ignore[arg-type]
    message = str(caught.value)
    for part in ("by must be one of", "did you mean 'label'", "furthest must be", "pairs, moments, method and variables"):
        assert part in message, part
    with pytest.raises(ProbeError, match="by = 'label' needs the names"):
        Probe(variables="tokens", by="label")
    with pytest.raises(ProbeError, match="goes with by = 'label'"):
        Probe(variables="tokens", labels=["a"])
    with pytest.raises(ProbeError, match=r"furthest: of pairs of tokens, which are counted with variables = 'tokens'"):
        Probe(furthest=3)
    with pytest.raises(ProbeError, match="leaves nothing to count"):
        Probe(pairs="none")
    with pytest.raises(HookPointError, match=r"16 dimensions of a token cannot be cut into 9 bins"):
        mi_probe.attach(tiny, replace(WHAT, bins=9))
    with pytest.raises(InputError, match="split the tokens among the processes"):
        mi_probe.accumulate(tiny, TEXTS, WHAT, split_by="pairs")
    state = mi_probe.accumulate(tiny, TEXTS, WHAT)
    with pytest.raises(InputError, match=r"estimate_token_pairs\(\)"):
        state.estimate()
    with pytest.raises(InputError, match=r"Probe\(variables='tokens'\)"):
        mi_probe.accumulate(tiny, TEXTS, Probe(layers=[0])).estimate_token_pairs()
    assert Probe.from_toml(WHAT.to_toml()) == WHAT


def test_memory_and_file_are_as_planned(tiny: Any, tmp_path: Path) -> None:
    state = mi_probe.accumulate(tiny, TEXTS, WHAT)
    counts = counts_of(state)
    assert sum(array.nbytes for array in (counts.tables, counts.cells, counts.by_other, counts.tokens)) == TokenCounts.nbytes_for(
        counts.keys, 16
    )
    state.save(tmp_path / "state.safetensors")
    planned = footprint(replace(WHAT, about=""), dict.fromkeys(state.streams, 16), Run(tokens=state.tokens_seen))
    binning = state.binnings["resid_post.2"]
    assert binning.others is not None
    assert binning.others_from is not None
    others = (binning.others.nbytes + binning.others_from.nbytes) * OTHERS // len(binning.others)
    assert planned.total("extras") == 2 * (TokenCounts.nbytes_for(counts.keys, 16) + others)
    assert 0 <= (tmp_path / "state.safetensors").stat().st_size - planned.state_file < 20_000  # edges and header
    assert WHAT.plan(tiny, measure=False).fits
