"""How much of the dependence covariance sees, and which pairs share what it is blind to.

The excess of a pair is `continuous` less what Gaussian variables of its correlation share. It has an error, and of many pairs the
largest excess is large by chance: so it comes with a standard error and a p-value against "a Gaussian, and nothing else".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import InputError, nearest
from mi_probe.pointresult import PairwiseMI
from mi_probe.significance import FalseDiscoveries, false_discovery

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Explained", "Over", "beyond_covariance", "explained"]

Over = Literal["linear", "gaussian"]


@dataclass(frozen=True)
class Explained:
    """Means over the pairs of one hook point, nats.

    Attributes
    ----------
    pairs : int
        That have all three; exact copies, whose Gaussian share has no limit, are left out.
    continuous, gaussian, linear : float
        As in `mi_probe.pointresult.COLUMNS`.
    """

    pairs: int
    continuous: float
    gaussian: float
    linear: float

    @property
    def linear_share(self) -> float:
        """How much of the whole covariance sees; a ratio of means, so that the noise of single pairs averages out."""
        return self.linear / self.continuous if self.continuous > 0 else float("nan")

    @property
    def gaussian_share(self) -> float:
        """How much of the whole rank correlation sees: what is straight, or bent without turning back."""
        return self.gaussian / self.continuous if self.continuous > 0 else float("nan")


def explained(point: PairwiseMI) -> Explained:
    """How much of the MI of all pairs together covariance sees, and rank correlation.

    Parameters
    ----------
    point : PairwiseMI
        With the columns `continuous`, `gaussian` and `linear`.

    Raises
    ------
    InputError
        A column is not there.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> x = np.random.default_rng(0).standard_normal((5000, 3))
    >>> x[:, 1] += x[:, 0]  # a line
    >>> x[:, 2] += x[:, 0] ** 2  # a curve
    >>> round(explained(mi_probe.pairwise(x)).linear_share, 1)
    0.4
    """
    _require(point, "continuous", "gaussian", "linear")
    whole, gaussian, linear = (np.asarray(point.pairs(what)) for what in ("continuous", "gaussian", "linear"))
    usable = np.isfinite(whole) & np.isfinite(gaussian) & np.isfinite(linear)
    if not usable.any():
        return Explained(0, *(float("nan"),) * 3)
    return Explained(int(usable.sum()), *(float(column[usable].mean()) for column in (whole, gaussian, linear)))


def beyond_covariance(point: PairwiseMI, *, over: Over = "linear", method: FalseDiscoveries = "bh") -> pd.DataFrame:
    """All pairs by how much they share beyond what a Gaussian of their correlation would, the surest first.

    The p-value takes the excess over its standard error as a standard normal variable, one-sided. The errors of the two terms go
    together, and that of `continuous` alone is larger than that of their difference: of Gaussian pairs of independent samples, no
    more than .05 have p below .05, and no more than .001 below .001, at 112 to 20,000 samples and correlations from 0 to .9; over
    "gaussian" up to .08 and .002, at few samples and strong correlation (a slow test measures it).

    Tokens are not independent. Where there is `shard_se`, the error is as many times larger as that is larger than `se`. Where
    there is `p`, which allows for tokens that resemble those before them, the larger of the two p-values is taken: both must be
    small.

    Parameters
    ----------
    point : PairwiseMI
        With the columns `continuous`, `gaussian`, `linear` and `correlation`.
    over : {"linear", "gaussian"}
        The correlation of the values, or that of normal scores of ranks, which no outlier and no bend hides.
    method : {"bh", "by"}
        See `mi_probe.significance.false_discovery`.

    Returns
    -------
    DataFrame
        `i`, `j`, `continuous`, `se` (of it, with what is said above), `correlation`, `linear`, `gaussian`, `excess`, `at_least`
        (`excess` less two standard errors, by which pairs are in order), `p`, `q`. Nats but for `correlation`, `p` and `q`.

    Raises
    ------
    InputError
        A column is not there, or `over` is neither.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> x = np.random.default_rng(0).standard_normal((2000, 3))
    >>> x[:, 1] += x[:, 0]  # a line
    >>> x[:, 2] += x[:, 0] ** 2  # a curve
    >>> found = beyond_covariance(mi_probe.pairwise(x))
    >>> found[found.q <= 0.05][["i", "j"]].values.tolist()  # the third pair has a curve by way of the first variable
    [['0', '2'], ['1', '2']]
    """
    import pandas as pd
    from scipy.special import ndtr

    if over not in get_args(Over):
        raise InputError(f"over must be one of {get_args(Over)}; got {over!r}{nearest(str(over), get_args(Over))}.")
    _require(point, "continuous", "gaussian", "linear", "correlation")
    there = {what: point.pairs(what) for what in ("continuous", "correlation", "linear", "gaussian")}
    error = point.pairs("continuous_se") * _by_shards(point)
    with np.errstate(invalid="ignore"):
        excess = there["continuous"] - there[over]
    z = np.divide(excess, error, out=np.where(np.isnan(excess), np.nan, 0.0), where=error > 0)
    p = ndtr(-z)
    if "p" in point.columns:
        p = np.maximum(p, point.pairs("p"))
    first, second = point.pair_indices
    names = np.array(point.names, dtype=object)
    columns = {"continuous": there.pop("continuous"), "se": error, **there, "excess": excess, "at_least": excess - 2 * error}
    table = pd.DataFrame({"i": names[first], "j": names[second], **columns, "p": p, "q": false_discovery(p, method=method)})
    return table.sort_values("at_least", ascending=False, kind="stable", ignore_index=True)


def _by_shards(point: PairwiseMI) -> NDArray[np.float64]:
    """How many times the error is larger than for independent samples, at least 1."""
    one = np.ones(len(point.pairs("mi")))
    if "shard_se" not in point.columns or "se" not in point.columns:
        return one
    ratio = np.divide(point.pairs("shard_se"), point.pairs("se"), out=one.copy(), where=point.pairs("se") > 0)
    return np.asarray(np.fmax(ratio, one))


def _require(point: PairwiseMI, *wanted: str) -> None:
    absent = [what for what in wanted if what not in point.columns]
    if "continuous" in absent and point.method == "equal_count" and point.samples < point.bins**2:
        raise InputError(
            f"what covariance sees needs the MI before binning (`continuous`), and {point.samples:,} samples in "
            f"{point.bins**2:,} cells cannot show it: it takes at least as many samples as cells. "
            f"Take fewer than {point.bins} bins, or a longer text."
        )
    if absent:
        raise InputError(
            f"what covariance sees needs columns that are not here: {', '.join(absent)}. `continuous` takes equal-count bins and "
            "at least as many samples as cells; `linear` and `correlation` take Probe(moments=True) where values are streamed."
        )
