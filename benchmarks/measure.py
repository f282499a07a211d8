"""How things are measured: seconds, threads, peak memory."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Spread", "how_memory_is_measured", "peak_memory", "resident", "seconds", "threads"]

_SELF = Path("/proc/self")


class Spread(NamedTuple):
    """Median, lowest and highest of some repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        ordered, half = sorted(values), len(values) // 2
        middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        return cls(middle, ordered[0], ordered[-1])


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, numba and torch use this many threads."""
    import numba
    import torch

    def put(most: int, now: int, of_torch: int) -> None:
        numba.config.NUMBA_NUM_THREADS = most
        numba.set_num_threads(now)
        torch.set_num_threads(of_torch)

    before = (numba.config.NUMBA_NUM_THREADS, numba.get_num_threads(), torch.get_num_threads())
    put(min(number, before[0]), min(number, before[0]), number)
    try:
        yield
    finally:
        put(*before)


# -- memory -----------------------------------------------------------------------------------------------------------


def resident(line: str = "VmRSS") -> int:
    """Bytes of this process in memory now (VmRSS), or at most since the last reset (VmHWM). Linux only."""
    for text in (_SELF / "status").read_text().splitlines():
        if text.startswith(f"{line}:"):
            return 1024 * int(text.split()[1])
    raise LookupError(f"no {line} in {_SELF / 'status'}")


def _reset_peak() -> bool:
    """Let VmHWM begin anew; False where the system does not offer it."""
    try:
        (_SELF / "clear_refs").write_text("5")
        resident("VmHWM")
    except (OSError, LookupError):
        return False
    return True


def how_memory_is_measured() -> str:
    """In words, for the head of the tables."""
    if _reset_peak():
        return "the kernel's high-water mark of resident memory (VmHWM, reset before) over what was resident before"
    return "resident memory sampled every millisecond, over what was resident before: short peaks are missed"


def _tidy() -> None:
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; what it kept of earlier work would hide a need
        if trim is not None:
            trim(0)


def peak_memory(work: Callable[[], Any]) -> int:
    """Most bytes that were resident during one call, beyond those before it."""
    _tidy()
    if _reset_peak():
        before = resident()
        work()
        return max(0, resident("VmHWM") - before)
    return _sampled_peak(work)


def _sampled_peak(work: Callable[[], Any]) -> int:
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(1e-3):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return int(max(most, process.memory_info().rss) - before)
