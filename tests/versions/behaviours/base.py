"""What every behaviour uses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from ..kits import Kit, NotThereError

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
    from ..kits import tokenizer

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


TEXTS = ["tea", "coffee, black", "mocha"]
OF_TEXTS = [token for text in TEXTS for token in letters(text)]
