"""Pairs between two hook points of a model: runs, edges, memory, what a person sees of them, and the recipes."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import mi_probe
from mi_probe import Binning, Edges, JointCounts, MIProbeWarning, MIResult, Probe, ProbeState, cli, corpus, plots
from mi_probe.errors import (
    HookPointError,
    InputError,
    MemoryRefusedError,
    PointError,
    Stopped,
)
from mi_probe.footprint import Run, footprint, refuse_unless_it_fits, ways_out
from mi_probe.hooks import couples, resolve
from mi_probe.info import told

from .test_between import fed, require_histograms, two_places

# -- models -----------------------------------------------------------------------------------------------------------

TEXTS = ["A cup of coffee, and another one.", "tea", "Water is drunk from a glass, or from the hand."]


def captured(model: Any, probe: Probe, texts: Any = TEXTS) -> dict[str, np.ndarray]:
    """The rows that a plain probe would count, at each of its hook points."""
    with mi_probe.attach(model, Probe(hooks=probe.hooks, layers=probe.layers, calibration_tokens=10**6)) as plain:
        model(texts)
    return {key: stream.rows().astype(np.float64) for key, stream in plain.streams.items()}


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (
            {},
            [
                ("hidden_states.0", "hidden_states.1"),
                ("hidden_states.1", "hidden_states.2"),
                ("hidden_states.2", "hidden_states.3"),
            ],
        ),
        ({"between": "first"}, [("hidden_states.0", f"hidden_states.{k}") for k in (1, 2, 3)]),
        ({"layers": [3, 1]}, [("hidden_states.1", "hidden_states.3")]),
        (  # sets meet in the order of the blocks
            {"hooks": ["attn_out", "embed", "resid_post"]},
            list(pairwise(["embed", *(f"{name}.{k}" for k in range(3) for name in ("attn_out", "resid_post"))])),
        ),
        (
            {"hooks": ["attn_out", "resid_pre"], "between": [["resid_pre.2", "attn_out.1"], ["attn_out.0", "resid_pre.0"]]},
            [("resid_pre.2", "attn_out.1"), ("attn_out.0", "resid_pre.0")],
        ),
        (
            {"hooks": ["attn_out", "resid_pre"], "between": [["attn_out", "resid_pre"]]},
            [(f"attn_out.{k}", f"resid_pre.{k}") for k in range(3)],
        ),
        (
            {"hooks": ["blocks.*.mlp.hook_out", "resid_mid"], "between": [["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"]]},
            [("resid_mid.1", "blocks.1.mlp.hook_out")],
        ),
    ],
)
def test_hook_points_that_meet_are_those_that_were_asked_for(tiny: Any, probe: dict[str, Any], expected: Any) -> None:
    what = Probe(pairs="between", bins=3, calibration_tokens=20, **probe)
    assert list(couples(tiny, what).values()) == expected
    assert {point.key for point in resolve(tiny, what)} == {key for two in expected for key in two}
    with mi_probe.attach(tiny, what) as attached:
        tiny(TEXTS)
    rows = captured(tiny, what)
    assert list(attached.counts) == [f"{one} -> {two}" for one, two in expected]
    for (name, counts), (one, two) in zip(attached.counts.items(), expected, strict=True):
        require_histograms(counts, attached.binnings[name], rows[one], rows[two])


def test_places_of_different_widths_meet(tiny: Any) -> None:
    between = [["resid_mid.1", "blocks.1.mlp.hook_pre"], ["blocks.2.mlp.hook_pre", "mlp_out.2"]]
    what = Probe(hooks=["resid_mid", "blocks.*.mlp.hook_pre", "mlp_out"], pairs="between", between=between, bins=3)
    what = replace(what, calibration_tokens=20)
    with mi_probe.attach(tiny, what) as attached:
        tiny(TEXTS)
    rows = captured(tiny, what)
    shapes = []
    for (name, counts), (one, two) in zip(attached.counts.items(), between, strict=True):
        require_histograms(counts, attached.binnings[name], rows[one], rows[two])
        shapes.append(attached.estimate(p_values="none")[name].between().shape)
    assert shapes == [(16, 64), (64, 16)]
    found = mi_probe.plan(tiny, what, measure=False)
    assert list(found.widths.values()) == [(16, 64), (64, 16)]
    assert found.footprint.points[0].pairs == 1024


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"layers": [1]}, "takes two hook points, and the probe has one: hidden_states.1"),
        ({"hooks": "embed"}, "takes two hook points, and the probe has one: embed"),
        ({"between": [["hidden_states.0", "hidden_states.9"]]}, "names 'hidden_states.9', which is not among .*did you mean"),
        ({"between": [["hidden_states.0", "attn_out.1"]]}, "'attn_out.1', which is not among .* these are hidden_states.0, "),
        ({"layers": [0, 1], "between": [["hidden_states.0", "hidden_states.2"]]}, "'hidden_states.2', which is not among"),
        ({"hooks": ["resid_pre"], "between": [["resid_pre", "attn_out"]]}, "names 'resid_pre', which is not among"),
        ({"between": [["hidden_states.1", "blocks.1.hook_resid_pre"]]}, "are the same place in this model"),
        ({"between": [["hidden_states.1", "blocks.1.hook_in"]]}, "are the same place in this model"),
    ],
)
def test_places_that_cannot_meet_are_refused_by_name(tiny: Any, probe: dict[str, Any], message: str) -> None:
    what = Probe(pairs="between", **probe)
    for ask in (lambda: mi_probe.attach(tiny, what), lambda: mi_probe.plan(tiny, what, measure=False)):
        with pytest.raises(HookPointError, match=message):
            ask()


def test_a_place_that_fires_twice_meets_the_other_with_the_firing_that_counts(tiny: Any) -> None:
    what = Probe(layers=[1, 2], pairs="between", bins=3, calibration_tokens=20)
    x = torch.randn(1, 24, 16)
    tokens = torch.randint(1, 99, (1, 24))
    point = tiny.hook_dict["blocks.1.hook_resid_pre"]

    def again(activation: Any, hook: Any) -> None:
        if not torch.equal(activation, x):
            point(x)

    for visit in (None, -1, 0):
        rows = {}
        with (
            mi_probe.attach(tiny, Probe(layers=[1, 2], visit=visit, calibration_tokens=10**6)) as plain,
            mi_probe.attach(tiny, replace(what, visit=visit)) as probe,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            for name in ("blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"):  # while the first place's partner is there, too
                tiny.run_with_hooks(tokens, fwd_hooks=[(name, again)])
            rows = {key: stream.rows().astype(np.float64) for key, stream in plain.streams.items()}
        assert probe.tokens_seen == plain.tokens_seen > 20
        assert plain.status().points["hidden_states.1"].fired == 4
        ((name, counts),) = probe.counts.items()
        require_histograms(counts, probe.binnings[name], rows["hidden_states.1"], rows["hidden_states.2"])


def test_a_pass_that_does_not_reach_both_places_is_not_counted(tiny: Any) -> None:
    with mi_probe.attach(tiny, Probe(pairs="between", calibration_tokens=5)) as probe:
        tiny("one whole text")
        before = probe.counts["hidden_states.0 -> hidden_states.1"].copy()
        with pytest.warns(MIProbeWarning, match="early"):
            tiny("another", stop_at_layer=2)
        assert probe.counts["hidden_states.0 -> hidden_states.1"] == before
    status = str(probe.status())
    assert "hidden_states.2 -> hidden_states.3" in status
    assert "blocks.2.hook_resid_pre -> ln_final.hook_out" in status


def test_a_calibration_that_another_thread_completes_between_two_places_changes_nothing() -> None:
    x, y = two_places(texts=10)
    for more in ({}, {"dimensions": 3}, {"dimensions": [0, 2]}):
        whole = fed(x, y, **more)
        part = fed(x[:8], y[:8], **more, calibration_tokens=300)
        stream = part.streams["a -> b"]
        first = stream.prepare(x[8:].reshape(-1, 7), 0)
        assert first.codes is None
        part.update(("a", "b"), (x[:8], y[:8]), documents=range(8))
        assert stream.calibrated
        second = stream.prepare(y[8:].reshape(-1, 4), 1)
        joined = stream.joined(first, second)
        expected = stream.counts.binning.encode(np.concatenate([x[8:], y[8:]], axis=2).reshape(40, -1))
        np.testing.assert_array_equal(joined.codes, expected)
        assert whole.tokens_seen == 200


def test_values_that_are_to_be_counted_on_their_device_are_the_same(tiny: Any) -> None:
    counted = []
    for where in ("cpu", "device"):
        with mi_probe.attach(tiny, Probe(pairs="between", calibration_tokens=10, bins=3), count_on=where) as probe:
            for text in TEXTS:
                tiny(text)
        counted.append(probe.counts)
    assert counted[0] == counted[1]


CORPUS = [f"text {k}: " + "the quick brown fox jumps over the lazy dog, and on; " * (1 + k % 5) for k in range(12)]
BETWEEN = Probe(pairs="between", calibration_tokens=200, bins=4, lags=2, shards=16, moments=True)


@pytest.mark.filterwarnings("ignore:the edges do not represent")
def test_runs_are_the_same_for_any_batch_size_and_gone_on_with(tiny: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(corpus, "_PIECE", 100)
    monkeypatch.setattr(corpus, "_BLOCK", 300)
    runs = [mi_probe.accumulate(tiny, CORPUS, BETWEEN, batch_size=size) for size in (1, 3, 8)]
    path = tmp_path / "state.safetensors"
    mi_probe.accumulate(tiny, CORPUS, BETWEEN, max_tokens=500, checkpoint=path)
    left = 30

    def stop(activation: Any, hook: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    path.unlink()
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", stop)]), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, CORPUS, BETWEEN, checkpoint=path, batch_size=2)
    assert 200 < ProbeState.load(path).tokens_seen < runs[0].tokens_seen
    runs.append(mi_probe.accumulate(tiny, CORPUS, BETWEEN, checkpoint=path, resume=True))
    runs.append(ProbeState.load(path))
    for run in runs[1:]:
        assert [stream.read() for stream in run.streams.values()] == [stream.read() for stream in runs[0].streams.values()]
    rows = captured_corpus(tiny)
    for k, (name, counts) in enumerate(runs[0].counts.items()):
        require_histograms(counts, runs[0].binnings[name], rows[k], rows[k + 1])


def captured_corpus(model: Any) -> list[np.ndarray]:
    rows = [mi_probe.sample_activations(model, CORPUS, f"hidden_states.{k}", max_tokens=10**6) for k in range(4)]
    return [part.astype(np.float64) for part in rows]


@pytest.mark.filterwarnings("ignore:edges are fitted on")
@pytest.mark.parametrize("more", [{}, {"dimensions": 5}, {"dimensions": [1, 4, 15]}, {"dimensions": 3, "chosen_by": "random"}])
def test_edges_of_a_sample_are_saved_and_used_again(tiny: Any, tmp_path: Path, more: dict[str, Any]) -> None:
    probe = replace(BETWEEN, **more)
    edges = mi_probe.calibrate(tiny, CORPUS, probe, seed=1)
    edges.save(tmp_path / "edges.safetensors")
    again = Edges.load(tmp_path / "edges.safetensors")
    assert again == edges
    assert [side.point for side in edges["hidden_states.1 -> hidden_states.2"].sides] == ["hidden_states.1", "hidden_states.2"]
    counted = mi_probe.accumulate(tiny, CORPUS, probe, edges=again)
    if not more:  # the probe may leave to the edges which dimensions are counted
        assert counted.counts == mi_probe.accumulate(tiny, CORPUS, BETWEEN, edges=again).counts
    elif more != {"dimensions": 5}:
        fewer = mi_probe.accumulate(tiny, CORPUS, BETWEEN, edges=again)
        assert fewer.counts == counted.counts
        assert fewer.probe.dimensions is not None
    rows = captured_corpus(tiny)
    for k, (name, counts) in enumerate(counted.counts.items()):
        require_histograms(counts, edges[name], rows[k], rows[k + 1])
    with pytest.raises(HookPointError, match=r"edges and probe differ at 'hidden_states\.0 -> hidden_states\.1'"):
        mi_probe.attach(tiny, Probe(), edges=again)
    plain = {name: Binning(b.edges, b.method, frame=b.frame) for name, b in edges.items()}
    with pytest.raises(HookPointError, match="side by side"):
        mi_probe.attach(tiny, Probe(pairs="between"), edges=plain)
    with pytest.raises(HookPointError, match="other dimensions than the probe asks for"):
        mi_probe.attach(tiny, Probe(pairs="between", dimensions=[7, 8]), edges=again)


def test_memory_is_known_before_it_is_taken_and_the_ways_out_are_true() -> None:
    probe = Probe(pairs="between", bins=8, lags=0)
    widths: dict[str, Any] = {f"a.{k} -> b.{k}": (400, 300) for k in range(10)} | {"wide": (800, 200), "unknown": "why"}
    run = Run(pass_tokens=0, rows=0)
    found = footprint(probe, widths, run)
    assert found.points[0].counts == JointCounts.nbytes_for(700, 120_000, 8)
    assert (found.points[0].pairs, found.points[10].pairs) == (120_000, 160_000)
    for share in (2, 3):
        assert footprint(probe, widths, replace(run, shares=share)).points[0].pairs == -(-120_000 // share)
    ways = ways_out(probe, widths, run, 0.6 * found.most_needed)
    words = [way.what for way in ways]
    assert any("pairs of hook points (between=)" in what for what in words)
    assert not any("(pairs=)" in what for what in words)
    (fewer,) = [what for what in words if "dimensions at each place" in what]
    k = int(fewer.split()[0])
    assert footprint(replace(probe, dimensions=k), {"wide": (800, 400)}, run).points[0].pairs == k * k
    with pytest.raises(MemoryRefusedError, match=r"at 11 pairs of hook points[\s\S]*between="):
        refuse_unless_it_fits(probe, {k: v for k, v in widths.items() if k != "unknown"}, run, 1e7 * 6)


def test_attach_refuses_what_does_not_fit_and_counts_nothing(tiny: Any) -> None:
    with pytest.raises(MemoryRefusedError, match="3 pairs of hook points"):
        mi_probe.attach(tiny, Probe(pairs="between"), memory=1000)
    state = ProbeState(Probe(pairs="between", calibration_tokens=100), memory=1000)
    x, y = two_places(texts=6)
    with pytest.raises(MemoryRefusedError):
        state.update(("a", "b"), (x, y))
    assert not state.streams


# -- what a person sees -----------------------------------------------------------------------------------------------


def depth() -> MIResult:
    """A place whose dimensions fade: two later ones have them, each with more noise, in places of 6 dimensions."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2000, 6))
    state = ProbeState(Probe(pairs="between", bins=5, calibration_tokens=1000))
    later = {
        "hidden_states.1": x + 0.3 * rng.standard_normal(x.shape),
        "hidden_states.2": x[:, :4] + rng.standard_normal((2000, 4)),
    }
    for name, y in later.items():
        state.update(("hidden_states.0", name), (x, y))
    return state.estimate()


