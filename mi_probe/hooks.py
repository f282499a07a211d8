"""The only room that touches a model: hook points by name, attaching, and which tokens of a forward pass count."""

from __future__ import annotations

import fnmatch
import inspect
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from mi_probe.binning import Binning
from mi_probe.counts import JointCounts
from mi_probe.errors import HookPointError, MIProbeWarning, nearest
from mi_probe.probe import NAMED_SETS, Probe, load_probe
from mi_probe.state import SAME_MODEL, PointStream, ProbeState

if TYPE_CHECKING:
    import torch

__all__ = ["AttachedProbe", "HookedModel", "attach", "points", "resolve"]


class HookedModel(Protocol):
    """What mi_probe needs of a model; TransformerLens' TransformerBridge has it."""

    cfg: Any
    embed: Any
    original_model: Any

    @property
    def hook_dict(self) -> dict[str, Any]: ...


# --------------------------------------------------------------------------------------------------------------------
# names

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


@dataclass(frozen=True)
class Point:
    """A hook point under the name that results will carry."""

    key: str
    hook_name: str
    layer: int | None


def points(model: HookedModel) -> list[str]:
    """Names of all hook points of a model, aliases included.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> "blocks.11.hook_resid_post" in points(model)
    True
    """
    _require_model(model)
    return sorted(model.hook_dict)


def _require_model(model: object) -> None:
    lacks = [name for name in ("hook_dict", "cfg", "embed", "original_model") if not hasattr(model, name)]
    if lacks:
        raise HookPointError(
            f"{type(model).__name__} is not a model that mi_probe can attach to: it lacks {', '.join(lacks)}. "
            "Load one with TransformerBridge.boot_transformers(...) or mi_probe.load_model(...)."
        )


def _members(name: str, n_layers: int) -> list[Point]:
    if name == "hidden_states":
        before = [Point(f"{name}.{i}", f"blocks.{i}.hook_resid_pre", i) for i in range(n_layers)]
        return [*before, Point(f"{name}.{n_layers}", "ln_final.hook_out", n_layers)]
    if name == "embed":
        return [Point(name, "hook_embed", None)]
    return [Point(f"{name}.{i}", f"blocks.{i}.hook_{name}", i) for i in range(n_layers)]


def resolve(model: HookedModel, probe: Probe) -> list[Point]:
    """The hook points of a probe in a model, each once.

    Raises
    ------
    HookPointError
        A name that is not there, a pattern that matches nothing, a layer out of range.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> [p.hook_name for p in resolve(model, mi_probe.Probe(layers=[0, -1]))]
    ['blocks.0.hook_resid_pre', 'ln_final.hook_out']
    """
    _require_model(model)
    hook_dict, n_layers = model.hook_dict, int(model.cfg.n_layers)
    found: list[Point] = []
    for wanted in (probe.hooks,) if isinstance(probe.hooks, str) else probe.hooks:
        if wanted in NAMED_SETS:
            members = _members(wanted, n_layers)
            absent = [p.hook_name for p in members if p.hook_name not in hook_dict]
            if absent:
                raise HookPointError(
                    f"this model has no '{wanted}': {absent[0]} is not among its hook points; see mi_probe.hooks.points(model)."
                )
        elif any(c in wanted for c in "*?["):
            members = [Point(n, n, _layer(n)) for n in hook_dict if fnmatch.fnmatchcase(n, wanted)]
            if not members:
                raise HookPointError(
                    f"the pattern '{wanted}' matches none of the {len(hook_dict)} hook points of this model; "
                    "see mi_probe.hooks.points(model)."
                )
        elif wanted in hook_dict:
            members = [Point(wanted, wanted, _layer(wanted))]
        else:
            raise HookPointError(
                f"hook point '{wanted}' is not in this model ({n_layers} blocks, 0 to {n_layers - 1})"
                f"{nearest(wanted, [*hook_dict, *NAMED_SETS])}; see mi_probe.hooks.points(model), "
                f"or use a named set: {', '.join(NAMED_SETS)}."
            )
        found += _of_layers(members, probe.layers, wanted)
    unique: dict[int, Point] = {}
    for point in found:
        unique.setdefault(id(hook_dict[point.hook_name]), point)
    return list(unique.values())


def _layer(name: str) -> int | None:
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def _of_layers(members: list[Point], layers: tuple[int, ...] | None, wanted: str) -> list[Point]:
    if layers is None:
        return members
    there = [p.layer for p in members if p.layer is not None]
    if not there:
        raise HookPointError(f"'{wanted}' has no layers to choose from; leave layers out of the probe.")
    top = max(there) + 1
    chosen = {i + top if i < 0 else i for i in layers}
    if not chosen <= set(there):
        raise HookPointError(f"layers {sorted(chosen - set(there))} are not in '{wanted}', which has {min(there)} to {top - 1}.")
    return [p for p in members if p.layer in chosen]


