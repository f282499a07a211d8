"""What a probe says and does when something happens to its hooks, its model, or the call of it."""

from __future__ import annotations

import copy
import functools
import gc
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import Probe
from mi_probe.errors import HookPointError, MIProbeWarning

from .conftest import save_byte_tokenizer
from .versions.behaviours.base import OF_TEXTS, TEXTS, fail, ids, letters
from .versions.behaviours.generation import PROMPTS, generated, of_steps
from .versions.kits import DEFAULT, Kit, everything_on, kit, replace_point

ALL_TOKENS = replace(DEFAULT, skip_special=False)


@pytest.fixture
def fresh() -> Iterator[Kit]:
    made = kit("TransformerBridge")
    with torch.no_grad():
        made.model(ids(1))
    before = everything_on(made.model)
    yield made
    made.model.reset_hooks()
    gc.collect()
    assert everything_on(made.model) == before


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


def test_a_hook_point_that_never_fires_is_out_of_the_probe_for_good(fresh: Kit) -> None:
    name = "blocks.0.attn.qkv.hook_out"
    with fresh.attach(replace(DEFAULT, hooks=("embed", name))) as probe:
        with pytest.warns(MIProbeWarning, match=f"did not fire and are left out of the probe: {name}"):
            fresh.model(ids(5, 6))
        fresh.model(ids(5, 7))
    assert probe.tokens_seen == probe.streams["embed"].n == 2
    assert probe.status().points[name].state == "never fired: left out of the probe"


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


def test_a_state_read_while_other_threads_count_is_always_whole(fresh: Kit) -> None:
    stop = threading.Event()
    wrong: list[Any] = []

    def watch(probe: Any) -> None:
        while not stop.is_set():
            status = probe.status()
            if len({point.counted for point in status.points.values()} | {status.tokens.get("counted", 0)}) != 1:
                wrong.append(status)
            _ = probe.binnings

    with torch.no_grad(), fresh.attach(Probe(bins=3, calibration_tokens=20)) as probe, ThreadPoolExecutor(4) as pool:
        reader = pool.submit(watch, probe)
        runs = [pool.submit(torch.no_grad()(fresh.model), ids(*range(5, 15))) for _ in range(150)]
        for run in runs:
            run.result()
        stop.set()
        reader.result()
    assert not wrong
    assert probe.tokens_seen == 150 * 9
    for counts in probe.counts.values():
        assert (counts.margins.sum(axis=1) + counts.missing == 150 * 9).all()


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


# -- unusual calls ----------------------------------------------------------------------------------------------------


def test_a_pass_whose_tensors_stand_for_others_is_not_counted(fresh: Kit) -> None:
    point = fresh.model.hook_dict["blocks.1.hook_in"]

    def mapped(x: Any, hook: Any) -> None:
        torch.vmap(point)(x)

    with fresh.attach() as probe, pytest.warns(MIProbeWarning, match="vmap"):
        fresh.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.2.hook_in", mapped)])
    assert probe.tokens_seen == 0


def test_a_compiled_bridge_can_be_attached_to(fresh: Kit) -> None:
    with torch.no_grad():
        compiled = torch.compile(fresh.model, backend="eager")
        with mi_probe.attach(compiled, DEFAULT) as probe:
            compiled(ids(5, 6, 7))
    assert fresh.read(probe) == [6, 7]


def test_arguments_that_generate_refuses_are_refused_as_before(fresh: Kit) -> None:
    with fresh.attach() as probe:
        with pytest.raises(TypeError, match="positional arguments"):
            fresh.model.original_model.generate(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, max_new_token=3)
        with pytest.raises(TypeError, match="stopping_criteria must be"):
            fresh.model.generate(PROMPTS, stopping_criteria=3, verbose=False)
        fresh.model(ids(5, 6))
    assert fresh.read(probe) == [6]


def test_stop_strings_end_a_row(fresh: Kit) -> None:
    says = [letters(text) for text in ("abcde", "axyde", "aabcd", "zzzzz")]

    def speak(logits: Any, hook: Any) -> Any:
        logits = torch.zeros_like(logits)
        for row, text in enumerate(says):
            logits[row, -1, text[min(len(steps), 4)]] = 1
        steps.append(True)
        return logits

    steps: list[bool] = []
    with fresh.attach(ALL_TOKENS) as probe, fresh.model.hooks(fwd_hooks=[("unembed.hook_out", speak)]):
        out = generated(fresh, PROMPTS, stop_at_eos=False, stop_strings=["bc", "y"])
    assert [row[3:6] for row in out] == [text[:3] for text in says]
    rows = [says[0][:3], says[1][:3], says[2][:4], says[3]]
    assert sorted(fresh.read(probe)) == of_steps(rows, PROMPTS)


