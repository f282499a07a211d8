"""Fits the costs by which the kernels choose how to count, and shows how far from the best each choice is.

python benchmarks/calibrate.py [--out docs/measured/counting.md]

Take the constants that it prints over into mi_probe/kernels/costs.py.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from machine import heading
from measure import seconds, threads
from numpy.typing import NDArray
from scipy.optimize import nnls

from mi_probe import kernels
from mi_probe.kernels import costs, lagged
from mi_probe.kernels.costs import Cost

VARIABLES, LAGS = 448, 12
PAIRS = VARIABLES * (VARIABLES - 1) // 2
BINS, SAMPLES = (3, 5, 8, 15, 24), (16, 48, 94, 256, 1024, 4096)

ABOUT = """\
Written by `benchmarks/calibrate.py`. Nanoseconds of one thread, for a pair, or for a variable and lag. The constants are those of
`mi_probe/kernels/costs.py`, by which the kernels choose."""

Times = dict[tuple[int, int], float]


def pairs_by(way: str, codes: NDArray[np.uint8], bins: int) -> Callable[[], None]:
    """Counts of all pairs into tables that are there."""
    tables = np.zeros((PAIRS, bins, bins), dtype=np.int32)
    return partial(kernels.count_pairs, codes, tables, way=way)


def listed_by(way: str, codes: NDArray[np.uint8], bins: int) -> Callable[[], None]:
    """The same pairs, as a list."""
    tables = np.zeros((PAIRS, bins, bins), dtype=np.int32)
    return partial(kernels.count_listed, codes, np.stack(np.triu_indices(VARIABLES, 1), axis=1), tables, way=way)


def lags_by(way: str, codes: NDArray[np.uint8], bins: int) -> Callable[[], None]:
    """Lagged counts of one text."""
    out = np.zeros((LAGS, VARIABLES, bins, bins), dtype=np.int64)
    return partial(lagged.count_lags, codes, np.array([len(codes)]), out, way=way)


JOBS: dict[str, tuple[Callable[[NDArray[np.uint8], int], Callable[[], None]], int, tuple[str, ...]]] = {
    "SCATTER": (partial(pairs_by, "scatter"), PAIRS, ("fixed", "sample", "cell")),
    "PLANES": (partial(pairs_by, "bit_sliced"), PAIRS, ("fixed", "cell", "word")),
    "LISTED_BY_SCATTER": (partial(listed_by, "scatter"), PAIRS, ("fixed", "sample", "cell")),
    "LISTED_BY_PLANES": (partial(listed_by, "bit_sliced"), PAIRS, ("fixed", "cell", "word")),
    "LAGS_BY_TOKENS": (partial(lags_by, "by_tokens"), LAGS * VARIABLES, ("sample", "cell")),
    "LAGS_BY_PLANES": (partial(lags_by, "by_planes"), LAGS * VARIABLES, ("cell", "word")),
}
CHOICES = {
    "pairs": ("SCATTER", "PLANES"),
    "listed pairs": ("LISTED_BY_SCATTER", "LISTED_BY_PLANES"),
    "lags": ("LAGS_BY_TOKENS", "LAGS_BY_PLANES"),
}


def measured(name: str, repeats: int) -> Times:
    """Nanoseconds of one thread, for a pair or for a variable and lag, by samples and bins."""
    job, units, _ = JOBS[name]
    rng = np.random.default_rng(0)
    times = {}
    for bins in BINS:
        for samples in SAMPLES:
            work = job(rng.integers(0, bins, (samples, VARIABLES), dtype=np.uint8), bins)
            work()
            times[samples, bins] = 1e9 * statistics.median(seconds(work) for _ in range(repeats)) / units
    return times


def fitted(times: Times, terms: tuple[str, ...]) -> Cost:
    """The costs that fit all times best in proportion: no error counts more because the time is long."""
    columns = {
        "fixed": lambda samples, bins: 1.0,
        "sample": lambda samples, bins: float(samples),
        "cell": lambda samples, bins: float(bins**2),
        "word": lambda samples, bins: float(bins**2 * -(-samples // costs.WORD)),
    }
    matrix = np.array([[columns[term](*setting) / time for term in terms] for setting, time in times.items()])
    found, _ = nnls(matrix, np.ones(len(times)))
    return Cost(**{field: float(f"{dict(zip(terms, found, strict=True)).get(field, 0.0):.2g}") for field in Cost._fields})


def page(all_times: dict[str, Times], all_costs: dict[str, Cost]) -> str:
    """What was fitted, and for each setting both times and the choice."""
    lines = ["# Ways of counting, measured", "", ABOUT, "", heading()]
    lines += ["", "| cost | fixed | a sample | a cell | a cell and word of 64 samples |", "|---|--:|--:|--:|--:|"]
    lines += [f"| {name} | {' | '.join(f'{value:g}' for value in cost)} |" for name, cost in all_costs.items()]
    for what, (one, other) in CHOICES.items():
        lines += ["", f"| {what}: samples | bins | {one} | {other} | taken | of the best |", "|--:|--:|--:|--:|---|--:|"]
        for (samples, bins), time in all_times[one].items():
            both = {one: time, other: all_times[other][samples, bins]}
            taken = min(both, key=lambda name: all_costs[name].of(samples, bins))
            row = (f"{samples:,}", str(bins), *(f"{t:,.3g}" for t in both.values()), taken)
            lines.append(f"| {' | '.join(row)} | {both[taken] / min(both.values()):.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the page there")
    options = parser.parse_args()
    with threads(1):
        all_times = {name: measured(name, options.repeats) for name in JOBS}
    all_costs = {name: fitted(times, JOBS[name][2]) for name, times in all_times.items()}
    text = page(all_times, all_costs)
    print(text)
    for name, cost in all_costs.items():
        print(f"{name} = {cost}")
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