def test_fading_is_what_the_rectangle_says() -> None:
    result = depth()
    table = mi_probe.fading(result)
    assert table["start"].tolist() == ["hidden_states.0"] * 2
    assert table["place"].tolist() == ["hidden_states.1", "hidden_states.2"]
    assert table["dimensions"].tolist() == [6, 4]
    for row, point in zip(table.itertuples(), result.values(), strict=True):
        mi, se = point.between("mi"), point.between("se")
        same = np.eye(*mi.shape, dtype=bool)
        np.testing.assert_allclose([row.itself_low, row.itself, row.itself_high], np.quantile(mi[same], [0.25, 0.5, 0.75]))
        np.testing.assert_allclose([row.others, row.chance], [mi[~same].mean(), point.between("chance").mean()])
        np.testing.assert_allclose([row.itself_se, row.others_se], [se[same].mean(), se[~same].mean()])
        np.testing.assert_allclose(row.entropy, np.log(5), atol=1e-3)
        np.testing.assert_allclose(row.kept, row.itself / row.entropy)
    assert table["itself"][0] > 2 * table["itself"][1] > 20 * abs(table["others"].max())
    bits = mi_probe.fading(result, units="bits")
    np.testing.assert_allclose(bits["others"], table["others"] / np.log(2))
    np.testing.assert_allclose(bits["kept"], table["kept"])
    with pytest.raises(InputError, match="'toy' is of one place"):
        mi_probe.fading(MIResult({"toy": mi_probe.pairwise(np.zeros((90, 3)))}))


