"""A stream of texts through a model, with a probe attached: counts, checkpoints, several processes."""

from __future__ import annotations

import hashlib
import os
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mi_probe import divided, store
from mi_probe.binning import Binning
from mi_probe.calibration import calibrate, order_of
from mi_probe.corpus import Document, batches
from mi_probe.drift import warn_of_drift
from mi_probe.edges import Edges
from mi_probe.errors import CheckpointError, InputError, MergeError, MIProbeWarning, nearest
from mi_probe.hooks import AttachedProbe, CountOn, attach, hash_of_weights, resolve
from mi_probe.probe import Probe, load_probe
from mi_probe.ranks import Ranks
from mi_probe.running import Run, Wanted
from mi_probe.shares import Share
from mi_probe.sources import Corpus, as_corpus
from mi_probe.state import SAME_MODEL, ProbeState

if TYPE_CHECKING:
    import torch

__all__ = ["Calibration", "SplitBy", "accumulate", "sample_activations"]

Calibration = Literal["auto", "head", "sample"]
SplitBy = Literal["tokens", "pairs"]

_READ_TWICE = 1 << 20

_WORDS = {
    "probe": "another probe",
    "corpus": "other texts",
    "order": "the texts in another order",
    "shard": "another shard",
    "max_tokens": "another number of tokens",
    "first_document": "another number for the first document",
    "calibration": "another way of calibrating",
    "seed": "another seed",
    "context": "windows of another length",
}


