"""Each thing that can happen to a probe: which tokens it counted, and which it should have. docs/hooks.md has the table of them.

A behaviour takes a fresh kit and returns (tokens counted, tokens expected). Token 0 is BOS, EOS and padding at once, as in GPT-2.
"""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from .kits import DEFAULT, EVERYTHING, Kit, NotThereError

Counted = tuple[list[int], list[int]]
BEHAVIOURS: dict[str, tuple[str, Callable[[Kit], Counted]]] = {}


def behaviour(section: str, name: str) -> Callable[[Callable[[Kit], Counted]], Callable[[Kit], Counted]]:
    def add(function: Callable[[Kit], Counted]) -> Callable[[Kit], Counted]:
        assert name not in BEHAVIOURS
        BEHAVIOURS[name] = (section, function)
        return function

    return add


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor([list(tokens)])


def letters(text: str) -> list[int]:
    """Token ids of a text without BOS, by the tests' tokenizer of single bytes."""
    from .kits import tokenizer

    return [int(t) for t in tokenizer()(text, add_special_tokens=False)["input_ids"] if t != 0]


@contextmanager
def quietly() -> Any:
    """Warnings belong to some behaviours; that they are given is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def need(thing: Any, name: str) -> Any:
    if not callable(getattr(thing, name, None)):
        raise NotThereError(name)
    return getattr(thing, name)


def is_bridge(kit: Kit) -> bool:
    return hasattr(kit.model, "original_model")


def fail(*_args: Any, **_kwargs: Any) -> None:
    raise RuntimeError("on purpose")


# -- texts and padding ------------------------------------------------------------------------------------------------

TEXTS = ["tea", "coffee, black", "mocha"]
OF_TEXTS = [token for text in TEXTS for token in letters(text)]


@behaviour("Texts and padding", "one string: BOS left out")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model("coffee")
    return kit.read(probe), letters("coffee")


@behaviour("Texts and padding", "one string, skip_first=0 and skip_special=False: BOS counted")
def _(kit: Kit) -> Counted:
    with kit.attach(EVERYTHING) as probe:
        kit.model("coffee")
    return kit.read(probe), [0, *letters("coffee")]


@behaviour("Texts and padding", "token ids: the first position left out")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Texts and padding", "list of strings, padded on the right (no mask anywhere)")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(TEXTS)
    return kit.read(probe), OF_TEXTS


@behaviour("Texts and padding", "list of strings, padded on the left by the tokenizer")
def _(kit: Kit) -> Counted:
    kit.model.tokenizer.padding_side = "left"
    try:
        with kit.attach() as probe:
            kit.model(TEXTS)
        return kit.read(probe), OF_TEXTS
    finally:
        kit.model.tokenizer.padding_side = "right"


@behaviour("Texts and padding", 'list of strings, padding_side="left" in the call')
def _(kit: Kit) -> Counted:
    if torch.equal(kit.model.to_tokens(TEXTS, padding_side="left"), kit.model.to_tokens(TEXTS)):
        raise NotThereError("working padding_side")  # 3.5.1 pads on the right all the same, and masks as if on the left
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        kit.model(TEXTS, padding_side="left")
    return kit.read(probe), OF_TEXTS


@behaviour("Texts and padding", 'list of strings, padding_side="right" against the tokenizer\'s side')
def _(kit: Kit) -> Counted:
    kit.model.tokenizer.padding_side = "left"
    try:
        with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
            kit.model(TEXTS, padding_side="right")
        return kit.read(probe), OF_TEXTS
    finally:
        kit.model.tokenizer.padding_side = "right"


@behaviour("Texts and padding", "an explicit attention mask")
def _(kit: Kit) -> Counted:
    tokens = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with kit.attach() as probe:
        kit.model(tokens, attention_mask=mask)
    return kit.read(probe), [6, 7, 6, 7, 8, 9]


@behaviour("Texts and padding", "an explicit mask of a left-padded batch: the first real position left out")
def _(kit: Kit) -> Counted:
    tokens = torch.tensor([[5, 5, 7, 8, 9], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with kit.attach() as probe:
        kit.model(tokens, attention_mask=mask)
    return kit.read(probe), [8, 9, 6, 7, 8, 9]


@behaviour("Texts and padding", "one row that ends in the padding token: a token, not padding")
def _(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        kit.model(ids(5, 6, 7, 0))
    return kit.read(probe), [6, 7, 0]


@behaviour("Texts and padding", "a packed row with BOS inside: each BOS left out")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(0, 5, 6, 0, 7, 8, 0))
    return kit.read(probe), [5, 6, 7, 8]


@behaviour("Texts and padding", "no tokenizer: by position alone")
def _(kit: Kit) -> Counted:
    tok = kit.model.tokenizer
    kit.model.tokenizer = None
    try:
        with kit.attach() as probe:
            kit.model(torch.tensor([[5, 6, 0], [7, 8, 9]]))
        return kit.read(probe), [6, 0, 8, 9]
    finally:
        kit.model.tokenizer = tok


# -- ways to run ------------------------------------------------------------------------------------------------------


@behaviour("Ways to run", "run_with_cache")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.run_with_cache(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "run_with_hooks")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * 1)])
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "inside model.hooks()")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe, kit.model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * 1)]):
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", 'return_type=None and "loss"')
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7), return_type=None)
        kit.model(ids(8, 9), return_type="loss")
    return kit.read(probe), [6, 7, 9]


@behaviour("Ways to run", "the Hugging Face model inside, called by itself")
def _(kit: Kit) -> Counted:
    inner = need(kit.model, "original_model")
    with kit.attach() as probe:
        inner(ids(5, 6, 7))
        inner(ids(5, 8), None, torch.ones(1, 2))
    return kit.read(probe), [6, 7, 8]


@behaviour("Ways to run", "stop_at_layer behind the probe's hook points: counted")
def _(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, layers=(0, 1))) as probe:
        kit.model(ids(5, 6, 7), stop_at_layer=2)
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "run_with_cache(stop_at_layer) behind the probe's hook points: counted")
def _(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, layers=(0, 1))) as probe:
        kit.model.run_with_cache(ids(5, 6, 7), stop_at_layer=2)
    return kit.read(probe), [6, 7]


@behaviour("Ways to run", "stop_at_layer before some of them: not counted at any")
def _(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        kit.model(ids(5, 6, 7), stop_at_layer=2)
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Ways to run", "start_at_layer: not counted, blocks below run on junk")
def _(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        try:
            kit.model(torch.randn(1, 3, 16), start_at_layer=1)
        except NotImplementedError:
            raise NotThereError("start_at_layer") from None
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Ways to run", "embeddings as input: not counted")
def _(kit: Kit) -> Counted:
    inner = need(kit.model, "original_model")
    with quietly(), kit.attach() as probe:
        inner(inputs_embeds=torch.randn(1, 3, 16))
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Ways to run", "a forward pass that a hook runs inside another: each counted once")
def _(kit: Kit) -> Counted:
    inside: list[bool] = []

    def nested(x: Any, hook: Any) -> None:
        if not inside:
            inside.append(True)
            kit.model(ids(5, 8, 9))

    with kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", nested)])
    return kit.read(probe), [8, 9, 6, 7]


@behaviour("Ways to run", "a hook that embeds other tokens in the middle of a pass")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: touch(kit))])
    return kit.read(probe), [6, 7]


def touch(kit: Kit) -> None:
    kit.model.embed(ids(9, 9, 9))


@behaviour("Ways to run", "eight threads on one model")
def _(kit: Kit) -> Counted:
    batches = [ids(5, *range(10, 10 + n)) for n in range(1, 9)] * 4
    with kit.attach() as probe, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda tokens: kit.model(tokens), batches))
    return sorted(kit.read(probe)), sorted(token for tokens in batches for token in tokens[0, 1:].tolist())


@behaviour("Ways to run", "torch.compile, compiled before the probe was attached")
def _(kit: Kit) -> Counted:
    return compiled(kit, attach_first=False)


@behaviour("Ways to run", "torch.compile, compiled with the probe attached")
def _(kit: Kit) -> Counted:
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


# -- generation -------------------------------------------------------------------------------------------------------

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
def _(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = generated(kit, PROMPTS[:1], stop_at_eos=False)
    return kit.read(probe), out[0][1:-1]


@behaviour("Generation", "generate(use_past_kv_cache=False): the same, though each step runs the whole text")
def _(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = generated(kit, PROMPTS[:1], stop_at_eos=False, use_past_kv_cache=False)
    return kit.read(probe), out[0][1:-1]


@behaviour("Generation", "several rows, one ends early: no more of it is counted")
def _(kit: Kit) -> Counted:
    token, rows = an_ending(kit, PROMPTS)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        generated(kit, PROMPTS, eos_token_id=token)
    return sorted(kit.read(probe)), of_steps(rows, PROMPTS)


@behaviour("Generation", "the same without a cache")
def _(kit: Kit) -> Counted:
    token, rows = an_ending(kit, PROMPTS)
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        generated(kit, PROMPTS, eos_token_id=token, use_past_kv_cache=False)
    return sorted(kit.read(probe)), of_steps(rows, PROMPTS)


@behaviour("Generation", "a list of prompts of several lengths: padding never counted")
def _(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = kit.model.generate(TEXTS, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False, return_type="tokens")
    new = [t for row in out.tolist() for t in row[-3:-1]]
    return sorted(kit.read(probe)), sorted(OF_TEXTS + new)


@behaviour("Generation", "the same without a cache, padding in the middle of the growing text")
def _(kit: Kit) -> Counted:
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
def _(kit: Kit) -> Counted:
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


@behaviour("Generation", "generate_stream")
def _(kit: Kit) -> Counted:
    stream = need(kit.model, "generate_stream")
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
        pieces = []
        for piece in stream:
            pieces.append(piece)
            with probe.pause():
                kit.model(ids(3, 3))  # the caller's own pass between two pieces is none of its steps
    last = pieces[-1].reshape(-1).tolist()
    out = torch.cat([piece.reshape(1, -1) for piece in pieces], dim=1)[0].tolist()
    new = out[-4:] if len(out) >= 4 else last
    return kit.read(probe), [*PROMPTS[0, 1:].tolist(), *new[:-1]]


@behaviour("Generation", "hf_generate")
def _(kit: Kit) -> Counted:
    need(kit.model, "hf_generate")
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        out = kit.model.hf_generate(PROMPTS[:1], max_new_tokens=4, do_sample=False, stop_at_eos=False, return_type="tokens")
    return kit.read(probe), out[0].tolist()[1:-1]


@behaviour("Generation", "Hugging Face's own generate, several rows, one ends early")
def _(kit: Kit) -> Counted:
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
def _(kit: Kit) -> Counted:
    import inspect

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
def _(kit: Kit) -> Counted:
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


# -- whole or not at all ----------------------------------------------------------------------------------------------


@behaviour("Whole or not at all", "an error in someone's hook")
def _(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        with suppress(RuntimeError):
            kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.2.hook_resid_post", fail)])
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Whole or not at all", "Ctrl-C in the middle of a pass")
def _(kit: Kit) -> Counted:
    def interrupt(x: Any, hook: Any) -> None:
        raise KeyboardInterrupt

    with quietly(), kit.attach() as probe:
        with suppress(KeyboardInterrupt):
            kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.2.hook_resid_post", interrupt)])
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Whole or not at all", "an error in a pass inside a pass: the outer one is counted")
def _(kit: Kit) -> Counted:
    def nested(x: Any, hook: Any) -> None:
        with kit.model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", fail)]), suppress(RuntimeError):
            kit.model(ids(5, 9))

    with quietly(), kit.attach() as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_post", nested)])
    return kit.read(probe), [6, 7]


@behaviour("Whole or not at all", "pause()")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        with probe.pause():
            kit.model(ids(5, 6, 7))
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Whole or not at all", "gradient checkpointing: the backward pass runs blocks again")
def _(kit: Kit) -> Counted:
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
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7)).sum().backward()
    return kit.read(probe), [6, 7]


@behaviour("Whole or not at all", "a looped model, which runs block 1 three times in a pass")
def _(kit: Kit) -> Counted:
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
def _(kit: Kit) -> Counted:
    name = "blocks.0.ln1.hook_normalized"
    if name not in kit.model.hook_dict:
        raise NotThereError(name)
    with quietly(), kit.attach(replace(DEFAULT, hooks=("resid_pre", name))) as probe:
        kit.model(ids(5, 6, 7))
    return kit.read(probe, "resid_pre.0"), [6, 7]


# -- other people's hooks ---------------------------------------------------------------------------------------------


@behaviour("Other people's hooks", "reset_hooks()")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model.reset_hooks()
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Other people's hooks", "reset_hooks(including_permanent=True): not counted, until reattach()")
def _(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        for point in kit.model.hook_dict.values():  # what it does; one version's bridge has no such argument
            point.remove_hooks(dir="both", including_permanent=True)
        kit.model(ids(5, 6, 7))
        probe.reattach()
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Other people's hooks", "every torch hook taken off, as pyvene does: not counted, until reattach()")
def _(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        for module in kit.model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        kit.model(ids(5, 6, 7))
        probe.reattach()
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


@behaviour("Other people's hooks", "a hook point replaced, as SAELens does: not counted, until reattach()")
def _(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        replace_point(kit)
        kit.model(ids(5, 6, 7))
        probe.reattach()
        kit.model(ids(5, 8))
    return kit.read(probe), [8]


def replace_point(kit: Kit) -> None:
    """A fresh hook point in the place of block 1's input."""
    from transformer_lens.hook_points import HookPoint

    block = kit.model.blocks[1]
    name = "hook_in" if is_bridge(kit) else "hook_resid_pre"
    old, fresh = getattr(block, name), HookPoint()
    fresh.name = old.name
    setattr(block, name, fresh)
    registry = kit.model._hook_registry if is_bridge(kit) else kit.model.hook_dict
    for key in [key for key, point in registry.items() if point is old]:
        registry[key] = fresh


