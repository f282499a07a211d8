"""Where texts come from: strings and files, tables and streams of the datasets library, in an order that can be gone back to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mi_probe.corpus import Document, Texts, documents
from mi_probe.errors import InputError, nearest

__all__ = ["Corpus", "as_corpus", "open_corpus"]

_TABLES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_ROWS = 256  # rows of a table that are read together
_LOOKED_AT = 1000  # rows of a table by which it is recognised
_SHUFFLED = 10_000  # documents of a stream that are shuffled together


class Corpus:
    """Documents in a fixed order: what `open_corpus` gives, and what `accumulate` makes of anything that it takes.

    Parameters
    ----------
    name : str
        For people.
    read : callable
        Takes the number of a document and gives those from there on.
    source : callable
        Gives what the corpus is recognised by, a hex number; empty if nothing is known of it before it is read.
    order : str
        ``"as it comes"`` or how it was shuffled.
    rereadable : bool
        Whether it can be read twice at no great cost.
    nbytes : int, optional
        Size of the text, for the time that is left.
    shuffle : callable, optional
        Takes a seed and gives the corpus in another order.

    Examples
    --------
    >>> corpus = open_corpus(text="a cup of coffee")
    >>> [document.source for document in corpus.documents()], corpus.order
    (['a cup of coffee'], 'as it comes')
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], Iterator[Document]],
        source: Callable[[], str],
        *,
        order: str = "as it comes",
        rereadable: bool = True,
        nbytes: int | None = None,
        shuffle: Callable[[int], Corpus] | None = None,
    ) -> None:
        self.name = name
        self.order = order
        self.rereadable = rereadable
        self.nbytes = nbytes
        self._read = read
        self._source = source
        self._known: str | None = None
        self._shuffle = shuffle

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, {self.order})"

    def documents(self, first: int = 0) -> Iterator[Document]:
        """The documents in order, from the one of this number."""
        return self._read(first)

    @property
    def source(self) -> str:
        """What the corpus is recognised by, whatever its order: a hash of its texts or, of a table, of some of its rows.

        Of a stream from the hub, its name. Empty for an iterator, or a stream that was handed over: nothing is known of those
        before they are read.
        """
        if self._known is None:
            self._known = self._source()
        return self._known

    def shuffled(self, seed: int) -> Corpus:
        """The same documents in a random order, the same for the same seed.

        Raises
        ------
        InputError
            The texts come one by one, from an iterator.

        Examples
        --------
        >>> [d.source for d in as_corpus(["one", "two", "three"]).shuffled(0).documents()]
        ['three', 'one', 'two']
        """
        if self._shuffle is None:
            raise InputError(f"{self.name} cannot be shuffled: its texts come one by one. Give a list, files, or a dataset.")
        return self._shuffle(seed)


def as_corpus(texts: Texts | Corpus | Any, *, text_column: str = "text") -> Corpus:
    """Anything that holds texts as a corpus: strings, documents, an iterable of them, or a dataset of the datasets library.

    Raises
    ------
    InputError
        It holds no texts, or the dataset has no such column.

    Examples
    --------
    >>> as_corpus("a cup of coffee")
    Corpus('text', as it comes)
    """
    if isinstance(texts, Corpus):
        return texts
    if isinstance(texts, Path):
        raise InputError(f"{texts} is a path: name it as mi_probe.open_corpus(text_file={str(texts)!r}).")
    library = sys.modules.get("datasets")  # nobody has a dataset without having imported it
    if library is not None and isinstance(texts, library.Dataset):
        return _of_table(texts, "dataset", text_column)
    if library is not None and isinstance(texts, library.IterableDataset):
        return _of_stream(texts, "dataset", text_column)
    if library is not None and isinstance(texts, library.DatasetDict | library.IterableDatasetDict):
        raise InputError(f"this dataset has splits: choose one, such as dataset[{next(iter(texts))!r}].")
    if isinstance(texts, str | Document):
        return _of_list([_as_document(texts)])
    if isinstance(texts, Sequence) and not isinstance(texts, bytes):
        return _of_list([_as_document(text) for text in texts])
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | bytes):
        raise InputError(f"texts must be strings, documents, an iterable of them, or a dataset; got {type(texts).__name__}.")
    return Corpus("texts", _OneByOne(texts), lambda: "", rereadable=False)


