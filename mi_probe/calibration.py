"""Edges from a random sample of tokens over a whole corpus, in one quick pass."""

from __future__ import annotations

import heapq
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning
from mi_probe.corpus import Document, windows_of
from mi_probe.edges import Edges
from mi_probe.errors import InputError, MemoryRefusedError, MIProbeWarning, several
from mi_probe.hooks import AttachedProbe, attach
from mi_probe.memory import free_memory, in_bytes
from mi_probe.places import Places
from mi_probe.probe import Probe, load_probe
from mi_probe.sources import Corpus, as_corpus
from mi_probe.stream import PointStream, fit_edges
from mi_probe.subset import Width

__all__ = ["calibrate"]

_STRETCHES, _ROUNDS, _TOKENS = 0, 1, 2  # streams of random numbers
_LOOKED_AT = 1 << 14  # characters that tell how many make a token
_CONTEXTS = 16  # of a stretch, of which one is run: fewer, and the windows that its end cuts short would weigh too much
_PASS_ROWS = 8  # windows in one forward pass; fixed, so that the same seed gives the same edges bit for bit
_LAST_WORD_END = re.compile(r".*\S(?=\s)", re.DOTALL)


class Segment(NamedTuple):
    """Text of one document that stands together."""

    document: int
    text: str


class Stretch(NamedTuple):
    """About as much text as fills the model's context sixteen times: a part of a document, or several short ones."""

    number: int
    segments: list[Segment]


@dataclass
class Reading:
    """What one pass over a corpus has seen."""

    documents: int = 0
    characters: int = 0
    stretches: int = 0
    names: tuple[str, ...] = ()
    """Of the first documents."""


def calibrate(
    model: Any,
    texts: str | Document | Corpus | Iterable[Document | str],
    probe: Probe | str | Path = "dimension_pairs",
    *,
    seed: int = 0,
    stretches: int = 64,
    progress: bool = False,
) -> Edges:
    """Fit edges on tokens drawn at random from a whole corpus, for all runs over it.

    All text is read once, and only the sample is run. The text is seen as stretches of about sixteen contexts of the model: parts
    of a long document, several short ones together. Some are kept, each as likely as any other, and cut into windows as in any
    run; one window in sixteen is run, spread evenly over them, or more if that takes too few tokens; and of all tokens in these
    that the probe counts, each is as likely as any other to be in the sample: so is each token of the corpus. The sample is the
    same at all hook points. Memory: the stretches' text and `Probe.calibration_tokens` rows at each hook point, whatever the size
    of the corpus.

    Parameters
    ----------
    model : TransformerBridge or HookedTransformer
    texts : strings, documents, `Corpus` or a dataset
        As for `mi_probe.accumulate`; an iterator is read to its end.
    probe : Probe, str or path
        Which tokens count, how many make the sample (`calibration_tokens`), and how values are binned.
    seed : int
        The same seed and the same texts give the same edges.
    stretches : int
        Stretches that are kept, and about as many contexts are run: more of them represent the corpus better, since tokens of one
        stretch resemble each other, and take longer. There are more where the sample needs them.
    progress : bool
        Show progress bars on standard error where it takes longer than two seconds.

    Returns
    -------
    Edges
        Its ``about`` says how many tokens of how many documents it is from; ``whole`` is true where these are all tokens, because
        the corpus has no more than were asked for.

    Raises
    ------
    InputError
        No token counts, or an argument is out of range.
    HookPointError
        The model lacks a hook point of the probe.
    MemoryRefusedError
        The sample does not fit in memory.

    Warns
    -----
    MIProbeWarning
        The corpus has more tokens than the sample got, and the stretches that were kept hold no more.

    Notes
    -----
    Stretches are kept by random keys, the smallest ones, in one pass (a reservoir; Efraimidis & Spirakis 2006 have it for unequal
    chances). Equal chances are right here although stretches differ in length: tokens are drawn at one rate from all that was
    kept, and not a fixed number from each. Windows are taken by systematic sampling, every sixteenth from a random start.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> texts = ["A cup of coffee.", "A pot of tea.", "A glass of water."] * 20
    >>> edges = calibrate(model, texts, mi_probe.Probe(layers=[0, 12], calibration_tokens=100))
    >>> edges
    Edges(2 hook points, Binning(128 variables, 8 bins, equal_count))
    >>> mi_probe.accumulate(model, texts, mi_probe.Probe(layers=[0, 12]), edges=edges).tokens_seen
    300
    """
    texts = as_corpus(texts)
    for name, value, least in (("seed", seed, 0), ("stretches", stretches, 1)):
        if not hasattr(value, "__index__") or isinstance(value, bool) or value < least:
            raise InputError(f"{name} must be a whole number from {least}; got {value!r}.")
    what = probe if isinstance(probe, Probe) else load_probe(probe)
    forever = replace(what, calibration_tokens=2**62, lags=0, shards=0, swap=False, moments=False)  # the rows stay rows
    if what.variables == "tokens":
        forever = replace(forever, by="distance", labels=())  # edges take no labels
    attached = attach(model, forever, memory=float("inf"), count_on="cpu")
    try:
        kept, reading, enough = _read(model, texts, what, int(seed), int(stretches), progress)
        sample, all_run = _drawn(model, attached, kept, what, int(seed), enough, progress)
    finally:
        attached.detach()
    if not sample.n:
        raise InputError(
            f"there is no token to calibrate on: {reading.documents:,} documents have none that the probe counts, beside first "
            "and special ones."
        )
    if sample.n < what.calibration_tokens and len(kept) < reading.stretches:
        warnings.warn(
            f"edges are fitted on {sample.n:,} tokens, not on the {what.calibration_tokens:,} that the probe asks for: "
            f"{len(kept):,} stretches of text hold no more that count. Ask for more stretches, such as {4 * len(kept):,}.",
            MIProbeWarning,
            stacklevel=2,
        )
    about: dict[str, Any] = {
        "kind": "sample",
        "tokens": sample.n,
        "documents": sample.documents,
        "stretches": sample.stretches,
        "seed": int(seed),
        "corpus": _corpus_name(texts, reading),
        "documents_read": reading.documents,
        "characters_read": reading.characters,
        **order_of(what, texts),
    }
    if all_run and len(kept) == reading.stretches and sample.seen == sample.n:
        about["whole"] = True
    return Edges(sample.fitted(what), about, what.to_toml(), attached.model)


