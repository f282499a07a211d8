"""What a probe adds to the time and to the memory of forward passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import small_gpt2
from claim import Claim, Contest, Side, Table, equal

import mi_probe
from mi_probe import Binning, JointCounts, Probe

PASSES = 2  # 4,080 tokens: about what is buffered before it is counted

STEADY_MALLOC = {"MALLOC_TRIM_THRESHOLD_": "131072"}
"""Setting it keeps glibc from raising its thresholds as it goes. With them a process keeps 300 to 600 MB of freed activations,
with a probe or without, and never the same amount: more than what is to be measured."""

SCRIPT = Path(__file__).resolve().parents[1] / "forward_memory.py"


@dataclass(frozen=True)
class Shape:
    """Of the passes, and of the model: GPT-2 small by default."""

    rows: int = 8
    length: int = 256
    model: dict[str, int] = field(default_factory=dict)

    @property
    def counted(self) -> int:
        """Tokens of a pass that a probe counts: all but the first of each row."""
        return self.rows * (self.length - 1)


@dataclass(frozen=True)
class Need:
    """A row about memory: peak bytes of a process with and without a probe, beside the bytes of the tables."""

    what: str
    extra: int
    tables: int
    target: float | None = None

    @property
    def ratio(self) -> float:
        """The peak with the probe beyond the one without, in terms of the tables."""
        return self.extra / self.tables

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None where there is none."""
        return None if self.target is None else self.ratio <= self.target


def fitted(model: Any, tokens: Any, bins: int, shape: Shape) -> dict[str, Binning]:
    """Edges of the default probe, from one pass."""
    import torch

    with torch.inference_mode(), mi_probe.attach(model, Probe(bins=bins, calibration_tokens=shape.counted)) as probe:
        model(tokens)
    return probe.binnings


class Watched:
    """The default probe with given edges, whose hooks are on only where they are to be timed."""

    def __init__(self, model: Any, tokens: Any, edges: dict[str, Binning], bins: int) -> None:
        self.model, self.tokens = model, tokens
        self.probe = mi_probe.attach(model, Probe(bins=bins), edges=edges)
        self.probe.detach()

    def passes(self) -> tuple[Any, Any]:
        """Logits, and the probe, with nothing left in its buffers."""
        logits = run_passes(self.model, self.tokens)
        for counts in self.probe.counts.values():
            counts.flush()
        return logits, self.probe

    def side(self, name: str) -> Side:
        """For a claim."""
        return Side(name, self.passes, before=self.probe.reattach, after=self.probe.detach)


def run_passes(model: Any, tokens: Any) -> Any:
    """Forward passes; the logits of the last one at its last position."""
    import torch

    with torch.inference_mode():
        for _ in range(PASSES):
            logits = model(tokens)
    return logits[:, -1].numpy().copy()


def _counts_are_right(model: Any, tokens: Any, edges: dict[str, Binning]) -> dict[str, JointCounts]:
    """What a probe should count in `PASSES` passes, from cached activations, at the first, a middle and the last point."""
    import torch

    names = {p.key: p.hook_name for p in _points(model)}
    keys = [list(names)[k] for k in (0, len(names) // 2, -1)]
    with torch.inference_mode():
        _, cache = model.run_with_cache(tokens, names_filter=[names[key] for key in keys])
    expected = {}
    for key in keys:
        rows = cache[names[key]][:, 1:].reshape(-1, model.cfg.d_model)
        counts = JointCounts.from_codes(edges[key].encode(rows), edges[key].bins)
        for _ in range(PASSES - 1):
            counts += JointCounts.from_codes(edges[key].encode(rows), edges[key].bins)
        expected[key] = counts
    return expected


def _points(model: Any) -> Any:
    from mi_probe.hooks.names import resolve

    return resolve(model, Probe())


def table(folder: Path, shape: Shape) -> Table:
    """The claim about time; a saved model is in `folder`."""
    model = small_gpt2.boot(folder)
    tokens = small_gpt2.tokens(model, shape.rows, shape.length)
    claims = []
    for bins, target in ((8, 1.10), (16, 1.35)):
        edges = fitted(model, tokens, bins, shape)
        watched = Watched(model, tokens, edges, bins)
        expected = _counts_are_right(model, tokens, edges)

        def agree(ours: Any, theirs: Any, expected: dict[str, JointCounts] = expected) -> bool:
            logits, probe = ours
            return equal(logits, theirs) and all(probe.counts[key] == counts for key, counts in expected.items())

        name = f"with the default probe, {bins} bins: {len(edges)} hidden states, all pairs, lags"
        checked = "equal logits; counts at three hidden states equal to those of cached activations"
        claims.append(Claim(watched.side(name), agree, checked, target=target, kind="cost"))
    return Table(
        "Forward passes with a probe",
        f"{PASSES} passes of {shape.rows} x {shape.length} tokens through a model of {model.cfg.n_layers} blocks and "
        f"{model.cfg.d_model} dimensions, random weights; edges known before, everything counted at the end.",
        (Contest("forward passes", Side("without a probe", partial(run_passes, model, tokens)), tuple(claims)),),
    )


# -- memory -----------------------------------------------------------------------------------------------------------


def needs(folder: Path, shape: Shape) -> list[Need]:
    """The claim about memory: each run in a process of its own."""
    runs: dict[str, dict[str, int]] = {}
    for mode in ("without", "steady", "calibrating"):
        command = [sys.executable, str(SCRIPT), str(folder), mode, str(shape.rows), str(shape.length)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | STEADY_MALLOC)
        runs[mode] = json.loads(done.stdout.splitlines()[-1])
    tables = runs["steady"]["tables"]
    if runs["calibrating"]["tables"] != tables or runs["steady"]["tokens"] != runs["calibrating"]["tokens"]:
        raise SystemExit("memory of forward passes: the runs with a probe did not count the same; nothing is reported.")
    without = runs["without"]["peak"]
    return [
        Need("default probe, 8 bins, edges known before", runs["steady"]["peak"] - without, tables, 1.15),
        Need("the same, edges fitted on the first 4,096 tokens of the run", runs["calibrating"]["peak"] - without, tables),
    ]
