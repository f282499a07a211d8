"""Labelled estimates: one `PairwiseMI` for each hook point, and all of them in an `MIResult`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe import store
from mi_probe.binning import Binning, BinningMethod, as_samples
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError, PointError, StoreError, nearest
from mi_probe.estimators import Correction, Estimate, estimate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MIResult", "PairValue", "PairwiseMI", "from_counts", "pairwise"]

_VERSION = 1

PairValue = Literal["mi", "raw", "chance", "joint_entropy", "n"]

_PAIR_VALUES: tuple[PairValue, ...] = get_args(PairValue)


@dataclass(frozen=True, eq=False)
class PairwiseMI:
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
        Samples left out of each variable because its value was NaN or infinite.
    bins : int
    method : {"equal_count", "equal_width"}
    correction : {"adjusted", "none", "miller_madow"}
        What `mi` holds.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((500, 3))
    >>> x[:, 2] = x[:, 0]
    >>> shared = pairwise(x, bins=8)
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

    def __repr__(self) -> str:
        return (
            f"PairwiseMI({len(self.names)} variables, {len(self.estimate.mi):,} pairs, {self.samples:,} samples, "
            f"{self.bins} {self.method} bins, {self.correction})"
        )

    def _square(self, values: NDArray[Any], diagonal: NDArray[Any]) -> NDArray[Any]:
        size = len(self.names)
        square = np.empty((size, size), dtype=values.dtype)
        first, second = np.triu_indices(size, 1)
        square[first, second] = values
        square[second, first] = values
        np.fill_diagonal(square, diagonal)
        return square

    @property
    def mi(self) -> NDArray[np.float64]:
        """Corrected mutual information, shape (variables, variables), nats; slightly negative values are kept."""
        return self._square(self.estimate.mi, self.entropy)

    @property
    def raw(self) -> NDArray[np.float64]:
        """Plug-in mutual information, shape (variables, variables), nats."""
        return self._square(self.estimate.raw, self.entropy)

    @property
    def chance(self) -> NDArray[np.float64]:
        """Mean of the plug-in value over all random pairings, shape (variables, variables), nats."""
        return self._square(self.estimate.chance, self.estimate.self_chance)

    @property
    def joint_entropy(self) -> NDArray[np.float64]:
        """Plug-in joint entropy, shape (variables, variables), nats."""
        return self._square(self.estimate.joint_entropy, self.entropy)

    @property
    def n(self) -> NDArray[np.int64]:
        """Samples in which both variables are present, shape (variables, variables)."""
        return self._square(self.estimate.n, self.samples - self.missing)

    @property
    def entropy(self) -> NDArray[np.float64]:
        """Plug-in entropy of each variable, shape (variables,), nats."""
        return self.estimate.entropy

    def pairs(self, what: PairValue = "mi") -> NDArray[Any]:
        """The values of the pairs i < j, shape (pairs,), in the order of ``numpy.triu_indices(variables, 1)``.

        Examples
        --------
        >>> import numpy as np
        >>> pairwise(np.eye(6)).pairs("n")[:3]
        array([6, 6, 6])
        """
        if what not in _PAIR_VALUES:
            raise InputError(f"pairs have {', '.join(_PAIR_VALUES)}; not {what!r}{nearest(what, _PAIR_VALUES)}.")
        return np.asarray(getattr(self.estimate, what))

    def to_frame(self) -> pd.DataFrame:
        """All pairs as a table with columns i, j, mi, raw, chance, joint_entropy (nats) and n.

        Examples
        --------
        >>> import numpy as np
        >>> len(pairwise(np.eye(4)).to_frame())
        6
        """
        first, second = np.triu_indices(len(self.names), 1)
        return self._frame(first, second, np.arange(len(first)))

    def top_pairs(self, k: int = 10) -> pd.DataFrame:
        """The k pairs of largest `mi`, strongest first, with the columns of `to_frame`."""
        values = np.nan_to_num(self.estimate.mi, nan=-np.inf)
        k = max(0, min(k, len(values)))
        best = np.argpartition(-values, k - 1)[:k] if 0 < k < len(values) else np.arange(len(values))[:k]
        best = best[np.argsort(-values[best], kind="stable")]
        first, second = np.triu_indices(len(self.names), 1)
        return self._frame(first[best], second[best], best)

    def _frame(self, first: NDArray[Any], second: NDArray[Any], at: NDArray[Any]) -> pd.DataFrame:
        import pandas as pd

        names = np.array(self.names, dtype=object)
        columns: dict[str, NDArray[Any]] = {what: self.pairs(what)[at] for what in _PAIR_VALUES}
        return pd.DataFrame({"i": names[first], "j": names[second], **columns})


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
    >>> import numpy as np
    >>> result = MIResult({"toy": pairwise(np.random.default_rng(0).standard_normal((200, 4)))})
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

    def summary(self) -> pd.DataFrame:
        """One row a hook point: pairs, samples, means of raw, chance and mi, and quantiles of mi, in nats."""
        import pandas as pd

        rows = {}
        for name, point in self.points.items():
            mi = point.pairs("mi")
            usable = mi[np.isfinite(mi)]
            quantiles = np.quantile(usable, [0.05, 0.5, 0.95]) if len(usable) else np.full(3, np.nan)
            rows[name] = {
                "pairs": len(mi),
                "samples": point.samples,
                **{f"{what}_mean": _mean(point.pairs(what)) for what in ("raw", "chance", "mi")},
                **dict(zip(("mi_q05", "mi_median", "mi_q95"), quantiles, strict=True)),
                "mi_max": usable.max(initial=-np.inf) if len(usable) else np.nan,
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("point")

    def to_frame(self) -> pd.DataFrame:
        """All pairs of all hook points as one table, the hook point in the column ``point``."""
        return self._stack({name: point.to_frame() for name, point in self.points.items()})

    def top_pairs(self, k: int = 10) -> pd.DataFrame:
        """The k strongest pairs over all hook points, strongest first."""
        table = self._stack({name: point.top_pairs(k) for name, point in self.points.items()})
        return table.sort_values("mi", ascending=False, kind="stable").head(k).reset_index(drop=True)

    @staticmethod
    def _stack(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
        import pandas as pd

        for name, frame in frames.items():
            frame.insert(0, "point", name)
        return pd.concat(frames.values(), ignore_index=True) if frames else pd.DataFrame({"point": []})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as a safetensors file with a JSON header (schema ``result/1``).

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        arrays, points = {}, []
        for k, (name, point) in enumerate(self.points.items()):
            for key, array in vars(point.estimate).items():
                arrays[f"{k}.{key}"] = array
            arrays[f"{k}.missing"] = point.missing
            rest = {key: getattr(point, key) for key in ("samples", "bins", "method", "correction")}
            points.append({"name": name, "variables": list(point.names), **rest})
        store.write(path, f"result/{_VERSION}", {"units": "nats", "about": self.about, "points": points}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MIResult:
        """Read a file that `save` wrote.

        Raises
        ------
        StoreError
            Missing, cut off, altered, or not a result.
        """
        header, arrays = store.read(path, "result", _VERSION)
        points = {}
        try:
            for k, facts in enumerate(header["points"]):
                fields = {key: arrays[f"{k}.{key}"] for key in Estimate.__dataclass_fields__}
                variables = len(facts["variables"])
                for key, array in fields.items():
                    size = variables if key in ("entropy", "self_chance") else variables * (variables - 1) // 2
                    if array.shape != (size,):
                        raise StoreError(f"{path}: '{key}' of {facts['name']} has shape {array.shape}, not ({size},).")
                    array.flags.writeable = False
                rest = {key: facts[key] for key in ("samples", "bins", "method", "correction")}
                points[facts["name"]] = PairwiseMI(
                    Estimate(**fields), tuple(facts["variables"]), missing=arrays[f"{k}.missing"], **rest
                )
        except KeyError as error:
            raise StoreError(f"{path} lacks {error}.") from error
        return cls(points, header["about"])


def _mean(values: NDArray[Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def from_counts(
    counts: JointCounts, binning: Binning, *, correction: Correction = "adjusted", names: Sequence[str] | None = None
) -> PairwiseMI:
    """Estimate, with labels, from counts and the binning that made them."""
    labels = tuple(map(str, range(counts.variables) if names is None else names))
    return PairwiseMI(
        estimate(counts, correction=correction),
        labels,
        counts.n,
        counts.missing.copy(),
        counts.bins,
        binning.method,
        correction,
    )


def pairwise(
    x: ArrayLike,
    *,
    bins: int | Literal["auto"] = "auto",
    method: BinningMethod = "equal_count",
    correction: Correction = "adjusted",
    names: Sequence[str] | None = None,
) -> PairwiseMI:
    """Mutual information between every two columns of an array.

    Parameters
    ----------
    x : array, shape (samples, variables)
        NumPy array, torch tensor or pandas DataFrame. NaN and infinite values are left out, pair by pair, and counted.
    bins : int or "auto"
        Bins of each variable; "auto" is about four samples a cell, at least 3 and at most 16 (5 for 94 samples).
    method : {"equal_count", "equal_width"}
        ``equal_width`` with 15 bins gives, with ``correction="none"``, what a hand-written `numpy.histogram2d` gives.
    correction : {"adjusted", "none", "miller_madow"}
        What ``.mi`` holds; ``.raw`` and ``.chance`` are there in any case. See `mi_probe.estimators.estimate`.
    names : sequence of str, optional
        Names of the variables; a DataFrame's columns, or 0, 1, 2, ... by default.

    Returns
    -------
    PairwiseMI

    Raises
    ------
    InputError
        `x` is not samples x variables, or `names` has another length.
    BinningError
        Unknown method or impossible number of bins.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((94, 200))
    >>> shared = pairwise(x, bins=15, method="equal_width")
    >>> print(f"{shared.pairs('raw').mean():.2f} nats, of which {shared.pairs('chance').mean():.2f} by chance")
    0.76 nats, of which 0.76 by chance
    """
    if names is None and hasattr(x, "columns"):
        names = [str(c) for c in x.columns]
    samples = as_samples(x)
    if names is not None and len(names) != samples.shape[1]:
        raise InputError(f"{len(names)} names were given for {samples.shape[1]} variables.")
    binning = Binning.fit(samples, method=method, bins=bins)
    counts = JointCounts.from_codes(binning.encode(samples), binning.bins)
    return from_counts(counts, binning, correction=correction, names=names)
