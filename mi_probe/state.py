"""What a probe has counted so far: a stream for each hook point, fed with activations from anywhere."""

from __future__ import annotations

import copy
import functools
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe import store
from mi_probe.binning import Binning
from mi_probe.counts import JointCounts
from mi_probe.coverage import Part, calibration_of_both, parts_from, run_of_both, together, totals_of
from mi_probe.errors import InputError, MergeError, MIProbeError, MIProbeWarning, StoreError, at_point, several
from mi_probe.estimation import estimate_point
from mi_probe.estimators import Correction
from mi_probe.footprint import Run, refuse_unless_it_fits
from mi_probe.given import checked_labels, fitting, require_labels, rows_of
from mi_probe.independence import PValues
from mi_probe.keyed import keyed_table
from mi_probe.ledger import Ledger, PointStatus, Status
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.probe import Probe
from mi_probe.result import MIResult
from mi_probe.shares import Share
from mi_probe.stream import PointStream
from mi_probe.subset import Width, name_between
from mi_probe.tokens import PADDING, Choice, choose, real_tokens
from mi_probe.units import Units

if TYPE_CHECKING:
    import pandas

__all__ = ["FOUND_IN_WEIGHTS", "SAME_MODEL", "SCHEMA", "VERSION", "ProbeState"]

VERSION = 4
SCHEMA = f"state/{VERSION}"

SAME_MODEL = (
    "d_model",
    "n_layers",
    "weights_processed",
    "compatibility_mode",
    "layer_norm_folded",
    "writing_weights_centred",
)
"""What must be equal for counts to add up; the name is a label."""

FOUND_IN_WEIGHTS = ("layer_norm_folded", "writing_weights_centred")

_SAME_VALUES = ("skip_first", "skip_special", "sample_every", "when", "visit")

