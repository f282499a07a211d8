"""Joint counts of all 294,528 pairs of 768 variables: scatter against bit-slicing, and which of them is taken.

python benchmarks/bench_counting.py
"""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
from machine import heading
from measure import seconds

from mi_probe import kernels
from mi_probe.kernels.cpu import scatter_is_cheaper

VARIABLES = 768
PAIRS = VARIABLES * (VARIABLES - 1) // 2


def main() -> None:
    rng = np.random.default_rng(0)
    print(heading())
    print("scatter against bit-slicing, milliseconds (nanoseconds a pair and thread), and which one 'auto' takes")
    for bins in (3, 5, 8, 15):
        for samples in (16, 64, 94, 256, 1024, 4096):
            codes = rng.integers(0, bins, (samples, VARIABLES), dtype=np.uint8)
            tables = np.zeros((PAIRS, bins, bins), dtype=np.int32)
            times = {}
            for way in ("scatter", "bit_sliced"):
                work = partial(kernels.count_pairs, codes, tables, way=way)
                times[way] = statistics.median(seconds(work) for _ in range(5))
            taken = "scatter" if scatter_is_cheaper(samples, bins) else "bit_sliced"
            row = "   ".join(f"{way} {1e3 * t:8.1f} ({2e9 * t / PAIRS:7.0f})" for way, t in times.items())
            best = min(times.values())
            print(f"    {bins:2d} bins {samples:5d} samples   {row}   {taken}, {times[taken] / best:.2f} of the best")


if __name__ == "__main__":
    main()
