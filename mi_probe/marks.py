"""Hook points in figures: their colours, labels and ticks, the embedding told apart from the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mi_probe.canvas import VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEET = " -> "

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
    """What hook points of one kind, or two that meet, have in common: their names without the layer.

    Examples
    --------
    >>> family("resid_post.3"), family("resid_post.3 -> resid_post.4")
    ('resid_post', 'resid_post -> resid_post')
    """
    parts = name.split(_MEET)
    return _MEET.join(part.rpartition(".")[0] if part.rpartition(".")[2].isdigit() else part for part in parts)


def depth_axis(axes: Axes, names: Sequence[str]) -> None:
    """Ticks 0, 1, ... of an x axis named for hook points."""
    shared = {family(name) for name in names}
    layers = len(shared) == 1 and not shared & set(names)
    short = [" → ".join(part.rpartition(".")[2] for part in name.split(_MEET)) for name in names] if layers else list(names)
    axes.set_xticks(range(len(names)), short, rotation=0 if max(map(len, short)) <= 4 else 90, ha="center")
    for tick, name in zip(axes.get_xticklabels(), names, strict=True):
        if is_embedding(name):
            tick.set_color(VERMILION)
            tick.set_fontweight("bold")
    kind = shared.pop()
    if any(_MEET in name for name in names):
        axes.set_xlabel(f"from one place to another: {kind}" if layers else "from one place to another")
    else:
        axes.set_xlabel(f"{kind} (0 is the embedding)" if layers and is_embedding(names[0]) else "hook point")