def test_a_dimension_is_itself_by_its_index_not_by_its_place_among_those_that_were_chosen() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 600, 5))
    x *= [1, 9, 1, 9, 1]
    y *= [9, 1, 1, 9, 1]
    state = ProbeState(Probe(pairs="between", dimensions=2, bins=3))
    state.update(("a", "a:b"), (x, y))
    point = state.estimate()["a -> a:b"]
    assert point.names == ("a:1", "a:3", "a:b:0", "a:b:3")
    assert point.itself.tolist() == [3]
    table = mi_probe.fading(MIResult({"a -> a:b": point}))
    assert table["dimensions"].tolist() == [1]


def test_figures_draw_the_rectangle_and_what_fades() -> None:
    result = depth()
    for point in result.values():
        figure = plots.heat_map(point, title="two places")
        axes = figure.axes[0]
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), point.between("mi"))
        assert axes.get_ylabel() == "6 variables of hidden_states.0"
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(k) for k in range(point.between().shape[1])]
        figure.canvas.draw()
    few = plots.heat_map(result["hidden_states.0 -> hidden_states.1"], most=3).axes[0].images[0].get_array()
    assert few.shape == (3, 3)
    profile = plots.depth_profile(result).axes[0]
    assert [label.get_text() for label in profile.get_xticklabels()] == ["0 → 1", "0 → 2"]
    plots.distributions(result).canvas.draw()
    table = mi_probe.fading(result)
    figure = plots.fading(table)
    figure.canvas.draw()
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    np.testing.assert_array_equal(lines["from hidden_states.0 (embedding)"].get_ydata(), table["itself"])
    np.testing.assert_array_equal(lines["from hidden_states.0 (embedding)"].get_xdata(), [1, 2])
    np.testing.assert_array_equal(right.get_lines()[0].get_ydata(), table["others"])
    assert lines["from hidden_states.0 (embedding)"].get_color() == left.get_xticklabels()[0].get_color()
    later = plots.fading(table.assign(start="hidden_states.1")).axes[0].get_lines()
    assert left.get_xticklabels()[0].get_color() not in [line.get_color() for line in later]
    with pytest.raises(InputError, match="units"):
        plots.fading(table, units="hartleys")


