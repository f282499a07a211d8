"""A probe is a value; its mistakes are reported all at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_probe import Probe, load_probe, rooms
from mi_probe.errors import ProbeError, RoomError


@given(
    st.builds(
        Probe,
        hooks=st.one_of(st.sampled_from(["hidden_states", "blocks.*.hook_z"]), st.lists(st.text(min_size=1), min_size=1)),
        layers=st.one_of(st.none(), st.lists(st.integers(-20, 20), min_size=1)),
        skip_first=st.integers(0, 5),
        skip_special=st.booleans(),
        method=st.sampled_from(["equal_count", "equal_width"]),
        bins=st.one_of(st.just("auto"), st.integers(2, 64)),
        calibration_tokens=st.integers(2, 10**6),
        about=st.text(),
    )
)
def test_a_probe_round_trips_through_toml(probe: Probe) -> None:
    assert Probe.from_toml(probe.to_toml()) == probe


@pytest.mark.parametrize("name", rooms.names("probes"))
def test_every_ready_made_probe_loads_and_says_what_it_is_for(name: str) -> None:
    assert load_probe(name).about


def test_all_mistakes_are_reported_at_once_with_the_nearest_key() -> None:
    text = (
        'hook = "resid_post"\nlayers = ["first"]\n[tokens]\nskip_frist = 2\n[binning]\nbins = 1\nmethod = "equal_with"\n[extra]\n'
    )
    with pytest.raises(ProbeError) as caught:
        Probe.from_toml(text)
    message = str(caught.value)
    for part in ("'hook'", "'hooks'", "layers", "skip_first", "bins must", "'equal_width'", "'extra'"):
        assert part in message, message
    assert message.count("\n") == 6


def test_a_probe_cannot_be_changed_and_equal_ones_hash_alike() -> None:
    probe = Probe(layers=[1, 2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        probe.bins = 4
    assert hash(probe) == hash(Probe(layers=(1, 2)))


def test_a_key_under_the_wrong_heading_is_told_where_it_belongs() -> None:
    with pytest.raises(ProbeError, match=r"'bins' is not known; it belongs under \[binning\]"):
        Probe.from_toml("bins = 8")
    with pytest.raises(RoomError, match="Probe\\(hooks='resid_post'\\)"):
        load_probe("resid_post")


def test_text_that_is_not_toml_is_refused() -> None:
    with pytest.raises(ProbeError, match="is not TOML"):
        Probe.from_toml("hooks = ")


def test_a_probe_is_found_by_name_or_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('hooks = "mlp_out"\n')
    assert load_probe(path).hooks == "mlp_out"
    with pytest.raises(RoomError, match="did you mean 'dimension_pairs'"):
        load_probe("dimension_pair")
    with pytest.raises(RoomError, match="there is no file"):
        load_probe(tmp_path / "none.toml")
