"""Files that were damaged, at random: an error that says so, or what was saved; never anything else."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_probe
from mi_probe import Edges, MIResult, Probe, ProbeState, store
from mi_probe.errors import MIProbeError, MIProbeWarning, Stopped, StoreError
from mi_probe.info import told
from mi_probe.merging import merge_files

from .test_edges import some_edges
from .test_runs import TEXTS, StopAfter
from .test_state_files import full_state

Random = np.random.Generator
KINDS: dict[str, Any] = {"state": ProbeState, "result": MIResult, "edges": Edges}


# -- damage -----------------------------------------------------------------------------------------------------------


def cut_off(data: bytes, random: Random) -> bytes:
    return data[: random.integers(len(data))]


def flipped_bits(data: bytes, random: Random) -> bytes:
    found = bytearray(data)
    for place in random.integers(len(data), size=int(random.integers(1, 9))):
        found[place] ^= 1 << int(random.integers(8))
    return bytes(found)


def other_bytes(data: bytes, random: Random) -> bytes:
    """A stretch of zeros, of noise, of another place of the file; left out; or put in."""
    start, size = int(random.integers(len(data))), int(random.integers(1, 600))
    from_there = int(random.integers(len(data)))
    size = min(size, len(data) - max(start, from_there))
    stretch = [bytes(size), random.bytes(size), data[from_there : from_there + size], b""][random.integers(4)]
    goes_on = start if random.integers(4) == 0 else start + size
    return data[:start] + stretch + data[goes_on:]


def edited_container(data: bytes, random: Random) -> bytes:
    """Names, types, shapes or places of arrays, the metadata, or the length of the header."""
    entries, rest = parted(data)
    if random.integers(10) == 0:
        wrong = int(random.choice([0, 1, len(data), 2**40, 2**63, len(data) - len(rest) + int(random.integers(-9, 9))]))
        return wrong.to_bytes(8, "little") + data[8:]
    for _ in range(random.integers(1, 3)):
        entries = edited(entries, random)
    return joined(entries, rest)


def edited_header(data: bytes, random: Random) -> bytes:
    """Facts that the header states: tokens, documents, parts, shapes, the schema, the digest."""
    entries, rest = parted(data)
    header = json.loads(entries["__metadata__"]["mi_probe"])
    entries["__metadata__"]["mi_probe"] = json.dumps(edited(header, random))
    return joined(entries, rest)


def swapped_arrays(data: bytes, random: Random) -> bytes:
    """The numbers of two arrays, their names, or their places."""
    entries, rest = parted(data)
    names = [name for name in entries if name != "__metadata__"]
    how = int(random.integers(3))
    if how == 0:
        one, two = random.choice(names, 2, replace=False)
        entries[one], entries[two] = entries[two], entries[one]
        return joined(entries, rest)
    alike: dict[int, list[str]] = {}
    for name in names:
        start, end = entries[name]["data_offsets"]
        alike.setdefault(end - start, []).append(name)
    one, two = random.choice(next(group for size, group in alike.items() if size and len(group) > 1), 2, replace=False)
    if how == 1:
        entries[one]["data_offsets"], entries[two]["data_offsets"] = entries[two]["data_offsets"], entries[one]["data_offsets"]
        return joined(entries, rest)
    (a, b), (c, d) = sorted([entries[one]["data_offsets"], entries[two]["data_offsets"]])
    return joined(entries, rest[:a] + rest[c:d] + rest[b:c] + rest[a:b] + rest[d:])


LIES = 120
DAMAGES = (cut_off, flipped_bits, other_bytes, edited_container, edited_header, swapped_arrays)


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(entries: Any, rest: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + rest


def edited(value: Any, random: Random) -> Any:
    """What JSON can hold, with one change somewhere in it."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if inner and random.integers(6):
        key = inner[random.integers(len(inner))]
        found = dict(value) if isinstance(value, dict) else list(value)
        if random.integers(8) == 0:
            del found[key]
        elif isinstance(found, dict) and random.integers(8) == 0:
            found[f"{key}x"] = found.pop(key)
        else:
            found[key] = edited(value[key], random)
        return found
    near: list[Any] = [value + 1, value - 1, -value] if isinstance(value, int | float) else []
    near += [value[:-1], value * 2] if isinstance(value, str | list) else []
    far: list[Any] = [None, True, 0, -1, 3, 2**31, 2**63, 2**70, 1e308, 0.5, "", "text", "F32", "I64", [], [0], {}, {"a": 1}]
    choices = near if near and random.integers(2) else far
    return choices[random.integers(len(choices))]


# -- what becomes of it -----------------------------------------------------------------------------------------------


def saved(kind: str, path: Path) -> bytes:
    thing: Any = some_edges() if kind == "edges" else full_state()
    (thing.estimate() if kind == "result" else thing).save(path)
    return path.read_bytes()


def read_or_refused(read: Callable[[Path], Any], path: Path) -> Any:
    """What a file gives; None where it was refused, with an error that names it."""
    try:
        return read(path)
    except StoreError as error:
        if str(path) not in str(error):
            raise
        return None


