"""The errors and the warning that mi_probe raises: one base class, a kind for each room."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "BinningError",
    "CheckpointError",
    "HookPointError",
    "InputError",
    "MIProbeError",
    "MIProbeWarning",
    "MemoryRefusedError",
    "MergeError",
    "ModelError",
    "OverlapError",
    "PointError",
    "ProbeError",
    "RankError",
    "RoomError",
    "Stopped",
    "StoreError",
    "at_point",
    "nearest",
    "require_point",
    "several",
]


class MIProbeError(Exception):
    """Base class of every error that mi_probe raises on purpose.

    Examples
    --------
    >>> import mi_probe
    >>> try:
    ...     mi_probe.pairwise([1.0, 2.0])
    ... except mi_probe.MIProbeError as error:
    ...     print(type(error).__name__)
    InputError
    """


class InputError(MIProbeError):
    """An array or a text has the wrong shape, type or content."""


class BinningError(MIProbeError):
    """Edges cannot be fitted or used as asked."""


class MergeError(MIProbeError):
    """Two counts describe different things and may not be added."""


class OverlapError(MergeError):
    """Two counts hold the same documents, and their sum would hold them twice."""


class ProbeError(MIProbeError):
    """A probe has unknown keys or impossible values; the message lists all of them."""


class HookPointError(MIProbeError):
    """A hook point does not exist, a pattern matches nothing, or an activation is not one row a token."""


class ModelError(MIProbeError):
    """A model cannot be loaded."""


class MemoryRefusedError(MIProbeError, MemoryError):
    """What is to be counted does not fit in the memory that is free; the message says what would. Nothing was taken or lost."""


class PointError(MIProbeError, KeyError):
    """A result has no such hook point."""

    __str__ = Exception.__str__  # KeyError's would put the message in quotes


class StoreError(MIProbeError):
    """A file is missing, cut off, altered, or of another kind or version."""


class CheckpointError(MIProbeError):
    """A run cannot be gone on with: the probe, the model, the texts or what was asked are not those of its checkpoint."""


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, by Ctrl-C or SIGTERM, and has saved what it counted."""


class RankError(MIProbeError):
    """Another process of a run has ended, or does not answer; the message names it."""


class RoomError(MIProbeError):
    """A probe or a recipe cannot be found."""


class MIProbeWarning(UserWarning):
    """Something was left out of a measurement; the message says what and why."""


def require_point(name: str, names: Iterable[str]) -> None:
    """Raise `PointError`, with all names, unless a hook point is among them.

    Examples
    --------
    >>> require_point("hidden_states.3", ["hidden_states.2", "hidden_states.3"])
    """
    names = list(names)
    if name not in names:
        raise PointError(f"there is no hook point '{name}'{nearest(name, names)}; there are {', '.join(names)}.")


@contextmanager
def at_point(name: str, kind: type[MIProbeError] | None = None) -> Iterator[None]:
    """Name the hook point in the error of what is done there, and raise it as another kind if one is given.

    Examples
    --------
    >>> with at_point("hidden_states.3"):
    ...     raise InputError("nothing varies.")
    Traceback (most recent call last):
    mi_probe.errors.InputError: at hook point 'hidden_states.3', nothing varies.
    """
    try:
        yield
    except (InputError, MergeError) as error:
        raise (kind or type(error))(f"at hook point '{name}', {error}") from None


def several(n: int, what: str) -> str:
    """So many of something, with its plural.

    Examples
    --------
    >>> several(1, "hook point"), several(13, "hook point")
    ('1 hook point', '13 hook points')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint such as `` (did you mean 'bins'?)``, or an empty string when nothing is close.

    Examples
    --------
    >>> nearest("bin", ["bins", "method"])
    " (did you mean 'bins'?)"
    """
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