# --------------------------------------------------------------------------------------------------------------------
# tokens


class Batch:
    """The forward pass under way: which of its rows count, and what the hooks have taken from it."""

    def __init__(self, mask: Any, past: int) -> None:
        self.mask, self.past = mask, past
        self.shape: tuple[int, int] | None = None
        self.keep: torch.Tensor | None = None  # indices into the flattened (batch * position); None: every row
        self.n = 0
        self.taken: dict[str, Any] = {}


def _real_tokens(tokens: torch.Tensor, batch: Batch, tokenizer: Any) -> torch.Tensor:
    """Which tokens are not padding, over the cached past and the new ones, shape (batch, past + position)."""
    import torch

    rows, positions = tokens.shape
    if batch.mask is not None:
        return torch.as_tensor(batch.mask, device=tokens.device).bool()
    new = torch.ones_like(tokens, dtype=torch.bool)
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is not None and rows > 1 and positions > 1:
        # TransformerLens passes no mask for a right-padded list of strings. Only the run of pads at the end (or, padded on the
        # left, at the start) is padding: in GPT-2 the same token also stands for BOS and EOS.
        real = tokens.ne(pad).long()
        if getattr(tokenizer, "padding_side", "right") == "right":
            new = real.flip(-1).cumsum(-1).flip(-1) > 0
        else:
            new = real.cumsum(-1) > 0
            if pad == getattr(tokenizer, "bos_token_id", None):  # the last pad of the run is this row's BOS
                start = (~new).sum(-1) - 1
                has_bos = (start >= 0).nonzero()[:, 0]
                new[has_bos, start[has_bos]] = True
    return torch.cat([torch.ones(rows, batch.past, dtype=torch.bool, device=tokens.device), new], dim=-1)


def _select(tokens: torch.Tensor, batch: Batch, tokenizer: Any, probe: Probe) -> torch.Tensor:
    """Which tokens count, shape (batch, position): real, not among the first, not special."""
    import torch

    positions = tokens.shape[1]
    real = _real_tokens(tokens, batch, tokenizer)
    place = real.long().cumsum(-1)[:, -positions:] - 1  # 0 is the first real token, wherever padding stands
    chosen = real[:, -positions:] & (place >= probe.skip_first)
    special = getattr(tokenizer, "all_special_ids", None)
    if probe.skip_special and special:
        chosen &= ~torch.isin(tokens, torch.tensor(special, device=tokens.device, dtype=tokens.dtype))
    return chosen


# --------------------------------------------------------------------------------------------------------------------
# attaching


