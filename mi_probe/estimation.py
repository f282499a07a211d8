"""From counts or arrays to labelled estimates, with every column that they allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe import independence
from mi_probe.binning import Binning, BinningMethod, Side, as_samples
from mi_probe.continuous import continuous
from mi_probe.copula import binned_copula_correlation
from mi_probe.corrections import Correction
from mi_probe.counts import JointCounts, tables_in_a_block
from mi_probe.errors import InputError
from mi_probe.estimators import Estimate, estimate
from mi_probe.extras import LAGS, MIN_SHARDS, Extras
from mi_probe.gaussian import gaussian_mi, normal_scores, pearson
from mi_probe.independence import PValues
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.pointresult import PairwiseMI
from mi_probe.shards import shard_errors
from mi_probe.subset import Pairs, Subset, as_pairs

__all__ = ["Columns", "EstimateBytes", "estimate_columns", "estimate_nbytes_for", "estimate_point", "labelled", "pairwise"]


class EstimateBytes(NamedTuple):
    """What estimating one hook point takes."""

    results: int
    """Of all columns: they stay, and are what a file holds."""
    working: int
    """For a moment, beside the counts and the results."""


def estimate_nbytes_for(
    variables: int, pairs: int, bins: int, method: BinningMethod, extras: Extras, *, p_values: bool = True
) -> EstimateBytes:
    """Bytes that `estimate_point` takes, for the default correction and test.

    Examples
    --------
    >>> estimate_nbytes_for(768, 294_528, 8, "equal_count", Extras(lags=12)).results
    23586816
    """
    unbinned = method == "equal_count"
    columns = 7 + 2 * unbinned + p_values + 2 * extras.moments + extras.swap + (extras.shards > 0)
    results = 8 * (columns * pairs + 4 * variables)
    # Peaks of the steps, measured, with the results until then: nearly all is in arrays of one number a pair.
    peak = 8 * pairs * max(14, (23 if unbinned else 19) * p_values)
    if unbinned:
        peak = max(peak, 8 * (9 * pairs + (38 if bins >= 6 else 25) * min(pairs, tables_in_a_block(bins))))
    peak += 8 * pairs * (3 * extras.moments + extras.swap)
    # The chance level: it is tabled by the counts that differ, as many as bins in all if these are of unlike size.
    peak = max(peak, 8 * (3 * variables**2 + 6 * pairs + (0 if unbinned else variables * bins * (variables + 512))))
    if extras.shards:  # the counts without one shard, the ones before, and two more copies on the way
        peak = max(peak, 4 * JointCounts.nbytes_for(variables, pairs, bins) + 8 * pairs * (28 + 3 * extras.moments + extras.swap))
    if extras.lags and p_values:
        width = 2 * extras.lags + 1
        peak = max(peak, 8 * pairs * 14 + 8 * variables * width * (4 * bins**2 + 3 * width))
    return EstimateBytes(results, peak - results)


def estimate_point(
    counts: PointCounts,
    *,
    correction: Correction = "adjusted",
    p_values: PValues = "auto",
    names: Sequence[str] | None = None,
    columns: Mapping[str, NDArray[np.float64]] | None = None,
    notes: Sequence[str] = (),
) -> PairwiseMI:
    """Estimate, with labels, from all that was counted at one point.

    Parameters
    ----------
    counts : PointCounts
    correction : str
        See `mi_probe.estimators.estimate`.
    p_values : str
        See `mi_probe.independence.p_values`.
    names : sequence of str, optional
        Names of the variables; by default the indices of their dimensions, 0, 1, 2, ... unless some were chosen.
    columns : dict of str -> array, shape (pairs,), optional
        Further columns that the caller knows.
    notes : sequence of str
        Further notes, such as `mi_probe.Probe.choices`.

    Raises
    ------
    InputError
        Unknown correction, or a test that these counts do not allow.
    """
    found = estimate_columns(counts, correction=correction, p_values=p_values, columns=columns)
    return labelled(counts, found, correction=correction, names=names, notes=notes)


class Columns(NamedTuple):
    """Estimates of pairs that have no labels yet."""

    found: Estimate
    more: dict[str, NDArray[np.float64]]
    """Columns beside those, each of shape (pairs,)."""
    note: str
    """On where p-values come from, or why there are none."""


def estimate_columns(
    counts: PointCounts,
    *,
    correction: Correction = "adjusted",
    p_values: PValues = "auto",
    columns: Mapping[str, NDArray[np.float64]] | None = None,
) -> Columns:
    """Every column of the pairs that have their tables here: all of them, or one share. Parameters as for `estimate_point`."""
    counts.require_whole()
    joint = counts.joint
    found = estimate(joint, correction=correction)
    more = dict(columns or {})
    if "gaussian" not in more:
        more["gaussian"] = gaussian_mi(binned_copula_correlation(joint), found.n)
    if counts.moments is not None:
        upper = joint.pair_indices
        more["correlation"] = counts.moments.correlation()[upper]
        more["linear"] = gaussian_mi(more["correlation"], counts.moments.n[upper])
    if counts.shards:
        more["shard_se"] = shard_errors(joint, counts.shards, correction)
    if counts.swapped is not None and counts.swapped.n:
        more["swap"] = estimate(counts.swapped, correction=correction).mi
    if _can_be_unbinned(counts):
        enough = found.n >= joint.bins**2
        unbinned = joint.of_tables(lambda tables, _: np.stack(continuous(tables)))
        more["continuous"], more["continuous_se"] = np.where(enough, unbinned, np.nan)
    p, note = independence.p_values(counts, found.raw, p_values)
    if p is not None:
        more["p"] = p
    for array in more.values():
        array.flags.writeable = False
    return Columns(found, more, note)


def labelled(
    counts: PointCounts,
    columns: Columns,
    *,
    correction: Correction,
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> PairwiseMI:
    """Columns of all pairs, with the labels and notes that their counts give them; of these one share is enough.

    The parameters are those of `estimate_point`.
    """
    joint, binning = counts.joint, counts.binning
    found, more, note = columns
    widths = binning.first, binning.variables - binning.first
    return PairwiseMI(
        found,
        counts.binning.names if names is None else tuple(map(str, names)),
        joint.n,
        joint.missing.copy(),
        joint.bins,
        counts.binning.method,
        correction,
        more,
        joint.trimmed.copy(),
        tuple(filter(None, (note, *_notes(counts, found), *notes))),
        joint.listed,
        tuple(Side(side.point, width) for side, width in zip(binning.sides, widths, strict=False)),
    )


def _can_be_unbinned(counts: PointCounts) -> bool:
    return counts.binning.method == "equal_count" and counts.joint.n >= counts.joint.bins**2


def _notes(counts: PointCounts, found: Estimate) -> list[str]:
    joint = counts.joint
    notes = []
    sides = counts.binning.sides
    for where, of in [(f" of {side.point}", counts.binning.of_side(k)) for k, side in enumerate(sides)] or [("", counts.binning)]:
        if of.dimensions is not None:
            notes.append(f"{of.variables:,} of {of.width:,} dimensions{where} were counted")
    if joint.listed is not None and not sides:
        every = joint.variables * (joint.variables - 1) // 2
        notes.append(f"{len(joint.listed):,} of {every:,} pairs were counted")
    if counts.binning.method != "equal_count":
        notes.append("no continuous column: it takes equal-count bins")
    elif not _can_be_unbinned(counts):
        notes.append(f"no continuous column: {joint.n:,} samples in {joint.bins**2:,} cells cannot show what bins lose")
    elif (found.n < joint.bins**2).any():
        few = np.count_nonzero(found.n < joint.bins**2)
        notes.append(f"{few:,} pairs have fewer samples than cells: their continuous value is NaN")
    constant, absent = np.count_nonzero(found.entropy == 0), np.count_nonzero(np.isnan(found.entropy))
    if constant:
        notes.append(f"constant variables: {constant}; they share 0 with every other")
    if absent:
        notes.append(f"variables without any value: {absent}; their pairs are NaN")
    if counts.swapped is not None and not counts.swapped.n:
        notes.append("no swap column: it takes two documents with tokens at the same positions")
    elif counts.swapped is not None and counts.swapped.n < joint.n:
        share = counts.swapped.n / (2 * joint.n)
        notes.append(f"swap is from {share:.0%} of the samples: those at positions that documents before had, too")
    used = sum(shard.n > 0 for shard in counts.shards)
    if counts.shards and used < MIN_SHARDS:
        notes.append(
            f"only {used} of {len(counts.shards)} shards have samples: shard_se is as coarse as that. It takes more documents"
        )
    if counts.moments is not None and counts.moments.clipped.sum() > 1e-3 * joint.n * joint.variables:
        share = counts.moments.clipped.sum() / (joint.n * joint.variables)
        notes.append(f"{share:.1%} of the values were more than 32 standard deviations off: linear counts them as that far")
    return notes


def pairwise(
    x: ArrayLike,
    *,
    bins: int | Literal["auto"] = "auto",
    method: BinningMethod = "equal_count",
    correction: Correction = "adjusted",
    trim_z: float | None = None,
    p_values: PValues = "auto",
    names: Sequence[str] | None = None,
    pairs: Pairs | Sequence[Sequence[int]] = "all",
    seed: int = 0,
) -> PairwiseMI:
    """Mutual information between every two columns of an array, or some of them.

    Parameters
    ----------
    x : array, shape (samples, variables)
        NumPy array, torch tensor or pandas DataFrame. NaN and infinite values are left out, pair by pair, and counted.
    bins : int or "auto"
        Bins of each variable; "auto" is about four samples a cell, at least 3 and at most 16 (5 for 94 samples).
    method : {"equal_count", "equal_width"}
        ``equal_width`` with 15 bins gives, with ``correction="none"``, what a hand-written `numpy.histogram2d` gives.
    correction : str
        What ``.mi`` holds; ``.raw`` and ``.chance`` are there in any case. See `mi_probe.estimators.estimate`.
    trim_z : float, optional
        Leave out values further than this many standard deviations from the mean of their variable; they are counted apart, in
        ``.trimmed``. All count by default.
    p_values : {"auto", "serial", "gamma", "permutation", "none"}
        Test of independence, see `mi_probe.independence.p_values`. By default one that allows for rows that resemble the rows
        before them, as tokens of a text do; none beyond 100,000 rows.
    names : sequence of str, optional
        Names of the variables; a DataFrame's columns, or 0, 1, 2, ... by default.
    pairs : "all", int, or sequence of (int, int)
        Every pair of columns; this many of them, drawn at random; or these, by column number.
    seed : int
        For random pairs.

    Returns
    -------
    PairwiseMI

    Raises
    ------
    InputError
        `x` is not samples x variables, `names` has another length, `pairs` are not pairs of its columns, or the correction or
        test is not known or cannot be done.
    BinningError
        Unknown method, impossible number of bins or `trim_z`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((94, 200))
    >>> shared = pairwise(x, bins=15, method="equal_width")
    >>> print(f"{shared.pairs('raw').mean():.2f} nats, of which {shared.pairs('chance').mean():.2f} by chance")
    0.76 nats, of which 0.76 by chance
    """
    if names is None and hasattr(x, "columns"):
        names = [str(c) for c in x.columns]
    samples = as_samples(x)
    if names is not None and len(names) != samples.shape[1]:
        raise InputError(f"{len(names)} names were given for {samples.shape[1]} variables.")
    chosen = Subset(pairs=as_pairs(pairs), seed=seed)
    if chosen.problems():
        raise InputError(f"{'; '.join(chosen.problems())}.")
    chosen.columns(samples.shape[1])  # raises unless all pairs are of its columns
    binning = Binning.fit(samples, method=method, bins=bins, trim_z=trim_z)
    codes = binning.encode(samples)
    extras = Extras(lags=LAGS if p_values in ("auto", "serial") else 0)
    counts = PointCounts(binning, extras, chosen.positions(None, samples.shape[1]))
    counts.update(codes, Places.of_one_text(len(samples)))
    kept = np.where(codes < binning.bins, samples, samples.dtype.type(np.nan))
    gaussian, (correlation, linear) = _gaussian(normal_scores(kept), counts)[1], _gaussian(kept, counts)
    columns = {"gaussian": gaussian, "linear": linear, "correlation": correlation}
    return estimate_point(counts, correction=correction, p_values=p_values, names=names, columns=columns)


def _gaussian(x: NDArray[np.floating], counts: PointCounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The correlation of every pair, and what Gaussian variables with it share."""
    upper = counts.joint.pair_indices
    present = (np.isfinite(x)).astype(np.float64)
    n = (present.T @ present)[upper] if counts.joint.missing.any() else np.full(len(upper[0]), len(x))
    correlation = pearson(x)[upper]
    return correlation, gaussian_mi(correlation, n)
