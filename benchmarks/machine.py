"""The machine and the versions that something was measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["facts", "heading"]

_PACKAGES = ("numpy", "scipy", "numba", "torch", "transformer-lens", "transformers", "scikit-learn", "widestats", "ennemi")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def facts() -> dict[str, str]:
    """By name: processor, cores, memory, versions, threads, load."""
    import numba
    import psutil
    import torch
    from threadpoolctl import threadpool_info

    blas = {f"{pool['internal_api']} {pool['version']}: {pool['num_threads']}" for pool in threadpool_info()}
    return {
        "machine": f"{_processor()} ({platform.machine()}), {_cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in _PACKAGES)]),
        "threads": ", ".join(
            [f"numba: {numba.get_num_threads()}", f"torch: {torch.get_num_threads()}", *sorted(blas, key=str.lower)]
        ),
        "load before": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "not known",
    }


def heading() -> str:
    """The same, as a Markdown list."""
    return "\n".join(f"- {name}: {fact}" for name, fact in facts().items())
