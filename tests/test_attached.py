"""What a probe says and does when something happens to its hooks, its model, or the call of it."""

from __future__ import annotations

import copy
import functools
import gc
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch

from mi_probe import Probe
from mi_probe.errors import HookPointError, MIProbeWarning

from .versions.behaviours.base import OF_TEXTS, TEXTS, fail, ids
from .versions.behaviours.generation import PROMPTS, generated
from .versions.kits import DEFAULT, Kit, everything_on, kit, replace_point

ALL_TOKENS = replace(DEFAULT, skip_special=False)


def leave(probe: Any) -> None:
    """As at the end of a with block."""
    probe.__exit__(None, None, None)


# -- hooks that others take off ---------------------------------------------------------------------------------------


def test_hooks_taken_off_are_noticed_within_one_pass_and_named(fresh: Kit) -> None:
    with fresh.attach() as probe:
        fresh.model(ids(5, 6))
        fresh.model.reset_hooks(including_permanent=True)
        with pytest.warns(MIProbeWarning, match=r"blocks\.0\.hook_resid_pre: its hook was taken off.*and 1 more.*reattach"):
            fresh.model(ids(5, 7))
        assert probe.status().points["hidden_states.0"].state == "its hook was taken off"
        probe.reattach()
        assert probe.status().points["hidden_states.0"].state == "attached"
        fresh.model(ids(5, 8))
    assert fresh.read(probe) == [6, 8]
    assert probe.ledger.passes == {"counted": 2, "the probe's hooks were taken off": 1}


def test_hooks_taken_off_are_noticed_at_the_end_even_without_a_pass(fresh: Kit) -> None:
    probe = fresh.attach()
    fresh.model(ids(5, 6))
    fresh.model.reset_hooks(including_permanent=True)
    with pytest.warns(MIProbeWarning, match="its hook was taken off"):
        leave(probe)


def test_a_replaced_hook_point_is_named(fresh: Kit) -> None:
    with fresh.attach() as probe:
        replace_point(fresh)
        with pytest.warns(MIProbeWarning, match=r"blocks\.1\.hook_resid_pre: the hook point was replaced"):
            fresh.model(ids(5, 6))
    assert probe.tokens_seen == 0


def test_every_hook_and_method_taken_off_is_noticed_at_the_end(fresh: Kit) -> None:
    probe = fresh.attach()
    fresh.model.reset_hooks(including_permanent=True)
    del fresh.model.original_model.__dict__["forward"]
    fresh.model(ids(5, 6))
    with pytest.warns(MIProbeWarning, match="watch on this method was taken off"):
        leave(probe)
    assert probe.tokens_seen == 0


def test_a_hook_point_that_is_gone_is_named(fresh: Kit) -> None:
    with fresh.attach() as probe:
        registry = fresh.model._hook_registry
        gone = {key: registry.pop(key) for key in [k for k, p in registry.items() if p is registry["blocks.1.hook_in"]]}
        assert probe.status().points["hidden_states.1"].state == "the hook point is gone"
        registry |= gone
        assert probe.status().points["hidden_states.1"].state == "attached"
        fresh.model(ids(5, 6))


