"""The processes of one run, as torchrun starts them: what they tell each other, and counts that move to the first."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mi_probe import divided
from mi_probe.binning import Binning
from mi_probe.corrections import Correction
from mi_probe.errors import InputError, MergeError, RankError
from mi_probe.independence import PValues
from mi_probe.members import Member
from mi_probe.result import MIResult
from mi_probe.state import ProbeState

__all__ = ["Ranks"]

T = TypeVar("T")

_CHUNK_BYTES = 2**25
_PATIENCE = 10.0
"""Seconds within which a process that is alive says so, once another has lost touch with someone."""
_POLL = 0.05
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"


class Ranks:
    """The processes of one run. `from_environment` joins those that torchrun started; a process by itself is rank 0 of 1.

    All of them call the same methods in the same order. When one of them ends with an error inside the ``with`` block, or is
    killed, the others get a `RankError` that names it, at once if they wait for it and otherwise when they next do.

    Attributes
    ----------
    rank : int
    size : int
        How many there are.
    local_rank : int
        Which it is on its machine, and so which GPU is its own.

    Examples
    --------
    >>> with Ranks.from_environment() as ranks:
    ...     print(ranks, ranks.first, ranks.gather("here"))
    rank 0 of 1 True ['here']
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, *, store: Any = None) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store = store
        self._members: list[Member] = []

    @classmethod
    def alone(cls) -> Ranks:
        """A single process: every operation is trivial, and torch.distributed stays untouched."""
        return cls()

    @classmethod
    def from_environment(cls, timeout: float = 1800.0) -> Ranks:
        """Join the run that this process was started for, or be alone.

        Parameters
        ----------
        timeout : float
            Seconds that one process waits for another before it gives up: more than the longest that they are ever apart.

        Raises
        ------
        InputError
            Some of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are not set or make no sense, or torch.distributed is in use.
        RankError
            Not all processes came.
        """
        named = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
        if named["RANK"] is None and named["WORLD_SIZE"] is None:
            return cls.alone()
        absent = [name for name, value in named.items() if value is None]
        if absent:
            raise InputError(f"{', '.join(absent)} is not set in the environment: start several processes with torchrun.")
        local = os.environ.get("LOCAL_RANK", "0")
        if not all(number.isdecimal() for number in (named["RANK"] or "", named["WORLD_SIZE"] or "", local)):
            raise InputError(
                f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers; got {named['RANK']!r}, {named['WORLD_SIZE']!r} and "
                f"{local!r}: start several processes with torchrun."
            )
        rank, size = int(named["RANK"] or 0), int(named["WORLD_SIZE"] or 0)
        if rank >= size:
            raise InputError(f"RANK must be below WORLD_SIZE; got {rank} of {size}: start several processes with torchrun.")
        return cls(0, 1, int(local)) if size == 1 else cls._joined(rank, size, int(local), timedelta(seconds=timeout))

    @classmethod
    def _joined(cls, rank: int, size: int, local: int, timeout: timedelta) -> Ranks:
        import torch

        # Imported later, as by a model that is loaded, it would keep the group of all processes in its default arguments, whose
        # threads would then outlive `close`, and abort the process when it ends.
        import torch.distributed.nn.functional
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        if distributed.is_initialized():
            raise InputError(
                "torch.distributed is in use in this process already: call destroy_process_group() first, or let mi_probe run "
                "in processes of its own."
            )
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
        try:
            store, rank, size = next(iter(rendezvous("env://", timeout=timeout)))
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        except RuntimeError as error:
            raise RankError(f"the {size} processes of the run did not find each other: {_first_line(error)}") from error
        ranks = cls(rank, size, local, store=PrefixStore("mi_probe", store))
        ranks._members = ranks.gather(Member.here())
        return ranks

    def __repr__(self) -> str:
        return f"rank {self.rank} of {self.size}"

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone prints and writes."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """The GPU that is this process's own, for `mi_probe.load_model`; None where it is alone, or there is no GPU."""
        import torch

        return f"cuda:{self.local_rank}" if self.size > 1 and self.local_rank < torch.cuda.device_count() else None

    # -- lifetime ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the run; twice is harmless."""
        if self._store is not None:
            self._store = None
            self._cut()

    def _cut(self) -> None:
        """End the connections: who waits for this process looks up why."""
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.barrier()
            elif self._store is not None:
                self._leave_word(error)
        finally:
            self.close()

    def _leave_word(self, error: BaseException) -> None:
        """Tell the others, and torchrun, why this process ends; before its connections close."""
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        if isinstance(error, Exception) and "TORCHELASTIC_ERROR_FILE" in os.environ:
            get_error_handler().record_exception(error)
        ended = "heard" if isinstance(error, RankError) else "error"  # heard: of another's
        try:
            self._store.set(f"{ended}/{self.rank}", _said(error))
            if self.first and os.environ.get(_AGENT) != "True" and isinstance(error, Exception):
                self._keep_the_store()
        except RuntimeError:  # the store is gone with the one who kept it: nobody is left to read
            error.add_note(f"mi_probe: {self} could not tell the others.")

    def _keep_the_store(self) -> None:
        """Where rank 0 keeps the store itself, all must have read in it who ended and why before it goes with this process."""
        self._cut()
        others = [rank for rank in range(self.size) if rank != self.rank]
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and not all(map(self._has_ended, others)):
            time.sleep(_POLL)

    def _has_ended(self, rank: int) -> bool:
        return any(self._store.check([f"{ended}/{rank}"]) for ended in ("heard", "error")) or self._is_dead(rank)

    def _is_dead(self, rank: int) -> bool:
        """Whether a process of this machine is no more; of another machine, that is not known here."""
        if not self._members or not self._members[rank].is_beside(self._members[self.rank]):
            return False
        return not self._members[rank].is_running

    # -- small things ------------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Wait until all are here."""
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        """Everyone's value to everyone, in the order of ranks. For what is small: it is pickled."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        with self._in_touch():
            distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The first one's value to everyone; what the others pass is ignored."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value if self.first else None]
        with self._in_touch():
            distributed.broadcast_object_list(values, src=0)
        return cast(T, values[0])

    def together(self, function: Callable[[], T]) -> list[T]:
        """Call a function on every rank and gather what it returns; where it fails on one, nobody goes on.

        Raises
        ------
        RankError
            It failed on another rank; where it failed, that error is raised.

        Examples
        --------
        >>> Ranks.alone().together(lambda: 1)
        [1]
        """
        if self.size == 1:
            return [function()]
        failed: Exception | None = None
        value: Any = None
        try:
            value = function()
        except Exception as error:  # raised below, when the others know
            failed = error
        answers = self.gather((value, None if failed is None else _said(failed)))
        if failed is not None:
            raise failed
        for rank, (_, said) in enumerate(answers):
            if said is not None:
                raise RankError(f"{self._name(rank)} ended: {said}")
        return [answer for answer, _ in answers]

    def share_edges(self, edges: Mapping[str, Binning] | None) -> dict[str, Binning]:
        """The first one's edges to everyone, bit for bit; what the others pass is ignored."""
        shared = self.broadcast({name: vars(binning) for name, binning in (edges or {}).items()})
        return {name: Binning(**values) for name, values in shared.items()}

    # -- arrays ------------------------------------------------------------------------------------------------------

    def numbers(self, *values: int) -> NDArray[np.int64]:
        """Everyone's whole numbers to everyone, as many of each: shape (ranks, values).

        Examples
        --------
        >>> Ranks.alone().numbers(3, 5)
        array([[3, 5]])
        """
        mine = np.array([values], dtype=np.int64)
        if self.size == 1:
            return mine
        import torch
        from torch import distributed

        found = np.empty((self.size, len(values)), dtype=np.int64)
        with self._in_touch():
            distributed.all_gather([torch.from_numpy(row) for row in found], torch.from_numpy(mine[0]))
        return found

    def spread(self, array: NDArray[Any], source: int = 0) -> None:
        """Fill everyone's array, of one shape and type, with that of a rank."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        for part in _chunks(array):
            with self._in_touch():
                distributed.broadcast(torch.from_numpy(_writable(part) if self.rank == source else part), src=source)

    def send(self, array: NDArray[Any], to: int = 0) -> None:
        """Send an array to a rank that receives it."""
        import torch
        from torch import distributed

        for part in _chunks(array):
            with self._in_touch():
                distributed.send(torch.from_numpy(_writable(part)), dst=to)

    def receive(self, array: NDArray[Any], source: int = 0) -> None:
        """Fill an array with what a rank sends, of the same type and size."""
        import torch
        from torch import distributed

        for part in _chunks(array):
            with self._in_touch():
                distributed.recv(torch.from_numpy(part), src=source)

    # -- counts ------------------------------------------------------------------------------------------------------

    def collect(self, state: ProbeState) -> None:
        """Move what all have counted to the first: it has the sum, the others go on from zero with the same edges.

        The sum is what one process would have that had counted all of it, bit for bit; with `Probe.swap` it is not, for whom a
        document is swapped with depends on those before it. Arrays travel in chunks of 32 MB, which are added where they arrive:
        beside the counts themselves it takes one such chunk.

        Where the tables of pairs are divided among the processes, they stay where they are, and so does the number of tokens; all
        else moves.

        Parameters
        ----------
        state : ProbeState
            Everyone's own.

        Raises
        ------
        MergeError
            One of them counts something else than the first, on every rank. Nothing was moved.
        RankError
            Another rank has failed or is gone. If it happens on the way, the counts are not whole, and say so.
        """
        if self.size == 1:
            return
        described = self.together(state.description)
        for rank, theirs in enumerate(described):
            self._require_same(described[0], rank, theirs)
        there = self.together(lambda: (state.reserve({}), state.books()))
        if self.first:
            totals: dict[str, Counter[str]] = {}
            for samples, _ in there:
                for point, parts in samples.items():
                    totals.setdefault(point, Counter()).update({part: n for part, (n, _) in parts.items()})
        self.together(lambda: bool(state.reserve(totals)) if self.first else None)  # room first: what may fail comes before
        if self.first:
            for rank, (samples, books) in enumerate(there[1:], start=1):
                state.take_in(samples, books, partial(self._add_from, rank))
        else:
            state.give(self.send)

    def _require_same(self, mine: dict[str, dict[str, str]], rank: int, theirs: dict[str, dict[str, str]]) -> None:
        for about in [*mine, *theirs]:
            if about not in mine or about not in theirs:
                where = "rank 0" if about in mine else self._name(rank)
                raise MergeError(f"{about} is on {where} only.")
            for fact, value in mine[about].items():
                other = theirs[about].get(fact, "none")
                if value != other:
                    raise MergeError(f"{about} differs: {fact} is {value} on rank 0 against {other} on {self._name(rank)}.")

    def estimate(
        self, state: ProbeState, *, correction: Correction = "adjusted", p_values: PValues = "auto"
    ) -> MIResult | None:  # fmt: skip
        """What `ProbeState.estimate` gives, also where the tables of pairs are divided among the processes; for the first one.

        Each estimates the pairs whose tables it has; the first one joins them, hook point by hook point. The numbers are those of
        one process that has all tables, bit for bit.

        Parameters
        ----------
        state : ProbeState
            Everyone's own, as `mi_probe.accumulate` returned it.
        correction, p_values : str
            As for `ProbeState.estimate`.

        Returns
        -------
        MIResult or None
            None for all but the first.

        Raises
        ------
        InputError
            As for `ProbeState.estimate`.
        RankError
            Another rank has failed or is gone.
        """
        if not state.divided:
            return state.estimate(correction=correction, p_values=p_values) if self.first else None
        self._collect_what_is_left(state)
        return divided.estimate(self, state, correction=correction, p_values=p_values)

    def save(self, state: ProbeState, path: str | os.PathLike[str]) -> None:
        """What `ProbeState.save` does, also where the tables of pairs are divided: the first one writes those of all.

        It is one file, as one process would write it. The tables of others pass through the first one in chunks of 32 MB.

        Parameters
        ----------
        state : ProbeState
            Everyone's own, as `mi_probe.accumulate` returned it.
        path : path
            Of the file; only the first one's counts.

        Raises
        ------
        StoreError
            The file cannot be written.
        RankError
            Another rank has failed or is gone.
        """
        if state.divided:
            self._collect_what_is_left(state)
            divided.save(self, state, path)
        elif self.first:
            state.save(path)

    def _collect_what_is_left(self, state: ProbeState) -> None:
        """Where passes were counted since the last time: what is beside the tables is of those alone, until it is collected."""
        if any(self.gather(not self.first and bool(state.books()["ledger"]["passes"]))):
            self.collect(state)

    def _add_from(self, rank: int, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
        import torch
        from torch import distributed

        for part in _chunks(array, dtype):
            arrived = np.empty(part.shape, dtype=dtype)
            with self._in_touch():
                distributed.recv(torch.from_numpy(arrived), src=rank)
            part += arrived

    # -- who is gone -------------------------------------------------------------------------------------------------

    def _name(self, rank: int) -> str:
        where = f" ({self._members[rank].host}, process {self._members[rank].pid})" if self._members else ""
        return f"rank {rank} of {self.size}{where}"

    @contextmanager
    def _in_touch(self) -> Iterator[None]:
        """Turn what torch.distributed raises into an error that names who is gone."""
        if self._store is None:
            raise RankError(f"{self} has left the run: nothing more can be told to the others.")
        try:
            yield
        except RuntimeError as error:
            raise RankError(self._found_out(error)) from error

    def _found_out(self, error: RuntimeError) -> str:
        """Who is gone, and what they said: everyone who is alive says so, and is not it."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        until = time.monotonic() + _PATIENCE
        try:
            self._store.set(f"survived/{self.rank}", "yes")
            while True:
                told = [rank for rank in others if self._store.check([f"error/{rank}"])]
                if told:
                    return f"{self._name(told[0])} ended: {self._store.get(f'error/{told[0]}').decode()}"
                silent = [rank for rank in others if not self._store.check([f"survived/{rank}"])]
                late = time.monotonic() >= until
                for rank in silent:
                    dead = self._is_dead(rank)
                    if dead and self._store.check([f"error/{rank}"]):
                        break  # it said so, a moment ago
                    if dead or late:
                        word = "it was killed, or ended without a word" if dead else f"no answer ({_first_line(error)})"
                        self._store.set(f"error/{rank}", f"{word}.")
                        return f"{self._name(rank)} ended: {word}."
                if not silent:
                    return f"{self} has lost touch with the others, who are all alive: {_first_line(error)}"
                time.sleep(_POLL)
        except RuntimeError:
            return f"{self._name(0)}, through which the others talk, is gone: {_first_line(error)}"


def _chunks(array: NDArray[Any], dtype: np.dtype[Any] | None = None) -> Iterator[NDArray[Any]]:
    """Views of an array, of some 32 MB each in the type in which it travels."""
    flat = array.reshape(-1)
    if not np.shares_memory(flat, array) and array.size:
        raise ValueError("the array must be contiguous: what is added to a copy would be lost.")
    step = max(1, _CHUNK_BYTES // (dtype or array.dtype).itemsize)
    for start in range(0, len(flat), step):
        yield flat[start : start + step]


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy of one that may only be read: torch has no such tensors."""
    return np.require(array, requirements=["W"])


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
