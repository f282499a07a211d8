"""Warnings that point at the user's own line."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable

from mi_probe.errors import MIProbeWarning

__all__ = ["few", "warn_user"]

_LIBRARIES = {"mi_probe", "torch", "transformer_lens", "transformers", "contextlib", "concurrent", "threading"}


def warn_user(message: str) -> None:
    """Warn at the innermost line that is not in a library between the user and the hooks.

    Each call is shown: Python's own rule, once for a line, would hide what happens to the next probe.
    """
    frame = inspect.currentframe()
    outermost = frame
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES:
        outermost, frame = frame, frame.f_back
    at = frame or outermost
    assert at is not None
    warnings.warn_explicit(message, MIProbeWarning, at.f_code.co_filename, at.f_lineno, at.f_globals.get("__name__"), {})


def few(names: Iterable[str]) -> str:
    """The first three names and how many more there are.

    Examples
    --------
    >>> few("abcde")
    'a, b, c and 2 more'
    """
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
