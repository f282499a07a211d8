"""Files of states with extras: they come back whole, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mi_probe import MIResult, ProbeState, pairwise, store
from mi_probe.errors import InputError, StoreError

from .test_extras import ALL, counted, fed, texts


def test_everything_comes_back_from_a_file_and_goes_on(tmp_path: Path) -> None:
    parts = texts(11, 30)
    state = fed(parts, trim_z=2.5, **ALL)
    state.save(tmp_path / "s.safetensors")
    back = ProbeState.load(tmp_path / "s.safetensors")
    assert counted(back) == counted(state)
    assert back.probe == state.probe
    back += state
    assert counted(back).joint.n == 2 * counted(state).joint.n
    result = state.estimate()
    result.save(tmp_path / "r.safetensors")
    again = MIResult.load(tmp_path / "r.safetensors")["a"]
    assert again.columns == result["a"].columns
    assert set(again.columns) >= {"se", "shard_se", "swap", "linear", "p", "q"}
    for what in again.columns:
        np.testing.assert_array_equal(again.pairs(what), result["a"].pairs(what))
    assert again.notes == result["a"].notes
    assert again.trimmed is not None
    assert again.trimmed.sum() == counted(state).joint.trimmed.sum() > 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("saved") / "s.safetensors"
    fed(texts(15, 30), trim_z=2.5, **ALL).save(path)
    return store.read(path, "state", 4)


def more(array: np.ndarray) -> np.ndarray:
    return array + 1


CHANGES: dict[str, Any] = {
    "lagged": [more, np.negative, lambda a: a[:1], lambda a: a.astype(np.uint64) + 2**63, lambda a: a * 2**40],
    "shard.0.tables": [more, np.negative, np.zeros_like],
    "shard.3.trimmed": [more],
    "swapped.tables": [np.negative, lambda a: a[:, :2]],
    "moments.n": [more, np.zeros_like, lambda a: a[:2]],
    "moments.squares": [np.negative, np.zeros_like],
    "moments.products": [lambda a: a * 2**40, lambda a: a.astype(np.float64)],
    "limits": [lambda a: a[:, ::-1], lambda a: a[:1]],
    "frame": [np.zeros_like, lambda a: a * np.nan, lambda a: a[:, :1]],
    "trimmed": [lambda a: a + 10**6],
}


@pytest.mark.parametrize(("name", "k"), [(name, k) for name, changes in CHANGES.items() for k in range(len(changes))])
def test_a_file_whose_extras_contradict_each_other_is_refused(saved: Any, tmp_path: Path, name: str, k: int) -> None:
    header, arrays = saved
    rest = {key: value for key, value in header.items() if key not in ("schema", "writer")}
    store.write(tmp_path / "s.safetensors", "state/4", rest, arrays | {f"0.{name}": CHANGES[name][k](arrays[f"0.{name}"])})
    with pytest.raises(StoreError, match="not a usable state"):
        ProbeState.load(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"probe": 3},
        {"probe": "[extras]\nlags = 10000000000000"},
        {"probe": "[extras]\nshards = 100000000"},
        {"probe": "[extras]\nlags = 3"},
        {"ledger": [3]},
        {"model": [1]},
        {"documents": [1]},
        {"points": 5},
        {"points": [{"name": 3}]},
        {"points": [{"name": "a", "method": "foo", "samples": {}}]},
    ],
)
def test_a_state_whose_header_says_something_else_is_refused(saved: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    header, arrays = saved
    rest = {key: value for key, value in header.items() if key not in ("schema", "writer")}
    store.write(tmp_path / "s.safetensors", "state/4", rest | change, arrays)
    with pytest.raises(StoreError, match="not a usable state"):
        ProbeState.load(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    "change", [{"about": None}, {"points": 5}, {"points": [5]}, {"points": [{"name": "a", "variables": 5}]}, {"points": [{}]}]
)
def test_a_result_whose_header_says_something_else_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "r.safetensors"
    MIResult({"a": pairwise(np.eye(6))}).save(path)
    header, arrays = store.read(path, "result", 4)
    rest = {key: value for key, value in header.items() if key not in ("schema", "writer")}
    store.write(path, "result/4", rest | change, arrays)
    with pytest.raises(StoreError):
        MIResult.load(path)
    store.write(path, "result/4", rest, arrays | {"0.companion.p": np.full(15, 7.0)})
    with pytest.raises(StoreError, match="between 0 and 1"):
        MIResult.load(path)
    store.write(path, "result/4", rest, arrays | {"0.companion.mi": np.zeros(15)})
    with pytest.raises(StoreError, match="not known"):
        MIResult.load(path)


def test_a_state_goes_on_numbering_documents_where_it_was_saved(tmp_path: Path) -> None:
    parts = texts(16, 30)
    whole = fed(parts, shards=16)
    half = fed(parts[:11], shards=16)
    half.save(tmp_path / "s.safetensors")
    back = ProbeState.load(tmp_path / "s.safetensors")
    for text in parts[11:]:
        back.update("a", text)
    assert counted(back).shards == counted(whole).shards


def test_an_update_that_is_refused_takes_no_number() -> None:
    state = fed(texts(17, 20), shards=16)
    before = dict(state._documents)
    with pytest.raises(InputError):
        state.update("a", np.zeros((5, 9)))
    assert dict(state._documents) == before
