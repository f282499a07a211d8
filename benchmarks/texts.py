"""Corpora to measure on: files that are there, or documents made of the bundled passage's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import mi_probe

__all__ = ["LETTERS_A_TOKEN", "documents", "files"]

LETTERS_A_TOKEN = 3.8  # of `documents` and the bundled tokenizer, measured
_LONGEST = 6000  # words of a document


def documents(letters: int, seed: int = 0) -> Iterator[str]:
    """Documents of very unequal lengths, paragraphs of shuffled words, of so many letters together; the same for the same seed.

    A document at a time is made: they are no more in memory than those of a stream.
    """
    rng = np.random.default_rng(seed)
    words = np.array(mi_probe.sample_text().split())
    while letters > 0:
        size = int(min(_LONGEST, 30 / rng.random()))  # half of them have 60 words at most
        drawn = rng.choice(words, size)
        ends = np.flatnonzero(rng.random(size) < 0.01)
        text = "\n".join(" ".join(part) for part in np.split(drawn, ends) if len(part))
        yield text[:letters]
        letters -= len(text)


def files(paths: list[Path]) -> list[Path]:
    """Text files, those of folders among them, in order of their names."""
    return [file for path in paths for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
