"""Files that are whole or refused, and what a result says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mi_probe
from mi_probe import MIResult, Probe, ProbeState, store
from mi_probe.errors import InputError, StoreError
from mi_probe.pointresult import COLUMNS
from mi_probe.report import describe


def a_result(seed: int = 0) -> MIResult:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((94, 6))
    x[3, 2] = np.nan
    return MIResult({"a": mi_probe.pairwise(x), "b": mi_probe.pairwise(x**3, bins=4)}, {"model": {"name": "none"}})


def a_state() -> ProbeState:
    state = ProbeState(Probe(bins=4, calibration_tokens=30), {"name": "none"}, special_tokens={7, 0})
    x = np.random.default_rng(1).standard_normal((94, 6))
    x[5, 1] = np.inf
    state.update("a", x)
    state.update("b", x[:20], mask=np.arange(20) % 5 > 0)
    state.ledger.enter_counted(3, {"padding": 2})
    return state


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    result = a_result()
    result.save(tmp_path / "r.safetensors")
    back = MIResult.load(tmp_path / "r.safetensors")
    assert back.about == result.about
    assert list(back) == ["a", "b"]
    for name in result:
        for what in ("mi", "raw", "chance", "joint_entropy", "n", "entropy", "missing"):
            np.testing.assert_array_equal(getattr(back[name], what), getattr(result[name], what))
        assert repr(back[name]) == repr(result[name])


def test_a_state_comes_back_as_it_was_and_goes_on(tmp_path: Path) -> None:
    state = a_state()
    state.save(tmp_path / "s.safetensors")
    back = ProbeState.load(tmp_path / "s.safetensors")
    assert (back.probe, back.model, back.tokens_seen) == (state.probe, state.model, 94)
    assert (back.ledger, back.left_out) == (state.ledger, {"b": {"padding": 4}})
    assert back.special_tokens == [0, 7]
    assert {point.state for point in back.status().points.values()} == {"loaded from a file"}
    for name in ("a", "b"):
        assert back.counts[name] == state.counts[name]
        np.testing.assert_array_equal(back.binnings[name].edges, state.binnings[name].edges)
    more = np.random.default_rng(2).standard_normal((10, 6))
    for each in (state, back):
        each.update("a", more)
    assert back.counts["a"] == state.counts["a"]


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "r.safetensors"
    a_result().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 or keep == 0 else keep * len(data))])
    with pytest.raises(StoreError, match="cut off, altered"):
        MIResult.load(path)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    a_state().save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*rng.integers(0, len(data), 200).tolist(), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            back = ProbeState.load(path)
        except StoreError:
            continue
        # Some bytes of the container mean nothing (spaces that pad its header): then nothing may have changed.
        assert all(back.counts[k] == c for k, c in a_state().counts.items())


def test_a_file_of_another_kind_version_or_origin_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "f.safetensors"
    with pytest.raises(StoreError, match="no file"):
        MIResult.load(path)
    a_state().save(path)
    with pytest.raises(StoreError, match="holds a state"):
        MIResult.load(path)
    store.write(path, "result/5", {"points": [], "about": {}}, {"x": np.zeros(1)})
    with pytest.raises(StoreError, match="schema result/5"):
        MIResult.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(StoreError, match="not written by mi_probe"):
        MIResult.load(path)
    store.write(path, "result/1", {"about": {}}, {"x": np.zeros(1)})
    with pytest.raises(StoreError, match="lacks 'points'"):
        MIResult.load(path)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.safetensors"
    a_result().save(path)
    before = path.read_bytes()

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        a_result(1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="cannot write"):
        a_result().save(tmp_path / "no such folder" / "r.safetensors")


def test_writing_makes_no_copy_of_the_arrays_in_memory(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
from mi_probe import store

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arrays = {"tables": np.ones(10**8, dtype=np.uint8)}
store.write(sys.argv[1], "result/1", {}, {"x": np.ones(3)})
before = peak()
store.write(sys.argv[1], "result/1", {}, arrays)
unit = 1 if sys.platform == "darwin" else 1024
print((peak() - before) * unit / arrays["tables"].nbytes)
"""
    pytest.importorskip("resource")
    path = tmp_path / "r.safetensors"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2
    assert path.stat().st_size > 10**8
    path.with_name("other").touch()
    assert path.stat().st_mode == path.with_name("other").stat().st_mode  # as any file of this user


