"""Unusual calls of a model: they return what they return without a probe, and what counts is right."""

from __future__ import annotations

import copy
import warnings
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
from .versions.behaviours.base import ids, letters
from .versions.behaviours.generation import PROMPTS, generated, of_steps
from .versions.behaviours.others import ignore
from .versions.kits import DEFAULT, Kit

ALL_TOKENS = replace(DEFAULT, skip_special=False)


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


def test_gradients_of_functions_work_as_without_a_probe_and_are_not_counted(fresh: Kit) -> None:
    inner = fresh.model.original_model
    weights = {name: p.detach() for name, p in inner.named_parameters()}

    def loss(parameters: Any) -> Any:
        return torch.func.functional_call(inner, parameters, (ids(5, 6, 7),)).logits.sum()

    bare = torch.func.grad(loss)(weights)
    with fresh.attach() as probe:
        with pytest.warns(MIProbeWarning, match="vmap"):
            probed = torch.func.grad(loss)(weights)
        fresh.model(ids(5, 8))
    assert all(torch.equal(bare[name], probed[name]) for name in bare)
    assert fresh.read(probe) == [8]


def test_a_replica_for_data_parallel_runs_itself(fresh: Kit) -> None:
    inner = fresh.model.original_model
    with fresh.attach() as probe:
        replica = inner._replicate_for_data_parallel()
        assert not {"forward", "generate"} & set(vars(replica))
        fresh.model(ids(5, 6))
    assert fresh.read(probe) == [6]


@pytest.mark.parametrize("length", [3, 12])
@pytest.mark.parametrize("cache", [True, False])
def test_a_pass_between_two_steps_of_a_generation_is_one_of_its_own(fresh: Kit, length: int, cache: bool) -> None:
    inner, judged = fresh.model.original_model, ids(*range(20, 20 + length))

    class Judge:
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            inner(judged)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    wanted = {
        "attention_mask": torch.ones(1, 3),
        "max_new_tokens": 4,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    with fresh.attach(ALL_TOKENS) as probe:
        out = inner.generate(PROMPTS[:1], stopping_criteria=[Judge()], use_cache=cache, **wanted)
    assert sorted(fresh.read(probe)) == sorted([*out[0, 1:-1].tolist(), *judged[0, 1:].tolist() * 4])


def test_a_pass_in_which_the_probe_was_detached_is_left_out_whole(fresh: Kit) -> None:
    for again in (False, True):
        probe = fresh.attach()
        leave_now = probe.reattach if again else probe.detach
        hooks = [("blocks.1.hook_resid_post", lambda x, hook, leave_now=leave_now: leave_now())]
        fresh.model.run_with_hooks(ids(5, 6, 7), fwd_hooks=hooks)
        probe.detach()
        assert {stream.n for stream in probe.streams.values()} == {0}
        if again:
            assert probe.ledger.passes == {"the probe was detached or attached anew in the middle of it": 1}


def test_an_end_of_text_of_the_models_own_configuration_ends_rows(fresh: Kit) -> None:
    import transformers

    inner = fresh.model.original_model
    new = [row[3:] for row in generated(fresh, PROMPTS, stop_at_eos=False)]
    token = next(t for row in new for t in row[:3] if any(t not in other for other in new))
    rows = [row[: row.index(token) + 1] if token in row else row for row in new]
    before, inner.generation_config.eos_token_id = inner.generation_config.eos_token_id, token
    config = transformers.GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=9)
    with fresh.attach(ALL_TOKENS) as probe:
        inner.generate(PROMPTS, attention_mask=torch.ones_like(PROMPTS), generation_config=config)
    inner.generation_config.eos_token_id = before
    assert sorted(fresh.read(probe)) == of_steps(rows, PROMPTS)


