"""Hook points by name: what a model has, and what a probe means by its names in this model."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning
from mi_probe.errors import HookPointError, InputError, at_point, nearest
from mi_probe.probe import NAMED_SETS, Probe
from mi_probe.subset import Dimensions, Width, name_between
from mi_probe.tokencounts import require_dimensions

__all__ = [
    "HookedModel",
    "Point",
    "couples",
    "inner_of",
    "points",
    "require_model",
    "resolve",
    "site_of",
    "width_by_name",
    "widths_of_couples",
    "with_edges",
]


class HookedModel(Protocol):
    """What mi_probe needs of a model. HookedTransformer, TransformerBridge and RemoteBridge have it."""

    cfg: Any

    @property
    def hook_dict(self) -> dict[str, Any]: ...

    def forward(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Point:
    """A place in a model under the name that results will carry.

    Attributes
    ----------
    key : str
        The name in results, such as ``"hidden_states.3"``.
    hook_name : str
        The hook point in the model; of a module, its attribute's name.
    layer : int, optional
    is_module : bool
        Whether the place is the output of a module that has no hook point of its own there: HookedTransformer's final layer norm,
        whose ``hook_normalized`` stands before weight and bias in some versions and after them in others.
    """

    key: str
    hook_name: str
    layer: int | None
    is_module: bool = False


_STREAM = re.compile(
    r"blocks\.\d+\.(hook_(in|out|resid_pre|resid_mid|resid_post|attn_out|mlp_out)|(attn|mlp)\.hook_out)|ln_final(\.hook_out)?"
)
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def require_model(model: object) -> None:
    """Raise `HookPointError` if this is not a model of TransformerLens, in the shape of its attributes."""
    lacks = [name for name in ("hook_dict", "cfg", "forward") if not hasattr(model, name)]
    if lacks:
        raise HookPointError(
            f"{type(model).__name__} is not a model that mi_probe can attach to: it lacks {', '.join(lacks)}. Load one with "
            "TransformerBridge.boot_transformers(...) or mi_probe.load_model(...), or feed activations to ProbeState.update."
        )


def inner_of(model: HookedModel) -> Any:
    """The Hugging Face (or native) model inside a bridge; None in a HookedTransformer or a RemoteBridge."""
    return getattr(model, "original_model", None)


def site_of(model: HookedModel, point: Point, hook_dict: dict[str, Any] | None = None) -> Any:
    """The module that a hook for this point goes on, as of now."""
    if point.is_module:
        return getattr(model, point.hook_name)
    return (model.hook_dict if hook_dict is None else hook_dict)[point.hook_name]


def width_by_name(model: HookedModel, point: Point) -> int | None:
    """Variables of a hook point that is in the residual stream, or adds to it; None for all others."""
    return int(model.cfg.d_model) if _STREAM.fullmatch(point.hook_name) else None


def points(model: HookedModel) -> list[str]:
    """Names of all hook points of a model, aliases included.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> "blocks.11.hook_resid_post" in points(model)
    True
    """
    require_model(model)
    return sorted(model.hook_dict)


def _final_state(model: HookedModel) -> Point:
    """Where the last hidden state stands: after the final norm, or after the last block of a model that has none."""
    top = int(model.cfg.n_layers)
    key, last_block = f"hidden_states.{top}", f"blocks.{top - 1}.hook_resid_post"
    inner = inner_of(model)
    if inner is not None:
        # A norm in a head, as BERT's for masked tokens, comes after the hidden states; the base model holds what makes them.
        norm = getattr(model, "ln_final", None)
        base = getattr(inner, "base_model", inner)
        return Point(key, "ln_final.hook_out" if any(module is norm for module in base.modules()) else last_block, top)
    if hasattr(model, "ln_final"):
        return Point(key, "ln_final", top, is_module=True)
    # A HookedTransformer without a norm; or a remote bridge, whose engine names what it serves.
    return Point(key, last_block if hasattr(model, "blocks") else "ln_final.hook_out", top)


def _members(model: HookedModel, name: str, hook_dict: dict[str, Any]) -> list[Point]:
    n_layers = int(model.cfg.n_layers)
    if name == "embed":  # a bridge's hook_embed may come after positions and a norm (BERT)
        return [Point(name, "embed.hook_out" if "embed.hook_out" in hook_dict else "hook_embed", None)]
    if name in ("hidden_states", "resid_pre"):
        members = []
        for i in range(n_layers):
            hook_name = f"blocks.{i}.hook_resid_pre"
            if hook_name not in hook_dict and f"blocks.{i}.hook_in" in hook_dict:
                hook_name = f"blocks.{i}.hook_in"
            elif hook_name not in hook_dict and i and f"blocks.{i - 1}.hook_out" in hook_dict:
                hook_name = f"blocks.{i - 1}.hook_out"  # the same tensor; remote engines may serve only this one
            members.append(Point(f"{name}.{i}", hook_name, i))
        if name == "hidden_states":
            members.append(_final_state(model))
        return members
    canonical = {"resid_post": "hook_out", "attn_out": "attn.hook_out", "mlp_out": "mlp.hook_out"}.get(name)
    members = []
    for i in range(n_layers):
        hook_name = f"blocks.{i}.hook_{name}"
        if hook_name not in hook_dict and canonical and f"blocks.{i}.{canonical}" in hook_dict:
            hook_name = f"blocks.{i}.{canonical}"
        members.append(Point(f"{name}.{i}", hook_name, i))
    return members


def _set_of(wanted: str, hook_dict: dict[str, Any]) -> str | None:
    """The named set that this is, or of which it is a member by its name in results, "hidden_states.3"."""
    name, _, layer = wanted.partition(".")
    member = layer.isdecimal() and wanted not in hook_dict
    return name if name in NAMED_SETS and (member or wanted == name) else None


def _named(members: list[Point], wanted: str, named: str) -> list[Point]:
    """All members of a set, or the one that is meant."""
    found = [point for point in members if wanted in (named, point.key)]
    if not found:
        first, last = members[0].key, members[-1].key
        has = first if first == last else f"{first} to {last}"
        raise HookPointError(f"'{wanted}' is not in this model: of the set '{named}' it has {has}.")
    return found


def resolve(model: HookedModel, probe: Probe) -> list[Point]:
    """The hook points of a probe in a model, each once.

    Where pairs are between two of them, in the order of the model, without those that meet no other; see `couples`.

    Raises
    ------
    HookPointError
        A name that is not there, a pattern that matches nothing, a layer out of range, or hook points that cannot meet.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> [p.hook_name for p in resolve(model, mi_probe.Probe(layers=[0, -1]))]
    ['blocks.0.hook_resid_pre', 'ln_final.hook_out']
    """
    require_model(model)
    hook_dict, n_layers = model.hook_dict, int(model.cfg.n_layers)
    found: list[Point] = []
    for wanted in (probe.hooks,) if isinstance(probe.hooks, str) else probe.hooks:
        named = _set_of(wanted, hook_dict)
        if named is not None:
            members = _of_layers(_named(_members(model, named, hook_dict), wanted, named), probe.layers, wanted)
            absent = [p for p in members if not p.is_module and p.hook_name not in hook_dict]
            if absent:
                parallel = "its blocks have no place between attention and MLP, as where both run in parallel. "
                why = parallel if named == "resid_mid" else ""
                there = [str(p.layer) for p in members if p not in absent and p.layer is not None]
                only = f" Of the layers asked for it has {', '.join(there)}." if there else ""
                raise HookPointError(
                    f"this model has no '{absent[0].key}': {why}{absent[0].hook_name} is not among its "
                    f"hook points; see mi_probe.hooks.points(model).{only}"
                )
            found += members
            continue
        if any(c in wanted for c in "*?["):
            members = [Point(n, n, _layer(n)) for n in hook_dict if fnmatch.fnmatchcase(n, wanted)]
            if not members:
                raise HookPointError(
                    f"the pattern '{wanted}' matches none of the {len(hook_dict)} hook points of this model; "
                    "see mi_probe.hooks.points(model)."
                )
        elif wanted in hook_dict:
            members = [Point(wanted, wanted, _layer(wanted))]
        else:
            raise HookPointError(
                f"hook point '{wanted}' is not in this model ({n_layers} blocks, 0 to {n_layers - 1})"
                f"{nearest(wanted, [*hook_dict, *NAMED_SETS])}; see mi_probe.hooks.points(model), "
                f"or use a named set: {', '.join(NAMED_SETS)}."
            )
        found += _of_layers(members, probe.layers, wanted)
    unique: dict[int, Point] = {}
    for point in found:
        first = unique.setdefault(id(site_of(model, point, hook_dict)), point)
        if first.key != point.key and {first.key.partition(".")[0], point.key.partition(".")[0]} <= set(NAMED_SETS):
            raise HookPointError(
                f"'{first.key}' and '{point.key}' are the same place in this model: ask for one of the two sets."
            )
    if probe.pairs != "between":
        return list(unique.values())
    in_order = sorted(unique.values(), key=_depth)
    used = {key for two in _couples(model, probe, in_order) for key in two}
    return [point for point in in_order if point.key in used]


def couples(model: HookedModel, probe: Probe) -> dict[str, tuple[str, str]]:
    """Which two hook points meet where a probe has ``pairs="between"``, by the name that results have; no others have any.

    Raises
    ------
    HookPointError
        As for `resolve`.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> couples(model, mi_probe.Probe(layers=[0, 6, 12], pairs="between", between="first"))["hidden_states.0 -> hidden_states.12"]
    ('hidden_states.0', 'hidden_states.12')
    """
    if probe.pairs != "between":
        return {}
    return {name_between(*two): two for two in _couples(model, probe, resolve(model, probe))}


def _depth(point: Point) -> float:
    """Where in the model: by its block, what embeds before all of them, and the rest behind."""
    if point.layer is not None:
        return point.layer
    return -1.0 if re.match(r"(hook_)?(pos_)?embed", point.key) else float("inf")


def _couples(model: HookedModel, probe: Probe, there: list[Point]) -> list[tuple[str, str]]:
    """Keys of the hook points that meet, among those of the probe in the order of the model."""
    keys = [point.key for point in there]
    if isinstance(probe.between, tuple):
        return _listed_couples(model, probe.between, there)
    if len(keys) < 2:
        raise HookPointError(
            f"pairs = 'between' takes two hook points, and the probe has one: {keys[0]}. Add others to hooks or layers; "
            "pairs = 'all' has the pairs of one."
        )
    return [(keys[0], key) for key in keys[1:]] if probe.between == "first" else list(pairwise(keys))


def _listed_couples(model: HookedModel, between: tuple[tuple[str, str], ...], there: list[Point]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for two in between:
        of_sets = [{p.layer: p.key for p in there if p.key.rpartition(".")[0] == name} for name in two]
        if two[0] in NAMED_SETS and two[1] in NAMED_SETS and all(of_sets):
            mine, theirs = of_sets
            both = [(mine[layer], theirs[layer]) for layer in mine if layer in theirs]
        else:
            first, second = (_key_of(model, name, there) for name in two)
            both = [(first, second)]
        for first, second in both:
            if first == second:
                raise HookPointError(f"'{two[0]}' and '{two[1]}' are the same place in this model: name two places.")
            if (first, second) not in found and (second, first) not in found:
                found.append((first, second))
    return found


def _key_of(model: HookedModel, name: str, there: list[Point]) -> str:
    """The key of a hook point that may be named as the model does."""
    hook_dict = model.hook_dict
    for point in there:
        if name in (point.key, point.hook_name) or (name in hook_dict and hook_dict[name] is site_of(model, point, hook_dict)):
            return point.key
    keys = [point.key for point in there]
    raise HookPointError(
        f"between names '{name}', which is not among the hook points of the probe{nearest(name, keys)}; these are "
        f"{', '.join(keys)}. hooks and layers say which there are."
    )


def widths_of_couples(
    of: Mapping[str, tuple[str, str]], widths: Mapping[str, int | str]
) -> dict[str, Width | str]:  # fmt: skip
    """Variables of both hook points that meet, or why they are not known; where none meet, of each hook point."""
    if not of:
        return dict(widths)
    found: dict[str, Width | str] = {}
    for name, two in of.items():
        first, second = (widths[key] for key in two)
        if isinstance(first, int) and isinstance(second, int):
            found[name] = (first, second)
        else:
            found[name] = next(f"{key}: {widths[key]}" for key in two if isinstance(widths[key], str))
    return found


def require_enough(probe: Probe, widths: Mapping[str, int | str]) -> None:
    """Raise `HookPointError` if a hook point of known width has fewer dimensions, or pairs, than the probe asks for."""
    for key, width in widths.items():
        if isinstance(width, int):
            with at_point(key, HookPointError):
                probe.subset.columns(width)
                if probe.extras.tokens is not None:
                    require_dimensions(probe.subset.size(width)[0], probe.extras.tokens)


def _layer(name: str) -> int | None:
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def _of_layers(members: list[Point], layers: tuple[int, ...] | None, wanted: str) -> list[Point]:
    if layers is None:
        return members
    there = [p.layer for p in members if p.layer is not None]
    if not there:
        raise HookPointError(f"'{wanted}' has no layers to choose from; leave layers out of the probe.")
    top = max(there) + 1
    chosen = {i + top if i < 0 else i for i in layers}
    if not chosen <= set(there):
        raise HookPointError(f"layers {sorted(chosen - set(there))} are not in '{wanted}', which has {min(there)} to {top - 1}.")
    return [p for p in members if p.layer in chosen]


def with_edges(probe: Probe, keys: list[str], edges: Mapping[str, Binning]) -> Probe:
    """The probe with the binning and dimensions that the edges have; they must be there for all hook points, and of one kind."""
    for key in [*edges, *keys]:
        if key not in edges or key not in keys:
            where = "the probe does not measure it" if key in edges else "the probe measures it, but it has no edges"
            raise HookPointError(f"edges and probe differ at '{key}': {where}{nearest(key, edges if key in keys else keys)}.")
    if probe.variables == "tokens":  # whose bins are its own, and whose dimensions those that vary
        for key, binning in edges.items():
            _require_asked(probe, key, binning)
        return probe
    kinds = {(binning.method, binning.bins) for binning in edges.values()}
    if len(kinds) > 1:
        raise HookPointError(f"edges must have one method and one number of bins; got {sorted(kinds)}.")
    method, bins = kinds.pop()
    return replace(probe, method=method, bins=bins, dimensions=_dimensions_of(probe, edges))


def _require_asked(probe: Probe, key: str, binning: Binning) -> None:
    """Raise unless the dimensions of some edges are among those that the probe asks for, where it says which."""
    try:
        asked = probe.subset.columns(binning.width)
    except InputError as error:
        raise HookPointError(f"the edges of '{key}' are not for this probe: {error}") from None
    columns = np.arange(binning.width) if binning.dimensions is None else binning.dimensions
    too_many = probe.subset.by_variance and isinstance(probe.dimensions, int) and len(columns) > probe.dimensions
    if too_many or (asked is not None and not np.isin(columns, asked).all()):
        raise HookPointError(
            f"the edges of '{key}' are for other dimensions than the probe asks for: fit edges with this probe, or leave its "
            "dimensions out."
        )


def _dimensions_of(probe: Probe, edges: Mapping[str, Binning]) -> Dimensions:
    """The dimensions that edges are for, as a probe says it: which they are, if they are the same everywhere, or how many."""
    of_places = [(key, part) for key, b in edges.items() for part in ([b.of_side(0), b.of_side(1)] if b.sides else [b])]
    found = {_listed(binning.dimensions) for _, binning in of_places}
    wanted = probe.dimensions
    for key, binning in of_places if wanted is not None else ():
        try:
            columns = probe.subset.columns(binning.width)
        except InputError as error:
            raise HookPointError(f"the edges of '{key}' are not for this probe: {error}") from None
        fits = binning.variables == wanted if probe.subset.by_variance else _listed(binning.dimensions) == _listed(columns)
        if not fits:
            raise HookPointError(
                f"the edges of '{key}' are for other dimensions than the probe asks for ({binning.variables:,} of "
                f"{binning.width:,}): fit edges with this probe, or leave its dimensions out."
            )
    if wanted is not None or found == {None}:
        return wanted
    if len(found) == 1:
        return found.pop()
    if isinstance(probe.pairs, tuple):
        return None  # these say it
    counts = {binning.variables for _, binning in of_places}
    if len(counts) > 1:
        raise HookPointError(f"edges must be for one number of dimensions; got {sorted(counts)}.")
    return counts.pop()


def _listed(columns: NDArray[np.intp] | None) -> tuple[int, ...] | None:
    return None if columns is None else tuple(columns.tolist())
