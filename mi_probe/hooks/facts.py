"""What a model is, as far as counts depend on it: its shape, and how its weights were processed."""

from __future__ import annotations

import weakref
from typing import Any

from mi_probe.hooks.names import HookedModel, inner_of

__all__ = ["describe_model", "is_training"]

_centred: weakref.WeakKeyDictionary[Any, tuple[Any, bool]] = weakref.WeakKeyDictionary()


def describe_model(model: HookedModel) -> dict[str, Any]:
    """Name, shape and weight processing.

    ``weights_processed`` and ``compatibility_mode`` are what a bridge says of itself; ``writing_weights_centred`` is looked up in
    the weights, since HookedTransformer keeps no record of it. Centring mixes all dimensions of the residual stream;
    ``layer_norm_folded`` means another last hidden state.
    """
    cfg = model.cfg
    processed = bool(getattr(model, "_weights_processed", False))
    return {
        "name": str(getattr(cfg, "model_name", type(model).__name__)),
        "n_layers": int(cfg.n_layers),
        "d_model": int(cfg.d_model),
        "weights_processed": processed,
        "compatibility_mode": bool(getattr(model, "compatibility_mode", False)),
        "layer_norm_folded": _is_folded(model, processed),
        "writing_weights_centred": _is_centred(model),
    }


def _is_folded(model: HookedModel, processed: bool) -> bool:
    if inner_of(model) is None:
        return str(getattr(model.cfg, "normalization_type", "")).endswith("Pre")
    if not processed:
        return False
    norm = getattr(model, "ln_final", None)
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    # Folding leaves a norm that scales by one (Gemma, which adds one to its weights: by zero) and shifts by zero.
    plain = weight is None or bool((weight == 1).all()) or bool((weight == 0).all())
    return plain and (bias is None or bool((bias == 0).all()))


def _is_centred(model: HookedModel) -> bool:
    """Whether each row of the token embedding has mean 0, as weights that write to the residual stream have once centred."""
    weight = getattr(getattr(model, "embed", None), "W_E", None)
    if weight is None or weight.is_meta:
        return False
    state = (weight.data_ptr(), None if weight.is_inference() else weight._version)
    known = _centred.get(model)
    if known is None or known[0] != state:  # once, and again when the weights were written to
        rows = weight.detach().float()
        off = rows.mean(dim=-1).abs().max()
        known = (state, bool(off <= 1e-3 * rows.abs().mean(dim=-1).max()))  # bfloat16 has three digits
        _centred[model] = known
    return known[1]


def is_training(model: HookedModel) -> bool:
    """Whether dropout may be on. HookedTransformer has none in any mode."""
    inner = inner_of(model)
    return inner is not None and bool(getattr(inner, "training", False))
