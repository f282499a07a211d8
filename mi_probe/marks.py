"""Hook points in figures: their colours, labels and ticks, the embedding told apart from the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mi_probe.canvas import VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["colours", "depth_axis", "family", "is_embedding", "label"]


def colours(names: Sequence[str]) -> list[Any]:
    """One for each hook point: viridis over depth, and the embedding in a colour that viridis lacks."""
    from matplotlib import colormaps

    blocks = max(1, len(names) - 1)
    viridis = colormaps["viridis"]
    return [VERMILION if is_embedding(n) else viridis(0.05 + 0.85 * k / blocks) for k, n in enumerate(names)]


def is_embedding(name: str) -> bool:
    return name in ("hidden_states.0", "embed", "resid_pre.0")


def label(name: str) -> str:
    return f"{name} (embedding)" if is_embedding(name) else name


def family(name: str) -> str:
    """What hook points of one kind have in common: their name without the layer."""
    stem, _, layer = name.rpartition(".")
    return stem if layer.isdigit() else name


def depth_axis(axes: Axes, names: Sequence[str]) -> None:
    """Ticks 0, 1, ... of an x axis named for hook points."""
    shared = {family(name) for name in names}
    layers = len(shared) == 1 and not shared & set(names)
    short = [name.rpartition(".")[2] for name in names] if layers else list(names)
    axes.set_xticks(range(len(names)), short, rotation=0 if max(map(len, short)) <= 4 else 90, ha="center")
    for tick, name in zip(axes.get_xticklabels(), names, strict=True):
        if is_embedding(name):
            tick.set_color(VERMILION)
            tick.set_fontweight("bold")
    axes.set_xlabel(f"{shared.pop()} (0 is the embedding)" if layers and is_embedding(names[0]) else "hook point")
