"""Counts whose tables are divided among the processes of a run: each has a share of the pairs, and codes of all tokens go to all.

Every function here is called by all processes, in the same order. Nothing that is divided is ever whole in one of them but
estimates of one hook point, which the first one joins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe import independence, store
from mi_probe.corrections import Correction
from mi_probe.estimation import Columns, estimate_columns, labelled
from mi_probe.estimators import Estimate
from mi_probe.independence import PValues
from mi_probe.outbox import Outbox
from mi_probe.permutation import nulls_of, require_few
from mi_probe.pointcounts import PointCounts
from mi_probe.pointresult import PairwiseMI
from mi_probe.result import MIResult
from mi_probe.settling import in_short, values_of
from mi_probe.shares import Share
from mi_probe.significance import PairMargins
from mi_probe.state import SCHEMA, VERSION, ProbeState

if TYPE_CHECKING:
    from mi_probe.ranks import Ranks

__all__ = ["Exchanged", "estimate", "exchange", "load", "measured", "save"]

_PIECE_BYTES = 2**25


# -- counting ----------------------------------------------------------------------------------------------------------


class Exchanged(NamedTuple):
    """What the processes told each other with their codes."""

    all_done: bool
    """Whether none of them will have more before something else is done together."""
    measure: int
    """The largest number that any of them gave."""


def exchange(ranks: Ranks, state: ProbeState, outbox: Outbox, *, done: bool, measure: int = 0) -> Exchanged:
    """Give the codes that wait to all, and count those of all into the share of the pairs that is here.

    One hook point at a time, and of it one process after the other, so that memory holds the codes of one beside one's own.

    Parameters
    ----------
    ranks : Ranks
    state : ProbeState
    outbox : Outbox
        Empty where a process has nothing; it is empty afterwards.
    done : bool
        Whether this process has no more.
    measure : int
        Something to do that all should know of; 0 for nothing.
    """
    said = ranks.numbers(outbox.rows, int(done), measure)
    rows = said[:, 0].tolist()
    if any(rows):
        state.count_codes(_arriving(ranks, state, outbox, rows))
    outbox.clear()
    return Exchanged(bool(said[:, 1].all()), int(said[:, 2].max()))


def _arriving(
    ranks: Ranks, state: ProbeState, outbox: Outbox, rows: list[int]
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]:
    sources = [rank for rank, some in enumerate(rows) if some]
    documents = {}
    for rank in sources:
        documents[rank] = outbox.documents() if rank == ranks.rank else np.empty(rows[rank], dtype=np.int64)
        ranks.spread(documents[rank], rank)
    for name, stream in state.streams.items():
        for rank in sources:
            shape = (rows[rank], stream.read().binning.variables)
            codes = outbox.codes(name) if rank == ranks.rank else np.empty(shape, dtype=np.uint8)
            ranks.spread(codes, rank)
            yield name, codes, documents[rank]


# -- estimates ---------------------------------------------------------------------------------------------------------


def estimate(
    ranks: Ranks, state: ProbeState, *, correction: Correction = "adjusted", p_values: PValues = "auto"
) -> MIResult | None:  # fmt: skip
    """What `ProbeState.estimate` would give if all tables were in one process, for the first one; see `Ranks.estimate`."""
    ranks.together(lambda: state.require_some(stacklevel=6) if ranks.first or not state.tokens_seen else None)
    points = {}
    for name, stream in state.streams.items():
        if stream.n:
            found = _of_point(ranks, state, stream.read(), correction, p_values)
            if found is not None:
                points[name] = found
    return MIResult(points, state.about()) if ranks.first else None


def _of_point(
    ranks: Ranks, state: ProbeState, counts: PointCounts, correction: Correction, p_values: PValues
) -> PairwiseMI | None:
    made: list[Columns] = []
    drawn = p_values == "permutation"

    def make() -> set[Any]:
        """Estimate here, and say which nulls these pairs have if some are to be drawn."""
        made.append(estimate_columns(counts, correction=correction, p_values="none" if drawn else p_values))
        return nulls_of(made[0].found.raw, PairMargins.of(counts.joint)) if drawn else set()

    def draw() -> None:
        require_few(len(set().union(*nulls)))  # of all pairs
        p, said = independence.p_values(counts, made[0].found.raw, p_values)
        assert p is not None
        made[0] = made[0]._replace(more={**made[0].more, "p": p}, note=said)

    with counts.with_beside(ranks.spread):
        nulls = ranks.together(make)
        if drawn:
            ranks.together(draw)
    found, more, note = made[0]
    of_pairs = {name: array for name, array in vars(found).items() if array is not None and name not in _OF_VARIABLES}
    joined = {name: _joined(ranks, array) for name, array in (of_pairs | {f".{key}": a for key, a in more.items()}).items()}
    if not ranks.first:
        return None
    whole = Estimate(
        **{name: joined[name] for name in of_pairs}, **{name: getattr(found, name) for name in _OF_VARIABLES}
    )  # fmt: skip
    columns = Columns(whole, {key: joined[f".{key}"] for key in more}, note)
    return labelled(counts, columns, correction=correction, notes=state.probe.choices)


_OF_VARIABLES = ("entropy", "self_chance")


def _joined(ranks: Ranks, mine: NDArray[Any]) -> NDArray[Any]:
    """The arrays of all shares one after the other, read-only, for the first process; its own for the others."""
    sizes = ranks.numbers(len(mine))[:, 0].tolist()
    if not ranks.first:
        ranks.send(np.ascontiguousarray(mine))
        return mine
    whole = np.empty(sum(sizes), dtype=mine.dtype)
    whole[: len(mine)] = mine
    start = len(mine)
    for rank, size in enumerate(sizes[1:], start=1):
        ranks.receive(whole[start : start + size], rank)
        start += size
    whole.flags.writeable = False
    return whole


def measured(ranks: Ranks, state: ProbeState, text_tokens: int) -> dict[str, Any]:
    """What `mi_probe.settling.measured` says of all pairs; for the first process."""
    points = {}
    for name, stream in state.streams.items():
        if stream.n:
            joined = _values(ranks, stream.read())
            points[name] = in_short(joined) if ranks.first else {}
    return {"tokens": state.tokens_seen, "text_tokens": text_tokens, "points": points}


def _values(ranks: Ranks, counts: PointCounts) -> dict[str, NDArray[np.float64]]:
    made: dict[str, NDArray[np.float64]] = {}
    ranks.together(lambda: made.update(values_of(counts)))
    return {name: _joined(ranks, array) for name, array in made.items()}


# -- files -------------------------------------------------------------------------------------------------------------


def save(ranks: Ranks, state: ProbeState, path: str | os.PathLike[str]) -> None:
    """Write the tables of all processes into one file; see `Ranks.save`. All but tables has moved to the first one before."""
    header, arrays = state.to_arrays()
    tables = {name: array for name, array in arrays.items() if _is_tables(name)}
    sizes = ranks.gather({name: len(array) for name, array in tables.items()})
    if ranks.first:
        pieces = {name: _Divided(ranks, name, array, [of[name] for of in sizes]) for name, array in tables.items()}
        store.write(path, SCHEMA, header, {**arrays, **pieces})
        ranks.broadcast(None)
        return
    while True:
        wanted: str | None = ranks.broadcast(None)
        if wanted is None:
            return
        ranks.send(tables[wanted])


@dataclass(frozen=True)
class _Divided:
    """Tables of all shares, for `store.write` in the first process: its own, then those that the others send when asked."""

    ranks: Ranks
    name: str
    own: NDArray[Any]
    sizes: list[int]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.own.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(self.sizes), *self.own.shape[1:]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        self.ranks.broadcast(self.name)
        yield self.own
        cells = int(np.prod(self.own.shape[1:]))
        piece = np.empty(max(1, _PIECE_BYTES // self.dtype.itemsize), dtype=self.dtype)
        for rank, size in enumerate(self.sizes[1:], start=1):
            for start in range(0, size * cells, len(piece)):
                part = piece[: min(len(piece), size * cells - start)]
                self.ranks.receive(part, rank)
                yield part


def load(ranks: Ranks, path: str | os.PathLike[str]) -> ProbeState:
    """Read a file as `ProbeState.load` does, each process its share of the tables. What is counted by each is the first one's.

    Only the first one reads the file, which need not be there for the others, and sends them what is theirs piece by piece.

    Raises
    ------
    StoreError
        As for `ProbeState.load`.
    """
    share = Share(ranks.rank, ranks.size)
    arrays: dict[str, NDArray[Any]] = {}
    if ranks.first:
        with store.in_parts(path, "state", VERSION) as parts:
            header = parts.contents.header
            kinds = {name: _Kind(tensor.dtype, tensor.shape) for name, tensor in parts.contents.tensors.items()}
            ranks.broadcast((_for_others(header), {name: kinds[name] for name in kinds if not _is_for_the_first(name)}))
            for name in kinds:
                arrays[name] = parts.read(name, *_rows_of(name, kinds, share))
                for rank in range(1, ranks.size) if not _is_for_the_first(name) else ():
                    for first, last in _pieces(name, kinds, Share(rank, ranks.size)):
                        ranks.send(parts.read(name, first, last), to=rank)
    else:
        header, kinds = ranks.broadcast(({}, {}))
        for name in kinds:
            begin, end = _rows_of(name, kinds, share)
            arrays[name] = np.empty((end - begin, *kinds[name].shape[1:]), dtype=kinds[name].dtype)
            for first, last in _pieces(name, kinds, share):
                ranks.receive(arrays[name][first - begin : last - begin])
    state = ProbeState.from_arrays(header, arrays, where=path, share=share)
    ranks.barrier()
    return state


class _Kind(NamedTuple):
    """Type and shape of an array in a file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _for_others(header: dict[str, Any]) -> dict[str, Any]:
    """A header without what adds up over processes."""
    points = [{**facts, "left_out": {}} for facts in header.get("points", [])]
    return {**header, "ledger": {}, "documents": {}, "points": points}


def _is_tables(name: str) -> bool:
    return name.endswith(".tables")


def _is_for_the_first(name: str) -> bool:
    """Whether an array of a file is what processes count each by themselves, and add up."""
    return name.endswith(".lagged") or ".moments." in name


def _rows_of(name: str, kinds: Mapping[str, _Kind], share: Share) -> tuple[int, int]:
    """Which rows of an array are for a process."""
    if not _is_tables(name):
        return 0, kinds[name].shape[0]
    variables, pairs = kinds[f"{name.partition('.')[0]}.margins"].shape[0], kinds[name].shape[0]
    return share.places(variables, None if pairs == variables * (variables - 1) // 2 else pairs)


def _pieces(name: str, kinds: Mapping[str, _Kind], share: Share) -> Iterator[tuple[int, int]]:
    """The same in pieces that travel at a time."""
    begin, end = _rows_of(name, kinds, share)
    step = max(1, _PIECE_BYTES // max(1, int(np.prod(kinds[name].shape[1:])) * kinds[name].dtype.itemsize))
    for first in range(begin, end, step):
        yield first, min(first + step, end)
