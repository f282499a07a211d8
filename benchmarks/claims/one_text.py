"""One text: the plug-in value and the chance level of every pair, from values on."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import peers
from claim import Claim, Contest, Side, Table, agreeing, close
from numpy.typing import NDArray

import mi_probe
from claims.size import Size, dependent
from mi_probe.estimators import Estimate, estimate

BINS = 15


def estimated(x: NDArray[Any], bins: int, method: Any = "equal_width") -> Estimate:
    """From values to plug-in values, chance levels and adjusted values."""
    binning = mi_probe.Binning.fit(x, bins=bins, method=method)
    return estimate(mi_probe.JointCounts.from_codes(binning.encode(x), bins))


def square(pairs: NDArray[Any], variables: int) -> NDArray[Any]:
    """Values of the pairs i < j as a symmetric matrix, NaN on its diagonal."""
    matrix = np.full((variables, variables), np.nan)
    matrix[np.triu_indices(variables, 1)] = pairs
    return np.where(np.isnan(matrix), matrix.T, matrix)


def among(pairs: NDArray[Any], variables: int, first: int) -> NDArray[Any]:
    """Those of the pairs that lie among the first variables."""
    return peers.upper(square(pairs, variables)[:first, :first])


def table(size: Size) -> Table:
    """The claim."""
    x = dependent(size.short, size.variables)
    codes = mi_probe.Binning.fit(x, bins=BINS).encode(x)
    share, part = size.part(size.some)
    few_share, few_part = size.part(size.few)

    def raw(found: Any) -> NDArray[Any]:
        values = found.raw if isinstance(found, Estimate) else found.pairs("raw")
        return among(values, size.variables, size.some)

    def raw_and_chance(found: Estimate) -> NDArray[Any]:
        return np.stack([among(v, size.variables, size.few) for v in (found.raw, found.chance)], axis=1)

    everything = partial(mi_probe.pairwise, x, bins=BINS, method="equal_width")
    loop = Contest(
        f"plug-in MI of all pairs, {BINS} equal-width bins",
        Side("np.histogram2d, then the sum over cells, pair by pair", partial(peers.course_loop, x[:, : size.some], BINS)),
        (
            Claim(
                Side("Binning, JointCounts, estimate: chance level, corrected value, error too", partial(estimated, x, BINS)),
                agreeing(close(1e-10), raw),
                "plug-in values within 1e-10",
                target=400,
            ),
            Claim(
                Side("mi_probe.pairwise: all of its columns, p-values too", everything),
                agreeing(close(1e-10), raw),
                "plug-in values within 1e-10",
            ),
        ),
        share,
        part,
    )
    sklearn = Contest(
        f"plug-in MI and chance level of all pairs, {BINS} equal-count bins",
        Side("mutual_info_score and expected_mutual_information", partial(peers.expected_by_sklearn, codes[:, : size.few])),
        (
            Claim(
                Side("Binning, JointCounts, estimate", partial(estimated, x, BINS, "equal_count")),
                agreeing(close(1e-10), raw_and_chance),
                "plug-in values and chance levels within 1e-10",
            ),
        ),
        few_share,
        few_part,
    )
    return Table(
        "One text against a course's loop",
        f"{size.short} samples of {size.variables} variables: {size.pairs:,} pairs.",
        (loop, sklearn),
    )