def outcome(kind: str, damaged: bytes, whole: bytes, folder: Path) -> str:
    """``"refused"`` or ``"as it was"``; raises for anything else."""
    path, again = folder / "damaged", folder / "again"
    path.write_bytes(damaged)
    read_or_refused(told, path)
    read_or_refused(store.check, path)
    found = read_or_refused(KINDS[kind].load, path)
    if found is None:
        return "refused"
    found.save(again)
    assert again.read_bytes() == whole
    return "as it was"


def outcomes(kind: str, how_many: int, folder: Path, seed: int = 0) -> Counter[tuple[str, str]]:
    """How often each damage had each outcome; what is wrong is told with what it takes to see it again."""
    whole = saved(kind, folder / "whole")
    found: Counter[tuple[str, str]] = Counter()
    for k in range(how_many):
        random = np.random.default_rng([seed, k])
        damage: Callable[[bytes, Random], bytes] = DAMAGES[k % len(DAMAGES)]
        damaged = damage(whole, random)
        try:
            found[damage.__name__, outcome(kind, damaged, whole, folder)] += 1
        except BaseException as error:
            error.add_note(f"file {k} of a {kind}, {damage.__name__}, seed {seed}")
            raise
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_gives_what_was_saved(kind: str, tmp_path: Path) -> None:
    found = outcomes(kind, 240, tmp_path)
    for damage in DAMAGES:
        assert found[damage.__name__, "refused"] >= 20, damage.__name__


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_files_are_refused_or_give_what_was_saved(kind: str, tmp_path: Path) -> None:
    found = outcomes(kind, 10_000, tmp_path, seed=1)
    print(*(f"{kind}: {damage}: {n} {what}" for (damage, what), n in sorted(found.items())), sep="\n")
    assert sum(found.values()) == 10_000


@pytest.mark.filterwarnings("ignore:the edges do not represent")
def test_a_run_neither_goes_on_from_a_damaged_checkpoint_nor_replaces_it(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    what = Probe(hooks="resid_post", layers=[0], calibration_tokens=200, lags=2)
    with StopAfter(monkeypatch, tiny, 4), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS, what, calibration="head", checkpoint=path)
    whole = path.read_bytes()
    refused = 0
    for k in range(60):
        path.write_bytes(DAMAGES[k % len(DAMAGES)](whole, np.random.default_rng([3, k])))
        if read_or_refused(store.check, path) is not None:
            continue  # some bytes of the container mean nothing
        damaged = path.read_bytes()
        for resume in (True, False):
            with pytest.raises(StoreError, match=str(path)):
                mi_probe.accumulate(tiny, TEXTS, what, calibration="head", checkpoint=path, resume=resume)
        assert path.read_bytes() == damaged
        refused += 1
    assert refused > 40
    path.write_bytes(whole)
    again = mi_probe.accumulate(tiny, TEXTS, what, calibration="head", checkpoint=path, resume=True)
    assert again.counts == mi_probe.accumulate(tiny, TEXTS, what, calibration="head").counts


# -- files that lie and have the digest of their lies -----------------------------------------------------------------


def lied(header: dict[str, Any], arrays: dict[str, Any], random: Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A header or arrays with a change, to be written with a digest that fits."""
    if random.integers(2):
        return edited(header, random), arrays
    found = dict(arrays)
    name, other = (str(n) for n in random.choice(list(arrays), 2, replace=False))
    array = arrays[name]
    changes: list[Callable[[], Any]] = [
        lambda: array + np.ones(1, array.dtype),
        lambda: np.negative(array) if array.dtype.kind != "u" else array[::-1],
        lambda: array[..., :-1],
        lambda: array[:0],
        lambda: array[None],
        lambda: array.astype(np.float32),
        lambda: array.astype(np.uint8),
        lambda: arrays[other],
        lambda: np.zeros_like(array),
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, np.iinfo(np.int64).max),
        lambda: random.permutation(array.reshape(-1)).reshape(array.shape),
    ]
    found[name] = changes[random.integers(len(changes))]()
    if random.integers(8) == 0:
        del found[name]
    return header, found


@pytest.mark.parametrize("kind", KINDS)
def test_a_lie_with_a_digest_that_fits_is_refused_or_read_and_never_a_crash(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path / "whole")
    header, arrays = store.read(tmp_path / "whole", kind, 4)
    path = tmp_path / "lie"
    read = 0
    for k in range(LIES):
        random = np.random.default_rng([2, k])
        facts, parts = lied({key: value for key, value in header.items() if key != "schema"}, arrays, random)
        if not isinstance(facts, dict):
            continue
        try:
            store.write(path, header["schema"], {key: v for key, v in facts.items() if key != "schema"}, parts)
            read_or_refused(told, path)
            found = read_or_refused(KINDS[kind].load, path)
            if found is None:
                continue
            read += 1
            assert str(found)
            assert repr(found)
            found.save(tmp_path / "again")
            if kind == "state":
                with_error_of_ours(lambda found=found: found.estimate(p_values="none"))
                with_error_of_ours(lambda: merge_files([path], tmp_path / "merged", replace=True))
        except BaseException as error:
            error.add_note(f"lie {k} of a {kind}")
            raise
    assert 0 < read < LIES


def with_error_of_ours(call: Callable[[], Any]) -> None:
    with warnings.catch_warnings(), suppress(MIProbeError):
        warnings.simplefilter("ignore", MIProbeWarning)
        call()
