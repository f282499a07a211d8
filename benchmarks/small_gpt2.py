"""A model shaped like GPT-2 small, with random weights: nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

__all__ = ["boot", "save", "tokens"]


def save(folder: Path, **shape: int) -> Path:
    """Save one, with a tokenizer of a few words; `shape` goes to GPT2Config, whose defaults are GPT-2 small's."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    words = Tokenizer(models.WordLevel({end: 0, "coffee": 1}, unk_token=end))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=end, eos_token=end, unk_token=end)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **shape)).save_pretrained(folder)
    return folder


def boot(folder: Path) -> Any:
    """The saved model, as TransformerLens loads it."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder))


def tokens(model: Any, rows: int, length: int) -> Any:
    """Random ids, none of them special, shape (rows, length)."""
    import torch

    return torch.randint(1, model.cfg.d_vocab, (rows, length), generator=torch.Generator().manual_seed(0))
