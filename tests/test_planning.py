"""Memory is known before it is taken: formulas held to arrays, plans without weights, refusals that lose nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mi_probe
from mi_probe import Binning, Probe, ProbeState, cli, footprint, memory, planning
from mi_probe.errors import HookPointError, InputError, MemoryRefusedError, ModelError
from mi_probe.estimation import estimate_nbytes_for, estimate_point
from mi_probe.extras import Extras
from mi_probe.footprint import Run, ways_out
from mi_probe.keyed import key_values
from mi_probe.ledger import NO_MEMORY
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.stream import PointStream
from mi_probe.tokencounts import TokenCounts

EXTRAS = {"plain": Extras(), "all": Extras(lags=5, shards=16, swap=True, moments=True)}


def counted(extras: Extras, *, variables: int = 60, bins: int = 6, method: Any = "equal_count") -> PointCounts:
    x = np.random.default_rng(0).standard_normal((4000, variables), dtype=np.float32)
    counts = PointCounts(Binning.fit(x, bins=bins, method=method), extras)
    steps = None if counts.moments is None else counts.moments.steps(x)
    counts.update(counts.binning.encode(x), Places.of_batch(np.arange(4000), 100, np.arange(40)), steps)
    counts.flush()
    return counts


def peak_of(work: Any) -> tuple[int, int]:
    """Bytes kept, and at most held, by a call."""
    tracemalloc.start()
    try:
        kept = work()
        now, most = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return now, most


# -- formulas and what is really allocated ------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
def test_counts_and_extras_take_the_bytes_that_were_said_in_memory_and_in_a_file(extras: Extras, tmp_path: Path) -> None:
    counts = counted(extras)
    said = PointCounts.nbytes_for(60, 60 * 59 // 2, 6, extras, sequence=100)
    joint = counts.joint
    assert said.counts == sum(a.nbytes for a in (joint.tables, joint.margins, joint.missing, joint.trimmed))
    arrays = counts.to_arrays()[1]
    assert said.counts + said.extras == sum(a.nbytes for name, a in arrays.items() if name not in ("edges", "frame", "limits"))
    kept, _ = peak_of(lambda: counted(extras))
    assert kept == pytest.approx(sum(said[:3]), rel=0.1)
    state = ProbeState(Probe(bins=6, lags=extras.lags, shards=extras.shards, swap=extras.swap, moments=extras.moments))
    state.streams["a"] = PointStream.frozen(state.probe, counts)
    state.save(tmp_path / "s")
    assert (tmp_path / "s").stat().st_size == pytest.approx(said.counts + said.extras, rel=0.06)


def test_tables_take_twice_the_bytes_from_the_sample_on_that_a_cell_of_32_bits_cannot_count() -> None:
    counts = counted(Extras())
    one = counts.joint.tables.nbytes
    counts.joint._n = 2**31 - 1 - 1
    for k in (1, 2):
        counts.joint.update(np.zeros((1, 60), dtype=np.uint8))
        assert counts.joint.tables.nbytes == k * one
        said = PointCounts.nbytes_for(60, 60 * 59 // 2, 6, Extras(), samples=counts.joint.n).counts
        assert said - PointCounts.nbytes_for(60, 0, 6, Extras()).counts == k * one


@pytest.mark.parametrize("moments", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fitting_edges_takes_what_was_said(moments: bool, dtype: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(dtype)
    stream = PointStream(Probe(calibration_tokens=3000, bins=4, lags=0, moments=moments, skip_first=0))
    prepared, places = stream.prepare(rows), Places.of_one_text(3000)
    stream.completed_by(prepared, places)  # compiles
    _, most = peak_of(lambda: stream.completed_by(prepared, places))
    assert most == pytest.approx(PointStream.fitting_nbytes_for(3000, 64, rows.itemsize), rel=0.05)


@pytest.mark.parametrize(
    ("bins", "method", "extras", "test"),
    [
        (4, "equal_count", Extras(), "none"),
        (8, "equal_count", Extras(), "gamma"),
        (8, "equal_width", Extras(), "gamma"),
        (8, "equal_count", Extras(lags=12), "serial"),
        (6, "equal_count", EXTRAS["all"], "serial"),
    ],
)
def test_estimates_take_at_most_what_was_said_and_not_much_less(bins: int, method: Any, extras: Extras, test: Any) -> None:
    counts = counted(extras, variables=200, bins=bins, method=method)
    estimate_point(counts, p_values=test)  # compiles
    kept, most = peak_of(lambda: estimate_point(counts, p_values=test))
    said = estimate_nbytes_for(200, 200 * 199 // 2, bins, method, extras, p_values=test != "none")
    assert kept == pytest.approx(said.results, rel=0.05)
    assert (0.45 if method == "equal_width" else 0.7) < most / sum(said) < 1.05


OF_TOKENS = Probe(variables="tokens", furthest=40, skip_first=0)


@pytest.mark.parametrize(("tokens", "variables", "furthest"), [(2048, 64, 200), (512, 300, 40), (3000, 16, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counting_pairs_of_tokens_takes_at_most_what_was_said_and_not_much_less(
    tokens: int, variables: int, furthest: int, dtype: Any
) -> None:
    rows = np.random.default_rng(0).standard_normal((tokens, variables)).astype(dtype)
    stream = PointStream(replace(OF_TOKENS, furthest=furthest, calibration_tokens=tokens))
    prepared, places = stream.prepare(rows), Places.of_batch(np.arange(tokens), 256, np.arange(-(-tokens // 256)))
    whole = stream.completed_by(prepared, places)  # compiles
    assert whole is not None
    assert whole.tokens is not None
    kept, most = peak_of(lambda: stream.completed_by(prepared, places))
    run = Run(tokens=tokens, pass_tokens=0, sequence=256, itemsize=rows.itemsize)
    (said,) = footprint.footprint(stream.probe, {"a": variables}, run).points
    assert kept == pytest.approx(said.kept, rel=0.05, abs=20_000)  # and edges
    assert 0.45 < most / (said.moment + said.kept) < 1.02  # tables of one key at a time are few or many
    assert (said.bins, said.keys) == (whole.tokens.bins, len(whole.tokens.keys.names))
    full = PointStream.frozen(stream.probe, whole)
    _, most = peak_of(lambda: full.commit(full.prepare(rows), places, None))  # edges are there: nothing else is done
    said = footprint.footprint(stream.probe, {"a": variables}, replace(run, rows=0, tokens=None, pass_tokens=tokens)).points[0]
    assert 0.4 < most / said.moment < 1.02


@pytest.mark.parametrize(
    "probe", [OF_TOKENS, replace(OF_TOKENS, by="label", labels=[*"abcdefghij"], shards=64)], ids=("few", "many")
)
def test_estimates_of_pairs_of_tokens_take_at_most_what_was_said_and_not_much_less(probe: Probe) -> None:
    assert probe.extras.tokens is not None
    counts = TokenCounts(probe.extras.tokens, Binning.fit(np.random.default_rng(0).standard_normal((400, 300))))
    counts.cells[:, :, 1] = counts.bins**2
    key_values(counts)  # compiles
    _, most = peak_of(lambda: key_values(counts))
    (said,) = footprint.footprint(probe, {"a": 300}).points
    assert 0.6 < most / (said.estimating + said.results) < 1.02


# -- plans ---------------------------------------------------------------------------------------------------------------


def peak_of_process() -> int:
    resource = pytest.importorskip("resource")
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def save_config(path: Path, kind: str, **shape: Any) -> Path:
    """A folder with a config.json and nothing else."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**shape)
    config.architectures = [f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"]
    config.save_pretrained(path)
    assert [file.name for file in path.iterdir()] == ["config.json"]
    return path


def test_gpt2_xl_is_planned_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_config(tmp_path / "gpt2-xl", "GPT2", n_embd=1600, n_layer=48, n_head=25)
    monkeypatch.setattr(planning, "free_memory", lambda: 20 * 10**9)
    random, peak = torch.get_rng_state(), peak_of_process()
    found = mi_probe.plan(folder, Probe(), measure=False)
    assert peak_of_process() - peak < 1e9  # bytes; its weights are 7.7e9
    assert torch.equal(random, torch.get_rng_state())
    assert list(found.widths) == [f"hidden_states.{k}" for k in range(49)]
    assert set(found.widths.values()) == {1600}
    assert found.footprint.total("pairs") == 49 * 1_279_200
    assert found.footprint.total("counts") == 49 * (1_279_200 * 64 * 4 + 1600 * 10 * 8)
    assert found.multiply_adds == 48 * 12 * 1600**2 + 1600 * 50257
    assert found.steps == 49 * 1_279_200
    assert found.run.weights > 4 * 1.5e9
    printed = str(found)
    for part in ("hidden_states.0...48", "1,279,200", "337 MB each", "16.1 GB", "It does not fit", "of the 49 hook points"):
        assert part in printed
    assert "It fits" in str(mi_probe.plan(folder, Probe(), tokens=94, measure=False))


@pytest.mark.parametrize(
    ("kind", "shape", "widths"),
    [
        (
            "Llama",
            {
                "hidden_size": 64,
                "intermediate_size": 224,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            },
            {
                "mlp.hook_post": 224,
                "attn.hook_q": 64,
                "attn.hook_k": 32,
                "attn.hook_v": 32,
                "attn.hook_z": 64,
                "hook_resid_mid": 64,
            },
        ),
        (
            "GPTNeoX",
            {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99},
            {"mlp.hook_pre": 256, "attn.hook_q": 64, "attn.hook_v": 64, "ln1.hook_normalized": 64, "ln1.hook_scale": 1},
        ),
    ],
)
def test_every_kind_of_hook_point_has_its_own_number_of_variables(
    kind: str, shape: dict[str, int], widths: dict[str, int], tmp_path: Path
) -> None:
    folder = save_config(tmp_path / kind, kind, **shape)
    hooks = tuple(f"blocks.{k}.{name}" for k in range(2) for name in widths)
    found = mi_probe.plan(folder, Probe(hooks=(*hooks, "blocks.0.attn.hook_pattern")), measure=False)
    assert "not one row of numbers a token" in str(found.widths.pop("blocks.0.attn.hook_pattern"))
    assert found.widths == dict(zip(hooks, [*widths.values()] * 2, strict=True))
    assert "size not known beforehand" in str(found)


def test_a_loaded_model_is_planned_with_the_sizes_that_are_then_counted(tiny: Any) -> None:
    probe = Probe(
        hooks=("hidden_states", "blocks.*.mlp.hook_post", "blocks.1.attn.hook_z"), calibration_tokens=20, bins=4, lags=2
    )
    found = probe.plan(tiny, measure=False)
    assert found.run.weights == 0
    with mi_probe.attach(tiny, probe) as attached:
        tiny("a text that is long enough")
    assert found.widths == {name: counts.variables for name, counts in attached.counts.items()}
    bytes_of = {name: part.tables.nbytes + part.margins.nbytes + 16 * part.variables for name, part in attached.counts.items()}
    assert {point.key: point.counts for point in found.footprint.points} == bytes_of


def test_a_plan_of_a_short_text_holds_rows_and_one_table_at_a_time(tiny: Any) -> None:
    short, long = (mi_probe.plan(tiny, Probe(bins=8), tokens=tokens, pass_tokens=1, measure=False) for tokens in (94, None))
    assert short.footprint.while_counting == 4 * 95 * 4 * 16
    assert short.footprint.while_estimating < long.footprint.while_estimating
    assert long.footprint.while_counting > long.footprint.total("kept") + 4 * 4096 * 4 * 16
    for wrong in ({"tokens": 0}, {"pass_tokens": 0}):
        with pytest.raises(InputError, match="from 1"):
            mi_probe.plan(tiny, **wrong)


def test_the_speed_of_counting_is_measured_here(tiny: Any) -> None:
    found = mi_probe.plan(tiny, Probe(bins=4, swap=True))
    assert found.speed is not None
    assert found.speed.pair > 0
    assert found.seconds_per_million == pytest.approx(1e6 * (3 * 4 * 120 * found.speed.pair + 64 * found.speed.variable))
    assert "measured here just now" in str(found)


@pytest.mark.parametrize(("furthest", "every"), [(5, 1), (100, 1), (7, 3)])
def test_a_plan_says_how_many_pairs_of_tokens_are_counted(tiny: Any, furthest: int, every: int) -> None:
    probe = replace(OF_TOKENS, layers=[0, 2], furthest=furthest, sample_every=every, skip_first=1, calibration_tokens=40)
    found = mi_probe.plan(tiny, probe)
    state = mi_probe.accumulate(tiny, ["x" * 31, "y" * 62], probe)  # BOS and 31 tokens fill the context
    counts = state.streams["hidden_states.2"].read().tokens
    assert counts is not None
    (one, other) = found.footprint.points
    assert counts.pairs.sum() == 3 * 32 * one.token_pairs == 3 * 32 * other.token_pairs
    assert (one.bins, one.keys) == (counts.bins, len(counts.keys.names))
    assert found.steps == int(2 * one.token_pairs * counts.bins**2)
    assert found.speed is not None
    values = 32 * found.speed.variable / every
    assert found.seconds_per_million == pytest.approx(1e6 * (2 * one.token_pairs * found.speed.pair + values))


def test_a_plan_of_pairs_of_tokens_speaks_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_config(tmp_path / "gpt2", "GPT2")
    found = mi_probe.plan(folder, "tokens_by_distance", measure=False)
    kept = PointCounts.nbytes_for(768, 0, 14, found.probe.extras)
    assert found.footprint.state_file == 13 * (kept.counts + kept.extras)
    assert found.steps == int(13 * 14**2 * 12 * (64 * 1023 - 64 * 65 / 2 + 1023) / 1024)
    printed = str(found)
    for part in (
        "13 hook points, of pairs of tokens by their distance",
        "hidden_states.0...12      13         768    21    14",
        "counts of pairs of tokens",
        "up to 62.9 pairs at each hook point, with tokens up to 64 before",
        "(64 dimensions of a cell at once)",
    ):
        assert part in printed, part
    for part in ("lags", "estimates", "64 tokens of a cell", " 0 "):
        assert part not in printed, part
    monkeypatch.setattr(planning, "free_memory", lambda: 0.8 * found.footprint.most_needed)
    short = mi_probe.plan(folder, replace(OF_TOKENS, shards=32), measure=False)
    said = str(short)
    assert "does not fit" in said
    assert "of the 13 hook points" in said
    for part in ("pairs=", "without shards"):
        assert part not in said


def test_what_does_not_fit_of_pairs_of_tokens_is_named_by_its_keys(tiny: Any) -> None:
    probe = replace(OF_TOKENS, by="label", labels=[f"{k}" for k in range(64)], shards=64)
    with pytest.raises(MemoryRefusedError, match=r"with 4,097 keys of pairs of tokens and 3 bins") as refused:
        mi_probe.attach(tiny, probe, memory=80e6)
    assert "16 shards in place of 64" in str(refused.value)
    assert "pairs=" not in str(refused.value)
    mi_probe.attach(tiny, replace(probe, shards=16), memory=80e6).detach()


def test_each_way_out_fits_and_a_little_more_would_not() -> None:
    probe, run = Probe(shards=16, moments=True), Run()
    widths: dict[str, int | str] = {**{f"resid_post.{k}": 400 for k in range(10)}, "wide": 800, "unknown": "why"}
    need = footprint.footprint(probe, widths, run).most_needed
    for share in (0.9, 0.5, 0.05):
        free = share * need
        ways = ways_out(probe, widths, run, free)
        assert ways
        assert all(way.needed <= free for way in ways)
        dimensions = next((way for way in ways if "dimensions" in way.what), None)
        if dimensions is not None:
            k = int(dimensions.what.split()[0])
            assert footprint.footprint(probe, widths, run, most_variables=k).most_needed == dimensions.needed
            known = {key: width for key, width in widths.items() if isinstance(width, int)}
            assert footprint.footprint(probe, known, run, most_variables=k + 1).most_needed > free
    assert ways_out(probe, widths, run, 0.5 * need)[0].what == "without shards"
    both = ways_out(Probe(shards=256, swap=True), {"a": 1600}, run, 2e8)
    assert both
    assert all(way.what.startswith("without shards, swap: ") for way in both)
    assert ways_out(probe, widths, run, 1000) == []


def test_the_command_plans_and_says_what_is_wrong(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--layers", "0", "-1", "--bins", "5", "--hooks", "resid_post", "--shards", "16"]
    cli.app(["plan", "course_histogram", "--model", str(tiny_folder), *options], result_action="return_value")
    printed = capsys.readouterr().out
    assert "resid_post.0, 2" in printed
    assert "shards" in printed
    assert "It fits." in printed
    options = ["--model", str(tiny_folder), "--furthest", "7", "--layers", "0"]
    cli.app(["plan", "tokens_by_distance", *options], result_action="return_value")
    printed = capsys.readouterr().out
    assert "with tokens up to 7 before it" in printed
    assert "measured here just now" in printed
    for name, message in (("no-such-model", "mi-probe plan --model path/to/folder"), (str(tmp_path), "no config.json")):
        with pytest.raises(ModelError, match=message):
            mi_probe.plan(name)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(ModelError, match="cannot be used"):
        mi_probe.plan(tmp_path)


# -- free memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "folder", "names", "expected"),
    [
        ("0::/a/b", "a", ("memory.max", "memory.current", "inactive_file"), 700),
        ("0::/elsewhere", ".", ("memory.max", "memory.current", "inactive_file"), 700),  # inside a container
        ("4:cpu,memory:/a/b", "memory/a/b", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), 700),
        ("4:cpu:/a", "memory/a", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), None),
        ("0::/a", "a", ("memory.none", "memory.current", "inactive_file"), None),
    ],
)
def test_the_limit_of_a_container_counts_and_cached_files_do_not(
    line: str, folder: str, names: tuple[str, str, str], expected: int | None, tmp_path: Path
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"9:pids:/x\n{line}\n")
    where = tmp_path / "mounts" / folder
    where.mkdir(parents=True)
    for name, text in zip((*names[:2], "memory.stat"), ("1000\n", "400\n", f"anon 1\n{names[2]} 100\n"), strict=True):
        (where / name).write_text(text)
    free = memory.free_memory(proc=tmp_path, mounts=tmp_path / "mounts")
    assert free == expected if expected else free > 10**6
    (where / names[0]).write_text("max\n")
    assert memory.free_memory(proc=tmp_path, mounts=tmp_path / "mounts") > 10**6
    assert memory.free_memory(proc=tmp_path / "none") > 10**6


