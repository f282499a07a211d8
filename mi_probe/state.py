"""What a probe has counted so far: a stream for each hook point, fed with activations from anywhere."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe import store
from mi_probe.binning import Binning, as_samples, auto_bins
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError, MergeError, MIProbeWarning, StoreError, nearest
from mi_probe.estimators import Correction, check_correction
from mi_probe.probe import CORPUS_BINS, Probe
from mi_probe.result import MIResult, from_counts

__all__ = ["PointStream", "ProbeState"]

_VERSION = 1

Rows = NDArray[np.floating]


class PointStream:
    """Counts of one hook point: keeps rows until the edges can be fitted, and codes only from then on.

    Reading never changes the stream: before the calibration is complete, edges are fitted on the rows that are there, for that
    reading alone.

    Parameters
    ----------
    probe : Probe
        For the binning.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._frozen: tuple[Binning, JointCounts] | None = None
        self._waiting: list[Rows] = []

    @property
    def n(self) -> int:
        """Rows seen."""
        return self._frozen[1].n if self._frozen is not None else sum(map(len, self._waiting))

    def rows(self) -> Rows:
        """The rows that wait for the calibration to be complete, shape (rows, variables)."""
        return np.concatenate(self._waiting)

    def prepare(self, rows: Rows) -> NDArray[Any]:
        """Reduce an activation to what `commit` needs: codes once the edges are frozen, its own copy of the rows before."""
        if self._frozen is not None:
            return self._frozen[0].encode(rows)
        if self._waiting and rows.shape[1] != self._waiting[0].shape[1]:
            raise InputError(f"this point has {self._waiting[0].shape[1]} variables; got rows of shape {rows.shape}.")
        return np.array(rows)

    def commit(self, prepared: NDArray[Any]) -> None:
        """Count what `prepare` returned."""
        if self._frozen is None:
            room = self.probe.calibration_tokens - self.n
            self._waiting.append(prepared[:room])
            prepared = prepared[room:]
            if self.n == self.probe.calibration_tokens:
                self._frozen = self._fitted()
                self._waiting.clear()
        if self._frozen is not None and len(prepared):
            binning, counts = self._frozen
            counts.update(prepared if prepared.dtype == np.uint8 else binning.encode(prepared))

    def read(self) -> tuple[Binning, JointCounts]:
        """Edges and counts as of now."""
        return self._fitted() if self._frozen is None else self._frozen

    def _fitted(self) -> tuple[Binning, JointCounts]:
        rows = self.rows()
        bins = self.probe.bins
        if bins == "auto":
            bins = CORPUS_BINS if len(rows) >= self.probe.calibration_tokens else auto_bins(len(rows))
        binning = Binning.fit(rows, method=self.probe.method, bins=bins)
        return binning, JointCounts.from_codes(binning.encode(rows), binning.bins)

    @classmethod
    def frozen(cls, probe: Probe, binning: Binning, counts: JointCounts) -> PointStream:
        """A stream that goes on from edges and counts."""
        stream = cls(probe)
        stream._frozen = (binning, counts)
        return stream