_FACTS = ("run", "parts", "calibration", "convergence")

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _at_one_moment(method: Callable[Concatenate[ProbeState, _P], _R]) -> Callable[Concatenate[ProbeState, _P], _R]:
    """Hold the locks of the states involved: a forward pass in another thread is counted before or after, not meanwhile."""

    @functools.wraps(method)
    def whole(self: ProbeState, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        states = {id(state): state for state in (self, *args) if isinstance(state, ProbeState)}
        with ExitStack() as stack:
            for key in sorted(states):  # in one order, so that two merges do not wait for each other
                stack.enter_context(states[key]._lock)
            return method(self, *args, **kwargs)

    return whole


@dataclass(eq=False)
class ProbeState:
    """Everything a probe has counted. `mi_probe.attach` feeds one from a model; `update` feeds it from anywhere.

    Attributes
    ----------
    probe : Probe
        What is measured.
    model : dict
        Name, shape and weight processing of the model; states of models that differ in the latter two do not merge.
    streams : dict of str -> PointStream
        By hook point, in the order of the model.
    special_tokens : collection of int, optional
        The tokenizer's special tokens (its ``all_special_ids``), for `update` with token ids. A probe that is attached has them
        from its model.
    ledger : Ledger
        Forward passes and tokens by what became of them.
    left_out : dict of str -> Counter
        Rows that `update` left out, by hook point and reason.
    memory : float, optional
        Bytes that counting may take; tables that would take more are refused, and nothing is lost. None: what is free then.
    run : dict
        Facts of the run that counted, for whoever goes on with it; anything JSON can hold. Two have a meaning when states are
        added: ``weights``, a fingerprint of the model's, must be the same where both say it, and the numbers in ``totals``, such
        as documents, add up. Of the rest a sum keeps what both say alike, and no ``position``.
    parts : list of Part
        Which shards of which corpora are counted here.
    calibration : dict
        Where the edges are from; anything JSON can hold.
    convergence : list of dict
        What changed as the counts grew; anything JSON can hold. A sum has none.

    Examples
    --------
    >>> import numpy as np
    >>> state = ProbeState(Probe(bins=3))
    >>> state.update("layer 0", np.random.default_rng(0).standard_normal((60, 4)))
    >>> state.estimate()["layer 0"]
    PairwiseMI(4 variables, 6 pairs, 60 samples, 3 equal_count bins, adjusted)
    """

    probe: Probe
    model: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, PointStream] = field(default_factory=dict)
    special_tokens: Collection[int] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    memory: float | None = None
    run: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    convergence: list[dict[str, Any]] = field(default_factory=list)
    _documents: Counter[str] = field(default_factory=Counter, init=False)
    _torn: bool = field(default=False, init=False)
    _origin: str = field(default="fed by update", init=False)
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}  # a lock cannot be copied

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values, _lock=threading.RLock())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({several(len(self.streams), 'hook point')}, {self.tokens_seen:,} tokens seen)"

    @property
    def tokens_seen(self) -> int:
        """Tokens counted; with `update`, at the hook point that has seen most."""
        return max((stream.n for stream in self.streams.values()), default=0)

    @property
    def counts(self) -> dict[str, JointCounts]:
        """Counts by hook point, as they go on (``.copy()`` keeps a moment); points without a row or edges are left out.

        While forward passes run in other threads, read `status`, `estimate` or a saved file, which see whole passes only.
        """
        with self._lock:
            return {name: stream.read().joint for name, stream in self._started().items()}

    @property
    def binnings(self) -> dict[str, Binning]:
        """Edges by hook point; points without a row or edges are left out."""
        with self._lock:
            return {name: stream.read().binning for name, stream in self._started().items()}

    def _started(self) -> dict[str, PointStream]:
        if self._torn:
            raise MIProbeError(
                "counting a forward pass was interrupted when some hook points had it and others not: these counts are not "
                "whole. Start anew, or from the last saved state."
            )
        return {name: stream for name, stream in self.streams.items() if stream.started}

    def update(
        self,
        point: str | tuple[str, str],
        activations: ArrayLike | tuple[ArrayLike, ArrayLike],
        mask: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        documents: ArrayLike | None = None,
        labels: ArrayLike | None = None,
    ) -> None:
        """Count activations that did not come through a hook of ours.

        Parameters
        ----------
        point : str
            Any name; the same name adds to the same counts. Two of them where the probe has ``pairs="between"``.
        activations : array, shape (rows, variables) or (batch, position, variables)
            NumPy array or torch tensor. Two of them, of the same tokens, for two names.
        mask : array, shape (rows,) or (batch, position), of 0 and 1, optional
            The attention mask: rows where it is zero are padding, and left out. All count by default.
        tokens : array, shape (rows,) or (batch, position), int, optional
            Token ids. With them the probe's own rules hold: its first positions and the special tokens are left out, and one in
            `sample_every` is kept; positions are counted from the first that is not padding. One dimension is one text.
        documents : array, shape (batch,), int, optional
            Which document each text of the batch is from; a number for a single text. By default each is a document of its own.
        labels : array, shape (rows,) or (batch, position), int, optional
            The number of each token's label, where pairs of tokens are counted by label; -1 for none.

        Raises
        ------
        InputError
            The shapes do not fit, there are fewer dimensions or pairs than the probe asks for, or special tokens are to be left
            out and not known. Nothing is counted then.
        MemoryRefusedError
            These rows complete the calibration, and the tables do not fit in the memory that is free. The rows before stay.

        Examples
        --------
        >>> import numpy as np
        >>> state = ProbeState(Probe(skip_first=1), special_tokens=[0])
        >>> state.update("layer 0", np.zeros((2, 4, 8)), mask=[[1, 1, 1, 0], [1, 1, 1, 1]], tokens=[[5, 6, 7, 0], [5, 6, 0, 8]])
        >>> state.tokens_seen
        4
        """
        between = self._two_of(point, activations)
        names, arrays = ((point,), (activations,)) if between is None else (between, activations)
        # Two arrays where two hook points meet, which `_two_of` has checked.
        given = [rows_of(name, array) for name, array in zip(names, arrays, strict=True)]  # type: ignore[arg-type]
        shape, rows = given[0]
        if between is not None:
            point = name_between(*between)
            if given[1][0][:-1] != shape[:-1]:
                raise InputError(
                    f"activations of '{between[0]}' and '{between[1]}' must be of the same tokens; got shapes {shape} and "
                    f"{given[1][0]}."
                )
        assert isinstance(point, str)
        keep = None if mask is None else fitting(mask, shape[:-1], f"the mask of '{point}'")
        if keep is not None and not np.isin(keep, (0, 1)).all():
            raise InputError(
                f"the mask of '{point}' must hold True and False, or 1 and 0; got values such as {float(keep.max())}."
            )
        texts = 1 if len(shape) == 2 else shape[0]
        numbers = None if documents is None else fitting(np.atleast_1d(documents), (texts,), f"the documents of '{point}'")
        if numbers is not None and (numbers.dtype.kind not in "iu" or (numbers < 0).any()):
            raise InputError(f"the documents of '{point}' must be whole numbers from 0; got {numbers.dtype}.")
        named = None if labels is None else checked_labels(labels, shape[:-1], self.probe, f"the labels of '{point}'")
        require_labels(self.probe, named)
        chosen, position = np.arange(len(rows)), None
        left_out: dict[str, int] = {}
        if tokens is not None:
            ids = fitting(tokens, shape[:-1], f"the tokens of '{point}'")
            if ids.dtype.kind not in "ui":
                raise InputError(f"the tokens of '{point}' must be whole numbers; got {ids.dtype}.")
            choice = self._choose(ids, keep)
            chosen = chosen if choice.index is None else choice.index.numpy()
            position = choice.position.numpy()
            left_out = choice.left_out
        elif keep is not None:
            chosen = np.flatnonzero(keep)
            first = np.atleast_2d(keep).argmax(axis=1)  # positions begin behind padding; gaps further on stay gaps
            position = chosen % shape[-2] - first[chosen // shape[-2]]
            left_out = {PADDING: len(rows) - len(chosen)}
        with self._lock:
            stream = self.streams.get(point) or PointStream(self.probe, between)
            try:
                parts = [
                    stream.prepare(part if len(chosen) == len(part) else part[chosen], None if between is None else side)
                    for side, (_, part) in enumerate(given)
                ]
            except InputError as error:
                raise InputError(f"at '{point}', {error}") from None
            prepared = parts[0] if between is None else stream.joined(*parts)
            if stream.completes_with(prepared):
                self._require_memory({point: prepared.width}, rows.itemsize)
            if numbers is None:
                numbers = self._new_documents(point, texts)
            places = Places.of_batch(chosen, shape[-2], numbers, position, labels=named)
            with at_point(point):
                completed = stream.completed_by(prepared, places)
            stream.commit(prepared, places, completed)
            self.streams[point] = stream
            if any(left_out.values()):
                self.left_out.setdefault(point, Counter()).update(left_out)

    def _two_of(self, point: Any, activations: Any) -> tuple[str, str] | None:
        """The two names that were given, where the probe takes two; None where it takes one."""
        two = isinstance(point, tuple | list) and len(point) == 2 and all(isinstance(name, str) for name in point)
        if self.probe.pairs != "between":
            if isinstance(point, tuple | list):
                raise InputError(f"two hook points, {point!r}, meet in a probe with pairs='between'; this one has pairs of one.")
            return None
        if not two or not isinstance(activations, tuple | list) or len(activations) != 2 or point[0] == point[1]:
            raise InputError(
                "this probe has pairs='between': give the names of two places, and the activations of both, such as "
                f"update(('resid_pre.0', 'resid_post.0'), (x, y)); got {point!r}."
            )
        return point[0], point[1]

    def _require_memory(self, widths: Mapping[str, Width], itemsize: int) -> None:
        """Raise `MemoryRefusedError` unless there is room for the tables at these hook points; their rows are there already."""
        run = Run(itemsize=itemsize, pass_tokens=0)
        refuse_unless_it_fits(self.probe, widths, run, self.memory, lambda found: found.total("kept") + found.most("moment"))

    def _new_documents(self, of: str, texts: int) -> NDArray[np.int64]:
        first = self._documents[of]
        self._documents[of] += texts
        return np.arange(first, first + texts)

    def _choose(self, ids: NDArray[Any], keep: NDArray[Any] | None) -> Choice:
        import torch

        if self.special_tokens is None and self.probe.skip_special:
            raise InputError(
                "which tokens are special is not known here, and the probe leaves them out: make the state with "
                "ProbeState(probe, special_tokens=tokenizer.all_special_ids), or use Probe(skip_special=False)."
            )
        given = torch.from_numpy(np.atleast_2d(ids).astype(np.int64))
        mask = None if keep is None else torch.from_numpy(np.atleast_2d(keep).astype(bool))
        real = real_tokens(given, mask, torch.ones(len(given), 0, dtype=torch.bool), None)
        return choose(given, real, self.probe, self.special_tokens or ())

    @_at_one_moment
    def status(self) -> Status:
        """What was counted, what was left out and why, and how each hook point fares; ``print`` it."""
        points = {name: self._point_status(name) for name in self.streams}
        books = self.ledger.to_dict()
        return Status(self.tokens_seen, books["passes"], books["tokens"], points)

    def _point_status(self, name: str) -> PointStatus:
        left_out = dict(self.left_out.get(name, {}))
        return PointStatus("", self.streams[name].n, self.streams[name].missing, left_out, state=self._origin)

    @_at_one_moment
    def estimate(self, *, correction: Correction = "adjusted", p_values: PValues = "auto") -> MIResult:
        """Mutual information of every pair at every hook point, as of now.

        Parameters
        ----------
        correction : str
            See `mi_probe.estimators.estimate`.
        p_values : {"auto", "serial", "gamma", "permutation", "none"}
            Test of independence, see `mi_probe.independence.p_values`: by default the one that allows for tokens that resemble
            those before them, and none beyond 100,000 tokens.

        Returns
        -------
        MIResult

        Warns
        -----
        MIProbeWarning
            Hook points that have seen no token are left out.

        Raises
        ------
        InputError
            No hook point has seen a token, the test cannot be done with these counts, or they are of pairs of tokens.
        """
        if self.probe.variables == "tokens":
            raise InputError(
                "pairs of tokens were counted here, not of dimensions: estimate_token_pairs() tells what they share."
            )
        self._require_undivided("estimate them with Ranks.estimate, called by all of these")
        self.require_some()
        points = {}
        for name, stream in self._started().items():
            if stream.n:
                points[name] = estimate_point(stream.read(), correction=correction, p_values=p_values, notes=self.probe.choices)
        return MIResult(points, self.about())

    @_at_one_moment
    def estimate_token_pairs(self, *, units: Units = "nats") -> pandas.DataFrame:
        """Mean mutual information of pairs of tokens at every hook point, by key, as of now.

        Parameters
        ----------
        units : {"nats", "bits"}

        Returns
        -------
        DataFrame
            A row for each hook point and key that has pairs: ``point``; ``key``, with its ``first`` and ``last`` distance or
            position; ``pairs``; ``mi``, the mean over pairs adjusted for chance; ``se``, from shards of documents, and how many
            ``shards`` have such pairs (of fewer than 8, say, the error is a rough one); ``raw`` and ``chance``; and ``together``,
            of the joint table of all pairs. The last key of each hook point, ``unrelated``, is of tokens of different texts: what
            ``mi`` would be for tokens that have nothing to do with each other.

        Warns
        -----
        MIProbeWarning
            Hook points that have seen no token are left out; tokens with a value that is not finite are in no pair.

        Raises
        ------
        InputError
            No hook point has seen a token, or pairs of dimensions were counted.

        Examples
        --------
        >>> import mi_probe
        >>> model = mi_probe.load_model("coffee-gpt2")
        >>> probe = mi_probe.Probe(hooks="resid_post", layers=[5], variables="tokens", furthest=2)
        >>> with mi_probe.attach(model, probe) as attached:
        ...     _ = model([mi_probe.sample_text(), "Tea is another drink, made of leaves and hot water."])
        >>> attached.estimate_token_pairs()[["point", "key", "pairs"]].to_string(index=False).splitlines()[1]
        'resid_post.5         1    123'
        """
        import pandas

        if self.probe.variables != "tokens":
            raise InputError(
                "pairs of dimensions were counted here, not of tokens: measure with Probe(variables='tokens'), or see estimate()."
            )
        self.require_some()
        tables = {}
        for name, stream in self._started().items():
            counts = _read(name, stream).tokens if stream.n else None
            if counts is not None:
                seen, left_out = counts.tokens.tolist()
                if left_out:
                    warnings.warn(
                        f"{left_out:,} of {seen:,} tokens at '{name}' are in no pair: a value of theirs was not finite.",
                        MIProbeWarning,
                        stacklevel=3,
                    )
                tables[name] = keyed_table(counts, units=units)
        table = pandas.concat(tables, names=["point", None]).reset_index("point").reset_index(drop=True)
        table.attrs["by"] = self.probe.by  # distances and positions look alike
        return table

    def require_some(self, *, stacklevel: int = 4) -> None:
        """Raise `InputError` unless a hook point has seen a token, and warn of those that have not."""
        empty = [name for name, stream in self.streams.items() if not stream.n]
        if len(empty) == len(self.streams):
            raise InputError(
                "no token was counted yet: run a forward pass inside the probe, with at least one token beside BOS and padding."
            )
        if empty:
            warnings.warn(f"no token was counted at {', '.join(empty)}: left out.", MIProbeWarning, stacklevel=stacklevel)

    def about(self) -> dict[str, Any]:
        """What was measured, as a result says it."""
        return {"probe": self.probe.to_toml(), "model": dict(self.model), "tokens_seen": self.tokens_seen}

    @property
    def divided(self) -> bool:
        """Whether only a share of the pairs has its tables here, and other processes have the others."""
        return any(stream.counts is not None and stream.counts.share is not None for stream in self.streams.values())

    def _require_undivided(self, instead: str) -> None:
        if self.divided:
            raise InputError(f"the tables of the pairs are divided among several processes, of which this is one: {instead}.")

    @_at_one_moment
    def count_codes(self, arriving: Iterable[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]) -> None:
        """Count codes that forward passes of any process gave, into the share of the pairs that is here.

        Parameters
        ----------
        arriving : iterable of (hook point, codes, documents)
            As for `PointCounts.count_codes`; the same tokens at each hook point. If it raises, some hook points have them and
            others not: these counts are not whole then.
        """
        self._started()
        self._torn = True  # until every hook point has them
        for name, codes, documents in arriving:
            self.streams[name].read().count_codes(codes, documents)
        self._torn = False

    @_at_one_moment
    def __iadd__(self, other: ProbeState) -> ProbeState:
        """Add what another state has counted with the same edges; everything is checked before anything changes.

        Raises
        ------
        MergeError
            Another hook point, number of variables, binning, or weight processing; the first difference is named. As an
            `OverlapError`: both hold counts of the same documents.
        """
        theirs, mine = other._started(), self._started()
        if not theirs:
            self._take_books(other, self._facts_with(other))
            return self
        for fact in _SAME_VALUES:
            one, two = getattr(self.probe, fact), getattr(other.probe, fact)
            if one != two and {one, two} != {None, -1}:  # the last visit, with a warning or without
                raise MergeError(f"the probes count different tokens or values: {fact} is {one} against {two}.")
        for fact in SAME_MODEL:
            one, two = self.model.get(fact), other.model.get(fact)
            if one != two and (self.model or mine):  # a state of no model that has counted nothing takes any
                raise MergeError(f"the models differ: {fact} is {one} against {two}.")
        expected = mine or self.streams or theirs
        for name in [*theirs, *expected]:
            if name not in expected or (mine and name not in theirs):
                raise MergeError(f"hook point '{name}' is in one state only.")
        for name, stream in mine.items():
            with at_point(name):
                stream.read().require_same(theirs[name].read())

        facts = self._facts_with(other)
        for stream in (*theirs.values(), *mine.values()):
            stream.read().flush()  # counts that are not whole raise here, before anything changes
        self._torn = True  # until every hook point has it
        for name, stream in theirs.items():
            if name in mine:
                counts = mine[name].read()
                counts += stream.read()
                self.streams[name] = PointStream.frozen(self.probe, counts)
            else:
                self.streams[name] = stream.copy()
        if not mine:
            self.probe = other.probe
            self.model = self.model or dict(other.model)
        self._take_books(other, facts)
        self._torn = False
        return self

    def _take_books(self, other: ProbeState, facts: dict[str, Any]) -> None:
        self.ledger += other.ledger
        for name, reasons in other.left_out.items():
            self.left_out.setdefault(name, Counter()).update(reasons)
        vars(self).update(facts)

    def _facts_with(self, other: ProbeState) -> dict[str, Any]:
        """Run, parts, calibration and convergence of the sum with another state."""
        mine, theirs = (any((s.run, s.parts, s.calibration, s.convergence, s._started())) for s in (self, other))
        if not (mine and theirs):  # nothing is added to something: it stays what it is
            of = other if theirs else self
            return copy.deepcopy({name: getattr(of, name) for name in _FACTS})
        one, two = self.run.get("weights"), other.run.get("weights")
        if one is not None and two is not None and one != two:
            raise MergeError(
                f"the models differ: their weights have the fingerprints {one} and {two}. Counts add up only if one model, with "
                "the same weights, gave them all."
            )
        return {
            "run": copy.deepcopy(run_of_both(self.run, other.run)),
            "parts": together(self.parts, other.parts),
            "calibration": copy.deepcopy(calibration_of_both(self.calibration, other.calibration)),
            "convergence": [],
        }

    # -- moving between processes ------------------------------------------------------------------------------------

    @_at_one_moment
    def description(self) -> dict[str, dict[str, str]]:
        """What must be equal for counts to move between the processes of a run, by what it is about; plain text.

        Raises
        ------
        InputError
            Rows wait for edges at a hook point.
        """
        found = {"the probe": {fact: str(getattr(self.probe, fact)) for fact in _SAME_VALUES}}
        found["the model"] = {fact: str(self.model.get(fact)) for fact in SAME_MODEL}
        started = self._started()
        for name, stream in self.streams.items():
            counts = stream.counts
            if counts is None and name in started:
                raise InputError(
                    f"hook point '{name}' has {stream.n:,} rows that wait for edges, and rows do not move between processes: fit "
                    "the edges in one of them, and give them to all."
                )
            found[f"hook point '{name}'"] = {"edges": "none"} if counts is None else counts.description()
        return found

    @_at_one_moment
    def reserve(self, samples: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, tuple[int, str]]]:
        """Make tables with room for so many samples, by hook point and part; returns what is there, see `PointCounts.reserve`."""
        self._started()
        streams = {name: stream.counts for name, stream in self.streams.items()}
        return {name: counts.reserve(samples.get(name, {})) for name, counts in streams.items() if counts is not None}

    @_at_one_moment
    def books(self) -> dict[str, Any]:
        """What is counted beside the tables, as plain numbers: forward passes, tokens, rows left out, documents."""
        left_out = {name: dict(reasons) for name, reasons in self.left_out.items()}
        return {"ledger": self.ledger.to_dict(), "left_out": left_out, "documents": dict(self._documents)}

    @_at_one_moment
    def give(self, send: Callable[[NDArray[Any]], None]) -> None:
        """Hand all counts over, array by array: they are zero then, and so are the `books`. Edges stay."""
        self._started()
        self._torn = True  # until every hook point has given
        for stream in self.streams.values():
            if stream.counts is not None and stream.n:
                stream.counts.give(send)
        self.ledger, self.left_out = Ledger(), {}
        self._documents.clear()
        self._torn = False

    @_at_one_moment
    def take_in(
        self,
        samples: Mapping[str, Mapping[str, tuple[int, str]]],
        books: Mapping[str, Any],
        add: Callable[[NDArray[Any], np.dtype[Any]], None],
    ) -> None:
        """Add what another state of the same description gives; `samples` and `books` are what its `reserve` and `books` said."""
        self._started()
        self._torn = True  # until every hook point has it
        for name, stream in self.streams.items():
            if stream.counts is not None and samples[name]:
                stream.counts.take_in(samples[name], add)
        self.ledger += Ledger.from_dict(books["ledger"])
        for name, reasons in books["left_out"].items():
            self.left_out.setdefault(name, Counter()).update(reasons)
        self._documents.update(books["documents"])
        self._torn = False

    @_at_one_moment
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write edges and counts as a safetensors file with a JSON header (schema ``state/4``).

        A state whose calibration was not complete is written with the edges fitted on what it has seen; they are then frozen.

        Raises
        ------
        StoreError
            The file cannot be written.
        InputError
            Only a share of the pairs is here.
        """
        self._require_undivided("save all of them with Ranks.save, called by all of these")
        store.write(path, SCHEMA, *self.to_arrays())

    @_at_one_moment
    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What `save` writes: a header that JSON can hold, and views of the counts by name."""
        arrays: dict[str, NDArray[Any]] = {}
        points = []
        started = self._started()
        for k, (name, stream) in enumerate(self.streams.items()):
            facts: dict[str, Any] = {"name": name, "n": stream.n, "left_out": dict(self.left_out.get(name, {}))}
            if stream.between is not None:
                facts["between"] = list(stream.between)
            if name in started:
                more, parts = _read(name, stream).to_arrays()
                facts |= more
                arrays |= {f"{k}.{key}": array for key, array in parts.items()}
            points.append(facts)
        header: dict[str, Any] = {
            "probe": self.probe.to_toml(),
            "model": self.model,
            "tokens_seen": self.tokens_seen,
            "special_tokens": None if self.special_tokens is None else sorted(self.special_tokens),
            "ledger": self.ledger.to_dict(),
            "documents": dict(self._documents),
            "points": points,
            "run": self.run,
            "parts": [part.to_dict() for part in self.parts],
            "calibration": self.calibration,
            "convergence": self.convergence,
        }
        return header, arrays

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ProbeState:
        """Read a file that `save` wrote, now or with one of the older schemas.

        ``state/1`` has no extras, ``state/2`` no choice of dimensions and pairs, ``state/3`` no run, parts, calibration and
        convergence.

        Raises
        ------
        StoreError
            Missing, cut off, altered, not a state, or with counts that contradict each other.
        """
        return ProbeState.from_arrays(*store.read(path, "state", VERSION), where=path)

    @staticmethod
    def from_arrays(
        header: dict[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        *,
        where: str | os.PathLike[str],
        share: Share | None = None,
    ) -> ProbeState:
        """Rebuild what `to_arrays` gave.

        Parameters
        ----------
        header, arrays : dict
            The arrays go on counting where they are, and must not be used by others any more.
        where : path
            The file that they are from.
        share : Share, optional
            Of which the tables are; see `PointCounts.from_arrays`.

        Raises
        ------
        StoreError
            They contradict each other.
        """
        path = where
        try:
            probe = Probe.from_toml(header["probe"], where=str(path))
            if header["schema"] == "state/1":
                probe = replace(probe, lags=0)
            elif not isinstance(header["model"], dict):
                raise InputError(f"the model must be a table; got {header['model']!r}")
            state = ProbeState(probe, header["model"], special_tokens=_token_ids(header.get("special_tokens")))
            state.ledger = Ledger.from_dict(header.get("ledger", {}))
            state._documents.update({str(name): int(count) for name, count in header.get("documents", {}).items()})
            state._origin = "loaded from a file"
            state.parts = parts_from(header.get("parts", []))
            for name, kind in (("run", dict), ("calibration", dict), ("convergence", list)):
                value = header.get(name, kind())
                if not isinstance(value, kind):
                    raise InputError(f"{name} must be a {kind.__name__}; got {value!r}")
                setattr(state, name, value)
            totals_of(state.run)
            if not all(isinstance(row, dict) for row in state.convergence):
                raise InputError(f"convergence must be a list of tables; got {state.convergence!r}")
            for k, facts in enumerate(header["points"]):
                if not isinstance(facts["name"], str):
                    raise InputError(f"the name of a hook point must be text; got {facts['name']!r}")
                between = facts.get("between")
                stream = PointStream(probe, None if between is None else (str(between[0]), str(between[1])))
                if "method" in facts:
                    parts = {name.partition(".")[2]: a for name, a in arrays.items() if name.startswith(f"{k}.")}
                    stream = PointStream.frozen(
                        probe, PointCounts.from_arrays(probe.extras, facts, parts, share=share, copy=False)
                    )
                state.streams[facts["name"]] = stream
                if facts.get("left_out"):
                    state.left_out[facts["name"]] = Counter(facts["left_out"])
        except (MIProbeError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise StoreError(f"{path} is not a usable state: {error}") from error
        return state


def _read(name: str, stream: PointStream) -> PointCounts:
    """Edges and counts as of now, with the hook point's name if there can be none."""
    with at_point(name):
        return stream.read()


def _token_ids(values: Any) -> list[int] | None:
    if values is not None and not (isinstance(values, list) and all(type(value) is int for value in values)):
        raise InputError(f"special tokens must be a list of whole numbers; got {values!r}")
    return values