def order_of(probe: Probe, corpus: Corpus) -> dict[str, str]:
    """What the numbers of documents hang on, for edges that hold tokens of other documents; nothing for others.

    Examples
    --------
    >>> order_of(Probe(variables="tokens"), as_corpus(["A cup of coffee."]))["order"]
    'as it comes'
    """
    return {"source": corpus.source, "order": corpus.order} if probe.variables == "tokens" and corpus.source else {}


# -- the text ------------------------------------------------------------------------------------------------------------


def _read(
    model: Any, texts: str | Document | Corpus | Iterable[Document | str], probe: Probe, seed: int, stretches: int, progress: bool
) -> tuple[list[Stretch], Reading, int]:
    """The stretches that were kept of all text, in random order; and how many tokens to run of them, at least."""
    from tqdm import tqdm

    reading = Reading()
    pieces = _pieces(as_corpus(texts).documents(), reading)
    first = next(pieces, None)
    if first is None:
        raise InputError("there is no token to calibrate on: no text, or only empty ones, were given.")
    front, found = next(windows_of([first.text[:_LOOKED_AT]], model))
    room = int(model.cfg.n_ctx) - len(front)
    tokens = max(1, sum(map(len, found)))
    length = max(1, round(_CONTEXTS * room * len(first.text[:_LOOKED_AT]) / tokens))
    asked = max(stretches, ceil(1.25 * probe.calibration_tokens * probe.sample_every / room))
    with tqdm(unit=" characters", unit_scale=True, delay=2.0, disable=not progress, desc="reading") as bar:
        kept: list[tuple[float, int, Stretch]] = []  # a heap, the largest key on top
        generator = np.random.default_rng([seed, _STRETCHES])
        for number, segments in enumerate(stretches_of(chain([first], pieces), length)):
            key = -generator.random()
            if len(kept) < asked:
                heapq.heappush(kept, (key, -number, Stretch(number, segments)))
            elif key > kept[0][0]:
                heapq.heapreplace(kept, (key, -number, Stretch(number, segments)))
            reading.stretches += 1
            bar.update(sum(len(segment.text) for segment in segments))
    return [stretch for _, _, stretch in sorted(kept, reverse=True)], reading, asked * room * 3 // 4


