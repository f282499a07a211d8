"""A model by name, by folder, or the bundled one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_probe.errors import ModelError, nearest

if TYPE_CHECKING:
    import torch

__all__ = ["BUNDLED", "load_model", "outline"]

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
    source = _source(name)
    import torch
    from transformers.utils import logging as transformers_logging

    bridge = _bridge()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # copying weights takes no time; downloads keep their own bar
    try:
        model = bridge.boot_transformers(source, device=device, dtype=dtype or torch.float32)
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


@contextmanager
def outline(model: str | Path | Any) -> Iterator[Any]:
    """A model as TransformerLens has it, made from its configuration alone: its weights have shapes and no numbers.

    Inside the ``with`` block its forward pass runs, in no time, and gives shapes: all tensors that are made there are fake.

    Parameters
    ----------
    model : str, path or TransformerBridge
        What `load_model` takes, of which only ``config.json`` is read; or a bridge that was loaded, for another like it.

    Yields
    ------
    TransformerBridge

    Raises
    ------
    ModelError
        No such folder or model, the hub cannot be reached, or TransformerLens does not know its architecture.

    Examples
    --------
    >>> import torch
    >>> with outline("coffee-gpt2") as model:
    ...     tuple(model(torch.zeros(2, 5, dtype=torch.long)).shape), sum(p.numel() for p in model.parameters()) > 10**6
    ((2, 5, 4096), True)
    """
    loaded = getattr(model, "original_model", None)
    source = str(model) if loaded is not None else _source(model)
    bridge = _bridge()
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import PreTrainedTokenizerFast

    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            # Any tokenizer will do: by default one would be fetched.
            options: dict[str, Any] = {"tokenizer": PreTrainedTokenizerFast(tokenizer_object=_no_tokenizer()), "device": "cpu"}
            if loaded is None:
                made = bridge.boot_transformers(source, load_weights=False, **options)
            else:
                made = bridge.boot_transformers(source, hf_model=type(loaded)(copy.deepcopy(loaded.config)), **options)
        except Exception as error:  # of any library below, on any architecture
            if Path(source).is_dir():
                raise ModelError(f"the configuration in {source} cannot be used: {_first_line(error)}") from error
            raise ModelError(
                f"the configuration of the model '{source}' could not be had from the Hugging Face hub"
                f"{nearest(source, [BUNDLED])}: {_first_line(error)}\n"
                "Without a connection, use a folder with the config.json of the model: mi-probe plan --model path/to/folder."
            ) from error
        made.eval()
        yield made


def _no_tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))


def _source(name: str | Path) -> str:
    """The folder of a model, or its name on the hub."""
    source = str(name)
    if source == BUNDLED:
        return str(_DATA / BUNDLED)
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise ModelError(f"the folder {source} holds no Hugging Face model: there is no config.json in it.")
    elif source.startswith((".", "/", "~")) or isinstance(name, Path):
        raise ModelError(f"there is no folder {source}.")
    return source


def _bridge() -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise ModelError(
            "a model by name needs TransformerLens 3.9 or newer, for its TransformerBridge. With an older one, load a model "
            "yourself, HookedTransformer.from_pretrained_no_processing(...), and attach to it: mi_probe.attach(model)."
        ) from error
    return TransformerBridge


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
