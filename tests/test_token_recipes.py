"""Recipes about pairs of tokens, and what they say of them: beside unrelated texts, over distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mi_probe
from mi_probe import Probe, ProbeState, cli
from mi_probe.comparison import against_unrelated, reach
from mi_probe.errors import InputError, MIProbeError


def run(*words: str) -> None:
    cli.app(list(words), exit_on_error=False, print_error=False, result_action="return_value")


def test_pairs_beside_unrelated_ones_are_ranked_among_them() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12))
    x[:, 1] = x[:, 0] + 0.2 * rng.standard_normal(200)
    result = mi_probe.MIResult({"a": mi_probe.pairwise(x, p_values="none")})
    null = mi_probe.MIResult({"a": mi_probe.pairwise(rng.standard_normal((200, 30)), p_values="none")})
    row = against_unrelated(result, null).loc["a"]
    mi, other = result["a"].pairs(), null["a"].pairs()
    p = [(1 + sum(other >= value)) / (1 + len(other)) for value in mi]
    assert row.p_min == min(p) == 1 / (1 + len(other))
    assert row["median"] == np.median(mi)
    assert row.unrelated_median == np.median(other)
    assert row.beyond == np.mean([value > np.quantile(other, 0.95) for value in mi])
    with pytest.raises(InputError, match="pairs are of a, and the unrelated ones of b"):
        against_unrelated(result, mi_probe.MIResult({"b": null["a"]}))


@pytest.mark.parametrize(
    ("mi", "expected", "above"),
    [
        ((0.3, 0.2, 0.15), 4, 1.0),
        ((0.3, 0.101, 0.15), 1, 0.75),
        ((0.1, 0.2, 0.2), 0, 0.75),
        ((0.3, 0.2, 0.102), 2, 0.5),
        ((0.3, np.nan, 0.2), 1, 0.75),
        ((0.1, 0.1, 0.1), 0, 0.0),
    ],
)
def test_reach_ends_where_a_band_is_no_longer_above_unrelated(mi: tuple[float, ...], expected: float, above: float) -> None:
    table = pd.DataFrame({"point": "p", "key": ["1", "2", "3-4", "unrelated"], "mi": [*mi, 0.1], "se": 0.01})
    table["first"], table["last"] = [1, 2, 3, np.nan], [1, 2, 4, np.nan]
    row = reach(table).loc["p"]
    assert (row.reach, row.above) == (expected, above)  # the third band is two distances wide
    assert (row.nearest, row.unrelated) == (mi[0], 0.1)
    np.testing.assert_equal(row.farthest, mi[-1])


def test_reach_is_not_known_without_other_texts_and_not_asked_of_labels() -> None:
    table = pd.DataFrame({"point": "p", "key": ["1", "unrelated"], "mi": [0.3, np.nan], "se": [0.01, np.nan]})
    table["first"] = table["last"] = [1, np.nan]
    assert reach(table).loc["p", ["above", "reach"]].isna().all()
    with pytest.raises(InputError, match="not counted by distance"):
        reach(table.assign(key=["word, word", "unrelated"], first=np.nan))
    with pytest.raises(InputError, match="there is no pair of tokens at p"):
        reach(table[table.key == "unrelated"])
    state = ProbeState(Probe(variables="tokens", by="position", bins=2, skip_special=False))
    state.update("x", np.random.default_rng(0).standard_normal((20, 16)))
    with pytest.raises(InputError, match="at x are not counted by distance"):
        reach(state.estimate_token_pairs())


def test_token_pairs_writes_what_it_says(coffee: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("A cup of coffee, a pot of coffee, and coffee in the morning: the coffee is strong.")
    (tmp_path / "one.txt").write_text("The glacier moves slowly down the valley and carries stones with it.")
    (tmp_path / "two.txt").write_text("A tax form is due in May; the office is open until noon.")
    out = tmp_path / "out"
    others = ["--others", str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]
    texts = ["--text-file", str(tmp_path / "text.txt")]
    run("run", "token_pairs", *texts, *others, "--layers", "0", "12", "--bins", "5", "--out", str(out))
    printed = capsys.readouterr().out
    kept = mi_probe.MIResult.load(out / "result.safetensors")
    assert list(kept) == ["hidden_states.0", "hidden_states.12"]
    unrelated = mi_probe.MIResult.load(out / "unrelated.safetensors")
    text = (tmp_path / "text.txt").read_text()
    reading = mi_probe.read_text(coffee, text, layers=[0, 12])
    there = [mi_probe.read_text(coffee, (tmp_path / f"{name}.txt").read_text(), layers=[0, 12]) for name in ("one", "two")]
    standard = mi_probe.Reading.standard_of(there)
    every = np.concatenate([each.values["hidden_states.12"] for each in there]).astype(np.float64)
    np.testing.assert_allclose(standard["hidden_states.12"], (every.mean(axis=0), every.std(axis=0)), rtol=1e-6)
    again = reading.token_pairs(standard=standard, bins=5)
    np.testing.assert_array_equal(kept["hidden_states.12"].pairs(), again["hidden_states.12"].pairs())
    assert len(unrelated["hidden_states.12"].pairs()) == len(reading.tokens) * sum(len(each.tokens) for each in there)
    assert f"{len(reading.tokens)} tokens of text.txt; 2 other texts" in printed
    depth = pd.read_csv(out / "depth.csv", index_col="point")
    for name, row in depth.iterrows():
        assert f"{name:<18} {row['median']:6.3f} {row['unrelated_median']:6.3f} nats" in printed
    top = pd.read_csv(out / "top_pairs.csv")
    assert top["mi"].is_monotonic_decreasing
    assert {"point", "i", "j", "distance", "mi"} <= set(top)
    for figure in ("depth", "maps", "map"):
        assert (out / f"{figure}.png").stat().st_size > 5000
        assert str(out / f"{figure}.png") in printed


def test_token_pairs_takes_some_tokens_and_as_much_of_a_long_text_as_fits(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["run", "token_pairs", "--model", str(tiny_folder), "--out", str(tmp_path / "out"), "--layers", "1"]
    run(*common, "--text", "tea and tea or no, but coffee instead of it, says the text, not tea", "--word", "tea")
    names = mi_probe.MIResult.load(tmp_path / "out" / "result.safetensors")["hidden_states.1"].names
    assert [name.split()[0] for name in names] == ["2", "10"]  # the third is not read
    assert "31 tokens of text, 36 more not read" in capsys.readouterr().out
    run(*common, "--text", "tea and tea or no tea", "--max-tokens", "12", "--standard", "text")
    assert len(mi_probe.MIResult.load(tmp_path / "out" / "result.safetensors")["hidden_states.1"].names) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "tea and toast", "--word", "cofee"], "the word 'cofee' does not occur in 'text'"),
        (["--text", "tea and toast", "--word", "toast"], "a pair takes two tokens, and 'text' has 1 of those asked for: 12 t"),
        (["--text", "x"], "a pair takes two tokens, and 'text' has 1 of those asked for: 0 x"),
        (["--text", "tea and toast", "--map-at", "hidden_states.9"], "hidden_states.9"),
        (["--text", "tea and toast", "--part", "toast and tea"], "does not occur in 'text', word for word"),
        (["--text", "tea and toast", "--max-tokens", "0"], "max_tokens must be at least 1, or 'context'; got 0"),
        (["--text", "tea and toast", "--others", "{folder}/one.txt"], "no pair of the text has an estimate.*Take more text"),
        (["--text-file", "{folder}"], r"measures within one text, and there are several: 'a.txt', 'b.txt'"),
    ],
)
def test_token_pairs_says_what_is_wrong_and_writes_nothing(
    options: list[str], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("some text")
    if "{folder}/one.txt" in options:
        (tmp_path / "one.txt").write_text("a")
    words = [option.format(folder=tmp_path) for option in options]
    with pytest.raises(MIProbeError, match=message):
        run("run", "token_pairs", "--model", str(tiny_folder), "--out", str(tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_distance_over_corpus_writes_what_it_says_and_goes_on_from_counts(
    tiny: Any, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(6):
        (tmp_path / f"{k}.txt").write_text(f"{k} the quick brown fox jumps over the lazy dog, and once more; " * 3)
    files = ["--text-file", *(str(tmp_path / f"{k}.txt") for k in range(6))]
    out = tmp_path / "out"
    common = ["run", "distance_over_corpus", "--model", str(tiny_folder), "--layers", "0", "3", "--furthest", "9"]
    run(*common, *files, "--out", str(out))
    counted = mi_probe.ProbeState.load(out / "state.safetensors")
    printed = capsys.readouterr().out
    table = pd.read_csv(out / "over_distance.csv")
    assert table["key"].unique().tolist() == [str(k) for k in range(1, 10)] + ["unrelated"]
    pd.testing.assert_frame_equal(table, counted.estimate_token_pairs(), check_dtype=False)
    far = pd.read_csv(out / "reach.csv", index_col="point")
    for name, row in far.iterrows():
        line = next(line for line in printed.splitlines() if line.startswith(str(name)))
        assert line.split()[1:3] == [f"{row.nearest:.3f}", f"{row.farthest:.3f}"]
        assert ("at all distances" in line) == (row.above == 1)
        assert (f"at {100 * row.above:.0f} % of distances" in line) == (row.above < 1)
        assert ("not neighbours" in line) == (row.reach == 0)
    assert "Errors:   rough ones, from 6 sets of documents" in printed
    assert (out / "over_distance.png").stat().st_size > 5000
    run(*common, "--counts", str(out / "state.safetensors"), "--out", str(tmp_path / "again"))
    assert (tmp_path / "again" / "over_distance.csv").read_bytes() == (out / "over_distance.csv").read_bytes()


def test_distance_over_corpus_takes_hook_points_from_any_probe_of_equal_count_bins(tiny_folder: Path, tmp_path: Path) -> None:
    common = ["run", "distance_over_corpus", "--model", str(tiny_folder), "--text", "the quick brown fox", "--out"]
    run(*common, str(tmp_path / "a"), "--probe", "dimension_pairs", "--furthest", "2")
    assert pd.read_csv(tmp_path / "a" / "over_distance.csv")["key"].tolist()[:3] == ["1", "2", "unrelated"]
    by_label = mi_probe.Probe(variables="tokens", by="label", labels=["a"], layers=[1], furthest=3)
    (tmp_path / "by_label.toml").write_text(by_label.to_toml())
    run(*common, str(tmp_path / "c"), "--probe", str(tmp_path / "by_label.toml"))
    assert pd.read_csv(tmp_path / "c" / "over_distance.csv")["key"].tolist() == ["1", "2", "3", "unrelated"]
    with pytest.raises(MIProbeError, match="method and variables = 'tokens' do not go together"):
        run(*common, str(tmp_path / "b"), "--probe", "course_histogram")
    assert not (tmp_path / "b").exists()


def test_edges_for_pairs_of_tokens_come_with_the_command_that_takes_them(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for k in range(3):
        (tmp_path / "texts" / f"{k}.txt").write_text(f"{k} the quick brown fox jumps over the lazy dog, and once more; " * 3)
    model = ["--model", str(tiny_folder)]
    run("calibrate", "tokens_by_distance", *model, "--text-file", "texts", "--layers", "2", "--calibration-tokens", "100")
    command = capsys.readouterr().out.rpartition("count with them: mi-probe ")[2].split()
    assert command[:2] == ["run", "distance_over_corpus"]
    run(*command, "--out", "out")
    assert mi_probe.ProbeState.load("out/state.safetensors").calibration["kind"] == "sample"


@pytest.mark.parametrize("recipe", ["dimension_pairs", "mi_vs_covariance", "across_depth"])
def test_recipes_about_dimensions_take_hook_points_from_a_probe_of_tokens(recipe: str, tiny_folder: Path, tmp_path: Path) -> None:
    layers = ["--layers", "1", "2"]
    run("run", recipe, "--model", str(tiny_folder), "--probe", "tokens_by_distance", *layers, "--out", str(tmp_path / "out"))
    places = ["hidden_states.1", "hidden_states.2"]
    found = mi_probe.MIResult.load(tmp_path / "out" / "result.safetensors")
    assert list(found) == ([" -> ".join(places)] if recipe == "across_depth" else places)
    assert all(len(point.pairs()) == (256 if recipe == "across_depth" else 120) for point in found.values())


def test_distance_over_corpus_of_texts_without_a_pair_writes_no_table(tiny_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("a")
    out = tmp_path / "out"
    common = ["run", "distance_over_corpus", "--model", str(tiny_folder), "--out", str(out)]
    with pytest.raises(InputError, match="over the 1 that edges are fitted on no dimension varies"):
        run(*common, "--text-file", str(text))
    assert not list(out.iterdir())
    for k in range(3):
        (tmp_path / f"{k}.txt").write_text(str(k))
    with pytest.raises(InputError, match="there is no pair of tokens at hidden_states"):
        run(*common, "--text-file", *(str(tmp_path / f"{k}.txt") for k in range(3)))
    assert [path.name for path in out.iterdir()] == ["state.safetensors"]


def test_distance_over_one_text_says_that_there_are_no_others(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--text", "the quick brown fox jumps over the lazy dog"]
    run("run", "distance_over_corpus", "--model", str(tiny_folder), *text, "--layers", "0", "--out", str(tmp_path))
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("hidden_states.0"))
    assert line.split()[3] == "none"
    assert "Errors:   none are known: they take several texts" in printed
    assert "it takes several texts" in line
    assert "nan" not in printed