@pytest.mark.parametrize("kind", ["result", "state"])
def test_the_golden_file_of_each_schema_still_reads(kind: str) -> None:
    path = Path(__file__).parent / "golden" / f"{kind}-1.safetensors"
    if kind == "result":
        np.testing.assert_allclose(MIResult.load(path)["a"].mi, a_result()["a"].mi, atol=1e-12)
    else:
        assert ProbeState.load(path).counts["a"] == a_state().counts["a"]


def test_the_golden_files_of_today_still_read_with_all_they_hold() -> None:
    folder = Path(__file__).parent / "golden"
    counts = ProbeState.load(folder / "state-2.safetensors").streams["a"].read()
    assert (counts.extras.lags, len(counts.shards), counts.joint.n) == (3, 16, 431)
    assert counts.lagged.any()
    assert counts.swapped is not None
    assert counts.moments is not None
    again = ProbeState.load(folder / "state-2.safetensors").estimate()["a"]
    kept = MIResult.load(folder / "result-2.safetensors")["a"]
    assert set(again.columns) - set(kept.columns) == {"correlation"}  # which came after that file
    assert not set(kept.columns) - set(again.columns)
    for what in kept.columns:
        np.testing.assert_allclose(kept.pairs(what), again.pairs(what), rtol=1e-7, atol=1e-9)


def test_matrices_are_symmetric_with_entropies_on_the_diagonal() -> None:
    point = a_result()["a"]
    for what in ("mi", "raw", "chance", "joint_entropy"):
        matrix = getattr(point, what)
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_array_equal(matrix[np.triu_indices(6, 1)], point.pairs(what))
    np.testing.assert_array_equal(np.diagonal(point.mi), point.entropy)


def test_top_pairs_are_the_largest_in_order() -> None:
    result = a_result()
    table = result["a"].to_frame()
    top = result["a"].top_pairs(4)
    expected = table.sort_values("mi", ascending=False).head(4).reset_index(drop=True)
    pd.testing.assert_frame_equal(top, expected)
    assert len(result["a"].top_pairs(99)) == 15
    assert len(result["a"].top_pairs(0)) == 0
    both = result.top_pairs(5)
    expected = result.to_frame().sort_values("mi", ascending=False).head(5)
    np.testing.assert_array_equal(both.mi, expected.mi)
    assert set(both.columns) >= {"point", "i", "j", "mi", "raw", "chance", "n"}


def test_a_data_frame_gives_its_names() -> None:
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((30, 2)), columns=["milk", "sugar"])
    assert mi_probe.pairwise(frame).names == ("milk", "sugar")
    with pytest.raises(InputError, match="1 names were given for 2 variables"):
        mi_probe.pairwise(frame, names=["milk"])


def test_a_point_that_is_not_there_is_named_with_the_nearest() -> None:
    result = MIResult({"hidden_states.3": a_result()["a"]})
    for wrong in ("hidden_state.3", 3):
        with pytest.raises(KeyError, match=r"it has hidden_states\.3"):
            result[wrong]
    with pytest.raises(InputError, match="joint_entropy"):
        result["hidden_states.3"].pairs("entropy")


def test_estimates_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        a_result()["a"].pairs("raw")[0] = 1.0


def test_any_header_that_json_can_hold_is_read_back(tmp_path: Path) -> None:
    result = a_result()
    result.about["layers"] = {9: "nine", 10: "ten"}
    result.save(tmp_path / "r.safetensors")
    assert MIResult.load(tmp_path / "r.safetensors").about["layers"] == {"9": "nine", "10": "ten"}


def test_a_state_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    a_state().save(path)
    header, arrays = store.read(path, "state", 4)
    rest = {key: value for key, value in header.items() if key not in ("schema", "writer")}
    for change in ({"0.edges": arrays["0.edges"][:2]}, {"0.edges": -arrays["0.edges"]}, {"0.margins": np.zeros(3, np.int64)}):
        store.write(path, "state/4", rest, arrays | change)
        with pytest.raises(StoreError, match="not a usable state"):
            ProbeState.load(path)


def test_the_description_says_what_was_measured_and_what_is_chance() -> None:
    x = np.random.default_rng(0).standard_normal((94, 30))
    x[:, 7] = x[:, 3]
    text = describe(MIResult({"noise": mi_probe.pairwise(x, bins=15, method="equal_width")}))
    for part in ("435 pairs", "94 samples", "15 equal-width bins", "would give 0.7", "Caution", "3 and 7 share"):
        assert part in text, text


