"""How much memory is free, and sizes in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["free_memory", "free_memory_of", "in_bytes"]

_UNLIMITED = 2**60  # what version 1 of cgroups says where there is no limit is above


def free_memory(*, proc: Path = Path("/proc"), mounts: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be had now without swapping: of the machine, or of the container where its limit leaves less.

    Parameters
    ----------
    proc, mounts : path
        Where Linux shows processes and control groups.

    Examples
    --------
    >>> free_memory() > 0
    True
    """
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups(proc, mounts)]))


def free_memory_of(device: torch.device) -> int | None:
    """Bytes that can be had on a CUDA device, with what torch holds and does not use; None for a device that cannot be asked.

    Examples
    --------
    >>> import torch
    >>> free_memory_of(torch.device("cpu")) is None
    True
    """
    if device.type != "cuda":
        return None
    import torch

    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + held)


def _left_in_groups(proc: Path, mounts: Path) -> list[int]:
    """What the limit of each control group above this process leaves, in both versions of Linux' cgroups."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    left = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, files, cache = mounts, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):
            root, files, cache = mounts / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        else:
            continue
        group = root / name.lstrip("/")  # inside a container its own group is the root, and the name leads nowhere
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            limit, used = (_number(folder / file) for file in files)
            if limit is not None and used is not None and limit < _UNLIMITED:
                left.append(limit - used + _cache(folder / "memory.stat", cache))
    return left


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file, or it says max."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cache(path: Path, key: str) -> int:
    """Cached files that are given back when memory is needed: they count as used, and are not."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [key]), 0)


def in_bytes(size: float) -> str:
    """A size in three digits.

    Examples
    --------
    >>> in_bytes(16_065_000_000), in_bytes(327_475_200), in_bytes(999), in_bytes(999_900)
    ('16.1 GB', '327 MB', '999 B', '1.00 MB')
    """
    for power, unit in enumerate(("B", "kB", "MB", "GB", "TB", "PB")):
        value = size / 1000**power
        if value < 999.5 or unit == "PB":
            break
    digits = 0 if power == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"
