"""Counts that stay on the activations' device: the same ones, and no hook waits for them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import JointCounts, Probe, ProbeState, ondevice
from mi_probe.errors import InputError, MemoryRefusedError, MIProbeError
from mi_probe.hooks import attached as hooks
from tests.test_onehot import Waits

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.backends.mps.is_available() else [])]
PROBES = {
    "plain": Probe(bins=4, calibration_tokens=30),
    "bins by themselves": Probe(calibration_tokens=30),
    "everything": Probe(bins=5, calibration_tokens=30, lags=3, shards=16, swap=True, moments=True, trim_z=2.0),
    "documents": Probe(bins=3, calibration_tokens=30, lags=2, shards=16, swap=True),
    "random dimensions": Probe(bins=4, calibration_tokens=30, dimensions=9, chosen_by="random", sample_every=2),
    "dimensions by variance": Probe(bins=4, calibration_tokens=30, dimensions=9),
    "listed pairs": Probe(bins=4, calibration_tokens=30, pairs=20),
    "still calibrating": Probe(bins=4, calibration_tokens=10_000),
}


def counted(model: Any, probe: Probe, count_on: Any, passes: int = 4) -> mi_probe.AttachedProbe:
    generator = torch.Generator().manual_seed(0)
    with mi_probe.attach(model, probe, count_on=count_on) as attached, torch.inference_mode():
        for number in range(passes):
            attached.documents = [2 * number, 2 * number + 1]
            model(torch.randint(1, 90, (2, 12), generator=generator).to(model.cfg.device))
    return attached


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PROBES)
def test_counts_on_the_device_are_those_of_the_cpu_kernels(tiny: Any, name: str, device: str) -> None:
    tiny.to(device)  # for both: another device's forward pass gives other last digits
    try:
        here, there = (counted(tiny, PROBES[name], count_on) for count_on in ("cpu", "device"))
    finally:
        tiny.to("cpu")
    assert there.tokens_seen == here.tokens_seen > 30
    assert there.ledger.to_dict() == here.ledger.to_dict()
    for key, stream in here.streams.items():
        assert there.streams[key].read() == stream.read()
    assert there.estimate()["hidden_states.1"].mi == pytest.approx(here.estimate()["hidden_states.1"].mi, nan_ok=True)


def test_counts_go_on_when_some_were_read_saved_merged_or_fed_from_elsewhere(tiny: Any, tmp_path: Any) -> None:
    probe = PROBES["documents"]
    here, there = counted(tiny, probe, "cpu"), counted(tiny, probe, "device")
    for attached, path in ((here, tmp_path / "here"), (there, tmp_path / "there")):
        attached.reattach()
        attached.documents = None
        with attached:
            tiny(torch.arange(1, 13)[None])
            attached.estimate()
            tiny(torch.arange(5, 17)[None])
            attached.save(path)
            attached.update("hidden_states.1", np.random.default_rng(0).standard_normal((40, tiny.cfg.d_model)))
            attached.count_on = "auto"
            tiny(torch.arange(7, 19)[None])
    for key, stream in here.streams.items():
        assert there.streams[key].read() == stream.read()
    one, two = (ProbeState.load(tmp_path / name) for name in ("here", "there"))
    assert one.streams["hidden_states.0"].read() == two.streams["hidden_states.0"].read()
    two += one
    assert two.tokens_seen == 2 * one.tokens_seen


@pytest.mark.parametrize("name", ["plain", "documents", "random dimensions"])
def test_no_hook_waits_for_the_device_once_there_are_edges(tiny: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = PROBES[name]
    edges = counted(tiny, probe, "cpu").binnings
    take = hooks.AttachedProbe.take
    fired = []

    def watched(self: Any, key: str, activation: torch.Tensor) -> None:
        with Waits() as waits:
            take(self, key, activation)
        assert not waits.found
        fired.append(key)

    monkeypatch.setattr(hooks.AttachedProbe, "take", watched)
    with mi_probe.attach(tiny, probe, edges=edges, count_on="device") as attached, torch.inference_mode():
        for start in range(1, 4):
            tiny(torch.arange(start, start + 12)[None])
    assert len(fired) == 3 * len(edges)
    assert attached.tokens_seen > 0


def test_a_generation_is_counted_on_the_device_as_on_the_cpu(tiny: Any) -> None:
    states = []
    for count_on in ("cpu", "device"):
        with mi_probe.attach(tiny, Probe(bins=3, lags=2, calibration_tokens=10), count_on=count_on) as attached:
            for start in (1, 3):
                tiny.generate(torch.arange(start, start + 10)[None], max_new_tokens=6, do_sample=False, verbose=False)
        states.append(attached)
    here, there = states
    assert here.tokens_seen == there.tokens_seen > 15
    assert all(there.streams[key].read() == here.streams[key].read() for key in here.streams)


def test_a_device_without_room_is_refused_before_anything_is_counted(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_probe.footprint.free_memory_of", lambda device: 1000)
    with mi_probe.attach(tiny, Probe(bins=4, calibration_tokens=20), count_on="device") as attached:
        with pytest.raises(MemoryRefusedError, match=r"takes .* on cpu, and 1.00 kB are free there.*count_on='cpu'"):
            tiny((torch.arange(28) % 25 + 1)[None])
        attached.count_on = "cpu"
        tiny((torch.arange(28) % 25 + 1)[None])
    assert attached.tokens_seen == 27


def test_a_place_to_count_that_is_not_known_is_named(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"count_on must be one of .* got 'gpu'"):
        mi_probe.attach(tiny, count_on="gpu")  # type: ignore[arg-type]


def on_device(samples: int = 300) -> JointCounts:
    counts = JointCounts(5, 4)
    counts.update_on_device(torch.randint(0, 4, (samples, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    return counts


def test_an_interrupted_reading_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, expected = on_device(), on_device().tables
    copied = ondevice._on_host

    def interrupted(tensor: torch.Tensor) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ondevice, "_on_host", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _ = counts.margins
    monkeypatch.setattr(ondevice, "_on_host", copied)
    np.testing.assert_array_equal(counts.tables, expected)
    assert counts.n == 300


def test_copies_and_pickles_have_what_was_counted_on_a_device_and_no_tensor_of_it() -> None:
    for again in (copy.deepcopy(on_device()), pickle.loads(pickle.dumps(on_device())), on_device().copy()):
        assert again == on_device()
        assert again._device is None


def test_memory_of_the_device_is_given_back_when_the_probe_is_taken_off(tiny: Any) -> None:
    with mi_probe.attach(tiny, PROBES["documents"], count_on="device") as attached:
        for start in range(1, 5):
            tiny(torch.arange(start, start + 12)[None])
        held = [part for stream in attached.streams.values() for part in stream.read()._parts().values()]
        assert any(part._device is not None for part in held)
    assert all(part._device is None for part in held)
    assert sum(part.n for part in held) > 0


def test_a_copy_of_a_torn_probe_is_torn(tiny: Any) -> None:
    attached = counted(tiny, PROBES["plain"], "cpu")
    attached._torn = True
    with pytest.raises(MIProbeError, match="interrupted"):
        copy.deepcopy(attached).estimate()
