"""Options that recipes and commands share: which texts, and how to run over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from mi_probe.errors import InputError

if TYPE_CHECKING:
    from mi_probe.corpus import Document
    from mi_probe.sources import Corpus

__all__ = ["Over", "Texts"]

_Several = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Texts:
    """Which texts to measure on.

    Parameters
    ----------
    text : str
        A text to measure on. Without any, a bundled passage about Turkish coffee.
    text_file : list
        Text files, tables with a text in each row (.jsonl, .json, .parquet), folders of either, or - for standard input; may be
        given several times.
    dataset : str
        A dataset of the Hugging Face hub, or a folder that the datasets library reads.
    config : str
        Configuration of the dataset.
    split : str
        Which part of the dataset.
    text_column : str
        Column of a table or dataset that holds the texts.
    streaming : bool
        Read a table or dataset as it comes, without downloading or converting it first.
    shuffle : bool
        Take the texts in a random order.
    seed : int
        For that order, and for the sample that edges are fitted on.

    Examples
    --------
    >>> Texts(text="a cup of coffee").corpus()
    Corpus('text', as it comes)
    """

    text: str | None = None
    text_file: _Several = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    text_column: str = "text"
    streaming: _Flag = False
    shuffle: _Flag = False
    seed: int = 0

    @property
    def named(self) -> bool:
        """Whether there are any, beside the bundled passage."""
        return self.text is not None or bool(self.text_file) or self.dataset is not None

    def corpus(self, otherwise: Sequence[Document] | None = None) -> Corpus:
        """The texts themselves.

        Parameters
        ----------
        otherwise : sequence of Document, optional
            What to take if none are named, in place of the bundled passage.

        Raises
        ------
        InputError
            A file, dataset, split or column that is not there, or more than one of text, files and dataset.
        """
        from mi_probe.sources import as_corpus, open_corpus

        if otherwise is not None and not self.named:
            corpus = as_corpus(otherwise)
            return corpus.shuffled(self.seed) if self.shuffle else corpus
        corpus = open_corpus(
            text=self.text,
            text_file=self.text_file or (),
            dataset=self.dataset,
            config=self.config,
            split=self.split,
            text_column=self.text_column,
            streaming=self.streaming,
        )
        return corpus.shuffled(self.seed) if self.shuffle else corpus

    def document(self) -> Document:
        """The one text that there is, for what is measured within a text.

        Raises
        ------
        InputError
            There are several, or none; or as for `corpus`.

        Examples
        --------
        >>> Texts().document().name
        'turkish_coffee'
        """
        corpus = self.corpus()
        first = list(islice(corpus.documents(), 2))
        if not first:
            raise InputError(f"{corpus.name} has no text.")
        if len(first) > 1:
            names = ", ".join(f"'{document.name}'" for document in first)
            raise InputError(
                f"this measures within one text, and there are several: {names} to begin with. Name one file with --text-file, "
                "or give --text."
            )
        return first[0]

    def words(self) -> list[str]:
        """The same options, to be typed again."""
        words = ["--text-file", *self.text_file] if self.text_file else []
        for name in ("text", "dataset", "config", "split", "text_column", "seed"):
            if getattr(self, name) != getattr(type(self), name):
                words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return words + [f"--{name}" for name in ("streaming", "shuffle") if getattr(self, name)]


@Parameter(name="*")
@dataclass(frozen=True)
class Over:
    """How to run over texts: how far, from which edges, how often to save.

    Parameters
    ----------
    max_tokens : int
        Stop after so many tokens of the text, BOS not among them.
    shard : str
        Count one part only, K/N: 2/8 is the second of eight. `mi-probe merge` adds them up, if they had the same edges.
    edges : Path
        Edges of bins, of `mi-probe calibrate`. Without, they are fitted on the texts themselves.
    calibration : str
        Where edges come from, if none are given: the head of the texts, or a random sample of all of them, read once for it.
        auto: a sample where there is more than a megabyte.
    checkpoint_tokens : int
        Save the counts every so many tokens; about every ten minutes by default.
    resume : bool
        Go on from the counts that are in the output folder, if there are any.
    split_by : str
        How several processes, started by torchrun, share the work: each counts all pairs of its share of the tokens; or its share
        of the pairs of all tokens, for tables that do not fit in one of them. The latter needs edges, or a sample to fit them on.
    batch_size : int
        Windows of text that run together; it changes the speed, not the counts.

    Examples
    --------
    >>> Over(shard="2/8").arguments()["shard"]
    (2, 8)
    """

    max_tokens: int | None = None
    shard: str | None = None
    edges: Path | None = None
    calibration: Literal["auto", "head", "sample"] = "auto"
    checkpoint_tokens: int | None = None
    resume: _Flag = False
    split_by: Literal["tokens", "pairs"] = "tokens"
    batch_size: int = 8

    def arguments(self) -> dict[str, Any]:
        """What `mi_probe.accumulate` takes.

        Raises
        ------
        InputError
            The shard is not K/N.
        StoreError
            The edges cannot be read.
        """
        from mi_probe.edges import Edges

        return {
            "max_tokens": self.max_tokens,
            "shard": _shard(self.shard),
            "edges": None if self.edges is None else Edges.load(self.edges),
            "calibration": self.calibration,
            "checkpoint_tokens": self.checkpoint_tokens,
            "resume": self.resume,
            "split_by": self.split_by,
            "batch_size": self.batch_size,
        }


def _shard(words: str | None) -> tuple[int, int]:
    if words is None:
        return 1, 1
    k, _, n = words.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise InputError(f"--shard must be K/N with 1 <= K <= N, such as 2/8 for the second of eight; got {words}.")
    return int(k), int(n)
