"""What a probe takes at each hook point, in bytes, from the numbers of variables alone; and what would fit where that does not.

The rooms that allocate say how much (`nbytes_for` of counts, extras, streams and estimates); here it is added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mi_probe.binning import auto_bins
from mi_probe.errors import MemoryRefusedError, several
from mi_probe.estimation import estimate_nbytes_for
from mi_probe.extras import MIN_SHARDS
from mi_probe.independence import MOST_TOKENS
from mi_probe.keyed import keyed_nbytes_for
from mi_probe.lags import LaggedCounts
from mi_probe.memory import free_memory, free_memory_of, in_bytes
from mi_probe.ondevice import bytes_on
from mi_probe.pointcounts import PointCounts
from mi_probe.probe import CORPUS_BINS, Probe
from mi_probe.shares import Share
from mi_probe.stream import PointStream
from mi_probe.subset import Width, columns_of
from mi_probe.tokencounts import TokenCounts

__all__ = [
    "Footprint",
    "PointFootprint",
    "Run",
    "WayOut",
    "footprint",
    "refuse_unless_device_has_room",
    "refuse_unless_it_fits",
    "ways_out",
]

_LEAST = 0.05  # of the dimensions or pairs: who wanted all of them has no use for fewer

Widths = Mapping[str, Width | str]
"""Variables by hook point, of both where two meet; or why their number is not known."""


@dataclass(frozen=True)
class Run:
    """What a probe will be fed, as far as memory depends on it.

    Attributes
    ----------
    tokens : int, optional
        In all. None: a stream of any length, with counts that may have to be estimated with every column.
    pass_tokens : int
        In one forward pass: what is kept of it waits until it has ended.
    sequence : int
        Tokens of the longest sequence, for `Probe.swap` and for pairs of tokens.
    itemsize : int
        Bytes of a value, 4 or 8.
    weights : int
        Bytes of a model that is yet to be loaded.
    rows : int, optional
        On which edges will be fitted, where it is not the number that the probe says.
    shares : int
        Processes among which the tables of the pairs are divided: what each of them takes.
    """

    tokens: int | None = None
    pass_tokens: int = 1024
    sequence: int = 1024
    itemsize: int = 4
    weights: int = 0
    rows: int | None = None
    shares: int = 1


@dataclass(frozen=True)
class PointFootprint:
    """Bytes of one hook point.

    Attributes
    ----------
    key : str
        The hook point, as results name it.
    variables : int, optional
        None if their number is not known; `unknown` says why, and all else is 0.
    pairs, bins : int
    counts : int
        Tables and margins.
    extras : int
        Lags, shards, swap, moments; pairs of tokens.
    buffers : int
        Codes that wait to be counted.
    rows : int
        Values that wait for the edges to be fitted, and those of a forward pass that has not ended.
    moment : int
        For a moment: while edges are fitted, or a buffer is counted.
    results : int
        All columns of the estimate.
    estimating : int
        For a moment, beside counts and results.
    keys : int
        By which pairs of tokens are counted.
    token_pairs : float
        Pairs of tokens for each token of text, at most.
    """

    key: str
    variables: int | None
    pairs: int = 0
    bins: int = 0
    counts: int = 0
    extras: int = 0
    buffers: int = 0
    rows: int = 0
    moment: int = 0
    results: int = 0
    estimating: int = 0
    unknown: str = ""
    keys: int = 0
    token_pairs: float = 0.0

    @property
    def kept(self) -> int:
        """Counts, extras and buffers."""
        return self.counts + self.extras + self.buffers


@dataclass(frozen=True)
class Footprint:
    """Bytes of all hook points.

    Attributes
    ----------
    points : tuple of PointFootprint
    weights : int
        Of a model that is yet to be loaded.
    stays_rows : bool
        The text ends before the calibration does: rows wait, and counts are made for a moment, one hook point after the other.
    """

    points: tuple[PointFootprint, ...]
    weights: int = 0
    stays_rows: bool = False

    def total(self, what: str) -> int:
        """The sum over hook points of any of their numbers."""
        return sum(int(getattr(point, what)) for point in self.points)

    def most(self, *what: str) -> int:
        """The largest, over hook points, of the sum of some of their numbers."""
        return max((sum(int(getattr(point, each)) for each in what) for point in self.points), default=0)

    @property
    def while_counting(self) -> int:
        """At the fullest moment: when the edges are fitted, with all rows still there."""
        if self.stays_rows:
            return self.weights + self.total("rows")
        return self.weights + self.total("kept") + self.total("rows") + self.most("moment")

    @property
    def while_estimating(self) -> int:
        """At the fullest moment of `estimate`, with all counts and results in memory."""
        held = self.weights + self.total("results")
        if self.stays_rows:
            return held + self.total("rows") + max(self.most("kept", "moment"), self.most("kept", "estimating"))
        return held + self.total("kept") + self.most("estimating")

    @property
    def most_needed(self) -> int:
        """The larger of the two."""
        return max(self.while_counting, self.while_estimating)

    @property
    def state_file(self) -> int:
        """Bytes of a file of the counts, but for some kB of edges and header."""
        return self.total("counts") + self.total("extras")


def footprint(
    probe: Probe, widths: Widths, run: Run | None = None, *, most_variables: int | None = None, most_pairs: int | None = None
) -> Footprint:
    """Add up what the probe takes at hook points of these widths.

    Parameters
    ----------
    probe : Probe
    widths : mapping of str -> int, (int, int) or str
    run : Run, optional
    most_variables, most_pairs : int, optional
        As if no hook point had more.

    Examples
    --------
    >>> found = footprint(Probe(), {"hidden_states.0": 1600, "hidden_states.1": 1600})
    >>> found.points[0].pairs, found.points[0].counts, found.total("counts")
    (1279200, 327603200, 655206400)
    """
    run = run or Run()
    stays_rows = run.tokens is not None and run.tokens < probe.calibration_tokens
    points = tuple(_at(key, width, probe, run, most_variables, most_pairs) for key, width in widths.items())
    return Footprint(points, run.weights, stays_rows)


def _at(
    key: str, width: Width | str, probe: Probe, run: Run, most_variables: int | None, most_pairs: int | None
) -> PointFootprint:  # fmt: skip
    if isinstance(width, str):
        return PointFootprint(key, None, unknown=width)
    variables, pairs = probe.subset.size(width)
    if most_variables is not None and most_variables < variables:
        half = most_variables // 2
        there = half * half if isinstance(width, tuple) else most_variables * (most_variables - 1) // 2
        variables, pairs = most_variables, min(pairs, there)
    pairs = pairs if most_pairs is None else min(pairs, most_pairs)
    if run.shares > 1:
        every = pairs == variables * (variables - 1) // 2 and not isinstance(width, tuple)
        pairs = Share(0, run.shares).largest(variables, None if every else pairs)
    if probe.extras.tokens is not None:
        return _of_tokens(key, width, variables, probe, run, most_variables)
    rows = probe.calibration_tokens if run.rows is None else run.rows
    bins = probe.bins
    if run.tokens is not None and run.tokens < probe.calibration_tokens:
        rows = run.tokens
        bins = auto_bins(rows) if bins == "auto" else bins
    bins = CORPUS_BINS if bins == "auto" else bins
    kept = PointCounts.nbytes_for(variables, pairs, bins, probe.extras, samples=run.tokens or 0, sequence=run.sequence)
    has_p = run.tokens is None or run.tokens <= MOST_TOKENS
    found = estimate_nbytes_for(variables, pairs, bins, probe.method, probe.extras, p_values=has_p)
    fitting = PointStream.fitting_nbytes_for(rows, variables, run.itemsize)
    waiting = (rows + run.pass_tokens) * _columns_waiting(width, variables, probe, most_variables) * run.itemsize
    return PointFootprint(
        key, variables, pairs, bins, kept.counts, kept.extras, kept.buffers, waiting, max(fitting, kept.flush), *found
    )


def _columns_waiting(width: Width, variables: int, probe: Probe, most_variables: int | None) -> int:
    """By variance, as dimensions are chosen unless one says otherwise, the rows of all of them wait; so do those of tokens."""
    by_variance = probe.subset.by_variance or (most_variables is not None and probe.dimensions is None)
    by_variance |= probe.variables == "tokens"
    return columns_of(width) if by_variance else variables


def _of_tokens(
    key: str, width: Width, variables: int, probe: Probe, run: Run, most_variables: int | None
) -> PointFootprint:  # fmt: skip
    """The same where pairs of tokens are counted: bins are those of a token, however long the text is."""
    keys = probe.extras.tokens
    assert keys is not None
    bins = auto_bins(variables) if probe.bins == "auto" else probe.bins
    rows = probe.calibration_tokens if run.rows is None else run.rows
    rows = rows if run.tokens is None else min(rows, run.tokens)
    kept = PointCounts.nbytes_for(variables, 0, bins, probe.extras, samples=run.tokens or 0, sequence=run.sequence)
    length = run.sequence if run.tokens is None else min(run.sequence, run.tokens)
    counted = len(range(min(probe.skip_first, length), length, probe.sample_every))
    a_token = (keys.pairs_within(counted, probe.sample_every) + counted) / max(1, length)  # one with another text
    # When edges are fitted, all rows so far are counted at once.
    pairs = int((rows * probe.sample_every + run.pass_tokens) * a_token)
    counting = TokenCounts.moment_nbytes_for(keys, variables, rows + run.pass_tokens, pairs, run.itemsize)
    columns = _columns_waiting(width, variables, probe, most_variables)
    fitting = PointStream.fitting_nbytes_for(rows, variables, run.itemsize) + rows * columns * run.itemsize  # those that vary
    waiting = (rows + run.pass_tokens) * columns * run.itemsize
    return PointFootprint(
        *(key, variables, 0, bins, kept.counts, kept.extras, kept.buffers, waiting, max(fitting, kept.flush, counting)),
        *keyed_nbytes_for(keys, variables),
        keys=len(keys.names),
        token_pairs=a_token,
    )


class WayOut(NamedTuple):
    """A change with which it would fit."""

    what: str
    needed: int


def ways_out(
    probe: Probe, widths: Widths, run: Run, free: float, needed: Callable[[Footprint], int] = lambda found: found.most_needed
) -> list[WayOut]:
    """Changes with each of which the probe would fit in so many bytes; empty if none does.

    Examples
    --------
    >>> ways = ways_out(Probe(), {f"resid_post.{i}": 1600 for i in range(48)}, Run(), 20e9)
    >>> ways[0].what, in_bytes(ways[0].needed)
    ('7 bins in place of 8', '17.8 GB')
    """
    known = {key: width for key, width in widths.items() if not isinstance(width, str)}
    if not known:
        return []
    ways: list[WayOut] = []

    def weigh(what: str, found: Footprint) -> bool:
        if needed(found) <= free:
            ways.append(WayOut(what, needed(found)))
            return True
        return False

    of_tokens = probe.extras.tokens is not None
    changes: dict[str, Any] = {"shards": 0, "swap": False, "moments": False}
    for name, off in changes.items():
        if getattr(probe, name):
            fewer_shards = f"{MIN_SHARDS} shards in place of {probe.shards}"  # of pairs of tokens there are some in any case
            weigh(fewer_shards if of_tokens else f"without {name}", footprint(replace(probe, **{name: off}), known, run))
    if run.shares > 1:
        for shares in (run.shares * 2**k for k in range(1, 7)):
            if weigh(f"{shares:,} processes in place of {run.shares:,}", footprint(probe, known, replace(run, shares=shares))):
                break
    bins = footprint(probe, known, run).points[0].bins
    for fewer in range(bins - 1, 2, -1):
        if weigh(f"{fewer} bins in place of {bins}", footprint(replace(probe, bins=fewer), known, run)):
            break
    widest_first = sorted(known, key=lambda key: -columns_of(known[key]))

    def of_points(k: int) -> Footprint:
        return footprint(probe, {key: known[key] for key in widest_first[:k]}, run)

    def of_variables(k: int) -> Footprint:
        return footprint(probe, known, run, most_variables=k)

    def of_pairs(k: int) -> Footprint:
        return footprint(probe, known, run, most_pairs=k)

    variables, pairs = probe.subset.size(known[widest_first[0]])
    of_each: list[tuple[Callable[[int], Footprint], int, str]] = [
        (of_points, len(known), "{k:,} of the {most:,} hook points (layers=)"),
        (of_variables, variables, "{k:,} of the {most:,} dimensions at each (dimensions=)"),
        (of_pairs, pairs, "{k:,} of the {most:,} pairs at each (pairs=)"),
    ]
    if probe.pairs == "between":  # as many at each of two places, and no single pairs: these are not chosen at random
        words = "{k:,} of the {most:,} dimensions at each place (dimensions=)"
        of_each = [
            (of_points, len(known), "{k:,} of the {most:,} pairs of hook points (between=)"),
            (lambda k: of_variables(2 * k), variables // 2, words),
        ]
    elif of_tokens:
        of_each = of_each[:2]
    for of, most, words in of_each:

        def fits(k: int, of: Callable[[int], Footprint] = of) -> bool:
            return needed(of(k)) <= free

        k = _largest(most, fits)
        if k >= _LEAST * most:
            weigh(words.format(k=k, most=most), of(k))
    plain = replace(probe, **changes)
    if not ways and plain != probe and not of_tokens:  # more than one change is needed
        named = ", ".join(name for name in changes if getattr(probe, name))
        return [WayOut(f"without {named}: {way.what}", way.needed) for way in ways_out(plain, known, run, free, needed)]
    return ways


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest k below `most` that fits, 0 if none does; what is smaller fits, too."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _hook_points(found: Footprint, probe: Probe) -> str:
    n = len(found.points)
    return f"{several(n, 'pair')} of hook points" if probe.pairs == "between" else several(n, "hook point")


def refuse_unless_it_fits(
    probe: Probe,
    widths: Widths,
    run: Run,
    may_take: float | None,
    needed: Callable[[Footprint], int] = lambda found: found.while_counting,
) -> None:
    """Raise `MemoryRefusedError`, with the ways out, unless what is needed is free, or within the bytes that may be taken.

    Hook points of unknown width are left out: they are asked about again when it is known.
    """
    found = footprint(probe, widths, run)
    free = free_memory() if may_take is None else may_take
    if needed(found) <= free:
        return
    largest = max(found.points, key=lambda point: point.kept)
    what = f"{largest.keys:,} keys of pairs of tokens" if largest.keys else f"{largest.pairs:,} pairs"
    several = ("layers=", "dimensions=", *(() if largest.keys else ("pairs=",)), "bins=", "calibration_tokens=")
    ways = ways_out(probe, widths, run, free, needed)
    whose = "are free" if may_take is None else "may be taken (memory=)"
    lines = [f"  - {way.what}: {in_bytes(way.needed)}" for way in ways] or [
        f"  - no single change; several together: {', '.join(several)}"
    ]
    raise MemoryRefusedError(
        f"counting at {_hook_points(found, probe)} takes {in_bytes(needed(found))}, and {in_bytes(max(0, free))} "
        f"{whose}. '{largest.key}' alone, with {what} and {largest.bins} bins, keeps {in_bytes(largest.kept)}.\n"
        f"What would fit:\n" + "\n".join(lines) + "\n"
        "mi_probe.plan(model, probe) shows what takes how much. Where more memory will be free than is now, or for a text that "
        f"ends before {probe.calibration_tokens:,} tokens, say how many bytes may be taken: attach(model, probe, memory=...)."
    )


def refuse_unless_device_has_room(probe: Probe, widths: Mapping[str, Width], device: Any, may_take: float | None = None) -> None:
    """Raise `MemoryRefusedError` unless the tables of these hook points fit on a device beside what is there.

    A device without memory of its own takes that of the machine, of which so many bytes may be taken.
    """
    free: float | None = free_memory_of(device)
    if free is None:
        free = free_memory() if may_take is None else may_take
    bins = CORPUS_BINS if probe.bins == "auto" else probe.bins
    of_points = [bytes_on(device, probe.subset.size(width)[0], bins, crossed=probe.swap) for width in widths.values()]
    sets = 1 + probe.shards + probe.swap
    needed = sum(sets * (of.tables + of.buffer) for of in of_points) + max(of.working for of in of_points)
    needed += sum(LaggedCounts.nbytes_for(probe.lags, probe.subset.size(width)[0], bins) for width in widths.values())
    if needed > free:
        raise MemoryRefusedError(
            f"counting at {several(len(widths), 'hook point')} takes {in_bytes(needed)} on {device}, "
            f"and {in_bytes(free)} are free there. Count fewer hook points (layers=), bins or dimensions (dimensions=), or on "
            "the CPU: attach(model, probe, count_on='cpu')."
        )
