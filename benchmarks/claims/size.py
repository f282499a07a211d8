"""How much is measured, and on what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Size", "dependent"]


@dataclass(frozen=True)
class Size:
    """Sizes of all claims; tests use small ones.

    Attributes
    ----------
    variables : int
        As many as GPT-2 small has dimensions.
    short, long : int
        Samples of one text, and of a corpus' buffer.
    some, few : int
        Variables among which the pairs are taken that a slow, and a very slow, peer is timed on.
    targets : tuple of int
        Variables that scikit-learn is timed on, as targets of a regression.
    middle : tuple of int
        Samples and variables of the second nearest-neighbour row.
    tokens, texts : int
        Tokens of each text of which the pairs are counted, and how many texts.
    """

    variables: int = 768
    short: int = 94
    long: int = 4096
    some: int = 40
    few: int = 10
    targets: tuple[int, ...] = (255, 511)
    middle: tuple[int, int] = (1000, 96)
    tokens: int = 112
    texts: int = 4

    @property
    def pairs(self) -> int:
        """All pairs of the variables."""
        return self.variables * (self.variables - 1) // 2

    def part(self, variables: int) -> tuple[float, str]:
        """The share of the pairs that lie among the first variables, and that in words."""
        pairs = variables * (variables - 1) // 2
        return pairs / self.pairs, f"{pairs:,} of {self.pairs:,} pairs timed, scaled"


def dependent(samples: int, variables: int, dtype: type[np.floating] = np.float32) -> NDArray[np.floating]:
    """Values of which some pairs share much and others little: each follows one of four hidden causes, closely or less so."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((samples, 4))
    closeness = rng.uniform(0.7, 0.98, variables)
    x = closeness * causes[:, np.arange(variables) % 4] + np.sqrt(1 - closeness**2) * rng.standard_normal((samples, variables))
    return np.ascontiguousarray(x, dtype=dtype)