def open_corpus(
    *,
    text: str | None = None,
    text_file: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    dataset: str | None = None,
    config: str | None = None,
    split: str = "train",
    text_column: str = "text",
    streaming: bool = False,
) -> Corpus:
    """A corpus by name: a text, files and folders, or a dataset.

    Parameters
    ----------
    text : str, optional
    text_file : paths
        Text files, each a document; files of a table with a text in each row (``.jsonl``, ``.json``, ``.parquet``), of one kind;
        folders of either; or ``-`` for standard input. The bundled passage, if no text or dataset is named.
    dataset : str, optional
        A dataset of the Hugging Face hub, or a folder that `datasets.load_dataset` reads.
    config, split : str
        Its configuration, and which part of it.
    text_column : str
        The column of a table or dataset that holds the texts.
    streaming : bool
        Read a table or dataset as it comes, instead of having it converted (and, from the hub, downloaded) first: it starts at
        once and takes no space on disk. It is shuffled among 10,000 documents at a time only, and to go on in its middle it has
        to be read up to there.

    Raises
    ------
    InputError
        A file, dataset, split or column that is not there, or more than one of text, files and dataset.

    Examples
    --------
    >>> open_corpus(text="a cup of coffee").name
    'text'
    """
    paths = [text_file] if isinstance(text_file, str | os.PathLike) else list(text_file)
    if dataset is not None:
        if text is not None or paths:
            raise InputError("give a dataset, or a text, or text files: one of them.")
        return _named(dataset, config, split, text_column, streaming, name=" ".join(filter(None, (dataset, config, split))))
    if config is not None:
        raise InputError(f"a configuration, {config}, belongs to a dataset: name one.")
    tables = _tables(paths)
    if not tables:
        if streaming:
            raise InputError("streaming is for datasets and tables; text files are always read as they come.")
        return _of_list(documents(text=text, text_file=paths))
    kinds = {_TABLES[path.suffix] for path in tables}
    if text is not None or len(kinds) > 1 or len(tables) < len(_files(paths)):
        raise InputError("give files of one kind: text, or JSON lines, or Parquet.")
    files = [str(path) for path in tables]
    name = ", ".join(path.name for path in tables[:3]) + (f" and {len(tables) - 3:,} more" if len(tables) > 3 else "")
    return _named(kinds.pop(), None, split, text_column, streaming, name=name, files=files)


def _files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that paths name: those of a folder that hold texts."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.iterdir() if p.suffix in {".txt", *_TABLES}) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"there is no .txt, {', '.join(_TABLES)} file in the folder {path}.")
        found += inside
    return found


