"""Files that become one, and what a file says of itself."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_probe
from mi_probe import Edges, Probe, ProbeState, cli, corpus, store
from mi_probe.coverage import Part
from mi_probe.errors import InputError, MergeError, MIProbeError, MIProbeWarning, OverlapError, Stopped, StoreError
from mi_probe.info import told
from mi_probe.merging import merge_files

from .test_runs import TEXTS, StopAfter, same

WHAT = Probe(hooks="resid_post", calibration_tokens=200, lags=2, shards=16, moments=True, about="for these tests")


class Files:
    """What a job array leaves: shards 1 to 3 of 3, and what one run counts."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder = folder
        self.edges = Edges.of(mi_probe.accumulate(model, TEXTS, WHAT, calibration="sample"))
        self.shards = [folder / f"shard-{k}.safetensors" for k in (1, 2, 3)]
        for k, path in enumerate(self.shards, start=1):
            mi_probe.accumulate(model, TEXTS, WHAT, edges=self.edges, shard=(k, 3), checkpoint=path)
        self.whole = folder / "whole.safetensors"
        mi_probe.accumulate(model, TEXTS, WHAT, edges=self.edges, checkpoint=self.whole)


@pytest.fixture(scope="module")
def small() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_PIECE", 100)
        patch.setattr(corpus, "_BLOCK", 300)
        yield patch


