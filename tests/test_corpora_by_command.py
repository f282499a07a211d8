"""Runs over a corpus as a user types them: calibrated, in shards, in several processes, stopped, killed, merged."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest

from mi_probe import MIResult, ProbeState, cli, corpus
from mi_probe.errors import InputError

WORDS = ["coffee", "tea", "the", "sea", "a", "cup", "of", "and", "then", "ship", "island", "morning", "it", "was", "long ago"]


def call(*arguments: str) -> None:
    cli.app(list(arguments), result_action="return_value", exit_on_error=False)


def text_of(words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def started(
    processes: int, folder: Path, env: dict[str, str], *arguments: str, recipe: str = "dimension_pairs"
) -> subprocess.Popen[str]:
    """A run of a recipe, by torchrun if there are several processes, in a group of its own as a terminal would have it."""
    engine = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *engine, "-m", "mi_probe", "run", recipe, "--layers", "0", "-1", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def rank_of(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    (found,) = [child for child in children if child.environ().get("RANK") == str(rank)]
    return found


def test_shards_with_the_same_edges_merge_to_what_one_run_gives(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "_BLOCK", 1 << 12)
    (tmp_path / "texts").mkdir()
    for k in range(3):
        (tmp_path / "texts" / f"{k}.txt").write_text(text_of(1500, seed=k))
    what = ["--model", str(tiny_folder), "--text-file", "texts", "--layers", "0", "-1"]
    call("calibrate", *what, "-o", "edges.safetensors")
    again = capsys.readouterr().out.rpartition("count with them: mi-probe ")[2].split()
    assert again[-2:] == ["--edges", "edges.safetensors"]
    call(*again, "--out", "whole")
    for k in (1, 2):
        call("run", "dimension_pairs", *what, "--edges", "edges.safetensors", "--shard", f"{k}/2", "--out", f"part_{k}")
    call("merge", "part_2/state.safetensors", "part_1/state.safetensors", "-o", "all.safetensors")
    assert ProbeState.load(tmp_path / "all.safetensors").counts == ProbeState.load(tmp_path / "whole/state.safetensors").counts
    call("run", "dimension_pairs", "--counts", "all.safetensors", "--out", "all")
    one, other = (MIResult.load(tmp_path / folder / "result.safetensors") for folder in ("all", "whole"))
    for name, point in one.items():
        np.testing.assert_array_equal(point.pairs("mi"), other[name].pairs("mi"))
    with pytest.raises(InputError, match=r"--shard must be K/N.*got 3/2"):
        call("run", "dimension_pairs", *what, "--shard", "3/2", "--out", "part_3")
    with pytest.raises(InputError, match=r"shard 80/80 has no text.*Take fewer shards"):
        call("run", "dimension_pairs", *what, "--edges", "edges.safetensors", "--shard", "80/80", "--out", "part_80")
    with pytest.raises(InputError, match="name the texts"):
        call("calibrate", "-o", "other.safetensors")


def test_several_processes_are_stopped_killed_and_gone_on_with_by_another_number_of_them(
    tiny_folder: Path, tmp_path: Path, small_blocks: dict[str, str]
) -> None:
    (tmp_path / "text.txt").write_text(text_of(40_000))
    what = ["--model", str(tiny_folder), "--text-file", "text.txt", "--calibration", "head", "--checkpoint-tokens", "1000"]
    whole = started(1, tmp_path, small_blocks, *what, "--out", "whole")
    said, error = whole.communicate()
    assert whole.returncode == 0, error

    run = started(2, tmp_path, small_blocks, *what, "--out", "out")
    saved = tmp_path / "out" / "state.safetensors"
    wait_for(saved, run)
    os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C does, and torchrun then tells its processes once more
    _, error = run.communicate()
    assert error.count("go on from there with --resume") == 1
    before = ProbeState.load(saved)
    assert not before.parts[0].complete

    when = saved.stat().st_mtime_ns
    run = started(3, tmp_path, small_blocks, *what, "--out", "out", "--resume")
    while saved.stat().st_mtime_ns == when:
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    rank_of(run, 2).send_signal(signal.SIGKILL)
    _, error = run.communicate()
    assert run.returncode != 0
    assert "error: rank 2 of 3" in error
    assert "it was killed, or ended without a word" in error
    assert ProbeState.load(saved).tokens_seen > before.tokens_seen

    run = started(2, tmp_path, small_blocks, *what, "--out", "out", "--resume")
    printed, error = run.communicate()
    assert run.returncode == 0, error
    assert printed.replace("out/", "whole/") == said  # by the first process alone
    one, other = ProbeState.load(saved), ProbeState.load(tmp_path / "whole" / "state.safetensors")
    assert one.counts == other.counts
    assert (one.run, one.parts, one.convergence) == (other.run, other.parts, other.convergence)
    assert one.ledger.tokens == other.ledger.tokens


def same_counts(one: Path, other: Path) -> bool:
    a, b = (ProbeState.load(path).streams for path in (one, other))
    return a.keys() == b.keys() and all(a[name].read() == b[name].read() for name in a)


def test_pairs_of_tokens_counted_in_shards_merge_to_what_one_run_gives(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "_BLOCK", 1 << 11)
    (tmp_path / "texts").mkdir()
    for k in range(8):
        (tmp_path / "texts" / f"{k}.txt").write_text(text_of(200 + 50 * k, seed=k))
    what = ["--model", str(tiny_folder), "--text-file", "texts", "--layers", "0", "-1"]
    call("calibrate", "tokens_by_distance", *what, "-o", "edges.safetensors")
    again = capsys.readouterr().out.rpartition("count with them: mi-probe ")[2].split()
    assert again[:2] == ["run", "distance_over_corpus"]
    assert "--probe" not in again
    call(*again, "--out", "whole")
    for k in (1, 2):
        shard = ["--edges", "edges.safetensors", "--shard", f"{k}/2", "--out", f"part_{k}"]
        call("run", "distance_over_corpus", *what, *shard)
    call("merge", "part_2/state.safetensors", "part_1/state.safetensors", "-o", "all.safetensors")
    assert same_counts(tmp_path / "all.safetensors", tmp_path / "whole/state.safetensors")
    part = ProbeState.load(tmp_path / "part_1/state.safetensors").tokens_seen
    assert 0 < part < ProbeState.load(tmp_path / "all.safetensors").tokens_seen
    call("run", "distance_over_corpus", "--counts", "all.safetensors", "--out", "all")
    for name in ("over_distance.csv", "reach.csv"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(InputError, match=r"pairs of tokens are few and small: split the tokens .*split_by='tokens'"):
        call(*again, "--split-by", "pairs", "--out", "divided")


def test_pairs_of_tokens_are_the_same_for_two_processes_and_after_one_was_killed(
    tiny_folder: Path,
    tmp_path: Path,
    small_blocks: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "texts").mkdir()
    for k in range(5):
        (tmp_path / "texts" / f"{k}.txt").write_text(text_of(1600, seed=k))
    what = ["--model", str(tiny_folder), "--text-file", "texts", "--furthest", "3", "--checkpoint-tokens", "1000"]
    saved = {name: tmp_path / name / "state.safetensors" for name in ("whole", "two")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "_PIECE", 1 << 13)
    monkeypatch.setattr(corpus, "_BLOCK", 1 << 13)
    call("run", "distance_over_corpus", "--layers", "0", "-1", *what, "--out", "whole")
    said = capsys.readouterr().out

    run = started(2, tmp_path, small_blocks, *what, "--out", "two", recipe="distance_over_corpus")
    wait_for(saved["two"], run)
    rank_of(run, 1).send_signal(signal.SIGKILL)
    _, error = run.communicate()
    assert run.returncode != 0
    assert "error: rank 1 of 2" in error
    counted = ProbeState.load(saved["two"]).tokens_seen
    run = started(2, tmp_path, small_blocks, *what, "--out", "two", "--resume", recipe="distance_over_corpus")
    printed, error = run.communicate()
    assert run.returncode == 0, error
    assert 0 < counted < ProbeState.load(saved["whole"]).tokens_seen
    assert printed.replace("two/", "whole/") == said  # by the first process alone
    assert saved["two"].read_bytes() == saved["whole"].read_bytes()


def _expanded(argument: str) -> list[str]:
    """What a shell makes of it."""
    return sorted(map(str, Path().glob(argument))) if "*" in argument else [argument]


PAGE = Path(__file__).parent.parent / "docs" / "corpora.md"


def test_every_command_of_the_page_about_corpora_runs_in_its_order(
    tiny_folder: Path, tmp_path: Path, small_blocks: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_texts").mkdir()
    for k in range(4):
        (tmp_path / "my_texts" / f"{k}.txt").write_text(text_of(2000, seed=k))
    rows = [json.dumps({"stars": k % 6, "body": text_of(40, seed=k)}) for k in range(50)]
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "_PIECE", 1 << 13)
    monkeypatch.setattr(corpus, "_BLOCK", 1 << 13)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert sum("SLURM_ARRAY_TASK_ID" in block for block in blocks) == 1
    for block in blocks:
        # On a model that takes no time: the bundled one is what the page's commands would load.
        script = re.sub(r"(run dimension_pairs|calibrate)\b(?! --counts)", rf"\1 --model {tiny_folder}", block)
        for task in range(1, 5 if "SLURM_ARRAY_TASK_ID" in block else 2):
            for line in script.replace("$SLURM_ARRAY_TASK_ID", str(task)).replace("\\\n", " ").splitlines():
                command, *arguments = shlex.split(line.removeprefix("exec "), comments=True) or [""]
                if command == "torchrun":
                    done = subprocess.run(["bash", "-c", line], env=small_blocks, capture_output=True, text=True, check=False)
                    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
                elif command == "mi-probe":
                    call(*(name for argument in arguments for name in _expanded(argument)))
                else:
                    assert command in ("", "export"), line
    whole, *others = (
        ProbeState.load(f"{name}.safetensors") for name in ("my_texts_out/state", "all", "shared_out/state", "divided_out/state")
    )
    for other in others:
        assert other.counts == whole.counts
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), {})