class AttachedProbe(ProbeState):
    """A probe on a model: a `ProbeState` that is fed by the model's forward passes until it is detached.

    Made by `attach`. A forward pass is counted whole, when it has ended, or not at all.
    """

    def __init__(self, model: HookedModel, probe: Probe, edges: Mapping[str, Binning] | None = None) -> None:
        resolved = resolve(model, probe)
        keys = [p.key for p in resolved]
        if edges is not None:
            probe = _with_edges(probe, keys, edges)
        super().__init__(probe, _describe(model), {key: PointStream(probe) for key in keys})
        self.points = {p.key: p.hook_name for p in resolved}
        for key, binning in (edges or {}).items():
            self.streams[key] = PointStream.frozen(probe, binning, JointCounts(binning.variables, binning.bins))
        self._model = weakref.ref(model)  # counts that are kept must not keep the weights
        self._parameters = list(inspect.signature(model.original_model.forward).parameters)
        self._passes = threading.local()  # forward passes of several threads do not mix
        self._commit = threading.Lock()
        self._paused = False
        self._warned: set[str] = set()
        self._detachers: list[Callable[[], None]] = []
        if getattr(model.original_model, "training", False):
            warnings.warn(
                "the model is in training mode: dropout changes its activations; call model.eval() first.",
                MIProbeWarning,
                stacklevel=3,
            )
        try:
            self._attach(model, resolved)
        except BaseException:
            self.detach()
            raise

    # -- lifetime ----------------------------------------------------------------------------------------------------

    def _attach(self, model: HookedModel, resolved: list[Point]) -> None:
        inner = model.original_model
        self._detachers.append(inner.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
        self._detachers.append(model.embed.register_forward_pre_hook(self._see_tokens).remove)
        self._detachers.append(inner.register_forward_hook(self._end, always_call=True).remove)
        hook_dict = model.hook_dict
        for point in resolved:
            self._detachers.append(_add_hook(hook_dict[point.hook_name], self._taker(point.key)))

    def detach(self) -> None:
        """Take every hook off; the counts stay. Doing it twice is harmless."""
        while self._detachers:
            self._detachers.pop()()
        self._batches.clear()

    @property
    def _batches(self) -> list[Batch | None]:
        """The passes under way in this thread: a pass inside a pass, as a hook may run one, has a batch of its own."""
        if not hasattr(self._passes, "batches"):
            self._passes.batches = []
        batches: list[Batch | None] = self._passes.batches
        return batches

    def __enter__(self) -> AttachedProbe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()
        if kind is None and not self._warned:
            silent = [name for key, name in self.points.items() if not self.streams[key].n]
            if silent:
                self._warn("silent", f"no token was counted at {', '.join(silent)}.")

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Forward passes inside are not counted.

        Examples
        --------
        >>> import mi_probe
        >>> model = mi_probe.load_model("coffee-gpt2")
        >>> with mi_probe.attach(model, "dimension_pairs") as probe:
        ...     with probe.pause():
        ...         _ = model("a patched run")
        ...     _ = model("a cup of coffee")
        >>> probe.tokens_seen
        4
        """
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _warn(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(message, MIProbeWarning, stacklevel=3)

    # -- a forward pass ----------------------------------------------------------------------------------------------

    def _begin(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positional = dict(zip(self._parameters, args, strict=False))
        given = positional | kwargs
        batch: Batch | None = None
        if not self._paused and self._is_as_attached():
            past: Any = given.get("past_key_values")
            length = int(past.get_seq_length()) if hasattr(past, "get_seq_length") else 0
            batch = Batch(given.get("attention_mask"), length)
        self._batches.append(batch)

    def _is_as_attached(self) -> bool:
        model = self._model()
        if model is None:  # the bridge is gone, its inner model runs on: its hook points are those that were attached
            return True
        now = _describe(model)
        changed = [fact for fact in SAME_MODEL if now[fact] != self.model[fact]]
        if changed:
            self._warn(
                "changed",
                f"the model was changed after the probe was attached ({changed[0]} is now {now[changed[0]]}): its weights "
                "are not those that were counted before, so nothing more is counted. Detach, and attach a new probe.",
            )
        return not changed

    def _see_tokens(self, _module: Any, args: tuple[Any, ...]) -> None:
        import torch

        batch = self._batches[-1] if self._batches else None
        if batch is None or batch.shape is not None or not args:  # the first call of a pass embeds its input
            return
        tokens = args[0]
        if not torch.is_tensor(tokens) or tokens.is_floating_point():
            return
        if batch.mask is not None and getattr(batch.mask, "ndim", None) != 2:
            self._warn(
                "mask",
                "the attention mask is not an array (batch, position): which tokens are padding cannot be told, so this forward "
                "pass is not counted.",
            )
            self._batches[-1] = None
            return
        with torch.no_grad():
            chosen = _select(tokens, batch, getattr(self._model(), "tokenizer", None), self.probe)
            index = chosen.reshape(-1).nonzero()[:, 0]  # once a pass, not once a hook
        batch.shape = (tokens.shape[0], tokens.shape[1])
        batch.n = len(index)
        batch.keep = None if len(index) == tokens.numel() else index

    def _taker(self, key: str) -> Callable[..., None]:
        def take(activation: torch.Tensor, *, hook: Any) -> None:
            # The key is bound here: hook.name changes with TransformerLens' compatibility mode.
            self._take(key, activation)

        return take

    def _take(self, key: str, activation: torch.Tensor) -> None:
        import torch

        batch = self._batches[-1] if self._batches else None
        if batch is None or batch.shape is None:
            return
        if key in batch.taken:
            raise HookPointError(
                f"hook point '{self.points[key]}' fired twice in one forward pass; mi_probe counts a token once. "
                "Choose a hook point outside the repeated part."
            )
        if activation.ndim < 3 or tuple(activation.shape[:2]) != batch.shape or not activation.is_floating_point():
            raise HookPointError(
                f"hook point '{self.points[key]}' gives {activation.dtype} of shape {tuple(activation.shape)}, not one row of "
                f"numbers a token, (batch, position, ...) with batch x position {batch.shape}."
            )
        with torch.no_grad():
            rows = activation.detach().flatten(2).flatten(0, 1)
            if batch.keep is not None:
                rows = rows.index_select(0, batch.keep.to(rows.device))
            if rows.dtype not in (torch.float32, torch.float64):
                rows = rows.float()
            batch.taken[key] = self.streams[key].prepare(rows.cpu().numpy())

    def _end(self, _module: Any, _args: Any, output: Any) -> None:
        batch = self._batches.pop() if self._batches else None
        if batch is None:
            return
        if output is None:
            self._warn("partial", "a forward pass ended early (an error, or stop_at_layer): none of its tokens was counted.")
            return
        if batch.shape is None:
            self._warn("no tokens", "a forward pass had no token ids (start_at_layer or embeddings as input): not counted.")
            return
        silent = [name for key, name in self.points.items() if key not in batch.taken]
        if silent:
            self._warn("silent", f"these hook points did not fire and are not counted: {', '.join(silent)}.")
        with self._commit:
            completed = {key: self.streams[key].completed_by(prepared) for key, prepared in batch.taken.items()}
            self._torn = True  # until every hook point has it
            for key, prepared in batch.taken.items():
                self.streams[key].commit(prepared, completed[key])
            self.tokens_seen += batch.n
            self._torn = False


def _with_edges(probe: Probe, keys: list[str], edges: Mapping[str, Binning]) -> Probe:
    """The probe with the binning that the edges have; they must be there for all hook points, and of one kind."""
    for key in [*edges, *keys]:
        if key not in edges or key not in keys:
            where = "the probe does not measure it" if key in edges else "the probe measures it, but it has no edges"
            raise HookPointError(f"edges and probe differ at '{key}': {where}{nearest(key, edges if key in keys else keys)}.")
    kinds = {(binning.method, binning.bins) for binning in edges.values()}
    if len(kinds) > 1:
        raise HookPointError(f"edges must have one method and one number of bins; got {sorted(kinds)}.")
    method, bins = kinds.pop()
    return replace(probe, method=method, bins=bins)


def _add_hook(hook_point: Any, function: Callable[..., None]) -> Callable[[], None]:
    """Add a permanent hook and return what takes off just that one, whatever others do."""
    before = {id(handle) for handle in hook_point.fwd_hooks}
    hook_point.add_hook(function, dir="fwd", is_permanent=True)
    ours = next(handle for handle in hook_point.fwd_hooks if id(handle) not in before)

    def remove() -> None:
        ours.hook.remove()
        hook_point.fwd_hooks[:] = [handle for handle in hook_point.fwd_hooks if handle is not ours]

    return remove


def _describe(model: HookedModel) -> dict[str, Any]:
    cfg = model.cfg
    return {
        "name": str(getattr(cfg, "model_name", type(model).__name__)),
        "n_layers": int(cfg.n_layers),
        "d_model": int(cfg.d_model),
        "weights_processed": bool(getattr(model, "_weights_processed", False)),
        "compatibility_mode": bool(getattr(model, "compatibility_mode", False)),
    }


def attach(
    model: HookedModel, probe: Probe | str | Path = "dimension_pairs", *, edges: Mapping[str, Binning] | None = None
) -> AttachedProbe:
    """Attach a probe to a TransformerLens model; it counts while your own forward passes run.

    Your hooks and the model's outputs are untouched: the logits are bit-equal with and without a probe. Use it as a context
    manager, or call ``detach()`` yourself.

    Parameters
    ----------
    model : TransformerBridge
        Loaded by ``TransformerBridge.boot_transformers`` or `mi_probe.load_model`.
    probe : Probe, str or path
        What to measure: a `Probe`, the name of a ready-made one, or a TOML file.
    edges : mapping of hook point -> Binning, optional
        Edges to use from the first token on, such as the ``binnings`` of another run. Counts with the same edges can be added up.

    Returns
    -------
    AttachedProbe
        With ``tokens_seen``, ``counts``, ``estimate()``, ``save(path)``, ``pause()``, ``detach()``.

    Raises
    ------
    HookPointError
        The model lacks a hook point, or a pattern matches nothing.

    Warns
    -----
    MIProbeWarning
        Training mode; a hook that did not fire; a forward pass that ended early and was not counted.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> with mi_probe.attach(model, mi_probe.Probe(layers=[0, 12])) as probe:
    ...     _ = model("Turkish coffee is made in a small copper pot, and it is served with the grounds.")
    >>> result = probe.estimate()
    >>> list(result)
    ['hidden_states.0', 'hidden_states.12']
    """
    _require_model(model)
    return AttachedProbe(model, probe if isinstance(probe, Probe) else load_probe(probe), edges)
