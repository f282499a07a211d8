"""Saving and loading the counts of all hidden states of GPT-2 small, against what the disk does with as many bytes.

    python benchmarks/state_files.py [--points 13] [--repeats 5] [--folder FOLDER]

prints a Markdown table. All ways take turns, and the fastest of each counts: a disk is shared with everything else. Reading is
from the page cache, where a file is that was just written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mi_probe import Binning, Probe, ProbeState, store
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.stream import PointStream

VARIABLES, BINS, SAMPLES = 768, 8, 4096


def counted(points: int) -> ProbeState:
    """A state of so many hook points, each with 4,096 samples."""
    rng = np.random.default_rng(0)
    state = ProbeState(Probe(bins=BINS), {"name": "none"})
    places = Places.of_batch(np.arange(SAMPLES), 1024, np.arange(SAMPLES // 1024))
    for k in range(points):
        x = rng.standard_normal((SAMPLES, VARIABLES)).astype(np.float32)
        counts = PointCounts(Binning.fit(x, bins=BINS), state.probe.extras)
        counts.update(counts.binning.encode(x), places)
        counts.flush()
        state.streams[f"hidden_states.{k}"] = PointStream.frozen(state.probe, counts)
    return state


def write_plainly(path: Path, data: np.ndarray) -> None:
    """As fast as there is: one array, brought to the disk."""
    with path.open("wb") as file:
        data.tofile(file)
        file.flush()
        os.fsync(file.fileno())


def read_plainly(path: Path) -> None:
    """Into memory that is new, as for anything that is loaded."""
    with path.open("rb", buffering=0) as file:
        file.readinto(np.empty(path.stat().st_size, dtype=np.uint8).data)


def fastest(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each way, the least of some rounds of all."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--points", type=int, default=13)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--folder", type=Path, default=None, help="on the disk that is meant; a temporary one by default")
    given = arguments.parse_args()
    state = counted(given.points)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path, plain = Path(folder) / "state.safetensors", Path(folder) / "plain"
        state.save(path)
        back = ProbeState.load(path)
        if any(back.streams[name].read() != stream.read() for name, stream in state.streams.items()):
            raise SystemExit("what was loaded is not what was saved")
        del back
        nbytes = path.stat().st_size
        data = np.fromfile(path, dtype=np.uint8)
        ways: dict[str, Callable[[], object]] = {"plain": partial(write_plainly, plain, data), "ours": partial(state.save, path)}
        seconds = fastest(ways, given.repeats)
        del state, data, ways
        reads = fastest(
            {
                "plain": lambda: read_plainly(path),
                "digest": lambda: store.check(path),
                "arrays": lambda: store.read(path, "state", 4),
                "ours": lambda: ProbeState.load(path),
            },
            given.repeats,
        )
    print(f"A state of {given.points} hook points, {nbytes / 1e6:,.0f} MB.\n")
    print("| what | seconds | GB/s | of the plain way's time |\n|---|---:|---:|---:|")
    for what, took, base in (
        ("write one array, fsync", seconds["plain"], seconds["plain"]),
        ("`ProbeState.save`", seconds["ours"], seconds["plain"]),
        ("read into one array", reads["plain"], reads["plain"]),
        ("`mi-probe info --check`: the digest", reads["digest"], reads["plain"]),
        ("`store.read`", reads["arrays"], reads["plain"]),
        ("`ProbeState.load`: all checks", reads["ours"], reads["plain"]),
    ):
        print(f"| {what} | {took:.2f} | {nbytes / took / 1e9:.1f} | {took / base:.2f} |")


if __name__ == "__main__":
    main()
