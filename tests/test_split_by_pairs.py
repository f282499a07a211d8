"""Tables divided among processes: each holds a share of the pairs, and together they count what one process would."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_probe
from mi_probe import JointCounts, Probe, ProbeState, Ranks, corpus, running, store
from mi_probe.binning import Binning
from mi_probe.errors import InputError, MemoryRefusedError, MergeError, Stopped, StoreError
from mi_probe.extras import Extras
from mi_probe.footprint import Run, footprint
from mi_probe.pointcounts import PointCounts
from mi_probe.shares import Share

from .conftest import make_tiny_gpt2
from .processes import ended, started

TEXTS = [f"text {k}: " + "the quick brown fox jumps over the lazy dog, and on; " * (1 + k % 5) for k in range(24)]
WHAT = Probe(calibration_tokens=300, bins=4, trim_z=2.5, lags=2, shards=16, moments=True)
ON_DEVICE = Probe(bins=4, trim_z=2.5, calibration_tokens=300, lags=2, shards=16)
FEW = Probe(calibration_tokens=300, bins=5, dimensions=9, pairs=20, lags=0)
BETWEEN = Probe(pairs="between", calibration_tokens=300, bins=4, lags=2, moments=True)
OF_TOKENS = Probe(variables="tokens", furthest=9, calibration_tokens=300, layers=[0, 2])
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
        ("between", BETWEEN, {"calibration": "sample", "batch_size": 3}),
        ("device", ON_DEVICE, {"edges": edges, "max_tokens": 900, "count_on": "device"}),
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
    # Edges that the first process fits alone: it has them, and saves, before the others do; or they are not there in the end.
    for name, tokens in (("head", 100), ("rows", 10**5)):
        saved = folder / f"{name}.state.safetensors"
        mi_probe.accumulate(
            model,
            TEXTS[:6],
            Probe(calibration_tokens=tokens),
            checkpoint=saved,
            checkpoint_tokens=1,
            ranks=ranks,
            split_by="tokens",
        )
    # Pairs of tokens, whose tables are never divided.
    saved = folder / "tokens.state.safetensors"
    mi_probe.accumulate(model, TEXTS, OF_TOKENS, checkpoint=saved, checkpoint_tokens=700, ranks=ranks)


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


def rank_dies(folder: str) -> None:
    small()
    here = Path(folder)
    with Ranks.from_environment(timeout=200) as ranks:
        model = mi_probe.load_model(here / "tiny")
        left = 5 if ranks.rank == 1 else 10**6

        def die(activation: Any, hook: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        edges = mi_probe.Edges.load(here / "edges.safetensors")
        arguments = {"edges": edges, "checkpoint": here / "dies.safetensors", "checkpoint_tokens": 1, "max_tokens": 2700}
        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", die)]):
            mi_probe.accumulate(model, TEXTS, WHAT, ranks=ranks, split_by="pairs", **arguments)


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


# How 2, 3 and 5 processes split a run that the first began and the last ended.
CHAINS = {
    "pairs_only": ("pairs", "pairs", "pairs"),
    "tokens_between": ("pairs", "tokens", "pairs"),
    "pairs_between": ("tokens", "pairs", "tokens"),
}


def launched(folder: Path, size: int, what: str = "rank_runs") -> list[tuple[int, str]]:
    """So many processes that each call a function of this file as a rank: how each ended, and what it said."""
    return ended(started("tests.test_split_by_pairs", size, what, folder))


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
        ends = launched(folder, size)
        assert all((code, said.splitlines()[-1:]) == (0, ["all is well"]) for code, said in ends), ends
    yield folder
    corpus._PIECE, corpus._BLOCK, running._FIRST_ROW = before


@pytest.mark.parametrize("size", SIZES)
def test_files_of_counts_and_estimates_are_those_of_one_process_byte_for_byte(runs: Path, size: int) -> None:
    one, many = files(runs / "of_1"), files(runs / f"of_{size}")
    assert len(one) == 18
    assert one.keys() == many.keys()
    assert [name for name, content in one.items() if content != many[name]] == []
    state = ProbeState.load(runs / f"of_{size}" / "given.state.safetensors")
    assert len(state.convergence) >= 3
    assert state.ledger.tokens["counted"] == state.tokens_seen > 2000
    of_tokens = ProbeState.load(runs / f"of_{size}" / "tokens.state.safetensors").estimate_token_pairs()
    assert (of_tokens["pairs"] > 1000).all()


@pytest.mark.parametrize("name", CHAINS)
def test_a_run_is_gone_on_with_by_other_numbers_of_processes_and_other_splits(runs: Path, name: str) -> None:
    whole, parts = map(ProbeState.load, (runs / "of_1" / "given.state.safetensors", runs / name / "state.safetensors"))
    assert [stream.read() for stream in whole.streams.values()] == [stream.read() for stream in parts.streams.values()]
    assert whole.ledger.tokens == parts.ledger.tokens
    assert (whole.run, whole.parts) == (parts.run, parts.parts)
    assert whole.convergence == parts.convergence  # though rows were measured before and after each stop


def test_a_process_that_is_killed_is_named_and_the_run_is_gone_on_with_from_its_checkpoint(runs: Path) -> None:
    (code, said), (killed, _) = launched(runs, 2, "rank_dies")
    assert (code, killed) == (1, -signal.SIGKILL)
    assert re.search(r"RankError: rank 1 of 2 \(.*\) ended: it was killed", said), said
    model = mi_probe.load_model(runs / "tiny")
    edges = mi_probe.Edges.load(runs / "edges.safetensors")
    path = runs / "dies.safetensors"
    assert 0 < ProbeState.load(path).tokens_seen < 2000
    mi_probe.accumulate(model, TEXTS, WHAT, edges=edges, checkpoint=path, resume=True, max_tokens=2700)
    assert path.read_bytes() == (runs / "of_1" / "given.state.safetensors").read_bytes()


# -- one process: what a share is --------------------------------------------------------------------------------------


def some_codes(samples: int = 9000, variables: int = 13, bins: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, bins, (samples, variables), dtype=np.uint8)
    codes[rng.random(codes.shape) < 0.02] = 255
    return codes


@pytest.mark.parametrize("pairs", [None, [[0, 3], [0, 12], [2, 3], [4, 5], [4, 9], [5, 6], [7, 12]]])
@pytest.mark.parametrize("of", [1, 2, 3, 5, 30])
def test_shares_of_the_pairs_follow_each_other_and_make_up_the_whole(of: int, pairs: Any) -> None:
    codes = some_codes()
    whole = JointCounts(13, 5, pairs)
    whole.update(codes)
    shares = [JointCounts(13, 5, pairs, Share(number, of)) for number in range(of)]
    for share in shares:
        share.update(codes[:100])
        share.update(codes[100:])
        assert share.tables.shape[0] == share.pairs == len(share.pair_indices[0])
        np.testing.assert_array_equal(share.margins, whole.margins)
        np.testing.assert_array_equal(share.missing, whole.missing)
        assert share.copy() == share
        arrays = {name: np.array(getattr(share, name)) for name in ("missing", "margins", "tables", "trimmed")}
        assert JointCounts.from_arrays(share.n, **arrays, pairs=pairs, share=share.share) == share
    np.testing.assert_array_equal(np.concatenate([share.tables for share in shares]), whole.tables)
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([share.pair_indices[side] for share in shares]), whole.pair_indices[side])


def test_shares_are_as_equal_as_whole_rows_allow() -> None:
    for variables, of in ((768, 5), (1600, 2), (16384, 7)):
        places = [Share(number, of).places(variables) for number in range(of)]
        pairs = variables * (variables - 1) // 2
        assert (places[0][0], places[-1][1]) == (0, pairs)
        assert all(abs(last - first - pairs / of) <= variables for first, last in places)
        assert Share(0, of).largest(variables) == max(last - first for first, last in places)


def test_counts_of_different_shares_do_not_add_up() -> None:
    one, two = (JointCounts(13, 5, share=Share(number, 2)) for number in (0, 1))
    with pytest.raises(MergeError, match="share 1 of 2 of the pairs have their tables here, against share 2 of 2"):
        one += two
    whole = JointCounts(13, 5)
    with pytest.raises(MergeError, match="all of the pairs have their tables here, against share 2 of 2"):
        whole += two
    assert "share 2 of 2 of the pairs" in repr(two)


def test_pairs_across_documents_cannot_be_divided() -> None:
    binning = Binning.fit(np.random.default_rng(0).standard_normal((100, 4)), bins=3)
    with pytest.raises(InputError, match="by one process only"):
        PointCounts(binning, Extras(swap=True), share=Share(0, 2))


def test_what_is_asked_of_memory_is_asked_for_the_share_alone(runs: Path) -> None:
    model = mi_probe.load_model(runs / "tiny")
    edges = mi_probe.accumulate(model, TEXTS[:4], Probe(bins=16)).binnings
    probe = Probe(bins=16)
    whole, shared = (footprint(probe, dict.fromkeys(edges, 16), Run(pass_tokens=0, rows=0, shares=of)) for of in (1, 4))
    tables = 4 * 16 * 16 * Share(0, 4).largest(16)
    assert shared.points[0].counts == JointCounts.nbytes_for(16, Share(0, 4).largest(16), 16)
    assert shared.while_counting < whole.while_counting - tables
    with pytest.raises(MemoryRefusedError):
        mi_probe.attach(model, probe, edges=edges, memory=shared.while_counting)
    mi_probe.attach(model, probe, edges=edges, memory=shared.while_counting, share=Share(0, 4)).detach()


def test_an_array_of_a_file_is_read_in_part_after_all_of_it_was_checked(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    array = np.arange(60).reshape(20, 3)
    store.write(path, "state/4", {"x": 1}, {"a": array, "b": np.zeros(0)})
    with store.in_parts(path, "state", 4) as parts:
        assert parts.contents.header["x"] == 1
        for first, last in ((0, 20), (0, 0), (5, 6), (19, 20)):
            np.testing.assert_array_equal(parts.read("a", first, last), array[first:last])
        np.testing.assert_array_equal(parts.read("b"), np.zeros(0))
        with pytest.raises(ValueError, match="20 rows; 5 to 21 were asked for"):
            parts.read("a", 5, 21)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="was altered"), store.in_parts(path, "state", 4):
        pass
    with pytest.raises(StoreError, match="a result was asked for"), store.in_parts(path, "result", 4):
        pass


def test_one_process_splits_nothing(runs: Path) -> None:
    model = mi_probe.load_model(runs / "tiny")
    edges = mi_probe.Edges.load(runs / "edges.safetensors")
    one, two = (mi_probe.accumulate(model, TEXTS[:6], WHAT, edges=edges, split_by=by) for by in ("tokens", "pairs"))
    assert [stream.read() for stream in one.streams.values()] == [stream.read() for stream in two.streams.values()]
    with pytest.raises(InputError, match=r"split_by must be one of .*did you mean 'pairs'"):
        mi_probe.accumulate(model, TEXTS, WHAT, split_by="pair")  # type: ignore[arg-type]


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
