"""Edges from a random sample of a corpus; drift; the command."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_probe
from mi_probe import Edges, Probe, ProbeState, calibration, cli
from mi_probe.calibration import Segment, stretches_of
from mi_probe.drift import drift, warn_of_drift
from mi_probe.errors import InputError, MemoryRefusedError, MIProbeWarning, RoomError
from mi_probe.stream import PointStream, fit_edges

EMBEDDING = Probe(hooks="embed", calibration_tokens=120, bins=4)


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """The rows, by hook point, on which each calibration of a test fitted its edges."""
    found: list[dict[str, np.ndarray]] = []
    fitted = calibration._Sample.fitted

    def noted(self: Any, probe: Probe) -> Any:
        found.append({key: rows[np.argsort(self._keys)] for key, rows in self._rows.items()})
        return fitted(self, probe)

    monkeypatch.setattr(calibration._Sample, "fitted", noted)
    return found


def letters(model: Any, rows: np.ndarray) -> str:
    """The text that embeddings are of."""
    table = model.W_E.detach().numpy()
    nearest = ((rows[:, None] - table[None]) ** 2).sum(axis=-1).argmin(axis=1)
    return "".join(model.tokenizer.decode([token]) for token in nearest)


def test_each_token_is_about_equally_likely_wherever_it_stands(tiny: Any, samples: list[dict[str, np.ndarray]]) -> None:
    long = "".join(letter * 400 for letter in "abcdefgh")  # some fill windows and stretches, others are a few tokens
    random = np.random.default_rng(0)
    texts = [long, *("s" * int(random.integers(1, 20)) for _ in range(150)), "m" * 50, "m" * 70, "m" * 200, "z" * 400]
    everything = "".join(texts)
    for seed in range(40):
        mi_probe.calibrate(tiny, texts, EMBEDDING, seed=seed, stretches=3)
    for letter in sorted(set(everything)):
        shares = np.array([letters(tiny, next(iter(rows.values()))).count(letter) / 120 for rows in samples])
        expected = everything.count(letter) / len(everything)
        assert abs(shares.mean() - expected) < 3.5 * shares.std(ddof=1) / np.sqrt(len(shares)) + 1e-9, letter


def test_the_same_seed_gives_the_same_edges_and_another_one_others(tiny: Any) -> None:
    texts = [f"document {number} speaks of this and that, and {number**3} things more" for number in range(300)]
    probe = Probe(calibration_tokens=200)
    one, two, other = (mi_probe.calibrate(tiny, iter(texts), probe, seed=seed, stretches=30) for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert one.about["documents"] > 20
    assert {b.bins for b in one.values()} == {8}
    assert (one.about["tokens"], one.about["documents_read"], one.about["kind"]) == (200, 300, "sample")
    assert "whole" not in one.about


def test_the_sample_is_of_the_same_tokens_at_all_hook_points_however_they_are_packed(
    tiny: Any, samples: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["some text of one length", "and another one, longer than it, and longer"] * 40
    for rows in (8, 1):
        monkeypatch.setattr(calibration, "_PASS_ROWS", rows)
        mi_probe.calibrate(tiny, texts, Probe(hooks=("embed", "resid_pre"), calibration_tokens=90), stretches=2)
    packed, alone = samples
    for key, values in packed.items():
        np.testing.assert_allclose(values, alone[key], atol=1e-5)
    embedded = next(values for key, values in packed.items() if "embed" in key)
    first = next(values for key, values in packed.items() if key.endswith("resid_pre.0"))
    added = first - embedded  # positions: far fewer than tokens
    assert len(np.unique(added.round(4), axis=0)) <= int(tiny.cfg.n_ctx)


def test_a_corpus_smaller_than_the_sample_is_taken_whole(tiny: Any) -> None:
    texts = ["a first text", "a second one", "a third"]
    probe = Probe(bins="auto")
    edges = mi_probe.calibrate(tiny, texts, probe)
    counted = mi_probe.accumulate(tiny, texts, probe)
    assert edges.about["whole"] is True
    assert edges.about["tokens"] == counted.tokens_seen == len("".join(texts))
    for key, binning in counted.binnings.items():
        assert binning.bins == edges[key].bins
        np.testing.assert_allclose(binning.edges, edges[key].edges, atol=1e-5)


def test_edges_are_fitted_as_a_stream_fits_them(tiny: Any, samples: list[dict[str, np.ndarray]]) -> None:
    texts = ["the quick brown fox jumps over the lazy dog"] * 20
    for probe in (
        Probe(calibration_tokens=100, dimensions=5, trim_z=2.0),
        Probe(calibration_tokens=100, dimensions=5, chosen_by="random", method="equal_width"),
        Probe(calibration_tokens=100, dimensions=(1, 4, 9), sample_every=3, skip_first=4),
    ):
        edges = mi_probe.calibrate(tiny, texts, probe)
        for key, rows in samples[-1].items():
            expected = fit_edges(probe, rows, 16)
            np.testing.assert_array_equal(edges[key].edges, expected.edges)
            assert edges[key].names == expected.names
        assert mi_probe.accumulate(tiny, texts, probe, edges=edges).tokens_seen


def test_no_more_rows_are_held_than_the_sample_and_one_pass(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held, passes = [], []
    withdraw, take = PointStream.withdraw, calibration._Sample.take

    def noted(self: PointStream) -> Any:
        passes.append(self.n)
        return withdraw(self)

    def counted(self: Any, *arguments: Any) -> None:
        take(self, *arguments)
        held.append(max(len(rows) for rows in self._rows.values()))

    monkeypatch.setattr(PointStream, "withdraw", noted)
    monkeypatch.setattr(calibration._Sample, "take", counted)
    mi_probe.calibrate(tiny, ("word " * 500 for _ in range(50)), Probe(calibration_tokens=64), stretches=30)
    assert set(held) == {64}
    assert max(passes) <= calibration._PASS_ROWS * int(tiny.cfg.n_ctx)
    assert sum(passes) > 10 * 64


def test_only_the_stretches_that_are_kept_are_tokenised(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{number:06d} " * 100 for number in range(300)]
    seen: list[int] = []
    windows_of = calibration._windows_of

    def counted(stretches: list[calibration.Stretch], model: Any) -> Any:
        seen.extend(len(segment.text) for stretch in stretches for segment in stretch.segments)
        return windows_of(stretches, model)

    monkeypatch.setattr(calibration, "_windows_of", counted)
    mi_probe.calibrate(tiny, texts, Probe(calibration_tokens=50), stretches=2)
    assert 0 < sum(seen) < sum(map(len, texts)) / 20


def test_what_cannot_be_calibrated_on_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in ([], "", ["", ""]):
        with pytest.raises(InputError, match="no token to calibrate on: no text"):
            mi_probe.calibrate(tiny, nothing)
    with pytest.raises(InputError, match="2 documents have none that the probe counts"):
        mi_probe.calibrate(tiny, ["ab", "cd"], Probe(skip_first=20))
    with pytest.raises(InputError, match="is a path"):
        mi_probe.calibrate(tiny, Path("texts"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed must be a whole number from 0; got -1"):
        mi_probe.calibrate(tiny, "text", seed=-1)
    with pytest.raises(InputError, match="stretches must be a whole number from 1; got 0"):
        mi_probe.calibrate(tiny, "text", stretches=0)
    monkeypatch.setattr(calibration, "free_memory", lambda: 1000)
    with pytest.raises(MemoryRefusedError, match=r"calibrating on 5 tokens at 4 hook points takes .* and 1\.00 kB are free"):
        mi_probe.calibrate(tiny, "text")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with mi_probe.attach(tiny) as probe:  # nothing was left on the model
            tiny("text")
    assert probe.tokens_seen == 4


def test_a_sample_that_falls_short_says_so(tiny: Any) -> None:
    texts = ["y" * 9 if number % 50 == 0 else "x" * 4 for number in range(6000)]  # few have a token behind the fifth
    with pytest.warns(MIProbeWarning, match=r"not on the 300 that the probe asks for: 13 stretches .* such as 52"):
        edges = mi_probe.calibrate(tiny, texts, Probe(calibration_tokens=300, skip_first=5), stretches=1)
    assert 100 < edges.about["tokens"] < 300
    assert "whole" not in edges.about


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab \n", min_size=1, max_size=120), max_size=12), st.integers(1, 40))
def test_stretches_hold_all_text_in_order_and_none_is_too_long(texts: list[str], length: int) -> None:
    stretches = list(stretches_of((Segment(k, text) for k, text in enumerate(texts)), length))
    back = [""] * len(texts)
    for stretch in stretches:
        assert 0 < sum(len(segment.text) for segment in stretch) <= length
        for segment in stretch:
            back[segment.document] += segment.text
    assert back == texts


# -- drift ---------------------------------------------------------------------------------------------------------------


def drifted(shift: float, **choices: Any) -> ProbeState:
    x = np.random.default_rng(0).standard_normal((20_000, 3))
    state = ProbeState(Probe(calibration_tokens=2000, **choices))
    state.update("a", x[:2000])
    state.update("a", x[2000:] + np.array([0, shift, 0]))
    return state


def test_drift_is_the_total_variation_between_realised_and_intended_shares() -> None:
    state = drifted(1.0)
    found = drift(state)["a"]
    counts = state.streams["a"].read()
    assert counts.binning.sample is not None
    for v in range(3):
        intended, realised = counts.binning.sample[v] / 2000, counts.joint.margins[v] / 20_000
        np.testing.assert_allclose(found.distances[v], np.abs(intended - realised).sum() / 2)
    assert found.worst == 1
    assert found.drifted
    assert "most in 1" in str(found)


def test_drift_is_warned_of_and_sampling_noise_is_not() -> None:
    with pytest.warns(
        MIProbeWarning, match=r"at the hook point: a: .* where bin 7 holds .* % and not 12\.5 %.*mi-probe calibrate"
    ):
        warn_of_drift(drifted(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for state in (drifted(0), drifted(0, trim_z=2.0), drifted(0, bins=2), ProbeState(Probe())):
            warn_of_drift(state)


def test_the_noise_of_a_sample_is_about_what_chance_gives() -> None:
    found = []
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal((30_000, 4))
        state = ProbeState(Probe(calibration_tokens=500))
        state.update("a", x)
        state.streams["a"] = PointStream.frozen(state.probe, state.streams["a"].read())
        one = drift(state)["a"]
        found.append((one.mean, one.noise))
    mean, noise = np.mean(found, axis=0)
    assert abs(mean / noise - 1) < 0.1


def test_edges_without_a_sample_or_not_fixed_yet_have_no_drift() -> None:
    state = ProbeState(Probe(calibration_tokens=100))
    state.update("a", np.random.default_rng(0).standard_normal((50, 2)))
    assert drift(state) == {}
    empty = np.random.default_rng(0).standard_normal((200, 2))
    empty[:, 1] = np.nan
    state = ProbeState(Probe(calibration_tokens=100))
    state.update("a", empty)
    assert drift(state)["a"].distances[1] == 0


def test_sampled_edges_fit_a_corpus_that_its_first_tokens_do_not(coffee: Any) -> None:
    passage = mi_probe.sample_text()
    texts = [passage, *(" ".join(sorted(passage.split(), key=lambda word: hash_of(word, k))) for k in range(60))]
    texts = ["1234567890 " * 200, *texts]
    probe = Probe(layers=[6], calibration_tokens=1000, lags=0)
    with pytest.warns(MIProbeWarning, match="do not represent what was counted"):
        head = mi_probe.accumulate(coffee, texts, probe)
    sampled = mi_probe.accumulate(coffee, texts, probe, edges=mi_probe.calibrate(coffee, texts, probe))
    assert drift(head)["hidden_states.6"].drifted
    assert not drift(sampled)["hidden_states.6"].drifted


def hash_of(word: str, k: int) -> int:
    return sum(ord(letter) * (k + 3) ** place for place, letter in enumerate(word)) % 997


# -- the command ---------------------------------------------------------------------------------------------------------


def call(*arguments: str) -> None:
    cli.app(["calibrate", *arguments], result_action="return_value", exit_on_error=False)


def test_the_command_saves_edges_and_names_the_next_command(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"the text of {name}, with some words\n" * 30)
    out = tmp_path / "e.safetensors"
    arguments = ["--model", str(tiny_folder), "--text-file", str(tmp_path), "--layers", "0", "2", "-o", str(out)]
    call(*arguments, "--calibration-tokens", "100", "--bins", "5", "--seed", "3")
    printed = capsys.readouterr().out
    assert "2 hook points, from a random sample of 100 tokens of 2 documents (a.txt, b.txt)" in printed
    assert f"--layers 0 2 --edges {out}" in printed
    edges = Edges.load(out)
    assert (list(edges), edges["hidden_states.0"].bins, edges.about["seed"]) == (["hidden_states.0", "hidden_states.2"], 5, 3)
    with pytest.raises(RoomError, match="say --force"):
        call(*arguments)
    call(*arguments, "--force")
    assert Edges.load(out)["hidden_states.0"].bins != 5
    with pytest.raises(InputError, match="name the texts: --text-file"):
        call("-o", str(tmp_path / "other"))
    with pytest.raises(RoomError, match="must name a file in a folder that is there"):
        call("-o", str(tmp_path / "no folder" / "e"))
