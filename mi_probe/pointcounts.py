"""Everything counted at one hook point: the joint counts, and beside them what errors and significance are made of."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning
from mi_probe.counts import JointCounts, pairs_between
from mi_probe.errors import InputError, MergeError, MIProbeError
from mi_probe.extras import Extras
from mi_probe.gaussian import SecondMoments
from mi_probe.lags import LaggedCounts
from mi_probe.ondevice import DeviceBinning
from mi_probe.places import Places
from mi_probe.shares import Share
from mi_probe.tokencounts import OTHERS, TokenCounts

__all__ = ["PointBytes", "PointCounts"]

_POOL = 16  # documents back that a document may be swapped with


class PointBytes(NamedTuple):
    """What the counts of one hook point take."""

    counts: int
    extras: int
    buffers: int
    flush: int
    """For a moment, while a buffer is counted."""


class PointCounts:
    """Joint counts of one hook point, the edges that made them, and the extras.

    Parameters
    ----------
    binning : Binning
    extras : Extras
    pairs : array, shape (pairs, 2), int, optional
        As for `JointCounts`; all by default. Where the edges have two sides, each variable of the one with each of the other.
    share : Share, optional
        As for `JointCounts`: the tables of this share of the pairs alone, into which codes of all processes go (`count_codes`).
        Lags and second moments are of what this process saw (`count_beside`), and add up over the processes.

    Attributes
    ----------
    joint : JointCounts
    shards : tuple of JointCounts
        Document d is in shard d modulo their number.
    swapped : JointCounts or None
    moments : SecondMoments or None
    tokens : TokenCounts or None
        Pairs of tokens.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((60, 3))
    >>> counts = PointCounts(Binning.fit(x, bins=4), Extras(lags=2, shards=2))
    >>> documents = Places.of_batch(np.arange(60), 20, np.array([0, 1, 2]))  # three texts of 20 tokens
    >>> counts.update(counts.binning.encode(x), documents)
    >>> counts.joint.n, [shard.n for shard in counts.shards], int(counts.lagged[0, 0].sum())
    (60, [40, 20], 57)
    """

    def __init__(
        self,
        binning: Binning,
        extras: Extras | None = None,
        pairs: NDArray[np.intp] | None = None,
        share: Share | None = None,
    ) -> None:
        extras = extras or Extras()
        if extras.swap and share is not None and share.of > 1:
            raise InputError("pairs across documents (swap) are counted in the order of all documents: by one process only.")
        shape = (binning.variables, binning.bins)
        if binning.sides:
            pairs = pairs_between(binning.first, binning.variables)
        self.binning = binning
        self.on_device = DeviceBinning(binning)
        self.extras = extras
        self.joint = JointCounts(*shape, pairs, share)
        self._lagged = LaggedCounts(extras.lags, *shape)
        self.shards = tuple(JointCounts(*shape, pairs, share) for _ in range(extras.shards))
        self.swapped = JointCounts(*shape, pairs) if extras.swap else None
        self.moments = SecondMoments.within(binning) if extras.moments else None
        self.tokens = None
        if extras.tokens is not None:
            self.tokens = TokenCounts(extras.tokens, binning)
            self.extras = replace(extras, tokens=self.tokens.keys)  # with the number of bins that "auto" stands for
        self._pool: deque[tuple[int, Any, NDArray[np.int64]]] = deque(maxlen=_POOL)
        self._turn = 0
        self._broken = False

    @staticmethod
    def nbytes_for(
        variables: int, pairs: int, bins: int, extras: Extras, *, samples: int = 0, sequence: int = 1024
    ) -> PointBytes:
        """Bytes after so many samples, in sequences of so many tokens; counts and extras are what a file holds, too.

        Examples
        --------
        >>> PointCounts.nbytes_for(768, 294_528, 8, Extras(lags=12))
        PointBytes(counts=75460608, extras=4718592, buffers=3145728, flush=6291456)
        """
        buffer, flush = JointCounts.buffer_nbytes_for(variables, bins)
        more = LaggedCounts.nbytes_for(extras.lags, variables, bins)
        more += extras.shards * JointCounts.nbytes_for(variables, pairs, bins, samples // max(1, extras.shards))
        buffers = buffer * (1 + extras.shards + extras.swap)
        if extras.swap:
            more += JointCounts.nbytes_for(variables, pairs, bins, 2 * samples)
            buffers += _POOL * sequence * (variables + 8)
        if extras.moments:
            more += SecondMoments.nbytes_for(variables)
        if extras.tokens is not None:
            more += TokenCounts.nbytes_for(extras.tokens, variables) + OTHERS * (2 * variables + 8)  # their ranks and documents
            buffers += OTHERS * variables  # and codes
        return PointBytes(JointCounts.nbytes_for(variables, pairs, bins, samples), more, buffers, flush)

    @property
    def lagged(self) -> NDArray[np.int64]:
        """Codes of one variable at two tokens of a text, shape (lags, variables, bins, bins)."""
        view = self._lagged.counts.view()
        view.flags.writeable = False
        return view

    def release_device(self) -> None:
        """Bring here what was counted on a device, and give its memory back."""
        self.require_whole()
        for part in self._parts().values():
            part.release_device()
        self._lagged.fetch()
        self.on_device = DeviceBinning(self.binning)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PointCounts)
            and np.array_equal(self.binning.edges, other.binning.edges)
            and (self.binning.names, self.binning.width) == (other.binning.names, other.binning.width)
            and self.extras == other.extras
            and self.joint == other.joint
            and np.array_equal(self.lagged, other.lagged)
            and self.shards == other.shards
            and self.swapped == other.swapped
            and self.moments == other.moments
            and self.tokens == other.tokens
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def update(
        self,
        codes: Any,
        places: Places,
        steps: NDArray[np.int16] | None = None,
        tokens: NDArray[np.uint8] | None = None,
    ) -> None:
        """Count more samples.

        Parameters
        ----------
        codes : array or tensor, shape (samples, variables), uint8
            A tensor is counted where it is, and its counts stay there until they are read.
        places : Places
            Of the same samples.
        steps : array, shape (samples, variables), int16, optional
            Standardised values, if second moments are kept: `SecondMoments.steps`.
        tokens : array, shape (samples, variables), uint8, optional
            Codes of the values of each token among themselves, if pairs of tokens are counted: `TokenCounts.codes`.
        """
        self._require_fitting(codes, places, steps, tokens)
        self.require_whole()
        self._broken = True  # until every part has it
        try:
            _add(self.joint, codes)
        except InputError:  # nothing was counted
            self._broken = False
            raise
        self._add_to_shards(codes, places.document)
        self._add_beside(codes, places, steps, tokens)
        if self.swapped is not None:
            self._swap(self.swapped, codes, places)
        self._broken = False

    @property
    def share(self) -> Share | None:
        """Which share of the pairs has its tables here; None if all have."""
        return self.joint.share

    def count_codes(self, codes: NDArray[np.uint8], documents: NDArray[np.int64]) -> None:
        """Count samples of any process into the tables that are here, of a share of the pairs.

        Parameters
        ----------
        codes : array, shape (samples, variables), uint8
        documents : array, shape (samples,), int64
            Which document each sample is from.
        """
        self.require_whole()
        self._broken = True  # until every part has it
        _add(self.joint, codes)
        self._add_to_shards(codes, documents)
        self._broken = False

    def count_beside(
        self,
        codes: Any,
        places: Places,
        steps: NDArray[np.int16] | None = None,
        tokens: NDArray[np.uint8] | None = None,
    ) -> None:
        """Count samples of this process into all but the tables; the parameters are those of `update`."""
        self._require_fitting(codes, places, steps, tokens)
        self.require_whole()
        self._broken = True  # as above
        self._add_beside(codes, places, steps, tokens)
        self._broken = False

    def _require_fitting(
        self, codes: Any, places: Places, steps: NDArray[np.int16] | None, tokens: NDArray[np.uint8] | None
    ) -> None:  # fmt: skip
        if len(places) != len(codes):
            raise InputError(f"there are places of {len(places)} samples for {len(codes)}.")
        if self.moments is not None and steps is None:
            raise InputError("second moments are kept here: update needs the standardised values, too.")
        if self.tokens is not None and (tokens is None or tokens.shape != tuple(codes.shape)):
            raise InputError("pairs of tokens are counted here: update needs the codes of each token's values, too.")

    def _add_to_shards(self, codes: Any, documents: NDArray[np.int64]) -> None:
        for number, shard in enumerate(self.shards):
            _add(shard, _rows(codes, np.flatnonzero(documents % len(self.shards) == number)))

    def _add_beside(
        self, codes: Any, places: Places, steps: NDArray[np.int16] | None, tokens: NDArray[np.uint8] | None
    ) -> None:  # fmt: skip
        self._lagged.update(codes, places)
        if self.tokens is not None and tokens is not None:
            self.tokens.update(tokens, places)
        if self.moments is not None and steps is not None:
            self.moments.update(steps)

    def _swap(self, swapped: JointCounts, codes: Any, places: Places) -> None:
        """Pair each sequence with one of another document, among the last few, at the positions that both have."""
        for part in np.split(np.arange(len(places)), places.starts()[1:]):
            if not len(part):
                continue
            mine, positions, document = _rows(codes, part), places.position[part], int(places.document[part[0]])
            others = [entry for entry in self._pool if entry[0] != document]
            if others:
                _, theirs, their_positions = others[self._turn % len(others)]
                self._turn += 1
                _, here, there = np.intersect1d(positions, their_positions, assume_unique=True, return_indices=True)
                swapped.update_crossed(_rows(mine, here), _rows(_like(theirs, mine), there))
            if not self._pool or self._pool[-1][0] != document:  # the first sequence of each document waits for others
                self._pool.append((document, mine, positions))

    def require_whole(self) -> None:
        """Raise unless every part has every sample."""
        if self._broken:
            raise MIProbeError("counting or merging was interrupted halfway: these counts are not whole. Start anew.")

    def flush(self) -> None:
        """Count what is buffered, in every part."""
        self.require_whole()
        for part in self._parts().values():
            part.flush()

    def _settle(self) -> None:
        """Before tables move: count what is buffered. Those of a share do not."""
        if self.share is None:
            self.flush()
        else:
            self.require_whole()

    def _parts(self) -> dict[str, JointCounts]:
        parts = {"": self.joint, **{f"shard.{s}.": shard for s, shard in enumerate(self.shards)}}
        return parts if self.swapped is None else {**parts, "swapped.": self.swapped}

    def require_same(self, other: PointCounts) -> None:
        """Raise `MergeError`, naming the first difference, unless both can be added."""
        self.binning.require_same(other.binning)
        self.joint.require_same(other.joint, self.binning.names)
        if self.moments is not None and other.moments is not None:
            self.moments.require_same(other.moments)
        if self.tokens is not None and other.tokens is not None:
            self.tokens.require_same(other.tokens)
        for name in vars(self.extras):
            mine, theirs = getattr(self.extras, name), getattr(other.extras, name)
            if mine != theirs:
                raise MergeError(f"the counts differ in what they keep: {name} is {mine} against {theirs}.")

    def __iadd__(self, other: PointCounts) -> PointCounts:
        """Add other counts of the same edges and extras; everything is checked before anything changes."""
        self.require_same(other)
        other.flush()
        self.flush()
        self._broken = True
        for name, part in self._parts().items():
            part += other._parts()[name]
        self._lagged.counts[:] += other.lagged
        if self.moments is not None and other.moments is not None:
            self.moments += other.moments
        if self.tokens is not None and other.tokens is not None:
            self.tokens += other.tokens
        self._broken = False
        return self

    # -- moving between processes ------------------------------------------------------------------------------------

    def description(self) -> dict[str, str]:
        """What must be equal for counts to move between processes: plain text, with digests in place of arrays."""
        binning = self.binning
        of_edges = ("edges", "limits", "frame", "dimensions", "others", "others_from")
        arrays = {name: getattr(binning, name) for name in of_edges}
        same = {
            "variables": " and ".join([f"{binning.variables} of {binning.width}", *(s.point for s in binning.sides)]),
            "bins": f"{binning.bins} {binning.method}",
            **{name: "none" if array is None else _digest(array) for name, array in arrays.items()},
            "pairs": "all" if self.joint.listed is None else _digest(self.joint.listed),
            "shares of pairs": str(1 if self.share is None else self.share.of),
        }
        return same | {name: str(value) for name, value in vars(self.extras).items()}

    def reserve(self, samples: Mapping[str, int]) -> dict[str, tuple[int, str]]:
        """Make tables with room for so many samples in each part, at least for those that are there.

        Returns
        -------
        dict of str -> (int, str)
            By part: the samples that are there, and the type of the tables; parts without samples are left out. Tables of a share
            of the pairs stay where they are: then there is one part, without tables.
        """
        self.require_whole()
        if self.share is not None:
            return {"": (self.joint.n, "")} if self.joint.n else {}
        types = {name: (part, part.reserve(samples.get(name, 0))) for name, part in self._parts().items()}
        return {name: (part.n, dtype.str) for name, (part, dtype) in types.items() if part.n and dtype is not None}

    def give(self, send: Callable[[NDArray[Any]], None]) -> None:
        """Hand all that was counted over, array by array; it is zero then, and the edges stay. See `JointCounts.give`.

        Of a share of the pairs, what is beside the tables: these stay.
        """
        self._settle()
        self._broken = True
        for part in self._parts().values() if self.share is None else ():
            if part.n:
                part.give(send)
        for array in self.beside():
            send(array)
        self._clear_beside()
        self._broken = False

    def beside(self) -> list[NDArray[np.int64]]:
        """All sums but the tables, to be read or added to: lagged counts, second moments, pairs of tokens."""
        moments = () if self.moments is None else (getattr(self.moments, name) for name in SecondMoments.SUMS)
        tokens = () if self.tokens is None else (getattr(self.tokens, name) for name in TokenCounts.SUMS)
        return [self._lagged.counts, *moments, *tokens]

    def _clear_beside(self) -> None:
        for array in self.beside():
            array[:] = 0

    def take_in(
        self, samples: Mapping[str, tuple[int, str]], add: Callable[[NDArray[Any], np.dtype[Any]], None]
    ) -> None:  # fmt: skip
        """Add what another gives, of the same description; `samples` is what its `reserve` said. See `JointCounts.take_in`."""
        self._settle()
        self._broken = True
        for name, part in self._parts().items() if self.share is None else ():
            if name in samples:
                n, dtype = samples[name]
                part.take_in(n, np.dtype(dtype), add)
        for array in self.beside():
            add(array, array.dtype)
        self._broken = False

    @contextmanager
    def with_beside(self, bring: Callable[[NDArray[Any]], None]) -> Iterator[None]:
        """As long as the block runs, have the lagged counts and second moments of all processes, which the first one holds.

        Parameters
        ----------
        bring : callable
            Is called with each of the `beside` arrays and fills it: here, or where it is filled from.
        """
        self.require_whole()
        own = self.share is not None and self.share.number > 0
        try:
            for array in self.beside():
                bring(array)
            yield
        finally:
            if own:  # whose own were given to the first
                self._clear_beside()

    def copy(self) -> PointCounts:
        """An independent copy."""
        twin = PointCounts(self.binning, self.extras, self.joint.listed, self.share)
        twin += self
        twin._lagged = self._lagged.copy()
        twin._pool, twin._turn = deque(self._pool, maxlen=_POOL), self._turn
        return twin

    # -- files -------------------------------------------------------------------------------------------------------

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What a file needs: facts that JSON can hold, and arrays by name."""
        self.flush()
        facts, arrays = self.binning.to_arrays()
        facts["samples"] = {}
        if self.joint.listed is not None and not self.binning.sides:  # which say it
            arrays["pairs"] = self.joint.listed
        for name, part in self._parts().items():
            facts["samples"][name] = part.n
            arrays |= {name + key: getattr(part, key) for key in ("missing", "margins", "tables", "trimmed")}
        if self.extras.lags:
            arrays["lagged"] = self.lagged
        if self.moments is not None:
            arrays |= {f"moments.{key}": getattr(self.moments, key) for key in SecondMoments.SUMS}
        if self.tokens is not None:
            arrays |= {f"tokens.{key}": getattr(self.tokens, key) for key in TokenCounts.SUMS}
        return facts, arrays

    @classmethod
    def from_arrays(
        cls,
        extras: Extras,
        facts: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        *,
        share: Share | None = None,
        copy: bool = True,
    ) -> PointCounts:
        """Rebuild what `to_arrays` gave; facts of an older file have ``n`` in place of samples, and no extras.

        Parameters
        ----------
        extras : Extras
        facts, arrays : dict
        share : Share, optional
            Of which the tables are. Lagged counts and second moments are for the first one alone, and zero for the others.
        copy : bool
            False: the large arrays go on counting where they are, and must not be used by others any more.

        Raises
        ------
        InputError
            The arrays contradict each other, or some belong to nothing.
        KeyError
            One is not there.
        """
        binning = Binning.from_arrays(facts, arrays)
        pairs = pairs_between(binning.first, binning.variables) if binning.sides else arrays.get("pairs")
        names = ["", *(f"shard.{s}." for s in range(extras.shards)), *(["swapped."] if extras.swap else [])]
        samples = facts.get("samples", {"": facts.get("n")})
        parts = {}
        for name in names:
            missing, margins, tables = (arrays[name + key] for key in ("missing", "margins", "tables"))
            trimmed = arrays.get(f"{name}trimmed")
            parts[name] = part = JointCounts.from_arrays(
                *(samples[name], missing, margins, tables, trimmed, pairs), share=share, copy=copy
            )
            if (binning.variables, binning.bins) != (part.variables, part.bins):
                raise InputError(f"edges {binning!r} do not fit {part!r}")
        first = share is None or share.number == 0
        if first:
            _require_shapes(extras, binning, arrays)  # before anything is made of those shapes
        counts = cls(binning, extras, pairs, share)
        counts.joint = parts[""]
        counts.shards = tuple(part for name, part in parts.items() if name.startswith("shard."))
        counts.swapped = parts.get("swapped.")
        if counts.shards:
            together = JointCounts(binning.variables, binning.bins, pairs, share)
            for shard in counts.shards:
                together += shard
            if together != counts.joint:
                raise InputError("the shards do not add up to the whole.")
        if extras.lags and first:
            counts._restore_lagged(arrays["lagged"], copy)
        if counts.moments is not None and first:
            counts.moments.restore({key: arrays[f"moments.{key}"] for key in SecondMoments.SUMS})
            if not np.array_equal(counts.moments.n[counts.joint.pair_indices], counts.joint.tables.sum(axis=(1, 2))):
                raise InputError("the second moments are of other samples than the counts.")
        if counts.tokens is not None and first:
            counts.tokens.restore({key: arrays[f"tokens.{key}"] for key in TokenCounts.SUMS})
            if counts.tokens.tokens[0] != counts.joint.n:
                raise InputError("the pairs of tokens are of other samples than the counts.")
        known = set(counts.to_arrays()[1]) | {f"{name}trimmed" for name in names} | {"frame", "limits"}
        if not set(arrays) <= known:
            raise InputError(f"arrays that belong to nothing: {sorted(set(arrays) - known)}.")
        return counts

    def _restore_lagged(self, lagged: NDArray[np.int64], copy: bool) -> None:
        if lagged.min(initial=0) < 0 or lagged.max(initial=0) > self.joint.n:  # so that no sum below overflows
            raise InputError("the lagged counts are negative, or of more samples than there are.")
        for axis in (2, 3):
            if (lagged.sum(axis=axis) > self.joint.margins).any():
                raise InputError("the lagged counts do not fit the margins.")
        self._lagged.restore(lagged.copy() if copy else lagged)


