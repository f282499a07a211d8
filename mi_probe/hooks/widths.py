"""How many variables hook points have, found by running a model that has shapes and no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mi_probe.hooks.batch import misfit_of
from mi_probe.hooks.names import HookedModel, Point, site_of
from mi_probe.hooks.sites import Hook

if TYPE_CHECKING:
    import torch

__all__ = ["widths_in"]


def widths_in(model: HookedModel, points: Sequence[Point]) -> dict[str, int | str]:
    """Variables by hook point, or why they are not known, from one forward pass of an outline (`mi_probe.models.outline`)."""
    import torch

    cfg = model.cfg
    heads = {getattr(cfg, name, None) for name in ("n_heads", "n_key_value_heads")}
    positions = next(p for p in (7, 5, 3) if p not in heads)  # so that (batch, head, ...) is not taken for (batch, position, ...)
    tokens = torch.zeros(2, positions, dtype=torch.long)
    found: dict[str, int | str] = {}

    def see(point: Point, activation: torch.Tensor, hook: Any = None) -> None:
        fits = not misfit_of(point.hook_name, activation, (2, positions))
        found[point.key] = int(activation[0, 0].numel()) if fits else "it is not one row of numbers a token, and would be refused"

    hooks = [Hook(site_of(model, point), partial(see, point), is_module=point.is_module) for point in points]
    why = "it does not fire in a forward pass: a probe that has it counts nothing"
    try:
        with torch.no_grad():
            model.forward(tokens, return_type=None)
    except Exception as error:  # whatever an architecture does that fake tensors cannot follow
        why = f"a forward pass without numbers ended in {type(error).__name__}"
    finally:
        for hook in hooks:
            hook.remove()
    return {point.key: found.get(point.key, why) for point in points}
