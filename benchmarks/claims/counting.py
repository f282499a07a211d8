"""Joint counts of all pairs of a corpus' buffer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import peers
from claim import Claim, Contest, Side, Table, agreeing, close, correlated, equal
from numpy.typing import NDArray

from claims.one_text import among
from claims.size import Size, dependent
from mi_probe import Binning, JointCounts
from mi_probe.estimators import Estimate, estimate

BINS = 8
DEFAULT_BINS, DEFAULT_ORDER = 10, 3  # widestats'
COUNT, ESTIMATE = "counts of every pair", "counts and estimates of every pair"


def counted(codes: NDArray[np.uint8], bins: int = BINS) -> JointCounts:
    """Counts, none left in the buffer."""
    counts = JointCounts.from_codes(codes, bins)
    counts.flush()
    return counts


def estimated(codes: NDArray[np.uint8], bins: int = BINS) -> Estimate:
    """Counts, and from them plug-in values, chance levels, adjusted values and errors."""
    return estimate(JointCounts.from_codes(codes, bins))


def table(size: Size) -> Table:
    """The claim."""
    x = dependent(size.long, size.variables)
    codes = Binning.fit(x, bins=BINS).encode(x)
    count, found = partial(counted, codes), partial(estimated, codes)
    share, part = size.part(size.some)
    few_share, few_part = size.part(size.few)

    def raw_of(counts: JointCounts) -> NDArray[Any]:
        return estimate(counts, correction="none").raw

    def tables_of(counts: JointCounts) -> NDArray[Any]:
        first, second = np.triu_indices(size.variables, 1)
        return counts.tables[(first < size.some) & (second < size.some)]

    def few_of(found: Estimate) -> NDArray[Any]:
        return among(found.raw, size.variables, size.few)

    def same_histograms(counts: JointCounts, square: NDArray[Any]) -> bool:
        return equal(counts.tables, peers.upper_tables(square, BINS))

    in_float32 = "plug-in values within 1e-5, its precision"
    contests = (
        Contest(
            "histograms of every pair",
            Side("widestats.mutual_info(codes, bins=8, order=1), the same bins", partial(peers.widestats_mi, codes, BINS, 1)),
            (
                Claim(Side(COUNT, count), agreeing(close(1e-5), raw_of), in_float32, target=40),
                Claim(Side(ESTIMATE, found), agreeing(close(1e-5), lambda e: e.raw), in_float32),
            ),
        ),
        Contest(
            "MI of every pair",
            Side("widestats.mutual_info(x), its default: B-splines", partial(peers.widestats_mi, x, DEFAULT_BINS, DEFAULT_ORDER)),
            (
                Claim(
                    Side(COUNT, count),
                    agreeing(correlated(0.95), raw_of),
                    "another estimator: correlation over pairs of at least .95",
                    target=40,
                ),
                Claim(
                    Side(ESTIMATE, found),
                    agreeing(correlated(0.95), lambda e: e.raw),
                    "another estimator: correlation over pairs of at least .95",
                ),
            ),
        ),
        Contest(
            "histograms of every pair",
            Side("widestats' weights and products without its estimate", partial(peers.widestats_histograms, codes, BINS)),
            (Claim(Side(COUNT, count), same_histograms, "equal counts"),),
        ),
        Contest(
            "histograms of every pair",
            Side("NumPy: one product of the one-hot matrix, float32", partial(peers.one_hot_product, codes, BINS)),
            (Claim(Side(COUNT, count), same_histograms, "equal counts"),),
        ),
        Contest(
            "histograms of every pair",
            Side("np.histogram2d, pair by pair", partial(peers.histograms_by_numpy, codes[:, : size.some], BINS)),
            (Claim(Side(COUNT, count), agreeing(equal, tables_of), "equal counts"),),
            share,
            part,
        ),
        Contest(
            "MI of every pair",
            Side("ennemi.pairwise_mi(codes, discrete=True)", partial(peers.ennemi_discrete, codes[:, : size.few])),
            (Claim(Side(ESTIMATE, found), agreeing(close(1e-10), few_of), "plug-in values within 1e-10"),),
            few_share,
            few_part,
        ),
        Contest(
            "MI of every pair: ours by 8 bins, theirs by nearest neighbours",
            Side("ennemi.pairwise_mi(x), its default", partial(peers.ennemi_ksg, x[:, : size.few])),
            (
                Claim(
                    Side(ESTIMATE, found),
                    agreeing(correlated(0.95), few_of),
                    "another estimator: correlation over pairs of at least .95",
                ),
            ),
            few_share,
            few_part,
        ),
    )
    return Table(
        "Counting",
        f"{size.long:,} samples of {size.variables} variables in {BINS} equal-count bins, encoded before: {size.pairs:,} pairs.",
        contests,
    )
