"""A run over a corpus: block after block, on one process or several, stopped and gone on with at any place."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from mi_probe import divided, store
from mi_probe.corpus import Block, Emptiness, Place, Window, blocks, packed, windows
from mi_probe.coverage import Part
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
_WHOLE = -1
_BLOCKS = 4  # of each process in a round: between them, those with more tokens and those with fewer even out


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
    """

    batch_size: int = 8
    max_tokens: int | None = None
    shard: tuple[int, int] = (1, 1)
    first_document: int = 0
    checkpoint: Path | None = None
    checkpoint_tokens: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class _Read(NamedTuple):
    block: Block
    digest: str
    """Of all text before it."""


class _Ended(NamedTuple):
    """What a process says at the end of a round."""

    block: int
    windows: int
    """How many of the block are done; `_WHOLE` if all are."""
    stop: bool
    save: bool
    counted: int
    documents: int
    empty: int


class Run:
    """Counts a corpus with an attached probe; `go` returns when all of it is counted.

    Rounds: the processes say how many tokens each of the next blocks has, share these out evenly, and run them. Which tokens a
    limit leaves out, and when convergence is measured, hangs on the order of the text alone, not on how many processes there are.
    Counts move to the first process where they are needed: for a checkpoint, a row of the table, and in the end. Where the tables
    of the pairs are divided among the processes, these stay, and codes move instead: after each forward pass those of all go to
    all.

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
        self._done = {int(number): int(count) for number, count in position.get("done", {}).items()}
        self._saved_at, self._saved_when = self.tokens, time.monotonic()
        self._source = attached.parts[0].source if attached.parts else corpus.source
        self._empty = Emptiness()
        self._divided = attached.share is not None
        self._shared = all(stream.calibrated for stream in attached.streams.values())
        self._bar: Any = None
        self._progress = progress and ranks.first
        self._characters = 0
        self._found = 0

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
        ranks, limit = self.ranks, self.wanted.max_tokens
        found = {k: windows(here[k].block, self.model) for k in range(ranks.rank, len(here), ranks.size)}
        told = ranks.gather([sum(window.size for window in found[k]) for k in found])
        sizes = [told[k % ranks.size][k // ranks.size] for k in range(len(here))]
        starts = [self.tokens + sum(sizes[:k]) for k in range(len(sizes) + 1)]
        starts = starts if limit is None else [min(start, limit) for start in starts]
        ended: list[_Ended] = []
        others = 0
        rows = [k for k in range(len(here)) if self._row_between(starts[k], starts[k + 1])]
        turns = sorted({*rows, len(here) - 1})  # up to this block each, then a row is measured
        for first, last in zip([0, *(turn + 1 for turn in turns)], turns, strict=False):
            mine = self._share_of(here, starts, first, last)
            done = list(self._blocks_of_mine(mine, found, here, starts))
            while self._divided and not self._exchange(done=True):
                pass  # others have more
            said = ranks.gather(done)
            ended += [one for some in said for one in some]
            others += sum(one.counted for some in said[1:] for one in some)
            if not self._shared:
                self._share_edges()  # before counts move, which they do between equal edges only
            if any(one.stop for one in ended):
                break
            if last in rows:
                self._measure(starts[last + 1])
        self._enter(here, starts, ended, ahead, others)

    def _share_of(self, here: list[_Read], starts: list[int], first: int, last: int) -> list[int]:
        """Which of these blocks this process runs, in their order: the largest ones first, each goes to who has least."""
        loads = [0] * self.ranks.size
        mine: list[int] = []
        sizes = {k: starts[k + 1] - starts[k] for k in range(first, last + 1)}
        for k in sorted(sizes, key=lambda n: (n > 0 or starts[0] > 0, -sizes[n], n)):  # the very first is the first one's
            who = min(range(len(loads)), key=lambda rank: (loads[rank], (rank - k) % len(loads)))  # that has cut it, if it may
            loads[who] += sizes[k] if self._done.get(here[k].block.number) != _WHOLE else 0
            mine += [k] if who == self.ranks.rank else []
        return sorted(mine)

    def _blocks_of_mine(
        self, mine: list[int], found: dict[int, list[Window]], here: list[_Read], starts: list[int]
    ) -> Iterator[_Ended]:
        for k in mine:
            block, limit = here[k].block, self.wanted.max_tokens
            size = starts[k + 1] - starts[k]
            if k not in found or (limit is not None and starts[k + 1] >= limit):
                found[k] = windows(block, self.model, most=None if limit is None else size)
            ended = self._block(block, found.pop(k), starts[k], here)
            yield ended
            if ended.stop:
                break

    def _row_between(self, before: int, after: int) -> bool:
        """Whether a power of two lies there, of those for which convergence is measured."""
        if before == 0:
            return False  # the first block measures within itself
        return after.bit_length() > max(before.bit_length(), _FIRST_ROW)

    def _enter(
        self, here: list[_Read], starts: list[int], ended: list[_Ended], ahead: _Read | None, others: int
    ) -> None:  # fmt: skip
        """Enter what a round did, and save where it is time to."""
        whole = len(ended) == len(here) and all(one.windows == _WHOLE for one in ended)
        self.documents += sum(one.documents for one in ended)
        if whole:
            self.tokens = starts[-1]
            self._done = {number: count for number, count in self._done.items() if ahead and number >= ahead.block.number}
        else:
            self._done |= {one.block: one.windows for one in ended}
        if self.ranks.first:
            self._advance(here, 0 if self._divided else others)
        stop = any(one.stop for one in ended)
        if stop or any(one.save for one in ended):
            at = ahead if whole else here[0]
            if at is not None:
                self._save(at)
        if stop and self.wanted.checkpoint is not None:
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

    # -- a block -----------------------------------------------------------------------------------------------------

    def _block(self, block: Block, found: list[Window], start: int, here: list[_Read]) -> _Ended:
        """Run what is left of a block."""
        import torch

        skip = self._done.get(block.number, 0)
        limit = self.wanted.max_tokens
        if skip == _WHOLE or (limit is not None and start >= limit):  # one process would not have come that far
            return _Ended(block.number, _WHOLE, False, False, 0, 0, 0)
        before = self.attached.tokens_seen
        done, tokens = 0, start
        for batch in packed(found, self.wanted.batch_size):
            left = batch[max(0, skip - done) :]
            done += len(batch)
            tokens += sum(window.size for window in batch)
            if not left:
                continue
            seen = self.attached.tokens_seen
            self.attached.documents = [self.wanted.first_document + window.document for window in left]
            ids = torch.tensor([window.tokens for window in left])
            self.model(ids.to(self.model.cfg.device), return_type=None)
            measure = tokens if start == 0 and self.ranks.first and self._row_is_due(tokens) else 0
            if self._divided:
                self._exchange(done=False, measure=measure)
            else:
                self._bar.update(self.attached.tokens_seen - seen)
                if measure:
                    self.attached.convergence.append(measured(self.attached, tokens))
            last = done >= len(found)
            if self.stops.asked and not last:
                return _Ended(block.number, done, True, True, self.attached.tokens_seen - before, 0, 0)
            if self.ranks.size == 1 and not last and self._is_time(tokens):
                self._done[block.number] = done
                self._save(here[0], tokens)
        began = sum(1 for piece in block.pieces if not piece.number)
        empty = self._empty.look_at(block, found)
        counted = self.attached.tokens_seen - before
        return _Ended(block.number, _WHOLE, self.stops.asked, self._is_time(tokens), counted, began, empty)

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
            "done": {str(number): count for number, count in sorted(self._done.items())},
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
        tokens, texts, names = zip(*self.ranks.gather((self._empty.tokens, self._empty.texts, self._empty.names)), strict=True)
        self._empty.tokens, self._empty.texts = sum(tokens) + self.tokens, sum(texts)
        self._empty.names = [name for some in names for name in some][:3]
        if self.ranks.first:
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
            self._bar.refresh()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
