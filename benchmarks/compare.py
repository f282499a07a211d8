"""Two ways to one answer, timed in turn in one process: first they must agree, then the medians and their ratio are printed."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["compare", "machine", "seconds"]


def machine() -> str:
    """The machine and the versions that a run was measured with."""
    import numba
    import numpy as np

    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}, "
        f"numba {numba.__version__}, {numba.config.NUMBA_NUM_THREADS} threads"
    )


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(
    what: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    agree: Callable[[Any, Any], bool],
    *,
    share: float = 1.0,
    repeats: int = 7,
) -> None:
    """Check that both agree, then print medians over alternating repeats.

    Parameters
    ----------
    what : str
        The claim, in words.
    ours, theirs : callables without arguments
        `theirs` may do only a part of the work.
    agree : callable
        Compares the two results.
    share : float
        The part of the work that `theirs` does; its time is divided by it for the ratio.
    """
    if not agree(ours(), theirs()):
        raise SystemExit(f"{what}: the two results differ; nothing was timed.")
    mine, other = zip(*((seconds(ours), seconds(theirs) / share) for _ in range(repeats)), strict=True)
    ratios = sorted(b / a for a, b in zip(mine, other, strict=True))
    scaled = "" if share == 1 else f" (measured on {share:.2%} of the pairs)"
    print(
        f"{what}\n    ours {1e3 * statistics.median(mine):9.1f} ms   theirs {1e3 * statistics.median(other):11.1f} ms{scaled}"
        f"   ratio {statistics.median(ratios):8.1f}  ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    )
