"""A disk that is full: an error that says so, the file before it, and no other."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_probe
from mi_probe import Edges, Probe, ProbeState, corpus, store
from mi_probe.errors import StoreError
from mi_probe.merging import merge_files

from .test_runs import TEXTS, same

WHAT = Probe(hooks="resid_post", calibration_tokens=200, lags=2)

pytestmark = pytest.mark.filterwarnings("ignore:the edges do not represent")


@contextmanager
def room_for(nbytes: int) -> Iterator[None]:
    """No file can become larger than this: what the system says then is what it says of a full disk, but for the words."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_wherever_a_disk_is_full_the_file_before_stays_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    arrays = {f"x{k}": np.arange(50 * k * k) for k in range(12)}  # smaller and larger than what is buffered as a rule
    store.write(path, "state/1", {}, arrays)
    before = path.read_bytes()
    for room in [*range(0, len(before), 1999), len(before) - 1]:
        with room_for(room), pytest.raises(StoreError, match=f"cannot write {path}: File too large"):
            store.write(path, "state/1", {}, arrays)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    with room_for(len(before)):
        store.write(path, "state/1", {}, arrays)


class FullFile(io.FileIO):
    """A file on a disk with room for 1,000 bytes more, then for none."""

    def write(self, data: Any) -> int:
        if self.tell() >= 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data[:1000])


class FullWhenClosed(io.FileIO):
    """A file of a server that says only in the end that there was no room."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def fail(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def opened_as(kind: type[io.FileIO]) -> Any:
    plain = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return kind(self, "xb") if mode == "xb" else plain(self, mode, *args, **kwargs)

    return opened


FAILURES: dict[str, tuple[Any, str, Any]] = {
    "the first bytes": (Path, "open", lambda *_args, **_kwargs: fail()),
    "a write": (Path, "open", opened_as(FullFile)),
    "closing": (Path, "open", opened_as(FullWhenClosed)),
    "bringing it to the disk": (os, "fsync", fail),
    "giving it its name": (Path, "replace", fail),
}


@pytest.mark.parametrize("where", FAILURES)
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_and_the_run_goes_on_from_it(
    where: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_PIECE", 100)
    monkeypatch.setattr(corpus, "_BLOCK", 300)
    path = tmp_path / "state.safetensors"
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_tokens": 300, "calibration": "head"}
    saved: list[int] = []
    write = store.write

    def write_thrice(*args: Any) -> None:
        """The third checkpoint finds the disk full."""
        saved.append(1)
        with pytest.MonkeyPatch.context() as patch:
            if len(saved) == 3:
                patch.setattr(*FAILURES[where])
            write(*args)

    monkeypatch.setattr(store, "write", write_thrice)
    with pytest.raises(StoreError, match=rf"cannot write {path}: (No space left on device|Disk quota exceeded)"):
        mi_probe.accumulate(tiny, TEXTS, WHAT, **options)
    monkeypatch.setattr(store, "write", write)
    assert list(tmp_path.iterdir()) == [path]
    last = ProbeState.load(path)
    assert last.run["position"]
    whole = mi_probe.accumulate(tiny, TEXTS, WHAT, calibration="head")
    assert 0 < last.tokens_seen < whole.tokens_seen
    assert same(mi_probe.accumulate(tiny, TEXTS, WHAT, resume=True, **options), whole)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_merge_and_edges_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    state = ProbeState(Probe(bins=4, lags=0))
    state.update("a", np.random.default_rng(0).standard_normal((80, 9)))
    state.save(tmp_path / "a")
    with room_for(1000):
        with pytest.raises(StoreError, match=r"cannot write .*all: File too large"):
            merge_files([tmp_path / "a"], tmp_path / "all")
        with pytest.raises(StoreError, match=r"cannot write .*edges: File too large"):
            Edges.of(state).save(tmp_path / "edges")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