@behaviour("Other people's hooks", "two hooks() contexts closed in the wrong order")
def _(kit: Kit) -> Counted:
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
def _(kit: Kit) -> Counted:
    other = kit.attach()
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
        other.detach()
        kit.model(ids(5, 8))
    assert kit.read(other) == [6, 7]
    return kit.read(probe), [6, 7, 8]


@behaviour("Other people's hooks", "a deep copy of the model does not feed the probe")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        twin = copy.deepcopy(kit.model)
        twin(ids(5, 6, 7))
        kit.model(ids(5, 8))
        twin.generate(ids(5, 9), max_new_tokens=2, verbose=False, do_sample=False)
    return kit.read(probe), [8]


@behaviour("Other people's hooks", "a deep copy run inside a pass of the model")
def _(kit: Kit) -> Counted:
    with kit.attach() as probe:
        twin = copy.deepcopy(kit.model)
        run = [("blocks.1.hook_resid_post", lambda x, hook: ignore(twin(ids(5, 3))))]
        kit.model.run_with_hooks(ids(5, 8), fwd_hooks=run)
    return kit.read(probe), [8]


def ignore(_value: Any) -> None:
    """A hook that returns None leaves the activation as it is."""


@behaviour("Other people's hooks", "del probe takes its hooks off")
def _(kit: Kit) -> Counted:
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
def _(kit: Kit) -> Counted:
    return edited(kit, "before", 6)


