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
from results import markdown_table

from mi_probe import Binning, Probe, ProbeState, store
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.state import VERSION
from mi_probe.stream import PointStream

VARIABLES, BINS, SAMPLES = 768, 8, 4096
HEAD = ("what", "seconds", "GB/s", "of the plain way's time")


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


def section(options: argparse.Namespace) -> str:
    """The Markdown of it; what was saved is checked to come back first."""
    state = counted(options.points)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, plain = Path(folder) / "state.safetensors", Path(folder) / "plain"
        state.save(path)
        back = ProbeState.load(path)
        if any(back.streams[name].read() != stream.read() for name, stream in state.streams.items()):
            raise SystemExit("what was loaded is not what was saved")
        del back
        nbytes = path.stat().st_size
        data = np.fromfile(path, dtype=np.uint8)
        ways: dict[str, Callable[[], object]] = {"plain": partial(write_plainly, plain, data), "ours": partial(state.save, path)}
        seconds = fastest(ways, options.repeats)
        del state, data, ways
        reads = fastest(
            {
                "plain": lambda: read_plainly(path),
                "digest": lambda: store.check(path),
                "arrays": lambda: store.read(path, "state", VERSION),
                "ours": lambda: ProbeState.load(path),
            },
            options.repeats,
        )
    rows = (
        ("write one array, fsync", seconds["plain"], seconds["plain"]),
        ("`ProbeState.save`", seconds["ours"], seconds["plain"]),
        ("read into one array", reads["plain"], reads["plain"]),
        ("`mi-probe info --check`: the digest", reads["digest"], reads["plain"]),
        ("`store.read`", reads["arrays"], reads["plain"]),
        ("`ProbeState.load`: all checks", reads["ours"], reads["plain"]),
    )
    cells = [[what, f"{took:.2f}", f"{nbytes / took / 1e9:.1f}", f"{took / base:.2f}"] for what, took, base in rows]
    about = f"A state of {options.points} hook points, {nbytes / 1e6:,.0f} MB. The fastest of {options.repeats}, in turn."
    return f"## State files\n\n{about}\n\n{markdown_table(HEAD, cells)}\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is written and read."""
    parser.add_argument("--points", type=int, default=13, help="hook points")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk that is meant; a temporary one by default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    print(section(parser.parse_args()))


if __name__ == "__main__":
    main()
