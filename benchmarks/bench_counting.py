"""Joint counts of all 294,528 pairs of 768 variables: against np.histogram2d, and scatter against bit-slicing.

python benchmarks/bench_counting.py
"""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
from compare import compare, machine, seconds

from mi_probe import kernels
from mi_probe.kernels.cpu import scatter_is_cheaper

VARIABLES = 768
PAIRS = VARIABLES * (VARIABLES - 1) // 2
SUBSET = 40  # variables that NumPy counts, all of their pairs
SUBSET_PAIRS = [kernels.pair_index(i, j, VARIABLES) for i in range(SUBSET) for j in range(i + 1, SUBSET)]


def counted(codes: np.ndarray, bins: int, way: str = "auto") -> np.ndarray:
    tables = np.zeros((codes.shape[1] * (codes.shape[1] - 1) // 2, bins, bins), dtype=np.int32)
    kernels.count_pairs(codes, tables, way=way)
    return tables


def by_numpy(codes: np.ndarray, bins: int) -> np.ndarray:
    edges = np.arange(bins + 1) - 0.5
    first, second = np.triu_indices(codes.shape[1], 1)
    return np.array(
        [np.histogram2d(codes[:, i], codes[:, j], bins=[edges, edges])[0] for i, j in zip(first, second, strict=True)]
    )


def main() -> None:
    rng = np.random.default_rng(0)
    print(machine())
    for samples, bins in ((94, 15), (4096, 8)):
        codes = rng.integers(0, bins, (samples, VARIABLES), dtype=np.uint8)
        compare(
            f"counts of {PAIRS:,} pairs, {samples} samples, {bins} bins, against np.histogram2d",
            partial(counted, codes, bins),
            partial(by_numpy, codes[:, :SUBSET], bins),
            lambda ours, theirs: np.array_equal(ours[SUBSET_PAIRS], theirs),
            share=len(SUBSET_PAIRS) / PAIRS,
        )
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
