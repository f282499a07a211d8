"""Files of counts: large ones, in pieces, cut short, and what they may never do to the file before them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mi_probe import JointCounts, MIResult, ProbeState, store
from mi_probe.coverage import Part
from mi_probe.errors import InputError, StoreError

from .test_extras import ALL, fed, texts

GOLDEN = Path(__file__).parent / "golden"


def full_state(seed: int = 21) -> ProbeState:
    """Everything that a state can hold; the golden file of state/4 is ``full_state().save(...)``."""
    state = fed(texts(seed, 30, variables=7), trim_z=2.5, dimensions=4, pairs=5, **ALL)
    state.model = {"name": "none", "d_model": 7}
    state.ledger.enter_counted(3, {"padding": 2})
    state.run = {"weights": "c0ffee", "position": {"block": 3}, "totals": {"documents": 30}}
    state.parts = [Part("beef", "books", "as it comes", 2, 4, True), Part("beef", "books", "as it comes", 3, 4, False)]
    state.calibration = {"tokens": 50, "seed": None}
    state.convergence = [{"tokens": 64, "change": 0.25}, {"tokens": 128, "change": 0.125}]
    return state


def same(one: ProbeState, two: ProbeState) -> bool:
    """Whether both would be the same file."""
    (header, arrays), (other, others) = one.to_arrays(), two.to_arrays()
    return (
        json.dumps(header, sort_keys=True) == json.dumps(other, sort_keys=True)
        and arrays.keys() == others.keys()
        and all(a.dtype == others[k].dtype and np.array_equal(a, others[k], equal_nan=True) for k, a in arrays.items())
    )


def almost(state: ProbeState) -> Iterator[ProbeState]:
    """States that differ from one in one thing each."""
    for change in (
        lambda s: s.binnings["a"].sample.setflags(write=True) or np.add.at(s.binnings["a"].sample, (0, 0), 1),
        lambda s: np.add.at(s.counts["a"].tables, (0, 0, 0), 1),
        lambda s: np.add.at(s.streams["a"].counts.lagged, (0, 0, 0, 0), 1),
        lambda s: s.model.update(name="another"),
        lambda s: s.ledger.enter_counted(1, {}),
        lambda s: s.run["position"].update(block=4),
        lambda s: s.parts.pop(),
        lambda s: s.calibration.update(tokens=51),
        lambda s: s.convergence[1].update(change=0.1),
        lambda s: s.left_out.setdefault("a", Counter()).update(padding=1),
    ):
        other = deepcopy(state)
        change(other)
        yield other


def test_the_golden_files_of_the_newest_schemas_hold_what_they_were_made_from() -> None:
    state = full_state()
    back = ProbeState.load(GOLDEN / "state-4.safetensors")
    assert same(back, state)
    assert not any(same(back, other) for other in almost(state))
    kept, again = MIResult.load(GOLDEN / "result-4.safetensors")["a"], state.estimate()["a"]
    assert [what for what in again.columns if what != "correlation"] == list(kept.columns)  # which came after that file
    for what in kept.columns:
        np.testing.assert_allclose(kept.pairs(what), again.pairs(what), rtol=1e-7, atol=1e-12)


def test_other_programs_read_our_files_as_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    path = tmp_path / "f.safetensors"
    arrays: dict[str, Any] = {
        **{kind: np.arange(7).astype(kind) for kind in ("u1", "i1", "<i2", "<i4", "<i8", "<u8", "<f4", "<f8", ">i4")},
        "no rows": np.zeros((0, 3)),
        "one number": np.array(5),
        'é "quoted"': np.arange(6, dtype=np.int32).reshape(2, 3).T,
    }
    store.write(path, "state/1", {"tokens": 3, "of": "é"}, arrays)
    read = load_file(path)
    header, ours = store.read(path, "state", 1)
    assert read.keys() == ours.keys() == arrays.keys()
    for name, array in arrays.items():
        for found in (read[name], ours[name]):
            assert (found.shape, found.dtype) == (array.shape, array.dtype.newbyteorder("="))
            np.testing.assert_array_equal(found, array)
    with safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["mi_probe"])["tokens"] == header["tokens"] == 3
    assert all(tensor.start % tensor.dtype.itemsize == 0 for tensor in store.look(path).tensors.values())


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    for header, arrays, message in (
        ({}, {"x": np.array(["text"])}, "'x' is of <U4"),
        ({}, {"x": np.zeros(3, dtype=complex)}, "'x' is of complex128"),
        ({}, {"__metadata__": np.zeros(3)}, "must not be called"),
        ({"x": {1, 2}}, {}, "not JSON serializable"),
    ):
        with pytest.raises(StoreError, match=message):
            store.write(path, "state/1", header, arrays)
    assert list(tmp_path.iterdir()) == []


# -- arrays in pieces -------------------------------------------------------------------------------------------------


class Rows:
    """An array that comes row by row, each in the memory of the one before."""

    def __init__(self, array: np.ndarray, *, of: Any = None, dtype: Any = None, error: Exception | None = None) -> None:
        self.array, self.error = array, error
        self.dtype, self.shape = np.dtype(dtype or array.dtype), of or array.shape

    def __iter__(self) -> Iterator[np.ndarray]:
        buffer = np.empty_like(self.array[0])
        for row in self.array:
            buffer[:] = row
            yield buffer
            buffer[:] = 0
        if self.error:
            raise self.error


def test_an_array_in_pieces_makes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BLOCK", 1000)
    array = np.random.default_rng(0).integers(0, 9, (50, 7, 13), dtype=np.int32)
    store.write(tmp_path / "one", "state/1", {"a": 1}, {"x": array, "y": np.ones(3)})
    store.write(tmp_path / "two", "state/1", {"a": 1}, {"x": Rows(array), "y": np.ones(3)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    np.testing.assert_array_equal(store.read(tmp_path / "two", "state", 1)[1]["x"], array)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (Rows(np.ones((3, 4)), of=(4, 4)), StoreError, "96 bytes together, not 128"),
        (Rows(np.ones((3, 4)), of=(2, 4)), StoreError, "96 bytes or more together, not 64"),
        (Rows(np.ones((3, 4)), dtype=np.float32), StoreError, "a piece of array 'x' is of float64"),
        (Rows(np.ones((3, 4)), error=ConnectionError("the other machine is gone")), ConnectionError, "the other machine"),
    ],
)
def test_pieces_that_are_not_the_array_leave_the_file_before(tmp_path: Path, rows: Rows, error: Any, message: str) -> None:
    path = tmp_path / "f"
    store.write(path, "state/1", {}, {})
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        store.write(path, "state/1", {}, {"x": rows})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# -- disks that are full, processes that end --------------------------------------------------------------------------


def run(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_file_that_outgrows_the_disk_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "f"
    store.write(path, "state/1", {}, {"x": np.arange(3)})
    before = path.read_bytes()
    code = """
