"""Where counted rows come from: their sequence, their position in it, their document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import MISSING

__all__ = ["Places"]

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Places:
    """Places of rows, each array of shape (rows,). Rows of one sequence stand together, in the order of their positions.

    Attributes
    ----------
    sequence : array of int64
        Which row of a batch, or window of a text: neighbours in it are neighbours in the text.
    position : array of int64
        Where in the sequence; tokens that were left out leave gaps.
    document : array of int64
        Sequences of one document belong together; different documents are independent of each other.
    text : array of int64, optional
        Rows with one number go on where earlier rows with that number ended, as a generation does step by step; -1 where nothing
        goes on, which is the default.
    label : array of int64, optional
        A number of each token's own, for `TokenKeys.by` "label"; -1 is none, which is the default.
    """

    sequence: Index
    position: Index
    document: Index
    text: Index | None = None
    label: Index | None = None

    @classmethod
    def of_one_text(cls, n: int) -> Places:
        """n rows of one text, one after the other."""
        return cls(np.zeros(n, np.int64), np.arange(n, dtype=np.int64), np.zeros(n, np.int64))

    @classmethod
    def of_batch(
        cls,
        chosen: NDArray[np.integer],
        positions: int,
        documents: NDArray[np.integer],
        position: NDArray[np.integer] | None = None,
        texts: NDArray[np.integer] | None = None,
        labels: NDArray[np.integer] | None = None,
    ) -> Places:
        """Those of a batch of sequences that were chosen.

        Parameters
        ----------
        chosen : array, shape (rows,)
            Ascending indices into the flattened batch.
        positions : int
            Positions of each sequence.
        documents : array, shape (sequences,)
        position : array, shape (rows,), optional
            Where each chosen one stands, if not at its place in the batch: behind padding, or behind cached tokens.
        texts : array, shape (sequences,), optional
            Of sequences that go on.
        labels : array, shape (sequences, positions), optional
            Of all tokens of the batch.

        Examples
        --------
        >>> import numpy as np
        >>> places = Places.of_batch(np.array([1, 2, 5]), 3, np.array([7, 8]))
        >>> places.sequence, places.position, places.document
        (array([0, 0, 1]), array([1, 2, 2]), array([7, 7, 8]))
        """
        sequence, column = np.divmod(chosen.astype(np.int64), max(positions, 1))
        where = column if position is None else np.asarray(position, dtype=np.int64)
        text = None if texts is None else np.asarray(texts, dtype=np.int64)[sequence]
        label = None if labels is None else np.asarray(labels, dtype=np.int64).reshape(-1)[chosen]
        return cls(sequence, where, np.asarray(documents, dtype=np.int64)[sequence], text, label)

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Places:
        """Several, one after the other; their sequences stay apart."""
        sequences, above = [np.zeros(0, np.int64)], 0
        for part in parts:
            sequences.append(part.sequence + above)
            above += int(part.sequence.max(initial=-1)) + 1
        empty = np.zeros(0, np.int64)
        return cls(
            np.concatenate(sequences),
            np.concatenate([empty, *(part.position for part in parts)]),
            np.concatenate([empty, *(part.document for part in parts)]),
            np.concatenate([empty, *(part.texts for part in parts)]),
            None if all(part.label is None for part in parts) else np.concatenate([part.labels for part in parts]),
        )

    @property
    def texts(self) -> Index:
        """`text`, spelled out."""
        return np.full(len(self), -1, dtype=np.int64) if self.text is None else self.text

    @property
    def labels(self) -> Index:
        """`label`, spelled out."""
        return np.full(len(self), -1, dtype=np.int64) if self.label is None else self.label

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, which: slice) -> Places:
        label = None if self.label is None else self.label[which]
        return Places(self.sequence[which], self.position[which], self.document[which], self.texts[which], label)

    def starts(self) -> NDArray[np.intp]:
        """Index of the first row of each sequence."""
        return np.flatnonzero(np.diff(self.sequence, prepend=-1))

    def spread_out(self, codes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Index]:
        """Codes with every token between the first and the last of a sequence in its place: those left out are missing.

        Returns
        -------
        codes : array, shape (tokens, variables), uint8
        lengths : array, shape (sequences,)

        Examples
        --------
        >>> import numpy as np
        >>> places = Places.of_batch(np.array([0, 2, 4, 5]), 3, np.array([0, 1]))
        >>> codes, lengths = places.spread_out(np.array([[1], [2], [3], [4]], dtype=np.uint8))
        >>> codes.ravel(), lengths
        (array([  1, 255,   2,   3,   4], dtype=uint8), array([3, 2]))
        """
        where, lengths = self.spread()
        wide = np.full((int(lengths.sum()), codes.shape[1]), MISSING, dtype=np.uint8)
        wide[where] = codes
        return wide, lengths

    def spread(self) -> tuple[Index, Index]:
        """Where `spread_out` puts each row, shape (rows,), and the lengths."""
        if not len(self):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        starts = self.starts()
        ends = np.append(starts[1:], len(self)) - 1
        lengths = self.position[ends] - self.position[starts] + 1
        offsets = np.cumsum(lengths) - lengths
        which = np.cumsum(np.diff(self.sequence, prepend=self.sequence[0]) != 0)
        return offsets[which] + self.position - self.position[starts][which], lengths
