"""The recipe token_distance and what it stands on: pairs by nearest neighbours, Mantel's test, the one text of the options."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mi_probe
from mi_probe import Reading, cli, comparison
from mi_probe.errors import InputError, MIProbeError
from mi_probe.options import Texts

TEXT = "coffee is what it is: strong coffee, weak coffee, cold coffee, and after all that some more coffee and no tea."


def call(*arguments: str) -> None:
    cli.app(list(arguments), result_action="return_value", exit_on_error=False)


def made_up(values: np.ndarray, step: int = 7) -> Reading:
    """A reading whose tokens stand every `step` positions and hold these values."""
    count = len(values)
    places = step * np.arange(count)
    spans = np.stack([2 * np.arange(count), 2 * np.arange(count) + 1], axis=1)
    return Reading("made up", "x " * count, ("x",) * count, np.arange(count), places, spans, {"attn_out.0": values}, {})


# -- nearest neighbours -----------------------------------------------------------------------------------------------


def test_pairs_by_neighbours_are_ksg_of_the_very_values_that_the_histogram_takes(coffee: Any) -> None:
    reading = mi_probe.read_text(coffee, mi_probe.sample_text(), hooks=["attn_out", "mlp_out"])
    which = reading.select("coffee")
    plain, trimmed = reading.neighbour_pairs(which, k=4), reading.neighbour_pairs(which, trim_z=3, k=4)
    histogram = reading.token_pairs(which, trim_z=3)
    assert list(trimmed) == list(histogram)
    assert min(point.pairs("n").min() for point in trimmed.values()) < 128  # some were left out
    for key, point in trimmed.items():
        x = reading.values[key].astype(np.float64)
        z = ((x - x.mean(axis=0)) / x.std(axis=0))[which].T
        np.testing.assert_allclose(plain[key].pairs(), mi_probe.ksg(z, k=4).pairs(), atol=1e-12)
        far = np.abs(z - z.mean(axis=0)) > 3 * z.std(axis=0)
        np.testing.assert_allclose(point.pairs(), mi_probe.ksg(np.where(far, np.nan, z), k=4).pairs(), atol=1e-12)
        np.testing.assert_array_equal(point.pairs("n"), histogram[key].pairs("n"))
        assert point.names == histogram[key].names
    with pytest.raises(InputError, match=r"takes two tokens, and 'text' has 1 of those asked for: \d+ flour"):
        reading.neighbour_pairs(reading.select("flour"))


# -- Mantel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_mantels_p_is_the_share_of_all_orders_that_go_as_far(alternative: Any) -> None:
    rng = np.random.default_rng(3)
    positions = np.array([2, 9, 11, 30, 44, 70])
    i, j = np.triu_indices(6, 1)
    values = -0.001 * (positions[j] - positions[i]) + rng.normal(0, 0.1, 15)
    found = comparison.mantel(positions, values, draws=20_000, alternative=alternative)

    def correlation(order: tuple[int, ...]) -> float:
        places = positions[list(order)]
        return float(stats.spearmanr(np.abs(places[j] - places[i]), values).statistic)

    ours = correlation(tuple(range(6)))
    every = np.array([correlation(order) for order in itertools.permutations(range(6))])
    far = {"two-sided": np.abs(every) >= abs(ours) - 1e-9, "less": every <= ours + 1e-9, "greater": every >= ours - 1e-9}
    exact = far[alternative].mean()
    assert 0.01 < exact < 0.99
    assert abs(found.p - exact) < 4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4
    assert found.tau == stats.kendalltau(positions[j] - positions[i], values).statistic
    assert found.n == 15


def test_tokens_that_share_more_with_all_others_fool_kendalls_p_and_not_mantels() -> None:
    rng = np.random.default_rng(0)
    i, j = np.triu_indices(8, 1)
    found = []
    for run in range(400):
        positions = np.sort(rng.choice(200, 8, replace=False))
        of_token = rng.exponential(size=8)
        values = of_token[i] + of_token[j] + 0.1 * rng.standard_normal(28)  # nothing of it is distance
        trend = comparison.rank_trend(positions[j] - positions[i], values)
        found.append((trend.p, comparison.mantel(positions, values, draws=199, seed=run).p))
    kendall, mantel = (np.array(found) <= 0.05).mean(axis=0)
    assert kendall > 0.1
    assert 0.02 < mantel < 0.08


def test_what_mantel_cannot_tell_has_a_note_and_what_is_wrong_is_refused() -> None:
    assert comparison.mantel([1, 5], [0.3]).note.startswith("1 point is too few")
    assert comparison.mantel([1, 5, 9], [0.3, 0.3, 0.3]).note == "all 3 values are equal"
    gap = comparison.mantel([1, 5, 9, 20], [0.3, np.nan, 0.2, 0.1, 0.4, 0.2])
    assert (gap.n, np.isnan(gap.p), np.isnan(gap.tau)) == (5, True, False)
    assert gap.note == "1 of 6 values are missing: no order can be dealt out"
    with pytest.raises(InputError, match=r"got shapes \(3,\) and \(2,\)"):
        comparison.mantel([1, 5, 9], [0.3, 0.2])
    for draws in (0, 1.5, True):
        with pytest.raises(InputError, match="draws must be a whole number, at least 1"):
            comparison.mantel([1, 5, 9], [0.3, 0.2, 0.1], draws=draws)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alternative must be one of"):
        comparison.mantel([1, 5, 9], [0.3, 0.2, 0.1], alternative="smaller")  # type: ignore[arg-type]


# -- planted ----------------------------------------------------------------------------------------------------------


def test_a_token_that_is_copied_with_more_noise_the_further_has_a_falling_trend_by_both_estimates() -> None:
    rng = np.random.default_rng(1)
    copies = np.cumsum(rng.standard_normal((9, 600)) * np.array([1.0, *[0.4] * 8])[:, None], axis=0)
    reading = made_up(copies / copies.std(axis=1, keepdims=True))
    edges = {"attn_out.0": mi_probe.Binning.fit(rng.standard_normal((4000, 600)))}  # as a corpus would give
    result = reading.token_pairs(standard=edges, trim_z=4)
    table = reading.table(result)
    assert table.distance.tolist() == [7 * (j - i) for i in range(9) for j in range(i + 1, 9)]
    trend = comparison.rank_trend(table.distance, table.mi)
    assert trend.tau < -0.75
    assert trend.p < 1e-9
    assert comparison.mantel(reading.positions, table.mi).p < 0.005
    near = reading.neighbour_pairs(standard=edges, trim_z=4)["attn_out.0"].pairs()
    assert comparison.rank_trend(table.distance, near).tau < -0.75
    assert comparison.rank_trend(near, table.mi).tau > 0.85


def test_copies_with_the_same_noise_wherever_they_stand_have_no_trend() -> None:
    rng = np.random.default_rng(2)
    reading = made_up(rng.standard_normal(600) + 0.5 * rng.standard_normal((9, 600)))
    edges = {"attn_out.0": mi_probe.Binning.fit(rng.standard_normal((4000, 600)))}
    table = reading.table(reading.token_pairs(standard=edges))
    assert table.mi.min() > 0.4
    assert comparison.mantel(reading.positions, table.mi).p > 0.1


# -- the recipe -------------------------------------------------------------------------------------------------------


def adjusted(p: np.ndarray) -> np.ndarray:
    return np.asarray(stats.false_discovery_control(p))


def test_its_table_of_blocks_is_what_scipy_makes_of_its_table_of_pairs(
    roomy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("run", "token_distance", "--model", str(roomy_folder), "--text", TEXT, "--out", str(tmp_path), "--units", "bits")
    printed = capsys.readouterr().out
    pairs, blocks = pd.read_csv(tmp_path / "pairs.csv"), pd.read_csv(tmp_path / "blocks.csv")
    where = np.array([match.end() - 1 for match in re.finditer("coffee", TEXT)])  # a token is a byte
    i, j = np.triu_indices(5, 1)
    assert len(pairs) == 6 * 10
    parts = dict(list(pairs.groupby(["kind", "block"])))
    assert set(parts) == {(kind, block) for kind in ("attention", "MLP") for block in range(3)}
    assert list(zip(blocks.kind, blocks.block, strict=True)) == [(kind, b) for kind in ("attention", "MLP") for b in range(3)]
    for row in blocks.itertuples():
        part = parts[row.kind, row.block]
        assert set(part.point) == {f"{'attn_out' if row.kind == 'attention' else 'mlp_out'}.{row.block}"}
        assert part.distance.tolist() == (where[j] - where[i]).tolist()
        trend = stats.kendalltau(part.distance, part.mi)
        np.testing.assert_allclose([row.tau, row.p, row.n], [trend.statistic, trend.pvalue, 10], rtol=1e-9)
        np.testing.assert_allclose([row.mean, row.ksg_mean], [part.mi.mean(), part.ksg.mean()], rtol=1e-9)
        np.testing.assert_allclose(row.se, part.mi.std(ddof=1) / np.sqrt(10), rtol=1e-9)
        np.testing.assert_allclose(row.ksg_tau, stats.kendalltau(part.ksg, part.mi).statistic, rtol=1e-9)
        np.testing.assert_allclose(row.mantel_p, comparison.mantel(where, part.mi).p, rtol=1e-9)
        one, two = parts["attention", row.block], parts["MLP", row.block]
        test = stats.ttest_ind(one.mi, two.mi, equal_var=False)
        np.testing.assert_allclose([row.means_t, row.means_df, row.means_p], [test.statistic, test.df, test.pvalue], rtol=1e-9)
        taus = [stats.kendalltau(each.distance, each.mi).statistic for each in (one, two)]
        z = (np.arctanh(taus[0]) - np.arctanh(taus[1])) / np.sqrt(2 * 0.437 / (10 - 4))
        np.testing.assert_allclose([row.taus_z, row.taus_p], [z, 2 * stats.norm.sf(abs(z))], rtol=1e-9)
        assert row.differs == (row.means_q <= 0.05)
    np.testing.assert_allclose(blocks.q, adjusted(blocks.p), rtol=1e-9)
    np.testing.assert_allclose(blocks.mantel_q, adjusted(blocks.mantel_p), rtol=1e-9)
    each = blocks.drop_duplicates("block")
    for name in ("means", "taus"):
        p = each[f"{name}_p"].to_numpy()
        np.testing.assert_allclose(each[f"{name}_q"], adjusted(p), rtol=1e-9)
        np.testing.assert_allclose(each[f"{name}_p_bonferroni"], np.minimum(3 * p, 1), rtol=1e-9)

    # The pairs are those of the library, and the words those of the tables.
    reading = mi_probe.read_text(mi_probe.load_model(roomy_folder), TEXT, hooks=["attn_out", "mlp_out"])
    which = reading.select("coffee")
    result = mi_probe.MIResult.load(tmp_path / "result.safetensors")
    for key, near in reading.neighbour_pairs(which, trim_z=4).items():
        of = pairs[pairs.point == key]
        np.testing.assert_allclose(of.mi, reading.token_pairs(which, trim_z=4)[key].pairs(), rtol=1e-9)
        np.testing.assert_allclose(of.mi, result[key].pairs(), rtol=1e-9)
        np.testing.assert_allclose(of.ksg, near.pairs(), rtol=1e-9)
    assert f"'coffee', 5 times: 10 pairs, {(where[j] - where[i]).min()} to {where[-1] - where[0]} tokens apart" in printed
    for kind, of in blocks.groupby("kind"):
        assert f"{kind + ':':<10} {of['mean'].mean() / np.log(2):.3f} bits a pair" in printed
    assert f"means differ in {each.differs.sum()} of 3 blocks" in printed
    for name in ("distance", "laminar", "ksg"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_its_options_reach_what_they_name(roomy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus.txt").write_text("A text about coffee, tea and the sea, which is not the one that is looked at. " * 9)
    edges = tmp_path / "edges.safetensors"
    hooks = ["--hooks", "attn_out", "mlp_out", "--out", str(edges)]
    call("calibrate", "--model", str(roomy_folder), "--text-file", str(tmp_path / "corpus.txt"), *hooks)
    options = ["--standard", str(edges), "--word", "is", "--trim-z", "2", "--bins", "3", "--method", "equal_width"]
    out = tmp_path / "out"
    call("run", "token_distance", "--model", str(roomy_folder), "--text", TEXT, "--out", str(out), "--max-tokens", "60", *options)
    assert "'is', 2 times: 1 pairs" in capsys.readouterr().out
    reading = mi_probe.read_text(mi_probe.load_model(roomy_folder), TEXT, hooks=["attn_out", "mlp_out"], max_tokens=60)
    which, standard = reading.select("is"), mi_probe.Edges.load(edges)
    expected = reading.token_pairs(which, standard=standard, trim_z=2, bins=3, method="equal_width")
    near = reading.neighbour_pairs(which, standard=standard, trim_z=2)
    pairs = pd.read_csv(out / "pairs.csv")
    np.testing.assert_allclose(pairs.mi, [value for point in expected.values() for value in point.pairs()], rtol=1e-9)
    np.testing.assert_allclose(pairs.ksg, [value for point in near.values() for value in point.pairs()], rtol=1e-9)
    assert not np.allclose(pairs.mi, [value for point in reading.token_pairs(which).values() for value in point.pairs()])


def test_a_single_pair_is_drawn_and_the_words_say_that_it_has_no_trend(
    roomy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("run", "token_distance", "--model", str(roomy_folder), "--text", "a b c b", "--word", "b", "--out", str(tmp_path))
    printed = capsys.readouterr().out
    assert "Note:      1 point is too few for a trend: it takes 3." in printed
    assert "Note:      7 tokens were standardised by themselves" in printed
    assert "nan" not in printed
    blocks = pd.read_csv(tmp_path / "blocks.csv")
    assert len(blocks) == 6
    assert blocks.tau.isna().all()
    assert blocks["mean"].notna().all()
    assert not blocks.differs.any()
    assert {path.name for path in tmp_path.glob("*.png")} == {"distance.png", "laminar.png", "ksg.png"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--word", "cofee"], "the word 'cofee' does not occur in 'text' .did you mean 'coffee'"),
        (
            ["--word", "tea"],
            r"takes two tokens, and 'text' has 1 of those asked for: \d+ a.*occurs more often, or take a longer text",
        ),
        (["--text", "coffee " * 200], r"has 1,400 tokens, and the model's context has room for 1,023.*--max-tokens 1023"),
        (["--trim-z", "-1"], "trim_z must be a number of standard deviations above 0"),
        (["--bins", "1"], "bins must be 'auto' or a whole number from 2"),
        (["--standard", "no_such.safetensors"], "no_such"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    options: list[str], message: str, roomy_folder: Path, tmp_path: Path
) -> None:
    text = [] if "--text" in options else ["--text", TEXT]
    out = tmp_path / "out"
    with pytest.raises(MIProbeError, match=message):
        call("run", "token_distance", "--model", str(roomy_folder), "--out", str(out), *text, *options)
    assert not out.exists()


def test_one_text_is_taken_and_several_or_none_are_refused(roomy_folder: Path, tmp_path: Path) -> None:
    assert Texts(text="a cup").document().source == "a cup"
    one, two, rows, empty = (tmp_path / name for name in ("one.txt", "two.txt", "rows.jsonl", "empty.jsonl"))
    one.write_text("one")
    two.write_text("two")
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("first", "second", "third")))
    empty.write_text("")
    assert "".join(Texts(text_file=[str(two)]).document().pieces()) == "two"
    with pytest.raises(InputError, match=r"within one text, and there are several: 'one\.txt', 'two\.txt'.* Name one file"):
        Texts(text_file=[str(one), str(two)]).document()
    with pytest.raises(InputError, match="there are several"):
        Texts(text_file=[str(rows)]).document()
    several = ["--text-file", str(one), str(two)]
    with pytest.raises(InputError, match="there are several"):
        call("run", "token_distance", "--model", str(roomy_folder), *several, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"empty\.jsonl"):
        Texts(text_file=[str(empty)]).document()