def test_words_say_that_pairs_are_of_two_places() -> None:
    result = depth()
    said = mi_probe.describe(result, variables="hidden dimensions", top=2)
    assert "36 or 24 pairs of hidden dimensions, one at each of two places, for each of 2 pairs of places" in said
    assert "hidden_states.0:" in said.splitlines()[-1]
    assert " at hidden" not in said.splitlines()[-1]
    alone = mi_probe.describe(MIResult({"a -> b": result["hidden_states.0 -> hidden_states.1"]}))
    assert "one at each of two places, from a -> b, over 2,000" in alone
    assert repr(result["hidden_states.0 -> hidden_states.2"]).startswith("PairwiseMI(6 x 4 variables, 24 pairs")


def test_info_and_plan_tell_of_two_places(tmp_path: Path, tiny_folder: Path) -> None:
    x, y = two_places()
    fed(x, y).save(tmp_path / "state.safetensors")
    fed(x, y).estimate().save(tmp_path / "result.safetensors")
    for name in ("state", "result"):
        line = told(tmp_path / f"{name}.safetensors", check=True).splitlines()[-1]
        assert line.split()[:8] == ["a", "->", "b", "7", "and", "4", "28", "5"]
    planned = str(mi_probe.plan(tiny_folder, "between_states", measure=False))
    assert "at 3 pairs of hook points" in planned
    assert "256" in planned.splitlines()[2]
    for probe, places in ((Probe(layers=[0, 1], pairs="between"), "1 pair of hook points"), (Probe(layers=[0]), "1 hook point")):
        assert str(mi_probe.plan(tiny_folder, probe, measure=False)).splitlines()[0].endswith(f"takes at {places}")