def accumulate(
    model: Any,
    texts: str | Document | Corpus | Iterable[Document | str] | Any,
    probe: Probe | str | Path = "dimension_pairs",
    *,
    edges: Mapping[str, Binning] | None = None,
    calibration: Calibration = "auto",
    seed: int = 0,
    max_tokens: int | None = None,
    shard: tuple[int, int] = (1, 1),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_tokens: int | None = None,
    resume: bool = False,
    ranks: Ranks | None = None,
    split_by: SplitBy = "tokens",
    batch_size: int = 8,
    first_document: int = 0,
    labels: Callable[[torch.Tensor], Any] | None = None,
    memory: float | None = None,
    count_on: CountOn = "auto",
    progress: bool = False,
) -> AttachedProbe:
    """Run texts through a model and count what the probe asks for.

    Documents are cut into windows of the model's context, each token counted once; nothing is cached, so memory does not grow.
    The counts are the same, bit for bit, for any batch size and number of processes, and however often a run was stopped.

    Parameters
    ----------
    model : TransformerBridge or HookedTransformer
    texts : strings, `mi_probe.corpus.Document`, `Corpus`, or a dataset of the datasets library with a column ``text``
        Each is one document, for `Probe.shards` and `Probe.swap`.
    probe : Probe, str or path
    edges : mapping of hook point -> Binning, optional
        As in `attach`: a `mi_probe.Edges`, or the ``binnings`` of another run.
    calibration : {"auto", "head", "sample"}
        Where edges come from, if none are given: from the first tokens, or from a random sample of all text, read once for it;
        see `mi_probe.calibrate`. "auto" takes a sample where there is more than a megabyte of text that can be read twice.
    seed : int
        For the sample.
    max_tokens : int, optional
        Stop after so many tokens of the text (of this shard), BOS not among them.
    shard : (int, int)
        Count part k of n only, such as ``(2, 8)``, for another process on another machine to count the others. They add up if
        they are given the same edges.
    checkpoint : path, optional
        File to save the state to, as the run goes on and in the end. Ctrl-C or SIGTERM then end the run with a checkpoint.
    checkpoint_tokens : int, optional
        How often; about every ten minutes by default. Nothing is saved before the edges are there.
    resume : bool
        Go on from the checkpoint, if there is one.
    ranks : Ranks, optional
        The processes that share the work, started by torchrun; all call this with the same arguments. The first one has the
        counts in the end, the others none.
    split_by : {"tokens", "pairs"}
        What the processes share. "tokens": each counts all pairs of a part of the text. "pairs": each runs a part of the text,
        too, but its codes go to all, and each counts a share of the pairs of all of it, for tables that fit no one machine. That
        takes edges before anything is counted: given ones, or a sample of texts that can be read twice. In the end each process
        has its share, and `Ranks.estimate` and `Ranks.save`, called by all, give what one process would. The counts are the same,
        and a checkpoint of either can be gone on with by both.
    batch_size : int
        Windows that run together. It changes the speed, not the counts.
    first_document : int
        Number of the first text. Where several processes count parts of one corpus that were made by hand, number texts through
        all of them, so that shards of documents fill evenly.
    labels : callable, optional
        For a probe that counts pairs of tokens by label: is given token ids, an int64 tensor of shape (batch, position), BOS
        included, and returns the number of each token's label, of the same shape; -1 for none. Give the same one to go on.
    memory : float, optional
        As in `attach`. Texts that end before the calibration does are never refused: they need no tables.
    count_on : {"auto", "device", "cpu"}
        As in `attach`.
    progress : bool
        Show a progress bar of tokens on standard error once a run takes longer than two seconds.

    Returns
    -------
    AttachedProbe
        Already detached, with its counts, ``parts``, ``calibration`` and ``convergence``.

    Raises
    ------
    InputError
        No text has a token, an argument is out of range, or pairs are to be split without edges.
    HookPointError
        The model lacks a hook point of the probe.
    CheckpointError
        The checkpoint is of another probe, model or corpus, or of a run that is not over while `resume` is false.
    StoreError
        The checkpoint cannot be read, or not be written: the last one that was written stays.
    MemoryRefusedError
        The counts do not fit in memory; see `attach`.
    Stopped
        The run was asked to stop, and has saved its counts.
    RankError
        Another process has ended.

    Warns
    -----
    MIProbeWarning
        Texts without a token; bins whose share is not what it was when the edges were fitted; for pairs of tokens, edges of the
        same texts in another order.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> probe = mi_probe.accumulate(model, ["A cup of coffee.", "A pot of tea."])
    >>> probe.tokens_seen
    10
    """
    what = probe if isinstance(probe, Probe) else load_probe(probe)
    corpus = as_corpus(texts)
    ranks = ranks or Ranks.alone()
    path = None if checkpoint is None else Path(checkpoint)
    _require(batch_size, max_tokens, shard, checkpoint_tokens, path, resume, calibration, split_by)
    if what.variables == "tokens" and split_by == "pairs":
        raise InputError("tables of pairs of tokens are few and small: split the tokens among the processes (split_by='tokens').")
    share = Share(ranks.rank, ranks.size) if split_by == "pairs" and ranks.size > 1 else None
    there = ranks.broadcast(path is not None and path.exists())
    found = ranks.broadcast(_read(path, resume) if there and path is not None and ranks.first else None)
    calibration = _way(calibration, corpus, found if resume else None, divided=share is not None)
    if share is not None and edges is None and calibration == "head" and not (there and resume):
        raise InputError(
            "pairs can be split among processes once there are edges, and these come from the head of the texts as they are "
            "counted: run mi-probe calibrate on texts like these and give its file with --edges (edges=)"
            + (", or take a sample: calibration='sample'." if corpus.rereadable else ".")
        )
    if what.swap and ranks.size > 1:
        raise InputError(
            "a probe with swap counts documents against those before them, which other processes would have: run it in one "
            "process, or give each a shard of its own (shard=(k, n), --shard K/N)."
        )
    facts: dict[str, Any] = {
        "probe": replace(what, about="").to_toml(),
        "corpus": corpus.source,
        "order": corpus.order,
        "shard": list(shard),
        "max_tokens": max_tokens,
        "first_document": first_document,
        "calibration": calibration if edges is None else "given",
        "seed": seed if calibration == "sample" and edges is None else None,
        "context": int(model.cfg.n_ctx),
    }
    if path is not None:
        facts["weights"] = hash_of_weights(model)
    if edges is None and calibration == "sample" and not (there and resume):
        made = calibrate(model, corpus, what, seed=seed, progress=progress and ranks.first) if ranks.first else None
        edges = ranks.broadcast(made)
    if memory is None and edges is None and corpus.nbytes is not None and corpus.nbytes < what.calibration_tokens:
        memory = float("inf")
    wanted = Wanted(batch_size, max_tokens, shard, first_document, path, checkpoint_tokens, facts, labels)
    with attach(model, what, edges=edges, memory=memory, count_on=count_on, share=share) as attached:
        if there and resume:
            _go_on(attached, path, found, facts, edges, ranks)
        else:
            attached.calibration = _origin(edges, what, corpus, calibration)
            if ranks.first:
                _warn_of_order(attached.calibration, what, corpus)
        Run(attached, model, corpus, ranks, wanted, progress=progress).go()
    if ranks.first and shard == (1, 1):  # a shard need not be like the whole
        warn_of_drift(attached)
    return attached


