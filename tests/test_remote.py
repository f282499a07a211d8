"""A RemoteBridge: hooks fire after the fact, on what an engine elsewhere has captured. Here another bridge plays the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe.errors import HookPointError
from mi_probe.hooks import points, resolve

from .versions.kits import DEFAULT, kit

remote_bridge = pytest.importorskip("transformer_lens.model_bridge.remote_bridge")

VLLM = ["embed.hook_out", "ln_final.hook_normalized"] + [
    f"blocks.{i}.{name}" for i in range(3) for name in ("hook_out", "attn.hook_out", "mlp.hook_out")
]
INSPECT = [f"blocks.{i}.{name}" for i in range(3) for name in ("hook_in", "ln2.hook_in", "hook_out")]


def remote(names: list[str], *, fails: bool = False) -> tuple[Any, Any]:
    """A remote bridge whose engine serves these hook points, and the bridge that plays the engine."""
    from transformer_lens.model_bridge.driver_protocol import ForwardResult
    from transformer_lens.model_bridge.sources._driver_base import DriverBase

    engine = kit("TransformerBridge").model

    class Engine(DriverBase):
        supported_hook_points = frozenset(names)
        asked: tuple[str, ...] = ()

        def forward(self, input_ids: Any = None, *, capture: Any = (), intervene: Any = None, **kwargs: Any) -> Any:
            if fails:
                raise ConnectionError("on purpose")
            self.asked = capture
            kwargs = {key: value for key, value in kwargs.items() if key == "attention_mask"}
            with torch.no_grad():
                logits, cache = engine.run_with_cache(torch.as_tensor(input_ids), **kwargs)
            return ForwardResult(logits=logits, captured={name: cache[name].numpy() for name in capture})

        def close(self) -> None:
            pass

    other = kit("TransformerBridge").model
    driver = Engine(other.adapter.cfg, other.tokenizer)
    return remote_bridge.RemoteBridge(other.adapter, other.tokenizer, driver), engine


def test_a_remote_bridge_feeds_a_probe_what_its_engine_captured() -> None:
    model, engine = remote(VLLM)
    probe = replace(DEFAULT, hooks=("embed", "resid_post"))
    with mi_probe.attach(model, probe) as attached:
        model.forward("coffee")
        model.run_with_cache(torch.tensor([[5, 6, 7]]))
        model.run_with_hooks(torch.tensor([[5, 8]]))
        assert set(model._driver.asked) == {"embed.hook_out", *(f"blocks.{i}.hook_out" for i in range(3))}
    with mi_probe.attach(engine, probe) as local:
        engine("coffee")
        engine(torch.tensor([[5, 6, 7]]))
        engine(torch.tensor([[5, 8]]))
    assert attached.tokens_seen == local.tokens_seen == 6 + 2 + 1
    for key, stream in local.streams.items():
        np.testing.assert_array_equal(attached.streams[key].rows(), stream.rows())
    model.forward("not counted")
    assert attached.tokens_seen == 9
    assert not any(model.hook_dict[name].fwd_hooks for name in VLLM)


def test_padding_of_a_remote_batch_is_left_out() -> None:
    model, _ = remote(VLLM)
    tokens, mask = torch.tensor([[5, 6, 7], [5, 8, 3]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with mi_probe.attach(model, replace(DEFAULT, hooks="resid_post")) as probe:
        model.forward(tokens, attention_mask=mask)
        model.forward(np.array([[5, 9]]))
    assert probe.tokens_seen == 4


def test_a_state_before_a_block_is_the_one_after_the_block_below() -> None:
    model, engine = remote(VLLM)
    assert [p.hook_name for p in resolve(model, replace(DEFAULT, layers=(1, 2)))] == ["blocks.0.hook_out", "blocks.1.hook_out"]
    with mi_probe.attach(model, replace(DEFAULT, layers=(1, 2))) as probe, mi_probe.attach(engine, DEFAULT) as local:
        model.forward("coffee")
    for key in probe.streams:
        np.testing.assert_array_equal(probe.streams[key].rows(), local.streams[key].rows())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (VLLM, r"no 'hidden_states\.0'.*has 1, 2\."),
        (INSPECT, r"no 'hidden_states\.3': ln_final\.hook_out.*has 0, 1, 2\."),
    ],
)
def test_what_an_engine_does_not_serve_is_said(names: list[str], message: str) -> None:
    model, _ = remote(names)
    assert set(points(model)) >= set(names)
    with pytest.raises(HookPointError, match=message):
        mi_probe.attach(model)


def test_a_call_that_fails_is_not_counted() -> None:
    model, _ = remote(INSPECT, fails=True)
    probe = mi_probe.attach(model, replace(DEFAULT, hooks="resid_pre"))
    with pytest.raises(ConnectionError), probe:
        model.forward("coffee")
    assert probe.ledger.passes == {"an error ended it": 1}