def test_a_mask_of_another_length_is_refused_with_one_reason_in_the_books(fresh: Kit) -> None:
    def short(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": None}

    strip = fresh.model.original_model.transformer.register_forward_pre_hook(short, with_kwargs=True)
    with fresh.attach() as probe:
        with pytest.warns(MIProbeWarning, match=r"attention mask has shape \(1, 2\); with 3 tokens in each of 1 rows"):
            fresh.model.original_model(ids(5, 6, 7), attention_mask=torch.ones(1, 2))
        fresh.model.original_model(ids(5, 6, 7, 8), attention_mask=torch.ones(1, 2))
    strip.remove()
    assert probe.ledger.passes == {"its attention mask does not tell what is padding": 2}
    assert probe.ledger.tokens.total() == 7


def test_two_sets_that_are_one_place_are_refused(fresh: Kit) -> None:
    with pytest.raises(HookPointError, match=r"'resid_pre\.0' and 'hidden_states\.0' are the same place"):
        fresh.attach(Probe(hooks=("resid_pre", "hidden_states")))


def test_a_forward_method_put_back_is_noticed_at_once(fresh: Kit) -> None:
    with fresh.attach() as probe:
        del fresh.model.original_model.__dict__["forward"]
        with pytest.warns(MIProbeWarning, match="watch on this method was taken off"):
            fresh.model(ids(5, 6))
        probe.reattach()
        fresh.model(ids(5, 7))
    assert fresh.read(probe) == [7]


def test_a_probe_of_a_model_that_is_gone_cannot_be_put_on_again(fresh: Kit) -> None:
    probe = kit("TransformerBridge").attach()
    probe.detach()
    gc.collect()
    with pytest.raises(HookPointError, match="is gone"):
        probe.reattach()


@pytest.mark.parametrize("open_about_it", [True, False])
def test_a_wrapper_of_someone_else_around_forward_stays_when_the_probe_leaves(fresh: Kit, open_about_it: bool) -> None:
    inner, calls = fresh.model.original_model, []
    with fresh.attach() as probe:
        ours = inner.forward

        def theirs(*args: Any, **kwargs: Any) -> Any:
            calls.append(True)
            return ours(*args, **kwargs)

        inner.forward = functools.wraps(ours)(theirs) if open_about_it else theirs
        fresh.model(ids(5, 6))
    fresh.model(ids(5, 7))
    assert (len(calls), fresh.read(probe)) == (2, [6])
    with fresh.attach() as again:
        fresh.model(ids(5, 8))
    assert fresh.read(again) == [8]
    del inner.__dict__["forward"]


# -- leaving ----------------------------------------------------------------------------------------------------------


def test_del_takes_every_hook_off_at_once(fresh: Kit) -> None:
    before = everything_on(fresh.model)
    probe = fresh.attach()
    assert everything_on(fresh.model) != before
    del probe
    assert everything_on(fresh.model) == before


def test_a_copy_of_the_model_has_methods_of_its_own(fresh: Kit) -> None:
    with fresh.attach() as probe:
        twin = copy.deepcopy(fresh.model)
        fresh.model(ids(5, 6))
        twin(ids(5, 7))
    assert fresh.read(probe) == [6]
    assert twin.generate.__self__ is twin
    assert twin.original_model.forward.__self__ is twin.original_model
    assert torch.equal(twin(ids(5, 6)), fresh.model(ids(5, 6)))


def test_a_call_of_a_forward_method_taken_before_is_not_silently_lost(fresh: Kit) -> None:
    inner = fresh.model.original_model
    forward = inner.forward
    with pytest.warns(MIProbeWarning, match="outside any forward pass"), fresh.attach() as probe:
        forward(ids(5, 6))
    assert probe.status().points["hidden_states.0"].fired_outside == 1


def test_a_pass_that_ctrl_c_ended_is_over_and_ctrl_c_arrives_as_it_was(fresh: Kit) -> None:
    pressed = KeyboardInterrupt()

    def interrupt(x: Any, hook: Any) -> None:
        raise pressed

    with fresh.attach() as probe:
        with pytest.raises(KeyboardInterrupt) as arrived:
            fresh.model.run_with_hooks(ids(5, 6), fwd_hooks=[("blocks.1.hook_resid_post", interrupt)])
        assert arrived.value is pressed
        assert arrived.value.__notes__ == ["mi_probe: none of the tokens of this forward pass was counted."]
        fresh.model.hook_dict["blocks.2.hook_resid_pre"](torch.zeros(1, 2, 16))
        assert probe.status().points["hidden_states.2"].fired_outside == 1
        fresh.model(ids(5, 7))
    assert probe.ledger.passes == {"an error ended it": 1, "counted": 1}


def test_a_probe_that_saw_nothing_but_errors_says_so(fresh: Kit) -> None:
    probe = fresh.attach()
    with suppress(RuntimeError):
        fresh.model.run_with_hooks(ids(5, 6), fwd_hooks=[("blocks.1.hook_resid_post", fail)])
    with pytest.warns(MIProbeWarning, match=r"no token was counted at .*and 1 more.*1 x an error ended it"):
        leave(probe)


def test_a_text_too_short_to_count_is_said_with_the_reason(fresh: Kit) -> None:
    probe = fresh.attach()
    fresh.model(ids(5))
    with pytest.warns(MIProbeWarning, match="tokens were left out .1 x first positions"):
        leave(probe)


def test_every_probe_warns_for_itself_at_the_line_of_the_user(fresh: Kit) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # Python's own filter shows a line once
        for _ in range(3):
            with fresh.attach():
                fresh.model(ids(5, 6), stop_at_layer=1)
    assert [w.filename for w in said] == [__file__] * 3
    assert all("stop_at_layer" in str(w.message) for w in said)


def test_pauses_that_overlap_end_with_the_last(fresh: Kit) -> None:
    with fresh.attach() as probe:
        one, two = probe.pause(), probe.pause()
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        fresh.model(ids(5, 6))
        two.__exit__(None, None, None)
        fresh.model(ids(5, 7))
    assert fresh.read(probe) == [7]


def test_what_goes_wrong_in_a_pause_is_nobodys_business(fresh: Kit) -> None:
    with fresh.attach() as probe:
        with probe.pause():
            fresh.model(ids(5, 6), stop_at_layer=1)
            with pytest.raises(RuntimeError) as raised:
                fresh.model.run_with_hooks(ids(5, 6), fwd_hooks=[("blocks.1.hook_resid_post", fail)])
        fresh.model(ids(5, 7))
    assert not hasattr(raised.value, "__notes__")
    assert probe.ledger.passes == {"the probe was paused": 2, "counted": 1}
    assert probe.ledger.tokens.total() == 6


def test_a_state_read_while_other_threads_count_is_always_whole(fresh: Kit) -> None:
    stop = threading.Event()
    wrong: list[Any] = []

    def watch(probe: Any) -> None:
        while not stop.wait(0.002):
            status = probe.status()
            if len({point.counted for point in status.points.values()} | {status.tokens.get("counted", 0)}) != 1:
                wrong.append(status)
            _ = probe.binnings

    with torch.no_grad(), fresh.attach(Probe(bins=3, calibration_tokens=20)) as probe, ThreadPoolExecutor(4) as pool:
        reader = pool.submit(watch, probe)
        runs = [pool.submit(torch.no_grad()(fresh.model), ids(*range(5, 15))) for _ in range(100)]
        for run in runs:
            run.result()
        stop.set()
        reader.result()
    assert not wrong
    assert probe.tokens_seen == 100 * 9
    for counts in probe.counts.values():
        assert (counts.margins.sum(axis=1) + counts.missing == 100 * 9).all()


# -- the books --------------------------------------------------------------------------------------------------------


def test_every_token_that_went_in_is_in_the_books_once(fresh: Kit) -> None:
    with fresh.attach() as probe:
        fresh.model(TEXTS)
        fed = fresh.model.to_tokens(TEXTS).numel()
        fresh.model(ids(0, 5, 0, 6))
        with probe.pause():
            fresh.model(ids(5, 6, 7))
        out = generated(fresh, PROMPTS[:1], stop_at_eos=False, use_past_kv_cache=False)
        fed += 4 + 3 + sum(range(3, len(out[0])))
        status = probe.status()
    assert sum(status.tokens.values()) == fed
    assert status.tokens["padding"] == fresh.model.to_tokens(TEXTS).numel() - len(OF_TEXTS) - len(TEXTS)
    assert status.tokens["special tokens"] == 1
    assert status.tokens["in forward passes that were not counted"] == 3
    assert status.tokens["counted"] == probe.tokens_seen
    assert status.passes == {"counted": 7, "the probe was paused": 1}
    assert {point.fired for point in status.points.values()} == {8}
    assert str(status).splitlines()[0] == f"{probe.tokens_seen} tokens counted at 4 hook points"
    assert probe.status().points["hidden_states.0"].state == "detached"
