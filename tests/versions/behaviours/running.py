"""Ways to run a model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from ..kits import DEFAULT, Kit, NotThereError
from .base import Counted, behaviour, ids, need, quietly


@behaviour("Ways to run", "run_with_cache")
def run_with_cache(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.run_with_cache(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "run_with_hooks")
def run_with_hooks(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * 1)])
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "inside model.hooks()")
def inside_model_hooks(kit: Kit) -> Counted:
    with kit.attach() as probe, kit.model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * 1)]):
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", 'return_type=None and "loss"')
def return_type_none_and_loss(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7), return_type=None)
        kit.model(ids(8, 9), return_type="loss")
    return kit.read(probe), [6, 7, 9]


@behaviour("Ways to run", "the Hugging Face model inside, called by itself")
def the_hugging_face_model_inside_called_by_itself(kit: Kit) -> Counted:
    inner = need(kit.model, "original_model")
    with kit.attach() as probe:
        inner(ids(5, 6, 7))
        inner(ids(5, 8), None, torch.ones(1, 2))
    return kit.read(probe), [6, 7, 8]


@behaviour("Ways to run", "stop_at_layer behind the probe's hook points: counted")
def stop_at_layer_behind_the_probe_s_hook_points(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, layers=(0, 1))) as probe:
        kit.model(ids(5, 6, 7), stop_at_layer=2)
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "run_with_cache(stop_at_layer) behind the probe's hook points: counted")
def run_with_cache_stop_at_layer_behind_the_probe(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, layers=(0, 1))) as probe:
        kit.model.run_with_cache(ids(5, 6, 7), stop_at_layer=2)
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "stop_at_layer before some of them: not counted at any")
def stop_at_layer_before_some_of_them_not_counted(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        kit.model(ids(5, 6, 7), stop_at_layer=2)
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Ways to run", "start_at_layer: not counted, blocks below run on junk")
def start_at_layer_not_counted_blocks_below_run_on(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        try:
            kit.model(torch.randn(1, 3, 16), start_at_layer=1)
        except NotImplementedError:
            raise NotThereError("start_at_layer") from None
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Ways to run", "embeddings as input: not counted")
def embeddings_as_input_not_counted(kit: Kit) -> Counted:
    inner = need(kit.model, "original_model")
    with quietly(), kit.attach() as probe:
        inner(inputs_embeds=torch.randn(1, 3, 16))
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Ways to run", "a forward pass that a hook runs inside another: each counted once")
def a_forward_pass_that_a_hook_runs_inside_another(kit: Kit) -> Counted:
    inside: list[bool] = []

    def nested(x: Any, hook: Any) -> None:
        if not inside:
            inside.append(True)
            kit.model(ids(5, 8, 9))

    with kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", nested)])
    return kit.read(probe), [8, 9, 6, 7]


@behaviour("Ways to run", "a hook that embeds other tokens in the middle of a pass")
def a_hook_that_embeds_other_tokens_in_the_middle(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: touch(kit))])
    return kit.read(probe), [6, 7]


def touch(kit: Kit) -> None:
    kit.model.embed(ids(9, 9, 9))


@behaviour("Ways to run", "eight threads on one model")
def eight_threads_on_one_model(kit: Kit) -> Counted:
    batches = [ids(5, *range(10, 10 + n)) for n in range(1, 9)] * 4
    with kit.attach() as probe, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda tokens: kit.model(tokens), batches))
    return sorted(kit.read(probe)), sorted(token for tokens in batches for token in tokens[0, 1:].tolist())


@behaviour("Ways to run", "torch.compile, compiled before the probe was attached")
def torch_compile_compiled_before_the_probe_was_attached(kit: Kit) -> Counted:
    return compiled(kit, attach_first=False)


@behaviour("Ways to run", "torch.compile, compiled with the probe attached")
def torch_compile_compiled_with_the_probe_attached(kit: Kit) -> Counted:
    return compiled(kit, attach_first=True)


def compiled(kit: Kit, *, attach_first: bool) -> Counted:
    torch._dynamo.reset()
    runs = torch.compile(getattr(kit.model, "original_model", kit.model), backend="aot_eager")
    with torch.no_grad(), quietly():
        if not attach_first:
            runs(ids(5, 6, 7))
        with kit.attach() as probe:
            runs(ids(5, 6, 7))
            runs(ids(5, 8, 9))
    return kit.read(probe), [6, 7, 8, 9]
