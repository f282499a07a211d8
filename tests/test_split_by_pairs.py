"""Tables divided among processes: each holds a share of the pairs, and together they count what one process would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_probe
from mi_probe import JointCounts, MIResult, Probe, ProbeState, Ranks, corpus, running, store
from mi_probe.binning import Binning
from mi_probe.errors import InputError, MemoryRefusedError, MergeError, Stopped, StoreError
from mi_probe.extras import Extras
from mi_probe.pointcounts import PointCounts
from mi_probe.shares import Share

from .conftest import make_tiny_gpt2

TEXTS = [f"text {k}: " + "the quick brown fox jumps over the lazy dog, and on; " * (1 + k % 5) for k in range(24)]
WHAT = Probe(calibration_tokens=300, bins=4, trim_z=2.5, lags=2, shards=16, moments=True)
FEW = Probe(calibration_tokens=300, bins=5, dimensions=9, pairs=20, lags=0)
SIZES = (2, 3, 5)
LOCALLY = {"correction": "panzeri_treves", "p_values": "gamma"}

# Bins that do not hold what their edges were fitted for are beside the point here.
pytestmark = pytest.mark.filterwarnings("ignore:the edges do not represent", "ignore:edges are fitted on")


def small() -> None:
    """Many blocks in little text, and rows of convergence in few tokens."""
    corpus._PIECE, corpus._BLOCK, running._FIRST_ROW = 100, 300, 6


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((corpus, "_PIECE"), (corpus, "_BLOCK"), (running, "_FIRST_ROW")):
        monkeypatch.setattr(module, name, getattr(module, name))
    small()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def whole_runs(model: Any, folder: Path, ranks: Ranks | None = None) -> None:
    """Runs whose files must be the same for any number of processes."""
    ranks = ranks or Ranks.alone()
    edges = mi_probe.Edges.load(folder.parent / "edges.safetensors")
    for name, probe, options in (
        ("given", WHAT, {"edges": edges, "max_tokens": 2700}),
        ("sampled", WHAT, {"calibration": "sample" if ranks.size == 1 else "auto", "seed": 3}),
        ("few", FEW, {"calibration": "sample", "batch_size": 3}),
    ):
        saved = folder / f"{name}.state.safetensors"
        state = mi_probe.accumulate(
            model, TEXTS, probe, checkpoint=saved, checkpoint_tokens=700, ranks=ranks, split_by="pairs", **options
        )
        holds_its_share_alone(state, ranks)
        for kind, asked in (("auto", {}), ("other", LOCALLY)):
            result = ranks.estimate(state, **asked)
            assert (result is None) != ranks.first
            if result is not None:
                result.save(folder / f"{name}.{kind}.result.safetensors")
    rest = {"checkpoint": folder / "few_tokens.state.safetensors", "ranks": ranks, "split_by": "tokens"}
    mi_probe.accumulate(model, TEXTS[:3], Probe(calibration_tokens=10**5), **rest)  # edges are never fixed on the way


def holds_its_share_alone(state: ProbeState, ranks: Ranks) -> None:
    assert state.divided == (ranks.size > 1)
    for counts in state.counts.values():
        shapes = ranks.gather(counts.tables.shape)
        assert sum(shape[0] for shape in shapes) == counts.pairs_everywhere
        assert max(shape[0] for shape in shapes) <= counts.pairs_everywhere / ranks.size + counts.variables
        assert counts._tables is not None
        assert counts._tables.shape == shapes[ranks.rank]
        assert ranks.gather(counts.margins.tolist()) == [counts.margins.tolist()] * ranks.size
    assert ranks.gather(state.tokens_seen) == [state.tokens_seen] * ranks.size
    if ranks.size > 1:
        for refused, said in (
            (lambda: state.save("nowhere"), "save all of them with Ranks.save"),
            (state.estimate, "estimate them with Ranks.estimate"),
        ):
            with pytest.raises(InputError, match=said):
                refused()


class StopAfter:
    """A model that asks its own process to stop after so many forward passes, as Ctrl-C would."""

    def __init__(self, model: Any, passes: int) -> None:
        self.left = passes
        self.hooks = model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", self.stop)])

    def stop(self, activation: Any, hook: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def __enter__(self) -> None:
        self.hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)


def go_on(model: Any, folder: Path, split_by: Any, ranks: Ranks, stop: bool) -> None:
    """Go on with the run in this folder, and stop it again if so asked: by a process that is not the first, if there is one."""
    edges = mi_probe.Edges.load(folder.parent / "edges.safetensors")
    arguments = {"edges": edges, "checkpoint": folder / "state.safetensors", "resume": True, "max_tokens": 2700}
    if not stop:
        mi_probe.accumulate(model, TEXTS, WHAT, ranks=ranks, split_by=split_by, **arguments)
        return
    with StopAfter(model, 4 if ranks.rank == ranks.size - 1 else 10**6), pytest.raises(Stopped):
        mi_probe.accumulate(model, TEXTS, WHAT, ranks=ranks, split_by=split_by, **arguments)


def refused(model: Any, folder: Path, ranks: Ranks) -> None:
    """What takes edges beforehand says so on every rank, and a null that no process may draw alone is drawn by none."""
    for texts, options in ((TEXTS, {"calibration": "head"}), (iter(TEXTS), {})):
        with pytest.raises(InputError, match=r"mi-probe calibrate .* --edges"):
            mi_probe.accumulate(model, texts, WHAT, ranks=ranks, split_by="pairs", **options)
    edges = mi_probe.Edges.load(folder / "edges.safetensors")
    state = mi_probe.accumulate(model, TEXTS[:2], WHAT, edges=edges, ranks=ranks, split_by="pairs")
    said = json.loads((folder / "said.json").read_text())
    with pytest.raises(mi_probe.MIProbeError) as error:
        ranks.estimate(state, p_values="permutation")
    assert said in str(error.value)


def rank_runs(folder: str) -> None:
    small()
    here = Path(folder)
    with Ranks.from_environment(timeout=200) as ranks:
        model = mi_probe.load_model(here / "tiny")
        mine = here / f"of_{ranks.size}"
        whole_runs(model, mine, ranks)
        refused(model, here, ranks)
        for name, splits in CHAINS.items():
            go_on(model, here / name, splits[SIZES.index(ranks.size)], ranks, stop=ranks.size < max(SIZES))
        print("all is well")


CHAINS = {"pairs_only": ("pairs", "pairs", "pairs"), "tokens_between": ("pairs", "tokens", "pairs"), "last": ("tokens", "pairs", "tokens")}


def launched(folder: Path, size: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    environment |= {"OMP_NUM_THREADS": "1", "MI_PROBE_TEST": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_split_by_pairs", "rank_runs", str(folder)]
    processes = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, said, strict=True):
        assert (process.returncode, output.splitlines()[-1:]) == (0, ["all is well"]), "\n\n".join(said)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files of one process, and of 2, 3 and 5; and of runs that 2 began, 3 went on with, and 5 ended."""
    folder = tmp_path_factory.mktemp("split")
    make_tiny_gpt2(folder / "tiny")
    before = corpus._PIECE, corpus._BLOCK, running._FIRST_ROW
    small()
    model = mi_probe.load_model(folder / "tiny")
    mi_probe.calibrate(model, TEXTS, WHAT).save(folder / "edges.safetensors")
    for name in ("of_1", *(f"of_{size}" for size in SIZES), *CHAINS):
        (folder / name).mkdir()
    whole_runs(model, folder / "of_1")
    edges = mi_probe.Edges.load(folder / "edges.safetensors")
    with pytest.raises(InputError) as error:
        mi_probe.accumulate(model, TEXTS[:2], WHAT, edges=edges).estimate(p_values="permutation")
    (folder / "said.json").write_text(json.dumps(str(error.value)))
    for size in SIZES:
        launched(folder, size)
    yield folder
    corpus._PIECE, corpus._BLOCK, running._FIRST_ROW = before


@pytest.mark.parametrize("size", SIZES)
def test_files_of_counts_and_estimates_are_those_of_one_process_byte_for_byte(runs: Path, size: int) -> None:
    one, many = files(runs / "of_1"), files(runs / f"of_{size}")
    assert len(one) == 10
    assert one.keys() == many.keys()
    assert [name for name, content in one.items() if content != many[name]] == []
    state = ProbeState.load(runs / f"of_{size}" / "given.state.safetensors")
    assert len(state.convergence) >= 3
    assert state.ledger.tokens["counted"] == state.tokens_seen > 2000


@pytest.mark.parametrize("name", CHAINS)
def test_a_run_is_gone_on_with_by_other_numbers_of_processes_and_other_splits(runs: Path, name: str) -> None:
    whole, parts = (ProbeState.load(folder / file) for folder, file in ((runs / "of_1", "given.state.safetensors"), (runs / name, "state.safetensors")))
    assert [stream.read() for stream in whole.streams.values()] == [stream.read() for stream in parts.streams.values()]
    assert whole.ledger.tokens == parts.ledger.tokens
    assert (whole.run, whole.parts) == (parts.run, parts.parts)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
