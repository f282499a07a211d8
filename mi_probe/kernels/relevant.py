"""How many bins a response really has, when few samples have been seen: the kernel of Panzeri and Treves' correction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.threads import Counts, in_threads, jit, ranges, threads_for

__all__ = ["relevant_bins_bias"]


@jit
def _expected_occupied(counts: Any, samples: int, occupied: int, extra: int) -> Any:
    """Bins expected to be occupied if `extra` more are relevant, under the posterior mean of Panzeri and Treves."""
    share = extra * (1 - (samples / (samples + occupied)) ** (1 / samples))
    expected = 0.0
    for count in counts:
        if count:
            p = (1 - share) * (count + 1) / (samples + occupied) if extra else count / samples
            expected += 1 - (1 - p) ** samples
    if extra:
        expected += extra * (1 - (1 - share / extra) ** samples)
    return expected


@jit
def _relevant(counts: Any, most: int) -> Any:
    """Relevant bins: the occupied ones and as many empty ones as bring the expected number nearest to what was seen."""
    samples, occupied = 0, 0
    for count in counts:
        samples += count
        occupied += count > 0
    if samples == 0 or occupied >= most:
        return occupied
    extra = 0
    nearest = abs(occupied - _expected_occupied(counts, samples, occupied, 0))
    while occupied + extra < most:
        distance = abs(occupied - _expected_occupied(counts, samples, occupied, extra + 1))
        if distance >= nearest:
            break
        nearest = distance
        extra += 1
    return occupied + extra


@jit
def _biases(tables: Any, first: int, last: int, bias: Any) -> None:
    bins = tables.shape[1]
    line = np.zeros(bins, dtype=np.int64)
    margin = np.zeros(bins, dtype=np.int64)
    for p in range(first, last):
        total = 0.0
        for transposed in range(2):
            margin[:] = 0
            excess = 0
            for a in range(bins):
                seen = 0
                for b in range(bins):
                    line[b] = tables[p, b, a] if transposed else tables[p, a, b]
                    margin[b] += line[b]
                    seen += line[b]
                if seen:
                    excess += _relevant(line, bins) - 1
            total += excess - (_relevant(margin, bins) - 1)
        bias[p] = total / 4


def relevant_bins_bias(tables: Counts) -> NDArray[np.float64]:
    """N times the bias of the plug-in estimate by Panzeri and Treves (1996, Network 7:87), (pairs, bins, bins) -> (pairs,).

    Half of [sum over rows (R_s - 1) - (R - 1)], R_s the relevant bins of a row and R those of the margin; the mean of this and of
    the same with rows and columns swapped, so that the value is symmetric.
    """
    bias = np.zeros(len(tables))
    threads = threads_for(tables.size * 10.0)
    in_threads(lambda a, b: _biases(tables, a, b, bias), ranges(len(tables), np.ones_like, threads), threads)
    return bias
