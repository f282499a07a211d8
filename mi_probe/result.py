"""Labelled estimates: one `PairwiseMI` for each hook point, and all of them in an `MIResult`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe import store
from mi_probe.binning import BinningMethod
from mi_probe.corrections import Correction
from mi_probe.errors import InputError, PointError, StoreError, nearest
from mi_probe.estimators import Estimate
from mi_probe.pairtable import PairTable, square
from mi_probe.significance import FalseDiscoveries, false_discovery
from mi_probe.spread import ChanceSpread
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "MIResult", "PairwiseMI", "as_result"]

_VERSION = 2

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
    "joint_entropy": "plug-in joint entropy",
    "n": "samples in which both are present",
    "p": "p-value of independence",
    "q": "the same, adjusted for the number of pairs (Benjamini and Hochberg 1995)",
}
"""What the columns of a result mean. All but n, p and q are in nats."""

_IN_ESTIMATE = ("mi", "se", "raw", "chance", "joint_entropy", "n")


@dataclass(frozen=True, eq=False)
class PairwiseMI(PairTable):
    """Mutual information of every pair of variables of one hook point (or one array), in nats.

    Matrices are symmetric, of shape (variables, variables); their diagonal holds what a variable shares with itself, its entropy.
    `pairs` gives the same values as a vector, each pair once and no diagonal, which is what averages should be taken over.

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

    def __repr__(self) -> str:
        return (
            f"PairwiseMI({len(self.names)} variables, {len(self.estimate.mi):,} pairs, {self.samples:,} samples, "
            f"{self.bins} {self.method} bins, {self.correction})"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values that every pair has here; `COLUMNS` says what they mean."""
        there = {what for what in _IN_ESTIMATE if getattr(self.estimate, what) is not None} | set(self.companions)
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
        return square(self.pairs(what), diagonals.get(what, np.full(len(self.names), np.nan)))

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
        """Samples in which both variables are present, shape (variables, variables)."""
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
        return np.asarray(false_discovery(self.pairs("p"), method=method) <= _rate(rate))

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
        return ChanceSpread.of(self.estimate.raw, self.estimate.chance, self.names, k=int(k))


@dataclass(frozen=True, eq=False)
class MIResult(Mapping[str, PairwiseMI]):
    """Estimates by hook point, in the order of the model: ``result["hidden_states.3"]`` is a `PairwiseMI`.

    Attributes
    ----------
    points : dict of str -> PairwiseMI
    about : dict
        What was measured: probe (TOML), model, tokens seen.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> result = MIResult({"toy": mi_probe.pairwise(np.random.default_rng(0).standard_normal((200, 4)))})
    >>> list(result)
    ['toy']
    >>> result.summary().columns.tolist()[:3]
    ['pairs', 'samples', 'raw_mean']
    """

    points: dict[str, PairwiseMI]
    about: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, point: str) -> PairwiseMI:
        if point not in self.points:
            raise PointError(
                f"no hook point {point!r} in this result{nearest(str(point), self.points)}; it has {', '.join(self.points)}."
            )
        return self.points[point]

    def __iter__(self) -> Iterator[str]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"MIResult({len(self)} hook points: {', '.join(self.points)})"

    def summary(self, *, units: Units = "nats") -> pd.DataFrame:
        """One row a hook point.

        `pairs` and `samples`; the means over pairs of the columns that are there (`raw_mean`, `chance_mean`, `mi_mean`, ...); the
        5 % quantile, median, 95 % quantile and maximum of mi (`mi_q05`, ...); and `discoveries`, the number of pairs with q at
        most .05.

        Parameters
        ----------
        units : {"nats", "bits"}
        """
        import pandas as pd

        rows = {}
        scale = per_nat(units)
        for name, point in self.points.items():
            mi = scale * point.pairs("mi")
            usable = mi[np.isfinite(mi)]
            quantiles = np.quantile(usable, [0.05, 0.5, 0.95]) if len(usable) else np.full(3, np.nan)
            others = [what for what in ("continuous", "gaussian", "linear", "swap", "se") if what in point.columns]
            rows[name] = {
                "pairs": len(mi),
                "samples": point.samples,
                **{f"{what}_mean": scale * _mean(point.pairs(what)) for what in ("raw", "chance", "mi", *others)},
                **dict(zip(("mi_q05", "mi_median", "mi_q95"), quantiles, strict=True)),
                "mi_max": usable.max(initial=-np.inf) if len(usable) else np.nan,
                **({"discoveries": int(point.discoveries().sum())} if "p" in point.columns else {}),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("point")

    def discoveries(self, rate: float = 0.05, method: FalseDiscoveries = "bh") -> dict[str, NDArray[np.bool_]]:
        """Which pairs are not independent, with a share of false ones of at most `rate` on average over all hook points together.

        Returns
        -------
        dict of str -> array, shape (pairs,)
            By hook point.

        Raises
        ------
        InputError
            A hook point has no p-values.
        """
        p = [point.pairs("p") for point in as_result(self).values()]
        found = false_discovery(np.concatenate(p), method=method) <= _rate(rate)
        return dict(zip(self.points, np.split(found, np.cumsum([len(part) for part in p])[:-1]), strict=True))

    def to_frame(self, *, units: Units = "nats") -> pd.DataFrame:
        """All pairs of all hook points as one table, the hook point in the column ``point``; see `PairwiseMI.to_frame`."""
        return self._stack({name: point.to_frame(units=units) for name, point in self.points.items()})

    def top_pairs(self, k: int = 10, by: str = "mi", *, units: Units = "nats") -> pd.DataFrame:
        """The k strongest pairs over all hook points, strongest first; see `PairwiseMI.top_pairs`."""
        table = self._stack({name: point.top_pairs(k, by, units=units) for name, point in as_result(self).items()})
        return table.sort_values(by, ascending=False, kind="stable").head(k).reset_index(drop=True)

    @staticmethod
    def _stack(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
        import pandas as pd

        for name, frame in frames.items():
            frame.insert(0, "point", name)
        return pd.concat(frames.values(), ignore_index=True) if frames else pd.DataFrame({"point": []})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as a safetensors file with a JSON header (schema ``result/2``).

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {}
        points = []
        for k, (name, point) in enumerate(self.points.items()):
            parts = {key: array for key, array in vars(point.estimate).items() if array is not None}
            parts |= {"missing": point.missing, **({} if point.trimmed is None else {"trimmed": point.trimmed})}
            parts |= {f"companion.{key}": array for key, array in point.companions.items()}
            arrays |= {f"{k}.{key}": array for key, array in parts.items()}
            rest = {key: getattr(point, key) for key in _FACTS}
            points.append({"name": name, "variables": list(point.names), "notes": list(point.notes), **rest})
        store.write(path, f"result/{_VERSION}", {"units": "nats", "about": self.about, "points": points}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MIResult:
        """Read a file that `save` wrote, now or with the older schema ``result/1``.

        Raises
        ------
        StoreError
            Missing, cut off, altered, or not a result.
        """
        header, arrays = store.read(path, "result", _VERSION)
        try:
            points = {str(facts["name"]): _point(k, facts, arrays) for k, facts in enumerate(header["points"])}
            return cls(points, dict(header["about"]))
        except KeyError as error:
            raise StoreError(f"{path} lacks {error}.") from error
        except (InputError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path} is not a usable result: {error}") from error


def _point(k: int, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> PairwiseMI:
    """The k-th hook point of a file."""
    variables = len(facts["variables"])
    parts = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{k}.")}
    for key, array in parts.items():
        size = variables if key in _OF_VARIABLES else variables * (variables - 1) // 2
        if array.shape != (size,):
            raise InputError(f"'{key}' of {facts['name']} has shape {array.shape}, not ({size},).")
        array.flags.writeable = False
    needed = [key for key in Estimate.__dataclass_fields__ if key != "se"]
    companions = {key.removeprefix("companion."): a for key, a in parts.items() if key.startswith("companion.")}
    unknown = companions.keys() - (COLUMNS.keys() - set(_IN_ESTIMATE) - {"q"})
    if unknown:
        raise InputError(f"columns that are not known here: {sorted(unknown)}.")
    if "p" in companions and not ((companions["p"] >= 0) & (companions["p"] <= 1) | np.isnan(companions["p"])).all():
        raise InputError("p-values must be between 0 and 1.")
    return PairwiseMI(
        Estimate(**{key: parts[key] for key in needed}, se=parts.get("se")),
        tuple(map(str, facts["variables"])),
        missing=parts["missing"],
        trimmed=parts.get("trimmed"),
        companions=companions,
        notes=tuple(map(str, facts.get("notes", ()))),
        **{key: facts[key] for key in _FACTS},
    )


def as_result(result: MIResult | PairwiseMI) -> MIResult:
    """A result of at least one point, from one or from the estimate of a single array.

    Raises
    ------
    InputError
        It is neither, or holds nothing.
    """
    if isinstance(result, PairwiseMI):
        return MIResult({"the array": result})
    if not isinstance(result, MIResult) or not result:
        what = "an empty result" if isinstance(result, MIResult) else type(result).__name__
        raise InputError(f"a result of probe.estimate() or of mi_probe.pairwise() is needed; got {what}.")
    return result


_FACTS = ("samples", "bins", "method", "correction")
_OF_VARIABLES = ("entropy", "self_chance", "missing", "trimmed")


def _rate(rate: float) -> float:
    if not 0 < rate < 1:
        raise InputError(f"the rate of false discoveries must be between 0 and 1; got {rate!r}.")
    return rate


def _mean(values: NDArray[Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
