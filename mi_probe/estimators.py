"""Counts to nats: entropies, mutual information, chance level, corrections, standard error. Pure functions of `JointCounts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from mi_probe import kernels
from mi_probe.chance import chance_level, chance_level_of_pairs
from mi_probe.corrections import CORRECTIONS, Correction, additive_terms
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError, nearest

__all__ = ["Correction", "Estimate", "adjust", "entropy", "estimate", "estimate_tables"]

_BLOCK = 65_536
_IN_CACHE = 32_768  # pairs whose intermediate results stay there


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimates of every pair i < j, in nats and float64, in the order of `JointCounts.pair_indices`.

    Attributes
    ----------
    mi : array, shape (pairs,)
        The corrected value; may be slightly negative, and is never clipped.
    raw : array, shape (pairs,)
        The plug-in value.
    chance : array, shape (pairs,)
        Mean of the plug-in value over all pairings of the same margins.
    joint_entropy : array, shape (pairs,)
        Plug-in joint entropy.
    n : array, shape (pairs,), int64
        Samples in which both variables are present.
    entropy : array, shape (variables,)
        Plug-in entropy of each variable over its own samples.
    self_chance : array, shape (variables,)
        Chance level of each variable against a shuffled copy of itself.
    se : array, shape (pairs,), optional
        Standard error of `mi` for independent samples; None in results that were written before there was one.
    """

    mi: NDArray[np.float64]
    raw: NDArray[np.float64]
    chance: NDArray[np.float64]
    joint_entropy: NDArray[np.float64]
    n: NDArray[np.int64]
    entropy: NDArray[np.float64]
    self_chance: NDArray[np.float64]
    se: NDArray[np.float64] | None = None


def entropy(margins: NDArray[np.integer]) -> NDArray[np.float64]:
    """Plug-in entropy of each row of counts, -sum p ln p, in nats.

    Parameters
    ----------
    margins : array, shape (variables, bins)

    Returns
    -------
    array, shape (variables,)
        NaN for a row without samples.

    Examples
    --------
    >>> import numpy as np
    >>> entropy(np.array([[2, 2], [4, 0]])).round(4)
    array([0.6931, 0.    ])
    """
    from scipy.stats import entropy as scipy_entropy

    with np.errstate(invalid="ignore"):
        return np.asarray(scipy_entropy(margins, axis=1), dtype=np.float64)


