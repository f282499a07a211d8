"""A model by name, by folder, or the bundled one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_probe.errors import ModelError, nearest

if TYPE_CHECKING:
    import torch

__all__ = ["BUNDLED", "load_model"]

BUNDLED = "coffee-gpt2"
"""Name of the model that comes with mi_probe: 12 blocks, 128 dimensions, about 3 million parameters."""

_DATA = Path(__file__).resolve().parent / "data"


def load_model(name: str | Path = BUNDLED, *, device: str | None = None, dtype: torch.dtype | None = None) -> Any:
    """Load a model into TransformerLens, in evaluation mode.

    Parameters
    ----------
    name : str or path
        ``"coffee-gpt2"``, the bundled model; a folder with a Hugging Face model and its tokenizer; or a name on the Hugging Face
        hub, such as ``"gpt2"``.
    device : str, optional
        Where TransformerLens puts it by default.
    dtype : torch.dtype, optional
        float32 by default, whatever the checkpoint holds.

    Returns
    -------
    TransformerBridge

    Raises
    ------
    ModelError
        No such folder or model, or the hub cannot be reached.

    Examples
    --------
    >>> model = load_model("coffee-gpt2")
    >>> model.cfg.n_layers, model.cfg.d_model
    (12, 128)
    """
    source = str(name)
    if source == BUNDLED:
        source = str(_DATA / BUNDLED)
    elif Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise ModelError(f"the folder {source} holds no Hugging Face model: there is no config.json in it.")
    elif source.startswith((".", "/", "~")) or isinstance(name, Path):
        raise ModelError(f"there is no folder {source}.")

    import torch
    from transformers.utils import logging as transformers_logging

    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise ModelError(
            "load_model needs TransformerLens 3.9 or newer, for its TransformerBridge. With an older one, load a model yourself, "
            "HookedTransformer.from_pretrained_no_processing(...), and attach to it: mi_probe.attach(model)."
        ) from error

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # copying weights takes no time; downloads keep their own bar
    try:
        model = TransformerBridge.boot_transformers(source, device=device, dtype=dtype or torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        if Path(source).is_dir():
            raise ModelError(f"the model in {source} cannot be loaded: {error}") from error
        hint = nearest(str(name), [BUNDLED])
        raise ModelError(
            f"the model '{name}' could not be loaded from the Hugging Face hub{hint}: {_first_line(error)}\n"
            f"Without a connection, use the bundled model, load_model('{BUNDLED}'), or a folder that holds a model saved with\n"
            "save_pretrained (config.json, model.safetensors, tokenizer.json): load_model('path/to/folder')."
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    model.eval()
    if Path(source).is_dir():
        model.cfg.model_name = Path(source).resolve().name  # the name goes into result files, the path does not
    return model


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
