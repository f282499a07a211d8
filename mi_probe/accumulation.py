"""A stream of texts through a model, with a probe attached and a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning
from mi_probe.corpus import Document, batches
from mi_probe.errors import InputError, nearest
from mi_probe.hooks import AttachedProbe, CountOn, attach, resolve
from mi_probe.probe import Probe, load_probe

__all__ = ["accumulate", "sample_activations"]


def accumulate(
    model: Any,
    texts: str | Document | Iterable[Document | str],
    probe: Probe | str | Path = "dimension_pairs",
    *,
    edges: Mapping[str, Binning] | None = None,
    batch_size: int = 8,
    first_document: int = 0,
    memory: float | None = None,
    count_on: CountOn = "auto",
    progress: bool = False,
) -> AttachedProbe:
    """Run texts through a model and count what the probe asks for.

    Long texts are cut into windows of the model's context, each token counted once; nothing is cached, so memory does not grow.
    Each text is one document, for `Probe.shards` and `Probe.swap`.

    Parameters
    ----------
    model : TransformerBridge or HookedTransformer
    texts : strings or `mi_probe.corpus.Document`
    probe : Probe, str or path
    edges : mapping of hook point -> Binning, optional
        As in `attach`.
    batch_size : int
        Windows that run together. It changes the speed, not the counts.
    first_document : int
        Number of the first text. Where several processes count parts of one corpus, number texts through all of them, so that
        shards fill evenly.
    memory : float, optional
        As in `attach`. Texts that end before the calibration does are never refused: they need no tables.
    count_on : {"auto", "device", "cpu"}
        As in `attach`.
    progress : bool
        Show a progress bar of tokens on standard error once a run takes longer than two seconds.

    Returns
    -------
    AttachedProbe
        Already detached, with its counts.

    Raises
    ------
    InputError
        No text has a token.
    HookPointError
        The model lacks a hook point of the probe.
    MemoryRefusedError
        The counts do not fit in memory; see `attach`.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> probe = mi_probe.accumulate(model, ["A cup of coffee.", "A pot of tea."])
    >>> probe.tokens_seen
    10
    """
    import torch
    from tqdm import tqdm

    what = probe if isinstance(probe, Probe) else load_probe(probe)
    if memory is None and edges is None and _at_most(texts, what.calibration_tokens - 1):
        memory = float("inf")
    with (
        attach(model, what, edges=edges, memory=memory, count_on=count_on) as attached,
        torch.inference_mode(),
        tqdm(unit=" tokens", unit_scale=True, delay=2.0, disable=not progress) as bar,
    ):
        for tokens, numbers in batches(texts, model, batch_size=batch_size):
            attached.documents = [first_document + number for number in numbers]
            before = attached.tokens_seen
            model(tokens.to(model.cfg.device), return_type=None)
            bar.update(attached.tokens_seen - before)
    attached.documents = None
    return attached


def _at_most(texts: str | Document | Iterable[Document | str], tokens: int) -> bool:
    """Whether it can be seen, without reading them, that texts have no more tokens."""
    if isinstance(texts, str | Document):
        texts = [texts]
    if not isinstance(texts, Sequence):
        return False
    return sum(Document("text", text).nbytes if isinstance(text, str) else text.nbytes for text in texts) <= tokens


def sample_activations(
    model: Any,
    texts: str | Document | Iterable[Document | str],
    point: str,
    probe: Probe | str | Path = "dimension_pairs",
    *,
    max_tokens: int = 2000,
) -> NDArray[np.floating]:
    """The activations themselves of one hook point, for the first tokens that a probe would count: to look at, not to accumulate.

    All dimensions, whichever the probe measures.

    Parameters
    ----------
    model : TransformerBridge or HookedTransformer
    texts : strings or `mi_probe.corpus.Document`
    point : str
        A hook point as results name it, such as ``"hidden_states.3"``.
    probe : Probe, str or path
        Which tokens count.
    max_tokens : int

    Returns
    -------
    array, shape (tokens, variables), in the model's precision, float32 at least

    Raises
    ------
    InputError
        The probe has no such hook point.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> sample_activations(model, [mi_probe.sample_text()], "hidden_states.3", max_tokens=50).shape
    (50, 128)
    """
    import torch

    whole = probe if isinstance(probe, Probe) else load_probe(probe)
    if max_tokens < 1:
        raise InputError(f"max_tokens must be at least 1; got {max_tokens}.")
    names = {p.key: p.hook_name for p in resolve(model, whole)}
    if point not in names:
        raise InputError(f"the probe has no hook point '{point}'{nearest(point, names)}; it has {', '.join(names)}.")
    alone = replace(whole, hooks=names[point], layers=None, dimensions=None, chosen_by="variance", pairs="all")
    alone = replace(alone, calibration_tokens=2**62)  # never complete: the rows stay rows
    with attach(model, alone, memory=float("inf")) as attached, torch.inference_mode():
        (stream,) = attached.streams.values()
        for tokens, _ in batches(texts, model, batch_size=1):
            model(tokens.to(model.cfg.device), return_type=None)
            if stream.n >= max_tokens:
                break
    return stream.rows()[:max_tokens]
