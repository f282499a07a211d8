"""What stands around the hooks, in every version: loading, whole texts, weight processing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import mi_probe
from mi_probe.errors import MergeError, MIProbeWarning, ModelError

from .behaviours.base import letters
from .kits import DEFAULT, MAKERS, Kit, kit


@pytest.fixture(params=MAKERS)
def fresh(request: pytest.FixtureRequest) -> Kit:
    return kit(request.param)


def test_the_bundled_model_loads_or_says_what_it_needs() -> None:
    if "TransformerBridge" in MAKERS:
        assert mi_probe.load_model("coffee-gpt2").cfg.n_layers == 12
    else:
        with pytest.raises(ModelError, match=r"TransformerLens 3\.9 or newer"):
            mi_probe.load_model("coffee-gpt2")


def test_a_text_longer_than_the_context_is_counted_token_by_token(fresh: Kit) -> None:
    text = "a long text about coffee, " * 5
    probe = mi_probe.accumulate(fresh.model, text, DEFAULT, batch_size=3)
    assert fresh.read(probe) == letters(text)


def process(model: Any) -> None:
    if hasattr(model, "enable_compatibility_mode"):
        model.enable_compatibility_mode(disable_warnings=True)
    else:
        model.load_and_process_state_dict(model.state_dict(), fold_ln=False, center_writing_weights=True)


def test_counts_of_differently_processed_models_do_not_merge(fresh: Kit) -> None:
    plain = mi_probe.accumulate(fresh.model, "a text about coffee", DEFAULT)
    process(fresh.model)
    processed = mi_probe.accumulate(fresh.model, "a text about coffee", DEFAULT, edges=plain.binnings)
    assert (plain.model["writing_weights_centred"], processed.model["writing_weights_centred"]) == (False, True)
    if fresh.kind == "TransformerBridge":
        assert processed.model["layer_norm_folded"]
    before = plain.tokens_seen
    with pytest.raises(MergeError, match="the models differ"):
        plain += processed
    assert plain.tokens_seen == before


def test_processing_midway_is_refused_with_what_changed(fresh: Kit) -> None:
    with fresh.attach() as probe:
        fresh.model(torch.tensor([[5, 6]]))
        process(fresh.model)
        with pytest.warns(MIProbeWarning, match="changed after the probe was attached"):
            fresh.model(torch.tensor([[5, 7]]))
    assert probe.tokens_seen == 1
    assert probe.ledger.passes == {"counted": 1, "the model's weights were processed after the probe was attached": 1}


def test_a_model_made_by_transformer_lens_alone_is_counted() -> None:
    bridge = pytest.importorskip("transformer_lens.model_bridge")
    if not hasattr(bridge.TransformerBridge, "boot_native"):
        pytest.skip("this TransformerLens has no boot_native")
    from transformer_lens.config import TransformerBridgeConfig

    small = {"n_layers": 2, "d_model": 16, "n_ctx": 32, "d_head": 4, "n_heads": 4, "d_mlp": 32, "d_vocab": 50}
    model = bridge.TransformerBridge.boot_native(TransformerBridgeConfig(**small, act_fn="gelu", normalization_type="LN"))
    with mi_probe.attach(model) as probe:  # in training mode, but without dropout: no warning
        model(torch.tensor([[5, 6, 7]]))
        model.run_with_cache(torch.tensor([[5, 6, 7]]))
    assert probe.tokens_seen == 4
    assert len(probe.streams) == 3


def test_the_mask_of_a_hooked_encoder_is_seen() -> None:
    if "HookedTransformer" not in MAKERS:
        pytest.skip("this TransformerLens has no HookedEncoder")
    import transformer_lens as lens

    small = {"n_layers": 2, "d_model": 16, "n_ctx": 32, "d_head": 4, "n_heads": 4, "d_vocab": 50, "device": "cpu"}
    config = lens.HookedTransformerConfig(**small, act_fn="gelu", normalization_type="LN", attention_dir="bidirectional")
    model = lens.HookedEncoder(config)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with mi_probe.attach(model) as probe:
        model(torch.tensor([[5, 6, 7], [8, 9, 9]]), one_zero_attention_mask=mask)
    assert list(probe.points.values()) == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"]
    assert probe.tokens_seen == 3


def only_hooked_transformer(kit: Kit) -> Any:
    if kit.kind != "HookedTransformer":
        pytest.skip("a matter of HookedTransformer")
    return kit.model


def test_padding_on_the_left_without_bos_is_padding_to_its_end(fresh: Kit) -> None:
    model = only_hooked_transformer(fresh)
    model.tokenizer.padding_side = "left"
    try:
        with fresh.attach(replace(DEFAULT, skip_special=False)) as probe:
            model(["tea", "coffee"], prepend_bos=False)
    finally:
        model.tokenizer.padding_side = "right"
    assert fresh.read(probe) == [*letters("tea")[1:], *letters("coffee")[1:]]


@pytest.mark.parametrize("cache", [True, False])
def test_generation_from_embeddings_runs_and_counts_the_tokens_it_knows(fresh: Kit, cache: bool) -> None:
    model = only_hooked_transformer(fresh)
    prompt = model.embed(torch.tensor([[5, 6, 7]]))
    wanted = {"max_new_tokens": 4, "do_sample": False, "stop_at_eos": False, "verbose": False, "use_past_kv_cache": cache}
    bare = model.generate(prompt, return_type="tokens", **wanted)
    with pytest.warns(MIProbeWarning, match="no token ids"), fresh.attach(replace(DEFAULT, skip_special=False)) as probe:
        assert torch.equal(model.generate(prompt, return_type="tokens", **wanted), bare)
    assert fresh.read(probe) == (bare[0, :-1].tolist() if cache else [])
