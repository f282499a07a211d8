"""Other people's hooks."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace
from typing import Any

from ..kits import DEFAULT, Kit, replace_point
from .base import Counted, behaviour, ids, quietly


@behaviour("Other people's hooks", "reset_hooks()")
def reset_hooks(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.reset_hooks()
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Other people's hooks", "reset_hooks(including_permanent=True): not counted, until reattach()")
def reset_hooks_including_permanent_true_not_counted_until_reattach(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        for point in kit.model.hook_dict.values():  # what it does; one version's bridge has no such argument
            point.remove_hooks(dir="both", including_permanent=True)
        kit.model(ids(5, 6, 7))
        probe.reattach()
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Other people's hooks", "every torch hook taken off, as pyvene does: not counted, until reattach()")
def every_torch_hook_taken_off_as_pyvene_does_not(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        for module in kit.model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        kit.model(ids(5, 6, 7))
        probe.reattach()
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Other people's hooks", "a hook point replaced, as SAELens does: not counted, until reattach()")
def a_hook_point_replaced_as_saelens_does_not_counted(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        replace_point(kit)
        kit.model(ids(5, 6, 7))
        probe.reattach()
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Other people's hooks", "two hooks() contexts closed in the wrong order")
def two_hooks_contexts_closed_in_the_wrong_order(kit: Kit) -> Counted:
    first = kit.model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook: None)])
    second = kit.model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook: None)])
    with kit.attach() as probe:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        kit.model(ids(5, 6, 7))
        second.__exit__(None, None, None)
        kit.model(ids(5, 8))
    return kit.read(probe), [6, 7, 8]


@behaviour("Other people's hooks", "another probe on the same points, leaving first")
def another_probe_on_the_same_points_leaving_first(kit: Kit) -> Counted:
    other = kit.attach()
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
        other.detach()
        kit.model(ids(5, 8))
    assert kit.read(other) == [6, 7]
    return kit.read(probe), [6, 7, 8]


@behaviour("Other people's hooks", "a deep copy of the model does not feed the probe")
def a_deep_copy_of_the_model_does_not_feed(kit: Kit) -> Counted:
    with kit.attach() as probe:
        twin = copy.deepcopy(kit.model)
        twin(ids(5, 6, 7))
        kit.model(ids(5, 8))
        twin.generate(ids(5, 9), max_new_tokens=2, verbose=False, do_sample=False)
    return kit.read(probe), [8]


@behaviour("Other people's hooks", "a deep copy run inside a pass of the model")
def a_deep_copy_run_inside_a_pass_of_the(kit: Kit) -> Counted:
    with kit.attach() as probe:
        twin = copy.deepcopy(kit.model)
        run = [("blocks.1.hook_resid_post", lambda x, hook: ignore(twin(ids(5, 3))))]
        kit.model.run_with_hooks(ids(5, 8), fwd_hooks=run)
    return kit.read(probe), [8]


def ignore(_value: Any) -> None:
    """A hook that returns None leaves the activation as it is."""


@behaviour("Other people's hooks", "del probe takes its hooks off")
def del_probe_takes_its_hooks_off(kit: Kit) -> Counted:
    with kit.attach() as witness:
        lost = kit.attach()
        streams = lost.streams
        kit.model(ids(5, 6))
        del lost
        gc.collect()
        kit.model(ids(5, 7))
    assert {stream.n for stream in streams.values()} == {1}
    return kit.read(witness), [6, 7]


@behaviour("Other people's hooks", 'when="before" others\' edits')
def when_before_others_edits(kit: Kit) -> Counted:
    return edited(kit, "before", 6)


@behaviour("Other people's hooks", 'when="after" others\' edits')
def when_after_others_edits(kit: Kit) -> Counted:
    return edited(kit, "after", 9)


def edited(kit: Kit, when: Any, expected: int) -> Counted:
    """Someone's hook, added before and after the probe's, puts token 9 in the place of token 6."""
    row = kit.model.embed.W_E[9].detach()

    def edit(x: Any, hook: Any) -> Any:
        x = x.clone()
        x[0, 1] = row
        return x

    counted = []
    for first in (True, False):
        kit.model.reset_hooks()
        if first:
            kit.model.add_hook("blocks.0.hook_resid_pre", edit)
        with kit.attach(replace(DEFAULT, when=when)) as probe:
            if not first:
                kit.model.add_hook("blocks.0.hook_resid_pre", edit)
            kit.model(ids(5, 6))
        counted += kit.read(probe)
    return counted, [expected, expected]
