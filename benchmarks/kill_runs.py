"""A run over a corpus that is killed again and again and gone on with, against one that is not: the files must be the same.

    python benchmarks/kill_runs.py --text-file FILES or FOLDERS [--kills 20] [--seed 0]

SIGKILL comes at random moments: as the run counts, in the middle of a checkpoint's writing, and before it has begun or gone on.
Prints a line for each, and fails unless the file in the end is the other one's, byte for byte.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import texts
from results import digits, markdown_table

import mi_probe
from mi_probe import MIProbeWarning, ProbeState, store
from mi_probe.sources import as_corpus, open_corpus

HEAD = ("kill", "as it was", "s after its start", "tokens in the checkpoint", "more than before")
MOMENTS = ("counting", "counting", "counting", "writing", "starting")
_POLL = 5e-4
_STARTING = 10.0  # seconds within which a process loads its model and its checkpoint


@dataclass(frozen=True)
class Plan:
    """When to kill: once the checkpoint has so many tokens, and then so much later, or in the middle of the next writing."""

    moment: str
    tokens: int
    later: float


def worker(options: argparse.Namespace) -> None:
    """The run, from wherever its checkpoint is."""
    warnings.simplefilter("ignore", MIProbeWarning)
    model = mi_probe.load_model(options.model)
    corpus = open_corpus(text_file=options.text_file) if options.text_file else as_corpus(list(texts.documents(options.letters)))
    mi_probe.accumulate(
        model, corpus, checkpoint=options.state, checkpoint_tokens=options.checkpoint_tokens, resume=True, batch_size=8
    )


def start(state: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The run in a process of its own."""
    given = ["--model", options.model, "--letters", str(options.letters), "--checkpoint-tokens", str(options.checkpoint_tokens)]
    given += ["--text-file", *map(str, options.text_file)] if options.text_file else []
    script = [sys.executable, str(Path(__file__).resolve()), "--worker", "--state", str(state)]
    return subprocess.Popen([*script, *given])


def finished(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end, which must be a good one."""
    if process.wait():
        raise SystemExit(f"the run ended with {process.returncode}")


def saved(state: Path) -> int:
    """Tokens in the checkpoint; 0 where there is none."""
    return int(store.look(state).header["tokens_seen"]) if state.exists() else 0


def is_writing(state: Path) -> bool:
    """Whether something of a checkpoint is written that is not yet in its place."""
    for file in state.parent.glob(f".{state.name}.*.unfinished"):
        try:
            return file.stat().st_size > 0
        except FileNotFoundError:  # it has just been finished
            continue
    return False


def plans(tokens: int, seconds: float, options: argparse.Namespace) -> list[Plan]:
    """Spread over the whole run."""
    rng = np.random.default_rng(options.seed)
    interval = seconds * options.checkpoint_tokens / tokens
    where = np.sort(rng.random(options.kills)) * (tokens - 2 * options.checkpoint_tokens)
    moments = rng.permutation([MOMENTS[k % len(MOMENTS)] for k in range(options.kills)])
    return [
        Plan(str(moment), int(at), float(rng.random() * {"counting": interval, "writing": 0.02, "starting": _STARTING}[moment]))
        for moment, at in zip(moments, where, strict=True)
    ]


def kill(plan: Plan, state: Path, options: argparse.Namespace) -> list[str]:
    """Start the run, kill it as planned; the row of the table."""
    before, began = saved(state), time.perf_counter()
    process = start(state, options)
    since: float | None = None
    changed = state.stat().st_mtime_ns if state.exists() else 0
    while process.poll() is None:
        now = time.perf_counter()
        if since is None:
            there = state.stat().st_mtime_ns if state.exists() else 0
            if plan.moment == "starting" or (there != changed and saved(state) >= plan.tokens) or plan.tokens < 1:
                since = now
            changed = there
        if since is not None and now >= since + plan.later and (plan.moment != "writing" or is_writing(state)):
            break
        time.sleep(_POLL)
    process.kill()
    code = process.wait()
    if code != -9:
        raise SystemExit(f"the run ended with {code} before it was killed, at {plan}")
    took, unfinished = time.perf_counter() - began, len(list(state.parent.glob(f".{state.name}.*.unfinished")))
    tokens = saved(state)
    if tokens:
        ProbeState.load(state)
    what = plan.moment + (", a checkpoint half written" if unfinished else "")
    return [what, digits(took), f"{tokens:,}", f"{tokens - before:+,}"]


def differences(one: Path, other: Path) -> list[str]:
    """What two state files have apart."""
    a, b = ProbeState.load(one), ProbeState.load(other)
    found = [f"the counts at {key}" for key in a.streams if a.streams[key].read() != b.streams[key].read()]
    names = ("ledger", "run", "parts", "convergence", "calibration", "tokens_seen")
    facts: list[tuple[str, Any, Any]] = [(name, getattr(a, name), getattr(b, name)) for name in names]
    found += [f"{name}: {mine} and {theirs}" for name, mine, theirs in facts if str(mine) != str(theirs)]
    return found or ["nothing that a state holds"]


def section(options: argparse.Namespace) -> str:
    """The Markdown of it."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        whole, killed = Path(name) / "whole.safetensors", Path(name) / "killed.safetensors"
        began = time.perf_counter()
        finished(start(whole, options))
        took, tokens = time.perf_counter() - began, saved(whole)
        print(f"uninterrupted: {tokens:,} tokens in {took:.0f} s", file=sys.stderr, flush=True)
        rows = []
        began = time.perf_counter()
        for number, plan in enumerate(plans(tokens, took, options), 1):
            rows.append([str(number), *kill(plan, killed, options)])
            print(f"{time.perf_counter() - began:.0f} s: " + ", ".join(rows[-1]), file=sys.stderr, flush=True)
        finished(start(killed, options))
        in_all = time.perf_counter() - began
        if whole.read_bytes() != killed.read_bytes():
            raise SystemExit("the files differ: " + "; ".join(differences(whole, killed)))
        left = [file.name for file in Path(name).iterdir() if file not in (whole, killed)]
        if left:
            raise SystemExit(f"left behind: {', '.join(left)}")
        nbytes = whole.stat().st_size
    what = ", ".join(path.name for path in options.text_file) if options.text_file else "made texts"
    about = (
        f"`dimension_pairs` on {options.model}, over {what}: {tokens:,} tokens, a checkpoint every\n"
        f"{options.checkpoint_tokens:,}. Killed (SIGKILL) {len(rows)} times and gone on with each time, the run ended after\n"
        f"{in_all:.0f} s with the file of one that was not, which took {took:.0f} s: {nbytes / 1e6:.1f} MB, the same byte\n"
        "for byte."
    )
    return f"## A run that is killed\n\n{about}\n\n{markdown_table(HEAD, rows)}\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is run."""
    parser.add_argument("--text-file", type=Path, nargs="+", default=[], help="the corpus; made texts by default")
    parser.add_argument("--letters", type=int, default=500_000, help="of made texts")
    parser.add_argument("--model", default="coffee-gpt2")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-tokens", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary one by default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
    else:
        print(section(options))


if __name__ == "__main__":
    main()