def _require(
    batch_size: int,
    max_tokens: int | None,
    shard: tuple[int, int],
    checkpoint_tokens: int | None,
    path: Path | None,
    resume: bool,
    calibration: str,
    split_by: str,
) -> None:
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens), ("checkpoint_tokens", checkpoint_tokens)):
        if value is not None and (not hasattr(value, "__index__") or isinstance(value, bool) or value < 1):
            raise InputError(f"{name} must be at least 1; got {value!r}.")
    if len(shard) != 2 or not 1 <= shard[0] <= shard[1]:
        raise InputError(f"shard must be two numbers k and n, 1 <= k <= n: (2, 8) is the second of eight; got {shard!r}.")
    for name, said, known in (
        ("calibration", calibration, get_args(Calibration)),
        ("split_by", split_by, get_args(SplitBy)),
    ):
        if said not in known:
            raise InputError(f"{name} must be one of {known}; got {said!r}{nearest(said, known)}.")
    if path is None and (resume or checkpoint_tokens is not None):
        raise InputError("to save checkpoints or go on from one, name a file: checkpoint='state.safetensors'.")
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(f"there is no folder {path.parent} for the checkpoint {path.name}.")


def _way(calibration: Calibration, corpus: Corpus, run: dict[str, Any] | None, *, divided: bool) -> Calibration:
    """Where edges come from: as a run that is gone on with says, or what "auto" stands for."""
    if calibration != "auto":
        return calibration
    said: Calibration | None = (run or {}).get("calibration")
    if said is not None and said in get_args(Calibration):
        return said
    large = corpus.nbytes is None or corpus.nbytes > _READ_TWICE
    return "sample" if corpus.rereadable and (large or divided) else "head"


def _read(path: Path, resume: bool) -> dict[str, Any]:
    """What the header of a checkpoint says of its run; all of the file is checked, so that none is taken for another."""
    contents = store.check(path)
    if contents.kind != "state":
        raise CheckpointError(f"{path} holds {contents.called} of mi_probe, not the counts of a run: name another file.")
    header, run = contents.header, contents.header.get("run")
    run = run if isinstance(run, dict) else {}
    if not resume and "position" in run:
        raise CheckpointError(
            f"{path} is of a run that is not over, after {header.get('tokens_seen', 0):,} tokens: go on with it, resume=True "
            "(--resume), name another file, or remove it."
        )
    return run


