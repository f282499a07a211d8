"""How information fades from one place of a model to later ones: about a dimension itself, and about the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import InputError
from mi_probe.pointresult import PairwiseMI
from mi_probe.result import MIResult
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas

__all__ = ["fading"]


def fading(result: MIResult, *, units: Units = "nats") -> pandas.DataFrame:
    """What the dimensions of one place tell about themselves, and about the other dimensions, at another; a row for two places.

    Parameters
    ----------
    result : MIResult
        Of a probe with ``pairs="between"``; of places that have dimensions in common, or there is nothing of "itself".
    units : {"nats", "bits"}

    Returns
    -------
    DataFrame
        ``start`` and ``place``, the two hook points; ``dimensions`` that are at both; ``entropy``, their mean at the start, which
        is what a copy would share; ``itself_low``, ``itself`` and ``itself_high``, quartiles and median over dimensions of the MI
        of each with itself; ``itself_se``, the mean standard error of one of these if samples were independent; ``kept``,
        `itself` as a share of `entropy`; ``others``, the mean MI over all pairs of different dimensions, and ``others_se``, the
        mean standard error of one of these; ``chance``, the mean chance level, which the correction of ``mi`` has removed if it
        is one that does. Standard errors are there where the result has them.

    Raises
    ------
    InputError
        A hook point of the result is not of two places, or nothing varies at one.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> state = mi_probe.ProbeState(mi_probe.Probe(pairs="between", bins=4))
    >>> x, noise = np.random.default_rng(0).standard_normal((2, 800, 5))
    >>> for name, later in (("one block on", x + 0.2 * noise), ("two", x + noise)):
    ...     state.update(("embedding", name), (x, later))
    >>> fading(state.estimate())[["start", "place", "entropy", "itself", "kept"]].round(2)
           start         place  entropy  itself  kept
    0  embedding  one block on     1.39    0.88  0.63
    1  embedding           two     1.39    0.24  0.17
    """
    import pandas

    scale = per_nat(units)
    rows = [_row(name, point, scale) for name, point in result.items()]
    return pandas.DataFrame(rows)


def _row(name: str, point: PairwiseMI, scale: float) -> dict[str, Any]:
    if not point.sides:
        raise InputError(f"'{name}' is of one place: to see what fades between two, count with Probe(pairs='between').")
    first, second = point.sides
    if not (point.entropy > 0).any():
        raise InputError(
            f"nothing varies at '{name}' over its {point.samples:,} samples, so nothing can fade: take a longer text."
        )
    mi, itself = scale * point.pairs("mi"), point.itself
    others = np.ones(len(mi), dtype=bool)
    others[itself] = False
    low, middle, high = _quartiles(mi[itself])
    entropy = scale * _mean(point.entropy[itself // second.width])
    row = {
        "start": first.point,
        "place": second.point,
        "dimensions": len(itself),
        "entropy": entropy,
        "itself_low": low,
        "itself": middle,
        "itself_high": high,
        "kept": middle / entropy if entropy else np.nan,
        "others": _mean(mi[others]),
    }
    if "se" in point.columns:
        se = scale * point.pairs("se")
        row |= {"itself_se": _mean(se[itself]), "others_se": _mean(se[others])}
    return row | {"chance": scale * _mean(point.pairs("chance"))}


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    known = values[np.isfinite(values)]
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else np.full(3, np.nan)
    return float(low), float(middle), float(high)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