def _require_shapes(extras: Extras, binning: Binning, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise unless lagged counts and second moments have the shape that their edges ask for."""
    variables, bins = binning.variables, binning.bins
    expected: dict[str, tuple[int, ...]] = {"lagged": (extras.lags, variables, bins, bins)} if extras.lags else {}
    if extras.moments:
        expected |= {f"moments.{key}": (variables,) * (1 if key == "clipped" else 2) for key in SecondMoments.SUMS}
    for name, shape in expected.items():
        if arrays[name].shape != shape or arrays[name].dtype != np.int64:
            got = f"{arrays[name].dtype} of {arrays[name].shape}"
            raise InputError(f"'{name}' must be int64 of shape {shape}; got {got}.")


def _digest(array: NDArray[Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def _add(counts: JointCounts, codes: Any) -> None:
    if isinstance(codes, np.ndarray):
        counts.update(codes)
    else:
        counts.update_on_device(codes)


def _rows(codes: Any, where: NDArray[np.integer]) -> Any:
    """Some rows, as a copy."""
    if isinstance(codes, np.ndarray):
        return codes[where]
    import torch

    return codes.index_select(0, torch.from_numpy(where).to(codes.device))


def _like(codes: Any, others: Any) -> Any:
    """Codes as an array, or as a tensor on a device, as the others are: a model may have been moved meanwhile."""
    if isinstance(others, np.ndarray):
        return codes if isinstance(codes, np.ndarray) else codes.cpu().numpy()
    import torch

    return torch.as_tensor(codes).to(others.device)