def _tables(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    tables = [path for path in _files(paths) if path.suffix in _TABLES]
    for path in tables:
        if not path.is_file():
            raise InputError(f"there is no file or folder {path}.")
    return tables


# -- lists -----------------------------------------------------------------------------------------------------------


def _as_document(text: Any) -> Document:
    if isinstance(text, str):
        return Document("text", text)
    if not isinstance(text, Document):
        raise InputError(f"texts must be strings or documents; got {type(text).__name__}.")
    return text


def _of_list(texts: Sequence[Document], order: str = "as it comes", source: Callable[[], str] | None = None) -> Corpus:
    """Texts that are there, in memory or as files."""

    def read(first: int) -> Iterator[Document]:
        return iter(texts[first:])

    known = source or (lambda: _hash_of(texts))

    def shuffle(seed: int) -> Corpus:
        turn = np.random.default_rng(seed).permutation(len(texts))
        return _of_list([texts[k] for k in turn], f"shuffled, seed {seed}", known)

    nbytes = sum(text.nbytes for text in texts)
    return Corpus(_name_of(texts), read, known, order=order, nbytes=nbytes, shuffle=shuffle)


def _name_of(texts: Sequence[Document]) -> str:
    names = sorted({text.name for text in texts})  # in whatever order the texts are
    if len(texts) > 1 and len(names) == 1:
        return f"{len(texts):,} texts"
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _hash_of(texts: Sequence[Document]) -> str:
    """A hash of all texts; of the sizes first, so that no two lists run together."""
    state = xxhash.xxh3_128()
    for text in texts:
        if isinstance(text.source, str):
            content = text.source.encode(errors="surrogatepass")
            state.update(b"%d " % len(content))
            state.update(content)
            continue
        try:
            state.update(b"%d " % text.nbytes)
            with text.source.open("rb") as file:
                while part := file.read(1 << 20):
                    state.update(part)
        except OSError as error:
            raise InputError(f"cannot read {text.source}: {error}") from error
    return state.hexdigest()


class _OneByOne:
    """Texts of an iterable; an iterator can be read once."""

    def __init__(self, texts: Iterable[Document | str]) -> None:
        self._texts = texts
        self._read = False

    def __call__(self, first: int) -> Iterator[Document]:
        if self._read and iter(self._texts) is self._texts:
            raise InputError("these texts come from an iterator, which was read already: give a list, or a new iterator.")
        self._read = True
        return (_as_document(text) for number, text in enumerate(self._texts) if number >= first)


# -- the datasets library --------------------------------------------------------------------------------------------


def _named(
    dataset: str,
    config: str | None,
    split: str,
    text_column: str,
    streaming: bool,
    *,
    name: str,
    files: list[str] | None = None,
) -> Corpus:
    """What `datasets.load_dataset` gives."""
    import datasets

    folder = Path(dataset)
    if files is None and not folder.is_dir() and (dataset.startswith((".", "/", "~")) or folder.exists()):
        raise InputError(f"there is no folder {dataset}; a file is named by text_file.")
    bars = datasets.is_progress_bar_enabled()
    try:
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        where = None if files is None else {"train": files}
        loaded = datasets.load_dataset(dataset, config, split=split, data_files=where, streaming=streaming)
    except Exception as error:  # of the library, the hub, a file format
        raise InputError(
            f"{'the dataset ' if files is None else ''}{name} could not be loaded: {_reason(error)}"
            + (
                "\nWithout a connection to the hub, name files instead: --text-file my_texts.jsonl (or .parquet, .txt, a folder)."
                if files is None and not folder.is_dir()
                else ""
            )
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    facts = [dataset, config, split, text_column]
    if files is not None:
        facts = [_hash_of([Document(path, Path(path)) for path in files]), split, text_column]
    elif not streaming:
        return _of_table(loaded, name, text_column)
    source = xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())
    return (_of_stream if streaming else _of_table)(loaded, name, text_column, source=source)


def _reason(error: BaseException) -> str:
    """The first line of what an error of the library says, and of what was behind it."""
    said = []
    behind: BaseException | None = error
    while behind is not None:
        line = next(iter(str(behind).strip().splitlines()), "")
        said.append(f"{type(behind).__name__}: {line}" if line else type(behind).__name__)
        behind = behind.__cause__
    return "; from ".join(dict.fromkeys(said))


def _require_texts(features: Any, columns: Sequence[str] | None, text_column: str, name: str) -> None:
    """Raise unless the column is there and, as far as it says, holds strings."""
    _require_column(columns, text_column, name)
    kinds = {} if features is None else {column: getattr(kind, "dtype", kind) for column, kind in features.items()}
    texts = [column for column, kind in kinds.items() if kind in ("string", "large_string")]
    if text_column in kinds and text_column not in texts and kinds[text_column] != "null":
        others = f"; its columns of texts are {', '.join(texts)}: say which with text_column (--text-column)" if texts else ""
        raise InputError(f"column '{text_column}' of {name} holds {kinds[text_column]}, not texts{others}.")


def _require_column(columns: Sequence[str] | None, text_column: str, name: str) -> None:
    if columns is not None and text_column not in columns:
        raise InputError(
            f"{name} has no column '{text_column}'{nearest(text_column, columns)}; it has {', '.join(columns)}: say which with "
            "text_column (--text-column)."
        )


def _document_of(text: Any, number: int, name: str, text_column: str) -> Document:
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise InputError(f"row {number:,} of {name} has {type(text).__name__} in column '{text_column}', not a text.")
    return Document(f"{name}, row {number:,}", text)


def _of_table(table: Any, name: str, text_column: str, *, order: str = "as it comes", source: str = "") -> Corpus:
    """A `datasets.Dataset`: rows can be read in any order."""
    _require_texts(table.features, table.column_names, text_column, name)
    column = table.select_columns([text_column]).with_format(None)  # nothing else is decoded

    def read(first: int) -> Iterator[Document]:
        for start in range(first, len(column), _ROWS):
            for k, text in enumerate(column[start : start + _ROWS][text_column]):
                yield _document_of(text, start + k, name, text_column)

    def known() -> str:
        if source:
            return source
        rows = np.unique(np.linspace(0, len(column) - 1, min(_LOOKED_AT, len(column))).astype(int))
        texts = column[rows.tolist()][text_column] if len(column) else []
        return xxhash.xxh3_128_hexdigest(json.dumps([len(column), text_column, texts]).encode())

    def shuffle(seed: int) -> Corpus:
        return _of_table(table.shuffle(seed=seed), name, text_column, order=f"shuffled, seed {seed}", source=known())

    nbytes = table.data.nbytes if table.column_names == [text_column] else None
    return Corpus(name, read, known, order=order, nbytes=nbytes, shuffle=shuffle)


def _of_stream(stream: Any, name: str, text_column: str, *, order: str = "as it comes", source: str = "") -> Corpus:
    """A `datasets.IterableDataset`: rows come in order."""
    _require_texts(stream.features, stream.column_names, text_column, name)

    def read(first: int) -> Iterator[Document]:
        for number, row in enumerate(_rows(stream.skip(first) if first else stream, first, name), first):
            if text_column not in row:
                _require_column(list(row), text_column, name)
            yield _document_of(row[text_column], number, name, text_column)

    def shuffle(seed: int) -> Corpus:
        mixed = stream.shuffle(seed=seed, buffer_size=_SHUFFLED)
        return _of_stream(mixed, name, text_column, source=source, order=f"shuffled among {_SHUFFLED:,}, seed {seed}")

    return Corpus(name, read, lambda: source, order=order, rereadable=False, shuffle=shuffle)


def _rows(stream: Any, first: int, name: str) -> Iterator[Any]:
    """The rows of a stream, whose errors say where they were."""
    rows = iter(stream)
    number = first
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # of the library, the hub, a file format
            raise InputError(f"{name} could not be read further than row {number:,}: {_reason(error)}") from error
        yield row
        number += 1
