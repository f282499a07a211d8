"""Time against samples, variables, bins, hook points and threads, one at a time: figure, curves, constants, projections.

python benchmarks/scaling.py

Writes docs/figures/scaling.png and docs/measured/scaling.md, and from the constants measured the tables of docs/scaling.md.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
import projection
from measure import peak_memory, seconds, threads
from results import digits, markdown_table

from mi_probe import Binning, JointCounts
from mi_probe.estimators import estimate

DOCS = Path(__file__).resolve().parents[1] / "docs"
REPEATS = 3
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Setting:
    """One point of a curve."""

    samples: int = 4096
    variables: int = 768
    bins: int = 8
    points: int = 1
    threads: int = CORES

    @property
    def pairs(self) -> int:
        """Of one hook point."""
        return self.variables * (self.variables - 1) // 2


Curves = dict[str, list[tuple[Setting, dict[str, float]]]]
"""By what they are along: settings, and the seconds of each job there."""

CURVES: dict[str, tuple[int, ...]] = {
    "samples": (256, 1024, 4096, 16_384),
    "variables": (96, 192, 384, 768, 1536),
    "bins": (3, 4, 8, 16, 32),
    "points": (1, 2, 4, 8, 13),
    "threads": tuple(sorted({1, *(2**k for k in range(1, 10) if 2**k < CORES), CORES})),
}
AXES = {
    "samples": "samples",
    "variables": "variables",
    "bins": "bins of each variable",
    "points": "hook points",
    "threads": "threads",
}
JOBS = {"encode": "encoding", "count": "counting", "estimate": "estimating"}
COLOURS = {"encode": "#009E73", "count": "#0072B2", "estimate": "#D55E00"}  # Okabe and Ito's
MARKERS = {"encode": "s", "count": "o", "estimate": "^"}


def measured(setting: Setting, repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of encoding, counting into tables that are there, and estimating, at all hook points."""
    x = np.random.default_rng(0).standard_normal((setting.samples, setting.variables)).astype(np.float32)
    binning = Binning.fit(x[:4096], bins=setting.bins)
    codes = binning.encode(x)
    points = [JointCounts(setting.variables, setting.bins) for _ in range(setting.points)]

    def count() -> None:
        for counts in points:
            counts.update(codes)
            counts.flush()

    def every(work: Callable[[JointCounts], Any]) -> None:
        for counts in points:
            work(counts)

    jobs: dict[str, Callable[[], Any]] = {
        "encode": partial(every, lambda _: binning.encode(x)),
        "count": count,
        "estimate": partial(every, estimate),
    }
    with threads(setting.threads):
        found = {}
        for name, job in jobs.items():
            job()
            found[name] = statistics.median(seconds(job) for _ in range(repeats))
    return found


def curves(base: Setting, along: dict[str, tuple[int, ...]]) -> Curves:
    """Every curve through the base."""
    known: dict[Setting, dict[str, float]] = {}
    found: Curves = {}
    for name, values in along.items():
        found[name] = []
        for value in values:
            setting = replace(base, **{name: value})
            if setting not in known:
                known[setting] = measured(setting)
                print(f"{setting}: " + ", ".join(f"{job} {1e3 * s:.1f} ms" for job, s in known[setting].items()), flush=True)
            found[name].append((setting, known[setting]))
    return found


