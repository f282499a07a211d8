"""Runs over a corpus: limits, shards, checkpoints; stopped anywhere and gone on with, they end as if they had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mi_probe
from mi_probe import Probe, ProbeState, corpus, running
from mi_probe.errors import CheckpointError, InputError, OverlapError, Stopped, StoreError

pytestmark = pytest.mark.filterwarnings("ignore:the edges do not represent")

TEXTS = [f"text {k}: " + "the quick brown fox jumps over the lazy dog, and on; " * (1 + k % 5) for k in range(30)]
WHAT = Probe(calibration_tokens=200, lags=2, shards=16, moments=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_PIECE", 100)
    monkeypatch.setattr(corpus, "_BLOCK", 300)


def same(one: ProbeState, other: ProbeState) -> bool:
    return (
        one.counts == other.counts
        and all(a.read() == b.read() for a, b in zip(one.streams.values(), other.streams.values(), strict=True))
        and one.ledger.tokens == other.ledger.tokens  # how many passes it took is the batch size's affair
    )


class StopAfter:
    """A model that asks its own process to stop after so many forward passes, as Ctrl-C would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Any, passes: int) -> None:
        def stop(activation: Any, hook: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

        self.left = passes
        self.hooks = model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", stop)])

    def __enter__(self) -> None:
        self.hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)


@pytest.mark.parametrize("passes", [7, 20, 41])
def test_a_run_that_is_stopped_and_gone_on_with_ends_as_one_that_was_not(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    path = tmp_path / "state.safetensors"
    whole = mi_probe.accumulate(tiny, TEXTS, WHAT)
    with StopAfter(monkeypatch, tiny, passes), pytest.raises(Stopped, match=r"go on from there with --resume"):
        mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path)
    part = ProbeState.load(path)
    assert 0 < part.tokens_seen < whole.tokens_seen
    assert not part.parts[0].complete
    with pytest.raises(CheckpointError, match="a run that is not over"):
        mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path)
    again = mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path, resume=True, batch_size=3)
    assert same(whole, again)
    assert again.parts == whole.parts
    assert again.run["totals"] == {"documents": 30}
    assert same(ProbeState.load(path), whole)
    assert same(mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path, resume=True), whole)  # it is over


@pytest.mark.parametrize("passes", range(6, 50, 4))
def test_rows_of_convergence_are_measured_once_wherever_a_run_is_stopped(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    monkeypatch.setattr(running, "_FIRST_ROW", 5)
    path = tmp_path / "state.safetensors"
    edges = mi_probe.accumulate(tiny, TEXTS[:5], WHAT).binnings
    whole = mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges)
    assert len(whole.convergence) > 5
    with StopAfter(monkeypatch, tiny, passes), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges, checkpoint=path)
    again = mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges, checkpoint=path, resume=True)
    assert again.convergence == whole.convergence


def test_a_stream_is_read_up_to_where_it_goes_on_and_must_be_the_same(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    whole = mi_probe.accumulate(tiny, iter(TEXTS), WHAT)
    with StopAfter(monkeypatch, tiny, 20), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, iter(TEXTS), WHAT, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="not the texts that were counted before"):
        mi_probe.accumulate(tiny, iter(["other", *TEXTS[1:]]), WHAT, checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert same(mi_probe.accumulate(tiny, iter(TEXTS), WHAT, checkpoint=path, resume=True), whole)


def test_a_run_is_gone_on_with_as_it_was_begun_or_not_at_all(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    with StopAfter(monkeypatch, tiny, 20), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path)
    before = path.read_bytes()
    for texts, probe, options, said in (
        (TEXTS, replace(WHAT, lags=3), {}, "another probe: lags is 2 there, 3 now"),
        ([*TEXTS, "more"], WHAT, {}, "other texts"),
        (TEXTS, WHAT, {"max_tokens": 500}, "another number of tokens"),
        (TEXTS, WHAT, {"shard": (1, 2)}, "another shard"),
        (mi_probe.sources.as_corpus(TEXTS).shuffled(1), WHAT, {}, "another order"),
    ):
        with pytest.raises(CheckpointError, match=said):
            mi_probe.accumulate(tiny, texts, probe, checkpoint=path, resume=True, **options)
    weight = next(iter(tiny.original_model.parameters()))
    kept = weight.data.clone()
    weight.data += 1e-3
    with pytest.raises(CheckpointError, match="another model"):
        mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path, resume=True)
    weight.data.copy_(kept)
    assert path.read_bytes() == before
    path.write_bytes(before[:-10])
    with pytest.raises(StoreError):
        mi_probe.accumulate(tiny, TEXTS, WHAT, checkpoint=path, resume=True)
    assert path.read_bytes() == before[:-10]


