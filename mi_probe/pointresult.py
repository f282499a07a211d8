"""The estimates of one hook point or array, labelled: every column as vectors, matrices and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import BinningMethod, Side
from mi_probe.corrections import Correction
from mi_probe.errors import InputError
from mi_probe.estimators import Estimate
from mi_probe.pairtable import PairTable, square
from mi_probe.significance import FalseDiscoveries, false_discovery
from mi_probe.spread import ChanceSpread

__all__ = ["COLUMNS", "IN_ESTIMATE", "PairwiseMI", "checked_rate"]

COLUMNS: dict[str, str] = {
    "mi": "mutual information of the binned variables, corrected",
    "se": "its standard error, if samples were independent",
    "shard_se": "its standard error from shards of documents, which need only be independent of each other",
    "raw": "the plug-in estimate: what the histogram says",
    "chance": "mean of the plug-in estimate when the same values are paired at random",
    "swap": "`mi` of the first variable in one document with the second in another, at the same positions",
    "continuous": "mutual information of the variables before they were binned",
    "continuous_se": "its standard error, if samples were independent",
    "gaussian": "what a Gaussian copula with the same rank correlation shares: the monotone part",
    "linear": "what Gaussian variables with the same covariance share",
    "correlation": "Pearson's r, which is signed: covariance of the standardised variables",
    "joint_entropy": "plug-in joint entropy",
    "n": "samples in which both are present",
    "p": "p-value of independence",
    "q": "the same, adjusted for the number of pairs (Benjamini and Hochberg 1995)",
}
"""What the columns of a result mean. All but correlation, n, p and q are in nats."""

IN_ESTIMATE = ("mi", "se", "raw", "chance", "joint_entropy", "n")


@dataclass(frozen=True, eq=False)
class PairwiseMI(PairTable):
    """Mutual information of every pair of variables of one hook point (or one array), in nats.

    Matrices are symmetric, of shape (variables, variables); their diagonal holds what a variable shares with itself, its entropy.
    `pairs` gives the same values as a vector, each pair once and no diagonal, which is what averages should be taken over. Where
    only some pairs were counted, the others are NaN in every matrix. Pairs between two hook points are a rectangle, `between`.

    Attributes
    ----------
    estimate : Estimate
        The values of the pairs i < j.
    names : tuple of str
        Names of the variables.
    samples : int
        Samples seen (tokens, for hidden dimensions).
    missing : array, shape (variables,), int64
        Samples left out of each variable because its value was NaN or infinite, or trimmed.
    bins : int
    method : {"equal_count", "equal_width"}
    correction : str
        What `mi` holds.
    companions : dict of str -> array, shape (pairs,)
        Other columns of `COLUMNS` that were asked for or could be had.
    trimmed : array, shape (variables,), int64, optional
        Samples of `missing` that were left out as outliers.
    notes : tuple of str
        What a reader should know: which test `p` comes from or why there is none, variables that are constant.
    listed : array, shape (pairs, 2), or None
        The pairs that were counted, as positions among `names`; None if all of them were.
    sides : (Side, Side), optional
        The two hook points whose variables are paired, each of the one with each of the other, and how many they have. None by
        default: all are of one.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> x = np.random.default_rng(0).standard_normal((500, 3))
    >>> x[:, 2] = x[:, 0]
    >>> shared = mi_probe.pairwise(x, bins=8)
    >>> shared.top_pairs(1)[["i", "j"]].values.tolist()
    [['0', '2']]
    >>> bool(np.isclose(shared.mi[0, 2], shared.entropy[0]))  # a copy shares all it has
    True
    """

    estimate: Estimate
    names: tuple[str, ...]
    samples: int
    missing: NDArray[np.int64]
    bins: int
    method: BinningMethod
    correction: Correction
    companions: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    trimmed: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    listed: NDArray[np.intp] | None = None
    sides: tuple[Side, ...] = ()

    def __repr__(self) -> str:
        variables = " x ".join(f"{side.width}" for side in self.sides) or len(self.names)
        return (
            f"PairwiseMI({variables} variables, {len(self.estimate.mi):,} pairs, {self.samples:,} samples, "
            f"{self.bins} {self.method} bins, {self.correction})"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values that every pair has here; `COLUMNS` says what they mean."""
        there = {what for what in IN_ESTIMATE if getattr(self.estimate, what) is not None} | set(self.companions)
        there |= {"q"} if "p" in there else set()
        return tuple(what for what in COLUMNS if what in there)

    def _column(self, what: str) -> NDArray[Any]:
        if what == "q":
            return false_discovery(self.companions["p"])
        return self.companions[what] if what in self.companions else np.asarray(getattr(self.estimate, what))

    def matrix(self, what: str) -> NDArray[Any]:
        """Any of `columns` as a symmetric matrix, shape (variables, variables).

        The diagonal is a variable with itself: its entropy, its own chance level, its samples; NaN for the other columns.

        Examples
        --------
        >>> import mi_probe, numpy as np
        >>> mi_probe.pairwise(np.random.default_rng(0).standard_normal((94, 3))).matrix("se").shape
        (3, 3)
        """
        diagonals: dict[str, NDArray[Any]] = {
            **dict.fromkeys(("mi", "raw", "joint_entropy"), self.entropy),
            "chance": self.estimate.self_chance,
            "n": self.samples - self.missing,
        }
        some = None if self.listed is None else self.pair_indices
        return square(self.pairs(what), diagonals.get(what, np.full(len(self.names), np.nan)), some)

    def between(self, what: str = "mi") -> NDArray[Any]:
        """Any of `columns` as a rectangle: the variables of the first hook point down, those of the second across.

        Where both have the same dimensions, the diagonal is what each of these tells about itself at the other place.

        Raises
        ------
        InputError
            There is no such column here, or all variables are of one hook point.

        Examples
        --------
        >>> import mi_probe, numpy as np
        >>> state = mi_probe.ProbeState(mi_probe.Probe(pairs="between"))
        >>> x = np.random.default_rng(0).standard_normal((400, 3))
        >>> state.update(("before", "after"), (x, x[:, :2]))
        >>> point = state.estimate()["before -> after"]
        >>> point.between().shape, point.between().argmax(axis=0), point.names[-1]
        ((3, 2), array([0, 1]), 'after:1')
        """
        first, second = self._two_sides()
        return self.pairs(what).reshape(first.width, second.width)

    @property
    def itself(self) -> NDArray[np.intp]:
        """Where, among the pairs, those of one dimension at two hook points stand, shape (dimensions that are at both,).

        Raises
        ------
        InputError
            All variables are of one hook point.
        """
        first, second = self._two_sides()
        of_each = (self.names[: first.width], self.names[first.width :])
        here, there = (
            np.array([name.removeprefix(f"{side.point}:") for name in names])
            for side, names in zip((first, second), of_each, strict=True)
        )
        _, i, j = np.intersect1d(here, there, return_indices=True)
        return np.sort(i * second.width + j)

    def _two_sides(self) -> tuple[Side, Side]:
        if not self.sides:
            raise InputError("all variables here are of one hook point; Probe(pairs='between') has those of two.")
        first, second = self.sides
        return first, second

    @property
    def mi(self) -> NDArray[np.float64]:
        """Corrected mutual information, shape (variables, variables), nats; slightly negative values are kept."""
        return self.matrix("mi")

    @property
    def raw(self) -> NDArray[np.float64]:
        """Plug-in mutual information, shape (variables, variables), nats."""
        return self.matrix("raw")

    @property
    def chance(self) -> NDArray[np.float64]:
        """Mean of the plug-in value over all random pairings, shape (variables, variables), nats."""
        return self.matrix("chance")

    @property
    def joint_entropy(self) -> NDArray[np.float64]:
        """Plug-in joint entropy, shape (variables, variables), nats."""
        return self.matrix("joint_entropy")

    @property
    def n(self) -> NDArray[np.int64]:
        """Samples in which both variables are present, shape (variables, variables); float64 if some pairs were not counted."""
        return self.matrix("n")

    @property
    def entropy(self) -> NDArray[np.float64]:
        """Plug-in entropy of each variable, shape (variables,), nats."""
        return self.estimate.entropy

    def discoveries(self, rate: float = 0.05, method: FalseDiscoveries = "bh") -> NDArray[np.bool_]:
        """Which pairs are not independent, with a share of false ones of at most `rate` on average, shape (pairs,).

        Parameters
        ----------
        rate : float
        method : {"bh", "by"}
            See `mi_probe.significance.false_discovery`.

        Raises
        ------
        InputError
            No p-values were computed here, or the rate is not between 0 and 1.

        Examples
        --------
        >>> import mi_probe, numpy as np
        >>> x = np.random.default_rng(0).standard_normal((200, 20))
        >>> x[:, 1] += x[:, 0]
        >>> mi_probe.pairwise(x).discoveries().nonzero()[0].tolist()
        [0]
        """
        return np.asarray(false_discovery(self.pairs("p"), method=method) <= checked_rate(rate))

    def linear_share(self) -> NDArray[np.float64]:
        """How much of each pair's dependence covariance sees, `linear` / `continuous`, shape (pairs,).

        About 1 for Gaussian pairs, 0 where the dependence is all curves; noise may carry it beyond both. NaN where `continuous`
        is less than two standard errors from 0: a share of nothing.

        Raises
        ------
        InputError
            Either column is not there.

        Examples
        --------
        >>> import mi_probe, numpy as np
        >>> x = np.random.default_rng(0).standard_normal((5000, 2))
        >>> straight, curved = np.stack([x[:, 0], x.sum(axis=1)], 1), np.stack([x[:, 0], x[:, 0] ** 2 + 0.3 * x[:, 1]], 1)
        >>> [round(float(mi_probe.pairwise(pair).linear_share()[0]), 1) for pair in (straight, curved)]
        [1.0, 0.0]
        """
        absent = [what for what in ("linear", "continuous") if what not in self.columns]
        if absent:
            raise InputError(
                f"the linear share needs columns that are not here: {', '.join(absent)}. `continuous` takes equal-count bins and "
                "at least as many samples as cells; `linear` takes Probe(moments=True) where values are streamed."
            )
        whole, error = self.pairs("continuous"), self.pairs("continuous_se")
        share = np.divide(self.pairs("linear"), whole, out=np.full(len(whole), np.nan), where=whole > 2 * error)
        return np.asarray(share)

    def chance_spread(self, k: int = 3) -> ChanceSpread:
        """How the chance level varies over pairs, and what that does to ranks; ``print`` it.

        Parameters
        ----------
        k : int
            How many of the pairs with the least and the largest chance level to name.

        Examples
        --------
        >>> import mi_probe, numpy as np
        >>> x = np.random.default_rng(0).standard_normal((94, 30))
        >>> x[0, :10] = 50  # an outlier token, as the first of a text is in a few dimensions
        >>> spread = mi_probe.pairwise(x, bins=15, method="equal_width").chance_spread()
        >>> spread.least[0][2] < 0.1 < 0.7 < spread.most[0][2]
        True
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k must be a whole number of pairs to name, at least 1; got {k!r}.")
        return ChanceSpread.of(self.estimate.raw, self.estimate.chance, self.names, k=int(k), pairs=self.pair_indices)


def checked_rate(rate: float) -> float:
    if not 0 < rate < 1:
        raise InputError(f"the rate of false discoveries must be between 0 and 1; got {rate!r}.")
    return rate
