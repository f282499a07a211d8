"""One text against nearest-neighbour estimates: scikit-learn's and ennemi's."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import peers
from claim import Claim, Contest, Side, Table, agreeing, close, correlated
from numpy.typing import NDArray

from claims.one_text import BINS, among, estimated, square
from claims.size import Size, dependent
from mi_probe import ksg
from mi_probe.estimators import Estimate
from mi_probe.neighbours import NeighbourMI

ANOTHER = "another estimator: correlation over pairs of at least .8"


def table(size: Size) -> Table:
    """The claim."""
    x = dependent(size.short, size.variables)
    targets = list(size.targets)
    few_share, few_part = size.part(size.few)

    def per_target(ours: Estimate, theirs: NDArray[Any]) -> bool:
        rows = square(ours.mi, size.variables)[targets]
        others = ~np.isnan(rows)  # all but each target itself
        return correlated(0.8)(rows[others], theirs[others])

    contests = [
        Contest(
            f"MI of all pairs: ours by {BINS} bins, theirs by nearest neighbours",
            Side("mutual_info_regression(X, y), a call for each target", partial(peers.ksg_of_targets, x, targets)),
            (Claim(Side("Binning, JointCounts, estimate", partial(estimated, x, BINS)), per_target, ANOTHER, target=4000),),
            len(targets) / size.variables,
            f"{len(targets)} of {size.variables} targets timed, scaled",
        ),
        Contest(
            f"MI of all pairs: ours by {BINS} bins, theirs by nearest neighbours",
            Side("mutual_info_regression(X[:, [i]], y), a call for each pair", partial(peers.ksg_of_pairs, x[:, : size.few])),
            (
                Claim(
                    Side("Binning, JointCounts, estimate", partial(estimated, x, BINS)),
                    agreeing(correlated(0.8), lambda found: among(found.mi, size.variables, size.few)),
                    ANOTHER,
                ),
            ),
            few_share,
            few_part,
        ),
    ]
    for samples, variables in ((size.short, size.variables), size.middle):
        contests += _like_for_like(samples, variables, size.few)
    return Table(
        "One text against nearest-neighbour estimates",
        f"{size.short} samples of {size.variables} variables unless a row says otherwise; scikit-learn runs in as many processes "
        "as there are cores. Rows of `mi_probe.ksg` compare the same estimator.",
        tuple(contests),
    )


def _like_for_like(samples: int, variables: int, few: int) -> list[Contest]:
    """The same estimator, k = 3, on both sides."""
    x = dependent(samples, variables, np.float64)  # in float32 some distances are equal, and the sides' noises part them
    pairs = variables * (variables - 1) // 2
    targets = sorted({variables // 3, 2 * variables // 3})
    among_few = few * (few - 1) // 2
    what = f"nearest-neighbour MI of {pairs:,} pairs, {samples} samples, k = 3"
    ours = Side('mi_probe.ksg(x, match="sklearn")', partial(ksg, x, match="sklearn"))

    def of_targets(found: NeighbourMI) -> NDArray[Any]:
        return np.concatenate([np.maximum(found.mi[t, :t], 0) for t in targets])  # scikit-learn has no negative ones

    return [
        Contest(
            what,
            Side("mutual_info_regression(X[:, :t], y), a call for each target t", partial(peers.ksg_up_to_targets, x, targets)),
            (Claim(ours, agreeing(close(1e-12), of_targets), "within 1e-12, negative ones taken as 0"),),
            sum(targets) / pairs,
            f"{sum(targets):,} of {pairs:,} pairs timed, scaled",
        ),
        Contest(
            what,
            Side("ennemi.pairwise_mi", partial(peers.ennemi_ksg, x[:, :few])),
            (
                Claim(
                    ours,
                    agreeing(close(1e-6), lambda found: peers.upper(found.mi[:few, :few])),
                    "within 1e-6: its digamma function is an approximation, 5e-7 off",
                ),
            ),
            among_few / pairs,
            f"{among_few:,} of {pairs:,} pairs timed, scaled",
        ),
    ]
