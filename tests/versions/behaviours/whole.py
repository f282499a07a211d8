"""A forward pass counts whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from ..kits import DEFAULT, Kit, NotThereError
from .base import Counted, behaviour, fail, ids, is_bridge, need, quietly


@behaviour("Whole or not at all", "an error in someone's hook")
def an_error_in_someone_s_hook(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        with suppress(RuntimeError):
            kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.2.hook_resid_post", fail)])
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Whole or not at all", "Ctrl-C in the middle of a pass")
def ctrl_c_in_the_middle_of_a_pass(kit: Kit) -> Counted:
    def interrupt(x: Any, hook: Any) -> None:
        raise KeyboardInterrupt

    with quietly(), kit.attach() as probe:
        with suppress(KeyboardInterrupt):
            kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.2.hook_resid_post", interrupt)])
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Whole or not at all", "an error in a pass inside a pass: the outer one is counted")
def an_error_in_a_pass_inside_a_pass_the(kit: Kit) -> Counted:
    def nested(x: Any, hook: Any) -> None:
        with kit.model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", fail)]), suppress(RuntimeError):
            kit.model(ids(5, 9))

    with quietly(), kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", nested)])
    return kit.read(probe), [6, 7]


@behaviour("Whole or not at all", "pause()")
def pause(kit: Kit) -> Counted:
    with kit.attach() as probe:
        with probe.pause():
            kit.model(ids(5, 6, 7))
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Whole or not at all", "gradient checkpointing: the backward pass runs blocks again")
def gradient_checkpointing_the_backward_pass_runs_blocks_again(kit: Kit) -> Counted:
    inner = need(kit.model, "original_model")
    for module in inner.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable()
    inner.train()
    with quietly(), kit.attach() as probe:
        kit.model(ids(5, 6, 7)).sum().backward()
        kit.model(ids(5, 8)).sum().backward()
    return kit.read(probe), [6, 7, 8]


@behaviour("Whole or not at all", "a backward pass")
def a_backward_pass(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7)).sum().backward()
    return kit.read(probe), [6, 7]


@behaviour("Whole or not at all", "a looped model, which runs block 1 three times in a pass")
def a_looped_model_which_runs_block_1_three_times(kit: Kit) -> Counted:
    block = kit.model.blocks[1]
    once = block.forward

    def looped(x: Any, *args: Any, **kwargs: Any) -> Any:
        for _ in range(3):
            out = once(x, *args, **kwargs)
            x = out[0] if isinstance(out, tuple) else out
        return out

    block.__dict__["forward"] = looped  # a bridge hands plain attributes on to the block inside
    no_cache = {"use_cache": False} if is_bridge(kit) else {}  # a block that runs again would find its own keys in it
    with quietly(), kit.attach() as probe:
        kit.model(ids(5, 6, 7), **no_cache)
    assert probe.status().points["hidden_states.1"].fired == 3
    return kit.read(probe), [6, 7]


@behaviour("Whole or not at all", "HookedTransformer's ln1.hook_normalized, which fires once or three times a pass")
def hookedtransformer_s_ln1_hook_normalized_which_fires_once_or(kit: Kit) -> Counted:
    name = "blocks.0.ln1.hook_normalized"
    if name not in kit.model.hook_dict:
        raise NotThereError(name)
    with quietly(), kit.attach(replace(DEFAULT, hooks=("resid_pre", name))) as probe:
        kit.model(ids(5, 6, 7))
    assert probe.status().points[name].fired == (1 if is_bridge(kit) else 3)
    return kit.read(probe, "resid_pre.0"), [6, 7]
