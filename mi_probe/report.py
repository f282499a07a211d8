"""A result in words that a newcomer understands."""

from __future__ import annotations

import numpy as np

from mi_probe.result import MIResult, PairwiseMI
from mi_probe.units import Units, per_nat

__all__ = ["describe"]


def describe(
    result: MIResult, *, top: int = 5, variables: str = "variables", samples: str = "samples", units: Units = "nats"
) -> str:
    """What was measured, how much of it is chance, how sure it is, where the strongest pairs are: a few lines of plain text.

    Parameters
    ----------
    result : MIResult
    top : int
        How many of the strongest pairs to name.
    variables, samples : str
        What these are, in the reader's words: "hidden dimensions", "tokens".
    units : {"nats", "bits"}
        What the numbers are in; the result itself stays in nats.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> x = np.random.default_rng(0).standard_normal((94, 20))
    >>> print(describe(mi_probe.MIResult({"noise": mi_probe.pairwise(x)}), top=1).splitlines()[0])
    Measured: mutual information (MI) of 190 pairs of variables at noise, over 94 samples, in nats.
    """
    points = list(result.values())
    first = points[0]
    names = list(result)
    scale = per_nat(units)
    one_family = len({name.rpartition(".")[0] for name in names}) == 1
    where = f"at each of {len(names)} hook points, {f'{names[0]} to {names[-1]}' if one_family else ', '.join(names)}"
    raw, chance, mi = (_range(points, what, scale) for what in ("raw", "chance", "mi"))
    lines = [
        f"Measured: mutual information (MI) of {len(first.pairs()):,} pairs of {variables} "
        f"{where if len(result) > 1 else 'at ' + next(iter(result))}, over {_samples(points)} {samples}, in {units}.",
        f"Binned:   each variable into {first.bins} {first.method.replace('_', '-')} bins.",
        f"Chance:   the plain histogram estimate averages {raw}, but the same values paired at random would give {chance}.",
        *_shift(result, units),
        f"Result:   with {_removed(first)}, a pair shares {mi} on average{_extremes(result)}.",
    ]
    if _there(points, "continuous"):
        lines.append(f"Unbinned: before binning, which loses some of it, {_range(points, 'continuous', scale)} on average.")
    if _there(points, "gaussian"):
        linear = f", covariance {_range(points, 'linear', scale)}" if _there(points, "linear") else ""
        lines.append(f"Monotone: rank correlations alone would give {_range(points, 'gaussian', scale)}{linear}.")
    if _there(points, "se"):
        kinds = "shard_se" if _there(points, "shard_se") else "se"
        source = "from shards of documents" if kinds == "shard_se" else f"if {samples} were independent"
        lines.append(f"Error:    one pair's value is off by {_range(points, kinds, scale)} (standard error, {source}).")
    lines += _evidence(result)
    per_cell = first.samples / first.bins**2
    if first.samples < 2 * first.bins:
        lines.append(f"Caution:  {first.samples} {samples} are too few to tell anything from chance. Take a longer text.")
    elif per_cell < 1:
        lines.append(
            f"Caution:  only {per_cell:.2f} {samples} a cell: most of the plain estimate is chance, which differs by pair. "
            "Fewer bins, or more text, would tell more."
        )
    trimmed = sum(int(p.trimmed.sum()) for p in points if p.trimmed is not None)
    missing = sum(int(p.missing.sum()) for p in points) - trimmed
    if missing:
        lines.append(f"Left out: {missing:,} values that were NaN or infinite, pair by pair.")
    if trimmed:
        lines.append(f"Trimmed:  {trimmed:,} outlying values, {_most_trimmed(result)}.")
    best = _distinct(result, top)
    if best:
        lines.append("Strongest pairs, each where it is strongest:")
        lines += [f"  {i} and {j} share {scale * mi:.3f} {units} at {point}" for point, i, j, mi in best]
    return "\n".join(lines)