@behaviour("Other people's hooks", 'when="after" others\' edits')
def _(kit: Kit) -> Counted:
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


# -- numbers ----------------------------------------------------------------------------------------------------------


@behaviour("Numbers", "a model in bfloat16")
def _(kit: Kit) -> Counted:
    kit.model.to(torch.bfloat16)
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Numbers", "a model in float16")
def _(kit: Kit) -> Counted:
    kit.model.to(torch.float16)
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Numbers", "autocast, inference_mode, no_grad and grad by turns")
def _(kit: Kit) -> Counted:
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
def _(kit: Kit) -> Counted:
    def spoil(x: Any, hook: Any) -> Any:
        x = x.clone()
        x[0, 1, 3], x[0, 2, 4] = float("nan"), float("inf")
        return x

    with kit.attach(replace(DEFAULT, when="after")) as probe:
        kit.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=[("blocks.1.hook_resid_pre", spoil)])
    assert probe.status().points["hidden_states.1"].missing == 2
    return kit.read(probe), [6, 7]


@behaviour("Numbers", "weights centred after the probe was attached: nothing more is counted")
def _(kit: Kit) -> Counted:
    with quietly(), kit.attach() as probe:
        kit.model(ids(5, 6))
        expected = kit.read(probe)
        if is_bridge(kit):
            kit.model.enable_compatibility_mode(disable_warnings=True)
        else:
            with torch.no_grad():  # in place, as load_and_process_state_dict does it
                kit.model.embed.W_E -= kit.model.embed.W_E.mean(dim=-1, keepdim=True)
        kit.model(ids(5, 7))
    assert probe.tokens_seen == probe.ledger.tokens["counted"]
    return expected[: probe.tokens_seen] + [7] * (probe.tokens_seen - 1), [6]
