"""A run over a corpus: block after block, on one process or several, stopped and gone on with at any place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from mi_probe import divided, store
from mi_probe.corpus import Block, Emptiness, Place, Window, blocks, windows
from mi_probe.coverage import Part
from mi_probe.dealing import ForwardPass, as_ranges, dealt, of_ranges, passes_left
from mi_probe.errors import CheckpointError, Stopped
from mi_probe.hooks import AttachedProbe
from mi_probe.ranks import Ranks
from mi_probe.settling import measured
from mi_probe.sources import Corpus
from mi_probe.stopping import Stops

__all__ = ["Run", "Wanted"]

_FIRST_ROW = 13  # of the table of convergence: 2^13 tokens, when edges are there as a rule
_SECONDS = 600.0  # between checkpoints, where their number of tokens is not given
_LOGGED = 30.0  # seconds between lines of progress in a file
_BLOCKS = 2  # of each process in a round: the more there are, the less counts that the processes wait for the last one


@dataclass(frozen=True)
class Wanted:
    """What is asked of a run.

    Attributes
    ----------
    batch_size : int
        Windows that run together.
    max_tokens : int, optional
        Tokens of the text to run, BOS not among them; of this shard.
    shard : (int, int)
        Which part of the corpus, k of n: its blocks b with ``b % n == k - 1``.
    first_document : int
        Number of the first document.
    checkpoint : path, optional
        File to save to.
    checkpoint_tokens : int, optional
        How often; every ten minutes by default.
    facts : dict
        What must be the same for a run to be gone on with.
    labels : callable, optional
        The label of each token, given their ids; both of shape (batch, position).
    """

    batch_size: int = 8
    max_tokens: int | None = None
    shard: tuple[int, int] = (1, 1)
    first_document: int = 0
    checkpoint: Path | None = None
    checkpoint_tokens: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    labels: Callable[[Any], Any] | None = None


class _Read(NamedTuple):
    block: Block
    digest: str
    """Of all text before it."""


class _Told(NamedTuple):
    """What a process says when it has run its passes."""

    done: dict[int, list[int]]
    """Places of the windows that it has run, by the number of their block."""
    counted: int
    stop: bool
    save: bool


class Run:
    """Counts a corpus with an attached probe; `go` returns when all of it is counted.

    Rounds: all processes read and cut the next few blocks, which takes next to no time, and deal their forward passes out evenly.
    Which tokens a limit leaves out, and when convergence is measured, hangs on the order of the text alone, not on how many
    processes there are. Counts move to the first process where they are needed: for a checkpoint, a row of the table, and in the
    end. Where the tables of the pairs are divided among the processes, these stay, and codes move instead: after each forward
    pass those of all go to all.

    Parameters
    ----------
    attached : AttachedProbe
        With what a checkpoint had, where the run goes on.
    model : TransformerBridge or HookedTransformer
    corpus : Corpus
    ranks : Ranks
    wanted : Wanted
    progress : bool
    """

    def __init__(
        self, attached: AttachedProbe, model: Any, corpus: Corpus, ranks: Ranks, wanted: Wanted, *, progress: bool = False
    ) -> None:
        self.attached, self.model, self.corpus, self.ranks, self.wanted = attached, model, corpus, ranks, wanted
        self.stops = Stops()
        position = attached.run.get("position") or {}
        self.finished = bool(attached.run) and not position
        self.tokens = int(position.get("tokens", 0))  # of the text, before the blocks that come next
        self.documents = int(attached.run.get("totals", {}).get("documents", 0))
        self._start = position
        self._done = {int(number): of_ranges(ranges) for number, ranges in position.get("done", {}).items()}
        self._saved_at, self._saved_when = self.tokens, time.monotonic()
        self._source = attached.parts[0].source if attached.parts else corpus.source
        self._empty = Emptiness()
        self._divided = attached.share is not None
        self._shared = all(stream.calibrated for stream in attached.streams.values())
        self._bar: Any = None
        self._progress = progress and ranks.first
        self._characters = 0
        self._found = 0
        self._measured = max((int(row["text_tokens"]).bit_length() for row in attached.convergence), default=0)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _blocks(self) -> Iterator[_Read]:
        """The blocks of this shard from where the run goes on, for all processes."""
        shard, of = self.wanted.shard
        number, place = int(self._start.get("block", 0)), Place(self._start.get("document", 0), self._start.get("piece", 0))
        known = bool(self.corpus.source)
        passed = xxhash.xxh3_128()
        read = blocks(self.corpus, number=number, start=place) if known else blocks(self.corpus)
        for block in read:
            if not self._source:
                self._source = xxhash.xxh3_128_hexdigest("".join(piece.text for piece in block.pieces).encode(errors="replace"))
            digest = "" if known else passed.hexdigest()
            if block.number == number and digest != self._start.get("digest", digest):
                raise CheckpointError(f"these are not the texts that were counted before: their first {number:,} blocks differ.")
            if not known:
                passed.update("\0".join(piece.text for piece in block.pieces).encode(errors="surrogatepass"))
            if block.number >= number and block.number % of == shard - 1:
                yield _Read(block, digest)

    # -- the run -----------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """Count to the end.

        Raises
        ------
        Stopped
            By Ctrl-C or SIGTERM, where there is a checkpoint to write to; it was written.
        CheckpointError
            The texts differ from those that the checkpoint has counted.
        """
        import torch
        from tqdm import tqdm

        if self.wanted.checkpoint is not None and self.ranks.first:
            store.clear_unfinished(self.wanted.checkpoint)
        if self.finished:
            return
        listening = self.stops.noted() if self.wanted.checkpoint is not None else _nothing()
        with (
            listening,
            torch.inference_mode(),
            tqdm(
                unit=" tokens",
                unit_scale=True,
                delay=2.0,
                mininterval=0.1 if sys.stderr.isatty() else _LOGGED,
                disable=not self._progress,
                total=self.wanted.max_tokens,
                initial=self.attached.tokens_seen,
            ) as self._bar,
        ):
            read = self._blocks()
            ahead = next(read, None)
            while ahead is not None and not self._limit_is_reached():
                # Edges are fitted by the first process. What is measured within the first block is of that block alone.
                width = _BLOCKS * self.ranks.size if self._shared and not (self._divided and not self.tokens) else 1
                width = 1 if self.ranks.size == 1 else width
                here = [ahead, *islice(read, width - 1)]
                ahead = next(read, None)
                self._round(here, ahead)
            self.attached.documents = None
            self._end()

    def _limit_is_reached(self) -> bool:
        return self.wanted.max_tokens is not None and self.tokens >= self.wanted.max_tokens

    def _round(self, here: list[_Read], ahead: _Read | None) -> None:
        found, starts = self._cut(here)
        others, stop, save, whole = 0, False, False, False
        rows = [k for k in range(len(here)) if self._row_between(starts[k], starts[k + 1])]
        turns = sorted({*rows, len(here) - 1})  # up to this block each, then a row is measured
        for first, last in zip([0, *(turn + 1 for turn in turns)], turns, strict=False):
            mine = self._mine(here, found, starts, first, last)
            told = self._run(mine, dict(zip((read.block.number for read in here), starts, strict=False)), starts[last + 1], here)
            while self._divided and not self._exchange(done=True):
                pass  # others have more
            said = self.ranks.gather(told)
            for number, places in (some for one in said for some in one.done.items()):
                self._done.setdefault(number, set()).update(places)
            others += sum(one.counted for one in said[1:])
            if not self._shared:
                self._share_edges()  # before counts move, which they do between equal edges only
            stop, save = any(one.stop for one in said), said[0].save
            whole = all(len(self._done.get(read.block.number, ())) == len(some) for read, some in zip(here, found, strict=True))
            if stop and not whole:
                break  # what is measured here will be when the run goes on
            if last in rows:
                self._measure(starts[last + 1])
        if self.ranks.first:
            self._advance(here, 0 if self._divided else others)
        self._enter(here, found, starts, ahead if whole else here[0], whole=whole, stop=stop, save=save)

    def _cut(self, here: list[_Read]) -> tuple[list[list[Window]], list[int]]:
        """The windows of each block, and how many tokens of the text are before each; none beyond the limit."""
        found, starts, limit = [], [self.tokens], self.wanted.max_tokens
        for read in here:
            some = windows(read.block, self.model)
            size = sum(window.size for window in some)
            if limit is not None and starts[-1] + size > limit:
                size = limit - starts[-1]
                some = windows(read.block, self.model, most=size)
            found.append(some)
            starts.append(starts[-1] + size)
        return found, starts

    def _mine(
        self, here: list[_Read], found: list[list[Window]], starts: list[int], first: int, last: int
    ) -> list[ForwardPass]:  # fmt: skip
        """What this process has to run of some blocks, in their order; the very first block is the first one's."""
        passes = [
            one
            for k in range(first, last + 1)
            for one in passes_left(
                here[k].block.number, found[k], self._done.get(here[k].block.number, ()), self.wanted.batch_size
            )
        ]
        of_the_first = sum(one.block == here[0].block.number for one in passes) if starts[0] == 0 and first == 0 else 0
        whose = dealt([one.cost for one in passes], self.ranks.size if self._shared else 1, of_the_first)
        return [one for one, rank in zip(passes, whose, strict=True) if rank == self.ranks.rank]

    def _row_between(self, before: int, after: int) -> bool:
        """Whether a power of two lies there, of those for which convergence is measured."""
        if before == 0:
            return False  # the first block measures within itself
        return after.bit_length() > max(before.bit_length(), _FIRST_ROW, self._measured)

    def _enter(
        self,
        here: list[_Read],
        found: list[list[Window]],
        starts: list[int],
        at: _Read | None,
        *,
        whole: bool,
        stop: bool,
        save: bool,
    ) -> None:
        """Enter what a round did, and save where it is time to: from there the run goes on at block `at`."""
        if whole:
            for read, some, start in zip(here, found, starts, strict=False):
                if self.wanted.max_tokens is None or start < self.wanted.max_tokens:  # one process would not have come further
                    self.documents += sum(1 for piece in read.block.pieces if not piece.number)
                    self._empty.look_at(read.block, some)
            self.tokens = starts[-1]
            self._done = {number: places for number, places in self._done.items() if at and number >= at.block.number}
        if (stop or save) and at is not None:
            self._save(at)
        if stop and self.wanted.checkpoint is not None and at is not None:
            raise Stopped(
                f"stopped after {self.attached.tokens_seen:,} tokens, which are saved in {self.wanted.checkpoint}: go on from "
                "there with --resume."
                if self.ranks.first
                else ""
            )

    def _share_edges(self) -> None:
        """Give the edges that the first process has fitted to all."""
        mine = self.attached.binnings if all(s.calibrated for s in self.attached.streams.values()) else None
        edges = self.ranks.share_edges(mine)
        if edges:
            self._shared = True
            if not self.ranks.first:
                self.attached.take_edges(edges)

    def _exchange(self, *, done: bool, measure: int = 0) -> bool:
        """Have the codes of all processes counted by all; whether none has more."""
        seen = self.attached.tokens_seen
        told = divided.exchange(self.ranks, self.attached, self.attached.outbox, done=done, measure=measure)
        self._bar.update(self.attached.tokens_seen - seen)
        if told.measure:
            self._measure(told.measure)
        return told.all_done

    # -- passes ------------------------------------------------------------------------------------------------------

    def _run(self, passes: list[ForwardPass], starts: dict[int, int], end: int, here: list[_Read]) -> _Told:
        """Run passes; before the blocks there are so many tokens, and behind the last one."""
        import torch

        before = self.attached.tokens_seen
        done: dict[int, list[int]] = {}
        for k, one in enumerate(passes, start=1):
            seen = self.attached.tokens_seen
            self.attached.documents = [self.wanted.first_document + window.document for window in one.windows]
            ids = torch.tensor([window.tokens for window in one.windows])
            if self.wanted.labels is not None:
                self.attached.labels = self.wanted.labels(ids)
            self.model(ids.to(self.model.cfg.device), return_type=None)
            done.setdefault(one.block, []).extend(one.places)
            tokens = starts[one.block] + one.reached
            measure = tokens if starts[one.block] == 0 and self.ranks.first and self._row_is_due(tokens) else 0
            if self._divided:
                self._exchange(done=False, measure=measure)
            else:
                self._bar.update(self.attached.tokens_seen - seen)
                if measure:
                    self.attached.convergence.append(measured(self.attached, tokens))
            if self.stops.asked:
                break
            if self.ranks.size == 1 and k < len(passes) and self._is_time(tokens):
                for number, places in done.items():
                    self._done.setdefault(number, set()).update(places)
                self._save(here[0], tokens)
        counted = self.attached.tokens_seen - before
        return _Told(done, counted, self.stops.asked, self.stops.asked or self._is_time(end))

    def _is_time(self, tokens: int) -> bool:
        """Whether it is time for a checkpoint; the first process says so."""
        if self.wanted.checkpoint is None or not self.ranks.first or not self._edges_are_there:
            return False
        if self.wanted.checkpoint_tokens is not None:
            return tokens - self._saved_at >= self.wanted.checkpoint_tokens
        return time.monotonic() - self._saved_when >= _SECONDS

    @property
    def _edges_are_there(self) -> bool:
        """Before that nothing is saved: edges of a part of the calibration would be frozen in the file."""
        return all(stream.calibrated for stream in self.attached.streams.values())

    # -- convergence -------------------------------------------------------------------------------------------------

    def _row_is_due(self, tokens: int) -> bool:
        """Whether the first block has passed another power of two."""
        row = self._found
        while tokens >= 2 ** max(_FIRST_ROW, row + 1):
            row = max(_FIRST_ROW, row + 1)
        known = max((int(r["text_tokens"]).bit_length() - 1 for r in self.attached.convergence), default=0)
        due = row > max(self._found, known) and self._edges_are_there
        self._found = max(row, known)
        return due

    def _measure(self, tokens: int) -> None:
        """A row, by all processes together."""
        self._measured = max(self._measured, tokens.bit_length())
        if self._divided:
            row = divided.measured(self.ranks, self.attached, tokens)
        else:
            self._collect()
            row = measured(self.attached, tokens) if self.ranks.first else {}
        if self.ranks.first:
            self.attached.convergence.append(row)

    # -- saving ------------------------------------------------------------------------------------------------------

    def _save(self, at: _Read, tokens: int | None = None) -> None:
        """Write a checkpoint from which the run goes on at this block."""
        if self.wanted.checkpoint is None:
            return
        position: dict[str, Any] = {
            "block": at.block.number,
            "document": at.block.start.document,
            "piece": at.block.start.piece,
            "tokens": self.tokens,
            "done": {str(number): as_ranges(places) for number, places in sorted(self._done.items())},
        }
        if not self.corpus.source:
            position["digest"] = at.digest
        self._write(position)
        self._saved_at, self._saved_when = self.tokens if tokens is None else tokens, time.monotonic()

    def _collect(self) -> None:
        """Move all counts to the first process. As long as it alone has edges, or rows that wait for them, it has all of them."""
        if self._shared:
            self.ranks.collect(self.attached)

    def _write(self, position: dict[str, Any] | None) -> None:
        self._collect()
        if self.ranks.first:
            self._state_facts(position)
        if self.wanted.checkpoint is not None and (position is None or self._edges_are_there):
            self.ranks.save(self.attached, self.wanted.checkpoint)

    def _state_facts(self, position: dict[str, Any] | None) -> None:
        shard, of = self.wanted.shard
        limit = "" if self.wanted.max_tokens is None else f", its first {self.wanted.max_tokens:,} tokens"
        totals = {"documents": self.documents}
        self.attached.run = {**self.wanted.facts, "totals": totals, **({} if position is None else {"position": position})}
        if self._source:
            order = self.corpus.order + limit
            self.attached.parts = [Part(self._source, self.corpus.name, order, shard, of, position is None)]

    def _end(self) -> None:
        if self.ranks.first:
            self._empty.tokens += self.tokens
            self._empty.say(shard=self.wanted.shard)
        self._write(None)

    # -- progress ----------------------------------------------------------------------------------------------------

    def _advance(self, here: list[_Read], others: int) -> None:
        """Say what the other processes did, and how much is left."""
        self._bar.update(others)
        self._characters += sum(read.block.characters for read in here)
        nbytes, of = self.corpus.nbytes, self.wanted.shard[1]
        if self.wanted.max_tokens is None and nbytes is not None and not self._start and self._bar.n:
            self._bar.total = max(self._bar.n, round(self._bar.n * nbytes / of / self._characters))


@contextmanager
def _nothing() -> Iterator[None]:
    yield
