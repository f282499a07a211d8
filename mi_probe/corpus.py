"""Texts to batches of tokens: documents, blocks of text that are the unit of work, windows of the model's context."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mi_probe.errors import InputError, MIProbeWarning

if TYPE_CHECKING:
    import torch

__all__ = [
    "Block",
    "Document",
    "Emptiness",
    "Piece",
    "Place",
    "Window",
    "batches",
    "blocks",
    "documents",
    "packed",
    "sample_text",
    "sample_texts",
    "windows",
    "windows_of",
]

_READ = 1 << 20  # characters read at a time
_PIECE = 1 << 16  # a document is cut where it gets longer than twice that: memory stays flat, and its parts can be shared out
_BLOCK = 1 << 17  # characters that are worked on together
# Where a tokenizer that was given the two sides one by one gives what it gives for the whole: a line end between two lines of
# text, or else in front of a blank between two words.
_SAFE = re.compile(r"(?<=\S\n)(?=\S)"), re.compile(r"(?<=\S)(?= \S)")


@dataclass(frozen=True)
class Document:
    """A text under a name; `pieces` gives its characters in order, a part at a time."""

    name: str
    source: str | Path

    @property
    def nbytes(self) -> int:
        """Size of the text; it has no more tokens than that."""
        if isinstance(self.source, str):
            return len(self.source.encode(errors="replace"))
        try:
            return self.source.stat().st_size
        except OSError as error:
            raise InputError(f"cannot read {self.source} as UTF-8 text: {error}") from error

    def pieces(self) -> Iterator[str]:
        """The text in parts, each of which is tokenised and cut into windows on its own; at least one, which may be empty.

        They end at a line end or a blank, so that the tokens are those of the whole. Where they end depends on the text alone.
        """
        rest = ""
        some = False
        for characters in self._read():
            rest += characters
            start = 0
            while len(rest) - start >= 2 * _PIECE:
                end = _cut(rest, start)
                yield rest[start:end]
                start, some = end, True
            rest = rest[start:]
        if rest or not some:
            yield rest

    def _read(self) -> Iterator[str]:
        if isinstance(self.source, str):
            yield self.source
            return
        try:
            with self.source.open(encoding="utf-8") as file:
                while characters := file.read(_READ):
                    yield characters
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {self.source} as UTF-8 text: {error}") from error


def _cut(text: str, start: int) -> int:
    """Where the piece that begins at `start` ends; the text goes on for two pieces."""
    for safe in _SAFE:
        found = safe.search(text, start + _PIECE, start + 2 * _PIECE)
        if found:
            return found.start()
    return start + _PIECE


class _Documents(Protocol):
    """What has documents in a fixed order, from the first one asked for."""

    def documents(self, first: int = 0) -> Iterator[Document]: ...


Texts = str | Document | Iterable[Document | str] | _Documents


def sample_text() -> str:
    """The bundled passage about Turkish coffee: 94 tokens of GPT-2.

    Examples
    --------
    >>> sample_text().count("coffee") >= 7
    True
    """
    return _bundled("turkish_coffee.txt")


def sample_texts() -> list[Document]:
    """The bundled passages on 32 unrelated subjects, of 90 to 130 words: each fits into the context of the bundled model.

    None of them is about coffee, so that their tokens are unrelated to those of `sample_text` and to each other's.

    Returns
    -------
    list of Document
        Named by their titles, which are not part of the texts.

    Examples
    --------
    >>> [document.name for document in sample_texts()[:3]]
    ['The old bridge', 'What a bee carries home', 'Field report on the northern glacier']
    """
    passages = (passage.partition("\n") for passage in _bundled("passages.txt").split("\n\n"))
    return [Document(title, " ".join(text.split())) for title, _, text in passages]


def _bundled(name: str) -> str:
    return (Path(__file__).resolve().parent / "data" / name).read_text(encoding="utf-8").strip()


def documents(
    *, text: str | None = None, text_file: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = ()
) -> list[Document]:
    """The texts that a user names: a string, files, folders (their ``*.txt``, sorted), ``-`` for standard input.

    Parameters
    ----------
    text : str, optional
    text_file : paths, optional
        The bundled passage, if neither is given.

    Raises
    ------
    InputError
        A file that does not exist, a folder without text files, or both a text and a file.

    Examples
    --------
    >>> [d.name for d in documents()]
    ['turkish_coffee']
    """
    paths = [text_file] if isinstance(text_file, str | os.PathLike) else list(text_file)
    if text is not None and paths:
        raise InputError("give either a text or text files, not both.")
    if text is not None:
        return [Document("text", text)]
    if not paths:
        return [Document("turkish_coffee", sample_text())]
    found = []
    for name in paths:
        path = Path(name)
        if str(name) in ("-", "/dev/stdin"):
            found.append(Document("standard input", sys.stdin.read()))
        elif path.is_dir():
            inside = sorted(path.glob("*.txt"))
            if not inside:
                raise InputError(f"there is no .txt file in the folder {path}.")
            found += [Document(p.name, p) for p in inside]
        elif path.is_file():
            found.append(Document(path.name, path))
        else:
            raise InputError(f"there is no file or folder {path}.")
    return found


class Place(NamedTuple):
    """A place in a corpus: a document, and a piece of it, from 0."""

    document: int = 0
    piece: int = 0


class Piece(NamedTuple):
    """A part of a document: tokenised, and cut into windows, on its own."""

    document: int
    number: int
    text: str
    name: str


class Block(NamedTuple):
    """Consecutive pieces of a corpus, about 130,000 characters.

    Which pieces a block holds depends on the corpus alone, and its batches on the block: whoever runs it, they are the same.
    """

    number: int
    start: Place
    pieces: list[Piece]

    @property
    def characters(self) -> int:
        """Characters of its text."""
        return sum(len(piece.text) for piece in self.pieces)


def blocks(texts: Texts, *, number: int = 0, start: Place | None = None) -> Iterator[Block]:
    """The blocks of a corpus in order, from the one of this number, which starts at this place.

    Examples
    --------
    >>> [block.number for block in blocks(["one", "two"])]
    [0]
    """
    first = start or Place()
    pieces: list[Piece] = []
    size = 0
    for document, found in enumerate(_documents(texts, first.document), first.document):
        for k, text in enumerate(found.pieces()):
            place = Place(document, k)
            if place < first:
                continue
            pieces.append(Piece(document, k, text, found.name))
            size += len(text)
            if size >= _BLOCK:
                yield Block(number, Place(pieces[0].document, pieces[0].number), pieces)
                number, pieces, size = number + 1, [], 0
    if pieces:
        yield Block(number, Place(pieces[0].document, pieces[0].number), pieces)


def _documents(texts: Texts, first: int = 0) -> Iterator[Document]:
    if isinstance(texts, Path):
        raise InputError(f"{texts} is a path: name it as mi_probe.documents(text_file={str(texts)!r}).")
    if isinstance(texts, str | Document):
        texts = [texts]
    elif not isinstance(texts, Iterable) or hasattr(texts, "documents"):
        yield from texts.documents(first)
        return
    for number, text in enumerate(texts):
        if number >= first:
            yield Document("text", text) if isinstance(text, str) else text


class Window(NamedTuple):
    """Consecutive tokens of a document that are run together."""

    document: int
    tokens: list[int]
    """With BOS in front, if the tokenizer has one."""
    size: int
    """Tokens of the text: all but BOS."""


def windows(block: Block, model: Any, *, most: int | None = None) -> list[Window]:
    """The windows of a block in the order of the text: each of its tokens stands in exactly one.

    Parameters
    ----------
    block : Block
    model : TransformerBridge or HookedTransformer
    most : int, optional
        Leave out what comes after so many tokens.

    Raises
    ------
    InputError
        The model has no tokenizer, or no room for a token beside BOS.
    """
    left = sys.maxsize if most is None else most
    found: list[Window] = []
    for piece, (front, parts) in zip(block.pieces, windows_of([piece.text for piece in block.pieces], model), strict=True):
        for part in parts:
            part = part[: max(left, 0)]
            left -= len(part)
            if part:
                found.append(Window(piece.document, front + part, len(part)))
    return found


def windows_of(texts: Sequence[str], model: Any) -> Iterator[tuple[list[int], list[list[int]]]]:
    """For each of some texts: what stands in front of a window, BOS if the tokenizer has one, and its tokens in windows.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> [[len(part) for part in parts] for _, parts in windows_of(["coffee " * 600, ""], model)]
    [[255, 255, 91], []]
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("this model has no tokenizer: run your own forward passes inside mi_probe.attach instead.")
    front = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    room = int(model.cfg.n_ctx) - len(front)
    if room < 1:
        raise InputError(f"this model's context of {model.cfg.n_ctx} tokens has no room beside BOS.")
    for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        yield front, [ids[k : k + room] for k in range(0, len(ids), room)]


