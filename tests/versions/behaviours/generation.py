"""Generation."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch

from ..kits import DEFAULT, Kit, NotThereError
from .base import OF_TEXTS, TEXTS, Counted, behaviour, ids, is_bridge, need

STEPS = 5


def generated(kit: Kit, prompt: torch.Tensor, **kwargs: Any) -> list[list[int]]:
    wanted = {"max_new_tokens": STEPS, "do_sample": False, "verbose": False, "return_type": "tokens"} | kwargs
    out: list[list[int]] = kit.model.generate(prompt, **wanted).tolist()
    return out


def an_ending(kit: Kit, prompt: torch.Tensor) -> tuple[int, list[list[int]]]:
    """A token with which some row of the prompt ends early and another never, and what each row generates up to it."""
    with torch.no_grad():
        out = [row[prompt.shape[1] :] for row in generated(kit, prompt, stop_at_eos=False)]
    for token in {t for row in out for t in row}:
        ends = [row.index(token) if token in row else None for row in out]
        if None in ends and any(end is not None and end < STEPS - 2 for end in ends):
            rows = [row[: STEPS if end is None else end + 1] for row, end in zip(out, ends, strict=True)]
            return token, rows
    raise AssertionError(f"no such token in {out}")


PROMPTS = torch.tensor([[5, 6, 7], [90, 91, 92], [33, 150, 201], [77, 12, 60]])


def of_steps(rows: list[list[int]], prompts: torch.Tensor) -> list[int]:
    """Prompt once, then what each row was fed of its own: the last token of a row is never needed."""
    return sorted([int(t) for row in prompts for t in row[1:]] + [t for row in rows for t in row[:-1]])


@behaviour("Generation", "generate: prompt once, each new token once")
def generate_prompt_once_each_new_token_once(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = generated(kit, PROMPTS[:1], stop_at_eos=False)
    return kit.read(probe), out[0][1:-1]


@behaviour("Generation", "generate(use_past_kv_cache=False): the same, though each step runs the whole text")
def generate_use_past_kv_cache_false_the_same_though(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = generated(kit, PROMPTS[:1], stop_at_eos=False, use_past_kv_cache=False)
    return kit.read(probe), out[0][1:-1]


@behaviour("Generation", "several rows, one ends early: no more of it is counted")
def several_rows_one_ends_early_no_more_of_it(kit: Kit) -> Counted:
    token, rows = an_ending(kit, PROMPTS)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        generated(kit, PROMPTS, eos_token_id=token)
    return sorted(kit.read(probe)), of_steps(rows, PROMPTS)


@behaviour("Generation", "the same without a cache")
def the_same_without_a_cache(kit: Kit) -> Counted:
    token, rows = an_ending(kit, PROMPTS)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        generated(kit, PROMPTS, eos_token_id=token, use_past_kv_cache=False)
    return sorted(kit.read(probe)), of_steps(rows, PROMPTS)


@behaviour("Generation", "a list of prompts of several lengths: padding never counted")
def a_list_of_prompts_of_several_lengths_padding_never(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = kit.model.generate(TEXTS, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False, return_type="tokens")
    new = [t for row in out.tolist() for t in row[-3:-1]]
    return sorted(kit.read(probe)), sorted(OF_TEXTS + new)


@behaviour("Generation", "the same without a cache, padding in the middle of the growing text")
def the_same_without_a_cache_padding_in_the_middle(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = kit.model.generate(
            TEXTS,
            max_new_tokens=3,
            do_sample=False,
            verbose=False,
            stop_at_eos=False,
            return_type="tokens",
            use_past_kv_cache=False,
        )
    new = [t for row in out.tolist() for t in row[-3:-1]]
    return sorted(kit.read(probe)), sorted(OF_TEXTS + new)


@behaviour("Generation", "a pass that a hook runs inside a step of it: counted, and the steps go on")
def a_pass_that_a_hook_runs_inside_a_step(kit: Kit) -> Counted:
    passes: list[bool] = []

    def nested(x: Any, hook: Any) -> None:
        passes.append(True)
        if len(passes) == 3:  # in the third step, when a text of two tokens could be taken for one fed before
            kit.model(ids(9, 8))

    kit.model.add_hook("blocks.1.hook_resid_post", nested)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = generated(kit, PROMPTS[:1], stop_at_eos=False, use_past_kv_cache=False)
    fed = out[0][1:-1]
    return kit.read(probe), [*fed[:3], 8, *fed[3:]]


@behaviour("Generation", "generate_stream, without a cache, and other passes between its pieces")
def generate_stream(kit: Kit) -> Counted:
    need(kit.model, "generate_stream")
    out = generated(kit, PROMPTS[:1], stop_at_eos=False, max_new_tokens=4)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        stream = kit.model.generate_stream(
            PROMPTS[:1],
            max_new_tokens=4,
            max_tokens_per_yield=1,
            stop_at_eos=False,
            do_sample=False,
            verbose=False,
            return_type="tokens",
            use_past_kv_cache=False,
        )
        pieces = 0
        for _ in stream:
            pieces += 1
            kit.model(ids(3, 4))  # the caller's own pass between two pieces is none of its steps
    return sorted(kit.read(probe)), sorted([*out[0][1:-1], *[4] * pieces])


@behaviour("Generation", "hf_generate")
def hf_generate(kit: Kit) -> Counted:
    need(kit.model, "hf_generate")
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = kit.model.hf_generate(PROMPTS[:1], max_new_tokens=4, do_sample=False, stop_at_eos=False, return_type="tokens")
    return kit.read(probe), out[0].tolist()[1:-1]


@behaviour("Generation", "Hugging Face's own generate, several rows, one ends early")
def hugging_face_s_own_generate_several_rows_one_ends(kit: Kit) -> Counted:
    inner = need(kit.model, "original_model")
    need(inner, "generate")
    token, rows = an_ending(kit, PROMPTS)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        inner.generate(
            PROMPTS,
            attention_mask=torch.ones_like(PROMPTS),
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=token,
            pad_token_id=token,
        )
    return sorted(kit.read(probe)), of_steps(rows, PROMPTS)


@behaviour("Generation", "stopping criteria: a row that they end is counted no further")
def stopping_criteria_a_row_that_they_end_is_counted(kit: Kit) -> Counted:

    from transformers import StoppingCriteria

    if "stopping_criteria" not in inspect.signature(kit.model.generate).parameters:
        raise NotThereError("stopping_criteria")

    class SecondRowAfterTwo(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.tensor([False, input_ids.shape[1] >= 5, False, False])

    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = generated(kit, PROMPTS, stop_at_eos=False, stopping_criteria=[SecondRowAfterTwo()])
    rows = [row[3 : 5 if k == 1 else None] for k, row in enumerate(out)]
    return sorted(kit.read(probe)), of_steps(rows, PROMPTS)


@behaviour("Generation", "a loop of your own with a KV cache")
def a_loop_of_your_own_with_a_kv_cache(kit: Kit) -> Counted:
    prompt = PROMPTS[:2]
    past = None if is_bridge(kit) else a_cache(kit, 2)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        for piece in (prompt, prompt[:, :1], prompt[:, 1:]):
            if is_bridge(kit):
                past = kit.model.original_model(piece, past_key_values=past, use_cache=True).past_key_values
            else:
                kit.model(piece, past_kv_cache=past)
    return sorted(kit.read(probe)), sorted([*prompt[:, 1:].flatten().tolist(), *prompt.flatten().tolist()])


def a_cache(kit: Kit, rows: int) -> Any:
    try:
        from transformer_lens import HookedTransformerKeyValueCache as KeyValueCache
    except ImportError:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as KeyValueCache
    return KeyValueCache.init_cache(kit.model.cfg, "cpu", rows)
