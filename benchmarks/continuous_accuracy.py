"""How near the estimates come to the mutual information of continuous variables: in bins, with the loss undone, by neighbours.

python benchmarks/continuous_accuracy.py [--share .2] [--slopes]
"""

from __future__ import annotations

import argparse
from typing import NamedTuple
from zlib import crc32

import numpy as np
from distributions import HELD_OUT, SUITE, Distribution
from numpy.typing import NDArray

from mi_probe import continuous as undone
from mi_probe.estimators import estimate_tables
from mi_probe.neighbours import ksg

Floats = NDArray[np.float64]

REPEATS = {1_000: 100, 10_000: 40, 100_000: 10, 1_000_000: 3}
NEIGHBOUR_REPEATS = {1_000: 100, 10_000: 40}
BINS = (8, 16)
SETS = {"fitted": SUITE, "held out": HELD_OUT}
COLUMNS = ("8 bins", "16 bins", "continuous, 8", "continuous, 16", "KSG, k = 3")
SLOPES = [(1.4, 1.7), (0.0, 0.0), (1.4, 0.0), (0.0, 1.7), (1.2, 1.5), (1.2, 2.0), (1.5, 1.5), (1.5, 2.0), (1.0, 1.2), (1.8, 2.4)]


HEAD = """# From bins to continuous variables

Root mean square errors in nats against the known mutual information of continuous pairs (`benchmarks/distributions.py`): of the
chance-adjusted value of 8 and 16 equal-count bins, of `continuous` from the same tables, and of nearest neighbours
(`mi_probe.ksg(match="sklearn")`). The slopes of the method were fitted to exact tables of some forty distributions, with more
parameters of the shapes marked fitted and none of those held out. Written by `benchmarks/continuous_accuracy.py`."""


class Errors(NamedTuple):
    """Errors of one distribution at one number of samples: shape (columns, repeats), NaN where one was not run."""

    error: Floats
    se: Floats
    """Shape (2, repeats): standard errors of `continuous` from 8 and 16 bins."""
    tables: dict[int, NDArray[np.int64]]


def table(x: Floats, y: Floats, bins: int) -> NDArray[np.int64]:
    """Joint counts of equal-count bins of two samples without ties."""
    rows, columns = (np.argsort(np.argsort(v)) * bins // len(v) for v in (x, y))
    return np.bincount(rows * bins + columns, minlength=bins * bins).reshape(bins, bins)


def measure(shape: Distribution, n: int, repeats: int, by_neighbours: int) -> Errors:
    """Run all estimates on the same samples; repeat r draws from the seed (n, r, name)."""
    error = np.full((len(COLUMNS), repeats), np.nan)
    tables = {bins: np.zeros((repeats, bins, bins), dtype=np.int64) for bins in BINS}
    for r in range(repeats):
        x, y = shape.sample(np.random.default_rng([n, r, crc32(shape.name.encode())]), n)
        for bins in BINS:
            tables[bins][r] = table(x, y, bins)
        if r < by_neighbours:
            error[4, r] = ksg(np.stack([x, y], axis=1), k=3, match="sklearn").mi_pairs[0]
    se = np.zeros((2, repeats))
    for k, bins in enumerate(BINS):
        error[k] = estimate_tables(tables[bins])[0]
        error[2 + k], se[k] = undone.continuous(tables[bins])
    return Errors(error - shape.mi, se, tables)


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def head(*cells: str) -> str:
    return f"{row(*cells)}\n{row(*(['---'] * len(cells)))}"


def squares(errors: list[Errors]) -> Floats:
    """Root mean square errors, shape (distributions, columns)."""
    return np.array(
        [[np.sqrt(np.mean(e[np.isfinite(e)] ** 2)) if np.isfinite(e).any() else np.nan for e in m.error] for m in errors]
    )


def cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def show(n: int, found: dict[str, list[Errors]]) -> None:
    """RMSE over the sets, then bias and spread of every distribution."""
    repeats = found["fitted"][0].error.shape[1]
    by_neighbours = int(np.isfinite(found["fitted"][0].error[4]).sum())
    print(f"\n## {n:,} samples ({repeats} repeats, {by_neighbours} of KSG)\n")
    print(head("RMSE, nats", *COLUMNS))
    every = [e for errors in found.values() for e in errors]
    for name, errors in (*found.items(), ("all", every)):
        rmse = squares(errors)
        print(row(f"{name}, mean over shapes", *map(cell, rmse.mean(axis=0))))
        print(row(f"{name}, pooled", *map(cell, np.sqrt((rmse**2).mean(axis=0)))))
    print()
    print(head("bias ± spread", "true", *COLUMNS, "se/spread, 8", "16"))
    for name, errors in found.items():
        for shape, e in zip(SETS[name], errors, strict=True):
            spread = e.error.std(axis=1)
            parts = ["" if np.isnan(v).all() else f"{np.nanmean(v):+.4f} ± {np.nanstd(v):.4f}" for v in e.error]
            ratios = [f"{np.sqrt(np.mean(e.se[k] ** 2)) / spread[2 + k]:.2f}" for k in (0, 1)] if repeats > 5 else ["", ""]
            print(row(shape.name + ("" if name == "fitted" else " *"), f"{shape.mi:.4f}", *parts, *ratios))
    print("\n\\* held out", flush=True)


def show_slopes(n: int, found: dict[str, list[Errors]]) -> None:
    """The same errors with other slopes."""
    print(f"\n## Other slopes, {n:,} samples (RMSE of fitted / held out, mean over shapes)\n")
    print(head("rim, sharpness", *(f"{bins} bins" for bins in BINS)))
    before = undone._RIM, undone._SHARPNESS
    for slopes in SLOPES:
        undone._RIM, undone._SHARPNESS = slopes
        cells = []
        for bins in BINS:
            means = [
                np.mean(
                    [
                        np.sqrt(np.mean((undone.continuous(e.tables[bins]).mi - shape.mi) ** 2))
                        for shape, e in zip(SETS[name], errors, strict=True)
                    ]
                )
                for name, errors in found.items()
            ]
            cells.append(" / ".join(f"{m:.4f}" for m in means))
        print(row(f"{slopes[0]:g}, {slopes[1]:g}", *cells), flush=True)
    undone._RIM, undone._SHARPNESS = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="share of the repeats to run (default 1: some minutes)")
    parser.add_argument("--slopes", action="store_true", help="show other slopes too")
    options = parser.parse_args()
    print(HEAD)
    for n, repeats in REPEATS.items():
        count, by_neighbours = (max(2, round(options.share * r)) for r in (repeats, NEIGHBOUR_REPEATS.get(n, 0)))
        if n not in NEIGHBOUR_REPEATS:
            by_neighbours = 0
        found = {name: [measure(shape, n, count, by_neighbours) for shape in shapes] for name, shapes in SETS.items()}
        show(n, found)
        if options.slopes and n <= 10_000:
            show_slopes(n, found)


if __name__ == "__main__":
    main()
