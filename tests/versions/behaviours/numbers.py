"""Numbers and weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..kits import DEFAULT, Kit
from .base import Counted, behaviour, ids, is_bridge, quietly


@behaviour("Numbers", "a model in bfloat16")
def a_model_in_bfloat16(kit: Kit) -> Counted:
    kit.model.to(torch.bfloat16)
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Numbers", "a model in float16")
def a_model_in_float16(kit: Kit) -> Counted:
    kit.model.to(torch.float16)
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Numbers", "autocast, inference_mode, no_grad and grad by turns")
def autocast_inference_mode_no_grad_and_grad_by_turns(kit: Kit) -> Counted:
    with kit.attach() as probe:
        with torch.inference_mode():
            kit.model(ids(5, 6))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            kit.model(ids(5, 7))
        with torch.no_grad():
            kit.model(ids(5, 8))
        kit.model(ids(5, 9))
    return kit.read(probe), [6, 7, 8, 9]


@behaviour("Numbers", "NaN and infinity in an activation: the token counts, the values are counted apart")
def nan_and_infinity_in_an_activation_the_token_counts(kit: Kit) -> Counted:
    def spoil(x: Any, hook: Any) -> Any:
        x = x.clone()
        x[0, 1, 3], x[0, 2, 4] = float("nan"), float("inf")
        return x

    with kit.attach(replace(DEFAULT, when="after")) as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_pre", spoil)])
    assert probe.status().points["hidden_states.1"].missing == 2
    return kit.read(probe), [6, 7]


@behaviour("Numbers", "weights centred after the probe was attached: nothing more is counted")
def weights_centred_after_the_probe_was_attached_nothing_more(kit: Kit) -> Counted:
    before = kit.table()
    with quietly(), kit.attach() as probe:
        kit.model(ids(5, 6))
        if is_bridge(kit):
            kit.model.enable_compatibility_mode(disable_warnings=True)
        else:
            with torch.no_grad():  # in place, as load_and_process_state_dict does it
                kit.model.embed.W_E -= kit.model.embed.W_E.mean(dim=-1, keepdim=True)
        kit.model(ids(5, 7))
    return kit.read(probe, table=before), [6]
