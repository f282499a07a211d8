"""The benchmarks' machinery: a check that cannot fail is worth nothing. Nothing here is timed."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mi_probe import Binning, JointCounts, Probe, ProbeState
from mi_probe.estimators import Estimate, estimate

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = ("one_text", "neighbours", "counting", "threads", "estimation", "token_pairs")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The modules of the folder by name. A peer that is not installed is stood in for by the formula it computes."""
    names = ("claim", "measure", "peers", "results", "projection", "scaling", "small_gpt2", "run", "machine", "corpora", "texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        modules = SimpleNamespace(**{name: importlib.import_module(name) for name in names})
        modules.claims = {name: importlib.import_module(f"claims.{name}") for name in (*CLAIMS, "forward", "size")}
        for package, stand_ins in _STAND_INS.items():
            if importlib.util.find_spec(package) is None:
                for name, stand_in in stand_ins.items():
                    patch.setattr(modules.peers, name, stand_in)
        yield modules


def _plug_in(x: Any, bins: int, order: int = 1) -> Any:
    return estimate(JointCounts.from_codes(Binning.fit(x, bins=bins, method="equal_width").encode(x), bins)).raw


def _one_hot_squared(codes: Any, bins: int) -> Any:
    hot = np.eye(bins, dtype=np.float32)[codes].reshape(len(codes), -1)
    return hot.T @ hot


def _ksg(x: Any) -> Any:
    from mi_probe import ksg

    return ksg(x, match="sklearn").mi[np.triu_indices(x.shape[1], 1)]


_STAND_INS: dict[str, dict[str, Any]] = {
    "widestats": {"widestats_mi": _plug_in, "widestats_histograms": _one_hot_squared},
    "ennemi": {
        "ennemi_discrete": lambda codes: estimate(JointCounts.from_codes(codes, int(codes.max()) + 1)).raw,
        "ennemi_ksg": _ksg,
    },
}


def tiny(bench: SimpleNamespace) -> Any:
    return bench.claims["size"].Size(
        variables=12, short=94, long=600, some=8, few=6, targets=(5, 8), middle=(80, 9), tokens=20
    )  # fmt: skip


def damaged(numbers: Any) -> list[Any]:
    """The same in shape, and wrong: one number off, and the order turned round."""
    if isinstance(numbers, Estimate):
        n, raw = numbers.n.copy(), numbers.raw.copy()
        n[1] += 1
        raw[1] += 1e-3
        return [replace(numbers, n=n, raw=raw[::-1].copy())]
    if isinstance(numbers, JointCounts):
        return [JointCounts.from_arrays(numbers.n, numbers.missing, numbers.margins, numbers.tables[::-1].copy())]
    if isinstance(numbers, int):
        return [numbers + 1]
    one_off = np.array(numbers, dtype=np.float64)
    one_off[(0,) * (one_off.ndim - 1) + (-1,)] += (
        1e3 if one_off.max() < 100 else 1e6
    )  # so that a correlation sees one number, too
    return [one_off, np.array(numbers)[::-1].copy()]


@pytest.mark.parametrize("name", CLAIMS)
def test_every_check_passes_on_what_both_sides_give_and_fails_on_wrong_numbers(bench: SimpleNamespace, name: str) -> None:
    table = bench.claims[name].table(tiny(bench))
    assert table.contests
    for contest in table.contests:
        theirs = contest.peer.around(lambda work: work())
        for claim in contest.claims:
            ours = claim.ours.around(lambda work: work())
            assert claim.agree(ours, theirs), (contest.what, claim.ours.name, contest.peer.name)
            for wrong in damaged(theirs):
                assert not claim.agree(ours, wrong), (contest.what, claim.ours.name, contest.peer.name)
        assert 0 < contest.share <= 1
        assert bool(contest.part) == (contest.share < 1)


@pytest.fixture(scope="module")
def saved(bench: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 32, "vocab_size": 50}
    return bench.small_gpt2.save(tmp_path_factory.mktemp("gpt2"), **shape)


def test_the_check_of_forward_passes_fails_on_other_logits_and_on_other_counts(bench: SimpleNamespace, saved: Path) -> None:
    forward = bench.claims["forward"]
    (contest,) = forward.table(saved, forward.Shape(4, 32)).contests
    logits = contest.peer.work()
    for claim in contest.claims:
        ours = claim.ours.around(lambda work: work())
        assert claim.agree(ours, logits)
        assert not claim.agree(ours, logits + 1)
        once_more = claim.ours.around(lambda work: work())  # the probe has counted twice as much by now
        assert not claim.agree(once_more, logits)


def test_memory_is_what_runs_with_a_probe_need_beyond_one_without(
    bench: SimpleNamespace, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, script = bench.claims["forward"], importlib.import_module("forward_memory")
    peaks = iter([100, 160, 200])

    def peak_memory(work: Any) -> int:
        work()
        return next(peaks)

    def in_this_process(command: list[str], **_: Any) -> SimpleNamespace:
        _, path, folder, mode, rows, length = command
        assert Path(path).is_file()
        script.main(Path(folder), mode, forward.Shape(int(rows), int(length)))
        return SimpleNamespace(stdout=capsys.readouterr().out)

    monkeypatch.setattr(script, "peak_memory", peak_memory)
    monkeypatch.setattr(forward.subprocess, "run", in_this_process)
    known, fitted = forward.needs(saved, forward.Shape(4, 32))
    assert (known.extra, fitted.extra) == (60, 100)
    assert known.tables == 3 * 28 * 64 * 4  # three hidden states of 8 dimensions, 8 bins


def test_what_agrees_is_within_the_tolerance_in_every_number(bench: SimpleNamespace) -> None:
    a = np.linspace(0, 1, 50)
    off = a.copy()
    off[7] += 2e-10
    assert bench.claim.close(1e-10)(a, a + 5e-11)
    assert not bench.claim.close(1e-10)(a, off)
    assert not bench.claim.close(1e-10)(a, a[:-1])
    assert not bench.claim.close(1e-10)(a, np.full(50, np.nan))
    assert bench.claim.equal(a, a.copy())
    assert not bench.claim.equal(a, off)
    assert not bench.claim.equal(a, a[:-1])
    assert bench.claim.correlated(0.9)(a, 3 * a + 1)
    assert not bench.claim.correlated(0.9)(a, -a)
    assert not bench.claim.correlated(0.9)(a, np.full(50, np.nan))


def contest_of(bench: SimpleNamespace, *, theirs: int = 1, share: float = 1.0, **claim: Any) -> Any:
    part = "half" if share < 1 else ""
    ours = bench.claim.Claim(bench.claim.Side("ours", lambda: 1), bench.claim.equal, "the same", **claim)
    return bench.claim.Contest("one", bench.claim.Side("theirs", lambda: theirs), (ours,), share, part)


def test_nothing_is_timed_where_the_sides_differ(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.measure, "seconds", lambda work: pytest.fail("timed"))
    with pytest.raises(SystemExit, match="ours and theirs differ"):
        bench.claim.run(contest_of(bench, theirs=2), 3)


def test_sides_take_turns_and_what_is_around_the_work_is_not_timed(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    side = bench.claim.Side
    peer = side("b", lambda: log.append("b"))
    ours = side("a", lambda: log.append("a"), before=lambda: log.append("before"), after=lambda: log.append("after"))
    monkeypatch.setattr(bench.measure, "seconds", lambda work: (log.append("["), work(), log.append("]"), 1.0)[-1])
    claim = bench.claim.Claim(ours, lambda a, b: True, "")
    bench.claim.run(bench.claim.Contest("", peer, (claim,)), 2)
    turn = ["before", "[", "a", "]", "after", "[", "b", "]"]
    warm_up, memory = ["b", "before", "a", "after"], ["b", "before", "a", "after"]
    assert log == [*warm_up, *turn, *turn, *memory]


def test_ratios_are_of_the_repeats_and_a_part_is_scaled(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(bench.measure, "seconds", lambda work: [0.1, 0.3, 0.2, 0.5, 0.1, 0.2][next(clock)])
    monkeypatch.setattr(bench.measure, "peak_memory", lambda work: 2_500_000)
    (row,) = bench.claim.run(contest_of(bench, share=0.5, target=5.0), 3)
    assert row.ours == [0.1, 0.2, 0.1]
    assert row.peer == [0.6, 1.0, 0.4]
    assert row.ratio == pytest.approx((5.0, 4.0, 6.0))
    assert row.met
    table = bench.claim.Table("Title", "About.", (row.contest,))
    last = bench.results.section(table, [row]).splitlines()[-1]
    assert last == (
        "| one | ours | 100 (100–200) | 2.50 | theirs *(half)* | 600 (400–1,000) | 2.50 *(of the part)* | 5.00× (4.00–6.00) "
        "| ≥ 5 | yes | the same |"
    )


@pytest.mark.parametrize(
    ("kind", "target", "met"),
    [("faster", 2.0, True), ("faster", 2.1, False), ("cost", 0.5, True), ("cost", 0.4, False), ("faster", None, None)],
)
def test_a_target_is_met_or_not_by_the_median_of_the_ratios(
    bench: SimpleNamespace, kind: str, target: float | None, met: bool | None
) -> None:
    contest = contest_of(bench, kind=kind, target=target)
    row = bench.claim.Row(contest, contest.claims[0], [1.0, 1.0, 1.0], [2.0, 9.0, 1.0], 0, 0)
    assert row.met is met
    section = bench.results.section(bench.claim.Table("", "", ()), [row])
    assert {True: "| yes |", False: "| **no** |", None: "| – | – |"}[met] in section
    assert ("2.00×" if kind == "faster" else "0.500 of it") in section


def test_the_table_about_memory_says_whether_its_target_was_met(bench: SimpleNamespace) -> None:
    need = bench.claims["forward"].Need("a run", 1_200_000, 1_000_000, 1.15)
    assert bench.results.needs_table([need]).splitlines()[-1] == "| a run | 1.20 | 1.00 | 1.20 | ≤ 1.15 | **no** |"
    assert not need.met
    assert replace(need, extra=1_100_000).met


def test_numbers_have_three_digits(bench: SimpleNamespace) -> None:
    shown = [bench.results.digits(v) for v in (0.01234, 0.1234, 1.234, 12.34, 123.4, 1234.0, 1_234_567.0)]
    assert shown == ["0.012", "0.123", "1.23", "12.3", "123", "1,230", "1,230,000"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark is Linux's")
def test_peak_memory_is_what_was_resident_at_once(bench: SimpleNamespace) -> None:
    if not bench.measure._reset_peak():
        pytest.skip("this system does not let a process reset its high-water mark")
    size = 64 << 20

    def need(blocks: int) -> None:
        held = [np.ones(size, dtype=np.uint8) for _ in range(blocks)]
        del held

    for blocks in (3, 1):  # a larger peak before must not show
        assert bench.measure.peak_memory(lambda blocks=blocks: need(blocks)) == pytest.approx(blocks * size, rel=0.15)
    assert bench.measure.peak_memory(lambda: None) < size / 8


def test_peak_memory_is_sampled_where_there_is_no_high_water_mark(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    seen = threading.Event()

    def resident() -> Iterator[SimpleNamespace]:
        for rss in (100, 250, 400, 300):
            yield SimpleNamespace(rss=rss)
        seen.set()
        while True:
            yield SimpleNamespace(rss=200)

    values = resident()
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: next(values)))
    monkeypatch.setattr(bench.measure, "_reset_peak", lambda: False)
    assert bench.measure.peak_memory(seen.wait) == 300
    assert "sampled" in bench.measure.how_memory_is_measured()


def test_inside_threads_one_thread_is_one_and_outside_all_is_as_before(bench: SimpleNamespace) -> None:
    import numba
    import torch

    def now() -> tuple[int, int, int]:
        return numba.config.NUMBA_NUM_THREADS, numba.get_num_threads(), torch.get_num_threads()

    before = now()
    with bench.measure.threads(1):
        assert now() == (1, 1, 1)
    assert now() == before


# -- scaling ----------------------------------------------------------------------------------------------------------


def test_every_curve_is_measured_and_the_constants_are_those_of_its_times(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scaling = bench.scaling
    base = scaling.Setting(samples=128, variables=8, bins=3, points=1, threads=2)
    real = scaling.measured(base, repeats=1)
    assert set(real) == set(scaling.JOBS)
    monkeypatch.setattr(
        scaling,
        "measured",
        lambda s: {
            "count": 1e-9 * s.pairs * s.bins**2 * s.points * s.samples / 64 / s.threads,
            "estimate": 2e-9 * s.pairs * s.bins**2 * s.points / s.threads,
            "encode": 3e-9 * s.samples * s.variables * s.points / s.threads,
        },
    )
    along = {"samples": (64, 128), "variables": (8, 16), "bins": (2, 3), "points": (1, 3), "threads": (1, 2)}
    found = scaling.curves(base, along)
    assert {name: [getattr(s, name) for s, _ in curve] for name, curve in found.items()} == {k: list(v) for k, v in along.items()}
    values = {name: value for name, (value, _) in scaling.constants(found, base).items()}
    names = (bench.projection.COUNTING, bench.projection.ESTIMATING, bench.projection.ENCODING, "counting, 2 bins", "threads")
    assert [values[name] for name in names] == pytest.approx([1, 2, 3, 1, 2])
    read = bench.projection.read_constants(scaling.page(found, base))
    assert {name: read[name] for name in names} == pytest.approx({name: values[name] for name in names}, rel=5e-3)
    scaling.figure(found, base, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_projection_is_the_arithmetic_it_says(bench: SimpleNamespace) -> None:
    projection = bench.projection
    constants = {projection.COUNTING: 0.5, projection.ENCODING: 2.0}
    gpt2 = projection.MODELS[0]
    assert (gpt2.pairs, gpt2.table_bytes()) == (294_528, 13 * 294_528 * 64 * 4)
    assert gpt2.core_seconds(constants) == pytest.approx(13 * (0.5e-9 * 294_528 + 2e-9 * 768))
    row = projection.tables(constants)["models"].splitlines()[2]
    assert row == "| GPT-2 small | 13 | 294,528 | 980 MB | 520 | 22 days | 1 | 8.4 hours |"


def test_the_tables_about_scaling_are_those_of_the_constants_measured(bench: SimpleNamespace, tmp_path: Path) -> None:
    page, measured = ROOT / "docs" / "scaling.md", ROOT / "docs" / "measured" / "scaling.md"
    constants = bench.projection.read_constants(measured.read_text())
    for name, table in bench.projection.tables(constants).items():
        assert f"<!-- {name}: begin -->\n{table}\n<!-- {name}: end -->" in page.read_text()
    copy = tmp_path / "scaling.md"
    copy.write_text(re.sub(r"\d", "7", page.read_text().partition("## A billion")[2]))
    bench.projection.write(copy, measured)
    assert all(table in copy.read_text() for table in bench.projection.tables(constants).values())
    copy.write_text("no marks")
    with pytest.raises(SystemExit, match="must have the marks"):
        bench.projection.write(copy, measured)


# -- runs over corpora ------------------------------------------------------------------------------------------------


def a_state(path: Path, seed: int = 0, **facts: Any) -> Path:
    state = ProbeState(Probe(bins=4, lags=0))
    state.update("here", np.random.default_rng(seed).standard_normal((80, 3)))
    vars(state).update(facts)
    state.save(path)
    return path


def test_runs_that_differ_in_a_count_or_in_what_they_say_are_told_apart(bench: SimpleNamespace, tmp_path: Path) -> None:
    one, same = a_state(tmp_path / "one"), a_state(tmp_path / "same")
    bench.corpora.processes.require_same(one, same)
    assert bench.corpora.kill_runs.differences(one, same) == ["nothing that a state holds"]
    for k, (other, said) in enumerate(
        (
            ({"seed": 1}, "the counts at here"),
            ({"run": {"seed": 3}}, "run: "),
            ({"convergence": [{"tokens": 3}]}, "convergence: "),
        )
    ):
        path = a_state(tmp_path / str(k), **other)
        with pytest.raises(SystemExit, match="differ"):
            bench.corpora.processes.require_same(one, path)
        (found,) = bench.corpora.kill_runs.differences(one, path)
        assert found.startswith(said)


def test_kills_are_spread_over_the_run_and_come_at_every_kind_of_moment(bench: SimpleNamespace) -> None:
    options = SimpleNamespace(kills=20, seed=0, checkpoint_tokens=1000)
    plans = bench.corpora.kill_runs.plans(40_000, 80.0, options)
    assert {plan.moment for plan in plans} == set(bench.corpora.kill_runs.MOMENTS)
    places = [plan.tokens for plan in plans]
    assert places == sorted(places)
    assert max(np.diff([0, *places, 38_000])) < 10_000
    assert plans == bench.corpora.kill_runs.plans(40_000, 80.0, options)


def test_a_section_of_the_page_about_corpora_is_put_in_its_place(bench: SimpleNamespace, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for part in ("## One\n\n1\n", "## Two\n\n2\n", "## One\n\n3\n"):
        bench.corpora.write(page, "- machine: none", part)
    assert page.read_text().endswith("- machine: none\n\n## One\n\n3\n\n## Two\n\n2\n")


def test_made_texts_have_the_letters_asked_for_and_are_the_same_again(bench: SimpleNamespace) -> None:
    made = list(bench.texts.documents(20_000))
    assert sum(map(len, made)) == 20_000
    assert made == list(bench.texts.documents(20_000))
    assert made != list(bench.texts.documents(20_000, seed=1))