def test_shards_of_a_corpus_add_up_to_the_whole_and_one_is_not_added_twice(tiny: Any) -> None:
    edges = mi_probe.accumulate(tiny, TEXTS, WHAT).binnings
    whole = mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges)
    parts = [mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges, shard=(k, 3)) for k in (1, 2, 3)]
    total = parts[1]
    total += parts[0]
    with pytest.raises(OverlapError):
        total += mi_probe.accumulate(tiny, TEXTS, WHAT, edges=edges, shard=(1, 3))
    total += parts[2]
    assert same(total, whole)


def test_a_limit_counts_the_first_tokens_of_the_text_exactly(tiny: Any) -> None:
    for limit in (1, 37, 500, 10**6):
        what = Probe(skip_first=0, skip_special=True, calibration_tokens=50)
        probe = mi_probe.accumulate(tiny, TEXTS, what, max_tokens=limit)
        assert probe.tokens_seen == min(limit, sum(map(len, TEXTS)))  # a token a letter


def test_shuffled_texts_give_the_same_counts_in_another_order(tiny: Any) -> None:
    edges = mi_probe.accumulate(tiny, TEXTS, Probe(lags=2)).binnings
    mixed = mi_probe.sources.as_corpus(TEXTS).shuffled(3)
    assert [d.source for d in mixed.documents()] != TEXTS
    one, two = (mi_probe.accumulate(tiny, texts, Probe(lags=2), edges=edges) for texts in (TEXTS, mixed))
    counts = [state.tokens_seen for state in (one, two)]
    assert counts[0] == counts[1]


def test_what_cannot_be_asked_of_a_run_is_refused(tiny: Any, tmp_path: Path) -> None:
    for options, said in (
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"shard": (3, 2)}, "1 <= k <= n"),
        ({"resume": True}, "name a file"),
        ({"calibration": "heads"}, "did you mean 'head'"),
        ({"checkpoint": tmp_path / "nowhere" / "state"}, "no folder"),
    ):
        with pytest.raises(InputError, match=said):
            mi_probe.accumulate(tiny, TEXTS, WHAT, **options)


KILLED = """
import sys, mi_probe
from mi_probe import corpus
corpus._PIECE = corpus._BLOCK = 2000
model = mi_probe.load_model("coffee-gpt2")
texts = [mi_probe.sample_text() + f" Number {k}. " * k for k in range(120)]
probe = mi_probe.Probe(layers=[0, 12], calibration_tokens=500)
print("begun", flush=True)
state = mi_probe.accumulate(model, texts, probe, calibration="head", checkpoint=sys.argv[1], checkpoint_tokens=1000, resume=True)
print(state.tokens_seen)
"""


def test_a_run_that_is_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    command = [sys.executable, "-W", "ignore", str(script)]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    for _ in range(2):
        with subprocess.Popen([*command, str(killed)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            before = killed.stat().st_mtime_ns if killed.exists() else 0
            while process.poll() is None and (not killed.exists() or killed.stat().st_mtime_ns == before):
                pass
            process.kill()
        assert "position" in ProbeState.load(killed).run
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    one, two = ProbeState.load(whole), ProbeState.load(killed)
    assert same(one, two)
    assert json.dumps(one.run) == json.dumps(two.run)
    assert one.convergence == two.convergence
    assert one.parts == two.parts
