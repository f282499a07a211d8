"""What a probe keeps of a forward pass under way, and the rows that an activation holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mi_probe.stream import Prepared
from mi_probe.tokens import Choice

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "CountOn", "misfit_of", "rows_of"]

CountOn = Literal["auto", "device", "cpu"]


class Batch:
    """What one probe keeps of a forward pass under way.

    Attributes
    ----------
    shape : (int, int), optional
        Rows and positions of the batch, once its tokens are known.
    taken : dict of (str, int or None) -> Prepared
        By the name of the counts, and the side of them where two hook points meet there.
    """

    def __init__(self, refused: str | None, attachment: int) -> None:
        self.refused, self.detail = refused, ""
        self.attachment = attachment
        self.shape: tuple[int, int] | None = None
        self.taken: dict[tuple[str, int | None], Prepared] = {}
        self.fired: dict[str, int] = {}
        self._choose: Callable[[], Choice] | None = None
        self._choice: Choice | None = None

    def tokens_are_known(self, shape: tuple[int, int], choose: Callable[[], Choice]) -> None:
        """The tokens that count can be chosen."""
        self.shape, self._choose = shape, choose

    def same(self, one: Prepared, other: Prepared) -> bool:
        """Whether two firings gave the tokens that count the same values."""
        if self.choice is not None:
            one, other = self.chosen(one), self.chosen(other)
        return one.same_as(other)

    def chosen(self, prepared: Prepared) -> Prepared:
        """What is kept of the tokens that count: on a device all rows were taken, so that no hook waits for it."""
        values = prepared.rows if prepared.codes is None else prepared.codes
        if isinstance(values, np.ndarray) or self.choice is None:
            return prepared
        return prepared.chosen(self.choice.index)

    @property
    def choice(self) -> Choice | None:
        """The tokens that count, None if none are known; chosen when first asked for, which waits for their device."""
        if self._choice is None and self._choose is not None:
            self._choice = self._choose()
        return self._choice


def misfit_of(hook_name: str, activation: torch.Tensor, shape: tuple[int, int]) -> str:
    """Why an activation is not one row a token; empty if it is."""
    if activation.ndim >= 3 and tuple(activation.shape[:2]) == shape and activation.is_floating_point():
        return ""
    return (
        f"hook point '{hook_name}' gives {activation.dtype} of shape {tuple(activation.shape)}, not one row of "
        f"numbers a token, (batch, position, ...) with batch x position {shape}"
    )


def rows_of(activation: torch.Tensor, batch: Batch, count_on: CountOn) -> Any:
    """The rows of the tokens that count, as a NumPy array of float32 or float64; or all rows as a tensor, where they are.

    The latter where counting is to stay on the activation's device: which tokens count is asked when the pass has ended, so that
    no hook waits for the device.
    """
    import torch

    with torch.no_grad():
        rows = activation.detach().flatten(2).flatten(0, 1)
        if count_on == "device" or (count_on == "auto" and rows.device.type != "cpu"):
            return rows
        choice = batch.choice
        if choice is not None and choice.index is not None:
            rows = rows.index_select(0, choice.index.to(rows.device))
        if rows.dtype not in (torch.float32, torch.float64):
            rows = rows.float()
        return rows.cpu().numpy()
