"""State files that become one, as the tasks of a job array leave them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mi_probe import store
from mi_probe.coverage import Part, absent, described, newer, parts_from, totals_of
from mi_probe.errors import InputError, MergeError, MIProbeError, MIProbeWarning, OverlapError, StoreError, several
from mi_probe.state import SAME_MODEL, ProbeState

__all__ = ["merge_files"]


def merge_files(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    replace: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> ProbeState:
    """Add up state files, and write the sum.

    What can be told from their headers is checked before any is read; they are read one after the other, so that two are in
    memory at most.

    Parameters
    ----------
    files : sequence of path
    out : path
    replace : bool
        Whether `out` may be there already; it may then be one of the files.
    say : callable
        Told what was done, line by line.

    Returns
    -------
    ProbeState
        The sum.

    Raises
    ------
    StoreError
        A file is missing, damaged or no state, or `out` is there already or cannot be written.
    MergeError
        They do not add up. As an `OverlapError`: two hold counts of the same documents.

    Warns
    -----
    MIProbeWarning
        A part was not finished, or shards are not there.

    Examples
    --------
    >>> import mi_probe, numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> for name in "ab":
    ...     state = mi_probe.ProbeState(mi_probe.Probe(bins=3))
    ...     state.update("layer 0", np.arange(40.0).reshape(20, 2))
    ...     state.run = {"task": name}
    ...     state.save(f"{folder.name}/{name}")
    >>> merge_files([f"{folder.name}/a", f"{folder.name}/b"], f"{folder.name}/all")
    ProbeState(1 hook point, 40 tokens seen)
    >>> folder.cleanup()
    """
    paths, out = [Path(file) for file in files], Path(out)
    if not paths:
        raise InputError("there is no file to merge.")
    if out.exists() and not replace:
        raise StoreError(f"{out} is there already: choose another name, or say --force to replace it.")
    if not out.parent.is_dir():
        raise StoreError(f"cannot write {out}: there is no folder {out.parent}.")
    _require_fit(paths)
    total = None
    for path in paths:
        state = ProbeState.load(path)
        say(f"  {path}: {_summary(state)}")
        if total is None:
            total = state
            continue
        try:
            total += state
        except MIProbeError as error:
            raise type(error)(f"{path} does not add up with what comes before it: {error}") from None
        del state  # before the next is read
    assert total is not None
    total.save(out)
    say(f"merged {several(len(paths), 'file')} into {out}: {_summary(total)}")
    unfinished = [part for part in total.parts if not part.complete]
    if unfinished:
        warnings.warn(
            f"{'; '.join(described(unfinished))}. What was not counted there is not in {out}, and cannot be added to it later: "
            "let these runs end, then merge again.",
            MIProbeWarning,
            stacklevel=2,
        )
    lacking = absent(total.parts)
    if lacking:
        warnings.warn(f"{out} lacks {'; '.join(lacking)}.", MIProbeWarning, stacklevel=2)
    return total


def _summary(state: ProbeState) -> str:
    totals = totals_of(state.run)
    summed = [f"{n:,.10g} {name.removesuffix('s') if n == 1 else name}" for name, n in totals.items() if n]
    said = [several(state.tokens_seen, "token"), *summed]
    return "; ".join([", ".join(said), *described(state.parts)])


def _require_alike(path: Path, header: Mapping[str, Any], other: Path, theirs: Mapping[str, Any]) -> None:
    """Raise if two files are of other models or hook points, as far as their headers tell; edges and the rest show in the sum."""
    try:
        facts, others = (
            {
                **{name: (each.get("model") or {}).get(name) for name in SAME_MODEL},
                "the fingerprint of its weights": (each.get("run") or {}).get("weights"),
                "the list of hook points": ", ".join(point["name"] for point in each["points"]),
            }
            for each in (header, theirs)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} or {other} is not a usable state: its header makes no sense ({error!r}).") from error
    for what, value in facts.items():
        if value != others[what] and None not in (value, others[what]):
            raise MergeError(f"{path} and {other} do not add up: {what} is {value} in the one, and {others[what]} in the other.")


def _require_fit(paths: Sequence[Path]) -> None:
    """Raise unless all are states of one model, none twice, and none holds what another does, as far as their headers tell."""
    seen: list[tuple[Path, store.Contents, list[Part]]] = []
    for path in paths:
        contents = store.look(path)
        if contents.kind != "state":
            raise StoreError(f"{path} holds {contents.called} of mi_probe; only states can be merged.")
        try:
            seen.append((path, contents, parts_from(contents.header.get("parts", []))))
        except InputError as error:
            raise StoreError(f"{path} is not a usable state: {error}") from error
        if contents.header.get("tokens_seen") and seen[0][1].header.get("tokens_seen"):
            _require_alike(path, contents.header, seen[0][0], seen[0][1].header)
    for (path, contents, parts), (other, others, their_parts) in combinations(seen, 2):
        if path.samefile(other):
            raise OverlapError(f"{path} and {other} are the same file: its counts would be added twice.")
        if contents.digest == others.digest and contents.header.get("tokens_seen"):
            raise OverlapError(f"{path} and {other} hold exactly the same: its counts would be added twice.")
        for one in parts:
            for two in their_parts:
                if one.overlaps(two):
                    raise OverlapError(
                        f"{path} holds {one}, and {other} holds {two}: documents would be counted twice. Merge shards of one "
                        f"order, each once{newer(one, two)}."
                    )