@pytest.fixture(scope="module")
def files(tiny: Any, small: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"), tiny)


def altered(path: Path, out: Path, **changes: Any) -> Path:
    """A copy whose state was changed."""
    state = ProbeState.load(path)
    for name, value in changes.items():
        setattr(state, name, value)
    state.save(out)
    return out


# -- merging ----------------------------------------------------------------------------------------------------------


def test_shards_merge_in_any_order_to_what_one_run_counts_bit_for_bit(files: Files, tmp_path: Path) -> None:
    whole = ProbeState.load(files.whole)
    written = set()
    for k, order in enumerate(itertools.permutations(files.shards)):
        out = tmp_path / f"all-{k}"
        merge_files(order, out)
        total = ProbeState.load(out)
        assert same(total, whole)
        assert total.run["totals"] == whole.run["totals"] == {"documents": 30}
        assert [str(part) for part in total.parts] == [f"shard {k} of 3 of 30 texts (as it comes)" for k in (1, 2, 3)]
        assert total.calibration == files.edges.about
        written.add(out.read_bytes())
    assert len(written) == 1
    with pytest.warns(MIProbeWarning, match="first lacks shards 2, 3 of 3"):
        assert same(merge_files(files.shards[:1], tmp_path / "first"), ProbeState.load(files.shards[0]))


def test_a_sum_of_sums_is_the_sum_and_may_replace_one_of_its_files(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "all"
    with pytest.warns(MIProbeWarning, match=r"all lacks shard 2 of 3 of 30 texts"):
        merge_files([files.shards[2], files.shards[0]], out)
    with pytest.raises(StoreError, match="is there already"):
        merge_files([files.shards[1], out], out)
    merge_files([files.shards[1], out], out, replace=True)
    assert same(ProbeState.load(out), ProbeState.load(files.whole))
    with pytest.raises(OverlapError, match="counted twice"):
        merge_files([files.shards[1], out], out, replace=True)
    assert same(ProbeState.load(out), ProbeState.load(files.whole))
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("documents", "words"), [(1, "1 document"), (2, "2 documents")])
def test_merge_says_what_each_file_and_the_sum_hold(documents: int, words: str, tmp_path: Path) -> None:
    state = ProbeState(Probe(bins=3))
    state.update("x", np.arange(40.0).reshape(20, 2))
    state.run = {"totals": {"documents": documents}}
    state.save(tmp_path / "a")
    said: list[str] = []
    merge_files([tmp_path / "a"], tmp_path / "all", say=said.append)
    assert said == [f"  {tmp_path / 'a'}: 20 tokens, {words}", f"merged 1 file into {tmp_path / 'all'}: 20 tokens, {words}"]


def bad_files(files: Files, folder: Path) -> dict[str, tuple[list[Path], type[MIProbeError], str]]:
    """By name: files that may not be merged, the error, and what it says."""
    first, second, _ = files.shards
    state = ProbeState.load(second)
    copied, linked = folder / "copied", folder / "linked"
    copied.write_bytes(first.read_bytes())
    linked.symlink_to(first)
    other = folder / "other edges"
    moved = ProbeState.load(second)
    for stream in moved.streams.values():
        stream.read().binning = replace(stream.read().binning, edges=stream.read().binning.edges + 1.0)
    moved.save(other)
    result, edges, foreign, text, damaged = (folder / name for name in ("result", "edges", "foreign", "text", "damaged"))
    state.estimate(p_values="none").save(result)
    files.edges.save(edges)
    store.write(foreign, "recipe/1", {}, {})
    text.write_text("not a file of ours")
    data = bytearray(second.read_bytes())
    data[-3] ^= 4
    damaged.write_bytes(data)
    half = [Part(state.parts[0].source, "texts", "as it comes", 1, 6, True)]
    mixed = [replace(state.parts[0], order="shuffled, seed 1")]
    fewer = ProbeState.load(second)
    fewer.streams.popitem()
    fewer.save(folder / "fewer")
    return {
        "the same shard twice": ([first, second, first], OverlapError, "are the same file"),
        "the same shard by another name": ([first, linked], OverlapError, "are the same file"),
        "a copy": ([first, copied], OverlapError, "hold exactly the same"),
        "the whole and a shard": ([files.whole, second], OverlapError, "holds all of 30 texts"),
        "shards of other sizes": ([first, altered(second, folder / "6", parts=half)], OverlapError, "shard 1 of 6 of texts"),
        "shards of another order": ([first, altered(second, folder / "m", parts=mixed)], OverlapError, "shuffled, seed 1"),
        "another model": (
            [first, altered(second, folder / "d", model={**state.model, "d_model": 9})],
            MergeError,
            "d_model is 9 in the one, and 16 in the other",
        ),
        "other weights": (
            [first, altered(second, folder / "w", run={**state.run, "weights": "ab"})],
            MergeError,
            "fingerprint of its weights is ab in",
        ),
        "other tokens": (
            [first, altered(second, folder / "p", probe=replace(WHAT, skip_first=0))],
            MergeError,
            "skip_first is 1 against 0",
        ),
        "other hook points": ([first, folder / "fewer"], MergeError, "the list of hook points is resid_post.0, resid_post.1 in"),
        "other edges": ([first, other], MergeError, "binnings differ"),
        "a result": ([first, result], StoreError, "holds a result"),
        "edges": ([first, edges], StoreError, "holds edges"),
        "another kind of file": ([first, foreign], StoreError, "holds a recipe"),
        "a text": ([first, text], StoreError, "not a file of mi_probe"),
        "a damaged file": ([first, damaged], StoreError, "altered after it was written"),
        "a file that is not there": ([first, folder / "none"], StoreError, "there is no file"),
        "a folder": ([first, folder], StoreError, "is a folder"),
        "nothing": ([], InputError, "no file to merge"),
    }


def test_what_does_not_add_up_is_refused_by_name_and_leaves_no_file(files: Files, tmp_path: Path) -> None:
    folder, into = tmp_path / "bad", tmp_path / "into"
    folder.mkdir()
    into.mkdir()
    for what, (paths, error, said) in bad_files(files, folder).items():
        with pytest.raises(error, match=said) as caught:
            merge_files(paths, into / "all")
        assert type(caught.value) is error, what
        assert not paths or str(paths[-1]) in str(caught.value), what
        assert list(into.iterdir()) == [], what


def test_what_headers_tell_is_said_before_any_file_is_read(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = bad_files(files, tmp_path)
    monkeypatch.setattr(ProbeState, "load", lambda path: pytest.fail(f"{path} is read"))
    for what in ("a copy", "the whole and a shard", "another model", "other weights", "other hook points", "a result", "a text"):
        paths, error, said = bad[what]
        with pytest.raises(error, match=said):
            merge_files(paths, tmp_path / "all")


def test_a_folder_that_is_not_there_is_said_before_anything_is_read(files: Files, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        merge_files(files.shards, tmp_path / "none" / "all")


def test_what_is_not_finished_is_added_with_a_warning(tiny: Any, files: Files, small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "stopped"
    with StopAfter(small, tiny, 4), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS, WHAT, edges=files.edges, shard=(2, 3), checkpoint=path)
    with pytest.warns(MIProbeWarning, match=r"^30 texts, as it comes: shard 2 of 3, not finished\. What"):
        total = merge_files([files.shards[0], path, files.shards[2]], tmp_path / "all")
    assert "position" not in total.run
    assert ProbeState.load(path).tokens_seen < ProbeState.load(files.shards[1]).tokens_seen


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from Linux")
def test_merging_holds_two_states_at_most(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from mi_probe import Binning, Probe, ProbeState
from mi_probe.coverage import Part
from mi_probe.merging import merge_files
from mi_probe.pointcounts import PointCounts
from mi_probe.stream import PointStream

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def save(path, shard, variables):
    probe = Probe(bins=8, lags=0)
    state = ProbeState(probe)
    state.parts = [Part("beef", "books", "as it comes", shard, 5, True)]
    for name in "ab":
        counts = PointCounts(Binning(np.tile(np.arange(7.0), (variables, 1)), "equal_count"), probe.extras)
        counts.joint.update(np.random.default_rng(shard).integers(0, 8, (200, variables), dtype=np.uint8))
        state.streams[name] = PointStream.frozen(probe, counts)
    state.save(path)
    return state

folder = Path(sys.argv[1])
if sys.argv[2] == "make":
    for shard in range(1, 6):
        save(folder / f"{shard}", shard, 512)
        save(folder / f"small-{shard}", shard, 16)
else:
    merge_files(sorted(folder.glob("small-*")), folder / "small")
    before = peak()
    total = merge_files([folder / f"{shard}" for shard in range(1, 6)], folder / "all")
    print((peak() - before) / sum(counts.tables.nbytes for counts in total.counts.values()), total.tokens_seen)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run([*command, "make"], check=True)
    states, tokens = subprocess.run([*command, "merge"], capture_output=True, text=True, check=True).stdout.split()
    assert int(tokens) == 1000
    assert float(states) < 2.4


# -- info -------------------------------------------------------------------------------------------------------------


def rows(printed: str) -> dict[str, str]:
    """What stands beside each name before the tables."""
    lines = printed.split("\n\n")[0].splitlines()[1:]
    return {line[2:14].strip(): line[14:].strip() for line in lines}


def test_a_state_says_what_it_counted(files: Files) -> None:
    printed = told(files.shards[1])
    state = ProbeState.load(files.shards[1])
    assert printed.startswith(f"{files.shards[1]}: a state, the counts of a probe (state/4, mi_probe {mi_probe.__version__}), ")
    said = rows(printed)
    assert said["probe"] == "for these tests"
    assert said["asked for"].startswith("hooks resid_post, ")
    assert "moments yes" in said["asked for"]
    assert said["model"].startswith(f"{state.model['name']}, 3 layers, width 16")
    assert said["tokens"].startswith(f"{state.tokens_seen:,} counted in ")
    assert said["tokens"].endswith(" first positions")
    assert said["documents"] == str(state.run["totals"]["documents"])
    assert said["corpus"] == "30 texts, as it comes: shard 2 of 3"
    assert said["not here"] == "shards 1, 3 of 3 of 30 texts (as it comes)"
    assert said["edges"] == f"from a random sample of 200 tokens of {state.calibration['documents']} documents (30 texts), seed 0"
    assert f"weights {state.run['weights']}" in said["run"]
    table = printed.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["hook", "point", "dimensions", "pairs", "bins", "method", "samples", "beside", "bytes"]
    assert table[1].split()[:4] == ["resid_post.0", "16", "120", "8"]
    assert "2 lags, 16 shards, moments" in table[1]
    assert len(table) == 4
    assert "not here" not in rows(told(files.whole))
    assert rows(told(files.whole))["corpus"] == "30 texts, as it comes: the whole"


def test_a_checkpoint_says_how_far_it_is(tiny: Any, files: Files, small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "c"
    with StopAfter(small, tiny, 20), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS, WHAT, edges=files.edges, max_tokens=10**6, checkpoint=path)
    printed = told(path)
    assert "a checkpoint, the counts of a run that is not over" in printed
    position = ProbeState.load(path).run["position"]
    said = rows(printed)
    assert said["goes on"].startswith(f"with --resume, after {position['tokens']:,} of 1,000,000 tokens of the text")
    assert said["corpus"].endswith("its first 1,000,000 tokens: not finished")


def test_results_and_edges_say_what_they_are(files: Files, tmp_path: Path) -> None:
    ProbeState.load(files.whole).estimate(p_values="none").save(tmp_path / "r")
    printed = told(tmp_path / "r")
    assert "r: a result, the estimates of a probe (result/4" in printed
    assert printed.splitlines()[-1].split()[:6] == ["resid_post.2", "16", "120", "8", "equal_count", "adjusted"]
    files.edges.save(tmp_path / "e")
    printed = told(tmp_path / "e")
    assert "e: edges of bins, for runs to come (edges/1" in printed
    assert rows(printed)["edges"].startswith("from a random sample of 200 tokens")
    assert printed.splitlines()[-1].split()[:4] == ["resid_post.2", "16", "8", "equal_count"]


OF_TOKENS = Probe(hooks="resid_post", variables="tokens", furthest=20, bins=4, calibration_tokens=200)


def test_what_counts_pairs_of_tokens_says_so_and_not_what_is_of_dimensions(
    tiny: Any, small: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = mi_probe.accumulate(tiny, TEXTS, OF_TOKENS, calibration="sample", checkpoint=tmp_path / "s")
    Edges.of(state).save(tmp_path / "e")
    with StopAfter(small, tiny, 20), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS, OF_TOKENS, edges=Edges.load(tmp_path / "e"), checkpoint=tmp_path / "c")
    for name, samples in (("s", state.tokens_seen), ("c", ProbeState.load(tmp_path / "c").tokens_seen)):
        head, first, *_, last = told(tmp_path / name).split("\n\n")[-1].splitlines()
        assert re.split("  +", head.strip()) == ["hook point", "dimensions", "bins", "method", "samples", "beside", "bytes"]
        assert re.split("  +", first.strip())[:5] == ["resid_post.0", "16", "4", "equal_count", f"{samples:,}"]
        assert "pairs of tokens by 18 keys, 16 shards" in last
    assert "a checkpoint" in told(tmp_path / "c")
    edges = told(tmp_path / "e").splitlines()[-1]
    assert "tokens to compare with: 128" in edges
    for name in "sce":
        asked = rows(told(tmp_path / name))["asked for"]
        assert asked.endswith("bins 4, calibration tokens 200, by distance, furthest 20"), asked
        for word in ("lags", "chosen", "method", "seed", "labels", "pairs"):
            assert word not in asked, word
    labelled = replace(OF_TOKENS, by="label", labels=("a", "b"), dimensions=8, chosen_by="random", seed=3)
    ProbeState(labelled).save(tmp_path / "l")
    asked = rows(told(tmp_path / "l"))["asked for"]
    for part in ("dimensions 8, chosen by random, seed 3", 'by label, furthest 20, labels ["a", "b"]'):
        assert part in asked


def test_convergence_of_pairs_of_tokens_is_over_their_kinds(tiny: Any, tmp_path: Path) -> None:
    state = ProbeState(OF_TOKENS)
    state.convergence = [{"tokens": 8192, "text_tokens": 8192, "points": {"p": {"mi": 0.25, "high": 1.0, "se": 0.1}}}]
    state.save(tmp_path / "s")
    assert "convergence: mean MI over kinds of pairs of tokens, in nats" in told(tmp_path / "s")


def test_convergence_is_told_for_all_hook_points_or_the_first_and_the_last() -> None:
    def table(points: int, tmp: Path) -> list[list[str]]:
        state = ProbeState(Probe(bins=3, lags=0))
        state.convergence = [
            {"tokens": n, "text_tokens": n, "points": {f"p.{k}": {"mi": k + m, "high": 1.0, "se": 0.1} for k in range(points)}}
            for n, m in ((8192, 0.25), (16384, 0.2375))
        ]
        state.save(tmp)
        block = next(part for part in told(tmp).split("\n\n") if "convergence" in part)
        return [line.split() for line in block.splitlines()[1:]]

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        assert table(2, path) == [
            ["tokens", "p.0", "change", "p.1", "change"],
            ["8,192", "0.2500", "-", "1.2500", "-"],
            ["16,384", "0.2375", "-0.0125", "1.2375", "-0.0125"],
        ]
        assert table(13, path)[0] == ["tokens", "p.0", "change", "p.12", "change"]


def test_info_checks_a_file_only_when_asked_to_and_tells_the_others(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(files.whole.read_bytes())
    data[-3] ^= 4
    (tmp_path / "damaged").write_bytes(data)
    names = [str(files.shards[0]), str(tmp_path / "damaged"), str(files.shards[2])]
    cli.app(["info", *names], result_action="return_value", exit_on_error=False)
    assert "digest" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.app(["info", *names, "--check"], result_action="return_value", exit_on_error=False)
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert printed.out.count("fits: the file is as it was written") == 2
    assert (
        printed.err == f"error: {tmp_path / 'damaged'} was altered after it was written: its digest does not fit its content.\n"
    )


def test_what_is_no_file_of_ours_is_said_to_be_none(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3)}, tmp_path / "foreign")
    (tmp_path / "text").write_text("hello")
    store.write(tmp_path / "newer", "atlas/1", {"points": []}, {})
    store.write(tmp_path / "wrong", "state/4", {"points": 5, "probe": "", "model": {}}, {})
    for name, said in (
        ("foreign", "was not written by mi_probe"),
        ("text", "not a file of mi_probe"),
        ("newer", "says that it is 'atlas'"),
        ("wrong", "makes no sense"),
        ("none", "there is no file"),
        ("", "is a folder"),
    ):
        with pytest.raises(StoreError, match=said):
            told(tmp_path / name)


@pytest.mark.parametrize("name", sorted(path.name for path in (Path(__file__).parent / "golden").iterdir()))
def test_files_of_every_schema_say_what_they_are(name: str) -> None:
    printed = told(Path(__file__).parent / "golden" / name, check=True)
    assert f"({name.removesuffix('.safetensors').replace('-', '/')}, mi_probe" in printed
    assert printed.splitlines()[-1].split()[0] in ("a", "b", "p", "layer", "x")


def test_merge_and_info_on_the_command_line(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "all.safetensors"
    cli.app(["merge", *map(str, files.shards), "-o", str(out)], result_action="return_value", exit_on_error=False)
    lines = capsys.readouterr().out.splitlines()
    tokens = ProbeState.load(files.whole).tokens_seen
    assert len(lines) == 4
    assert lines[0].startswith(f"  {files.shards[0]}: ")
    assert (
        lines[-1]
        == f"merged 3 files into {out}: {tokens:,} tokens, 30 documents; 30 texts, as it comes: shards 1, 2, 3 of 3, the whole"
    )
    cli.app(["info", str(out)], result_action="return_value", exit_on_error=False)
    assert rows(capsys.readouterr().out)["corpus"] == "30 texts, as it comes: shards 1, 2, 3 of 3, the whole"