import resource, sys
import numpy as np
from mi_probe import errors, store
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    store.write(sys.argv[1], "state/1", {}, {"x": np.ones(10**6)})
except errors.StoreError as error:
    print(error)
"""
    assert f"cannot write {path}: File too large" in run(code, path).stdout
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be removed there")
def test_what_a_killed_process_left_is_cleared_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    code = """
import sys, time
import numpy as np
from mi_probe import store

class Forever:
    dtype, shape = np.dtype(np.uint8), (10**9,)
    def __iter__(self):
        yield np.ones(10**5, dtype=np.uint8)
        print("half", flush=True)
        time.sleep(600)

store.write(sys.argv[1], "state/1", {}, {"x": Forever()})
"""
    neighbours = [tmp_path / name for name in (".f.safetensors.0123456789abcdef", "f.safetensors.unfinished", ".g.unfinished")]
    for neighbour in neighbours:
        neighbour.write_text("not ours")
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        assert store.clear_unfinished(path) == 0
        assert len(list(tmp_path.iterdir())) == 4
        writer.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 4
    assert store.clear_unfinished(path) >= 10**5
    assert sorted(tmp_path.iterdir()) == sorted(neighbours)
    assert store.clear_unfinished(path) == store.clear_unfinished(tmp_path / "no such folder" / "f") == 0


def test_an_interrupt_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "f"
    store.write(path, "state/1", {}, {})
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        store.write(path, "state/1", {}, {"x": Rows(np.ones((3, 4)), error=KeyboardInterrupt())})  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from Linux")
def test_loading_and_saving_take_little_more_than_the_counts(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from mi_probe import Binning, JointCounts, Probe, ProbeState
from mi_probe.pointcounts import PointCounts
from mi_probe.stream import PointStream

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def state(variables):
    probe = Probe(bins=8, lags=0)
    found = ProbeState(probe)
    for name in "ab":
        codes = np.random.default_rng(0).integers(0, 8, (200, variables), dtype=np.uint8)
        counts = PointCounts(Binning(np.tile(np.arange(7.0), (variables, 1)), "equal_count"), probe.extras)
        counts.joint.update(codes)
        counts.flush()
        found.streams[name] = PointStream.frozen(probe, counts)
    return found

path = sys.argv[1]
state(16).save(path)
ProbeState.load(path)
if sys.argv[2] == "save":
    made = state(512)
    nbytes = sum(counts.tables.nbytes for counts in made.counts.values())
    before = peak()
    made.save(sys.argv[3])
    print((peak() - before) / nbytes)
else:
    before = peak()
    made = ProbeState.load(sys.argv[3])
    print((peak() - before) / sum(counts.tables.nbytes for counts in made.counts.values()))
"""
    saved = float(run(code, tmp_path / "small", "save", tmp_path / "large").stdout)
    loaded = float(run(code, tmp_path / "small", "load", tmp_path / "large").stdout)
    assert saved < 0.2
    assert loaded < 1.25


# -- headers and looks ------------------------------------------------------------------------------------------------