def _removed(point: PairwiseMI) -> str:
    return {"adjusted": "chance removed", "none": "nothing removed", "chance": "the chance level subtracted"}.get(
        point.correction, f"the {point.correction.replace('_', '-')} correction"
    )


def _there(points: list[PairwiseMI], what: str) -> bool:
    return all(what in p.columns for p in points)


def _shift(result: MIResult, units: Units) -> list[str]:
    """Whether what chance adds is one shift for all pairs, where it visibly is not: at the hook point where it varies most."""
    spreads = {name: point.chance_spread(1) for name, point in result.items()}
    wide = {name: s.high - s.low for name, s in spreads.items() if s.least and s.high - s.low > 0.05 * s.mean}
    if not wide:
        return []
    name = max(wide, key=wide.__getitem__)
    spread, scale = spreads[name], per_nat(units)
    (least,), (most,) = spread.least, spread.most
    middle, whole = (f"{scale * low:.3f} to {scale * high:.3f}" for low, high in ((spread.low, spread.high), (least[2], most[2])))
    ends = f"{whole}, {least[0]} and {least[1]} against {most[0]} and {most[1]}"
    lines = [f"          It is no shift common to all pairs: at {name} {middle} for the middle 90 %, in all {ends}."]
    if np.isfinite(spread.rank_correlation):
        alike = f"{spread.rank_correlation:.2f} (Spearman; 1 would be the same order)"
        lines.append(f"          The order of the pairs before and after removing it: rank correlation {alike}.")
    return lines


def _evidence(result: MIResult) -> list[str]:
    """How many pairs are more than chance, or why that was not asked."""
    points = list(result.values())
    notes = [note for note in dict.fromkeys(note for p in points for note in p.notes) if note != "no p-values: not asked for"]
    lines = [f"Note:     {note}." for note in notes]
    if _there(points, "p"):
        found, pairs = sum(int(d.sum()) for d in result.discoveries().values()), sum(len(p.pairs("p")) for p in points)
        lines.append(f"Evidence: {found:,} of {pairs:,} pairs are more than chance, with at most 5 % false ones among them (BH).")
    return lines


def _most_trimmed(result: MIResult) -> str:
    totals: dict[str, int] = {}
    for point in result.values():
        for name, count in zip(point.names, point.trimmed if point.trimmed is not None else (), strict=False):
            totals[name] = totals.get(name, 0) + int(count)
    name = max(totals, key=totals.__getitem__)
    return f"most of one variable: {totals[name]:,} of {name}"


def _distinct(result: MIResult, top: int) -> list[tuple[str, str, str, float]]:
    """The strongest pairs; one that stays strong through many layers is named once."""
    table = result.top_pairs(len(result) * top).drop_duplicates(["i", "j"]).head(top)
    return list(table[["point", "i", "j", "mi"]].itertuples(index=False, name=None))


def _extremes(result: MIResult) -> str:
    """Where the pairs share least and most on average, if there are several hook points."""
    means = {name: float(np.nanmean(p.pairs("mi"))) for name, p in result.items() if np.isfinite(p.pairs("mi")).any()}
    if len(means) < 2:
        return ""
    return f" (least at {min(means, key=means.__getitem__)}, most at {max(means, key=means.__getitem__)})"


def _samples(points: list[PairwiseMI]) -> str:
    counts = sorted({p.samples for p in points})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _range(points: list[PairwiseMI], what: str, scale: float = 1.0) -> str:
    values = [p.pairs(what) for p in points]
    means = [scale * float(v[np.isfinite(v)].mean()) for v in values if np.isfinite(v).any()]
    if not means:
        return "nothing"
    low, high = min(means), max(means)
    digits = 3 if max(abs(low), abs(high)) >= 0.01 else 5
    if round(low, digits) == round(high, digits):
        return f"{low:.{digits}f}"
    return f"{low:.{digits}f} to {high:.{digits}f}"
