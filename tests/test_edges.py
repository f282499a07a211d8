"""Edges as a value and as a file; the counts of their sample."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_probe
from mi_probe import Binning, Edges, MIResult, Probe, ProbeState, store
from mi_probe.errors import InputError, MergeError, PointError, StoreError

GOLDEN = Path(__file__).parent / "golden" / "edges-1.safetensors"


def some_edges(seed: int = 0) -> Edges:
    """Of two hook points; `GOLDEN` is ``some_edges().save(...)``."""
    x = np.random.default_rng(seed).integers(-40, 40, (200, 4)) / 8.0
    plain = Binning.fit(x, bins=4)
    chosen = replace(Binning.fit(x[:, :2], bins=4, trim_z=1.5), dimensions=np.array([1, 3]), width=4)
    binnings = {"a": replace(plain, sample=plain.counted(plain.encode(x))), "b": chosen}
    about = {"kind": "sample", "tokens": 200, "documents": 7, "stretches": 5, "seed": 3, "corpus": "some books"}
    return Edges(binnings, about, Probe(bins=4).to_toml(), {"name": "a model", "n_layers": 2})


def a_state() -> ProbeState:
    state = ProbeState(Probe(bins=4, calibration_tokens=50), {"name": "a model"})
    state.update("a", np.random.default_rng(0).standard_normal((80, 3)))
    return state


def test_a_file_gives_back_what_was_saved_and_so_does_a_pickle(tmp_path: Path) -> None:
    edges = some_edges()
    edges.save(tmp_path / "e.safetensors")
    for back in (Edges.load(tmp_path / "e.safetensors"), pickle.loads(pickle.dumps(edges))):
        assert back == edges
        assert (back.about, back.probe, back.model) == (edges.about, edges.probe, edges.model)
        np.testing.assert_array_equal(back["a"].sample, edges["a"].sample)
        assert back["b"].names == ("1", "3")
    assert edges != some_edges(1)
    assert edges != dict(edges)


def test_the_golden_file_still_reads_with_all_it_holds() -> None:
    assert Edges.load(GOLDEN) == some_edges()


def test_edges_never_change() -> None:
    edges = some_edges()
    edges.about["tokens"] = 5
    edges.model["name"] = "another"
    assert edges == some_edges()
    with pytest.raises(ValueError, match="read-only"):
        edges["a"].edges[0, 0] = 1
    assert edges["a"].sample is not None
    with pytest.raises(ValueError, match="read-only"):
        edges["a"].sample[0, 0] = 1
    with pytest.raises(TypeError, match="item assignment"):
        edges["a"] = edges["b"]  # type: ignore[index]


def test_they_say_what_they_are() -> None:
    printed = str(some_edges())
    assert "2 hook points, from a random sample of 200 tokens of 7 documents (some books)" in printed
    assert "2 of 4" in printed
    assert "equal_count, trimmed" in printed
    with pytest.raises(PointError, match=r"no edges of 'c'; there are a, b\."):
        some_edges()["c"]
    assert some_edges().get("c") is None


def test_a_state_file_gives_its_edges(tmp_path: Path) -> None:
    a_state().save(tmp_path / "s.safetensors")
    edges = Edges.load(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(edges["a"].edges, a_state().binnings["a"].edges)
    assert edges["a"].sample is not None
    assert (edges["a"].sample.sum(axis=1) == 50).all()
    assert edges.about == {"kind": "run", "tokens": 50}
    ProbeState(Probe()).save(tmp_path / "none.safetensors")
    with pytest.raises(StoreError, match="holds no edges"):
        Edges.load(tmp_path / "none.safetensors")


def test_what_edges_cannot_be_is_refused() -> None:
    binning = some_edges()["a"]
    with pytest.raises(InputError, match="no edges of any hook point"):
        Edges({})
    with pytest.raises(InputError, match="hook point -> Binning"):
        Edges({"a": 3})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="about of edges must be a table"):
        Edges({"a": binning}, [1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="TOML text"):
        Edges({"a": binning}, probe=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="what JSON can hold"):
        Edges({"a": binning}, {"of": object()})


@pytest.mark.parametrize(
    ("header", "arrays", "message"),
    [
        ({"points": []}, {}, "belong to nothing"),
        ({"points": 3}, {}, "not iterable"),
        ({"about": 3}, {}, "about of edges"),
        ({"model": [1]}, {}, "model of edges"),
        ({"probe": "hoks = 1"}, {}, "not a valid probe"),
        ({}, {"0.other": np.zeros(1)}, "belong to nothing"),
        ({}, {"2.edges": np.zeros((1, 3))}, "belong to nothing"),
        ({}, {"0.sample": np.zeros((4, 4))}, "sample must be counts"),
        ({}, {"0.sample": np.full((4, 4), -1)}, "sample must be counts"),
        ({}, {"0.sample": np.zeros((4, 3), dtype=np.int64)}, "sample must be counts"),
        ({}, {"0.edges": np.full((4, 3), np.nan)}, "ascend"),
        ({"points": [{"name": "a", "method": "by_eye", "width": 4}]}, {}, "'by_eye' is not known"),
        ({"points": [{"name": "a", "method": "equal_count", "width": 4}] * 2}, {}, "its own"),
    ],
)
def test_a_file_with_edges_that_cannot_be_is_refused(
    header: dict[str, Any], arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    facts, parts = some_edges()._contents()
    store.write(tmp_path / "e.safetensors", "edges/1", {**facts, **header}, {**parts, **arrays})
    with pytest.raises(StoreError, match=message):
        Edges.load(tmp_path / "e.safetensors")


def test_a_file_of_another_kind_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    with pytest.raises(StoreError, match="no file"):
        Edges.load(path)
    a_state().estimate().save(path)
    with pytest.raises(StoreError, match="holds a result"):
        Edges.load(path)
    some_edges().save(path)
    with pytest.raises(StoreError, match="holds edges"):
        MIResult.load(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged[: len(damaged) - int(random.integers(0, 2)) * 9])
        try:
            assert Edges.load(path) == some_edges()  # some bytes of the container mean nothing
        except StoreError:
            continue


def test_a_state_keeps_the_sample_of_its_edges_and_it_blocks_no_merge(tmp_path: Path) -> None:
    state = a_state()
    state.save(tmp_path / "s.safetensors")
    back = ProbeState.load(tmp_path / "s.safetensors")
    sample = state.binnings["a"].sample
    assert sample is not None
    np.testing.assert_array_equal(back.binnings["a"].sample, sample)
    without = {"a": replace(state.binnings["a"], sample=None)}
    without["a"].require_same(state.binnings["a"])
    other = a_state()
    other.streams["a"].read().binning = without["a"]
    state += other
    assert state.tokens_seen == 160
    np.testing.assert_array_equal(state.binnings["a"].sample, sample)
    with pytest.raises(MergeError, match="binnings differ"):
        some_edges()["a"].require_same(some_edges(1)["a"])


def test_the_sample_is_counted_without_what_is_in_no_bin() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0], [np.nan], [100.0]])
    fitted = Binning.fit(x, bins=2, trim_z=1.5)
    assert fitted.sample is None
    assert fitted.counted(fitted.encode(x)).tolist() == [[2, 2]]
    with pytest.raises(InputError, match="sample must be counts"):
        replace(fitted, sample=np.array([[1, 2, 3]]))


def test_edges_of_calibration_serve_to_attach(tiny: Any) -> None:
    first = mi_probe.accumulate(tiny, "a text to set the edges on")
    edges = Edges.of(first)
    probe = mi_probe.attach(tiny, edges=edges)
    probe.detach()
    assert probe.binnings.keys() == edges.keys()
    assert probe.binnings["hidden_states.0"].sample is not None
