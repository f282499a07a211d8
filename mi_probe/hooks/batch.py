"""What a probe keeps of a forward pass under way, and the rows that an activation holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mi_probe.stream import Prepared
from mi_probe.tokens import Choice

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "misfit_of", "rows_of"]


class Batch:
    """What one probe keeps of a forward pass under way."""

    def __init__(self, refused: str | None, attachment: int) -> None:
        self.refused, self.detail = refused, ""
        self.attachment = attachment
        self.choice: Choice | None = None
        self.taken: dict[str, Prepared] = {}
        self.fired: dict[str, int] = {}


def misfit_of(hook_name: str, activation: torch.Tensor, choice: Choice) -> str:
    """Why an activation is not one row a token; empty if it is."""
    if activation.ndim >= 3 and tuple(activation.shape[:2]) == choice.shape and activation.is_floating_point():
        return ""
    return (
        f"hook point '{hook_name}' gives {activation.dtype} of shape {tuple(activation.shape)}, not one row of "
        f"numbers a token, (batch, position, ...) with batch x position {choice.shape}"
    )


def rows_of(activation: torch.Tensor, choice: Choice) -> Any:
    """The rows of the tokens that count, as a NumPy array of float32 or float64."""
    import torch

    with torch.no_grad():
        rows = activation.detach().flatten(2).flatten(0, 1)
        if choice.index is not None:
            rows = rows.index_select(0, choice.index.to(rows.device))
        if rows.dtype not in (torch.float32, torch.float64):
            rows = rows.float()
        return rows.cpu().numpy()
