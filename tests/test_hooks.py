"""What is hooked, which tokens count, and what is left untouched."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import Probe, stream
from mi_probe.errors import HookPointError, InputError, MIProbeError, MIProbeWarning
from mi_probe.hooks import points, resolve
from mi_probe.pointcounts import PointCounts
from mi_probe.state import ProbeState
from mi_probe.stream import PointStream

KEEP = 10**6  # calibration longer than any test: the streams keep their rows, so that they can be looked at


def rows_of(probe: ProbeState, key: str) -> np.ndarray:
    return probe.streams[key].rows()


def all_hooks(model: Any) -> list[int]:
    found = [len(hp.fwd_hooks) for hp in model.hook_dict.values()]
    found += [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.original_model.modules()]
    return found


@pytest.fixture(autouse=True)
def _nothing_left_behind(tiny: Any) -> Iterator[None]:
    tiny.original_model(torch.tensor([[1]]), output_hidden_states=True)  # installs transformers' own hooks, once and for all
    before = all_hooks(tiny)
    yield
    assert all_hooks(tiny) == before


# -- names ------------------------------------------------------------------------------------------------------------


def test_hidden_states_are_those_of_hugging_face(tiny: Any) -> None:
    tokens = torch.randint(1, 200, (3, 9))
    with torch.no_grad():
        states = tiny.original_model(tokens, output_hidden_states=True).hidden_states
        with mi_probe.attach(tiny, Probe(skip_first=0, calibration_tokens=KEEP)) as probe:
            tiny(tokens)
    assert len(states) == len(probe.streams) == 4
    for layer, state in enumerate(states):
        np.testing.assert_allclose(rows_of(probe, f"hidden_states.{layer}"), state.flatten(0, 1), atol=1e-5)


def test_named_sets_are_the_places_they_say(tiny: Any) -> None:
    tokens = torch.randint(1, 200, (2, 7))
    names = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed"]
    with mi_probe.attach(tiny, Probe(hooks=names, skip_first=0, calibration_tokens=KEEP)) as probe:
        tiny(tokens)
    at = {key: rows_of(probe, key) for key in probe.streams}
    assert len(at) == 5 * 3 + 1
    for i in range(3):
        np.testing.assert_allclose(at[f"resid_pre.{i}"] + at[f"attn_out.{i}"], at[f"resid_mid.{i}"], atol=1e-5)
        np.testing.assert_allclose(at[f"resid_mid.{i}"] + at[f"mlp_out.{i}"], at[f"resid_post.{i}"], atol=1e-5)
    table = tiny.original_model.get_input_embeddings().weight.detach()
    np.testing.assert_allclose(at["embed"], table[tokens].flatten(0, 1), atol=1e-6)


def test_patterns_names_and_layers_choose_hook_points(tiny: Any) -> None:
    def names(**kwargs: Any) -> list[str]:
        return [p.hook_name for p in resolve(tiny, Probe(**kwargs))]

    assert names(hooks="blocks.*.hook_attn_out") == [f"blocks.{i}.hook_attn_out" for i in range(3)]
    assert names(hooks="blocks.*.hook_attn_out", layers=[-1, 0]) == ["blocks.0.hook_attn_out", "blocks.2.hook_attn_out"]
    assert names(hooks=["hook_embed", "embed"]) == ["hook_embed"]
    assert names(hooks="hidden_states", layers=[3]) == ["ln_final.hook_out"]
    assert names(hooks="blocks.1.attn.hook_z") == ["blocks.1.attn.hook_z"]


def test_a_hook_point_may_be_named_as_results_name_it(tiny: Any) -> None:
    for named in ("hidden_states", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed"):
        for point in resolve(tiny, Probe(hooks=named)):
            assert resolve(tiny, Probe(hooks=point.key)) == [point]
    two = Probe(hooks=["hidden_states.3", "hidden_states.0", "hidden_states"], layers=None)
    assert [p.key for p in resolve(tiny, two)] == ["hidden_states.3", "hidden_states.0", "hidden_states.1", "hidden_states.2"]
    reading = mi_probe.read_text(tiny, "abcdefgh", hooks=["attn_out.1", "mlp_out.1"])
    assert list(reading.values) == ["attn_out.1", "mlp_out.1"]
    meet = Probe(hooks=["hidden_states.0", "mlp_out.2"], pairs="between")
    assert [p.key for p in resolve(tiny, meet)] == ["hidden_states.0", "mlp_out.2"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hooks": "blocks.12.hook_resid_post"}, r"3 blocks, 0 to 2.*did you mean"),
        ({"hooks": "resid_pots"}, "did you mean 'resid_post'"),
        ({"hooks": "blocks.*.hook_nothing"}, "matches none"),
        ({"layers": [4]}, r"layers \[4\].*0 to 3"),
        ({"hooks": "resid_post", "layers": [-4]}, "layers"),
        ({"hooks": "embed", "layers": [0]}, "no layers"),
        ({"hooks": "hidden_states.4"}, "of the set 'hidden_states' it has hidden_states.0 to hidden_states.3"),
        ({"hooks": "embed.0"}, "of the set 'embed' it has embed"),
        ({"hooks": "hidden_states.1", "layers": [0]}, r"layers \[0\] are not in 'hidden_states.1'"),
        ({"hooks": "hidden_states.x"}, "did you mean"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(tiny: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(HookPointError, match=message):
        mi_probe.attach(tiny, Probe(**kwargs))


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(HookPointError, match=r"Linear is not a model.*hook_dict"):
        mi_probe.attach(torch.nn.Linear(2, 2), "dimension_pairs")


def test_points_lists_aliases_too(tiny: Any) -> None:
    assert {"blocks.0.hook_resid_post", "blocks.0.hook_out", "ln_final.hook_out"} <= set(points(tiny))


def test_heads_are_flattened_into_variables(tiny: Any) -> None:
    with mi_probe.attach(tiny, Probe(hooks="blocks.1.attn.hook_z", calibration_tokens=KEEP)) as probe:
        tiny(torch.randint(1, 200, (1, 6)))
    assert rows_of(probe, "blocks.1.attn.hook_z").shape == (5, 16)


@pytest.mark.parametrize("name", ["blocks.0.attn.hook_pattern", "embed.hook_in"])
def test_an_activation_that_is_not_one_row_a_token_is_refused(tiny: Any, name: str) -> None:
    probe = mi_probe.attach(tiny, Probe(hooks=name))
    with pytest.raises(HookPointError, match="not one row of numbers a token"), probe:
        tiny(torch.randint(1, 200, (2, 6)))
    assert probe.tokens_seen == 0


# -- which tokens count -----------------------------------------------------------------------------------------------


def counted(model: Any, *calls: Any, **kwargs: Any) -> np.ndarray:
    """Token embeddings of what was counted, in order; they identify the tokens."""
    with mi_probe.attach(model, Probe(hooks="embed", calibration_tokens=KEEP, **kwargs)) as probe:
        for call in calls:
            call()
    assert probe.tokens_seen == probe.streams["embed"].n
    return rows_of(probe, "embed")


def embedded(model: Any, tokens: Any) -> np.ndarray:
    return np.asarray(model.original_model.get_input_embeddings().weight.detach()[torch.as_tensor(tokens)])


def test_bos_and_the_first_position_are_left_out_by_default(tiny: Any) -> None:
    ids = tiny.to_tokens("coffee", prepend_bos=False)
    np.testing.assert_array_equal(counted(tiny, lambda: tiny("coffee")), embedded(tiny, ids[0]))
    np.testing.assert_array_equal(counted(tiny, lambda: tiny(ids)), embedded(tiny, ids[0, 1:]))
    np.testing.assert_array_equal(counted(tiny, lambda: tiny(ids), skip_first=0), embedded(tiny, ids[0]))
    everything = counted(tiny, lambda: tiny("coffee"), skip_first=0, skip_special=False)
    np.testing.assert_array_equal(everything, embedded(tiny, [0, *ids[0].tolist()]))


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_of_a_list_of_strings_is_left_out(tiny: Any, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.tokenizer, "padding_side", side)
    texts = ["tea", "coffee, black", "mocha"]
    expected = np.concatenate([embedded(tiny, tiny.to_tokens(t, prepend_bos=False)[0]) for t in texts])
    np.testing.assert_array_equal(counted(tiny, lambda: tiny(texts)), expected)


def test_an_explicit_mask_decides(tiny: Any) -> None:
    tokens = torch.randint(1, 200, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = counted(tiny, lambda: tiny(tokens, attention_mask=mask))
    np.testing.assert_array_equal(found, embedded(tiny, [*tokens[0, 1:3].tolist(), *tokens[1, 1:].tolist()]))


def test_a_special_token_inside_a_row_is_left_out(tiny: Any) -> None:
    found = counted(tiny, lambda: tiny(torch.tensor([[0, 5, 6, 0, 7, 8]])))
    np.testing.assert_array_equal(found, embedded(tiny, [5, 6, 7, 8]))


def test_generation_with_a_cache_counts_prompt_and_steps_once(tiny: Any) -> None:
    prompt = torch.tensor([[0, 40, 41, 42]])
    out: list[Any] = []
    found = counted(
        tiny, lambda: out.append(tiny.generate(prompt, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False))
    )
    np.testing.assert_array_equal(found, embedded(tiny, out[0][0, 1:-1]))  # the last token was never fed back


@pytest.mark.parametrize("how", ["run_with_cache", "run_with_hooks", "original_model"])
def test_every_way_to_run_the_model_is_counted(tiny: Any, how: str) -> None:
    tokens = torch.randint(1, 200, (2, 5))
    assert len(counted(tiny, lambda: getattr(tiny, how)(tokens))) == 8


def test_one_row_that_ends_in_the_padding_token_is_not_padded(tiny: Any) -> None:
    tokens = torch.tensor([[5, 6, 7, 0, 0]])
    assert len(counted(tiny, lambda: tiny(tokens), skip_special=False)) == 4
    assert len(counted(tiny, lambda: tiny(tokens.repeat(2, 1)), skip_special=False)) == 2 * 2


def test_the_bos_of_a_left_padded_row_is_a_token(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.tokenizer, "padding_side", "left")
    tokens = torch.tensor([[0, 0, 0, 5, 6], [0, 7, 8, 9, 10]])
    found = counted(tiny, lambda: tiny.original_model(tokens), skip_first=0, skip_special=False)
    np.testing.assert_array_equal(found, embedded(tiny, [0, 5, 6, 0, 7, 8, 9, 10]))


def test_a_paused_probe_counts_nothing(tiny: Any) -> None:
    with mi_probe.attach(tiny) as probe:
        with probe.pause():
            with probe.pause():
                tiny("nor this")
            tiny("not this")
        tiny("but this")
    assert probe.tokens_seen == 8


# -- whole or not at all ----------------------------------------------------------------------------------------------


def test_a_forward_pass_that_fails_is_not_counted(tiny: Any) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("on purpose")

    with mi_probe.attach(tiny) as probe:
        tiny("before")
        with pytest.raises(RuntimeError, match="on purpose") as raised:
            tiny.run_with_hooks("broken", fwd_hooks=[("blocks.2.hook_resid_post", fail)])
        assert raised.value.__notes__ == ["mi_probe: none of the tokens of this forward pass was counted."]
        tiny("after")
    assert probe.tokens_seen == 11
    assert {stream.n for stream in probe.streams.values()} == {11}


def test_a_forward_pass_that_stops_early_is_not_counted(tiny: Any) -> None:
    with mi_probe.attach(tiny) as probe, pytest.warns(MIProbeWarning, match="stop_at_layer"):
        tiny("some text", stop_at_layer=1)
    assert probe.tokens_seen == 0


def test_blocks_that_run_on_junk_are_not_counted(tiny: Any) -> None:
    residual = torch.randn(1, 5, 16)
    with mi_probe.attach(tiny) as probe, pytest.warns(MIProbeWarning, match="no token ids"):
        tiny(residual, start_at_layer=1)
    assert probe.tokens_seen == 0


def test_a_hook_that_never_fires_is_named_and_nothing_is_counted_without_it(tiny: Any) -> None:
    probe = mi_probe.attach(tiny, Probe(hooks=["embed", "blocks.0.attn.qkv.hook_out"]))
    with probe, pytest.warns(MIProbeWarning, match=r"did not reach blocks\.0\.attn\.qkv\.hook_out.*leave those out"):
        tiny("some text")
    assert {stream.n for stream in probe.streams.values()} == {0}


def test_a_probe_that_saw_no_forward_pass_says_so(tiny: Any) -> None:
    with pytest.warns(MIProbeWarning, match="no token was counted"), mi_probe.attach(tiny) as probe:
        pass
    with pytest.raises(InputError, match="run a forward pass"):
        probe.estimate()


@pytest.mark.parametrize(("visit", "row"), [(None, 1), (-1, 1), (0, 0), (1, 1)])
def test_a_point_that_fires_twice_in_a_pass_counts_each_token_once(tiny: Any, visit: int | None, row: int) -> None:
    point = tiny.hook_dict["blocks.1.hook_in"]
    tokens = torch.tensor([[1, 2, 3]])
    with mi_probe.attach(tiny, Probe(layers=[1, 2], calibration_tokens=KEEP)) as plain:
        tiny(tokens)
    values = [rows_of(plain, "hidden_states.1"), rows_of(plain, "hidden_states.2")]
    with (
        mi_probe.attach(tiny, Probe(layers=[1], visit=visit, calibration_tokens=KEEP)) as probe,
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        tiny.run_with_hooks(tokens, fwd_hooks=[("blocks.2.hook_in", lambda x, hook: point(x))])
    assert probe.tokens_seen == 2
    np.testing.assert_array_equal(rows_of(probe, "hidden_states.1"), values[row])
    assert [str(w.message) for w in said if "fires several times" in str(w.message)] == [] or visit is None
    assert bool(said) == (visit is None)
    assert probe.status().points["hidden_states.1"].fired == 2


def test_a_visit_that_never_comes_leaves_the_pass_out(tiny: Any) -> None:
    with (
        mi_probe.attach(tiny, Probe(layers=[1], visit=2)) as probe,
        pytest.warns(MIProbeWarning, match=r"fired 1 times.*visit=2"),
    ):
        tiny("text")
    assert probe.tokens_seen == 0


def test_a_pass_inside_a_pass_is_counted_as_one_of_its_own(tiny: Any) -> None:
    inside = []

    def nested(x: Any, hook: Any) -> None:
        if not inside:
            inside.append(True)
            tiny("inner")

    with mi_probe.attach(tiny) as probe:
        tiny.run_with_hooks("the outer one", fwd_hooks=[("blocks.1.hook_resid_post", nested)])
    assert probe.tokens_seen == 13 + 5
    assert {stream.n for stream in probe.streams.values()} == {18}


def test_embedding_something_else_in_a_hook_does_not_change_what_counts(tiny: Any) -> None:
    def other(x: Any, hook: Any) -> None:
        tiny.embed(torch.zeros(1, x.shape[1], dtype=torch.long))

    with mi_probe.attach(tiny) as probe:
        tiny.run_with_hooks("five!", fwd_hooks=[("blocks.1.hook_resid_post", other)])
    assert probe.tokens_seen == 5


def test_masks_and_caches_given_by_position_are_seen(tiny: Any) -> None:
    tokens = torch.randint(1, 200, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert len(counted(tiny, lambda: tiny.original_model(tokens, None, mask))) == 6
    with torch.no_grad():
        past = tiny.original_model(tokens, use_cache=True).past_key_values
        found = counted(tiny, lambda: tiny.original_model(tokens[:, :2], past))
    np.testing.assert_array_equal(found, embedded(tiny, tokens[:, :2].flatten()))


def test_a_mask_that_says_nothing_of_padding_is_not_guessed_at(tiny: Any) -> None:
    tokens = torch.randint(1, 200, (1, 4))
    mask = torch.zeros(1, 1, 4, 4)
    with mi_probe.attach(tiny) as probe, pytest.warns(MIProbeWarning, match="padding cannot be told"):
        tiny.original_model(tokens, attention_mask=mask)
    assert probe.tokens_seen == 0


def test_nothing_is_counted_after_the_weights_were_processed(tiny_folder: Any) -> None:
    model = mi_probe.load_model(tiny_folder)
    with mi_probe.attach(model) as probe:
        model("before")
        model.enable_compatibility_mode()
        with pytest.warns(MIProbeWarning, match="changed after the probe was attached"):
            model("after")
    assert probe.tokens_seen == 6


def test_a_pass_that_runs_out_of_memory_is_not_counted_in_part(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counts(*args: Any) -> Any:
        made.append(True)
        if len(made) == 3:
            raise MemoryError
        return PointCounts(*args)

    with mi_probe.attach(tiny, Probe(calibration_tokens=8)) as probe:
        tiny("short")
        monkeypatch.setattr(stream, "PointCounts", counts)
        with pytest.raises(MemoryError):
            tiny("longer text")
    assert probe.tokens_seen == 5
    assert {point.n for point in probe.streams.values()} == {5}


def test_a_pass_counted_at_some_points_only_is_never_read(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def interrupted(self: PointStream, *args: Any) -> None:
        seen.append(True)
        if len(seen) == 3:
            raise KeyboardInterrupt
        commit(self, *args)

    commit = PointStream.commit
    with mi_probe.attach(tiny) as probe:
        tiny("whole")
        monkeypatch.setattr(PointStream, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny("torn")
    for read in (probe.estimate, lambda: probe.counts, lambda: probe.save("never.safetensors")):
        with pytest.raises(MIProbeError, match="interrupted"):
            read()


def test_a_new_name_of_the_model_is_no_change_of_its_weights(tiny_folder: Any) -> None:
    model = mi_probe.load_model(tiny_folder)
    with mi_probe.attach(model) as probe:
        model.cfg.model_name = "renamed"
        model("text")
    assert probe.tokens_seen == 4


def test_passes_of_several_threads_do_not_mix(tiny: Any) -> None:
    texts = ["a", "bc", "def", "ghij", "klmno"] * 12
    with mi_probe.attach(tiny, Probe(calibration_tokens=40, bins=4)) as probe, ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda text: torch.no_grad()(tiny)(tiny.to_tokens(text)), texts))
    assert probe.tokens_seen == sum(map(len, texts))
    assert {stream.n for stream in probe.streams.values()} == {probe.tokens_seen}


# -- others' hooks and results ----------------------------------------------------------------------------------------


def test_logits_are_bit_equal_with_and_without_a_probe(tiny: Any) -> None:
    tokens = torch.randint(1, 200, (3, 11))
    plain = tiny(tokens)
    with mi_probe.attach(tiny, Probe(hooks=["hidden_states", "attn_out", "mlp_out"])):
        probed = tiny(tokens)
    assert torch.equal(plain, probed)
    assert torch.equal(plain, tiny(tokens))


def test_the_users_hooks_stay_and_run(tiny: Any) -> None:
    seen = []
    tiny.add_hook("blocks.1.hook_resid_pre", lambda x, hook: seen.append("mine"))
    with mi_probe.attach(tiny) as probe:
        tiny("one")
        tiny.reset_hooks()
        tiny("two")
    assert seen == ["mine"]
    assert probe.tokens_seen == 6


def test_two_probes_count_on_their_own_and_leave_in_any_order(tiny: Any) -> None:
    first, second = mi_probe.attach(tiny), mi_probe.attach(tiny)
    tiny("ab")
    first.detach()
    tiny("cde")
    second.detach()
    second.detach()
    assert (first.tokens_seen, second.tokens_seen) == (2, 5)


def test_hooks_come_off_after_an_exception(tiny: Any) -> None:
    before = all_hooks(tiny)
    with pytest.raises(KeyboardInterrupt), mi_probe.attach(tiny):
        raise KeyboardInterrupt
    assert all_hooks(tiny) == before


def test_a_value_changed_in_place_after_our_hook_is_recorded_as_it_was(tiny: Any) -> None:
    tokens = torch.randint(1, 200, (1, 8))
    everything = Probe(hooks="resid_pre", layers=[1], calibration_tokens=KEEP, skip_first=0)  # so that no row is picked out
    with mi_probe.attach(tiny, everything) as probe, torch.no_grad():
        tiny(tokens)
        tiny.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook: x.zero_())])
    rows = rows_of(probe, "resid_pre.1")
    np.testing.assert_array_equal(rows[:8], rows[8:])


def test_training_mode_warns(tiny: Any) -> None:
    tiny.original_model.train()
    try:
        with pytest.warns(MIProbeWarning, match="training mode"):
            mi_probe.attach(tiny).detach()
    finally:
        tiny.original_model.eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_may_be_mixed(tiny: Any, mode: Any) -> None:
    with mi_probe.attach(tiny) as probe:
        with mode():
            tiny("first")
        tiny("then")
    assert probe.tokens_seen == 9


def test_a_detached_probe_does_not_keep_the_model_alive(tiny_folder: Any) -> None:
    model = mi_probe.load_model(tiny_folder)
    probe = mi_probe.accumulate(model, "text")
    alive = weakref.ref(model.original_model)
    del model
    gc.collect()
    assert alive() is None
    assert probe.tokens_seen == 4
