"""A probe on a model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning
from mi_probe.errors import HookPointError, InputError, MemoryRefusedError, at_point
from mi_probe.footprint import Run, refuse_unless_device_has_room, refuse_unless_it_fits
from mi_probe.given import checked_labels, require_labels
from mi_probe.hooks.arguments import has_own_numbers
from mi_probe.hooks.batch import Batch, CountOn, misfit_of, rows_of
from mi_probe.hooks.facts import describe_model, has_dropout, weights_stand_for_others
from mi_probe.hooks.names import (
    HookedModel,
    couples,
    inner_of,
    require_enough,
    resolve,
    site_of,
    width_by_name,
    widths_of_couples,
    with_edges,
)
from mi_probe.hooks.passes import Pass, Watch, compile_anew
from mi_probe.hooks.saying import few, warn_user
from mi_probe.hooks.sites import Hook
from mi_probe.ledger import (
    CHANGED,
    COUNTED,
    DETACHED,
    HOOKS_GONE,
    MISFIT,
    NO_EDGES,
    NO_LABELS,
    NO_MEMORY,
    NO_TOKENS,
    PAUSED,
    RAISED,
    SILENT,
    STAND_INS,
    STOPPED,
    TOO_FEW_VISITS,
    PointStatus,
    Status,
)
from mi_probe.outbox import Outbox
from mi_probe.pointcounts import PointCounts
from mi_probe.probe import Probe
from mi_probe.shares import Share
from mi_probe.state import FOUND_IN_WEIGHTS, SAME_MODEL, ProbeState
from mi_probe.stream import PointStream, Prepared
from mi_probe.subset import Width
from mi_probe.tokens import Choice, choose

if TYPE_CHECKING:
    import torch

__all__ = ["AttachedProbe"]

_ROWS = 4096


class AttachedProbe(ProbeState):
    """A probe on a model: a `ProbeState` that is fed by the model's forward passes until it is detached.

    Made by `attach`. A forward pass is counted whole, when it has ended, or not at all. Leaving the ``with`` block, ``detach()``
    and ``del`` take every hook off. ``pass_begins``, ``tokens_are_known``, ``take`` and ``pass_ends`` are for the hooks to call.

    Attributes
    ----------
    points : dict of str -> str
        The hook points of the model by the names that results carry.
    share : Share or None
        Which share of the pairs has its tables here, where these are divided among processes.
    outbox : Outbox
        Codes that wait to go to all of these.
    """

    def __init__(
        self,
        model: HookedModel,
        probe: Probe,
        edges: Mapping[str, Binning] | None = None,
        memory: float | None = None,
        count_on: CountOn = "auto",
        share: Share | None = None,
    ) -> None:
        if count_on not in get_args(CountOn):
            raise InputError(
                f"count_on must be one of {get_args(CountOn)}; got {count_on!r}. 'device' is where the activations are, whatever "
                "that is; 'auto' takes it for a GPU."
            )
        if memory is not None and not (isinstance(memory, int | float) and memory > 0):
            raise InputError(f"memory must be a number of bytes above 0, such as 8e9, or None for what is free; got {memory!r}.")
        self.count_on: CountOn = count_on
        resolved = resolve(model, probe)
        keys = [p.key for p in resolved]
        self._couples = couples(model, probe)
        names = list(self._couples or keys)
        if edges is not None:
            probe = with_edges(probe, names, edges)
            self._require_sides(edges)
        config = getattr(inner_of(model), "config", None)
        if getattr(config, "is_encoder_decoder", False) and any("decoder" in p.hook_name for p in resolved):
            raise HookPointError(
                "this model has an encoder and a decoder, each with tokens of its own: only hook points of the encoder can be "
                "measured here. Feed the decoder's activations to ProbeState.update."
            )
        of_places: dict[str, int | str] = {p.key: width_by_name(model, p) or "not known" for p in resolved}
        if edges is None:
            require_enough(probe, of_places)
        widths = widths_of_couples(self._couples, of_places)
        for key, binning in (edges or {}).items():
            widths[key] = (binning.first, binning.variables - binning.first) if binning.sides else binning.variables
        self._device_has_room = False
        self._widths_known = not any(isinstance(width, str) for width in widths.values())
        # More rows than usual are someone's way to keep rows: how many will come is not known.
        rows = 0 if edges else min(probe.calibration_tokens, _ROWS)
        self.share = None if share is None or share.of == 1 else share
        refuse_unless_it_fits(probe, widths, self._run_of(rows), memory)
        super().__init__(
            probe, describe_model(model), {name: PointStream(probe, self._couples.get(name)) for name in names}, memory=memory
        )
        self.points = {p.key: p.hook_name for p in resolved}
        for key, binning in (edges or {}).items():
            try:
                pairs = probe.subset.positions(binning.dimensions, binning.variables)
            except InputError as error:
                raise HookPointError(f"the edges of '{key}' are not for this probe: {error}") from None
            self.streams[key] = PointStream.frozen(probe, PointCounts(binning, probe.extras, pairs, self.share))
        self.outbox = Outbox()
        tokenizer = getattr(model, "tokenizer", None)
        self.special_tokens = frozenset(getattr(tokenizer, "all_special_ids", None) or ())
        self._given: NDArray[np.int64] | None = None
        self._labels: Any = None
        self._resolved = {p.key: p for p in resolved}
        self._model = weakref.ref(model)  # counts that are kept must not keep the weights
        self._watch: Watch | None = None
        self._hooks: dict[str, Hook] = {}
        self._fired: dict[str, int] = dict.fromkeys(keys, 0)
        self._outside: dict[str, int] = dict.fromkeys(keys, 0)
        self._pauses = 0
        self._attachment = 0
        self._warned: set[str] = set()
        if has_dropout(model):
            warn_user("the model is in training mode: its dropout changes activations; call model.eval() first.")
        self._put_on(model)

    def _require_sides(self, edges: Mapping[str, Binning]) -> None:
        """Raise `HookPointError` unless edges of hook points that meet are those of both, side by side."""
        for name, two in self._couples.items():
            sides = tuple(side.point for side in edges[name].sides)
            if sides != two:
                raise HookPointError(f"the edges of '{name}' are not of {two[0]} and {two[1]} side by side: {edges[name]!r}.")

    def _uses(self, key: str) -> list[tuple[str, int | None]]:
        """Where the rows of a hook point go: to its own counts, or as one side of those between it and another."""
        if not self._couples:
            return [(key, None)]
        return [(name, two.index(key)) for name, two in self._couples.items() if key in two]

    def take_up(self, state: ProbeState) -> None:
        """Go on from what a state of the same probe and model has counted; nothing was counted here yet.

        Raises
        ------
        HookPointError
            The state has other hook points.
        """
        if list(state.streams) != list(self.streams):
            raise HookPointError(f"the counts are of {few(state.streams)}, and the probe is on {few(self.streams)}.")
        for name in ("probe", "streams", "ledger", "left_out", "run", "parts", "calibration", "convergence", "_documents"):
            setattr(self, name, getattr(state, name))

    def take_edges(self, edges: Mapping[str, Binning]) -> None:
        """Count with these edges from here on; no edges are there yet, and rows that wait for some are dropped."""
        for key, binning in edges.items():
            pairs = self.probe.subset.positions(binning.dimensions, binning.variables)
            self.streams[key] = PointStream.frozen(self.probe, PointCounts(binning, self.probe.extras, pairs, self.share))

    def _run_of(self, rows: int) -> Run:
        return Run(pass_tokens=0, rows=rows, shares=1 if self.share is None else self.share.of)

    def give(self, send: Callable[[NDArray[Any]], None]) -> None:
        """As a `ProbeState` does; what is elsewhere then was counted all the same."""
        super().give(send)
        self._warned.add("nothing")

    # -- lifetime ----------------------------------------------------------------------------------------------------

    def _put_on(self, model: HookedModel) -> None:
        self._watch = watch = Watch.join(self, model)
        self._attachment += 1
        hooks, hook_dict, myself = self._hooks, model.hook_dict, weakref.ref(self)
        self._finalizer = weakref.finalize(self, _take_off, watch, hooks)
        self._finalizer.atexit = False
        try:
            for key, point in self._resolved.items():
                hooks[key] = Hook(site_of(model, point, hook_dict), _taker(myself, key), is_module=point.is_module)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take every hook off; the counts stay, and those on a GPU come to the CPU. Doing it twice is harmless."""
        if self._watch is not None:
            self._watch.leave(self)
            self._finalizer()  # takes the hooks off, once
            compile_anew()
            self._watch = None
            self._attachment += 1
            self._hooks = {}
            with self._lock:
                for stream in self.streams.values() if not self._torn else ():
                    stream.release_device()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """A copy, or what is pickled, is the counts without the model: a `ProbeState`."""
        counted = (self.probe, self.model, self.streams, self.special_tokens, self.ledger, self.left_out)
        more = ("_documents", "_torn", "memory", "run", "parts", "calibration", "convergence")
        return ProbeState, counted, {name: getattr(self, name) for name in more}

    @property
    def documents(self) -> NDArray[np.int64] | None:
        """Which document each row of the next forward passes is from, for `Probe.shards` and `Probe.swap`; set it before each.

        None, the default: each row of each pass is a document of its own, and of a generation each row in all its steps.
        """
        return self._given

    @documents.setter
    def documents(self, numbers: Sequence[int] | None) -> None:
        given = None if numbers is None else np.atleast_1d(np.asarray(numbers))
        if given is not None and (given.ndim != 1 or given.dtype.kind not in "iu" or (given < 0).any()):
            raise InputError(
                f"documents must be whole numbers from 0, one for each row of the next forward pass; got {numbers!r}."
            )
        self._given = None if given is None else given.astype(np.int64)

    @property
    def labels(self) -> Any:
        """The number of each token's label, shape (batch, position), for the next forward pass; set it before each.

        For probes that count pairs of tokens by label. -1, or any token that does not count, has none. A pass uses them up, one
        that fails, too; a pass within `pause` does not.
        """
        return self._labels

    @labels.setter
    def labels(self, numbers: Any) -> None:
        if self.probe.variables != "tokens" or self.probe.by != "label":
            raise InputError("this probe does not count by label: Probe(variables='tokens', by='label', labels=[...]) does.")
        self._labels = numbers

    def reattach(self) -> None:
        """Put the hooks on again, after others took them off or replaced hook points; counting goes on.

        Raises
        ------
        HookPointError
            The model is gone, or lacks a hook point now.

        Examples
        --------
        >>> import mi_probe
        >>> model = mi_probe.load_model("coffee-gpt2")
        >>> with mi_probe.attach(model) as probe:
        ...     model.reset_hooks(including_permanent=True)
        ...     probe.reattach()
        ...     _ = model("a cup of coffee")
        >>> probe.tokens_seen
        4
        """
        model = self._model()
        if model is None:
            raise HookPointError("the model that this probe was attached to is gone.")
        resolved = resolve(model, self.probe)
        if [p.key for p in resolved] != list(self.points) or couples(model, self.probe) != self._couples:
            raise HookPointError("the model has other hook points now than when the probe was attached: attach a new probe.")
        self.detach()
        self._resolved = {p.key: p for p in resolved}
        self._warned.discard("gone")
        self._put_on(model)

    def __enter__(self) -> AttachedProbe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        gone = self._gone()
        self.detach()
        if kind is not None:
            return
        if gone:
            self._say_gone(gone)
        elif not self.tokens_seen and not self._warned - {"visits"}:
            self._warn("nothing", f"no token was counted at {few(self.points.values())}: {self._why_nothing()}.")

    def _why_nothing(self) -> str:
        if not self.ledger.passes:
            if any(self._outside.values()):
                return (
                    "the hook points fired, but outside any forward pass that mi_probe saw; call the model itself, not a "
                    "reference to its forward method taken before the probe was attached"
                )
            return "no forward pass ran"
        passes = [f"{n:,} x {why}" for why, n in self.ledger.passes.items() if why != COUNTED]
        tokens = [f"{n:,} x {why}" for why, n in self.ledger.tokens.items() if why != COUNTED]
        return "; ".join(
            [f"forward passes were not counted ({', '.join(passes)})"] * bool(passes)
            + [f"tokens were left out ({', '.join(tokens)})"] * (bool(tokens) and not passes)
        )

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Forward passes that begin inside the ``with`` block are not counted, in any thread.

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
        with self._lock:
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1

    def _warn(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warn_user(message)

    # -- the books ---------------------------------------------------------------------------------------------------

    def _point_status(self, key: str) -> PointStatus:
        places = [place for place in self._couples.get(key, (key,)) if place in self.points]
        hooks = {place: self._hooks[place] for place in places if place in self._hooks}
        if hooks:
            troubles = [trouble for place, hook in hooks.items() if (trouble := self._trouble(place, hook))]
            state = troubles[0] if troubles else "attached"
        else:
            state = "detached" if places else "fed by update"
        books = super()._point_status(key)
        return replace(
            books,
            hook_name=" -> ".join(self.points[place] for place in places),
            fired=min((self._fired.get(place, 0) for place in places), default=0),
            fired_outside=max((self._outside.get(place, 0) for place in places), default=0),
            state=state,
        )

    def _trouble(self, key: str, hook: Hook) -> str | None:
        """What is wrong with a hook, if anything."""
        model = self._model()
        if not hook.alive:
            return "its hook was taken off"
        if model is not None:
            point, hook_dict = self._resolved[key], model.hook_dict
            if not point.is_module and point.hook_name not in hook_dict:
                return "the hook point is gone"
            if site_of(model, point, hook_dict) is not hook.site:
                return "the hook point was replaced"
        return None

    def _gone(self) -> list[str]:
        """Hooks that others took off or cut off, by name, with what happened."""
        watch = self._watch  # another thread may detach meanwhile
        if watch is None:
            return []
        hooks = list(self._hooks.items())
        gone = [f"{self.points[key]}: {trouble}" for key, hook in hooks if (trouble := self._trouble(key, hook))]
        if not watch.embedding_is_watched:
            gone.insert(0, "embed: mi_probe's hook was taken off")
        if not watch.forward_is_watched and (gone or any(self._outside.values())):
            gone.insert(0, "forward: mi_probe's watch on this method was taken off")
        return gone

    def _say_gone(self, gone: list[str]) -> None:
        self._warn(
            "gone",
            f"{len(gone)} hooks of the probe are gone ({few(gone)}), as after reset_hooks(including_permanent=True): forward "
            "passes are not counted until probe.reattach().",
        )

    # -- a forward pass ----------------------------------------------------------------------------------------------

    def pass_begins(self, run: Pass) -> None:
        """The model's forward pass begins."""
        model = self._model()
        if self._pauses:
            refused: str | None = PAUSED
        elif model is not None and weights_stand_for_others(model):
            refused = STAND_INS
        else:
            refused = None if self._is_as_attached() else CHANGED
        run.batches[self] = batch = Batch(refused, self._attachment)
        batch.detail = STAND_INS if refused == STAND_INS else ""  # pausing needs no warning, and a change has had its own
        if refused is None:
            for hook in list(self._hooks.values()):
                hook.place(self.probe.when)

    def _is_as_attached(self) -> bool:
        model = self._model()
        if model is None:  # the bridge is gone, its inner model runs on: its hook points are those that were attached
            return True
        now = describe_model(model)
        # Training moves weights away from a mean of zero; only processing moves them there.
        changed = [
            fact for fact in SAME_MODEL if now[fact] != self.model[fact] and not (fact in FOUND_IN_WEIGHTS and not now[fact])
        ]
        if changed:
            self._warn(
                "changed",
                f"the model was changed after the probe was attached ({changed[0]} is now {now[changed[0]]}): its weights "
                "are not those that were counted before, so nothing more is counted. Detach, and attach a new probe.",
            )
        return not changed

    def tokens_are_known(self, run: Pass) -> None:
        """The pass has token ids: those that count are chosen."""
        import torch

        batch: Batch = run.batches[self]
        if batch.refused:
            return
        assert run.tokens is not None
        assert run.real is not None
        tokens, real, repeated, finished = run.tokens, run.real, run.repeated, run.finished

        @torch.no_grad()
        def chosen() -> Choice:
            return choose(tokens, real, self.probe, self.special_tokens or (), repeated=repeated, finished=finished)

        batch.tokens_are_known((tokens.shape[0], tokens.shape[1]), chosen)

    @property
    def _stays(self) -> CountOn:
        """Where values are to be counted: some things are counted on the CPU only."""
        on_cpu = self.probe.moments or self.probe.subset.pairs != "all"  # among them those that count pairs of tokens
        return "cpu" if on_cpu else self.count_on

    def take(self, key: str, activation: torch.Tensor) -> None:
        """A hook point has fired."""
        watch = self._watch
        run = watch.current if watch is not None else None
        batch: Batch | None = None if run is None else run.batches.get(self)
        if run is None or batch is None:
            with self._lock:
                self._outside[key] += 1  # as in a backward pass, where gradient checkpointing runs blocks again
            if run is None and watch is not None and "gone" not in self._warned and not watch.forward_is_watched:
                self._say_gone(self._gone())
            return
        visit = batch.fired.get(key, 0)
        batch.fired[key] = visit + 1
        wanted = self.probe.visit
        if batch.refused or run.refused or batch.shape is None or wanted not in (None, -1, visit):
            return
        if not has_own_numbers(activation):
            batch.refused = batch.detail = STAND_INS
            return
        misfit = misfit_of(self.points[key], activation, batch.shape)
        uses = self._uses(key)
        if misfit and self.streams[uses[0][0]].n:  # it fitted before: this pass is an unusual one
            batch.refused, batch.detail = MISFIT, misfit
            return
        if misfit:
            raise HookPointError(f"{misfit}.")
        with at_point(self.points[key], HookPointError):
            rows = rows_of(activation, batch, self._stays)
            prepared = {use: self.streams[use[0]].prepare(rows, use[1]) for use in uses}
        before = batch.taken.get(uses[0])
        if wanted is None and before is not None and not batch.same(before, prepared[uses[0]]):
            self._warn(
                "visits",
                f"hook point '{self.points[key]}' fires several times in a forward pass, with different values: the last ones "
                "are counted. Probe(visit=...) says which you want: 0 the first, 1 the second, -1 the last.",
            )
        batch.taken |= prepared

    def pass_ends(self, run: Pass, error: BaseException | None) -> None:
        """The pass is over: count it whole, or say why not."""
        batch: Batch = run.batches[self]
        with self._lock:
            for key, times in batch.fired.items():
                self._fired[key] += times
            refused, message = self._refusal(run, batch, error)
            if refused is not None or batch.choice is None:
                tokens = 0 if run.tokens is None else run.tokens.numel()
                self.ledger.enter_uncounted(refused or NO_TOKENS, tokens)
                if refused != PAUSED:
                    self._labels = None  # they were of this pass: the next one has its own
            else:
                size = batch.choice.shape[0] * batch.choice.shape[1]
                try:
                    labels = self._labels_of(run, batch.choice)
                except InputError:
                    self.ledger.enter_uncounted(NO_LABELS, size)
                    raise
                try:
                    self._count(run, batch, batch.choice, labels)
                except MemoryRefusedError:
                    self.ledger.enter_uncounted(NO_MEMORY, size)
                    raise
                except InputError:
                    self.ledger.enter_uncounted(NO_EDGES, size)
                    raise
        if error is not None and refused == RAISED:  # it is on its way to the user, and goes there as it is
            error.add_note("mi_probe: none of the tokens of this forward pass was counted.")
        elif message and (error is None or refused == STOPPED):
            self._warn(str(refused), message)

    def _count(self, run: Pass, batch: Batch, choice: Choice, labels: NDArray[np.int64] | None) -> None:
        rows = choice.shape[0]
        taken = self._whole(batch)
        self._require_memory_for(taken)
        places = choice.places(self._documents_of(run, rows), self._texts_of(run, rows), labels)
        completed: dict[str, PointCounts | None] = {}
        for key, prepared in taken.items():
            with at_point(key):
                completed[key] = self.streams[key].completed_by(prepared, places)
        try:
            if self.share is None:
                for key, prepared in taken.items():
                    self.streams[key].commit(prepared, places, completed[key])
            else:
                codes = {key: self.streams[key].commit_beside(prepared, places) for key, prepared in taken.items()}
                self.outbox.put(codes, places.document)
            self.ledger.enter_counted(choice.n, choice.left_out)
        except BaseException:
            self._torn = True  # some hook points have it, others not
            raise

    def _whole(self, batch: Batch) -> dict[str, Prepared]:
        """What was taken, by the names of counts: of hook points that meet, side by side."""
        taken, batch.taken = batch.taken, {}
        if not self._couples:
            return {key: batch.chosen(prepared) for (key, _), prepared in taken.items()}
        return {name: self.streams[name].joined(taken.pop((name, 0)), taken.pop((name, 1))) for name in self._couples}

    def _require_memory_for(self, taken: Mapping[str, Prepared]) -> None:
        """Ask once when all widths are known, and again when the tables are made: memory may have gone meanwhile."""
        rows = {key: prepared.rows for key, prepared in taken.items() if prepared.rows is not None}
        widths = {key: taken[key].width for key in rows}
        itemsize = max((values.itemsize for values in rows.values()), default=4)
        self._require_room_on_device(taken)
        if not self._widths_known:
            refuse_unless_it_fits(self.probe, widths, self._run_of(min(self.probe.calibration_tokens, _ROWS)), self.memory)
            self._widths_known = True
        completing = {key: widths[key] for key in rows if self.streams[key].completes_with(taken[key])}
        if completing:
            self._require_memory(completing, itemsize)

    def _require_room_on_device(self, taken: Mapping[str, Prepared]) -> None:
        """The same, once, of the device where counts will stay."""
        values = {key: prepared.rows if prepared.codes is None else prepared.codes for key, prepared in taken.items()}
        there = {key: tensor for key, tensor in values.items() if not isinstance(tensor, np.ndarray)}
        if self.share is None and there and not self._device_has_room:
            widths: dict[str, Width] = {key: taken[key].width for key in there}
            refuse_unless_device_has_room(self.probe, widths, next(iter(there.values())).device, self.memory)
            self._device_has_room = True

    def _documents_of(self, run: Pass, rows: int) -> NDArray[np.int64]:
        """Which document each row of a pass is from: as told, or each of its own; all steps of a generation are in one."""
        if self._given is not None:
            if len(self._given) == rows:
                return self._given
            self._warn(
                "documents",
                f"a forward pass had {rows} rows, and documents were given for {len(self._given)}: each "
                "row counts as a document of its own.",
            )
        if run.generation is None:
            return self._new_documents("", rows)
        known = run.generation.documents.get(self)
        if known is None or len(known) != rows:
            known = run.generation.documents[self] = self._new_documents("", rows)
        return known

    def _labels_of(self, run: Pass, choice: Choice) -> NDArray[np.int64] | None:
        """Labels of all tokens of a pass, which are used up; a token that a generation adds has none."""
        given, self._labels = self._labels, None
        rows, positions = choice.shape
        if given is None and run.generation is not None and positions == 1:
            return np.full(choice.shape, -1, dtype=np.int64)
        shape = (positions,) if rows == 1 and _is_flat(given) else choice.shape
        labels = None if given is None else checked_labels(given, shape, self.probe, "the labels of this forward pass")
        require_labels(self.probe, labels)
        return labels

    def _texts_of(self, run: Pass, rows: int) -> NDArray[np.int64] | None:
        """Numbers of the rows of a generation that can be followed from step to step: a beam search moves rows about."""
        if run.generation is None or run.generation.stop is None:
            return None
        known = run.generation.texts.get(self)
        if known is None or len(known) != rows:
            known = run.generation.texts[self] = self._new_documents("texts of generations", rows)
        return known

    def _refusal(self, run: Pass, batch: Batch, error: BaseException | None) -> tuple[str | None, str]:
        """Why a pass is not counted, None if it is, and what to say of it."""
        # TransformerLens ends a pass at stop_at_layer by an exception, which older versions do not have.
        by_exception = type(error).__name__ == "StopAtLayerException"
        if batch.attachment != self._attachment:
            return DETACHED, ""
        if batch.refused:
            return batch.refused, f"a forward pass was not counted: {batch.detail}." if batch.detail else ""
        if error is not None and not by_exception:
            return RAISED, ""
        if run.refused or batch.choice is None:
            return run.refused or NO_TOKENS, f"a forward pass was not counted: {run.detail or NO_TOKENS}."
        absent = [key for key in self.points if self._uses(key)[0] not in batch.taken]
        if not absent:
            return None, ""
        names = few(self.points[key] for key in absent)
        if by_exception or run.arguments.get("stop_at_layer") is not None:
            return STOPPED, f"a forward pass ended early, at stop_at_layer, before {names}: none of its tokens was counted."
        gone = self._gone()
        if gone:
            self._say_gone(gone)
            return HOOKS_GONE, ""
        fired = [key for key in absent if key in batch.fired]
        if fired:
            return TOO_FEW_VISITS, (
                f"hook point '{self.points[fired[0]]}' fired {batch.fired[fired[0]]} times in a forward pass, and "
                f"Probe(visit={self.probe.visit}) counts another firing (0 is the first): none of its tokens was counted."
            )
        return SILENT, (
            f"a forward pass did not reach {names}: none of its tokens was counted. Some hook points exist and never fire; leave "
            "those out of the probe."
        )

    def status(self) -> Status:
        """What was counted, what was left out and why, and how each hook point fares; ``print`` it.

        Examples
        --------
        >>> import mi_probe
        >>> model = mi_probe.load_model("coffee-gpt2")
        >>> with mi_probe.attach(model, mi_probe.Probe(layers=[0, 12])) as probe:
        ...     _ = model(["a cup of coffee", "tea"])
        ...     print(probe.status())
        6 tokens counted at 2 hook points
          forward passes
                       1  counted
          tokens in them
                       6  counted
                       2  left out: first positions
                       2  left out: padding
          hook point        in the model                counted   missing     fired  state
          hidden_states.0   blocks.0.hook_resid_pre           6         0         1  attached
          hidden_states.12  ln_final.hook_out                 6         0         1  attached
        """
        return super().status()


def _take_off(watch: Watch, hooks: dict[str, Hook]) -> None:
    for hook in hooks.values():
        hook.remove()
    hooks.clear()
    watch.leave(None)


def _is_flat(numbers: Any) -> bool:
    """Whether they are of one row, given as such; without asking NumPy, which fails on rows of several lengths."""
    if hasattr(numbers, "ndim"):
        return bool(numbers.ndim == 1)
    return np.iterable(numbers) and not any(np.iterable(number) for number in numbers)


def _taker(probe: weakref.ref[AttachedProbe], key: str) -> Callable[..., None]:
    import torch

    # The key is bound here: hook.name changes with compatibility mode.
    def take(activation: torch.Tensor, hook: Any = None) -> None:
        attached = probe()
        if attached is not None:
            attached.take(key, activation)

    take.__name__ = take.__qualname__ = f"mi_probe at {key}"
    untraced: Callable[[Callable[..., None]], Callable[..., None]] = torch.compiler.disable  # a compiler cannot trace it
    return untraced(take)
