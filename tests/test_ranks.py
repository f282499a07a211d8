"""Several processes count what one would: on real processes that talk through torch.distributed."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mi_probe.binning import Binning
from mi_probe.errors import InputError, MergeError, RankError
from mi_probe.pointcounts import PointCounts
from mi_probe.probe import Probe
from mi_probe.ranks import Ranks
from mi_probe.state import ProbeState
from mi_probe.stream import PointStream

from .processes import ended, started

VARIABLES = 11


# -- one process ------------------------------------------------------------------------------------------------------


def test_a_process_by_itself_is_the_first_of_one_and_leaves_torch_distributed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    state = a_state(0, 1)
    before = state.counts["a"].copy()
    with Ranks.from_environment() as ranks:
        assert (ranks.rank, ranks.size, ranks.first, repr(ranks)) == (0, 1, True, "rank 0 of 1")
        assert (ranks.gather(5), ranks.broadcast(5), ranks.together(lambda: 5)) == ([5], 5, [5])
        ranks.collect(state)
        ranks.barrier()
        assert same(ranks.share_edges(state.binnings)["a"], state.binnings["a"])
    assert state.counts["a"] == before
    from torch import distributed

    assert not distributed.is_initialized()


def test_an_environment_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=r"WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not set.*torchrun"):
        Ranks.from_environment()
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "many"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="whole numbers; got '0', 'many'"):
        Ranks.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(InputError, match="below WORLD_SIZE; got 2 of 2"):
        Ranks.from_environment()


def test_who_has_left_is_told_nothing_more() -> None:
    with pytest.raises(RankError, match="rank 0 of 2 has left the run"):
        Ranks(0, 2).barrier()


# -- counts -----------------------------------------------------------------------------------------------------------


def same(one: Binning, other: Binning) -> bool:
    return all(np.array_equal(vars(one)[key], vars(other)[key]) for key in vars(one))


def a_probe(**more: Any) -> Probe:
    return Probe(bins=4, lags=2, shards=16, moments=True, **more)


def edges_of(name: str) -> Binning:
    x = np.random.default_rng(len(name)).standard_normal((300, VARIABLES)).astype(np.float32)
    return Binning.fit(x, bins=4, trim_z=2.5)


def documents(first: int, last: int) -> list[np.ndarray]:
    drawn = []
    for number in range(first, last):
        rng = np.random.default_rng(number)
        x = rng.standard_normal((10 + 37 * number % 50, VARIABLES)).astype(np.float32)
        x[rng.random(x.shape) < 0.02] = np.nan
        drawn.append(x)
    return drawn


def a_state(rank: int, size: int, rounds: tuple[int, ...] = (0,), shift: float = 0.0) -> ProbeState:
    probe = a_probe()
    state = ProbeState(probe)
    for name in ("a", "bb"):
        binning = edges_of(name)
        binning = Binning(binning.edges + shift, binning.method, binning.limits, binning.frame)
        state.streams[name] = PointStream.frozen(probe, PointCounts(binning, probe.extras))
    for part in rounds:
        count(state, rank, size, part)
    return state


def count(state: ProbeState, rank: int, size: int, part: int) -> None:
    """A rank's documents of a round: of five ranks one has none in the first round, and only the first has one in the third."""
    last = {0: 4, 1: 13, 2: 1}[part]
    for number, x in enumerate(documents(100 * part, 100 * part + last)):
        if number % size == rank:
            for name in state.streams:
                mask = np.arange(len(x)) > 1
                state.update(name, x[None], mask=mask[None], documents=[number])
            state.ledger.enter_counted(len(x), {"padding": 2})


def assert_same(one: ProbeState, other: ProbeState) -> None:
    for name, stream in one.streams.items():
        assert stream.read() == other.streams[name].read(), name
    assert one.books() == other.books()
    assert one.tokens_seen == other.tokens_seen


