"""Codes of forward passes that all processes of a run are yet to have, where the tables of pairs are divided among them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["Outbox"]

Codes = NDArray[np.uint8]


class Outbox:
    """What a probe has seen since the processes last exchanged codes.

    Examples
    --------
    >>> outbox = Outbox()
    >>> outbox.put({"layer 0": np.zeros((3, 2), dtype=np.uint8)}, np.array([7, 7, 8]))
    >>> outbox.rows, outbox.documents(), outbox.codes("layer 0").shape
    (3, array([7, 7, 8]), (3, 2))
    >>> outbox.clear()
    >>> outbox.rows
    0
    """

    def __init__(self) -> None:
        self._passes: list[tuple[dict[str, Codes], NDArray[np.int64]]] = []

    @property
    def rows(self) -> int:
        """Tokens that wait; each has codes at every hook point."""
        return sum(len(documents) for _, documents in self._passes)

    def put(self, codes: Mapping[str, Codes], documents: NDArray[np.int64]) -> None:
        """Add a forward pass, whole.

        Parameters
        ----------
        codes : mapping of hook point -> array, shape (tokens, variables), uint8
        documents : array, shape (tokens,), int64
        """
        if len(documents):
            self._passes.append((dict(codes), documents))

    def documents(self) -> NDArray[np.int64]:
        """Which document each token is from, shape (tokens,)."""
        return np.concatenate([documents for _, documents in self._passes] or [np.zeros(0, dtype=np.int64)])

    def codes(self, point: str) -> Codes:
        """The codes of one hook point, shape (tokens, variables); there must be some."""
        of_passes = [codes[point] for codes, _ in self._passes]
        return np.ascontiguousarray(of_passes[0] if len(of_passes) == 1 else np.concatenate(of_passes))

    def clear(self) -> None:
        """All processes have it."""
        self._passes.clear()
