"""What a probe has counted: fed by hand, merged."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import Probe
from mi_probe.errors import InputError, MergeError, MIProbeError
from mi_probe.state import ProbeState


def test_an_array_fed_by_hand_gives_what_pairwise_gives() -> None:
    x = np.random.default_rng(0).standard_normal((2, 50, 6))
    x[0, 3, 2] = np.nan
    mask = np.ones((2, 50), bool)
    mask[1, 40:] = False
    state = ProbeState(Probe())
    state.update("anywhere", torch.tensor(x), torch.tensor(mask))
    expected = mi_probe.pairwise(x[mask])
    np.testing.assert_array_equal(state.estimate()["anywhere"].mi, expected.mi)


@pytest.mark.parametrize(
    ("activations", "mask", "message"),
    [
        (np.ones(4), None, "got shape"),
        (np.ones((4, 3)), np.ones(3, bool), "mask of 'p'"),
        (np.ones((4, 3)), np.ones(4) * 0.5, "must hold True and False"),
        (np.ones((4, 5)), None, "3 variables"),
    ],
)
def test_activations_of_the_wrong_shape_are_refused_and_nothing_is_counted(activations: Any, mask: Any, message: str) -> None:
    state = ProbeState(Probe())
    state.update("p", np.ones((10, 3)))
    with pytest.raises(InputError, match=message):
        state.update("p", activations, mask)
    assert state.streams["p"].n == 10


def fed(seed: int, point: str = "p", edges_from: int = 0, probe: Probe | None = None, **model: Any) -> ProbeState:
    """A state with edges fitted on one sample and counts of another."""
    state = ProbeState(probe or Probe(calibration_tokens=50, bins=4), dict(model))
    state.update(point, np.random.default_rng(edges_from).standard_normal((50, 3)))
    state.update(point, np.random.default_rng(seed).standard_normal((70, 3)))
    return state


def test_merged_states_count_what_one_would_have_counted() -> None:
    one, two = fed(1), fed(2)
    expected = one.counts["p"].copy()
    expected += two.counts["p"]
    one.ledger.enter_counted(3, {"padding": 1})
    two.ledger.enter_counted(4, {"padding": 2})
    two.ledger.enter_uncounted("paused", 5)
    one += two
    assert one.counts["p"] == expected
    assert one.tokens_seen == 240
    assert one.ledger.to_dict() == {
        "passes": {"counted": 2, "paused": 1},
        "tokens": {"counted": 7, "in forward passes that were not counted": 5, "padding": 3},
    }


def test_the_empty_state_is_the_identity_and_shares_nothing_with_what_it_took() -> None:
    for other in (fed(1, d_model=3, weights_processed=False), ProbeState(Probe(bins=4))):
        if not other.streams:
            other.update("p", np.random.default_rng(1).standard_normal((20, 3)))  # its calibration is not complete
        before = other.counts["p"].copy()
        empty = ProbeState(other.probe)
        empty += other
        assert empty.model == other.model
        more = np.random.default_rng(5).standard_normal((9, 3))
        empty.update("p", more)
        assert other.counts["p"] == before
        other.update("p", more)
        assert empty.counts["p"] == other.counts["p"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (fed(2, edges_from=9), "at hook point 'p', binnings differ"),
        (fed(2, point="q"), "hook point 'q' is in one state only"),
        (fed(2, weights_processed=True), "weights_processed"),
        (fed(2, d_model=16), "d_model"),
        (fed(2, probe=Probe(skip_first=0, calibration_tokens=50, bins=4)), "skip_first"),
        (fed(2, probe=Probe(skip_special=False, calibration_tokens=50, bins=4)), "skip_special"),
        (fed(2, compatibility_mode=True), "compatibility_mode"),
    ],
)
def test_states_that_measure_different_things_do_not_merge(other: ProbeState, message: str) -> None:
    state = fed(1)
    before = state.counts["p"].copy()
    with pytest.raises(MergeError, match=message):
        state += other
    assert state.counts["p"] == before


def test_an_empty_state_on_the_right_changes_nothing_either() -> None:
    state = fed(1, d_model=3)
    before = state.counts["p"].copy()
    state += ProbeState(Probe())
    assert state.counts["p"] == before


@pytest.mark.parametrize("first", ["p", "both"])
def test_states_of_different_points_do_not_merge_in_either_order(first: str) -> None:
    one, both = fed(1), fed(2)
    both.update("q", np.random.default_rng(3).standard_normal((60, 3)))
    left, right = (one, both) if first == "p" else (both, one)
    with pytest.raises(MergeError, match="hook point 'q' is in one state only"):
        left += right


def test_a_merge_with_counts_that_are_not_whole_changes_nothing() -> None:
    one, two = fed(1), fed(2)
    for state in (one, two):
        state.update("q", np.random.default_rng(0).standard_normal((50, 3)))
    before = one.counts["p"].copy()
    two.counts["q"]._broken = True
    with pytest.raises(MIProbeError, match="interrupted"):
        one += two
    assert one.counts["p"] == before


def test_two_texts_with_the_same_edges_merge_before_their_calibration_is_complete() -> None:
    x = np.random.default_rng(0).standard_normal((30, 3))
    one, two = ProbeState(Probe()), ProbeState(Probe())
    for state in (one, two):
        state.update("p", x)
    expected = one.counts["p"].copy()
    expected += two.counts["p"]
    one += two
    assert one.counts["p"] == expected


def test_the_number_of_samples_of_a_variable_leaves_out_its_missing_ones() -> None:
    x = np.random.default_rng(0).standard_normal((30, 3))
    x[:4, 1] = np.nan
    assert np.diagonal(mi_probe.pairwise(x).n).tolist() == [30, 26, 30]


def test_nested_lists_are_arrays_too() -> None:
    state = ProbeState(Probe())
    state.update("p", [[[1.0, 2.0], [3.0, 4.0]]], [[True, False]])
    assert state.counts["p"].n == 1


# -- update with tokens -----------------------------------------------------------------------------------------------


def test_with_tokens_the_rules_of_the_probe_hold() -> None:
    x = torch.arange(10.0).reshape(2, 5, 1).expand(2, 5, 3).to(torch.bfloat16)
    tokens, mask = torch.tensor([[9, 5, 0, 6, 7], [1, 1, 9, 5, 6]]), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    state = ProbeState(Probe(), special_tokens=[0])
    state.update("p", x, mask, tokens)
    np.testing.assert_array_equal(state.streams["p"].rows()[:, 0], [1, 3, 4, 8, 9])
    point = state.status().points["p"]
    assert (point.counted, point.left_out) == (5, {"padding": 2, "first positions": 2, "special tokens": 1})
    assert "left out: padding" in str(state.status())


def test_a_text_of_one_dimension_is_one_row() -> None:
    state = ProbeState(Probe(skip_first=2, skip_special=False))
    state.update("p", np.arange(12.0).reshape(4, 3), tokens=[5, 6, 7, 8])
    assert state.tokens_seen == 2


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([1, 2], "tokens of 'p'"), ([0.5] * 4, "whole numbers"), ([1, 2, 3, 4], r"special_tokens=tokenizer\.all_special_ids")],
)
def test_tokens_that_do_not_fit_are_refused_and_nothing_is_counted(tokens: Any, message: str) -> None:
    state = ProbeState(Probe())
    with pytest.raises(InputError, match=message):
        state.update("p", np.ones((4, 3)), tokens=tokens)
    assert not state.streams


def test_probes_that_look_at_other_values_do_not_merge() -> None:
    for other in (Probe(bins=4, calibration_tokens=50, when="after"), Probe(bins=4, calibration_tokens=50, visit=0)):
        one, two = fed(1), fed(2, probe=other)
        with pytest.raises(MergeError, match="different tokens or values"):
            one += two


def test_a_mask_of_other_numbers_is_refused_and_one_of_floats_is_taken() -> None:
    state = ProbeState(Probe())
    with pytest.raises(InputError, match="1 and 0"):
        state.update("p", np.ones((3, 2)), mask=[0, 2, 1])
    with pytest.raises(InputError, match="at least one variable"):
        state.update("p", np.ones((3, 0)))
    state.update("p", np.ones((3, 2)), mask=[0.0, 1.0, 1.0])
    assert state.tokens_seen == 2


def test_a_state_can_be_copied_and_pickled() -> None:
    state = fed(1)
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        twin += fed(2)
        assert (twin.tokens_seen, state.tokens_seen) == (240, 120)


def test_the_last_visit_merges_with_the_last_visit() -> None:
    one = fed(1, probe=Probe(bins=4, calibration_tokens=50, visit=-1))
    one += fed(2)
    assert one.tokens_seen == 240


def test_what_was_not_counted_is_added_too() -> None:
    one, empty = fed(1), ProbeState(Probe(bins=4, calibration_tokens=50))
    empty.ledger.enter_uncounted("paused", 5)
    one += empty
    assert one.ledger.to_dict()["passes"] == {"paused": 1}
