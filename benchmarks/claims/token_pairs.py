"""Pairs of tokens: of one text, and by their distance over several."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import peers
from claim import Claim, Contest, Side, Table, agreeing, close, equal
from numpy.typing import NDArray

import mi_probe
from claims.size import Size, dependent
from mi_probe import Binning, JointCounts
from mi_probe.binning import auto_bins
from mi_probe.estimators import Estimate, estimate
from mi_probe.places import Places
from mi_probe.tokencounts import TokenCounts
from mi_probe.tokenkeys import TokenKeys
from mi_probe.tokenpairs import standardised

FURTHEST = 64


def estimated(one: NDArray[Any], bins: int) -> Estimate:
    """From values of one text to plug-in values, chance levels and adjusted values."""
    values = standardised(one).T
    return estimate(JointCounts.from_codes(Binning.fit(values, bins=bins).encode(values), bins))


def counted(x: NDArray[Any], keys: TokenKeys, binning: Binning, places: Places) -> TokenCounts:
    """From values to counts by key."""
    counts = TokenCounts(keys, binning)
    counts.update(counts.codes(x), places)
    return counts


def table(size: Size) -> Table:
    """The claim."""
    bins = auto_bins(size.variables)
    one = np.ascontiguousarray(dependent(size.variables, size.tokens).T)  # what tokens share is in their dimensions
    values = standardised(one).T
    codes = Binning.fit(values, bins=bins).encode(values)
    pairs = size.tokens * (size.tokens - 1) // 2

    rows = size.tokens * size.texts
    x = np.ascontiguousarray(dependent(size.variables, rows).T)
    binning, places = Binning.fit(x, bins=bins), Places.of_batch(np.arange(rows), size.tokens, np.arange(size.texts))
    keys = TokenKeys(furthest=FURTHEST, bins=bins)
    by_text = TokenCounts(keys, binning).codes(x).reshape(size.texts, size.tokens, -1)
    assert keys.bounds is not None
    by_distance = np.searchsorted(keys.bounds[:, 0], np.arange(FURTHEST + 1), side="right") - 1
    near = size.texts * keys.pairs_within(size.tokens)

    def raw(found: Any) -> NDArray[Any]:
        return np.asarray(found.raw if isinstance(found, Estimate) else found.pairs("raw"))

    def sums(counts: TokenCounts) -> NDArray[Any]:
        return np.concatenate([counts.tables[:-1].ravel(), counts.cells[:-1].ravel()])

    checked = (agreeing(close(1e-10), raw), "plug-in values within 1e-10")
    of_text = (
        Claim(Side("standardised, Binning, JointCounts, estimate: chance level too", partial(estimated, one, bins)), *checked),
        Claim(Side("mi_probe.token_pairs: all of its columns", partial(mi_probe.token_pairs, one)), *checked),
    )
    what = f"plug-in MI of all {pairs:,} pairs of tokens of one text, {bins} equal-count bins"
    of_keys = Claim(
        Side("TokenCounts: ranks, codes and counts", partial(counted, x, keys, binning, places)),
        agreeing(equal, sums),
        "equal counts, of all keys and sets of documents",
    )
    contests = (
        Contest(
            what,
            Side("np.histogram2d of codes, then the sum over cells, pair by pair", partial(peers.mi_of_histograms, codes, bins)),
            of_text,
        ),
        Contest(
            what,
            Side(
                "NumPy: one product of the one-hot matrix, then sums over all cells at once",
                partial(peers.mi_of_product, codes, bins),
            ),
            of_text,
        ),
        Contest(
            f"counts of {near:,} pairs of tokens of {size.texts} texts by distance",
            Side(
                "np.bincount of codes, pair by pair", partial(peers.counts_by_distance, by_text, bins, by_distance, keys.shards)
            ),
            (of_keys,),
        ),
    )
    return Table(
        "Pairs of tokens",
        f"{size.tokens} tokens a text, {size.variables} dimensions. Ours begins with values, the peers with codes made before.",
        contests,
    )