def test_an_end_of_text_inside_a_prompt_that_is_fed_in_chunks_ends_nothing(fresh: Kit) -> None:
    prompt = ids(5, 6, 7, 8, 9, 10, 11, 12)
    wanted = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": 7}
    with fresh.attach(ALL_TOKENS) as probe:
        fresh.model.original_model.generate(prompt, attention_mask=torch.ones(1, 8), prefill_chunk_size=3, **wanted)
    assert fresh.read(probe)[:7] == prompt[0, 1:].tolist()
    assert probe.tokens_seen == 8


def test_state_space_models_count_each_generated_token(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=257, hidden_size=16, num_hidden_layers=2, state_size=4)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    save_byte_tokenizer(tmp_path)
    model = mi_probe.load_model(tmp_path)
    with mi_probe.attach(model, replace(ALL_TOKENS, hooks="embed")) as probe:
        model.original_model.generate(PROMPTS[:1], max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)
    assert probe.tokens_seen == 2 + 4


def test_a_pass_that_gives_other_shapes_than_before_is_left_out(fresh: Kit) -> None:
    with fresh.attach(replace(DEFAULT, hooks="unembed.hook_in")) as probe:
        fresh.model(ids(5, 6, 7))
        with pytest.warns(MIProbeWarning, match="not one row of numbers a token"):
            fresh.model.original_model(ids(5, 6, 7), logits_to_keep=1)
        fresh.model(ids(5, 8))
    assert probe.tokens_seen == 3


def test_training_away_from_centred_weights_goes_on_counting(fresh: Kit) -> None:
    fresh.model.enable_compatibility_mode(disable_warnings=True)
    with fresh.attach() as probe:
        fresh.model(ids(5, 6))
        with torch.no_grad():
            fresh.model.embed.W_E[:] += 0.1 * torch.rand_like(fresh.model.embed.W_E)
        fresh.model(ids(5, 7))
    assert probe.model["writing_weights_centred"]
    assert probe.tokens_seen == 2


def test_a_copy_of_an_attached_probe_is_its_counts(fresh: Kit) -> None:
    with fresh.attach() as probe:
        fresh.model(ids(5, 6))
        twin = copy.deepcopy(probe)
        fresh.model(ids(5, 7))
    assert type(twin) is mi_probe.ProbeState
    assert (twin.tokens_seen, probe.tokens_seen) == (1, 2)


def test_the_trouble_of_one_probe_is_not_that_of_another(fresh: Kit) -> None:
    point = fresh.model.hook_dict["blocks.1.hook_in"]
    with fresh.attach(replace(DEFAULT, layers=(0, 3))) as other, fresh.attach() as probe:
        run = [("blocks.2.hook_in", lambda x, hook: ignore(torch.vmap(point)(x)))]
        with pytest.warns(MIProbeWarning, match="vmap"):
            fresh.model.run_with_hooks(ids(5, 6), fwd_hooks=run)
    assert (other.tokens_seen, probe.tokens_seen) == (1, 0)


def test_one_row_may_come_without_a_batch(fresh: Kit) -> None:
    with fresh.attach() as probe:
        fresh.model(torch.tensor([5, 6, 7]))
    assert fresh.read(probe) == [6, 7]


def test_an_encoder_is_counted_and_a_decoder_refused(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    small = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=257, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **small)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    save_byte_tokenizer(tmp_path)
    model = mi_probe.load_model(tmp_path)
    names = [name for name in mi_probe.hooks.points(model) if name.endswith("coder_blocks.1.hook_out")]
    assert names == ["decoder_blocks.1.hook_out", "encoder_blocks.1.hook_out"]
    with pytest.raises(HookPointError, match="only hook points of the encoder"):
        mi_probe.attach(model, Probe(hooks=names[0]))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with mi_probe.attach(model, replace(DEFAULT, hooks=names[1])) as probe:
        model(torch.tensor([[5, 6, 7, 8], [5, 6, 9, 9]]), attention_mask=mask, decoder_input=torch.tensor([[0, 3], [0, 4]]))
    assert probe.tokens_seen == 3 + 1