# -- refusals -------------------------------------------------------------------------------------------------------------


def test_attach_refuses_what_does_not_fit_and_leaves_nothing_behind(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "free_memory", lambda: 4_000_000)
    with pytest.raises(MemoryRefusedError) as refused:
        mi_probe.attach(tiny, Probe(bins=8))
    said = str(refused.value)
    for part in ("4 hook points", "4.00 MB are free", "alone, with 120 pairs", "memory=", "  - 2 of the 4 hook points"):
        assert part in said
    assert isinstance(refused.value, MemoryError)
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())
    for free in (10**9, float("inf")):
        with mi_probe.attach(tiny, Probe(bins=8), memory=free) as probe:
            tiny("a text")
        assert probe.tokens_seen == 6
    with pytest.raises(MemoryRefusedError, match=r"may be taken \(memory=\)"):
        mi_probe.attach(tiny, Probe(bins=8), memory=1)


def test_a_hook_point_of_unknown_size_is_refused_in_the_first_pass(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "free_memory", lambda: 10_000_000)
    with mi_probe.attach(tiny, Probe(hooks="blocks.*.mlp.hook_post")) as probe, mi_probe.attach(tiny, memory=10**9) as other:
        for k in (1, 2):
            with pytest.raises(MemoryRefusedError, match="of the 64 dimensions"):
                tiny("a text")
            assert (probe.tokens_seen, other.tokens_seen) == (0, 6 * k)  # the other probe counts
        monkeypatch.setattr(footprint, "free_memory", lambda: 10**9)
        tiny("a text")
        monkeypatch.setattr(footprint, "free_memory", lambda: 0)  # asked no more, until tables are made
        tiny("a text")
    assert probe.tokens_seen == 12
    assert probe.ledger.passes == {NO_MEMORY: 2, "counted": 2}
    assert probe.ledger.tokens.total() == 4 * 7