def _go_on(
    attached: AttachedProbe,
    path: Path | None,
    run: dict[str, Any] | None,
    facts: dict[str, Any],
    edges: Mapping[str, Binning] | None,
    ranks: Ranks,
) -> None:
    """Take up what a checkpoint has, after checking that it is of the same run; the first process has the counts."""
    assert path is not None
    assert run is not None
    if "probe" not in run:
        raise CheckpointError(f"{path} is no checkpoint: it was not written by a run over a corpus. Name another file.")
    for name, wanted in facts.items():
        if name == "weights" or name not in run:
            continue
        if run[name] != wanted:
            raise CheckpointError(
                f"{path} is of a run with {_WORDS[name]}: {_difference(name, run[name], wanted)}. "
                "Go on as it was begun, or name another file."
            )
    if run.get("weights") != facts["weights"]:
        raise CheckpointError(f"{path} is of a run with another model: its weights are not these. Name another file.")
    if attached.share is not None:
        state: ProbeState | None = divided.load(ranks, path)
    else:
        state = ProbeState.load(path) if ranks.first else None
    if state is not None:
        for fact in SAME_MODEL:
            if state.model.get(fact) != attached.model[fact]:
                raise CheckpointError(
                    f"{path} is of a run with another model: {fact} was {state.model.get(fact)}, and is {attached.model[fact]}."
                )
        for name, binning in state.binnings.items():
            try:
                if edges is not None:
                    binning.require_same(edges[name])
            except MergeError as error:
                raise CheckpointError(f"{path} was counted with other edges: at '{name}', {error}") from None
    if state is not None and state.divided:
        attached.take_up(state)
        return
    binnings = ranks.share_edges(None if state is None else state.binnings)
    names = ("probe", "run", "parts", "convergence", "calibration")
    said = ranks.broadcast({} if state is None else {name: getattr(state, name) for name in names})
    if state is not None:
        attached.take_up(state)
    else:
        vars(attached).update(said)
        attached.take_edges(binnings)


def _difference(name: str, there: Any, now: Any) -> str:
    """In words; of probes, what differs."""
    if name == "probe" and isinstance(there, str):
        one, other = (_settings(text) for text in (there, now))
        differing = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return "; ".join(f"{key} is {one.get(key, 'not given')} there, {other.get(key, 'not given')} now" for key in differing)
    return f"{_short(there)} there, {_short(now)} now"


def _settings(toml: str) -> dict[str, Any]:
    """Of a probe, without the tables that they stand in."""
    found: dict[str, Any] = {}
    for key, value in tomllib.loads(toml).items():
        found |= value if isinstance(value, dict) else {key: value}
    return found


def _short(value: Any) -> str:
    """A value in words; a long text by a hash of it."""
    text = str(value)
    return text if len(text) < 60 else f"…{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _origin(edges: Mapping[str, Binning] | None, probe: Probe, corpus: Corpus, calibration: str) -> dict[str, Any]:
    """Where the edges are from."""
    if isinstance(edges, Edges):
        return dict(edges.about)
    if edges is not None:
        return {"kind": "given"}
    return {"kind": calibration, "tokens": probe.calibration_tokens, "corpus": corpus.name, **order_of(probe, corpus)}


def _warn_of_order(about: Mapping[str, Any], probe: Probe, corpus: Corpus) -> None:
    """Warn where the tokens that all are compared with, as those of other texts, may be of the same text."""
    here = order_of(probe, corpus)
    if here and about.get("source") == here["source"] and about.get("order") != here["order"]:
        warnings.warn(
            f"the edges are of these texts in another order ({about.get('order')} there, {here['order']} here), and documents "
            "are told apart by their place in it: some of the pairs that are called unrelated will be of one text. Fit the edges "
            "on the texts in the order in which they are run, or on others.",
            MIProbeWarning,
            stacklevel=3,
        )


def sample_activations(
    model: Any,
    texts: str | Document | Corpus | Iterable[Document | str],
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
    texts : strings, `mi_probe.corpus.Document`, `Corpus` or a dataset
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
    alone = replace(whole, hooks=names[point], layers=None, dimensions=None, chosen_by="variance", pairs="all", between=None)
    alone = replace(alone, calibration_tokens=2**62)  # never complete: the rows stay rows
    with attach(model, alone, memory=float("inf")) as attached, torch.inference_mode():
        (stream,) = attached.streams.values()
        for tokens, _ in batches(as_corpus(texts), model, batch_size=1):
            model(tokens.to(model.cfg.device), return_type=None)
            if stream.n >= max_tokens:
                break
    return stream.rows()[:max_tokens]