def test_words_and_tables_may_be_in_bits_and_data_stay_in_nats() -> None:
    x = np.random.default_rng(0).standard_normal((94, 30))
    result = MIResult({"noise": mi_probe.pairwise(x, bins=15, method="equal_width")})
    nats, bits = (describe(result, units=units) for units in ("nats", "bits"))
    assert "in nats" in nats
    assert "would give 0.7" in nats
    assert "in bits" in bits
    chance = result["noise"].pairs("chance").mean() / np.log(2)
    assert f"would give {chance:.3f}" in bits
    for table in (result.summary, result["noise"].top_pairs, result.top_pairs):
        one, two = table(units="nats"), table(units="bits")
        scaled = [c for c in one.columns if c.startswith(("mi", "raw", "chance", "se", "gaussian", "joint"))]
        np.testing.assert_allclose(two[scaled].astype(float), one[scaled].astype(float) / np.log(2))
        same = [c for c in one.columns if c in ("n", "p", "q", "pairs", "samples", "discoveries")]
        np.testing.assert_array_equal(one[same], two[same])
    with pytest.raises(InputError, match="nats or bits"):
        describe(result, units="bit")  # type: ignore[arg-type]


def test_the_shift_of_a_plain_histogram_is_shown_not_to_be_the_same_for_all_pairs() -> None:
    x = np.random.default_rng(1).standard_normal((94, 60))
    x[0, :20] = 50.0  # an outlying first token, as in some dimensions of a language model
    point = mi_probe.pairwise(x, bins=15, method="equal_width")
    spread = point.chance_spread(2)
    assert spread.low < 0.1 < 0.6 < spread.high
    assert all(int(name) < 20 for pair in spread.least for name in pair[:2])
    assert 0 < spread.rank_correlation < 0.8
    text = describe(MIResult({"outliers": point}))
    assert "it is no common shift" in text
    assert "rank correlation" in text
    ranks = mi_probe.pairwise(x)
    assert str(ranks.chance_spread()) == "chance level 0.093 nats, the same for all pairs"
    assert "no common shift" not in describe(MIResult({"ranks": ranks}))


def test_tokens_are_named_in_quotation_marks_and_dimensions_are_not() -> None:
    x = np.random.default_rng(2).standard_normal((94, 2))
    x[:, 1] += x[:, 0]
    tokens, dimensions = (describe(mi_probe.pairwise(x, names=names)) for names in (["39 the", "46 and"], ["39", "46"]))
    assert "\n  '39 the' and '46 and' share " in tokens
    assert "\n  39 and 46 share " in dimensions


def test_the_description_of_unlike_points_says_so_and_of_nothing_says_nothing() -> None:
    x = np.random.default_rng(2).standard_normal((94, 4))
    other = mi_probe.pairwise(x[:, :3], bins=12, method="equal_width", correction="none")
    mixed = MIResult({"a": mi_probe.pairwise(x), "b": other})
    text = describe(mixed)
    for part in (
        "6 or 3 pairs",
        "5 equal-count bins or 12 equal-width bins",
        "adjusted for chance or not corrected",
        "only 0.65",
    ):
        assert part in text, text
    assert "nan" not in describe(MIResult({"a": mi_probe.pairwise(np.full((30, 3), np.nan)), "b": mi_probe.pairwise(x)}))
    assert "differs between" not in describe(mi_probe.pairwise(np.zeros((30, 3))))


def test_the_spread_of_nothing_is_said_to_be_nothing() -> None:
    assert str(mi_probe.pairwise(np.zeros((0, 3))).chance_spread()) == "no pair has a sample"


def test_an_unknown_column_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'chance'"):
        a_result()["a"].pairs("chanse")
    with pytest.raises(InputError, match="not 'swap'"):
        a_result()["a"].top_pairs(3, by="swap")


def test_every_column_has_a_meaning_and_a_line_in_the_tables_of_columns() -> None:
    full = MIResult.load(Path(__file__).parent / "golden" / "result-2.safetensors")["a"]
    assert set(full.companions) | {"mi", "se", "raw", "chance", "joint_entropy", "n", "q"} | {
        "continuous",
        "continuous_se",
        "correlation",
    } == set(COLUMNS)
    for page in ("README.md", "docs/estimation.md"):
        lines = (Path(__file__).parents[1] / page).read_text().splitlines()
        named = {name for line in lines if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
        assert set(COLUMNS) <= named, page


def test_a_summary_has_a_row_a_point() -> None:
    summary = a_result().summary()
    assert summary.index.tolist() == ["a", "b"]
    assert summary.loc["b", "mi_mean"] == pytest.approx(a_result()["b"].pairs().mean())