def _pieces(texts: Iterable[Document], reading: Reading) -> Iterator[Segment]:
    for number, document in enumerate(texts):
        reading.documents += 1
        if len(reading.names) < 3:
            reading.names += (document.name,)
        for piece in document.pieces():
            reading.characters += len(piece)
            if piece:
                yield Segment(number, piece)


def stretches_of(pieces: Iterable[Segment], length: int) -> Iterator[list[Segment]]:
    """All text in stretches of at most so many characters: parts of long pieces, cut between words, and short pieces together.

    Examples
    --------
    >>> pieces = [Segment(0, "one two three four"), Segment(1, "five"), Segment(2, "six")]
    >>> [[segment.text for segment in stretch] for stretch in stretches_of(pieces, 10)]
    [['one two'], [' three'], [' four', 'five'], ['six']]
    """
    together: list[Segment] = []
    size = 0
    for piece in pieces:
        for part in _parts(piece.text, length):
            if together and size + len(part) > length:
                yield together
                together, size = [], 0
            together.append(Segment(piece.document, part))
            size += len(part)
    if together:
        yield together


def _parts(text: str, length: int) -> Iterator[str]:
    start = 0
    while len(text) - start > length:
        # Where the last word ends, if that is not far away: tokenizers take the space with the word behind it.
        least = start + length - length // 2
        word = _LAST_WORD_END.match(text, least - 1, start + length + 1)
        end = start + length if word is None else word.end()
        yield text[start:end]
        start = end
    yield text[start:]


def _corpus_name(texts: Any, reading: Reading) -> str:
    name = getattr(texts, "name", None)
    if isinstance(name, str):
        return name
    if set(reading.names) == {"text"}:
        return "texts"
    more = reading.documents - len(reading.names)
    return ", ".join(reading.names) + (f" and {more:,} more" if more else "")


# -- the tokens ----------------------------------------------------------------------------------------------------------


class _Window(NamedTuple):
    stretch: int
    number: int
    document: int
    tokens: NDArray[np.int64]


def _drawn(
    model: Any, attached: AttachedProbe, kept: list[Stretch], probe: Probe, seed: int, enough: int, progress: bool
) -> tuple[_Sample, bool]:
    """A sample of the tokens of stretches, from as many of their windows as it takes; and whether all windows were run."""
    import torch
    from tqdm import tqdm

    found = _windows_of(kept, model)
    sample, run = _Sample(min(probe.calibration_tokens, sum(len(window.tokens) for window in found))), 0
    rounds = np.random.default_rng([seed, _ROUNDS]).permutation(_CONTEXTS).tolist()
    with (
        torch.inference_mode(),
        tqdm(unit=" tokens", unit_scale=True, delay=2.0, disable=not progress, desc="calibrating") as bar,
    ):
        while rounds and (run < enough or sample.seen < probe.calibration_tokens):
            for batch in _passes(found[rounds.pop() :: _CONTEXTS]):
                tokens = torch.from_numpy(np.stack([window.tokens for window in batch]))
                model(tokens.to(model.cfg.device), return_type=None)
                sample.take(attached.streams, batch, seed)
                run += tokens.numel()
                bar.update(tokens.numel())
    return sample, not rounds


def _windows_of(stretches: Iterable[Stretch], model: Any) -> list[_Window]:
    """All windows of stretches, in their order."""
    found = []
    for stretch in stretches:
        parts = windows_of([segment.text for segment in stretch.segments], model)
        of_text = (
            (segment.document, np.array(front + tokens, dtype=np.int64))
            for segment, (front, windows) in zip(stretch.segments, parts, strict=True)
            for tokens in windows
        )
        found += [_Window(stretch.number, number, *each) for number, each in enumerate(of_text)]
    return found


