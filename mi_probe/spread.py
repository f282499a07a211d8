"""Whether the plain histogram's shift is the same for all pairs: the chance level, how it varies, and what that does to ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_probe.units import Units, per_nat

__all__ = ["ChanceSpread"]


@dataclass(frozen=True)
class ChanceSpread:
    """How the chance level varies over pairs; ``print`` it.

    Attributes
    ----------
    mean, low, high : float, nats
        Mean of the chance level, and the ends of the middle 90 % of the pairs.
    least, most : tuples of (i, j, chance)
        The pairs that a plain histogram shifts least and most.
    rank_correlation : float
        Spearman's, between the plain values and the same less each pair's chance level: 1 if reading only relative values were
        harmless. NaN where either does not vary.
    """

    mean: float
    low: float
    high: float
    least: tuple[tuple[str, str, float], ...]
    most: tuple[tuple[str, str, float], ...]
    rank_correlation: float

    @classmethod
    def of(
        cls,
        raw: NDArray[np.float64],
        chance: NDArray[np.float64],
        names: Sequence[str],
        *,
        k: int = 3,
        pairs: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    ) -> ChanceSpread:
        """From the plain values and chance levels of all pairs, each of shape (pairs,), and the names of the variables.

        `pairs` are the positions of the two variables of each pair, where these are not all pairs.

        Examples
        --------
        >>> import numpy as np
        >>> raw, chance = np.array([0.5, 0.8, 0.9]), np.array([0.2, 0.7, 0.7])
        >>> spread = ChanceSpread.of(raw, chance, "abc", k=1)
        >>> print(spread)
        chance level 0.533 nats on average, 0.250 to 0.700 for the middle 90 % of the pairs
        least for a and b (0.200), most for b and c (0.700)
        rank correlation of plain values with those less chance: -0.50
        """
        from scipy.stats import spearmanr

        first, second = np.triu_indices(len(names), 1) if pairs is None else pairs
        known = np.isfinite(raw) & np.isfinite(chance)
        if not known.any():
            return cls(np.nan, np.nan, np.nan, (), (), np.nan)
        values = np.where(known, chance, np.nan)
        order = np.argsort(values, kind="stable")[: int(known.sum())]
        low, high = np.quantile(values[known], [0.05, 0.95])
        rest = raw - chance
        varies = all(np.ptp(v[known]) > 0 for v in (raw, rest))
        ranks = float(spearmanr(raw[known], rest[known]).statistic) if varies else np.nan

        def named(which: NDArray[np.intp]) -> tuple[tuple[str, str, float], ...]:
            return tuple((str(names[first[p]]), str(names[second[p]]), float(chance[p])) for p in which)

        mean = float(values[known].mean())
        return cls(mean, float(low), float(high), named(order[:k]), named(order[::-1][:k]), ranks)

    def __str__(self) -> str:
        return self.words()

    def words(self, units: Units = "nats") -> str:
        """Three lines for a reader."""
        if not self.least:
            return "no pair has a sample"
        scale = per_nat(units)
        if self.most[0][2] - self.least[0][2] < 1e-9:
            return f"chance level {scale * self.mean:.3f} {units}, the same for all pairs"

        def pairs(which: tuple[tuple[str, str, float], ...]) -> str:
            return ", ".join(f"{i} and {j} ({scale * value:.3f})" for i, j, value in which)

        return (
            f"chance level {scale * self.mean:.3f} {units} on average, {scale * self.low:.3f} to {scale * self.high:.3f} for the "
            f"middle 90 % of the pairs\nleast for {pairs(self.least)}, most for {pairs(self.most)}\n"
            f"rank correlation of plain values with those less chance: {self.rank_correlation:.2f}"
        )
