"""The figure of docs/estimation.md: the shift of a plain histogram on the bundled paragraph, and what removes it.

python tools/estimation_figure.py docs/figures/shift.png
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import mi_probe

POINT = "hidden_states.7"
LINES = {
    "none": ("plain", "black", "-"),
    "miller_madow": ("Miller-Madow", "#999999", "-"),
    "jackknife": ("jackknife", "#E69F00", "-"),
    "panzeri_treves": ("Panzeri-Treves", "#009E73", "-"),
    "grassberger": ("Grassberger", "#CC79A7", "-"),
    "chance": ("less chance", "#56B4E9", "-"),
    "adjusted": ("adjusted", "#D55E00", "-"),
}


def simulation() -> Any:
    """benchmarks/correction_errors.py."""
    spec = spec_from_file_location("correction_errors", Path(__file__).parents[1] / "benchmarks" / "correction_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(target: Path) -> None:
    figure = Figure(figsize=(12.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1, 1])

    counted = mi_probe.accumulate(mi_probe.load_model("coffee-gpt2"), [mi_probe.sample_text()], "course_histogram")
    point = counted.estimate()[POINT]
    chance, raw = point.pairs("chance"), point.pairs("raw")
    left.scatter(chance, raw, s=4, alpha=0.25, lw=0, color="#0072B2")
    ends = np.array([chance.min(), chance.max()])
    left.plot(ends, ends, color="black", lw=1, ls="--")
    left.text(0.98, 0.03, "dashed: chance alone", ha="right", va="bottom", fontsize=9, transform=left.transAxes)
    left.set_xlabel("chance level of the pair (nats)")
    left.set_ylabel("plain histogram estimate (nats)")
    left.set_title(f"{point.samples} tokens, 15 equal-width bins: {len(raw):,} pairs", loc="left", fontsize=10)

    errors = simulation().errors
    rhos = np.round(np.linspace(0, 0.95, 14), 3)
    for axes, (method, bins, title) in zip(
        (middle, right), (("equal_width", 15, "15 equal-width bins"), ("equal_count", 5, "5 equal-count bins")), strict=True
    ):
        found = [errors(rho, 94, 1500, method, bins, 1) for rho in rhos]
        for name, (label, colour, style) in LINES.items():
            axes.plot(
                rhos, [f[name].mean() for f in found], color=colour, ls=style, lw=2.4 if name == "adjusted" else 1.4, label=label
            )
        axes.axhline(0, color="black", lw=0.8, ls="--")
        axes.set_title(f"94 samples in {title}", loc="left", fontsize=10)
        axes.set_xlabel("correlation of a Gaussian pair")
    middle.set_ylabel("bias (nats)")
    middle.legend(fontsize=8, frameon=False, loc="lower left")
    right.set_ylim(-0.09, 0.14)
    right.text(0.98, 0.97, "scale: a sixth of that beside", ha="right", va="top", fontsize=9, transform=right.transAxes)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
