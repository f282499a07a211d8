"""What a model is, as far as counts depend on it: its shape, and how its weights were processed."""

from __future__ import annotations

import weakref
from typing import Any

from mi_probe.hooks.arguments import has_own_numbers
from mi_probe.hooks.names import HookedModel, inner_of

__all__ = ["describe_model", "has_dropout", "hash_of_weights", "weights_stand_for_others"]

_looked_up: weakref.WeakKeyDictionary[Any, tuple[Any, tuple[bool, bool]]] = weakref.WeakKeyDictionary()


def weights_stand_for_others(model: HookedModel) -> bool:
    """Whether the weights are not the model's own, as under torch.func: nothing can be read from them then."""
    weight = getattr(getattr(model, "embed", None), "W_E", None)
    return weight is not None and not has_own_numbers(weight)


def describe_model(model: HookedModel) -> dict[str, Any]:
    """Name, shape and weight processing.

    ``weights_processed`` and ``compatibility_mode`` are what a bridge says of itself; ``writing_weights_centred`` is looked up in
    the weights, since HookedTransformer keeps no record of it. Centring mixes all dimensions of the residual stream;
    ``layer_norm_folded`` means another last hidden state.
    """
    cfg = model.cfg
    processed = bool(getattr(model, "_weights_processed", False))
    embedding = getattr(getattr(model, "embed", None), "W_E", None)
    norm = getattr(model, "ln_final", None) if processed else None
    weights = [embedding, getattr(norm, "weight", None), getattr(norm, "bias", None)]
    state = (processed, *map(_fingerprint, weights))
    known = _looked_up.get(model)
    if known is None or known[0] != state:  # once, and again when the weights were written to
        folded = _norm_is_folded(*weights[1:]) if inner_of(model) is not None else _has_no_weights(model)
        known = (state, (folded and (processed or inner_of(model) is None), _is_centred(embedding)))
        _looked_up[model] = known
    folded, centred = known[1]
    return {
        "name": str(getattr(cfg, "model_name", type(model).__name__)),
        "n_layers": int(cfg.n_layers),
        "d_model": int(cfg.d_model),
        "weights_processed": processed,
        "compatibility_mode": bool(getattr(model, "compatibility_mode", False)),
        "layer_norm_folded": folded,
        "writing_weights_centred": centred,
    }


def _fingerprint(weight: Any) -> Any:
    """What changes when a weight is replaced or written to."""
    return None if weight is None else (weight.data_ptr(), None if weight.is_inference() else weight._version)


def _has_no_weights(model: HookedModel) -> bool:
    """A HookedTransformer whose norms were folded has others in their place, without weights."""
    return str(getattr(model.cfg, "normalization_type", "")).endswith("Pre")


def _norm_is_folded(weight: Any, bias: Any) -> bool:
    """Folding leaves a norm that scales by one (Gemma, which adds one to its weights: by zero) and shifts by zero."""
    scales = weight is None or bool((weight == 1).all()) or bool((weight == 0).all())
    return scales and (bias is None or bool((bias == 0).all()))


def _is_centred(embedding: Any) -> bool:
    """Whether each row of the token embedding has mean 0, as weights that write to the residual stream have once centred."""
    if embedding is None or embedding.is_meta:
        return False
    rows = embedding.detach()[:: max(1, len(embedding) // 256)].float()  # some of them: it is asked again while weights change
    return bool(rows.mean(dim=-1).abs().max() <= 1e-3 * rows.abs().mean(dim=-1).max())  # bfloat16 has three digits


def hash_of_weights(model: HookedModel) -> str:
    """A hash of all weights, by name: two models with the same one compute the same."""
    import torch
    import xxhash

    state = xxhash.xxh3_128()
    whole: Any = inner_of(model) or model
    for name, weight in sorted(whole.state_dict().items()):
        values = weight.detach().cpu().contiguous()
        state.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
        state.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def has_dropout(model: HookedModel) -> bool:
    """Whether dropout is on: training mode, in a model that has any. HookedTransformer has none."""
    inner = inner_of(model)
    if inner is None or not getattr(inner, "training", False):
        return False
    modules = any(float(getattr(m, "p", 0)) > 0 for m in inner.modules() if "Dropout" in type(m).__name__)
    config = getattr(getattr(inner, "config", None), "__dict__", {})
    return modules or any("drop" in name and isinstance(rate, float) and rate > 0 for name, rate in config.items())