@pytest.mark.parametrize("criterion", ["MaxLengthCriteria", "EosTokenCriteria", "own"])
def test_stopping_criteria_decide_as_without_a_probe(fresh: Kit, criterion: str) -> None:
    import transformers

    inner = fresh.model.original_model
    made = {
        "MaxLengthCriteria": lambda: transformers.MaxLengthCriteria(20),
        "EosTokenCriteria": lambda: transformers.EosTokenCriteria(generated(fresh, PROMPTS, stop_at_eos=False)[0][5]),
        "own": lambda: OwnCriterion(),
    }[criterion]
    wanted = {"attention_mask": torch.ones_like(PROMPTS), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    before = inner.generate(PROMPTS, stopping_criteria=[made()], **wanted)
    with fresh.attach(ALL_TOKENS):
        after = inner.generate(PROMPTS, stopping_criteria=[made()], **wanted)
    assert torch.equal(before, after)


class OwnCriterion:
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= 9)


@pytest.mark.parametrize("token", [np.int64(3), torch.tensor(3), [3, 4], torch.tensor([3, 4])])
def test_stop_tokens_may_come_in_any_type(fresh: Kit, token: Any) -> None:
    with fresh.attach(ALL_TOKENS) as probe:
        fresh.model.original_model.generate(
            PROMPTS, attention_mask=torch.ones_like(PROMPTS), max_new_tokens=2, eos_token_id=token, pad_token_id=0
        )
    assert probe.tokens_seen >= 8


def test_a_static_cache_counts_as_any_other(fresh: Kit) -> None:
    wanted = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    counted = []
    for cache in (None, "static"):
        with fresh.attach(ALL_TOKENS) as probe:
            fresh.model.original_model.generate(PROMPTS, attention_mask=mask, cache_implementation=cache, **wanted)
        counted.append(fresh.read(probe))
    assert counted[0] == counted[1]
    assert len(counted[0]) == 1 + 3 * 2 + 3 * 4


def test_assisted_decoding_counts_all_that_was_run(fresh: Kit) -> None:
    fed = []
    watch = fresh.model.original_model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with fresh.attach(ALL_TOKENS) as probe:
        fresh.model.original_model.generate(
            ids(5, 6, 5, 6, 5, 6),
            attention_mask=torch.ones(1, 6),
            prompt_lookup_num_tokens=3,
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    watch.remove()
    assert max(fed[1:]) > 1  # drafts were run
    assert probe.tokens_seen == sum(fed) - 1


def test_beam_search_counts_what_each_beam_was_fed(fresh: Kit) -> None:
    with fresh.attach(ALL_TOKENS) as probe:
        fresh.model.original_model.generate(
            PROMPTS[:1],
            attention_mask=torch.ones(1, 3),
            num_beams=3,
            min_new_tokens=4,
            max_new_tokens=4,
            do_sample=False,
            pad_token_id=0,
        )
    assert probe.tokens_seen == 3 * 2 + 3 * 3  # the prompt is repeated for each beam; the last tokens are never fed


def test_a_stream_of_tokens_that_is_given_up_leaves_nothing_behind(fresh: Kit) -> None:
    with fresh.attach(ALL_TOKENS) as probe:
        stream = fresh.model.generate_stream(PROMPTS[:1], max_new_tokens=9, verbose=False, stop_at_eos=False, do_sample=False)
        next(stream)
        stream.close()
        before = probe.tokens_seen
        fresh.model(ids(5, 6))
        fresh.model(ids(5, 6, 7))  # no repetition of a text that a generation has seen
    assert fresh.read(probe)[before:] == [6, 6, 7]


def test_a_visit_is_a_whole_number_and_when_is_before_or_after() -> None:
    assert Probe.from_toml(Probe(when="after", visit=0).to_toml()) == Probe(when="after", visit=0)
    for wrong in ({"visit": -2}, {"visit": "last"}, {"when": "aftr"}):
        with pytest.raises(mi_probe.errors.ProbeError, match=next(iter(wrong))):
            Probe(**wrong)  # type: ignore[arg-type]


def test_values_of_every_hook_point_are_those_of_a_cache(fresh: Kit) -> None:
    tokens = ids(5, 6, 7, 8)
    with fresh.attach() as probe:
        _, cache = fresh.model.run_with_cache(tokens)
    for key, name in probe.points.items():
        np.testing.assert_array_equal(probe.streams[key].rows(), cache[name][0, 1:])


@pytest.mark.parametrize("visit", [None, -1, 0, 2])
def test_a_looped_model_counts_each_token_once_and_any_visit_can_be_chosen(visit: int | None, tmp_path: Path) -> None:
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    torch.manual_seed(0)
    config = transformers.HrmTextConfig(vocab_size=257, intermediate_size=32, max_position_embeddings=32, **small)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    save_byte_tokenizer(tmp_path)
    model = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    model.eval()
    tokens, seen = ids(5, 6, 7), []
    model.run_with_hooks(tokens, fwd_hooks=[("L_blocks.0.hook_out", lambda x, hook: seen.append(x[0, 1:].detach().numpy()))])
    assert len(seen) == 6
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with mi_probe.attach(model, replace(DEFAULT, hooks="L_blocks.0.hook_out", visit=visit)) as probe:
            model(tokens)
    assert probe.tokens_seen == 2
    np.testing.assert_array_equal(probe.streams["L_blocks.0.hook_out"].rows(), seen[-1 if visit is None else visit])
    warned = [w for w in said if "fires several times in a forward pass, with different values" in str(w.message)]
    assert len(warned) == (visit is None)