def constants(found: Curves, base: Setting) -> dict[str, tuple[float, str]]:
    """Value and unit, by name; every curve goes through the base.

    Those that `projection` takes are of the largest tables measured, which no cache holds.
    """
    by_setting = dict(entry for curve in found.values() for entry in curve)
    largest = found["variables"][-1][0]
    single, all_threads, most = found["threads"][0][0], found["threads"][-1][0], found["points"][-1][0]

    def count(s: Setting) -> float:  # nanoseconds of a thread
        return 1e9 * by_setting[s]["count"] * s.threads / (s.pairs * s.bins**2 * s.points * s.samples / 64)

    def estimating(s: Setting) -> float:
        return 1e9 * by_setting[s]["estimate"] * s.threads / (s.pairs * s.bins**2 * s.points)

    def encoding(s: Setting) -> float:
        return 1e9 * by_setting[s]["encode"] * s.threads / (s.samples * s.variables * s.points)

    codes = np.zeros((base.samples, base.variables), dtype=np.uint8)
    kept: list[JointCounts] = []

    def count_anew() -> None:
        kept.append(JointCounts.from_codes(codes, base.bins))
        kept[-1].flush()

    tables = peak_memory(count_anew) / (base.pairs * base.bins**2)
    peak = peak_memory(lambda: estimate(kept[-1])) / base.pairs
    per_count, per_cell = "ns x threads per pair, cell and 64 samples", "ns x threads per pair and cell"
    made: dict[str, tuple[float, str]] = {
        projection.COUNTING: (count(largest), f"{per_count}; {largest.variables:,} variables, {largest.bins} bins"),
        "counting, in cache": (count(base), f"{per_count}; {base.variables:,} variables, {base.bins} bins"),
        "counting, one thread": (count(single), f"{per_count}; {single.variables:,} variables, {single.bins} bins"),
    }
    for setting, _ in found["bins"]:
        if setting.bins != base.bins:
            made[f"counting, {setting.bins} bins"] = (count(setting), f"{per_count}; {setting.variables:,} variables")
    made |= {
        projection.ESTIMATING: (estimating(largest), f"{per_cell}; {largest.variables:,} variables, {largest.bins} bins"),
        projection.ENCODING: (encoding(largest), f"ns x threads per value; {largest.bins} bins"),
        "tables": (tables, "bytes of peak memory per pair and cell while counting; a cell itself has 4"),
        "estimates": (peak, "bytes of peak memory per pair while estimating"),
        "threads": (
            by_setting[single]["count"] / by_setting[all_threads]["count"],
            f"times faster counting in {all_threads.threads} threads than in one",
        ),
    }
    for setting in (base, most):
        made[f"hook points: {setting.points}"] = (
            setting.samples / by_setting[setting]["count"],
            f"tokens a second counted at {'each of them' if setting.points > 1 else 'it'}; {setting.variables} variables, "
            f"{setting.bins} bins, {setting.threads} threads",
        )
    return made


def curves_table(found: Curves) -> str:
    """Every point measured."""
    rows = [
        [*(f"{getattr(setting, name):,}" for name in CURVES), *(digits(1e3 * times[job]) for job in JOBS)]
        for curve in found.values()
        for setting, times in curve
    ]
    return markdown_table([*AXES.values(), *(f"{word}, ms" for word in JOBS.values())], rows)


def figure(found: Curves, base: Setting, path: Path) -> None:
    """Small multiples, log-log: what a curve is along is its panel's axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

    plots, axes = plt.subplots(2, 3, figsize=(9, 6), sharey=True, layout="constrained")
    for axis, (name, curve) in zip(axes.flat, found.items(), strict=False):  # the sixth panel holds the legend
        along = [getattr(setting, name) for setting, _ in curve]
        for job, word in JOBS.items():
            times = [1e3 * found_times[job] for _, found_times in curve]
            axis.loglog(along, times, marker=MARKERS[job], color=COLOURS[job], label=word, markersize=5)
        start = 1e3 * curve[0][1]["count"]
        power = {"variables": 2, "bins": 2, "threads": -1}.get(name, 1)
        axis.loglog(along, [start * (a / along[0]) ** power for a in along], ":", color="0.5", zorder=0)
        axis.text(0.97, 0.03, f"dotted: slope {power}", transform=axis.transAxes, ha="right", color="0.4", fontsize=8)
        axis.set_xlabel(AXES[name])
        axis.set_xticks(along)
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("milliseconds")
    axes[1, 2].axis("off")
    axes[1, 2].legend(*axes[0, 0].get_legend_handles_labels(), loc="center", frameon=False)
    plots.suptitle(
        f"All pairs of {base.variables} variables, {base.samples:,} samples, {base.bins} bins, 1 hook point, "
        f"{base.threads} threads,\nbut for what a panel's axis says",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    plots.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(plots)


def page(found: Curves, base: Setting) -> str:
    """docs/measured/scaling.md."""
    rows = [[name, digits(value), unit] for name, (value, unit) in constants(found, base).items()]
    return f"""\
# Scaling, measured

Written by `benchmarks/scaling.py`. Medians of {REPEATS} repeats, of random codes.

{machine.heading()}

## Constants

Nanoseconds are of one thread's time: wall time times threads.

{markdown_table(projection.HEAD, rows)}

## Curves

One quantity at a time; counting goes into tables that are there, and estimating gives the plug-in value, the chance level, the
adjusted value and its error.

{curves_table(found)}
"""


def main() -> None:
    base = Setting()
    found = curves(base, CURVES)
    figure(found, base, DOCS / "figures" / "scaling.png")
    measured_page = DOCS / "measured" / "scaling.md"
    measured_page.write_text(page(found, base), encoding="utf-8")
    print(measured_page.read_text(encoding="utf-8"))
    projection.write(DOCS / "scaling.md", measured_page)


if __name__ == "__main__":
    main()
