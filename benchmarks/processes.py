"""Tokens a second of a run in several processes of one thread each, against one of them, over the same corpus.

    python benchmarks/processes.py [--text-file FILES or FOLDERS] [--ranks 1 2] [--repeats 3]

Prints a Markdown table. What is timed is `mi_probe.accumulate` with edges that are there, reading and cutting of texts within:
the slowest process from a common start to the end of the run. Loading the model and fitting edges are left out. The numbers of
processes take turns, and the fastest run of each counts: a machine is shared with everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import texts
from results import digits, markdown_table

import mi_probe
from mi_probe import Edges, MIProbeWarning, ProbeState
from mi_probe.ranks import Ranks
from mi_probe.sources import Corpus, open_corpus

HEAD = ("processes of one thread", "tokens", "s, the fastest", "tokens a second", "of one process", "target", "met")
TARGET = 1.8  # of 2 processes


@dataclass
class Times:
    """Of one number of processes."""

    tokens: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second of the fastest run."""
        return self.tokens / min(self.seconds)


def corpus_of(paths: list[Path], letters: int) -> Corpus:
    """The files' texts, or made ones."""
    if paths:
        return open_corpus(text_file=paths)
    return mi_probe.sources.as_corpus(list(texts.documents(letters)))


def worker(options: argparse.Namespace) -> None:
    """One process of a run; the first one prints what it took, and saves the counts."""
    import numba
    import torch

    torch.set_num_threads(1)
    numba.set_num_threads(1)
    warnings.simplefilter("ignore", MIProbeWarning)
    model = mi_probe.load_model(options.model, device=options.device)
    corpus = corpus_of(options.text_file, options.letters)
    edges = Edges.load(options.edges)
    mi_probe.accumulate(model, [mi_probe.sample_text()], edges=edges)  # kernels are compiled, or loaded
    with Ranks.from_environment() as ranks:
        ranks.barrier()
        began = time.perf_counter()
        state = mi_probe.accumulate(model, corpus, edges=edges, max_tokens=options.tokens, ranks=ranks)
        took = max(ranks.gather(time.perf_counter() - began))
        if ranks.first:
            state.save(options.state)
            print(json.dumps({"tokens": state.tokens_seen, "seconds": took}))


def run(ranks: int, state: Path, edges: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start so many processes as torchrun does, and take what the first one printed."""
    script = [str(Path(__file__).resolve()), "--worker", "--state", str(state), "--edges", str(edges)]
    given = ["--model", options.model, "--device", options.device, "--letters", str(options.letters)]
    given += ["--text-file", *map(str, options.text_file)] if options.text_file else []
    given += ["--tokens", str(options.tokens)] if options.tokens else []
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([*start, *script, *given], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{ranks} processes failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def require_same(one: Path, other: Path) -> None:
    """Fail unless two states hold the same, bit for bit."""
    a, b = ProbeState.load(one), ProbeState.load(other)
    if a.streams.keys() != b.streams.keys() or any(a.streams[key].read() != b.streams[key].read() for key in a.streams):
        raise SystemExit(f"the counts in {one.name} and {other.name} differ")
    if (a.ledger.tokens, a.run, a.parts) != (b.ledger.tokens, b.run, b.parts) or a.convergence != b.convergence:
        raise SystemExit(f"what {one.name} and {other.name} say of their runs differs")


def measured(options: argparse.Namespace) -> dict[int, Times]:
    """All numbers of processes, in turn: each checked against the first, then timed."""
    model = mi_probe.load_model(options.model, device="cpu")
    corpus = corpus_of(options.text_file, options.letters)
    found = {ranks: Times() for ranks in options.ranks}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mi_probe.calibrate(model, corpus).save(folder / "edges")
        for repeat in range(options.repeats):
            for ranks, times in found.items():
                state = folder / f"{ranks} processes"
                said = run(ranks, state, folder / "edges", options)
                require_same(folder / f"{options.ranks[0]} processes", state)
                times.tokens = said["tokens"]
                times.seconds.append(said["seconds"])
                print(
                    f"{repeat}: {ranks} processes: {said['tokens'] / said['seconds']:,.0f} tokens/s", file=sys.stderr, flush=True
                )
    return found


def section(options: argparse.Namespace) -> str:
    """The Markdown of it."""
    found = measured(options)
    first = found[options.ranks[0]]
    rows = []
    for ranks, times in found.items():
        target = TARGET if ranks == 2 and options.ranks[0] == 1 else None
        ratio = times.rate / first.rate
        rows.append(
            [
                str(ranks),
                f"{times.tokens:,}",
                digits(min(times.seconds)),
                digits(times.rate),
                f"{ratio:.2f}",
                "–" if target is None else f"≥ {target:g}",
                "–" if target is None else "yes" if ratio >= target else "**no**",
            ]
        )
    what = ", ".join(path.name for path in options.text_file) if options.text_file else "made texts"
    about = (
        f"`dimension_pairs` on {options.model}, over {what}; counts, convergence and what the files say of the run\n"
        f"checked to be the same bit for bit. The fastest of {options.repeats} runs each, in turn."
    )
    return f"## Several processes\n\n{about}\n\n{markdown_table(HEAD, rows)}\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--text-file", type=Path, nargs="+", default=[], help="the corpus; made texts by default")
    parser.add_argument("--letters", type=int, default=1_000_000, help="of made texts")
    parser.add_argument("--tokens", type=int, default=None, help="at most")
    parser.add_argument("--model", default="coffee-gpt2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    for name in ("--worker", "--state", "--edges"):
        parser.add_argument(name, help=argparse.SUPPRESS, **({"action": "store_true"} if name == "--worker" else {"type": Path}))
    options = parser.parse_args()
    if options.worker:
        worker(options)
    else:
        print(section(options))


if __name__ == "__main__":
    main()