def rank_collects() -> None:
    import mi_probe.ranks

    mi_probe.ranks._CHUNK_BYTES = 1000  # so that there are several chunks
    with Ranks.from_environment(timeout=60) as ranks:
        shared = ranks.share_edges({"a": edges_of("a")} if ranks.first else None)
        assert same(shared["a"], edges_of("a"))
        assert not shared["a"].edges.flags.writeable
        assert ranks.gather({"rank": ranks.rank}) == [{"rank": rank} for rank in range(ranks.size)]
        state = a_state(ranks.rank, ranks.size)
        done: list[int] = [0]
        ranks.collect(state)
        for part in (1, 2):
            check(ranks, state, tuple(done))
            count(state, ranks.rank, ranks.size, part)
            ranks.collect(state)
            done.append(part)
        check(ranks, state, tuple(done))
        ranks.collect(state)  # nothing is left to move
        check(ranks, state, tuple(done))
        wide = a_state(ranks.rank, ranks.size)
        for stream in wide.streams.values():  # as after 1.5 * 10^9 samples in the first variable's first bin
            joint = stream.read().joint
            joint.take_in(1_500_000_000, np.dtype(np.int32), lambda array, dtype: add_first(array, 1_500_000_000))
        ranks.collect(wide)
        if ranks.first:
            tables = wide.counts["a"].tables
            assert tables.dtype == (np.int64 if ranks.size > 1 else np.int32)
            assert int(tables[0, 0, 0]) == int(a_state(0, 1).counts["a"].tables[0, 0, 0]) + 1_500_000_000 * ranks.size
        else:
            assert wide.tokens_seen == 0
        ranks.collect(state)  # after tables were wide, and given away
        check(ranks, state, tuple(done))
        refused(ranks)
        importlib.import_module("torch.distributed.nn.functional")  # as a model does that is loaded meanwhile
    left = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in left if "gloo" in name or "tcpstore" in name], left
    print("all is well")


def add_first(array: np.ndarray, n: int) -> None:
    if array.size:
        array.reshape(-1)[0] += n


def check(ranks: Ranks, state: ProbeState, rounds: tuple[int, ...]) -> None:
    if ranks.first:
        assert_same(state, a_state(0, 1, rounds))
    else:
        assert_same(state, a_state(0, 1, ()))


def refused(ranks: Ranks) -> None:
    last = ranks.rank == ranks.size - 1 > 0
    state = a_state(ranks.rank, ranks.size, shift=0.25 if last else 0.0)
    before = [stream.read().copy() for stream in state.streams.values()]
    words = f"hook point 'a' differs: edges is .* on rank 0 against .* on rank {ranks.size - 1} of {ranks.size} "
    if ranks.size > 1:
        with pytest.raises(MergeError, match=words):
            ranks.collect(state)
    assert before == [stream.read() for stream in state.streams.values()]
    if ranks.size > 1:
        waiting = ProbeState(a_probe())
        waiting.update("a", documents(0, 1)[0])
        mine, said = (
            (InputError, "9 rows that wait|10 rows that wait") if ranks.first else (RankError, "rank 0 of .*InputError: hook")
        )
        with pytest.raises(mine, match=said):
            ranks.collect(waiting if ranks.first else state)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_counts_of_several_processes_end_in_the_first_as_one_would_have_them(size: int) -> None:
    for code, output in ended(started("tests.test_ranks", size, "rank_collects")):
        assert (code, output.splitlines()[-1:]) == (0, ["all is well"]), output


# -- who is gone ------------------------------------------------------------------------------------------------------


def rank_loses_one(how: str, who: str) -> None:
    state = a_state(0, 1)
    if how == "slowly":
        look = Ranks._found_out
        Ranks._found_out = lambda ranks, error: time.sleep(ranks.rank) or look(ranks, error)  # type: ignore[method-assign]
    with Ranks.from_environment(timeout=60) as ranks:
        ranks.barrier()
        if ranks.rank == int(who):
            time.sleep(0.3)  # the others wait already
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the disk is full")
        if how != "killed":
            ranks.gather(1)
        else:
            ranks.collect(state)


@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize("how", ["killed", "raises", "slowly"])
def test_a_rank_that_ends_is_named_by_all_others(how: str, who: int) -> None:
    ends = ended(started("tests.test_ranks", 3, "rank_loses_one", how, who))
    for rank, (code, output) in enumerate(ends):
        if rank == who:
            assert code == (-signal.SIGKILL if how == "killed" else 1)
        else:
            assert code == 1
            word = "it was killed, or ended without a word" if how == "killed" else "ValueError: the disk is full"
            named = f"rank {who} of 3 \\(.*, process \\d+\\) ended: {word}"
            if how == "killed" and who == 0:  # it kept the store
                named += "|rank 0 of 3 .*, through which the others talk, is gone"
            assert re.search(f"RankError: ({named})", output), output


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
