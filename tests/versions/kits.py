"""Tiny models of every kind that the installed TransformerLens has, and how to read from a probe which tokens it counted."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mi_probe
from mi_probe import Probe

from ..conftest import make_tiny_gpt2

TRANSFORMER_LENS = version("transformer-lens")
KEEP = 10**6  # calibration longer than any test: the streams keep their rows, so that they can be looked at
EVERYTHING = Probe(calibration_tokens=KEEP, skip_first=0, skip_special=False)
DEFAULT = Probe(calibration_tokens=KEEP)


class NotThereError(Exception):
    """This kind of model has no such feature in this version."""


@dataclass
class Kit:
    """A fresh model, whose positions are not embedded: the first hidden state of a token says which token it is."""

    kind: str
    model: Any

    def attach(self, probe: Probe = DEFAULT, **kwargs: Any) -> mi_probe.hooks.AttachedProbe:
        return mi_probe.attach(self.model, probe, **kwargs)

    def table(self) -> np.ndarray:
        """The embedding of each token."""
        return np.array(self.model.embed.W_E.detach().float())

    def read(self, probe: Any, key: str = "hidden_states.0", table: np.ndarray | None = None) -> list[int]:
        """The tokens that a probe counted, in order; as many at every hook point."""
        assert len({stream.n for stream in probe.streams.values()}) == 1, probe.status()
        assert probe.tokens_seen == probe.streams[key].n == probe.ledger.tokens["counted"]
        if not probe.tokens_seen:
            return []
        table = self.table() if table is None else table
        rows = np.asarray(probe.streams[key].rows(), dtype=np.float32)
        same = (rows[:, None, :] == table[None]).all(axis=-1)
        assert (same.sum(axis=1) == 1).all()
        return [int(token) for token in same.argmax(axis=1)]


@cache
def _folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="mi_probe_tests_"))
    atexit.register(shutil.rmtree, path)
    make_tiny_gpt2(path)
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    weights = {name: torch.zeros_like(w) if "wpe" in name else w for name, w in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_folder())


def _bridge() -> Any:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = TransformerBridge.boot_transformers(str(_folder()), device="cpu")
    model.eval()
    return model


def _hooked_transformer() -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=3,
        d_model=16,
        n_ctx=32,
        d_head=4,
        n_heads=4,
        d_vocab=257,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
        seed=0,
    )
    model = HookedTransformer(cfg, tokenizer=tokenizer())
    with torch.no_grad():
        model.pos_embed.W_pos.zero_()
        for name, parameter in model.named_parameters():  # as initialised, a wrong hook point can look right
            if "ln" in name or name.endswith("b_E"):
                parameter += 0.3 * torch.randn_like(parameter)
    model.eval()
    return model


_VERSION = int(TRANSFORMER_LENS.partition(".")[0])
MAKERS: dict[str, Callable[[], Any]] = {
    **({"HookedTransformer": _hooked_transformer} if _VERSION < 4 else {}),
    **({"TransformerBridge": _bridge} if _VERSION > 2 else {}),
}


def kit(kind: str) -> Kit:
    """A fresh model of this kind."""
    return Kit(kind, MAKERS[kind]())


def replace_point(kit: Kit) -> None:
    """A fresh hook point in the place of block 1's input."""
    from transformer_lens.hook_points import HookPoint

    block = kit.model.blocks[1]
    name = "hook_in" if hasattr(kit.model, "original_model") else "hook_resid_pre"
    old, fresh = getattr(block, name), HookPoint()
    fresh.name = old.name
    setattr(block, name, fresh)
    registry = kit.model._hook_registry if hasattr(kit.model, "original_model") else kit.model.hook_dict
    for key in [key for key, point in registry.items() if point is old]:
        registry[key] = fresh


def everything_on(model: Any) -> list[Any]:
    """Every hook and every method on an instance, so that none can be left behind unseen."""
    found: list[Any] = [len(point.fwd_hooks) for point in model.hook_dict.values()]
    modules = [model, *getattr(model, "original_model", model).modules(), *model.modules()]
    found += [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    found += [sorted(name for name in ("forward", "generate", "generate_stream") if name in vars(m)) for m in modules]
    return found
