"""Streams of texts: batches, calibration, shared edges."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import Probe
from mi_probe.errors import HookPointError, MergeError
from mi_probe.state import ProbeState

KEEP = 10**6  # calibration longer than any test: the streams keep their rows, so that they can be looked at


def rows_of(probe: ProbeState, key: str) -> np.ndarray:
    return probe.streams[key].rows()


def test_counts_are_bit_equal_for_any_batch_size_and_one_text_at_a_time(tiny: Any) -> None:
    text = "the quick brown fox jumps over the lazy dog; " * 40
    what = Probe(calibration_tokens=300, bins=5)
    states = [mi_probe.accumulate(tiny, [text], what, batch_size=b) for b in (1, 3, 64)]
    with mi_probe.attach(tiny, what) as by_hand, torch.no_grad():
        for batch, _ in mi_probe.corpus.batches([text], tiny, batch_size=1):
            tiny(batch)
    states.append(by_hand)
    assert by_hand.tokens_seen == len(text)
    for state in states[1:]:
        for key, counts in states[0].counts.items():
            assert counts == state.counts[key]
            np.testing.assert_array_equal(states[0].binnings[key].edges, state.binnings[key].edges)


def test_edges_are_fitted_on_the_first_rows_and_then_frozen(tiny: Any) -> None:
    text = "abcdefghijklmnopqrstuvwxyz" * 10
    with mi_probe.attach(tiny, Probe(hooks="resid_post", layers=[1], calibration_tokens=KEEP)) as whole:
        for batch, _ in mi_probe.corpus.batches([text], tiny):
            tiny(batch)
    rows = rows_of(whole, "resid_post.1")
    probe = mi_probe.accumulate(tiny, [text], Probe(hooks="resid_post", layers=[1], calibration_tokens=100))
    expected = mi_probe.Binning.fit(rows[:100], bins=8)
    np.testing.assert_array_equal(probe.binnings["resid_post.1"].edges, expected.edges)
    assert probe.counts["resid_post.1"] == mi_probe.JointCounts.from_codes(expected.encode(rows), 8)


def test_reading_does_not_change_what_is_counted_later(tiny: Any) -> None:
    with mi_probe.attach(tiny) as read, mi_probe.attach(tiny) as unread:
        tiny("a first text")
        read.estimate()
        tiny("a second one")
    for key, counts in unread.counts.items():
        assert counts == read.counts[key]


def test_an_array_fed_to_an_attached_probe_does_not_disturb_it(tiny: Any) -> None:
    with mi_probe.attach(tiny) as probe:
        probe.update("extra", np.ones((4, 2)))
        tiny("text")
    assert probe.tokens_seen == probe.streams["hidden_states.0"].n == 4


def test_runs_with_the_same_edges_add_up_to_the_whole(tiny: Any) -> None:
    texts = ["a first text to set the edges on", "a second text", "and a third one"]
    first = mi_probe.accumulate(tiny, texts[0])
    edges = first.binnings
    whole = mi_probe.accumulate(tiny, texts, edges=edges)
    parts = [mi_probe.accumulate(tiny, text, edges=edges) for text in texts]
    total = parts[0]
    for part in parts[1:]:
        total += part
    assert total.tokens_seen == whole.tokens_seen
    assert all(total.counts[key] == counts for key, counts in whole.counts.items())
    with pytest.raises(HookPointError, match=r"'hidden_states\.0': the probe does not measure it"):
        mi_probe.attach(tiny, Probe(layers=[1]), edges=edges)
    some = {key: binning for key, binning in edges.items() if key != "hidden_states.2"}
    with pytest.raises(HookPointError, match=r"'hidden_states\.2': the probe measures it, but it has no edges"):
        mi_probe.attach(tiny, edges=some)
    with pytest.raises(HookPointError, match="one method and one number of bins"):
        mi_probe.attach(tiny, edges=some | {"hidden_states.2": mi_probe.Binning.fit(np.eye(16), bins=7)})


def test_edges_that_were_given_are_kept_and_said(tiny: Any, tmp_path: Any) -> None:
    edges = mi_probe.accumulate(tiny, "a text to set the edges on", Probe(bins=6)).binnings
    probe = mi_probe.attach(tiny, edges=edges)
    probe.detach()
    assert probe.probe.bins == 6
    probe.save(tmp_path / "s.safetensors")
    for state in (probe, ProbeState.load(tmp_path / "s.safetensors")):
        np.testing.assert_array_equal(state.binnings["hidden_states.1"].edges, edges["hidden_states.1"].edges)
    with pytest.raises(MergeError, match="binnings differ"):
        probe += mi_probe.accumulate(tiny, "another text with other edges", Probe(bins=6))


def test_nothing_warns_in_plain_use(tiny: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with mi_probe.attach(tiny) as probe:
            tiny("plain use")
        probe.estimate()
