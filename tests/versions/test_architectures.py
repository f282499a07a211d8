"""The named sets on tiny random models of several architectures, held to the hidden states of Hugging Face's own model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import Probe
from mi_probe.errors import HookPointError
from mi_probe.hooks import resolve

from ..conftest import save_byte_tokenizer
from .kits import EVERYTHING, MAKERS

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 32}
IDS = {"bos_token_id": 0, "eos_token_id": 0}
SETS = ["hidden_states", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed"]


def configs() -> dict[str, Any]:
    import transformers as tf

    grouped = {"num_key_value_heads": 2, "intermediate_size": 32, "pad_token_id": 0}
    return {
        "GPT2": tf.GPT2Config(vocab_size=257, n_positions=32, n_embd=16, n_layer=3, n_head=4, **IDS),
        "GPTNeoX": tf.GPTNeoXConfig(vocab_size=257, intermediate_size=32, rotary_pct=1.0, **SMALL, **IDS),
        "Llama": tf.LlamaConfig(vocab_size=257, **grouped, **SMALL, **IDS),
        "Gemma": tf.GemmaConfig(vocab_size=257, head_dim=4, **grouped, **SMALL, **IDS),
        "Gemma2": tf.Gemma2Config(vocab_size=257, head_dim=4, **grouped, **SMALL, **IDS),
        "OPT": tf.OPTConfig(vocab_size=257, ffn_dim=32, word_embed_proj_dim=16, pad_token_id=1, **SMALL, **IDS),
        "Bert": tf.BertConfig(vocab_size=257, intermediate_size=32, pad_token_id=0, **SMALL),
    }


LACKS = {"GPTNeoX": ["resid_mid"]}


def saved(name: str, folder: Path) -> Any:
    """A random model in a folder, and Hugging Face's own model of it, which TransformerLens has not touched."""
    import transformers as tf

    kind = tf.AutoModelForMaskedLM if name == "Bert" else tf.AutoModelForCausalLM
    torch.manual_seed(1)
    model = kind.from_config(configs()[name])
    with torch.no_grad():  # the initial norms and biases are 1 and 0, under which a wrong hook point can look right
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    save_byte_tokenizer(folder)
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module", params=list(configs()))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    if "TransformerBridge" not in MAKERS:
        pytest.skip("this TransformerLens has no TransformerBridge")
    from transformer_lens.model_bridge import TransformerBridge

    folder = tmp_path_factory.mktemp(request.param)
    theirs = saved(request.param, folder)
    ours = TransformerBridge.boot_transformers(str(folder), device="cpu")
    ours.eval()
    return request.param, ours, theirs


TOKENS = torch.randint(1, 250, (2, 7), generator=torch.Generator().manual_seed(0))


def rows_at(model: Any, hooks: Any) -> dict[str, np.ndarray]:
    with torch.no_grad(), mi_probe.attach(model, replace(EVERYTHING, hooks=hooks)) as probe:
        model(TOKENS)
    return {key: np.asarray(stream.rows()) for key, stream in probe.streams.items()}


def test_hidden_states_are_those_of_hugging_face(both: tuple[str, Any, Any]) -> None:
    _, ours, theirs = both
    with torch.no_grad():
        states = theirs(TOKENS, output_hidden_states=True).hidden_states
    found = rows_at(ours, "hidden_states")
    assert len(found) == len(states) == 4
    for layer, state in enumerate(states):
        np.testing.assert_allclose(found[f"hidden_states.{layer}"], state.flatten(0, 1), atol=2e-5)


@pytest.mark.parametrize("name", SETS)
def test_a_named_set_resolves_or_says_what_the_model_lacks(both: tuple[str, Any, Any], name: str) -> None:
    architecture, ours, _ = both
    if name in LACKS.get(architecture, []):
        with pytest.raises(HookPointError, match="attention and MLP, as where both run in parallel"):
            resolve(ours, Probe(hooks=name))
        return
    assert len(rows_at(ours, name)) == {"hidden_states": 4, "embed": 1}.get(name, 3)


def test_what_blocks_add_adds_up(both: tuple[str, Any, Any]) -> None:
    architecture, ours, _ = both
    if architecture == "Bert":
        pytest.skip("its norms stand after the additions")
    at = rows_at(ours, ("resid_pre", "resid_post", "attn_out", "mlp_out"))
    for i in range(3):
        added = at[f"resid_pre.{i}"] + at[f"attn_out.{i}"] + at[f"mlp_out.{i}"]
        np.testing.assert_allclose(added, at[f"resid_post.{i}"], atol=2e-5)


def test_embed_is_the_token_embedding_without_positions(both: tuple[str, Any, Any]) -> None:
    architecture, ours, theirs = both
    table = theirs.get_input_embeddings().weight.detach()[TOKENS].flatten(0, 1).numpy()
    scale = 4.0 if architecture.startswith("Gemma") else 1.0  # Gemma multiplies by the root of the width
    found = rows_at(ours, "embed")["embed"]
    np.testing.assert_allclose(found, table * scale, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX"])
def test_hidden_states_of_a_hooked_transformer_are_those_of_hugging_face(name: str, tmp_path: Path) -> None:
    if "HookedTransformer" not in MAKERS:
        pytest.skip("this TransformerLens has no HookedTransformer")
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    theirs = saved(name, tmp_path)
    common = {"n_layers": 3, "d_model": 16, "n_ctx": 32, "d_head": 4, "n_heads": 4, "d_mlp": 32, "d_vocab": 257, "device": "cpu"}
    if name == "GPT2":
        cfg = HookedTransformerConfig(**{**common, "d_mlp": 64}, act_fn="gelu_new", normalization_type="LN")
        weights = weight_conversions.convert_gpt2_weights(theirs, cfg)
    else:
        cfg = HookedTransformerConfig(
            **common,
            act_fn="gelu",
            normalization_type="LN",
            positional_embedding_type="rotary",
            rotary_dim=4,
            parallel_attn_mlp=True,
            rotary_adjacent_pairs=False,
        )
        try:
            weights = weight_conversions.convert_neox_weights(theirs, cfg)
        except AttributeError as error:
            pytest.skip(f"this TransformerLens does not know the GPT-NeoX of this transformers: {error}")
    ours = HookedTransformer(cfg)
    ours.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    with torch.no_grad():
        states = theirs(TOKENS, output_hidden_states=True).hidden_states
    found = rows_at(ours, "hidden_states")
    for layer, state in enumerate(states):
        np.testing.assert_allclose(found[f"hidden_states.{layer}"], state.flatten(0, 1), atol=2e-5)
    if name == "GPTNeoX":
        with pytest.raises(HookPointError, match="run in parallel"):
            resolve(ours, Probe(hooks="resid_mid"))
