"""A tiny GPT-2 with random weights, made on the spot, and the bundled model."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import pytest


def save_byte_tokenizer(path: Path, n_positions: int = 32) -> int:
    """A tokenizer of single bytes, where token 0 begins and ends a text; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, **{letter: k for k, letter in enumerate(letters, start=1)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end, model_max_length=n_positions
    ).save_pretrained(path)
    return len(vocabulary)


def make_tiny_gpt2(path: Path, *, n_layer: int = 3, n_embd: int = 16, n_positions: int = 32, seed: int = 0) -> Path:
    """A random GPT-2 with a tokenizer of single bytes, saved as Hugging Face saves it."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=save_byte_tokenizer(path, n_positions),
        n_positions=n_positions,
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # the initial biases and norms are 0 and 1, under which a wrong hook point can look right
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter) if "ln" in name else 0.02 * torch.randn_like(parameter)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gpt2(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def roomy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose context has room for the bundled passage, byte by byte."""
    return make_tiny_gpt2(tmp_path_factory.mktemp("roomy"), n_positions=1024)


@pytest.fixture
def small_blocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose Python processes deal a corpus out in small blocks, so that a small one has many."""
    folder = tmp_path_factory.mktemp("small_blocks")
    (folder / "sitecustomize.py").write_text("from mi_probe import corpus\ncorpus._PIECE = corpus._BLOCK = 1 << 13\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    import mi_probe

    return mi_probe.load_model(tiny_folder)


@pytest.fixture(scope="session")
def coffee() -> Any:
    import mi_probe

    return mi_probe.load_model("coffee-gpt2")


@pytest.fixture
def fresh() -> Iterator[Any]:
    """A bridge of its own for one test, on which nothing may be left in the end."""
    import torch

    from .versions.kits import everything_on, kit

    made = kit("TransformerBridge")
    with torch.no_grad():
        made.model(torch.tensor([[1]]))  # transformers puts hooks of its own on, once and for all
    before = everything_on(made.model)
    yield made
    made.model.reset_hooks()
    gc.collect()
    assert everything_on(made.model) == before
