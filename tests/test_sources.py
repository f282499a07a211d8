"""Where texts come from: every source gives the same documents in the same order, from anywhere on, or says why not."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

import mi_probe
from mi_probe import Corpus, Probe, corpus, open_corpus
from mi_probe.errors import CheckpointError, InputError, MIProbeWarning, Stopped
from mi_probe.sources import as_corpus

from .test_runs import StopAfter

TEXTS = [f"text {k}, with ümlauts and\na second line" * (1 + k % 3) for k in range(600)]  # more than are read together


@pytest.fixture(autouse=True)
def the_library_alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # of the library, after each file of Parquet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same texts as text files, JSON lines, JSON and Parquet."""
    found = tmp_path_factory.mktemp("sources")
    (found / "texts").mkdir()
    for k, text in enumerate(TEXTS):
        (found / "texts" / f"{k:04}.txt").write_text(text, encoding="utf-8")
    rows = [{"id": k, "text": text, "title": f"title {k}"} for k, text in enumerate(TEXTS)]
    (found / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (found / "t.json").write_text(json.dumps(rows))
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(found / "t.parquet")
    for name in ("many", "mixed"):
        (found / name).mkdir()
        table.select(range(200)).to_parquet(found / name / "a.parquet")
        table.select(range(200, 600)).to_parquet(found / name / "b.parquet")
    (found / "mixed" / "c.txt").write_text("a text")
    return found


def opened(source: str, folder: Path) -> Corpus:
    table = datasets.Dataset.from_list([{"id": k, "text": text} for k, text in enumerate(TEXTS)])
    if source in ("texts", "many") or "." in source:
        name, _, streaming = source.partition(" ")
        return open_corpus(text_file=folder / name, streaming=bool(streaming))
    return as_corpus(
        {
            "list": TEXTS,
            "tuple of documents": tuple(corpus.Document("d", text) for text in TEXTS),
            "dataset": table,
            "dataset of torch": table.with_format("torch"),
            "dataset chosen": datasets.Dataset.from_list([{"text": text} for text in [*TEXTS, "more"]]).select(range(600)),
            "stream": table.to_iterable_dataset(num_shards=4),
            "iterable": dict.fromkeys(TEXTS).keys(),
        }[source]
    )


REREADABLE = [
    *("list", "tuple of documents", "dataset", "dataset of torch", "dataset chosen", "texts", "many"),
    *("t.jsonl", "t.json", "t.parquet"),
]
STREAMS = ["stream", "t.jsonl streaming", "t.parquet streaming"]


def texts_of(found: Corpus, first: int = 0) -> list[str]:
    return ["".join(document.pieces()) for document in found.documents(first)]


@pytest.mark.parametrize("source", [*REREADABLE, *STREAMS, "iterable"])
def test_every_source_gives_the_same_documents_from_anywhere_on(source: str, folder: Path) -> None:
    found = opened(source, folder)
    assert found.rereadable == (source in REREADABLE)
    assert found.order == "as it comes"
    assert texts_of(found) == TEXTS
    for first in (0, 1, 255, 256, 257, 599, 600):
        assert texts_of(found, first) == TEXTS[first:], first


@pytest.mark.parametrize("source", [*REREADABLE, *STREAMS])
def test_shuffled_by_a_seed_it_is_the_same_order_each_time_from_anywhere_on(source: str, folder: Path) -> None:
    mixed = [opened(source, folder).shuffled(seed) for seed in (3, 3, 4)]
    one, again, other = (texts_of(each) for each in mixed)
    assert one == again == texts_of(mixed[0])
    assert one != TEXTS
    assert one != other
    assert sorted(one) == sorted(TEXTS)
    for first in (1, 256, 599):
        assert texts_of(mixed[0], first) == one[first:]
    assert "seed 3" in mixed[0].order
    assert mixed[0].source == mixed[2].source == opened(source, folder).source
    assert mixed[0].name == opened(source, folder).name


def test_texts_that_come_one_by_one_are_not_shuffled() -> None:
    with pytest.raises(InputError, match="come one by one"):
        as_corpus(iter(TEXTS)).shuffled(0)


def test_an_iterator_is_read_once() -> None:
    found = as_corpus(iter(["a", "b"]))
    assert texts_of(found) == ["a", "b"]
    with pytest.raises(InputError, match="was read already"):
        list(found.documents())


# -- what a corpus is recognised by -----------------------------------------------------------------------------------


def test_the_same_texts_are_the_same_corpus_as_strings_or_files(folder: Path) -> None:
    assert opened("list", folder).source == opened("texts", folder).source == opened("tuple of documents", folder).source
    assert (
        opened("dataset", folder).source == opened("dataset of torch", folder).source == opened("dataset chosen", folder).source
    )
    assert opened("t.jsonl", folder).source == opened("t.jsonl streaming", folder).source
    assert opened("stream", folder).source == opened("iterable", folder).source == ""
    assert as_corpus(["ab", "c"]).source != as_corpus(["a", "bc"]).source != as_corpus(["abc"]).source


@pytest.mark.parametrize(("name", "streaming"), [("t.txt", False), ("t.jsonl", False), ("t.jsonl", True)])
def test_one_byte_of_a_file_makes_it_another_corpus(name: str, streaming: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text('{"text": "a cup of coffee"}\n' * 3000)
    before = open_corpus(text_file=path, streaming=streaming)
    assert before.source == open_corpus(text_file=[path], streaming=streaming).source
    source, whole = before.source, path.read_bytes()
    path.write_bytes(whole[:50_000] + whole[50_000:].replace(b"cup", b"mug", 1))
    after = open_corpus(text_file=path, streaming=streaming)
    assert after.source != source
    assert "mug" in "".join(texts_of(after))


def test_the_order_is_a_fact_of_a_run(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", 300)
    path = tmp_path / "state.safetensors"
    table = datasets.Dataset.from_dict({"text": TEXTS[:30]})
    what = Probe(hooks="resid_post", calibration_tokens=200, lags=2)

    def run(texts: Any, **options: Any) -> Any:
        return mi_probe.accumulate(tiny, texts, what, calibration="head", **options)

    whole = run(as_corpus(table).shuffled(3))
    with StopAfter(monkeypatch, tiny, 10), pytest.raises(Stopped):
        run(as_corpus(table).shuffled(3), checkpoint=path)
    for other in (as_corpus(table), as_corpus(table).shuffled(4)):
        with pytest.raises(CheckpointError, match="another order"):
            run(other, checkpoint=path, resume=True)
    again = run(as_corpus(table).shuffled(3), checkpoint=path, resume=True)
    assert again.counts == whole.counts
    assert [str(part) for part in again.parts] == ["all of dataset (shuffled, seed 3)"]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_is_not_there_or_holds_no_texts_is_named_with_the_others(streaming: bool, folder: Path) -> None:
    for name in ("t.jsonl", "t.parquet"):
        with pytest.raises(InputError, match=r"has no column 'txt' \(did you mean 'text'\?\); it has id, text, title: say which"):
            list(open_corpus(text_file=folder / name, text_column="txt", streaming=streaming).documents())
        found = open_corpus(text_file=folder / name, text_column="title", streaming=streaming)
        assert texts_of(found)[599] == "title 599"
    with pytest.raises(InputError, match=r"'id' of t.parquet holds int64, not texts; its columns of texts are text, title"):
        open_corpus(text_file=folder / "t.parquet", text_column="id", streaming=streaming)


def test_a_row_without_a_text_is_an_empty_document_and_one_of_another_type_an_error(tiny: Any) -> None:
    table = datasets.Dataset.from_dict({"text": ["ab", None, "cde"]})
    for texts in (table, table.to_iterable_dataset()):
        assert texts_of(as_corpus(texts)) == ["ab", "", "cde"]
        with pytest.warns(MIProbeWarning, match="'dataset, row 1' is empty: left out"):
            assert mi_probe.accumulate(tiny, texts).tokens_seen == 5
    stream = datasets.IterableDataset.from_generator(lambda: iter([{"text": "ab"}, {"text": 3}]))
    with pytest.raises(InputError, match="row 1 of dataset has int in column 'text', not a text"):
        list(as_corpus(stream).documents())


def test_a_stream_that_breaks_says_where() -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "ab"}
        raise ConnectionError("the hub is gone")

    with pytest.raises(InputError, match="dataset could not be read further than row 1: ConnectionError: the hub is gone"):
        list(as_corpus(datasets.IterableDataset.from_generator(rows)).documents())


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (3, "got int"),
        (b"bytes", "got bytes"),
        ({"text": ["a"]}, "got dict"),
        ([1, 2], "strings or documents; got int"),
        (Path("a.txt"), "is a path"),
        (datasets.DatasetDict(test=datasets.Dataset.from_dict({"text": ["a"]})), r"choose one, such as dataset\['test'\]"),
    ],
)
def test_what_holds_no_texts_is_refused(texts: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        as_corpus(texts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "a/b", "text": "c"}, "one of them"),
        ({"dataset": "a/b", "text_file": "c.txt"}, "one of them"),
        ({"config": "en", "text": "c"}, "belongs to a dataset"),
        ({"text": "c", "streaming": True}, "always read as they come"),
        ({"text_file": "none.jsonl"}, r"no file or folder none\.jsonl"),
        ({"text_file": "none.txt"}, r"no file or folder none\.txt"),
        ({"dataset": "./none"}, r"no folder \./none; a file is named by text_file"),
        ({"text": "a", "text_file": "b.txt"}, "not both"),
    ],
)
def test_what_cannot_be_opened_is_said(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        open_corpus(**options)


def test_folders_hold_files_of_one_kind(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="files of one kind"):
        open_corpus(text_file=folder / "mixed")
    with pytest.raises(InputError, match="files of one kind"):
        open_corpus(text_file=[folder / "t.jsonl", folder / "t.parquet"])
    with pytest.raises(InputError, match=r"no \.txt"):
        open_corpus(text_file=tmp_path)
    assert open_corpus(text_file=[folder / "many"]).name == "a.parquet, b.parquet"
    assert open_corpus(text_file=folder / "texts").name == "0000.txt, 0001.txt, 0002.txt and 597 more"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_that_is_none_is_refused(streaming: bool, tmp_path: Path) -> None:
    for name, content in (("a.jsonl", b'{"text": "a"}\nno json\n'), ("b.parquet", b"no parquet"), ("c.jsonl", b"caf\xe9")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            list(open_corpus(text_file=tmp_path / name, streaming=streaming).documents())


def test_a_file_without_a_text_has_no_token(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.warns(MIProbeWarning, match=r"'a\.txt' is empty"), pytest.raises(InputError, match="no token to measure"):
        mi_probe.accumulate(tiny, open_corpus(text_file=tmp_path / "a.txt"))
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(InputError, match=r"b\.jsonl could not be loaded|no token to measure"):
        mi_probe.accumulate(tiny, open_corpus(text_file=tmp_path / "b.jsonl"))
    with pytest.raises(InputError, match="no token to measure"):
        mi_probe.accumulate(tiny, datasets.Dataset.from_dict({"text": []}, datasets.Features(text=datasets.Value("string"))))


def test_a_name_of_the_hub_without_a_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*where: Any, **how: Any) -> Any:
        asked.append((where, how["split"], how["streaming"]))
        raise ConnectionError("cannot reach the hub\nand much more")

    asked: list[Any] = []
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        InputError, match=r"^the dataset a/b en test could not be loaded: ConnectionError: cannot reach the hub\nW"
    ):
        open_corpus(dataset="a/b", config="en", split="test", streaming=True)
    assert asked == [(("a/b", "en"), "test", True)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_named_dataset_is_asked_for_as_it_was_named(monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    table = datasets.Dataset.from_dict({"story": TEXTS})
    loaded = table.to_iterable_dataset() if streaming else table
    monkeypatch.setattr(datasets, "load_dataset", lambda *where, **how: loaded)
    found = open_corpus(dataset="a/b", config="en", split="test", text_column="story", streaming=streaming)
    assert texts_of(found) == TEXTS
    assert found.name == "a/b en test"
    assert found.source
    other = open_corpus(dataset="a/c", config="en", split="test", text_column="story", streaming=streaming)
    assert (other.source != found.source) == streaming  # a table is recognised by its rows, a stream by its name


def test_a_folder_that_datasets_reads_is_a_dataset(folder: Path, tmp_path: Path) -> None:
    found = open_corpus(dataset=str(folder / "many"))
    assert texts_of(found) == TEXTS
    with pytest.raises(InputError, match=r'Unknown split "test"'):
        open_corpus(dataset=str(folder / "many"), split="test")


def test_standard_input_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("piped"))
    assert texts_of(open_corpus(text_file=["-"])) == ["piped"]
    assert texts_of(open_corpus()) == [mi_probe.sample_text()]


# -- tokens and documents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["list", "dataset", "t.jsonl streaming"])
def test_each_window_comes_with_the_number_of_its_document(source: str, folder: Path, tiny: Any) -> None:
    seen = set()
    for batch, numbers in corpus.batches(opened(source, folder), tiny, batch_size=16):
        for row, number in zip(batch.tolist(), numbers, strict=True):
            assert tiny.tokenizer.decode(row[1:]) in TEXTS[number]
            seen.add(number)
    assert seen == set(range(600))


@pytest.mark.filterwarnings("ignore:the edges do not represent")
@pytest.mark.parametrize("source", ["texts", "dataset", "t.parquet streaming"])
def test_the_same_tokens_are_counted_whatever_the_texts_come_from(source: str, folder: Path, tiny: Any) -> None:
    what = Probe(hooks="resid_post", layers=[0], calibration_tokens=200, shards=16, swap=True)
    one, other = (
        mi_probe.accumulate(tiny, opened(each, folder), what, calibration="head", max_tokens=5000) for each in ("list", source)
    )
    assert one.streams["resid_post.0"].read() == other.streams["resid_post.0"].read()
    assert one.run["totals"] == other.run["totals"]
    assert one.ledger.tokens == other.ledger.tokens
    assert one.tokens_seen == 5000


@pytest.mark.filterwarnings("ignore:the edges do not represent")
def test_a_limit_is_of_each_shard_and_the_same_after_a_stop(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_PIECE", 100)
    monkeypatch.setattr(corpus, "_BLOCK", 300)
    what = Probe(hooks="resid_post", layers=[0], calibration_tokens=200, lags=2)
    edges = mi_probe.accumulate(tiny, TEXTS[:60], what, calibration="sample").binnings
    options: dict[str, Any] = {"edges": edges, "max_tokens": 500, "shard": (2, 3)}
    whole = mi_probe.accumulate(tiny, TEXTS[:60], what, **options)
    assert whole.tokens_seen == 500
    path = tmp_path / "state"
    with StopAfter(monkeypatch, tiny, 3), pytest.raises(Stopped):
        mi_probe.accumulate(tiny, TEXTS[:60], what, checkpoint=path, **options)
    again = mi_probe.accumulate(tiny, TEXTS[:60], what, checkpoint=path, resume=True, **options)
    assert again.streams["resid_post.0"].read() == whole.streams["resid_post.0"].read()
    assert [str(part) for part in again.parts] == ["shard 2 of 3 of 60 texts (as it comes, its first 500 tokens)"]
