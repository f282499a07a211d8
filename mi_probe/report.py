"""A result in words that a newcomer understands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from mi_probe.corrections import WORDS
from mi_probe.pointresult import PairwiseMI
from mi_probe.result import MIResult, as_result
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas

__all__ = ["describe"]


def describe(
    result: MIResult | PairwiseMI,
    *,
    top: int = 5,
    variables: str = "variables",
    samples: str = "samples",
    units: Units = "nats",
    settling: pandas.DataFrame | None = None,
) -> str:
    """What was measured, how much of it is chance, how sure it is, where the strongest pairs are: a few lines of plain text.

    Parameters
    ----------
    result : MIResult or PairwiseMI
    top : int
        How many of the strongest pairs to name.
    variables, samples : str
        What these are, in the reader's words: "hidden dimensions", "tokens".
    units : {"nats", "bits"}
        What the numbers are in; the result itself stays in nats.
    settling : DataFrame, optional
        Of `mi_probe.convergence`: how much the last doubling of the tokens changed.

    Examples
    --------
    >>> import mi_probe, numpy as np
    >>> x = np.random.default_rng(0).standard_normal((94, 20))
    >>> print(describe(mi_probe.MIResult({"noise": mi_probe.pairwise(x)}), top=1).splitlines()[0])
    Measured: mutual information (MI) of 190 pairs of variables at noise, over 94 samples, in nats.
    """
    result = as_result(result)
    points = list(result.values())
    names = list(result)
    scale = per_nat(units)
    between = all(point.sides for point in points)
    families = {" -> ".join(part.rpartition(".")[0] for part in name.split(" -> ")) for name in names}
    listed = ", ".join(names)
    if len(families) == 1:
        listed = f"{names[0]}, ..., {names[-1]}" if between else f"{names[0]} to {names[-1]}"
    if between:
        variables = f"{variables}, one at each of two places,"
    if len(result) == 1:
        where = f"{'from' if between else 'at'} {names[0]}"
    elif between:
        where = f"for each of {len(names)} pairs of places: {listed}"
    else:
        where = f"at each of {len(names)} hook points, {listed}"
    raw, chance, mi = (_range(points, what, scale) for what in ("raw", "chance", "mi"))
    pairs = _either(f"{len(p.pairs()):,}" for p in points)
    binned = _either(f"{p.bins} {p.method.replace('_', '-')} bins" for p in points)
    lines = [
        f"Measured: mutual information (MI) of {pairs} pairs of {variables} "
        f"{where}, over {_samples(points)} {samples}, in {units}.",
        f"Binned:   each variable into {binned}.",
        f"Chance:   the plain histogram estimate averages {raw}, but the same values paired at random would give {chance}.",
        *_shift(result, units),
        f"Result:   {_either(WORDS[p.correction] for p in points)}, a pair shares {mi} on average{_extremes(result)}.",
    ]
    if _there(points, "continuous"):
        lines.append(
            f"Unbinned: with chance removed and what bins lose undone, {_range(points, 'continuous', scale)} on average."
        )
    if _there(points, "gaussian"):
        linear = f", covariance {_range(points, 'linear', scale)}" if _there(points, "linear") else ""
        lines.append(f"Monotone: rank correlations alone would give {_range(points, 'gaussian', scale)}{linear}.")
    worst = min(points, key=lambda p: p.samples / p.bins**2)
    too_few = worst.samples < 2 * worst.bins
    if _there(points, "se") and not too_few:
        kinds = "shard_se" if _there(points, "shard_se") else "se"
        source = "from shards of documents" if kinds == "shard_se" else f"if {samples} were independent"
        lines.append(f"Error:    one pair's value is off by {_range(points, kinds, scale)} (standard error, {source}).")
    lines += _settled(settling, samples, units)
    lines += _evidence(result, samples)
    per_cell = worst.samples / worst.bins**2
    if too_few:
        lines.append(f"Caution:  {worst.samples} {samples} are too few to tell anything from chance. Take a longer text.")
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
        lines.append(f"Trimmed:  {trimmed:,} outlying values left out, {_most_trimmed(result)}.")
    best = [] if too_few else _distinct(result, top)
    if best:
        lines.append("Strongest pairs:" if between else "Strongest pairs, each where it is strongest:")
        lines += [  # names of variables of two places have these in them
            f"  {_named(i)} and {_named(j)} share {scale * mi:.3f} {units}" + ("" if between else f" at {point}")
            for point, i, j, mi in best
        ]
    return "\n".join(lines)


def _named(variable: str) -> str:
    """A token, "100 the", in quotation marks, without which its word reads as one of the sentence."""
    return f"'{variable}'" if " " in variable else variable


def _either(words: Iterable[str]) -> str:
    """What all points have in common, or what each of them has."""
    return " or ".join(dict.fromkeys(words))


def _there(points: list[PairwiseMI], what: str) -> bool:
    return all(what in p.columns for p in points)


def _shift(result: MIResult, units: Units) -> list[str]:
    """Whether what chance adds is one shift for all pairs, where it visibly is not: at the hook point where it varies most."""
    spreads = {name: point.chance_spread(1) for name, point in result.items()}
    wide = {name: s.high - s.low for name, s in spreads.items() if s.least and s.high - s.low > max(0.05 * s.mean, 1e-6)}
    if not wide:
        return []
    name = max(wide, key=wide.__getitem__)
    spread, scale = spreads[name], per_nat(units)
    (least,), (most,) = spread.least, spread.most
    middle = f"{scale * spread.low:.3f} to {scale * spread.high:.3f}"
    ends = [f"{scale * value:.3f} ({i} and {j})" for i, j, value in (least, most)]
    lines = [
        f"          It differs between pairs. At {name} the middle 90 % have {middle};",
        f"          the least has {ends[0]}, the most {ends[1]}.",
    ]
    if np.isfinite(spread.rank_correlation):
        order = f"rank correlation {spread.rank_correlation:.2f}, where 1 is the same order"
        lines.append(f"          So it is no common shift: taking it off reorders the pairs there ({order}).")
    return lines


def _settled(table: pandas.DataFrame | None, samples: str, units: Units) -> list[str]:
    """What the last two rows of a table of convergence say together."""
    if table is None or table["tokens"].nunique() < 2:
        return []
    before, now = sorted(set(table["tokens"]))[-2:]
    last = table[table["tokens"] == now].set_index("point")
    name = last["change"].abs().idxmax()
    change, mi = last.loc[name, ["change", "mi"]]
    return [
        f"Settled:  from {before:,} to {now:,} {samples}, the mean moved by {per_nat(units) * abs(change):.2g} {units} at most, "
        f"{abs(change / mi):.1%} (at {name}).".replace("%", " %")
    ]


def _evidence(result: MIResult, samples: str) -> list[str]:
    """What notes say, and how many pairs stand out."""
    points = list(result.values())
    lines = [f"Note:     {note}." for note in dict.fromkeys(note for p in points for note in p.notes)]
    if _there(points, "p"):
        found, pairs = sum(int(d.sum()) for d in result.discoveries().values()), sum(len(p.pairs("p")) for p in points)
        lines.append(f"Evidence: {found:,} of {pairs:,} pairs have q below .05 (Benjamini-Hochberg).")
        if found:
            again = f"{samples.capitalize()} that recur, as repeated words do, count as independent here:"
            lines.append(f"          {again} on a single text, much of this may be repetition.")
    return lines


def _most_trimmed(result: MIResult) -> str:
    totals: dict[str, int] = {}
    for point in result.values():
        for name, count in zip(point.names, point.trimmed if point.trimmed is not None else (), strict=False):
            totals[name] = totals.get(name, 0) + int(count)
    name = max(totals, key=totals.__getitem__)
    return f"most of {name}: {totals[name]:,}"


def _distinct(result: MIResult, top: int) -> list[tuple[str, str, str, float]]:
    """The strongest pairs; one that stays strong through many layers is named once."""
    table = result.top_pairs(len(result) * top).dropna(subset=["mi"]).drop_duplicates(["i", "j"]).head(top)
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
