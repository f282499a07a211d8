"""Counts of pairs of tokens to nats: for each key the mean over its pairs, with chance level and standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from mi_probe.chance import chance_level
from mi_probe.estimators import adjust, entropy, estimate_tables
from mi_probe.tokencounts import TokenCounts
from mi_probe.tokenkeys import TokenKeys
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas

__all__ = ["key_values", "keyed_nbytes_for", "keyed_table"]

Values = NDArray[np.float64]


def key_values(counts: TokenCounts) -> dict[str, NDArray[Any]]:
    """Estimates by key, each of shape (keys,), in nats; NaN for a key without a pair.

    All tokens have the same margins a_1 ... a_B of D dimensions, so the mean of the plug-in value over pairs hangs on how many
    cells hold n dimensions alone. With f(n) = n ln n and c(n) such cells a pair on average,

        raw = [ sum_n c(n) f(n) - 2 sum_i f(a_i) + f(D) ] / D,

    and all pairs have the same chance level and the same entropy, so that the adjusted value of the mean is the mean of the
    adjusted values. The standard error is the jackknife over shards of documents (as in `mi_probe.shards`, without its last
    factor: a mean over pairs is not quadratic in the noise). Unrelated pairs share not only documents but also the tokens of the
    calibration that all are compared with: their variance is that over the former, and over the latter, less that over both at
    once (Cameron, Gelbach and Miller 2011, J. Business & Economic Statistics 29:238).

    Returns
    -------
    dict
        ``mi`` (adjusted for chance), ``se``, ``shards`` (with pairs of the key, of which the error is), ``raw``, ``chance``, and
        ``together``: the adjusted MI of the joint table of all pairs of the key, which is less than their mean where pairs
        differ.

    Examples
    --------
    >>> from mi_probe.binning import Binning
    >>> from mi_probe.places import Places
    >>> from mi_probe.tokenkeys import TokenKeys
    >>> x = np.random.default_rng(0).standard_normal((40, 256))
    >>> x[1::2] = x[::2]  # every other token is a copy of the one before
    >>> counts = TokenCounts(TokenKeys(furthest=2), Binning.fit(x))
    >>> counts.update(counts.codes(x), Places.of_one_text(40))
    >>> mi = key_values(counts)["mi"]
    >>> bool(0.9 < mi[0] < 1.1 and abs(mi[1]) < 0.02)  # ln 8 for half of the neighbours, nothing for those further apart
    True
    """
    level = float(chance_level(counts.margins[None])[0, 0])
    room = float(entropy(counts.margins[None])[0])

    def adjusted(values: Values) -> Values:
        return adjust(values, np.full_like(values, level), np.full_like(values, room))

    def jackknife(cells: NDArray[np.int64]) -> tuple[Values, NDArray[np.int64]]:
        """Standard error, and the number of shards that it is from; cells have the shape (keys, shards, sizes)."""
        pairs = cells.sum(axis=2)
        used = pairs > 0
        rest = adjusted(_raw(counts, cells.sum(axis=1, keepdims=True) - cells))
        shards = used.sum(axis=1)
        centre = np.where(used, rest, 0.0).sum(axis=1) / np.maximum(shards, 1)
        moved = np.where(used, rest - centre[:, None], 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            se = np.sqrt((moved**2).sum(axis=1) * (shards - 1) / shards)
        return np.where(shards >= 2, se, np.nan), shards

    raw = _raw(counts, counts.cells.sum(axis=1))
    se, shards = jackknife(counts.cells)
    both = counts.by_other.reshape(1, -1, counts.by_other.shape[-1])
    of_others, of_both = (jackknife(cells)[0][0] ** 2 for cells in (counts.by_other.sum(axis=0)[None], both))
    of_documents = se[-1] ** 2
    se[-1] = np.sqrt(np.fmax(of_documents + of_others - of_both, np.fmax(of_documents, of_others)))
    together = estimate_tables(counts.tables)[0]
    chance = np.full(len(raw), level)
    return {"mi": adjusted(raw), "se": se, "shards": shards, "raw": raw, "chance": chance, "together": together}


def _raw(counts: TokenCounts, cells: NDArray[np.int64]) -> Values:
    """Mean plug-in MI of pairs, given how many of their cells hold 0, 1, 2, ... dimensions, shape (..., sizes)."""
    sizes = np.arange(cells.shape[-1])
    pairs = cells.sum(axis=-1) / counts.bins**2
    of_margins = 2 * xlogy(counts.margins, counts.margins).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        of_cells = (cells * xlogy(sizes, sizes)).sum(axis=-1) / pairs
    d = counts.variables
    return np.asarray(np.where(pairs > 0, (of_cells - of_margins + xlogy(d, d)) / d, np.nan))


def keyed_nbytes_for(keys: TokenKeys, variables: int) -> tuple[int, int]:
    """Bytes of the estimates of one hook point, and what making them takes for a moment.

    Examples
    --------
    >>> keyed_nbytes_for(TokenKeys(), 768)
    (1680, 2300000)
    """
    # Measured: the chance level takes the first; steps of the larger standard errors, by key or unrelated, the second.
    at_once = TokenCounts.nbytes_for(keys, variables) * max(len(keys.names), keys.shards) / (len(keys.names) + keys.shards)
    return 8 * 10 * len(keys.names), max(2_300_000, int(2.5 * at_once))


def keyed_table(counts: TokenCounts, *, units: Units = "nats") -> pandas.DataFrame:
    """The same as a table, a row a key: `key`, `first` and `last` distance or position, `pairs`, and the estimates."""
    import pandas

    keys = counts.keys
    bounds = np.full((len(keys.names), 2), np.nan)
    if keys.bounds is not None:
        bounds[:-1] = keys.bounds
    scale = per_nat(units)
    values = {name: array if name == "shards" else scale * array for name, array in key_values(counts).items()}
    table = pandas.DataFrame({"key": keys.names, "first": bounds[:, 0], "last": bounds[:, 1], "pairs": counts.pairs, **values})
    # Keys of which there is none are left out, but for the one that all others are compared with.
    return table[(table["pairs"] > 0) | (table.index == len(table) - 1)].reset_index(drop=True)
