"""Labelled estimates: one `PairwiseMI` for each hook point, and all of them in an `MIResult`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe import store
from mi_probe.binning import Side
from mi_probe.counts import checked_pairs, pairs_between
from mi_probe.errors import InputError, PointError, StoreError, nearest, several
from mi_probe.estimators import Estimate
from mi_probe.pointresult import COLUMNS, IN_ESTIMATE, PairwiseMI, checked_rate
from mi_probe.significance import FalseDiscoveries, false_discovery
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MIResult", "as_result"]

_VERSION = 4


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
        return f"MIResult({several(len(self), 'hook point')}: {', '.join(self.points)})"

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
        found = false_discovery(np.concatenate(p), method=method) <= checked_rate(rate)
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
        """Write the result as a safetensors file with a JSON header (schema ``result/4``).

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {}
        points = []
        for k, (name, point) in enumerate(self.points.items()):
            parts = {key: array for key, array in vars(point.estimate).items() if array is not None}
            optional = {"trimmed": point.trimmed, "pairs": None if point.sides else point.listed}
            parts |= {"missing": point.missing, **{key: array for key, array in optional.items() if array is not None}}
            parts |= {f"companion.{key}": array for key, array in point.companions.items()}
            arrays |= {f"{k}.{key}": array for key, array in parts.items()}
            rest = {key: getattr(point, key) for key in _FACTS}
            if point.sides:
                rest["sides"] = [list(side) for side in point.sides]
            points.append({"name": name, "variables": list(point.names), "notes": list(point.notes), **rest})
        store.write(path, f"result/{_VERSION}", {"units": "nats", "about": self.about, "points": points}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MIResult:
        """Read a file that `save` wrote, now or with one of the older schemas from ``result/1`` on.

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
    every = variables * (variables - 1) // 2
    sides = tuple(Side(str(point), int(width)) for point, width in facts.get("sides", ()))
    if sides:
        if len(sides) != 2 or sum(side.width for side in sides) != variables or min(side.width for side in sides) < 1:
            raise InputError(f"{facts['name']} has {variables} variables, and sides {list(sides)}.")
        parts["pairs"] = pairs_between(sides[0].width, variables)
    listed = checked_pairs(parts.pop("pairs"), variables) if "pairs" in parts else None
    for key, array in parts.items():
        size = variables if key in _OF_VARIABLES else every if listed is None else len(listed)
        if array.shape != (size,):
            raise InputError(f"'{key}' of {facts['name']} has shape {array.shape}, not ({size},).")
        array.flags.writeable = False
    needed = [key for key in Estimate.__dataclass_fields__ if key != "se"]
    companions = {key.removeprefix("companion."): a for key, a in parts.items() if key.startswith("companion.")}
    unknown = companions.keys() - (COLUMNS.keys() - set(IN_ESTIMATE) - {"q"})
    if unknown:
        raise InputError(f"columns that are not known here: {sorted(unknown)}.")
    if "p" in companions and not ((companions["p"] >= 0) & (companions["p"] <= 1) | np.isnan(companions["p"])).all():
        raise InputError("p-values must be between 0 and 1.")
    if "correlation" in companions and not ((np.abs(companions["correlation"]) <= 1) | np.isnan(companions["correlation"])).all():
        raise InputError("correlations must be between -1 and 1.")
    return PairwiseMI(
        Estimate(**{key: parts[key] for key in needed}, se=parts.get("se")),
        tuple(map(str, facts["variables"])),
        missing=parts["missing"],
        trimmed=parts.get("trimmed"),
        companions=companions,
        notes=tuple(map(str, facts.get("notes", ()))),
        listed=listed,
        sides=sides,
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


def _mean(values: NDArray[Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
