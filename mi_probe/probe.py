"""What to measure, as data: which hook points, which tokens, how to bin. Reads and writes TOML."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mi_probe.binning import MAX_BINS, BinningMethod
from mi_probe.errors import ProbeError, RoomError, nearest
from mi_probe.extras import LAGS, MAX_LAGS, MAX_SHARDS, MIN_SHARDS, Extras
from mi_probe.rooms import find, read_text
from mi_probe.subset import Between, ChosenBy, Dimensions, Pairs, Subset, as_between, as_dimensions, as_pairs
from mi_probe.tokenkeys import KeyedBy, TokenKeys

if TYPE_CHECKING:
    from mi_probe.planning import Plan

__all__ = ["CORPUS_BINS", "NAMED_SETS", "Probe", "Variables", "When", "load_probe"]

Variables = Literal["dimensions", "tokens"]
When = Literal["before", "after"]

CORPUS_BINS = 8
"""What ``bins = "auto"`` means once `calibration_tokens` rows have been seen: a stream that goes on, with tables of 64 cells."""

NAMED_SETS: dict[str, str] = {
    "hidden_states": "what Hugging Face's output_hidden_states returns: before each block, then after the final norm, if any",
    "resid_pre": "the residual stream before each block",
    "resid_mid": "the residual stream between attention and MLP of each block",
    "resid_post": "the residual stream after each block",
    "attn_out": "what the attention of each block adds",
    "mlp_out": "what the MLP of each block adds",
    "embed": "the token embedding, without positions",
}
"""The named sets of hook points, with what they are."""


@dataclass(frozen=True)
class Probe:
    """What to measure. Equal probes measure the same; a probe is a value and holds no state.

    Parameters
    ----------
    hooks : str or sequence of str
        A named set (`NAMED_SETS`), names of hook points as the model or results have them (``"blocks.3.hook_mlp_out"``,
        ``"hidden_states.3"``), or patterns such as ``"blocks.*.hook_attn_out"``.
    layers : sequence of int, optional
        Only these members of the sets or patterns, by index; -1 is the last. All, by default.
    when : {"before", "after"}
        Record values before or after the edits of other hooks at the same hook point. An edit further up is seen either way.
    visit : int, optional
        Which firing counts where a hook point fires several times in one forward pass (a looped model): 0 is the first, -1 the
        last. A token is counted once in any case. By default the last one, with a warning if the firings differ.
    variables : {"dimensions", "tokens"}
        What is paired: hidden dimensions, with tokens as samples; or tokens of one text, with hidden dimensions as samples. See
        `ProbeState.estimate_token_pairs` for the latter.
    skip_first : int
        Leave out this many tokens at the start of each row of a batch: the first position carries massive activations. A long
        text is run in windows, each a row of its own.
    skip_special : bool
        Leave out the tokenizer's special tokens (BOS, EOS, padding) wherever they stand. Padding is left out in any case, by the
        attention mask or, in a batch of several rows without one, where rows end (or begin) in padding.
    sample_every : int
        Keep one token in this many of each row: those whose position is a multiple of it after `skip_first`. They keep their
        places: those further apart than `lags` count as independent in p-values, which their note then says. 1: all.
    dimensions : sequence of int, or int, optional
        Measure only these dimensions of each hook point, by index; or this many of them, as `chosen_by` says. All, by default.
    chosen_by : {"variance", "random"}
        Of a number of dimensions: those of largest variance in the calibration tokens, at each hook point its own; or random
        ones, from `seed`, the same at all hook points of one size. Only random ones stand for all dimensions.
    seed : int
        For random dimensions and pairs.
    pairs : "all", "between", int, or sequence of (int, int)
        Every pair of the dimensions that are measured; each dimension of one hook point with each of another, see `between`; this
        many of their pairs, drawn at random from `seed`; or these pairs, by the indices of their dimensions, in which case only
        dimensions that occur in one are measured.
    between : "next", "first", or sequence of (str, str)
        With ``pairs="between"``, which hook points meet: each with the next one in the order of the model; the first one with
        each later one; or these, by the names that results have, or by those of two named sets, which meet layer by layer. What
        results call them is ``"hidden_states.0 -> hidden_states.1"``. "next", by default.
    method : {"equal_count", "equal_width"}
        How values are binned.
    bins : int or "auto"
        Bins of each variable. "auto": by the number of tokens for a short text (5 at 94), 8 for a stream that is longer than
        `calibration_tokens`.
    trim_z : float, optional
        Leave out values further than this many standard deviations from their variable's mean, as outliers; mean and deviation
        are those of the calibration tokens. They are counted apart. All values count by default.
    calibration_tokens : int
        The edges are fitted on this many tokens, the first ones, and frozen; a shorter text is used whole.
    lags : int
        Tokens of a text resemble those before them. Up to this many tokens apart that is counted, for p-values that allow for it.
        0: not at all.
    shards : int
        Deal documents out among this many sets of counts, 16 or more, for standard errors that allow for the resemblance of
        tokens within a document (`shard_se`). Memory grows as many times. 0: none. Pairs of tokens have 16 in any case.
    swap : bool
        Count across documents, too: the first variable in one and the second in another, at the same positions. What they share
        is due to position and to being text at all (`swap`). Twice the memory, three times the counting.
    moments : bool
        Keep second moments of the values themselves, for the share of the MI that covariance sees (`linear`).
    by : {"distance", "position", "label"}
        Of pairs of tokens: those are counted together that are as far apart (1, 2, ... 16 tokens, in bands beyond), whose later
        one stands at the same position, or whose labels are the same (``probe.labels``).
    furthest : int
        Pairs of tokens further apart than this are not counted.
    labels : sequence of str
        Names of the labels 0, 1, 2, ..., where pairs of tokens are counted by label.
    about : str
        One line that says what the probe is for; it changes nothing.

    Raises
    ------
    ProbeError
        Lists every impossible value at once.

    Examples
    --------
    >>> probe = Probe(hooks="resid_post", layers=[0, -1], bins=8)
    >>> probe.layers
    (0, -1)
    >>> Probe.from_toml(probe.to_toml()) == probe
    True
    """

    hooks: str | tuple[str, ...] = "hidden_states"
    layers: tuple[int, ...] | None = None
    when: When = "before"
    visit: int | None = None
    variables: Variables = "dimensions"
    skip_first: int = 1
    skip_special: bool = True
    sample_every: int = 1
    dimensions: Dimensions = None
    chosen_by: ChosenBy = "variance"
    seed: int = 0
    pairs: Pairs = "all"
    between: Between = None
    method: BinningMethod = "equal_count"
    bins: int | Literal["auto"] = "auto"
    trim_z: float | None = None
    calibration_tokens: int = 4096
    lags: int = LAGS
    shards: int = 0
    swap: bool = False
    moments: bool = False
    by: KeyedBy = "distance"
    furthest: int = 64
    labels: tuple[str, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.hooks, str):
            try:
                object.__setattr__(self, "hooks", tuple(self.hooks))
            except TypeError:
                problems.append(f"hooks must be a string or a list of strings; got {self.hooks!r}")
        if self.layers is not None:
            layers = (self.layers,) if isinstance(self.layers, int) else self.layers
            try:
                object.__setattr__(self, "layers", tuple(layers))
            except TypeError:
                problems.append(f"layers must be a list of whole numbers; got {self.layers!r}")
        if not isinstance(self.labels, str) and hasattr(self.labels, "__iter__"):
            object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "dimensions", as_dimensions(self.dimensions))
        object.__setattr__(self, "pairs", as_pairs(self.pairs))
        object.__setattr__(self, "between", as_between(self.between, self.pairs))
        for name in ("visit", "skip_first", "sample_every", "seed", "bins", "calibration_tokens", "lags", "shards", "furthest"):
            value = getattr(self, name)
            if hasattr(value, "__index__") and not isinstance(value, bool):
                object.__setattr__(self, name, int(value))  # NumPy's whole numbers too
        if self.trim_z is not None and hasattr(self.trim_z, "__float__") and not isinstance(self.trim_z, bool | int):
            object.__setattr__(self, "trim_z", float(self.trim_z))  # NumPy's numbers too
        problems += _problems(self)
        if problems:
            raise ProbeError("this probe cannot be used:\n" + "\n".join(f"  - {p}" for p in problems))

    def plan(self, model: Any, **circumstances: Any) -> Plan:
        """What this probe will take at a model's hook points: memory, files, steps; see `mi_probe.plan`.

        Examples
        --------
        >>> Probe(layers=[0, 6]).plan("coffee-gpt2", measure=False).fits
        True
        """
        from mi_probe.planning import plan

        return plan(model, self, **circumstances)

    @property
    def subset(self) -> Subset:
        """Which dimensions and pairs are counted."""
        pairs = "none" if self.variables == "tokens" else self.pairs
        return Subset(self.dimensions, self.chosen_by, self.seed, pairs, self.between)

    @property
    def extras(self) -> Extras:
        """What is counted beside the pairs."""
        if self.variables == "tokens":
            return Extras(tokens=TokenKeys(self.by, self.furthest, self.labels, self.bins, self.shards or MIN_SHARDS))
        return Extras(self.lags, self.shards, self.swap, self.moments)

    @property
    def choices(self) -> tuple[str, ...]:
        """In words, for results: how what was counted was chosen, where it is not all.

        Examples
        --------
        >>> Probe(dimensions=64, chosen_by="random", sample_every=2).choices
        ('dimensions: at random, seed 0', 'one token in 2 was counted')
        """
        words = []
        if isinstance(self.dimensions, int):
            variance = "those of largest variance, at each hook point its own; they do not stand for all"
            words.append(f"dimensions: {f'at random, seed {self.seed}' if self.chosen_by == 'random' else variance}")
        if isinstance(self.pairs, int):
            words.append(f"pairs: at random, seed {self.seed}; they stand for all, but the strongest is the strongest of some")
        if self.sample_every > 1:
            words.append(f"one token in {self.sample_every} was counted")
        return tuple(words)

    @classmethod
    def from_toml(cls, text: str, *, where: str = "the text") -> Probe:
        """Read a probe from TOML.

        Raises
        ------
        ProbeError
            The text is not TOML, or has unknown keys or impossible values; all of them are listed.

        Examples
        --------
        >>> Probe.from_toml('hooks = "mlp_out"').hooks
        'mlp_out'
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ProbeError(f"{where} is not TOML: {error}") from error
        values, problems = {}, []
        for section, keys in _SECTIONS.items():
            part = table if section == "" else table.get(section, {})
            if not isinstance(part, dict):
                problems.append(f"[{section}] must be a table; got {part!r}")
                continue
            for key, value in part.items():
                if section == "" and key in _SECTIONS:
                    continue
                if key in keys:
                    values[key] = value
                else:
                    known = [*keys, *(s for s in _SECTIONS if s and not section)]
                    place = f"[{section}] " if section else ""
                    home = next((s for s, theirs in _SECTIONS.items() if key in theirs), None)
                    hint = f"; it belongs under [{home}]" if home else nearest(key, known) or f"; known are {known}"
                    problems.append(f"{place}key '{key}' is not known{hint}")
        try:
            probe = cls(**values)
        except ProbeError as error:
            problems += [line.removeprefix("  - ") for line in str(error).splitlines()[1:]]
        if problems:
            raise ProbeError(f"{where} is not a valid probe:\n" + "\n".join(f"  - {p}" for p in problems))
        return probe

    def to_toml(self) -> str:
        """Write the probe as TOML, every value spelled out; of pairs of tokens only where these are counted.

        What a probe of pairs of dimensions says stays the same, so that runs of an older mi_probe can be gone on with.
        """
        import tomli_w

        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        of_tokens = self.variables == "tokens"
        if not of_tokens:
            values["variables"] = None
        table: dict[str, Any] = {}
        for section, keys in _SECTIONS.items():
            if section == "token_pairs" and not of_tokens:
                continue
            part = {k: values[k] for k in keys if values[k] is not None}
            table.update(part if section == "" else {section: part})
        return tomli_w.dumps(table)


_SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("about", "hooks", "layers", "when", "visit", "variables"),
    "tokens": ("skip_first", "skip_special", "sample_every"),
    "subset": ("dimensions", "chosen_by", "seed", "pairs", "between"),
    "binning": ("method", "bins", "trim_z", "calibration_tokens"),
    "extras": ("lags", "shards", "swap", "moments"),
    "token_pairs": ("by", "furthest", "labels"),
}
assert {k for keys in _SECTIONS.values() for k in keys} == {f.name for f in fields(Probe)}


def _whole(value: object, least: int, most: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _problems(probe: Probe) -> list[str]:
    hooks = (probe.hooks,) if isinstance(probe.hooks, str) else probe.hooks
    methods = get_args(BinningMethod)
    checks = [
        (
            isinstance(hooks, tuple) and bool(hooks) and all(isinstance(h, str) and h for h in hooks),
            f"hooks must be a name or a list of names; got {probe.hooks!r}",
        ),
        (
            probe.layers is None or (bool(probe.layers) and all(_whole(i, -(2**31)) for i in probe.layers)),
            f"layers must be a list of whole numbers; got {probe.layers!r}",
        ),
        (
            probe.when in get_args(When),
            f"when must be one of {get_args(When)}; got {probe.when!r}{nearest(str(probe.when), get_args(When))}",
        ),
        (
            probe.visit is None or _whole(probe.visit, -1),
            f"visit must be 0 for the first firing, 1 for the second, ..., or -1 for the last; got {probe.visit!r}",
        ),
        (_whole(probe.skip_first, 0), f"skip_first must be a whole number from 0; got {probe.skip_first!r}"),
        (isinstance(probe.skip_special, bool), f"skip_special must be true or false; got {probe.skip_special!r}"),
        (_whole(probe.sample_every, 1), f"sample_every must be a whole number from 1; got {probe.sample_every!r}"),
        (
            probe.method in methods,
            f"method must be one of {methods}; got {probe.method!r}{nearest(str(probe.method), methods)}",
        ),
        (
            probe.bins == "auto" or _whole(probe.bins, 2, MAX_BINS),
            f"bins must be 'auto' or a whole number from 2 to {MAX_BINS}; got {probe.bins!r}",
        ),
        (
            _whole(probe.calibration_tokens, 2),
            f"calibration_tokens must be a whole number from 2; got {probe.calibration_tokens!r}",
        ),
        (
            probe.trim_z is None or (isinstance(probe.trim_z, int | float) and probe.trim_z is not True and probe.trim_z > 0),
            f"trim_z must be a number of standard deviations above 0; got {probe.trim_z!r}",
        ),
        (_whole(probe.lags, 0, MAX_LAGS), f"lags must be a whole number from 0 to {MAX_LAGS}; got {probe.lags!r}"),
        (
            probe.shards == 0 or _whole(probe.shards, MIN_SHARDS, MAX_SHARDS),
            f"shards must be 0, or a whole number from {MIN_SHARDS} to {MAX_SHARDS}; got {probe.shards!r}",
        ),
        (isinstance(probe.swap, bool), f"swap must be true or false; got {probe.swap!r}"),
        (isinstance(probe.moments, bool), f"moments must be true or false; got {probe.moments!r}"),
        (
            probe.variables in get_args(Variables),
            f"variables must be one of {get_args(Variables)}; got {probe.variables!r}"
            f"{nearest(str(probe.variables), get_args(Variables))}",
        ),
        (isinstance(probe.about, str), f"about must be text; got {probe.about!r}"),
    ]
    subset = Subset(probe.dimensions, probe.chosen_by, probe.seed, probe.pairs, probe.between)
    return [*(message for good, message in checks if not good), *subset.problems(), *_problems_of_tokens(probe)]


def _problems_of_tokens(probe: Probe) -> list[str]:
    """What does not go with pairs of tokens, or only with them."""
    keys = TokenKeys(probe.by, probe.furthest, probe.labels)
    if probe.variables != "tokens":
        changed = [name for name in ("by", "furthest", "labels") if getattr(probe, name) != getattr(TokenKeys(), name)]
        if changed:
            return [f"{', '.join(changed)}: of pairs of tokens, which are counted with variables = 'tokens'"]
        return ["pairs = 'none' leaves nothing to count; variables = 'tokens' counts pairs of tokens"] * (probe.pairs == "none")
    unfit = {
        "pairs": probe.pairs not in ("all", "none"),
        "swap": probe.swap,
        "moments": probe.moments,
        "trim_z": probe.trim_z is not None,
        "method": probe.method != "equal_count",
    }
    why = (
        "pairs of tokens over many texts are of all dimensions in bins of equal count; mi_probe.token_pairs has more for one text"
    )
    wrong = [name for name, there in unfit.items() if there]
    return keys.problems() + ([f"{', '.join(wrong)} and variables = 'tokens' do not go together: {why}"] if wrong else [])


def load_probe(name: str | Path) -> Probe:
    """A probe by the name of a ready-made one, or from a TOML file.

    Parameters
    ----------
    name : str or path
        ``"dimension_pairs"`` (``mi-probe ls`` lists all), or a path that ends in ``.toml``.

    Raises
    ------
    RoomError
        There is no such probe or file.
    ProbeError
        The file is not a valid probe.

    Examples
    --------
    >>> load_probe("dimension_pairs").hooks
    'hidden_states'
    """
    if str(name) in NAMED_SETS:
        raise RoomError(f"'{name}' is a named set of hook points, not a probe: use Probe(hooks='{name}').")
    path = find("probes", str(name))
    return Probe.from_toml(read_text(path), where=str(path))
