"""What all figures have in common: a figure of its own, and colours that colour-blind readers tell apart (Okabe and Ito)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "GREY", "VERMILION", "figure"]

VERMILION = "#D55E00"
BLUE = "#0072B2"
GREEN = "#009E73"
GREY = "#555555"


def figure(*shape: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """A figure of its own, without pyplot: nothing is shown, and no backend is chosen for the user."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(*shape, **options)
