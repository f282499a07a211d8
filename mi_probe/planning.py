"""What a probe will take, before it takes it: memory, files and steps of counting, for a model that need not be loaded."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mi_probe.binning import Binning
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError, several
from mi_probe.footprint import Footprint, PointFootprint, Run, WayOut, footprint, ways_out
from mi_probe.hooks import resolve
from mi_probe.hooks.names import couples, inner_of, require_enough, width_by_name, widths_of_couples
from mi_probe.hooks.widths import widths_in
from mi_probe.kernels.threads import threads_allowed
from mi_probe.lags import LaggedCounts
from mi_probe.memory import free_memory, in_bytes
from mi_probe.models import outline
from mi_probe.places import Places
from mi_probe.probe import Probe, load_probe
from mi_probe.subset import Width
from mi_probe.tokencounts import TokenCounts
from mi_probe.tokenkeys import TokenKeys

__all__ = ["Plan", "Speed", "plan"]

_WORD = 64
_KEYED: dict[str, str] = {"distance": "by their distance", "position": "by the position of the later one", "label": "by label"}


@dataclass(frozen=True)
class Speed:
    """How fast this machine counts, measured just now.

    Attributes
    ----------
    pair, variable : float
        Seconds a token, for each pair of variables, and for each variable (binning and lags). Where pairs of tokens are counted,
        seconds for each of them at the widest hook point, and for each variable of a token.
    threads : int
        That counted.
    """

    pair: float
    variable: float
    threads: int

    @classmethod
    def measure(cls, bins: int, lags: int) -> Speed:
        """Count random codes of a few hundred variables, for a fraction of a second."""
        variables = int(np.clip((2**24 / bins**2) ** 0.5, 64, 512))  # tables larger than caches, as the real ones
        rng = np.random.default_rng(0)
        values = rng.standard_normal((4096, variables), dtype=np.float32)
        binning = Binning.fit(values[:512], bins=bins)
        codes = binning.encode(values)
        joint, lagged = JointCounts(variables, bins), LaggedCounts(lags, variables, bins)

        def count() -> None:
            joint.update(codes)
            joint.flush()

        def rest() -> None:
            binning.encode(values)
            lagged.update(codes, Places.of_one_text(len(codes)))

        a_token = [_fastest(each) / len(codes) for each in (count, rest)]
        return cls(a_token[0] / joint.pairs, a_token[1] / variables, threads_allowed())

    @classmethod
    def measure_token_pairs(cls, keys: TokenKeys, variables: int) -> Speed:
        """Count pairs of random tokens of so many variables, for a fraction of a second."""
        near = replace(keys, by="distance", labels=(), furthest=min(keys.furthest, 64))
        tokens = 512
        values = np.random.default_rng(0).standard_normal((tokens, variables), dtype=np.float32)
        binning = Binning.fit(values, bins=4)
        counts = TokenCounts(near, binning)
        few = int(np.clip(2**26 / (near.furthest * _steps(variables, counts.bins)), 16, tokens))
        codes = counts.codes(values)[:few]

        def count() -> None:
            counts.update(codes, Places.of_one_text(few))

        def rest() -> None:
            binning.encode(values)
            counts.codes(values)

        return cls(_fastest(count) / near.pairs_within(few), _fastest(rest) / values.size, threads_allowed())


def _steps(variables: int, bins: int) -> int:
    """ANDs of two words that hold a bit for each of 64 dimensions, for all cells of a pair of tokens."""
    return bins**2 * -(-variables // _WORD)


def _fastest(work: Any) -> float:
    """Seconds of the fastest of three calls, after one that may compile."""
    work()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@dataclass(frozen=True)
class Plan:
    """What a probe takes at a model's hook points; ``print`` it.

    Attributes
    ----------
    probe : Probe
    model : str
        The model's name.
    widths : dict of str -> int, (int, int) or str
        Variables by hook point, of both where two meet; or why their number cannot be told beforehand.
    run : Run
        What will be fed, and the weights if the model is not loaded yet.
    footprint : Footprint
        Bytes, by hook point and in all.
    free : int
        Bytes that are free on this machine.
    multiply_adds : int
        Of a forward pass, for each token, about.
    speed : Speed or None
        None if it was not measured.
    """

    probe: Probe
    model: str
    widths: dict[str, Width | str]
    run: Run
    footprint: Footprint
    free: int
    multiply_adds: int
    speed: Speed | None = None

    @property
    def fits(self) -> bool:
        """Whether counting and estimating fit in the memory that is free, as far as the hook points' sizes are known."""
        return self.footprint.most_needed <= self.free

    @property
    def steps(self) -> int:
        """Steps of counting for each token: ANDs of two words that hold a bit for each of 64 tokens, one for each cell.

        Of pairs of tokens, words hold a bit for each of 64 dimensions, and each token is paired with those before it.
        """
        if self._of_tokens:
            return int(self._steps_of_tokens)
        cells = sum(point.pairs * point.bins**2 for point in self.footprint.points)
        return int(self._sets * cells) // (_WORD * self.probe.sample_every)

    @property
    def _steps_of_tokens(self) -> float:
        return sum(point.token_pairs * _steps(point.variables or 0, point.bins) for point in self.footprint.points)

    @property
    def _of_tokens(self) -> bool:
        return self.probe.extras.tokens is not None

    @property
    def _sets(self) -> int:
        """How often each token is counted."""
        return 1 + bool(self.probe.shards) + 2 * self.probe.swap

    @property
    def seconds_per_million(self) -> float | None:
        """Of counting a million tokens of text, of which `Probe.sample_every` may leave some out; forward passes come on top."""
        if self.speed is None:
            return None
        pairs, variables = self.footprint.total("pairs"), sum(point.variables or 0 for point in self.footprint.points)
        if self._of_tokens:
            widest = max((_steps(p.variables or 0, p.bins) for p in self.footprint.points), default=0)
            a_token = self._steps_of_tokens / widest * self.speed.pair
            return 1e6 * (a_token + variables / self.probe.sample_every * self.speed.variable)
        a_token = self._sets * pairs * self.speed.pair + variables * self.speed.variable
        return 1e6 * a_token / self.probe.sample_every

    def ways_out(self) -> list[WayOut]:
        """Changes with each of which alone it would fit."""
        return [] if self.fits else ways_out(self.probe, self.widths, self.run, self.free)

    def __str__(self) -> str:
        return "\n".join([*self._table(), "", *self._memory(), "", *self._verdict(), *self._cost()])

    def _table(self) -> list[str]:
        known = [point for point in self.footprint.points if point.variables is not None]
        of_dimensions = ("variables", "pairs", "bins", "counts", "estimates")
        rows = [("hook points", "number", *(("dimensions", "keys", "bins", "counts") if self._of_tokens else of_dimensions))]
        for like, group in groupby(known, key=_alike):
            points = list(group)
            variables, pairs, bins, counts, results, keys = like[1:]
            each = (f"{variables:,}", f"{keys or pairs:,}", str(bins), f"{in_bytes(counts)} each", f"{in_bytes(results)} each")
            rows.append((_span([point.key for point in points]), str(len(points)), *each[: len(rows[0]) - 2]))
        total = self.footprint.total
        files = (f"{in_bytes(self.footprint.state_file)}     ", f"{in_bytes(total('results'))}     ")
        pairs = "" if self._of_tokens else f"{total('pairs'):,}"
        rows.append(("in all", str(len(known)), "", pairs, "", *files)[: len(rows[0])])
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        places = several(len(self.footprint.points), "pair") + " of hook points"
        if self.probe.pairs != "between":
            places = several(len(self.footprint.points), "hook point")
        kept = f", of pairs of tokens {_KEYED[self.probe.by]}" if self._of_tokens else ""
        lines = [f"{self.model}: what the probe takes at {places}{kept}"]
        for row in rows:
            cells = [cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
            lines.append(f"  {'  '.join(cells)}".rstrip())
        for why, unknown in groupby((p for p in self.footprint.points if p.variables is None), key=lambda p: p.unknown):
            points = list(unknown)
            which = f"{_span([point.key for point in points])} ({len(points)})"
            lines.append(f"  {which}: size not known beforehand, and not in the sums: {why}")
        return lines

    def _memory(self) -> list[str]:
        found, total = self.footprint, self.footprint.total
        counting: list[tuple[str, int]] = [("the model's weights, in float32", found.weights)]
        if found.stays_rows:
            counting += [(f"values of {self.run.tokens:,} tokens: fewer than the calibration takes", total("rows"))]
            one = max(found.most("kept", "moment"), found.most("kept", "estimating"))
            estimating = [("all of that", found.while_counting), ("results", total("results")), ("one hook point's counts", one)]
        else:
            waiting = f"values until edges are fitted, and {'their pairs' if self._of_tokens else 'of a forward pass'}"
            extras = "counts of pairs of tokens" if self._of_tokens else f"beside them: {_extras(self.probe)}"
            counting += [
                ("counts of each dimension" if self._of_tokens else "counts", total("counts")),
                (extras, total("extras")),
                ("codes that wait to be counted", total("buffers")),
                (waiting, total("rows") + found.most("moment")),
            ]
            kept = found.weights + total("kept")
            estimating = [("weights and counts", kept), ("results", total("results")), ("work", found.most("estimating"))]
        lines = []
        for head, size, parts in (
            ("memory while counting, at most", found.while_counting, counting),
            ("memory while estimating, at most", found.while_estimating, estimating),
        ):
            lines.append(f"{head:<56}{in_bytes(size):>9}")
            lines += [f"    {what:<52}{in_bytes(part):>9}" for what, part in parts if part]
        lines.append(f"{'file of the counts (probe.save)':<56}{in_bytes(found.state_file):>9}")
        if self._of_tokens:  # whose estimates are a small table
            return lines
        return [*lines, f"{'file of the estimates (result.save)':<56}{in_bytes(total('results')):>9}"]

    def _verdict(self) -> list[str]:
        free = f"{'free on this machine now':<56}{in_bytes(self.free):>9}"
        if self.fits:
            return [free, "It fits." + (" The hook points whose size is not known come on top." if self._unknown else "")]
        ways = self.ways_out()
        if self.footprint.while_counting <= self.free:
            does_not = "Counting fits, estimating all hook points at once does not. What would:"
        else:
            does_not = "It does not fit. What would:"
        lines = [free, does_not, *(f"    {way.what:<52}{in_bytes(way.needed):>9}" for way in ways)]
        if not ways:
            lines.append("    nothing in the probe" + (": the weights alone do not" if self.run.weights > self.free else ""))
        if self.run.tokens is None:
            short = footprint(self.probe, self.widths, Run(**{**vars(self.run), "tokens": self.probe.calibration_tokens - 1}))
            if short.most_needed <= self.free:
                few = f"fewer than {self.probe.calibration_tokens:,} tokens (--tokens)"
                lines.append(f"    {few:<52}{in_bytes(short.most_needed):>9}")
        return lines

    def _cost(self) -> list[str]:
        kept = "" if self.probe.sample_every == 1 else f", of which one in {self.probe.sample_every} is counted"
        if self._of_tokens:
            most = max((point.token_pairs for point in self.footprint.points), default=0.0)
            far = self.probe.furthest
            lines = [
                f"a token of text{kept}: up to {most:.3g} pairs at each hook point, with tokens up to {far} before it",
                f"and one of another text; {_round(self.steps)} steps of counting in all (64 dimensions of a cell at once),",
            ]
        else:
            lines = [f"a token of text{kept}: {_round(self.steps)} steps of counting (64 tokens of a cell at once),"]
        lines.insert(0, "")
        share = self.steps / self.multiply_adds
        lines.append(f"{share:.1%} of the forward pass's multiply-adds, about {_round(self.multiply_adds)}")
        seconds = self.seconds_per_million
        if seconds is not None and self.speed is not None:
            threads = "1 thread" if self.speed.threads == 1 else f"{self.speed.threads} threads"
            took = f"{_duration(seconds)} a million tokens on {threads}"
            lines.append(f"{took}, measured here just now; forward passes come on top")
        return lines

    @property
    def _unknown(self) -> bool:
        return any(point.variables is None for point in self.footprint.points)


def plan(
    model: Any,
    probe: Probe | str | Path = "dimension_pairs",
    *,
    tokens: int | None = None,
    pass_tokens: int = 1024,
    measure: bool = True,
) -> Plan:
    """What a probe will take at a model's hook points: memory, files, steps of counting.

    Nothing is attached. Of a model by name only the configuration is read, and no weight is made.

    Parameters
    ----------
    model : str, path or model
        A name or folder, as `mi_probe.load_model` takes it: its weights are then part of the plan. Or a model that is loaded.
    probe : Probe, str or path
    tokens : int, optional
        How many tokens there will be. By default any number: below 2^31, from where on tables take twice the memory. A text
        shorter than the probe's calibration needs no tables while it is counted.
    pass_tokens : int
        Tokens in one forward pass.
    measure : bool
        Count random codes for a fraction of a second, to tell how long a million tokens take.

    Returns
    -------
    Plan

    Raises
    ------
    ModelError
        No such model, or no configuration of it.
    HookPointError
        The model lacks a hook point of the probe.

    Examples
    --------
    >>> found = plan("coffee-gpt2", Probe(layers=[0, 6], bins=8), measure=False)
    >>> found.widths, found.footprint.total("counts"), found.fits
    ({'hidden_states.0': 128, 'hidden_states.6': 128}, 4182016, True)
    """
    what = probe if isinstance(probe, Probe) else load_probe(probe)
    for name, number in (("tokens", tokens), ("pass_tokens", pass_tokens)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be a whole number from 1; got {number!r}.")
    sizes: dict[str, int | str]
    weights = 0
    if isinstance(model, str | Path):
        with outline(model) as shapes:
            points, cfg = resolve(shapes, what), shapes.cfg
            meet = couples(shapes, what)
            sizes = widths_in(shapes, points)
            sizes |= {p.key: width_by_name(shapes, p) or sizes[p.key] for p in points if isinstance(sizes[p.key], str)}
            weights = 4 * sum(parameter.numel() for parameter in shapes.parameters())
        name, itemsize = Path(str(model)).name, 4
    else:
        points, meet, cfg = resolve(model, what), couples(model, what), model.cfg
        sizes = {p.key: width_by_name(model, p) or "it is known after the first forward pass" for p in points}
        rest = [p for p in points if isinstance(sizes[p.key], str)]
        if rest and inner_of(model) is not None:
            with outline(model) as shapes:
                sizes |= widths_in(shapes, rest)
        name, itemsize = str(getattr(cfg, "model_name", "the model")), 8 if "float64" in str(getattr(cfg, "dtype", "")) else 4
    require_enough(what, sizes)
    widths = widths_of_couples(meet, sizes)
    run = Run(tokens, pass_tokens, int(getattr(cfg, "n_ctx", None) or pass_tokens), itemsize, weights)
    found = footprint(what, widths, run)
    return Plan(what, name, widths, run, found, free_memory(), _multiply_adds(cfg), _measured(what, found) if measure else None)


def _measured(probe: Probe, found: Footprint) -> Speed | None:
    known = [point for point in found.points if point.variables is not None]
    if not known:
        return None
    if probe.extras.tokens is None:
        return Speed.measure(max(point.bins for point in known), probe.lags)
    return Speed.measure_token_pairs(probe.extras.tokens, max(point.variables or 0 for point in known))


def _multiply_adds(cfg: Any) -> int:
    """Of a forward pass, for each token: four matrices of attention, two or three of the MLP, and the unembedding."""
    d, mlp = int(cfg.d_model), int(getattr(cfg, "d_mlp", None) or 4 * cfg.d_model)
    block = d * (4 * d + (3 if getattr(cfg, "gated_mlp", False) else 2) * mlp)
    return int(cfg.n_layers) * block + d * int(getattr(cfg, "d_vocab", 0) or 0)


def _alike(point: PointFootprint) -> tuple[Any, ...]:
    """What hook points of one line of the table have in common."""
    kept = point.counts + point.extras
    return re.sub(r"\d+", "#", point.key), point.variables, point.pairs, point.bins, kept, point.results, point.keys


def _span(keys: list[str]) -> str:
    """Names that differ in a number.

    Examples
    --------
    >>> _span(["hidden_states.0", "hidden_states.1"]), _span(["blocks.0.mlp.hook_pre", "blocks.11.mlp.hook_pre"])
    ('hidden_states.0...1', 'blocks.0...11.mlp.hook_pre')
    """
    parts = [re.split(r"(\d+)", key) for key in keys]
    return "".join(_numbers(list(dict.fromkeys(alike))) for alike in zip(*parts, strict=False))


def _numbers(parts: list[str]) -> str:
    """0...47 for a range, 0, 24, 47 for others."""
    if len(parts) < 2 or not all(part.isdigit() for part in parts):
        return parts[0]
    numbers = [int(part) for part in parts]
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}...{numbers[-1]}"
    return ", ".join(parts) if len(parts) <= 6 else f"{', '.join(parts[:3])}, ... {parts[-1]}"


def _extras(probe: Probe) -> str:
    named = {"lags": probe.lags, "shards": probe.shards, "swap": probe.swap, "moments": probe.moments}
    return ", ".join(name for name, there in named.items() if there)


def _round(count: float) -> str:
    for power, word in ((12, "trillion"), (9, "billion"), (6, "million"), (3, "thousand")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {word}"
    return f"{count:.3g}"


def _duration(seconds: float) -> str:
    """In the unit that suits it.

    Examples
    --------
    >>> _duration(0.4), _duration(123), _duration(5000), _duration(200_000)
    ('0.4 seconds', '123 seconds', '83 minutes', '56 hours')
    """
    for length, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 3 * length:
            return f"{seconds / length:.{0 if seconds >= 10 * length else 1}f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} seconds" if seconds >= 1 else f"{seconds:.2g} seconds"
