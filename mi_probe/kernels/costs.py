"""What each way of counting costs, for the choice between them: models with constants that a benchmark fits.

Nanoseconds of one thread, fitted by benchmarks/calibrate.py, which writes docs/measured/counting.md; on another machine all of
them are larger or smaller, and their ratios, which decide, about the same.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "LAGS_BY_PLANES",
    "LAGS_BY_TOKENS",
    "LISTED_BY_PLANES",
    "LISTED_BY_SCATTER",
    "PLANES",
    "SCATTER",
    "WORD",
    "Cost",
]

WORD = 64


class Cost(NamedTuple):
    """fixed + samples * each + cells * (cell + words * word), words of 64 samples; for one pair, or one variable and lag.

    Examples
    --------
    >>> Cost(fixed=1, sample=2, cell=3, word=4).of(samples=65, bins=2)
    175.0
    """

    fixed: float
    sample: float
    cell: float
    word: float

    def of(self, samples: int, bins: int) -> float:
        """Nanoseconds."""
        words = -(-samples // WORD)
        return float(self.fixed + samples * self.sample + bins * bins * (self.cell + words * self.word))


SCATTER = Cost(fixed=0.0, sample=0.51, cell=0.17, word=0.0)
PLANES = Cost(fixed=9.4, sample=0.0, cell=0.45, word=0.027)
LISTED_BY_SCATTER = Cost(fixed=9.6, sample=0.31, cell=0.2, word=0.0)
LISTED_BY_PLANES = Cost(fixed=4.3, sample=0.0, cell=0.67, word=0.067)
LAGS_BY_TOKENS = Cost(fixed=0.0, sample=1.0, cell=0.32, word=0.0)
LAGS_BY_PLANES = Cost(fixed=0.0, sample=0.0, cell=1.0, word=0.1)
