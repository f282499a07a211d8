"""Counting on a GPU against counting on the CPU from the same forward passes, which run on the GPU.

    python benchmarks/on_a_gpu.py [--device cuda] [--repeats 3]

Prints a Markdown table: first the counts are checked to be the same, bit for bit; then passes are timed without a probe, with one
that brings activations to the CPU and counts there, and with one that counts where the activations are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import machine
import small_gpt2
from measure import seconds
from results import digits, markdown_table

import mi_probe
from mi_probe import Binning, Probe

HEAD = ("what", "hook points", "tokens of a pass", "passes alone", "counted on the CPU", "on the device", "of passes alone")
PASSES = 4

ABOUT = """\
# Counting on a GPU, measured

Written by `benchmarks/on_a_gpu.py --repeats {repeats}`, on a machine with a GPU. The counts are first checked to be those
of the CPU's kernels, bit for bit, from the same forward passes; then {passes} passes are timed, tokens a second of the fastest
round.
"""


@dataclass(frozen=True)
class Case:
    """A model and the passes that are timed."""

    name: str
    model: Any
    rows: int
    length: int

    @property
    def tokens(self) -> list[Any]:
        """Ids of each pass."""
        ids = small_gpt2.tokens(self.model, PASSES * self.rows, self.length).to(self.model.cfg.device)
        return list(ids.split(self.rows))


def passes(case: Case, tokens: list[Any]) -> None:
    """Run them, to the end."""
    import torch

    with torch.inference_mode():
        for ids in tokens:
            case.model(ids, return_type=None)
    if ids.device.type == "cuda":
        torch.cuda.synchronize()


def edges_of(case: Case, tokens: list[Any]) -> dict[str, Binning]:
    """Edges of all hidden states, from the first pass."""
    with mi_probe.attach(case.model, Probe(bins=8, calibration_tokens=1000)) as attached:
        passes(case, tokens[:1])
    return attached.binnings


def counted(case: Case, tokens: list[Any], edges: dict[str, Binning], count_on: Any) -> Any:
    """A probe that has counted the passes, at most a buffer's worth not yet in its tables."""
    with mi_probe.attach(case.model, Probe(bins=8), edges=edges, count_on=count_on) as attached:
        passes(case, tokens)
    return attached


def require_same(case: Case, tokens: list[Any], edges: dict[str, Binning]) -> None:
    """Fail unless the counts are those of the CPU's kernels, bit for bit."""
    here = counted(case, tokens, edges, "cpu")
    for count_on in ("device", "auto"):
        there = counted(case, tokens, edges, count_on)
        wrong = [key for key, stream in here.streams.items() if there.streams[key].read() != stream.read()]
        if wrong or there.ledger.to_dict() != here.ledger.to_dict():
            raise SystemExit(f"{case.name}: count_on={count_on!r} gives other counts than 'cpu', at {', '.join(wrong)}")


def row(case: Case, repeats: int) -> list[str]:
    """The table's row of a case."""
    tokens = case.tokens
    edges = edges_of(case, tokens)
    require_same(case, tokens, edges)
    ways: dict[str, Callable[[], Any]] = {"alone": partial(passes, case, tokens)}
    probes = {}
    for count_on in ("cpu", "device"):
        probes[count_on] = mi_probe.attach(case.model, Probe(bins=8), edges=edges, count_on=count_on)
        probes[count_on].detach()
    found = dict.fromkeys(("alone", *probes), float("inf"))
    for _ in range(repeats):
        found["alone"] = min(found["alone"], seconds(ways["alone"]))
        for name, probe in probes.items():
            probe.reattach()
            found[name] = min(found[name], seconds(partial(passes, case, tokens)))
            for counts in probe.counts.values():
                counts.flush()
            probe.detach()
    rates = {name: PASSES * case.rows * case.length / took for name, took in found.items()}
    points = str(len(edges))
    cells = [f"{digits(rate)} tokens/s" for rate in rates.values()]
    return [case.name, points, f"{case.rows} x {case.length}", *cells, f"{rates['device'] / rates['alone']:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=16, help="texts of a pass")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12, help="of the model with random weights")
    options = parser.parse_args()
    print(f"{ABOUT.format(repeats=options.repeats, passes=PASSES)}\n{machine.heading()}\n- device: {name_of(options.device)}\n")
    with tempfile.TemporaryDirectory() as folder:
        small = small_gpt2.boot(small_gpt2.save(Path(folder), n_layer=options.layers)).to(options.device)
    cases = [
        Case("coffee-gpt2", mi_probe.load_model("coffee-gpt2", device=options.device), options.rows, 256),
        Case("the shape of GPT-2 small", small, options.rows, 512),
    ]
    rows = []
    for case in cases:
        began = time.perf_counter()
        rows.append(row(case, options.repeats))
        print(f"{case.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(markdown_table(HEAD, rows))


def name_of(device: str) -> str:
    """A GPU by its name."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


if __name__ == "__main__":
    main()
