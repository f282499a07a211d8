"""A result in words that a newcomer understands."""

from __future__ import annotations

import numpy as np

from mi_probe.result import MIResult, PairValue, PairwiseMI

__all__ = ["describe"]


def describe(result: MIResult, *, top: int = 5, variables: str = "variables", samples: str = "samples") -> str:
    """What was measured, how much of it is chance, where the strongest pairs are: a few lines of plain text.

    Parameters
    ----------
    result : MIResult
    top : int
        How many of the strongest pairs to name.
    variables, samples : str
        What these are, in the reader's words: "hidden dimensions", "tokens".

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
    one_family = len({name.rpartition(".")[0] for name in names}) == 1
    where = f"at each of {len(names)} hook points, {f'{names[0]} to {names[-1]}' if one_family else ', '.join(names)}"
    lines = [
        f"Measured: mutual information (MI) of {len(first.pairs()):,} pairs of {variables} "
        f"{where if len(result) > 1 else 'at ' + next(iter(result))}, over {_samples(points)} {samples}, in nats.",
        f"Binned:   each variable into {first.bins} {first.method.replace('_', '-')} bins.",
    ]
    raw, chance, mi = _range(points, "raw"), _range(points, "chance"), _range(points, "mi")
    lines += [
        f"Chance:   the plain histogram estimate averages {raw}, but the same values paired at random would give {chance}.",
        f"Result:   with chance removed, a pair shares {mi} on average{_extremes(result)}.",
    ]
    per_cell = first.samples / first.bins**2
    if first.samples < 2 * first.bins:
        lines.append(f"Caution:  {first.samples} {samples} are too few to tell anything from chance. Take a longer text.")
    elif per_cell < 1:
        lines.append(
            f"Caution:  only {per_cell:.2f} {samples} a cell: most of the plain estimate is chance, which differs by pair. "
            "Fewer bins, or more text, would tell more."
        )
    missing = sum(int(p.missing.sum()) for p in points)
    if missing:
        lines.append(f"Left out: {missing:,} values that were NaN or infinite, pair by pair.")
    best = _distinct(result, top)
    if best:
        lines.append("Strongest pairs, each where it is strongest:")
        lines += [f"  {i} and {j} share {mi:.3f} nats at {point}" for point, i, j, mi in best]
    return "\n".join(lines)


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


def _range(points: list[PairwiseMI], what: PairValue) -> str:
    means = [float(np.nanmean(p.pairs(what))) for p in points if len(p.pairs())]
    if not means:
        return "nothing"
    low, high = min(means), max(means)
    digits = 3 if max(abs(low), abs(high)) >= 0.01 else 5
    if round(low, digits) == round(high, digits):
        return f"{low:.{digits}f}"
    return f"{low:.{digits}f} to {high:.{digits}f}"
