"""What all CPU kernels share: how they are compiled, and how plain threads share their work.

Compiled code is cached on disk. Kernels release the interpreter lock and take a range of their work, so plain threads share it;
each result is written by one thread, hence the same numbers for any number of threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Counts", "in_threads", "jit", "ranges", "threads_allowed", "threads_for"]

Counts = NDArray[np.integer]

jit = numba.njit(cache=True, nogil=True, boundscheck=False)

_pools: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_pools.clear)  # a forked process has none of the threads


def threads_allowed() -> int:
    """As many as numba and torch may use, the fewer of both: NUMBA_NUM_THREADS and OMP_NUM_THREADS, or their set_num_threads."""
    try:
        numba.threading_layer()
    except ValueError:  # not started, so nobody has set a number; asking for it would start threads that we do not use
        allowed = int(numba.config.NUMBA_NUM_THREADS)
    else:
        allowed = int(numba.get_num_threads())
    of_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return min(allowed, _of_openmp(allowed) if of_torch is None else int(of_torch()))


def _of_openmp(otherwise: int) -> int:
    """What OMP_NUM_THREADS says, which torch follows once it is there; torchrun sets 1 for each of several processes."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(said)) if said.isdecimal() else otherwise


def threads_for(cost: float) -> int:
    """Threads worth starting for about `cost` elementary steps."""
    return 1 if cost < 1e6 else threads_allowed()


def ranges(rows: int, weight: Callable[[NDArray[np.int64]], NDArray[np.int64]], threads: int) -> list[tuple[int, int]]:
    """Ranges of rows of about equal weight, a few for each thread."""
    total = np.concatenate([[0], np.cumsum(weight(np.arange(rows)))])
    parts = min(rows, 1 if threads == 1 else 6 * threads)
    cuts = np.searchsorted(total, np.linspace(0, total[-1], parts + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], cuts, [rows]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def in_threads(work: Callable[[int, int], None], parts: list[tuple[int, int]], threads: int) -> None:
    """Do all parts. The threads are kept, and shared by all who ask for as many at one time."""
    if threads == 1 or len(parts) == 1:
        for first, last in parts:
            work(first, last)
        return
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="mi_probe")
    list(_pools[threads].map(lambda r: work(*r), parts))