def test_a_look_says_what_is_there_and_reads_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    state = full_state()
    state.save(path)
    found = store.look(path)
    assert (found.kind, found.nbytes) == ("state", path.stat().st_size)
    header, arrays = state.to_arrays()
    assert json.loads(json.dumps(header)) == {k: v for k, v in found.header.items() if k not in ("schema", "writer")}
    assert {name: (t.shape, t.dtype) for name, t in found.tensors.items()} == {n: (a.shape, a.dtype) for n, a in arrays.items()}
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert store.look(path).header == found.header
    with pytest.raises(StoreError, match="altered after it was written"):
        store.check(path)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_every_golden_file_has_the_digest_of_its_content(name: str) -> None:
    assert store.check(GOLDEN / name).header["schema"] == name.removesuffix(".safetensors").replace("-", "/")


def container(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


OURS = {"__metadata__": {"mi_probe": json.dumps({"schema": "state/4"})}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        (2**63).to_bytes(8, "little") + b"{}",
        (10**15).to_bytes(8, "little"),
        container(b"[" * 100_000),
        container(b"{}x"),
        container(b"\xff\xff"),
        container([]),
        container(b'{"__metadata__": {"mi_probe": "{}", "mi_probe": "{}"}}'),
        container({"__metadata__": {"mi_probe": 3}}),
        container({"__metadata__": {"mi_probe": "[" * 100_000}}),
        container({"__metadata__": {"mi_probe": '{"schema": 4}'}}),
        *(
            container({**OURS, "x": entry}, b"12345678")
            for entry in (
                5,
                {"dtype": "F64", "shape": [1]},
                {"dtype": "F64", "shape": [1], "data_offsets": [0, 8], "more": 1},
                {"dtype": "F63", "shape": [1], "data_offsets": [0, 8]},
                {"dtype": ["F64"], "shape": [1], "data_offsets": [0, 8]},
                {"dtype": "F64", "shape": [1.0], "data_offsets": [0, 8]},
                {"dtype": "F64", "shape": [True], "data_offsets": [0, 8]},
                {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]},
                {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 2**83]},
                {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]},
                {"dtype": "F64", "shape": [2**62, 0], "data_offsets": [0, 0]},
                {"dtype": "F64", "shape": [1] * 99, "data_offsets": [0, 8]},
                {"dtype": "F64", "shape": [1], "data_offsets": [8, 16]},
                {"dtype": "F64", "shape": [1], "data_offsets": [0, 8, 8]},
                {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            )
        ),
        container({**OURS, **{k: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for k in "xy"}}, b"12345678"),
    ],
)
def test_a_container_that_lies_is_refused_before_anything_is_taken_for_it(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    for read in (store.look, store.check, ProbeState.load):
        with pytest.raises(StoreError, match="cut off, altered"):
            read(path)


# -- counts that fit --------------------------------------------------------------------------------------------------


def pieces(n: int = 40) -> dict[str, Any]:
    codes = np.random.default_rng(0).integers(0, 3, (n, 4), dtype=np.uint8)
    counts = JointCounts.from_codes(codes, 3)
    return {"n": n, **{what: getattr(counts, what).copy() for what in ("missing", "margins", "tables")}}


def changed(what: str, place: Any, by: int) -> dict[str, Any]:
    found = pieces()
    found[what][place] += by
    return found


@pytest.mark.parametrize(
    "arrays",
    [
        *(changed("tables", (p, 1, 2), by) for p in range(6) for by in (1, -1, -1000, 2**31 - 100)),
        changed("margins", (0, 0), 1),
        changed("missing", 0, 1),
        {**pieces(), "n": 41},
        {**pieces(), "n": 40.0},
        {**pieces(), "n": True},
        {**pieces(), "n": 2**60},
        {**pieces(), "n": "40"},
        {**pieces(), "margins": np.zeros(3, dtype=np.int64)},
        {**pieces(), "tables": pieces()["tables"].astype(np.uint64) + np.uint64(2**63)},
        {**pieces(), "tables": pieces()["tables"] * np.int64(2**61)},
        {**pieces(), "tables": pieces()["tables"].astype(float)},
    ],
)
def test_tables_are_of_exactly_the_samples_that_their_margins_have(arrays: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        JointCounts.from_arrays(**arrays)


def test_one_count_that_moves_within_a_table_is_seen_where_nothing_is_missing() -> None:
    arrays = pieces()
    arrays["tables"][2] += np.array([[1, -1, 0], [0, 0, 0], [0, 0, 0]], dtype=np.int32)
    with pytest.raises(InputError, match="variables 0 and 3"):
        JointCounts.from_arrays(**arrays)


def test_counts_from_arrays_share_them_only_if_told_to() -> None:
    for copy in (True, False):
        arrays = pieces()
        counts = JointCounts.from_arrays(**arrays, copy=copy)
        assert np.shares_memory(counts.tables, arrays["tables"]) != copy
        counts += counts.copy()
        assert counts.n == 80


def test_more_samples_than_32_bits_can_count_have_cells_of_64() -> None:
    arrays = pieces()
    counts = JointCounts.from_arrays(**{key: value * np.int64(2**30) for key, value in arrays.items()})
    assert counts.tables.dtype == np.int64
    assert counts.n == 40 * 2**30