def adjust(raw: NDArray[np.float64], chance: NDArray[np.float64], smallest_entropy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove the chance level so that 0 is expected at independence and the entropy is kept at functional dependence.

        adjusted = (raw - chance) * H / (H - chance),     H = min(H_x, H_y)

    This is the adjusted mutual information of Vinh, Epps and Bailey (2010), times H, so that it stays in nats. Where even a
    random pairing reaches H (hardly more samples than bins, or a constant variable), nothing can be told from chance: 0.

    Parameters
    ----------
    raw, chance, smallest_entropy : arrays of one shape, nats

    Examples
    --------
    >>> import numpy as np
    >>> adjust(np.array([0.1, 1.6]), np.array([0.1, 0.1]), np.array([1.6, 1.6]))
    array([0. , 1.6])
    """
    adjusted = (raw - chance) * _stretch(chance, smallest_entropy)
    return np.where(np.isnan(raw), np.nan, adjusted)


def _stretch(chance: NDArray[np.float64], smallest_entropy: NDArray[np.float64]) -> NDArray[np.float64]:
    """H / (H - chance), and 0 where nothing can be told from chance."""
    room = smallest_entropy - chance
    return np.divide(smallest_entropy, room, out=np.zeros_like(room), where=room > 1e-9)


def estimate(counts: JointCounts, *, correction: Correction = "adjusted") -> Estimate:
    """Estimate the mutual information of every pair from its joint counts.

    The standard error is that of the delta method for independent samples (Basharin 1959; Paninski 2003, Neural Computation
    15:1191), and at least its value at independence, se_0 = sqrt(d/2)/N with d = (K_x - 1)(K_y - 1) degrees of freedom:

        se^2 = (1/N) [ sum p_ij ln^2(p_ij / (p_i q_j)) - I^2 ] - se_0^2 chance/I

    The last term is ours: at independence the first one is 2 se_0^2 on average.

    Parameters
    ----------
    counts : JointCounts
    correction : str
        What `Estimate.mi` holds:

        - ``"adjusted"``: 0 in expectation at independence, the entropy for a copy (`adjust`);
        - ``"none"``: the plug-in value;
        - ``"chance"``: the plug-in value less the chance level (over-corrects as dependence grows);
        - ``"miller_madow"``, ``"jackknife"``, ``"grassberger"``: `mi_probe.corrections.additive_terms`;
        - ``"panzeri_treves"``: the number of bins that each response really has, by their Bayesian count (Panzeri and Treves
          1996, Network 7:87), the mean over both directions.

    Returns
    -------
    Estimate
        A pair without a sample is NaN; a pair with a constant variable is 0.

    Raises
    ------
    InputError
        Unknown correction.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([[0, 0], [1, 1]] * 50, dtype=np.uint8)
    >>> estimate(JointCounts.from_codes(codes, bins=2)).mi.round(4)  # two copies share their entropy, ln 2
    array([0.6931])
    """
    _require_known(correction)
    level, self_chance = _chance(counts)
    terms = additive_terms(correction)
    sums = _sums_from_margins(counts) if terms is None and _is_whole(counts) else kernels.pair_sums(counts.tables, *(terms or ()))
    bias = counts.of_tables(lambda tables, _: kernels.relevant_bins_bias(tables)) if correction == "panzeri_treves" else None
    values = _values(sums, level, correction, bias)
    found = Estimate(values.mi, values.raw, level, values.joint_entropy, sums.n, entropy(counts.margins), self_chance, values.se)
    for array in vars(found).values():
        array.flags.writeable = False
    return found


def estimate_tables(tables: NDArray[np.integer], *, correction: Correction = "adjusted") -> tuple[NDArray[np.float64], ...]:
    """Estimate the mutual information of tables that need not be all pairs of some variables.

    Parameters
    ----------
    tables : array, shape (tables, bins, bins), integer
    correction : str
        As for `estimate`.

    Returns
    -------
    mi, se, raw, chance : arrays, shape (tables,), nats
        NaN for a table without samples.

    Raises
    ------
    InputError
        Unknown correction.

    Examples
    --------
    >>> import numpy as np
    >>> mi, se, raw, chance = estimate_tables(np.array([[[50, 0], [0, 50]], [[25, 25], [25, 25]]]))
    >>> mi.round(4)
    array([ 0.6931, -0.0051])
    """
    _require_known(correction)
    level = chance_level_of_pairs(tables.sum(axis=2), tables.sum(axis=1))
    sums = kernels.pair_sums(tables, *(additive_terms(correction) or ()))
    level_or_nan = np.where(tables.any(axis=(1, 2)), level, np.nan)
    bias = kernels.relevant_bins_bias(tables) if correction == "panzeri_treves" else None
    values = _values(sums, level_or_nan, correction, bias)
    return values.mi, values.se, values.raw, level


def _require_known(correction: str) -> None:
    if correction not in CORRECTIONS:
        hint = nearest(str(correction), CORRECTIONS)
        raise InputError(f"correction {correction!r} is not known{hint}; choose one of {', '.join(CORRECTIONS)}.")


def _is_whole(counts: JointCounts) -> bool:
    """Whether each variable has the same margins in all of its pairs: some samples, and no value is missing."""
    return counts.n > 0 and counts.pairs > 0 and not counts.missing.any()


def _sums_from_margins(counts: JointCounts) -> kernels.PairSums:
    """What `kernels.pair_sums` finds, where only the cells need a look: of codes, where there are no tables yet."""
    pairs, margins, n = counts.pair_indices, counts.margins, counts.n
    if counts.codes is not None:
        joint, spread = kernels.cell_sums_of_codes(counts.codes, pairs, margins)
    else:
        joint, spread = kernels.cell_sums(counts.tables, pairs, margins, n)
    of_variable = xlogy(margins, margins).sum(axis=1)
    occupied = np.count_nonzero(margins, axis=1).astype(np.int32)
    row, column = (of_variable[side] for side in pairs)
    rows, columns = (occupied[side] for side in pairs)
    nothing = np.zeros(counts.pairs)
    return kernels.PairSums(joint, row, column, nothing, spread, np.full(counts.pairs, n), rows, columns)


class _Values(NamedTuple):
    """Each of shape (tables,)."""

    mi: NDArray[np.float64]
    raw: NDArray[np.float64]
    joint_entropy: NDArray[np.float64]
    se: NDArray[np.float64]


def _values(
    sums: kernels.PairSums, level: NDArray[np.float64], correction: Correction, bias: NDArray[np.float64] | None
) -> _Values:
    """Values of each table, given its sums, its chance level, and n times its bias where a correction needs more than these."""
    found = _Values(*(np.empty(len(level)) for _ in range(4)))  # each on its own: some are kept, others are not
    for start in range(0, len(level), _IN_CACHE):
        part = slice(start, start + _IN_CACHE)
        some = kernels.PairSums(**{name: values[part] for name, values in sums._asdict().items()})
        for whole, values in zip(
            found, _values_of_some(some, level[part], correction, None if bias is None else bias[part]), strict=True
        ):
            whole[part] = values
    return found


def _values_of_some(
    sums: kernels.PairSums, level: NDArray[np.float64], correction: Correction, bias: NDArray[np.float64] | None
) -> _Values:
    terms = additive_terms(correction)
    n = sums.n.astype(np.float64)
    # A constant variable shares nothing; rounding must not say otherwise.
    constant = (sums.rows == 1) | (sums.columns == 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_n = np.log(n)
        h_row, h_column, h_joint = (log_n - s / n for s in (sums.row, sums.column, sums.joint))
        raw = np.where(constant, 0.0, h_row + h_column - h_joint)
        freedom = (sums.rows - 1.0) * (sums.columns - 1.0)
        independent = freedom / (2 * n**2)
        variance = (sums.spread / n - raw**2) / n - independent * np.clip(level / raw, 0, 1)
        se = np.where(constant, 0.0, np.sqrt(np.maximum(variance, independent)))

        mi = raw
        if terms is not None:
            mi = raw + (sums.correction + terms.of_total(sums.n, correction)) / n
        elif bias is not None:
            mi = raw - bias / n
        elif correction == "chance":
            mi = raw - level
        elif correction == "adjusted":
            smallest = np.minimum(h_row, h_column)
            mi = adjust(raw, level, smallest)
            se = se * _stretch(level, smallest)
    return _Values(np.where(constant, 0.0, mi), raw, h_joint, se)


def _chance(counts: JointCounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chance levels of the pairs and of each variable with itself; pairs with a missing value take their own margins."""
    variables = counts.variables
    first, second = counts.pair_indices
    gaps = counts.missing > 0
    level = np.full(counts.pairs, np.nan)
    self_chance = np.full(variables, np.nan)
    whole = np.flatnonzero(~gaps)
    if counts.n and len(whole):
        square = chance_level(counts.margins[whole])
        self_chance[whole] = np.diagonal(square)
        if len(whole) == variables:
            return square[first, second], self_chance
        place = np.full(variables, -1)
        place[whole] = np.arange(len(whole))
        both = ~gaps[first] & ~gaps[second]
        level[both] = square[place[first[both]], place[second[both]]]
    broken = np.flatnonzero(gaps[first] | gaps[second])
    for start in range(0, len(broken), _BLOCK):
        part = broken[start : start + _BLOCK]
        tables = counts.tables[part]
        level[part] = np.where(tables.any(axis=(1, 2)), chance_level_of_pairs(tables.sum(axis=2), tables.sum(axis=1)), np.nan)
    margins = counts.margins[gaps]
    self_chance[gaps] = np.where(margins.sum(axis=1) > 0, chance_level_of_pairs(margins, margins), np.nan)
    return level, self_chance