@dataclass(eq=False)
class ProbeState:
    """Everything a probe has counted. `mi_probe.attach` feeds one from a model; `update` feeds it from anywhere.

    Attributes
    ----------
    probe : Probe
        What is measured.
    model : dict
        Name and weight processing of the model; states of differently processed models do not merge.
    streams : dict of str -> PointStream
        By hook point, in the order of the model.
    tokens_seen : int
        Tokens counted by forward passes.

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
    tokens_seen: int = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.streams)} hook points, {self.tokens_seen:,} tokens seen)"

    @property
    def counts(self) -> dict[str, JointCounts]:
        """Counts by hook point; points without a row are left out."""
        return {name: stream.read()[1] for name, stream in self.streams.items() if stream.n}

    @property
    def binnings(self) -> dict[str, Binning]:
        """Edges by hook point; points without a row are left out."""
        return {name: stream.read()[0] for name, stream in self.streams.items() if stream.n}

    def update(self, point: str, activations: ArrayLike, mask: ArrayLike | None = None) -> None:
        """Count activations that did not come through a hook of ours.

        Parameters
        ----------
        point : str
            Any name; the same name adds to the same counts.
        activations : array, shape (rows, variables) or (batch, position, variables)
            NumPy array or torch tensor.
        mask : array, shape (rows,) or (batch, position), bool, optional
            Rows that count. All, by default; nothing else is left out here.

        Raises
        ------
        InputError
            The shapes do not fit. Nothing is counted then.
        """
        shape = tuple(np.shape(activations))
        if len(shape) not in (2, 3):
            raise InputError(
                f"activations of '{point}' must be (rows, variables) or (batch, position, variables); got shape {shape}."
            )
        rows = as_samples(activations.reshape(-1, shape[-1]) if hasattr(activations, "reshape") else activations)
        if mask is not None:
            keep = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
            if keep.shape != shape[:-1] or keep.dtype.kind not in "bui":
                raise InputError(
                    f"the mask of '{point}' must be boolean of shape {shape[:-1]}; got {keep.dtype} of shape {keep.shape}."
                )
            rows = rows[keep.reshape(-1).astype(bool)]
        stream = self.streams.get(point) or PointStream(self.probe)
        stream.commit(stream.prepare(rows))
        self.streams[point] = stream

    def estimate(self, *, correction: Correction = "adjusted") -> MIResult:
        """Mutual information of every pair at every hook point, as of now.

        Parameters
        ----------
        correction : {"adjusted", "none", "miller_madow"}
            See `mi_probe.estimators.estimate`.

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
            No hook point has seen a token.
        """
        check_correction(correction)
        empty = [name for name, stream in self.streams.items() if not stream.n]
        if len(empty) == len(self.streams):
            raise InputError(
                "no token was counted yet: run a forward pass inside the probe, with at least one token beside BOS and padding."
            )
        if empty:
            warnings.warn(f"no token was counted at {', '.join(empty)}: left out.", MIProbeWarning, stacklevel=2)
        points = {}
        for name, stream in self.streams.items():
            if stream.n:
                binning, counts = stream.read()
                points[name] = from_counts(counts, binning, correction=correction)
        about = {"probe": self.probe.to_toml(), "model": self.model, "tokens_seen": self.tokens_seen}
        return MIResult(points, about)

    def __iadd__(self, other: ProbeState) -> ProbeState:
        """Add what another state has counted with the same edges; everything is checked before anything changes.

        Raises
        ------
        MergeError
            Another hook point, number of variables, binning, or weight processing; the first difference is named.
        """
        for fact in _PROCESSING:
            mine, theirs = self.model.get(fact), other.model.get(fact)
            if mine != theirs:
                raise MergeError(f"the models were processed differently: {fact} is {mine} against {theirs}.")
        theirs_read = {name: stream.read() for name, stream in other.streams.items() if stream.n}
        for name, (binning, _) in theirs_read.items():
            if name not in self.streams and self.streams:
                raise MergeError(f"hook point '{name}' is not in this state{nearest(name, self.streams)}.")
            if name in self.streams and self.streams[name].n:
                try:
                    self.streams[name].read()[0].require_same(binning)
                except MergeError as error:
                    raise MergeError(f"at hook point '{name}', {error}") from None
        for name, (binning, counts) in theirs_read.items():
            mine_stream = self.streams.get(name)
            if mine_stream is None or not mine_stream.n:
                self.streams[name] = PointStream.frozen(self.probe, binning, counts.copy())
            else:
                own_binning, own_counts = mine_stream.read()
                own_counts += counts
                self.streams[name] = PointStream.frozen(self.probe, own_binning, own_counts)
        self.tokens_seen += other.tokens_seen
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write edges and counts as a safetensors file with a JSON header (schema ``state/1``).

        A state whose calibration was not complete is written with the edges fitted on what it has seen; they are then frozen.

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {}
        points = []
        for k, (name, stream) in enumerate(self.streams.items()):
            facts: dict[str, Any] = {"name": name, "n": stream.n}
            if stream.n:
                binning, counts = stream.read()
                facts["method"] = binning.method
                parts = {"edges": binning.edges, **{a: getattr(counts, a) for a in ("missing", "margins", "tables")}}
                arrays |= {f"{k}.{key}": array for key, array in parts.items()}
            points.append(facts)
        header = {
            "probe": self.probe.to_toml(),
            "model": self.model,
            "tokens_seen": self.tokens_seen,
            "points": points,
        }
        store.write(path, f"state/{_VERSION}", header, arrays)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ProbeState:
        """Read a file that `save` wrote.

        Raises
        ------
        StoreError
            Missing, cut off, altered, not a state, or with counts that contradict each other.
        """
        header, arrays = store.read(path, "state", _VERSION)
        try:
            probe = Probe.from_toml(header["probe"], where=str(path))
            state = ProbeState(probe, header["model"], {}, header["tokens_seen"])
            for k, facts in enumerate(header["points"]):
                stream = PointStream(probe)
                if facts["n"]:
                    counts = JointCounts.from_arrays(
                        facts["n"], *(arrays[f"{k}.{key}"] for key in ("missing", "margins", "tables"))
                    )
                    stream = PointStream.frozen(probe, Binning(arrays[f"{k}.edges"], facts["method"]), counts)
                state.streams[facts["name"]] = stream
        except (KeyError, InputError) as error:
            raise StoreError(f"{path} is not a usable state: {error}") from error
        return state


_PROCESSING = ("weights_processed", "compatibility_mode")