def test_a_plan_asks_for_what_is_counted(tiny: Any) -> None:
    probe = Probe(pairs="between", calibration_tokens=20, bins=4, shards=16, moments=True, swap=True)
    found = mi_probe.plan(tiny, probe, measure=False).footprint
    with mi_probe.attach(tiny, probe) as attached:
        tiny(TEXTS)
    for point, (name, counts) in zip(found.points, attached.counts.items(), strict=True):
        assert (point.key, point.variables, point.pairs, point.bins) == (name, 32, counts.pairs, counts.bins)
    _, arrays = attached.to_arrays()
    # Tables and all beside them; edges, limits and samples are some kB.
    kept = sum(a.nbytes for name, a in arrays.items() if name.split(".")[-1] not in ("edges", "frame", "sample", "dimensions"))
    assert kept == pytest.approx(found.state_file, rel=0.02)


# -- recipes ----------------------------------------------------------------------------------------------------------


def run_recipe(name: str, model: Path, out: Path, *options: str) -> MIResult:
    cli.app(["run", name, "--model", str(model), "--out", str(out), *options], result_action="return_value")
    return MIResult.load(out / "result.safetensors")


def test_across_depth_measures_from_each_start_to_all_later_places(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    text = ("--text", "a short text about coffee, and nothing else of note; " * 4)
    result = run_recipe("across_depth", tiny_folder, tmp_path, *text, "--bins", "4")
    expected = [("0", later) for later in "123"] + [("1", later) for later in "23"]
    assert list(result) == [f"hidden_states.{a} -> hidden_states.{b}" for a, b in expected]
    table = pandas.read_csv(tmp_path / "across_depth.csv")
    np.testing.assert_allclose(table["itself"], mi_probe.fading(result)["itself"])
    printed = capsys.readouterr().out
    assert "From hidden_states.1, where a dimension's entropy is" in printed
    assert "256 pairs each" in printed
    kept = mi_probe.ProbeState.load(tmp_path / "state.safetensors").estimate(p_values="none")
    np.testing.assert_array_equal(kept[list(result)[-1]].between(), result[list(result)[-1]].between())
    options = ("--hooks", "resid_post", "--start", "resid_post.1", "--dimensions", "5", "--units", "bits")
    fewer = run_recipe("across_depth", tiny_folder, tmp_path / "fewer", *text, *options)
    assert list(fewer) == ["resid_post.1 -> resid_post.2"]
    point = fewer["resid_post.1 -> resid_post.2"]
    assert (point.between().shape, len(point.itself)) == ((5, 5), 5)
    assert "bits" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"nothing comes after 'hidden_states\.3', the last place"):
        run_recipe("across_depth", tiny_folder, tmp_path / "wrong", *text, "--start", "hidden_states.3")
    for wrong in (
        ("--start", "hidden_states.4"),
        ("--start", "resid_pre.0"),
        ("--heat-map-at", "hidden_states.2 -> hidden_states.3"),
    ):
        with pytest.raises(PointError, match="there is no hook point"):
            run_recipe("across_depth", tiny_folder, tmp_path / "wrong", *text, *wrong)
    assert not list((tmp_path / "wrong").glob("*.safetensors"))


def test_dimension_pairs_takes_a_probe_between_places(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    at = "hidden_states.2 -> hidden_states.3"
    result = run_recipe("dimension_pairs", tiny_folder, tmp_path, "--probe", "between_states", "--heat-map-at", at)
    assert at in result
    assert len(result) == 3
    assert "pairs of hidden dimensions, one at each of two places" in capsys.readouterr().out
    assert (tmp_path / "pairs.png").is_file()
    with pytest.raises(PointError, match=r"there is no hook point 'hidden_states\.2'"):
        run_recipe("dimension_pairs", tiny_folder, tmp_path, "--probe", "between_states", "--heat-map-at", "hidden_states.2")


def test_a_text_of_one_token_has_nothing_that_could_fade(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing varies at .* over its 1 samples"):
        run_recipe("across_depth", tiny_folder, tmp_path, "--text", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
