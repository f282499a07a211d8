"""Texts to tokens, each exactly once; models by name and folder."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mi_probe
from mi_probe import corpus
from mi_probe.accumulation import sample_activations
from mi_probe.errors import InputError, MIProbeWarning, ModelError

from .conftest import make_tiny_gpt2


def test_every_token_of_a_long_text_stands_in_exactly_one_window(tiny: Any) -> None:
    text = "".join(chr(97 + k % 26) for k in range(1000))
    rows = [row for batch, _ in corpus.batches([text, "tail"], tiny, batch_size=4) for row in batch.tolist()]
    assert all(row[0] == tiny.tokenizer.bos_token_id for row in rows)
    assert max(map(len, rows)) == tiny.cfg.n_ctx
    assert tiny.tokenizer.decode([t for row in rows for t in row[1:]]) == text + "tail"


def test_a_file_read_in_pieces_gives_the_tokens_of_the_whole(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"line {k}, with some words\n" for k in range(300))
    path = tmp_path / "t.txt"
    path.write_text(text)
    (document,) = corpus.documents(text_file=[path])
    monkeypatch.setattr(corpus, "_PIECE", 50)
    monkeypatch.setattr(corpus, "_READ", 7)
    pieces = list(document.pieces())
    assert len(pieces) > 50
    assert pieces == list(corpus.Document("t", text).pieces())
    assert "".join(pieces) == text


def test_white_space_between_pieces_stays_whole(coffee: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"line {k}\n\n  indented, with a trailing blank \nnext\n\n\nand on\n" for k in range(200))
    path = tmp_path / "t.txt"
    path.write_text(text)
    (document,) = corpus.documents(text_file=path)
    monkeypatch.setattr(corpus, "_PIECE", 60)
    pieces = list(document.pieces())
    assert len(pieces) > 50
    found = [token for _, parts in corpus.windows_of(pieces, coffee) for part in parts for token in part]
    assert found == coffee.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def test_nothing_is_padded(tiny: Any) -> None:
    for batch, _ in corpus.batches(["ab", "cd", "xyz", "ef"], tiny):
        assert (batch[:, 1:] != tiny.tokenizer.pad_token_id).all()


def test_texts_come_from_strings_files_folders_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.txt").write_text("bee")
    (tmp_path / "a.txt").write_text("ay")
    (tmp_path / "notes.md").write_text("not a text")
    assert [d.name for d in corpus.documents(text_file=[tmp_path])] == ["a.txt", "b.txt"]
    assert ["".join(d.pieces()) for d in corpus.documents(text_file=[tmp_path / "b.txt", tmp_path])] == ["bee", "ay", "bee"]
    monkeypatch.setattr("sys.stdin", io.StringIO("piped"))
    assert "".join(corpus.documents(text_file=["-"])[0].pieces()) == "piped"
    assert corpus.documents(text="given")[0].source == "given"
    assert corpus.documents()[0].source == mi_probe.sample_text()


def test_texts_that_cannot_be_read_are_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        corpus.documents(text_file=[tmp_path / "none.txt"])
    with pytest.raises(InputError, match=r"no \.txt file"):
        corpus.documents(text_file=[tmp_path])
    with pytest.raises(InputError, match="not both"):
        corpus.documents(text="a", text_file=["b.txt"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="UTF-8"):
        mi_probe.accumulate(tiny, corpus.documents(text_file=[tmp_path]))
    (tmp_path / "empty.txt").write_text("")
    with pytest.warns(MIProbeWarning, match=r"'empty\.txt' is empty"), pytest.raises(InputError, match="no token to measure"):
        mi_probe.accumulate(tiny, corpus.documents(text_file=tmp_path / "empty.txt"))
    with pytest.raises(InputError, match="no token to measure"):
        mi_probe.accumulate(tiny, [])
    with pytest.raises(InputError, match="is a path"):
        mi_probe.accumulate(tiny, tmp_path)
    with pytest.raises(InputError, match="batch_size"):
        mi_probe.accumulate(tiny, ["text"], batch_size=0)


def test_an_empty_text_among_others_is_left_out_and_nothing_is_lost(tiny: Any) -> None:
    with pytest.warns(MIProbeWarning, match="is empty: left out"):
        probe = mi_probe.accumulate(tiny, ["ab", "", "cde"])
    assert probe.tokens_seen == 5


def test_a_bare_string_is_one_text(tiny: Any) -> None:
    one, many = mi_probe.accumulate(tiny, "a bare string"), mi_probe.accumulate(tiny, ["a bare string"])
    assert one.tokens_seen == 13
    assert one.counts["hidden_states.0"] == many.counts["hidden_states.0"]


def test_one_token_tells_nothing(tiny: Any) -> None:
    result = mi_probe.accumulate(tiny, ["a"]).estimate()
    assert result["hidden_states.0"].samples == 1
    assert (result["hidden_states.0"].pairs() == 0).all()


def test_the_sample_text_is_about_coffee() -> None:
    assert mi_probe.sample_text().count("coffee") >= 7


def test_the_sample_texts_are_unrelated_and_each_fits_the_bundled_model(coffee: Any) -> None:
    passages = mi_probe.sample_texts()
    assert len({document.name for document in passages}) == len({document.source for document in passages}) == 32
    for document in passages:
        text = str(document.source)
        assert document.name not in text
        assert "\n" not in text
        assert 90 <= len(text.split()) <= 130
        assert 60 <= len(coffee.tokenizer(text, add_special_tokens=False)["input_ids"]) <= 250 < coffee.cfg.n_ctx
        assert "coffee" not in text.lower()


def test_each_sample_text_repeats_the_word_it_is_about_and_no_other_has_that_word_as_often() -> None:
    counts = [Counter(re.findall("[a-z]{3,}", str(d.source).lower())) for d in mi_probe.sample_texts()]
    common = {word for word, texts in Counter(word for count in counts for word in count).items() if texts > len(counts) // 2}
    for count in counts:
        noun, times = max(((word, n) for word, n in count.items() if word not in common), key=lambda item: item[1])
        assert times >= 4, (noun, times)
        assert sum(other[noun] >= times for other in counts) == 1, noun


def test_sampled_activations_are_the_rows_that_are_counted(tiny: Any) -> None:
    text = "some text that is longer than one window of the tiny model"
    rows = sample_activations(tiny, [text], "hidden_states.2")
    probe = mi_probe.accumulate(tiny, [text], mi_probe.Probe(layers=[2]))
    binning = probe.binnings["hidden_states.2"]
    counts = mi_probe.JointCounts.from_codes(binning.encode(rows), binning.bins)
    assert counts == probe.counts["hidden_states.2"]
    with pytest.raises(InputError, match=r"did you mean 'hidden_states\.2'"):
        sample_activations(tiny, [text], "hidden_state.2")
    with pytest.raises(InputError, match="max_tokens"):
        sample_activations(tiny, [text], "hidden_states.2", max_tokens=0)


# -- models -----------------------------------------------------------------------------------------------------------


def test_the_bundled_model_has_gpt2s_depth_and_fits_the_wheel(coffee: Any) -> None:
    assert coffee.cfg.n_layers == 12
    assert coffee.cfg.model_name == "coffee-gpt2"
    assert not coffee.original_model.training
    folder = Path(mi_probe.__file__).parent / "data" / "coffee-gpt2"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 8_000_000


def test_the_bundled_model_beats_its_baselines_on_text_it_never_saw(coffee: Any) -> None:
    import json

    folder = Path(mi_probe.__file__).parent / "data" / "coffee-gpt2"
    facts = json.loads((folder / "training.json").read_text())
    assert facts["model_bits_per_byte"] < 0.92 * facts["bigram_bits_per_byte"] < facts["unigram_bits_per_byte"]
    import torch

    text = mi_probe.sample_text()
    tokens = coffee.to_tokens(text)
    with torch.no_grad():
        logits = coffee(tokens)[0, :-1]
    bits = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum").item() / 0.6931
    assert bits / len(text.encode()) < facts["bigram_bits_per_byte"]


def test_a_folder_is_loaded_as_it_is(tmp_path: Path) -> None:
    import torch

    make_tiny_gpt2(tmp_path, n_layer=2)
    model = mi_probe.load_model(tmp_path, dtype=torch.float64)
    assert model.cfg.n_layers == 2
    assert model.cfg.model_name == tmp_path.name
    assert model(torch.tensor([[1, 2]])).dtype == torch.float64


def test_a_model_that_cannot_be_loaded_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)gpt2.*hub.*coffee-gpt2.*path/to/folder"):
        mi_probe.load_model("gpt2")  # the tests run with the hub switched off
    with pytest.raises(ModelError, match=r"no config\.json"):
        mi_probe.load_model(tmp_path)
    with pytest.raises(ModelError, match="no folder"):
        mi_probe.load_model(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        mi_probe.load_model(tmp_path)
