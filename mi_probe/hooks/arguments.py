"""What the arguments of a forward method say of its tokens: which they are, which are padding, which were cached before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mi_probe.errors import InputError
from mi_probe.hooks.generation import Generation
from mi_probe.tokens import real_tokens

if TYPE_CHECKING:
    import torch

__all__ = ["cache_of", "cached_past", "has_own_numbers", "input_tokens", "real_of"]


def input_tokens(given: dict[str, Any], model: Any) -> Any:
    """Token ids among the arguments of a Hugging Face model or of a remote bridge, a tensor; None if there are none.

    Parameters
    ----------
    given : dict
        Arguments by name, the first one first.
    model
        The bridge, to turn a string into tokens as it will itself.
    """
    import torch

    tokens = given.get("input_ids")
    if tokens is None and given.get("inputs_embeds") is None:
        tokens = given.get("input", next(iter(given.values()), None))
    if isinstance(tokens, str):
        return None if model is None else model.to_tokens(tokens)
    if isinstance(tokens, list) or (tokens is not None and not torch.is_tensor(tokens) and hasattr(tokens, "__array__")):
        return torch.as_tensor(tokens)
    return tokens


def cache_of(given: dict[str, Any]) -> Any:
    """The cache among the arguments, of whatever kind: keys and values, or the state of a state-space model."""
    names = ("past_key_values", "past_kv_cache", "cache_params", "state")
    return next((given[name] for name in names if given.get(name) is not None), None)


def cached_past(given: dict[str, Any]) -> Any:
    """The cached past: its length, an int, or which of it is not padding, a tensor of shape (batch, past)."""
    import torch

    cache = given.get("past_key_values")
    if cache is not None:
        if hasattr(cache, "get_seq_length"):
            return int(cache.get_seq_length())
        return int(cache[0][0].shape[-2]) if len(cache) else 0  # tuples, in older versions of transformers
    cache = given.get("past_kv_cache")
    if cache is not None:  # HookedTransformer's
        length = int(cache[0].past_keys.shape[1])
        mask: Any = getattr(cache, "previous_attention_mask", None)
        fits = torch.is_tensor(mask) and mask.ndim == 2 and mask.shape[1] == length
        return mask.bool().clone() if fits and length else length
    position = given.get("cache_position")
    if given.get("cache_params") is not None and position is not None and len(position):
        return int(position.reshape(-1)[0])  # state-space models keep no keys to count
    return 0


def real_of(
    tokens: torch.Tensor,
    given: dict[str, Any],
    past: Any,
    generation: Generation | None,
    tokenizer: Any,
    padding_side: str | None,
    prepends_bos: bool,
) -> torch.Tensor:
    """Which tokens are not padding, over the cached past and the new ones, shape (batch, past + position), bool.

    Raises
    ------
    InputError
        The attention mask does not say it.
    """
    import torch

    mask: Any = given.get("attention_mask", given.get("one_zero_attention_mask"))  # the latter is HookedEncoder's
    if not torch.is_tensor(past):
        past = torch.ones(tokens.shape[0], int(past), dtype=torch.bool, device=tokens.device)
    columns = past.shape[1] + tokens.shape[1]
    if getattr(mask, "ndim", None) == 1:  # of one row, as its tokens may be
        mask = mask[None]
    flat = getattr(mask, "ndim", None) == 2
    if flat and mask.shape[1] > columns and given.get("past_key_values") is not None:
        mask = mask[:, :columns]  # as long as a static cache will become
    if generation is not None and generation.has_rows_of(tokens):
        if mask is None or not flat:  # a static cache has a mask of queries and keys, which hides what is padding
            return generation.real_with(columns)
        past = generation.real_with(past.shape[1])
    elif generation is not None and mask is not None and not flat:
        mask, flat = generation.prompt_mask, True
    if mask is not None and not flat:
        raise InputError("its attention mask is not (batch, position): which tokens are padding cannot be told")
    return real_tokens(tokens, mask, past, tokenizer, padding_side, prepends_bos)


def has_own_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers of its own: it does not under vmap or jvp, nor as a fake tensor."""
    import torch

    if type(tensor).__name__ == "FakeTensor":
        return False
    wrapped = getattr(torch._C, "_functorch", None)
    return wrapped is None or not wrapped.is_functorch_wrapped_tensor(tensor)