def test_a_refusal_when_tables_are_made_loses_nothing(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the first text", "another one", "the last text"]
    what = Probe(calibration_tokens=20, bins=4, layers=[1, 2])
    with mi_probe.attach(tiny, what) as whole:
        for text in texts:
            tiny(text)
    with mi_probe.attach(tiny, what) as probe:
        tiny(texts[0])
        monkeypatch.setattr(footprint, "free_memory", lambda: 1000)
        with pytest.raises(MemoryRefusedError, match="kB are free"):
            tiny(texts[1])
        monkeypatch.undo()
        for text in texts[1:]:
            tiny(text)
    assert probe.counts == whole.counts
    state = ProbeState(Probe(calibration_tokens=20, bins=4), memory=1000)
    x = np.random.default_rng(0).standard_normal((30, 5))
    state.update("a", x[:15])
    with pytest.raises(MemoryRefusedError, match="may be taken"):
        state.update("a", x[15:])
    assert state.tokens_seen == 15
    state.memory = None
    state.update("a", x[15:])
    one = ProbeState(state.probe)
    one.update("a", x[:15])
    one.update("a", x[15:])
    assert state.counts == one.counts


def test_a_short_text_is_never_refused_by_accumulate(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "free_memory", lambda: 0)
    (tmp_path / "short.txt").write_text("from a file")
    files = mi_probe.documents(text_file=tmp_path / "short.txt")
    assert mi_probe.accumulate(tiny, [*files, "a text"]).tokens_seen == 17
    assert mi_probe.sample_activations(tiny, "a text", "hidden_states.1").shape == (6, 16)
    for texts in (["a text " * 1000], iter(["a text"])):
        with pytest.raises(MemoryRefusedError):
            mi_probe.accumulate(tiny, texts)
    assert mi_probe.accumulate(tiny, ["a text " * 1000], replace(Probe(), bins=4), memory=10**9).tokens_seen == 7000


def test_planning_imports_transformer_lens_only_when_it_must() -> None:
    code = "import sys, mi_probe; mi_probe.plan; print([name for name in ('torch', 'transformer_lens') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "choice", [{"dimensions": 500}, {"pairs": 1_000_000}, {"pairs": [[3, 300]]}, {"dimensions": 4, "pairs": 10}], ids=str
)
def test_more_than_a_hook_point_has_is_refused_by_a_plan_and_by_attach(coffee: Any, choice: dict[str, Any]) -> None:
    for ask in (lambda probe: mi_probe.plan("coffee-gpt2", probe, measure=False), lambda probe: mi_probe.attach(coffee, probe)):
        with pytest.raises(HookPointError, match=r"at hook point 'hidden_states.0', the probe asks for"):
            ask(Probe(**choice))