def packed(found: list[Window], batch_size: int) -> Iterator[list[Window]]:
    """Windows in batches of equal length, the longest first: nothing is padded.

    The order of the windows does not depend on the batch size, so nor do edges that are fitted on the first of them.

    Examples
    --------
    >>> four = [Window(0, [0] * n, n) for n in (3, 5, 5, 5)]
    >>> [[window.size for window in batch] for batch in packed(four, 2)]
    [[5, 5], [5], [3]]
    """
    batch: list[Window] = []
    for window in sorted(found, key=lambda w: -len(w.tokens)):
        if batch and (len(batch) == batch_size or len(batch[0].tokens) != len(window.tokens)):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def batches(texts: Texts, model: Any, *, batch_size: int = 8) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Batches of token ids, shape (rows, positions), and the number of the document of each row.

    Warns
    -----
    MIProbeWarning
        A text without a token is left out.

    Raises
    ------
    InputError
        No text has a token.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> [tuple(b.shape) for b, _ in batches(["coffee " * 600], model)]  # "coffee" is one token, and so is the last space
    [(2, 256), (1, 92)]
    """
    import torch

    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}.")
    empty = Emptiness()
    for block in blocks(texts):
        found = windows(block, model)
        empty.look_at(block, found)
        for batch in packed(found, batch_size):
            yield torch.tensor([window.tokens for window in batch]), [window.document for window in batch]
    empty.say()


class Emptiness:
    """Which texts had no token."""

    def __init__(self) -> None:
        self.texts = 0
        self.tokens = 0
        self.names: list[str] = []
        """Of the first few."""

    def look_at(self, block: Block, found: list[Window]) -> int:
        """Note the documents of a block that have no token; how many these are."""
        self.tokens += sum(window.size for window in found)
        with_tokens = {window.document for window in found}
        none = [piece for piece in block.pieces if not piece.number and piece.document not in with_tokens and not piece.text]
        self.texts += len(none)
        self.names += [piece.name for piece in none[: 3 - len(self.names)]]
        return len(none)

    def say(self, shard: tuple[int, int] = (1, 1)) -> None:
        """Warn of them, and raise if there was no token at all."""
        names = ", ".join(f"'{name}'" for name in self.names)
        if self.texts == 1:
            warnings.warn(f"the text {names} is empty: left out.", MIProbeWarning, stacklevel=3)
        elif self.texts:
            more = ", ..." if self.texts > len(self.names) else ""
            warnings.warn(f"{self.texts:,} texts are empty ({names}{more}): left out.", MIProbeWarning, stacklevel=3)
        if not self.tokens and not self.texts and shard != (1, 1):
            raise InputError(
                f"shard {shard[0]}/{shard[1]} has no text: texts are dealt to shards in turn, about {_BLOCK:,} characters at a "
                "time, and there are not so many. Take fewer shards."
            )
        if not self.tokens:
            raise InputError("there is no token to measure: no text, or only empty ones, were given.")
