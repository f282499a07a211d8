"""Bias, standard deviation and root mean square error of every correction on bivariate Gaussians, as a Markdown table.

python benchmarks/correction_errors.py [--repeats 1.0] [--out docs/measured/corrections.md]

The truth is the mutual information of the discretised variables: of the population cut at its quantiles for equal-count bins, and
at the edges of the sample itself for equal-width bins, which have no others.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, xlogy

from mi_probe.binning import Binning, BinningMethod
from mi_probe.corrections import CORRECTIONS
from mi_probe.estimators import estimate_tables

RHOS = (0.0, 0.3, 0.6, 0.9)
SAMPLES = {94: 4000, 500: 2000, 5000: 500}
"""Samples, and how many times they are drawn."""

BINNINGS: tuple[tuple[BinningMethod, int], ...] = (
    ("equal_count", 5),
    ("equal_count", 8),
    ("equal_count", 15),
    ("equal_width", 15),
)

Floats = NDArray[np.float64]


def truth(rho: float, x_edges: Floats, y_edges: Floats) -> float:
    """MI of a standard bivariate Gaussian cut at these inner edges: the conditional normal, integrated over the first's rank."""
    bounds = ndtr(np.concatenate([[-np.inf], x_edges, [np.inf]]))
    points = 200
    cells = np.empty((len(bounds) - 1, len(y_edges) + 1))
    for a, (low, high) in enumerate(pairwise(bounds)):
        x = ndtri(low + (high - low) * (np.arange(points) + 0.5) / points)
        below = ndtr((y_edges[:, None] - rho * x) / np.sqrt(1 - rho**2)).mean(axis=1)
        cells[a] = (high - low) * np.diff(below, prepend=0.0, append=1.0)
    return float(xlogy(cells, cells).sum() - sum(xlogy(m, m).sum() for m in (cells.sum(axis=0), cells.sum(axis=1))))


def errors(rho: float, n: int, repeats: int, method: BinningMethod, bins: int, seed: int) -> dict[str, Floats]:
    """Estimate less truth of each correction, and the standard error of the adjusted one as "se", each of shape (repeats,)."""
    rng = np.random.default_rng([seed, n, bins, round(100 * rho), method == "equal_width"])
    x, y = rng.standard_normal((2, n, repeats))
    y = rho * x + np.sqrt(1 - rho**2) * y
    binnings = [Binning.fit(v, method=method, bins=bins) for v in (x, y)]
    tables = np.zeros((repeats, bins, bins), dtype=np.int64)
    codes = [b.encode(v) for b, v in zip(binnings, (x, y), strict=True)]
    np.add.at(tables, (np.arange(repeats), codes[0], codes[1]), 1)
    if method == "equal_count":
        quantiles = ndtri(np.arange(1, bins) / bins)
        target: Floats = np.full(repeats, truth(rho, quantiles, quantiles))
    else:
        target = np.array([truth(rho, *edges) for edges in zip(binnings[0].edges, binnings[1].edges, strict=True)])
    found: dict[str, Floats] = {c: estimate_tables(tables, correction=c)[0] - target for c in CORRECTIONS}
    return {**found, "se": estimate_tables(tables)[1]}


def table(repeats: float, seed: int) -> str:
    """The Markdown of all settings."""
    lines = [
        "# Errors of the corrections",
        "",
        "Bivariate Gaussians, all in nats: bias / standard deviation / root mean square error against the mutual information of",
        "the discretised variables. Monte Carlo standard errors: of a bias, the standard deviation over the root of the repeats;",
        "of a root mean square error, about 1 to 3 %. The last line of each table holds the reported standard error of the",
        "adjusted value over its standard deviation. Written by `benchmarks/correction_errors.py`.",
    ]
    for n, most in SAMPLES.items():
        times = max(20, round(repeats * most))
        for method, bins in BINNINGS:
            found = {rho: errors(rho, n, times, method, bins, seed) for rho in RHOS}
            name = method.replace("_", "-")
            lines += [
                "",
                f"## {n:,} samples, {bins} {name} bins ({times:,} repeats)",
                "",
                "| correction | " + " | ".join(f"rho = {rho:g}" for rho in RHOS) + " |",
                "|---|" + "---|" * len(RHOS),
            ]
            for correction in CORRECTIONS:
                cells = [
                    f"{e.mean():+.3f} / {e.std(ddof=1):.3f} / {np.sqrt((e**2).mean()):.3f}"
                    for e in (found[rho][correction] for rho in RHOS)
                ]
                lines.append(f"| `{correction}` | " + " | ".join(cells) + " |")
            ratios = (np.sqrt((found[rho]["se"] ** 2).mean()) / found[rho]["adjusted"].std(ddof=1) for rho in RHOS)
            lines.append("| `se` over standard deviation | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
            print(f"{n:,} samples, {bins} {name} bins: done", flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=float, default=1.0, help="share of the repeats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = table(options.repeats, options.seed)
    if options.out is None:
        print(text)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