def test_a_way_out_is_one_when_it_is_taken(coffee: Any) -> None:
    for allowed in (30e6, 60e6):
        with pytest.raises(MemoryRefusedError) as refused:
            mi_probe.attach(coffee, Probe(), memory=allowed)
        ways = re.findall(r"- (\d+) of the 128 dimensions", str(refused.value))
        for dimensions in map(int, ways):
            mi_probe.attach(coffee, Probe(dimensions=dimensions), memory=allowed).detach()
        pairs = re.findall(r"- ([\d,]+) of the 8,128 pairs", str(refused.value))
        for number in (int(one.replace(",", "")) for one in pairs):
            mi_probe.attach(coffee, Probe(pairs=number), memory=allowed).detach()
        assert ways or pairs or allowed == 30e6


def test_one_token_in_k_costs_a_kth(coffee: Any) -> None:
    every, some = (mi_probe.plan("coffee-gpt2", Probe(sample_every=k), measure=False) for k in (1, 8))
    assert some.steps == pytest.approx(every.steps / 8, rel=1e-3)
    assert "one in 8 is counted" in str(some)


@pytest.mark.parametrize("memory", ["8GB", -1, 0, float("nan")])
def test_memory_that_is_no_number_of_bytes_is_refused(coffee: Any, memory: Any) -> None:
    with pytest.raises(InputError, match="memory must be a number of bytes above 0"):
        mi_probe.attach(coffee, memory=memory)
