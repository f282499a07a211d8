"""Peak memory of forward passes, for claims/forward.py, in a process of its own.

python benchmarks/forward_memory.py FOLDER without|steady|calibrating ROWS LENGTH

Prints one line of JSON: peak resident bytes during the passes, bytes of all tables, tokens counted.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import small_gpt2
from claims.forward import Shape, fitted
from measure import peak_memory

import mi_probe
from mi_probe import Probe

PASSES = 4  # the default calibration, 4,096 tokens, is complete in the third


def main(folder: Path, mode: str, shape: Shape) -> None:
    import torch

    model = small_gpt2.boot(folder)
    tokens = small_gpt2.tokens(model, shape.rows, shape.length)
    edges = fitted(model, tokens, 8, shape)  # also where no probe runs later: what it leaves behind is in all three
    probes = []

    def passes() -> None:
        with torch.inference_mode(), ExitStack() as stack:
            if mode != "without":
                given = edges if mode == "steady" else None
                probes.append(stack.enter_context(mi_probe.attach(model, Probe(bins=8), edges=given)))
            for _ in range(PASSES):
                model(tokens)
            for probe in probes:
                for counts in probe.counts.values():
                    counts.flush()

    peak = peak_memory(passes)
    tables = sum(counts.tables.nbytes for probe in probes for counts in probe.counts.values())
    print(json.dumps({"peak": peak, "tables": tables, "tokens": sum(probe.tokens_seen for probe in probes)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Shape(int(sys.argv[3]), int(sys.argv[4])))
