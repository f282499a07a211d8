"""Memory of a run over a corpus against the number of tokens: it must not grow once the tables are there.

    python benchmarks/memory_over_tokens.py [--tokens 10000 100000 1000000 10000000] [--bundled 10000 100000 1000000]

Prints a Markdown table. Each row is a process of its own: the most that was resident during `mi_probe.accumulate`, beyond what
was before, when the model was loaded and all kernels compiled. The texts are read, cut, tokenised, run and counted as always, and
checkpoints are written; so that ten million tokens take minutes, most rows have a model of one narrow layer with the bundled
tokenizer. Each row's tokens are checked to be as many as were asked for.
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
from pathlib import Path
from typing import Any

import texts
from measure import how_memory_is_measured, peak_memory
from results import digits, format_bytes, markdown_table

import mi_probe
from mi_probe import MIProbeWarning
from mi_probe.sources import Corpus, open_corpus

HEAD = ("run", "what", "tokens", "peak MB", "tokens a second")
NARROW = {"n_layer": 1, "n_embd": 16, "n_head": 2}
KINDS = {"text": "a text file", "lines": "JSON lines, streamed by datasets"}
CHECKPOINT = 500_000  # tokens


def narrow(folder: Path) -> Path:
    """A model of one narrow layer with random weights, and the bundled one's tokenizer and context."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    bundled = Path(mi_probe.__file__).parent / "data" / "coffee-gpt2"
    tokenizer = AutoTokenizer.from_pretrained(bundled)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config.from_pretrained(bundled, **NARROW)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def write_corpus(kind: str, path: Path, tokens: int) -> Path:
    """A file with so many tokens, and some more."""
    made = texts.documents(round(1.1 * tokens * texts.LETTERS_A_TOKEN) + 10_000)
    with path.open("w", encoding="utf-8") as file:
        for text in made:
            file.write(text + "\n" if kind == "text" else json.dumps({"text": text}) + "\n")
    return path


def corpus_of(kind: str, path: Path) -> Corpus:
    """The file, as it is read by name."""
    return open_corpus(text_file=path, streaming=kind == "lines")


def worker(options: argparse.Namespace) -> None:
    """One run; prints its peak."""
    warnings.simplefilter("ignore", MIProbeWarning)
    model = mi_probe.load_model(options.model, device="cpu")
    mi_probe.accumulate(model, corpus_of(options.kind, options.corpus), max_tokens=6000, calibration="head")
    took = [0.0]
    states: list[Any] = []

    def run() -> None:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            states.append(
                mi_probe.accumulate(
                    model,
                    corpus_of(options.kind, options.corpus),
                    max_tokens=options.most,
                    calibration="head",
                    checkpoint=Path(folder) / "state",
                    checkpoint_tokens=CHECKPOINT,
                )
            )
        took[0] = time.perf_counter() - began

    peak = peak_memory(run)
    ledger = states[0].ledger.tokens
    print(json.dumps({"peak": peak, "tokens": states[0].tokens_seen, "entered": dict(ledger), "seconds": took[0]}))


def measured(kind: str, model: Path | str, corpus: Path, tokens: int) -> list[str]:
    """A row."""
    script = [sys.executable, str(Path(__file__).resolve()), "--worker", "--kind", kind, "--corpus", str(corpus)]
    given = ["--model", str(model), "--most", str(tokens)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(corpus.parent / "cache"), "MALLOC_TRIM_THRESHOLD_": "131072"}
    environment |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # threads have memory of their own
    done = subprocess.run([*script, *given], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"the run over {tokens:,} tokens failed:\n{done.stderr}")
    said = json.loads(done.stdout.splitlines()[-1])
    if said["tokens"] != tokens:
        raise SystemExit(f"{said['tokens']:,} tokens were counted, not {tokens:,}: {said['entered']}")
    rate = digits(tokens / said["seconds"])
    row = ["coffee-gpt2" if model == "coffee-gpt2" else "one narrow layer", KINDS[kind], f"{tokens:,}"]
    row += [format_bytes(said["peak"]), rate]
    print(", ".join(row), file=sys.stderr, flush=True)
    return row


def section(options: argparse.Namespace) -> str:
    """The Markdown of it."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = narrow(folder / "model")
        for kind in KINDS:
            most = max([*options.tokens, *(options.bundled if kind == "text" else [])])
            corpus = write_corpus(kind, folder / ("corpus.txt" if kind == "text" else "corpus.jsonl"), most)
            rows += [measured(kind, small, corpus, tokens) for tokens in options.tokens]
            if kind == "text":
                rows += [measured(kind, "coffee-gpt2", corpus, tokens) for tokens in options.bundled]
    about = (
        f"The most that a process of one thread had in memory during the run, beyond what it had before:\n"
        f"{how_memory_is_measured()}. A checkpoint every {CHECKPOINT:,} tokens.\n"
        f"One narrow layer: a model of {NARROW['n_embd']} dimensions with random weights and the bundled tokenizer, so that\n"
        "reading and cutting are the greater part. The library datasets reads JSON lines 10 MB at a time, some 3 million tokens."
    )
    return f"## Memory over tokens\n\n{about}\n\n{markdown_table(HEAD, rows)}\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument(
        "--tokens", type=int, nargs="*", default=[10**4, 10**5, 10**6, 3 * 10**6, 10**7], help="of the narrow model"
    )
    parser.add_argument("--bundled", type=int, nargs="*", default=[10**4, 10**5, 10**6], help="of the bundled model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    for name, kind in (("--kind", str), ("--model", str), ("--corpus", Path), ("--most", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
    else:
        print(section(options))


if __name__ == "__main__":
    main()