def _passes(found: list[_Window]) -> Iterator[list[_Window]]:
    """Windows of one length together, so that nothing is padded."""
    batch: list[_Window] = []
    for window in sorted(found, key=lambda window: (-len(window.tokens), window.stretch, window.number)):
        if batch and (len(batch) == _PASS_ROWS or len(batch[0].tokens) != len(window.tokens)):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


class _Sample:
    """Rows at every hook point of so many tokens, drawn at random from all that come by: those of the smallest random keys.

    A token's key hangs on the seed and its place in the text alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0
        self._keys = np.zeros(0)
        self._from = np.zeros((0, 2), dtype=np.int64)  # document and stretch
        self._rows: dict[str, NDArray[np.floating]] = {}
        self._widths: dict[str, Width] = {}
        self._between: dict[str, tuple[str, str] | None] = {}

    @property
    def n(self) -> int:
        """Tokens that are held."""
        return len(self._keys)

    @property
    def documents(self) -> int:
        """Documents that they are from."""
        return len(np.unique(self._from[:, 0]))

    @property
    def stretches(self) -> int:
        """Stretches that they are from."""
        return len(np.unique(self._from[:, 1]))

    def take(self, streams: Mapping[str, PointStream], batch: list[_Window], seed: int) -> None:
        """Take the rows of a forward pass out of the streams, and keep those that belong to the sample."""
        came = {key: stream.withdraw() for key, stream in streams.items()}
        self._between = {key: stream.between for key, stream in streams.items()}
        _, places, _ = next(iter(came.values()))
        if not len(places):
            return
        per_window = np.bincount(places.sequence, minlength=len(batch))
        new = [
            np.random.default_rng([seed, _TOKENS, window.stretch, window.number]).random(count)
            for window, count in zip(batch, per_window, strict=True)
        ]
        keys = np.concatenate([self._keys, *new])
        origins = np.array([(window.document, window.stretch) for window in batch])[places.sequence]
        origins = np.concatenate([self._from, origins])
        self.seen += len(places)
        if not self._rows:
            self._make_room(came)
        chosen = np.arange(len(keys)) if len(keys) <= self.size else np.argpartition(keys, self.size - 1)[: self.size]
        stay, enter = chosen[chosen < self.n], chosen[chosen >= self.n]
        into = np.setdiff1d(np.arange(len(chosen)), stay)  # the places of those that leave, and those behind them
        for key, (rows, _, _) in came.items():
            self._rows[key][into] = rows[enter - self.n]
        held = np.zeros(len(chosen), dtype=np.intp)
        held[stay], held[into] = stay, enter
        self._keys, self._from = keys[held], origins[held]

    def _make_room(self, came: Mapping[str, tuple[NDArray[np.floating], Places, Width]]) -> None:
        kept = sum(self.size * rows.shape[1] * rows.itemsize for rows, _, _ in came.values())
        fitting = max(PointStream.fitting_nbytes_for(self.size, rows.shape[1], rows.itemsize) for rows, _, _ in came.values())
        free = free_memory()
        if kept + fitting > free:
            raise MemoryRefusedError(
                f"calibrating on {self.size:,} tokens at {several(len(came), 'hook point')} takes {in_bytes(kept + fitting)}, "
                f"and {in_bytes(free)} are free: calibrate on fewer tokens (calibration_tokens of the probe) or at fewer hook "
                "points."
            )
        for key, (rows, _, width) in came.items():
            self._rows[key] = np.empty((self.size, rows.shape[1]), dtype=rows.dtype)
            self._widths[key] = width

    def fitted(self, probe: Probe) -> dict[str, Binning]:
        """Edges at every hook point; the rows are given up on the way."""
        order = np.argsort(self._keys)  # the order, too, is one of the seed alone
        documents = self._from[order, 0]
        return {
            key: fit_edges(probe, self._rows.pop(key)[order], self._widths[key], self._between[key], documents)
            for key in list(self._rows)
        }
