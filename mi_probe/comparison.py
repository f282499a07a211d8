"""Groups of values compared: MI that changes with distance, two groups of MI, two correlations; each with its p-value.

All tests take their values to be independent of each other. MI values of pairs that share a variable, or that were estimated from
the same tokens, are not: their p-values are too small. Take values from different texts, or one value a text; whether pairs of a
few tokens have a trend over distance, `mantel` tells.

Where a test has nothing to go by (two points, a constant group), its numbers are NaN and its `note` says why; nothing is raised.

>>> from mi_probe import comparison
>>> near, far = [0.31, 0.28, 0.35, 0.30], [0.11, 0.09, 0.14, 0.12]
>>> blocks = {"blocks.0": comparison.compare_means(near, far), "blocks.1": comparison.compare_means(near, near)}
>>> comparison.collect(blocks)[["difference", "p", "p_bonferroni", "q"]].round(4)
          difference       p  p_bonferroni       q
blocks.0       0.195  0.0001        0.0001  0.0001
blocks.1       0.000  1.0000        1.0000  1.0000
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.errors import InputError, nearest, several
from mi_probe.result import MIResult
from mi_probe.significance import FalseDiscoveries, false_discovery

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Alternative",
    "CorrelationDifference",
    "CorrelationKind",
    "MeanDifference",
    "RankTrend",
    "against_unrelated",
    "bonferroni",
    "collect",
    "compare_correlations",
    "compare_means",
    "mantel",
    "rank_trend",
    "reach",
]

Floats = NDArray[np.float64]
Alternative = Literal["two-sided", "less", "greater"]
CorrelationKind = Literal["pearson", "kendall"]

_NAN = float("nan")
_ROUNDING = 1e-12  # a spread below this part of the values is rounding

_VARIANCES: dict[str, tuple[float, int]] = {"pearson": (1.0, 3), "kendall": (0.437, 4)}
"""The variance of atanh of a correlation from n samples is a / (n - b)."""


@dataclass(frozen=True)
class RankTrend:
    """Whether values rise or fall with distance, in whatever shape; of `rank_trend`.

    Attributes
    ----------
    tau : float
        Kendall's tau-b, -1 (always falls) to 1 (always rises).
    p : float
    n : int
        Points that were used: those where both are finite.
    note : str
        Why there is no tau, if there is none.
    """

    tau: float
    p: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class MeanDifference:
    """How far apart the means of two groups are; of `compare_means`.

    Attributes
    ----------
    difference : float
        Mean of the first group less mean of the second, in the unit of the values.
    se : float
        Its standard error.
    low, high : float
        Ends of its 95 % confidence interval.
    t, df, p : float
        Student's t, its degrees of freedom, the p-value.
    mean_first, mean_second : float
    n_first, n_second : int
        Values that were used: those that are finite.
    note : str
        Why there is no p-value, if there is none.
    """

    difference: float
    se: float
    low: float
    high: float
    t: float
    df: float
    p: float
    mean_first: float
    mean_second: float
    n_first: int
    n_second: int
    note: str = ""


@dataclass(frozen=True)
class CorrelationDifference:
    """How far apart two correlations are; of `compare_correlations`.

    Attributes
    ----------
    difference : float
        The first less the second.
    z, p : float
        Fisher's z of the difference, a standard normal variable if there is none; the p-value.
    first, second : float
    n_first, n_second : int
    kind : {"pearson", "kendall"}
    note : str
        Why there is no p-value, if there is none.
    """

    difference: float
    z: float
    p: float
    first: float
    second: float
    n_first: int
    n_second: int
    kind: CorrelationKind
    note: str = ""


def rank_trend(distance: ArrayLike, values: ArrayLike, *, alternative: Alternative = "two-sided") -> RankTrend:
    """Kendall's rank correlation of values with distance, tau-b, which allows for ties.

    The p-value is exact for few points without ties, and normal with the variance that ties leave otherwise (Kendall 1945,
    Biometrika 33:239; as in `scipy.stats.kendalltau`).

    Parameters
    ----------
    distance, values : arrays, shape (points,)
        Points where either is not finite are left out.
    alternative : {"two-sided", "less", "greater"}
        "less": values fall with distance.

    Returns
    -------
    RankTrend
        NaN and a note below three points, and where all distances or all values are equal.

    Raises
    ------
    InputError
        Distances and values of different length, or an unknown alternative.

    Examples
    --------
    >>> round(rank_trend([1, 2, 3, 4, 5, 6], [0.9, 0.5, 0.4, 0.2, 0.21, 0.1]).tau, 2)
    -0.87
    >>> rank_trend([1, 2], [0.9, 0.5]).note
    '2 points are too few for a trend: it takes 3'
    """
    _require_alternative(alternative)
    x, y = np.asarray(distance, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(
            f"a trend takes one distance for each value, two rows of equal length; got shapes {x.shape} and {y.shape}."
        )
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(x) < 3:
        return RankTrend(
            _NAN, _NAN, len(x), f"{several(len(x), 'point')} {'is' if len(x) == 1 else 'are'} too few for a trend: it takes 3"
        )
    for name, side in (("distances", x), ("values", y)):
        if np.ptp(side) == 0:
            return RankTrend(_NAN, _NAN, len(x), f"all {len(x)} {name} are equal")
    from scipy.stats import kendalltau

    found = kendalltau(x, y, alternative=alternative)
    return RankTrend(float(found.statistic), float(found.pvalue), len(x))


def mantel(
    positions: ArrayLike, values: ArrayLike, *, draws: int = 1999, seed: int = 0, alternative: Alternative = "two-sided"
) -> RankTrend:
    """`rank_trend` of all pairs of some tokens, with a p-value that allows for the tokens that pairs share.

    Of k tokens there are k (k - 1) / 2 pairs, but only k places to deal out: if distance does not matter, the tokens could as
    well stand at each other's. The p-value is how often places that were dealt out at random have a rank correlation
    (Spearman's) of values with distance at least as far from 0 as the one found (Mantel 1967, Cancer Res. 27:209; by ranks as
    Dietz 1983, Syst. Zool. 32:21). It is no less than 1 / (draws + 1), and of three tokens, which have six orders, no less than
    about 1 / 6.

    Parameters
    ----------
    positions : array, shape (tokens,)
        Where each token stands.
    values : array, shape (pairs,)
        Of the pairs i < j of tokens, in the order of ``numpy.triu_indices(tokens, 1)``: that of `PairwiseMI.pairs`.
    draws : int
        Random orders.
    seed : int
    alternative : {"two-sided", "less", "greater"}
        "less": values fall with distance.

    Returns
    -------
    RankTrend
        Without a p-value, and with a note, where there is no tau or some values are not finite.

    Raises
    ------
    InputError
        Not as many values as pairs, no draw, or an unknown alternative.

    Examples
    --------
    >>> import numpy as np
    >>> positions = np.array([3, 10, 14, 30, 41, 55, 78])
    >>> i, j = np.triu_indices(7, 1)
    >>> found = mantel(positions, 1 / (positions[j] - positions[i]))
    >>> round(found.tau, 2), found.p < 0.01
    (-1.0, True)
    """
    where, mi = np.asarray(positions, dtype=np.float64), np.asarray(values, dtype=np.float64)
    tokens = where.size
    if where.ndim != 1 or mi.shape != (tokens * (tokens - 1) // 2,):
        raise InputError(
            f"this takes positions of tokens and a value for each pair of them; got shapes {where.shape} and {mi.shape}."
        )
    if not hasattr(draws, "__index__") or isinstance(draws, bool) or draws < 1:
        raise InputError(f"draws must be a whole number, at least 1; got {draws!r}.")
    i, j = np.triu_indices(tokens, 1)
    distance = np.abs(where[j] - where[i])
    plain = rank_trend(distance, mi, alternative=alternative)
    if plain.note:
        return plain
    if plain.n < len(mi):
        return RankTrend(
            plain.tau, _NAN, plain.n, f"{len(mi) - plain.n} of {len(mi)} values are missing: no order can be dealt out"
        )
    from scipy.stats import rankdata

    far, much = rankdata(distance), rankdata(mi)
    far, much = far - far.mean(), much - much.mean()
    square = np.zeros((tokens, tokens))
    square[i, j] = square[j, i] = far
    rng = np.random.default_rng(seed)
    order = (rng.permutation(tokens) for _ in range(draws))
    dealt = np.array([square[places[i], places[j]] @ much for places in order])
    found = float(far @ much)
    slack = _ROUNDING * np.sqrt((far @ far) * (much @ much))  # equal orders differ by rounding
    sign = {"two-sided": (np.abs(dealt), abs(found)), "less": (-dealt, -found), "greater": (dealt, found)}
    against, ours = sign[alternative]
    return RankTrend(plain.tau, (1 + int((against >= ours - slack).sum())) / (draws + 1), plain.n)


def compare_means(
    first: ArrayLike, second: ArrayLike, *, equal_variances: bool = False, alternative: Alternative = "two-sided"
) -> MeanDifference:
    """Welch's t-test of two independent groups, or Student's.

        t = (m1 - m2) / se
        Welch (1947, Biometrika 34:28):   se^2 = s1^2/n1 + s2^2/n2,   df = se^4 / [(s1^2/n1)^2/(n1 - 1) + (s2^2/n2)^2/(n2 - 1)]
        Student (1908, Biometrika 6:1):   se^2 = s^2 (1/n1 + 1/n2),   df = n1 + n2 - 2,   s^2 the pooled variance

    Parameters
    ----------
    first, second : arrays
        The values of each group, in any shape; those that are not finite are left out.
    equal_variances : bool
        Take both groups to spread alike: Student's test. Welch's needs no such assumption, and loses little where it holds.
    alternative : {"two-sided", "less", "greater"}
        "less": the first mean is the smaller one.

    Returns
    -------
    MeanDifference
        Without a p-value, and with a note, where a group has fewer than two values or none of them differ.

    Raises
    ------
    InputError
        An unknown alternative.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = compare_means(rng.normal(0.3, 0.1, 40), rng.normal(0.2, 0.05, 60), alternative="greater")
    >>> round(found.difference, 1), found.p < 1e-4
    (0.1, True)
    """
    _require_alternative(alternative)
    groups = [np.ravel(np.asarray(group, dtype=np.float64)) for group in (first, second)]
    one, two = (group[np.isfinite(group)] for group in groups)
    means = [float(group.mean()) if len(group) else _NAN for group in (one, two)]
    difference = means[0] - means[1]

    def without(note: str) -> MeanDifference:
        return MeanDifference(difference, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, means[0], means[1], len(one), len(two), note)

    if min(len(one), len(two)) < 2:
        return without(f"groups of {len(one)} and {len(two)} values are too small: each takes 2")
    shares = [float(group.var(ddof=1)) / len(group) for group in (one, two)]
    df = float(len(one) + len(two) - 2)
    if equal_variances:
        pooled = sum((len(group) - 1) * float(group.var(ddof=1)) for group in (one, two)) / df
        square = pooled * (1 / len(one) + 1 / len(two))
    else:
        square = sum(shares)
    se = float(np.sqrt(square))
    if se <= _ROUNDING * max(np.abs(one).max(), np.abs(two).max()):
        return without("the values of each group are all equal")
    if not equal_variances:
        df = float(square**2 / sum(share**2 / (len(group) - 1) for share, group in zip(shares, (one, two), strict=True)))
    from scipy.special import stdtr, stdtrit

    t = difference / se
    p = _tail(float(stdtr(df, t)), float(stdtr(df, -t)), alternative)
    reach = se * float(stdtrit(df, 0.975))
    low, high = difference - reach, difference + reach
    return MeanDifference(difference, se, low, high, t, df, p, means[0], means[1], len(one), len(two))


def compare_correlations(
    first: float,
    n_first: int,
    second: float,
    n_second: int,
    *,
    kind: CorrelationKind = "pearson",
    alternative: Alternative = "two-sided",
) -> CorrelationDifference:
    """Fisher's z-test: do two correlations differ, each from samples of its own?

        z = [atanh(r1) - atanh(r2)] / sqrt[v(n1) + v(n2)]
        Pearson's r (Fisher 1921, Metron 1:3):                                     v(n) = 1 / (n - 3)
        Kendall's tau (Fieller, Hartley and Pearson 1957, Biometrika 44:470):      v(n) = 0.437 / (n - 4)

    For normal variables, or for tau ones that a monotone map makes normal; that of tau is an approximation, by its authors for 10
    samples or more and correlations that are not extreme.

    Parameters
    ----------
    first, second : float
        The two correlations.
    n_first, n_second : int
        Samples that each is from.
    kind : {"pearson", "kendall"}
    alternative : {"two-sided", "less", "greater"}
        "less": the first correlation is the smaller one.

    Returns
    -------
    CorrelationDifference
        Without a p-value, and with a note, where a correlation is NaN, 1 or -1, or is from no more than 3 samples (4 for tau).

    Raises
    ------
    InputError
        A correlation beyond -1 to 1, a number of samples that is none, an unknown kind or alternative.

    Examples
    --------
    >>> found = compare_correlations(0.6, 103, 0.2, 103)
    >>> round(found.z, 2), round(found.p, 4)
    (3.47, 0.0005)
    """
    _require_alternative(alternative)
    if kind not in _VARIANCES:
        raise InputError(f"kind must be one of {get_args(CorrelationKind)}; got {kind!r}{nearest(str(kind), _VARIANCES)}.")
    for r in (first, second):
        if abs(r) > 1:
            raise InputError(f"a correlation is between -1 and 1; got {r!r}.")
    for n in (n_first, n_second):
        if not hasattr(n, "__index__") or isinstance(n, bool) or n < 0:
            raise InputError(f"the number of samples of a correlation must be a whole number; got {n!r}.")
    (scale, lost), note = _VARIANCES[kind], ""
    if np.isnan([first, second]).any():
        note = "a correlation is not known"
    elif min(n_first, n_second) <= lost:
        note = f"correlations from {n_first:,} and {n_second:,} samples have no error: each takes more than {lost}"
    elif max(abs(first), abs(second)) == 1:
        note = "a correlation of 1 or -1 has no error"
    z = p = _NAN
    if not note:
        from scipy.special import ndtr

        error = np.sqrt(scale / (n_first - lost) + scale / (n_second - lost))
        z = float((np.arctanh(first) - np.arctanh(second)) / error)
        p = _tail(float(ndtr(z)), float(ndtr(-z)), alternative)
    return CorrelationDifference(
        float(first - second), z, p, float(first), float(second), int(n_first), int(n_second), kind, note
    )


def bonferroni(p: Floats) -> Floats:
    """P-values times their number, at most 1: each holds whichever of them is picked out.

    Parameters
    ----------
    p : array
        NaN stays NaN and does not count.

    Raises
    ------
    InputError
        A value outside 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> bonferroni(np.array([0.01, np.nan, 0.04, 0.5]))
    array([0.03,  nan, 0.12, 1.  ])
    """
    values = np.asarray(p, dtype=np.float64)
    known = values[~np.isnan(values)]
    if known.size and not (known.min() >= 0 and known.max() <= 1):
        raise InputError(f"p-values must be between 0 and 1; got {known.min()} to {known.max()}.")
    return np.asarray(np.minimum(values * known.size, 1.0))


def collect(
    results: Mapping[str, RankTrend] | Mapping[str, MeanDifference] | Mapping[str, CorrelationDifference],
    *,
    method: FalseDiscoveries = "bh",
) -> pd.DataFrame:
    """The same test at several blocks as one table, with p-values that allow for their number.

    Parameters
    ----------
    results : mapping of name -> RankTrend, MeanDifference or CorrelationDifference
        All of one kind; names become the index.
    method : {"bh", "by"}
        Of `q`; see `mi_probe.significance.false_discovery`.

    Returns
    -------
    DataFrame
        A row a block: what the results hold; `p_bonferroni`, for "at this very block"; `q`, for a list of blocks of which a share
        of at most q may be false. `note` comes last.

    Raises
    ------
    InputError
        No result, or results of several kinds.

    Examples
    --------
    >>> trends = {f"blocks.{k}": rank_trend(range(8), [0.1 * d * (k - 1) for d in range(8)]) for k in range(3)}
    >>> collect(trends)[["tau", "q", "note"]].round(4).values.tolist()
    [[-1.0, 0.0, ''], [nan, nan, 'all 8 values are equal'], [1.0, 0.0, '']]
    """
    import pandas as pd

    kinds = {type(result).__name__ for result in results.values()}
    known = (RankTrend, MeanDifference, CorrelationDifference)
    if len(kinds) != 1 or not all(isinstance(result, known) for result in results.values()):
        what = f"got {', '.join(sorted(kinds))}" if kinds else "got none"
        raise InputError(f"a table is of results of one kind: {', '.join(kind.__name__ for kind in known)}; {what}.")
    table = pd.DataFrame.from_dict({name: asdict(result) for name, result in results.items()}, orient="index")
    notes = table.pop("note")
    p = table["p"].to_numpy(dtype=np.float64)
    return table.assign(p_bonferroni=bonferroni(p), q=false_discovery(p, method=method), note=notes)


def against_unrelated(result: MIResult, unrelated: MIResult) -> pd.DataFrame:
    """How far pairs of tokens of one text lie above pairs of tokens that have nothing to do with each other.

    The null of token pairs: tokens of different texts, at the same hook points. A pair's p-value is the share of them that share
    as much as it does or more, (1 + b) / (1 + R) of R pairs (Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39).

    Parameters
    ----------
    result : MIResult
        Of `Reading.token_pairs`.
    unrelated : MIResult
        Of `Reading.unrelated`, at the same hook points.

    Returns
    -------
    DataFrame
        A row for each hook point: ``median`` and ``unrelated_median`` of the MI, in nats; ``beyond``, the share of pairs above
        95 % of the unrelated ones, .05 where the text makes no difference; and ``p_min``, the smallest p-value.

    Raises
    ------
    InputError
        The hook points differ, or no pair has an estimate.

    Examples
    --------
    >>> import mi_probe
    >>> x = np.random.default_rng(0).standard_normal((2, 128, 40))
    >>> one, other = (mi_probe.MIResult({"toy": mi_probe.pairwise(each, p_values="none")}) for each in x)
    >>> bool(against_unrelated(one, other).beyond["toy"] < 0.1)
    True
    """
    import pandas as pd

    if list(result) != list(unrelated):
        raise InputError(f"the pairs are of {', '.join(result)}, and the unrelated ones of {', '.join(unrelated)}.")
    rows = {}
    for name, point in result.items():
        mi, null = (values[np.isfinite(values)] for values in (point.pairs(), unrelated[name].pairs()))
        if not len(mi) or not len(null):
            raise InputError(
                f"at {name} no pair of {'the text' if not len(mi) else 'unrelated tokens'} has an estimate: dimensions that do "
                "not vary over the tokens that they are standardised by tell nothing. Take more text."
            )
        above = len(null) - np.searchsorted(np.sort(null), mi, side="left")
        p = (1 + above) / (1 + len(null))
        rows[name] = {
            "median": float(np.median(mi)),
            "unrelated_median": float(np.median(null)),
            "beyond": float((mi > np.quantile(null, 0.95)).mean()),
            "p_min": float(p.min()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("point")


def reach(table: pd.DataFrame) -> pd.DataFrame:
    """How far apart tokens still share more than tokens of different texts do.

    Parameters
    ----------
    table : DataFrame
        Of `ProbeState.estimate_token_pairs`, of pairs by distance.

    Returns
    -------
    DataFrame
        A row for each hook point: ``nearest`` and ``farthest``, the MI at the least and at the largest distance; ``unrelated``,
        with ``unrelated_se``; ``above``, the share of distances whose band is above unrelated by two standard errors of the
        difference; and ``reach``, the largest distance up to which every band is, 0 if not even the first is. NaN where there
        is nothing to compare with.

    Raises
    ------
    InputError
        The pairs are not counted by distance, or there is none.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [("p", "1", 1, 0.3), ("p", "2", 2, 0.2), ("p", "3-4", 3, 0.11), ("p", "unrelated", np.nan, 0.1)]
    >>> table = pd.DataFrame(rows, columns=["point", "key", "first", "mi"]).assign(last=[1, 2, 4, np.nan], se=0.02)
    >>> reach(table)[["nearest", "farthest", "unrelated", "above", "reach"]].values.tolist()
    [[0.3, 0.11, 0.1, 0.5, 2.0]]
    """
    import pandas as pd

    rows = {}
    for name, part in table.groupby("point", sort=False):
        near = part[part["key"] != "unrelated"]
        if near.empty:
            raise InputError(f"there is no pair of tokens at {name}: it takes a text in which two tokens count, near each other.")
        if near["first"].isna().any() or table.attrs.get("by", "distance") != "distance":
            raise InputError(f"the pairs of tokens at {name} are not counted by distance: take Probe(variables='tokens').")
        far = part[part["key"] == "unrelated"].iloc[0]
        above = (near["mi"] - far["mi"] > 2 * np.hypot(near["se"], far["se"])).to_numpy()
        upto = len(above) if above.all() else int(above.argmin())
        known = np.isfinite(far["mi"]) and np.isfinite(far["se"])
        wide = (near["last"] - near["first"] + 1).to_numpy()
        rows[name] = {
            "nearest": near["mi"].iloc[0],
            "farthest": near["mi"].iloc[-1],
            "unrelated": far["mi"],
            "unrelated_se": far["se"],
            "above": float(wide[above].sum() / wide.sum()) if known else _NAN,
            "reach": (0.0 if upto == 0 else float(near["last"].iloc[upto - 1])) if known else _NAN,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("point")


def _require_alternative(alternative: str) -> None:
    if alternative not in get_args(Alternative):
        hint = nearest(str(alternative), get_args(Alternative))
        raise InputError(f"alternative must be one of {get_args(Alternative)}; got {alternative!r}{hint}.")


def _tail(below: float, above: float, alternative: Alternative) -> float:
    """The p-value, from the probabilities of no more and of no less than what was found."""
    return {"two-sided": min(1.0, 2 * min(below, above)), "less": below, "greater": above}[alternative]
