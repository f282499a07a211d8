"""Texts, files and folders to batches of tokens: windows of the model's context, no token cut off, none padded."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_probe.errors import InputError, MIProbeWarning

if TYPE_CHECKING:
    import torch

__all__ = ["Document", "batches", "documents", "sample_text"]

_PIECE = 1 << 20  # characters tokenised at a time, up to a line end: memory stays flat whatever the file's size


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
        """The text in parts that a tokenizer may be given one by one.

        They end at a line end between two lines of text: a run of white space stays whole.
        """
        if isinstance(self.source, str):
            yield self.source
            return
        try:
            with self.source.open(encoding="utf-8") as file:
                lines: list[str] = []
                size = 0
                for line in file:
                    if size >= _PIECE and not line[0].isspace() and not lines[-1][-2:-1].isspace() and len(lines[-1]) > 1:
                        yield "".join(lines)
                        lines, size = [], 0
                    lines.append(line)
                    size += len(line)
                if lines:
                    yield "".join(lines)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {self.source} as UTF-8 text: {error}") from error


def sample_text() -> str:
    """The bundled passage about Turkish coffee: 94 tokens of GPT-2.

    Examples
    --------
    >>> sample_text().count("coffee") >= 7
    True
    """
    path = Path(__file__).resolve().parent / "data" / "turkish_coffee.txt"
    return path.read_text(encoding="utf-8").strip()


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


def windows(document: Document, model: Any) -> Iterator[list[int]]:
    """Token ids of a document in windows of the model's context, each with BOS in front if the tokenizer has one.

    Consecutive windows hold consecutive tokens: each token of the text stands in exactly one window.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("this model has no tokenizer: run your own forward passes inside mi_probe.attach instead.")
    front = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    room = int(model.cfg.n_ctx) - len(front)
    if room < 1:
        raise InputError(f"this model's context of {model.cfg.n_ctx} tokens has no room beside BOS.")
    waiting: list[int] = []
    for piece in document.pieces():
        waiting += tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        while len(waiting) >= room:
            yield front + waiting[:room]
            del waiting[:room]
    if waiting:
        yield front + waiting


def batches(
    texts: str | Document | Iterable[Document | str], model: Any, *, batch_size: int = 8
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Batches of token ids, shape (rows, positions), in the order of the texts, and the number of the text of each row.

    Rows are packed only with neighbours of the same length, so nothing is padded, and the order of the tokens does not depend on
    the batch size: nor do the counts.

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

    if isinstance(texts, Path):
        raise InputError(f"{texts} is a path: name it as mi_probe.documents(text_file={str(texts)!r}).")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}.")
    rows: list[list[int]] = []
    numbers: list[int] = []
    nothing = True
    for number, text in enumerate([texts] if isinstance(texts, str | Document) else texts):
        document = Document("text", text) if isinstance(text, str) else text
        empty = True
        for window in windows(document, model):
            empty = nothing = False
            if rows and (len(rows) == batch_size or len(rows[0]) != len(window)):
                yield torch.tensor(rows), numbers
                rows, numbers = [], []
            rows.append(window)
            numbers.append(number)
        if empty:
            warnings.warn(f"the text '{document.name}' is empty: left out.", MIProbeWarning, stacklevel=2)
    if nothing:
        raise InputError("there is no token to measure: no text, or only empty ones, were given.")
    if rows:
        yield torch.tensor(rows), numbers
