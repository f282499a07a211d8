"""Pairs of tokens of one text: matrices equal numpy.histogram2d over dimensions; tokens are found by what one says of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mi_probe
from mi_probe import Binning, Probe, token_pairs
from mi_probe.binning import mean_and_sd
from mi_probe.errors import HookPointError, InputError
from mi_probe.estimators import estimate_tables
from mi_probe.tokenpairs import standardised

TEXT = "A cup of coffee, and another Cup of strong coffee. Coffee-houses sell coffee by the cup; no tea."


@pytest.fixture(scope="module")
def reading(coffee: Any) -> mi_probe.Reading:
    return mi_probe.read_text(coffee, TEXT, layers=[0, 6, 12])


def slow(z: np.ndarray, bins: int, method: str) -> np.ndarray:
    """Plug-in MI of every two rows, a numpy.histogram2d for each pair."""
    found = []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            if method == "equal_width":
                table = np.histogram2d(z[i], z[j], bins=bins)[0]
            else:
                edges = [
                    np.concatenate([[-np.inf], Binning.fit(row[:, None], bins=bins).edges[0], [np.inf]]) for row in (z[i], z[j])
                ]
                table = np.histogram2d(z[i], z[j], bins=edges)[0]
            p = table / table.sum()
            outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
            found.append((p[p > 0] * np.log(p[p > 0] / outer[p > 0])).sum())
    return np.array(found)


@pytest.mark.parametrize("method", ["equal_count", "equal_width"])
def test_a_matrix_equals_histogram2d_of_standardised_activations(coffee: Any, reading: mi_probe.Reading, method: Any) -> None:
    _, cache = coffee.run_with_cache(TEXT)
    result = reading.token_pairs(method=method, bins=6)
    for name, hook in (("hidden_states.0", "blocks.0.hook_resid_pre"), ("hidden_states.6", "blocks.6.hook_resid_pre")):
        x = cache[hook][0, 1:].detach().numpy().astype(np.float64)  # without BOS
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        np.testing.assert_allclose(result[name].pairs("raw"), slow(z, 6, method), atol=1e-12)
    point = result["hidden_states.6"]
    assert point.mi.shape == (len(reading.tokens), len(reading.tokens))
    assert point.samples == 128
    assert "p" not in point.columns


def test_counts_of_a_pair_are_the_tables_that_the_estimate_is_of(reading: mi_probe.Reading) -> None:
    z = mi_probe.tokenpairs.standardised(reading.values["hidden_states.12"])
    binning = Binning.fit(z.T, bins=5)
    codes = binning.encode(z.T)
    tables = np.stack([np.histogram2d(codes[:, 0], codes[:, j], bins=[np.arange(6) - 0.5] * 2)[0] for j in range(1, 5)])
    mi, _, raw, _ = estimate_tables(tables.astype(np.int64))
    point = reading.token_pairs(bins=5)["hidden_states.12"]
    np.testing.assert_allclose(point.mi[0, 1:5], mi, atol=1e-12)
    np.testing.assert_allclose(point.raw[0, 1:5], raw, atol=1e-12)


def test_two_identical_tokens_share_all_they_have_and_unrelated_ones_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((40, 768))
    x[7] = x[3]
    shared = mi_probe.token_pairs(x)
    assert shared.bins == 14
    assert shared.top_pairs(1)[["i", "j"]].values.tolist() == [["3", "7"]]
    np.testing.assert_allclose(shared.mi[3, 7], shared.entropy[3], rtol=1e-9)
    rest = np.delete(shared.pairs(), shared.pairs().argmax())
    assert abs(rest.mean()) < 0.003


@pytest.mark.parametrize("tokens", [2, 3, 8, 19, 20])
def test_a_note_says_what_a_few_tokens_share_for_being_standardised_by_themselves(coffee: Any, tokens: int) -> None:
    rng = np.random.default_rng(5)
    draws = [token_pairs(rng.standard_normal((tokens, 768))) for _ in range(max(2, 60 // tokens))]
    alone = min(1 / (tokens - 1) ** 2, np.log(2))
    mean = np.mean([point.pairs().mean() for point in draws])
    assert (mean > alone) if tokens < 8 else (0.7 * alone < mean < 1.4 * alone)
    text = " coffee" * tokens
    read = mi_probe.read_text(coffee, text, layers=[0, 3]).token_pairs([0, 1])
    said = [[note for note in point.notes if "by themselves" in note] for point in (draws[0], *read.values())]
    assert said[1:] == said[:1] * 2
    assert len(said[0]) == (tokens < 20)
    assert all(note.startswith(f"{tokens} tokens") and f"share {alone:.2g} nats or more" in note for note in said[0])
    given = mi_probe.read_text(coffee, text, layers=[3])
    for point in (
        token_pairs(rng.standard_normal((2, 768)), standard="none"),
        given.token_pairs(standard=mi_probe.Reading.standard_of([given]))["hidden_states.3"],
    ):
        assert not any("by themselves" in note for note in point.notes)


def test_outliers_of_a_token_are_left_out_for_it_alone() -> None:
    x = np.random.default_rng(1).standard_normal((5, 300))
    x[2, 17] = 40.0
    shared = mi_probe.token_pairs(x, standard="none", trim_z=4)
    assert shared.n[0, 1] == 300
    assert shared.n[0, 2] == 299
    assert shared.trimmed is not None
    assert shared.trimmed.tolist() == [0, 0, 1, 0, 0]


def test_dimensions_are_standardised_by_the_text_by_a_corpus_or_by_given_numbers() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((30, 50)) * rng.uniform(0.1, 9, 50) + 5 * rng.standard_normal(50)
    corpus = rng.standard_normal((500, 50)) * 3 + 1
    standardised = mi_probe.tokenpairs.standardised
    np.testing.assert_allclose(standardised(x), (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-12)
    by_corpus = (x - corpus.mean(axis=0)) / corpus.std(axis=0)
    np.testing.assert_allclose(standardised(x, Binning.fit(corpus)), by_corpus, rtol=1e-9)
    np.testing.assert_allclose(standardised(x, (corpus.mean(axis=0), corpus.std(axis=0))), by_corpus, rtol=1e-9)
    np.testing.assert_array_equal(standardised(x, "none"), x)
    # Left as they are, all tokens share the profile of the dimensions.
    assert mi_probe.token_pairs(x, standard="none").pairs().mean() > 0.15 > 10 * abs(mi_probe.token_pairs(x).pairs().mean())
    x[:, 4] = 7.0
    assert np.isnan(standardised(x)[:, 4]).all()
    assert (mi_probe.token_pairs(x).missing == 1).all()
    with pytest.raises(InputError, match=r"must be of 50 dimensions; got shapes \(49,\) and \(50,\)"):
        standardised(x, (np.zeros(49), np.ones(50)))
    with pytest.raises(InputError, match="came without means"):
        standardised(x, Binning(np.zeros((50, 1)), "equal_count"))
    with pytest.raises(InputError, match="standard must be 'text'"):
        standardised(x, "corpus")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["equal_count", "equal_width"])
@pytest.mark.parametrize("constant", [0.0, -3.0, 1e6])
def test_dimensions_that_do_not_vary_in_a_corpus_tell_nothing(method: Any, constant: float) -> None:
    rng = np.random.default_rng(3)
    corpus = rng.standard_normal((300, 90)).astype(np.float32)
    corpus[:, ::3] = constant
    alive = np.arange(90) % 3 > 0
    two = np.arange(90) == 1
    corpus[:, two] = np.where(rng.random((300, 1)) < 0.3, 2.0, 0.0)  # of two values, and varies all the same
    fitted = Binning.fit(corpus, method=method, bins=6)
    for edges in (fitted, replace(fitted, sample=fitted.counted(fitted.encode(corpus)))):
        np.testing.assert_array_equal(edges.varies, alive)
        z = standardised(corpus[:5], edges)
        np.testing.assert_array_equal(np.isnan(z).all(axis=0), ~alive)
        with_dead = token_pairs(corpus[:5], standard=edges, bins=4)
        without = token_pairs(corpus[:5, alive], standard=mean_and_sd(corpus[:, alive]), bins=4)
        np.testing.assert_allclose(with_dead.pairs(), without.pairs(), atol=1e-12)


@pytest.mark.parametrize("standard", [None, 3.0, (1, 2, 3), ("a", "b")])
def test_a_standard_that_is_none_is_refused(standard: Any) -> None:
    with pytest.raises(InputError, match="standard must be 'text', 'none', a Binning, or means and standard deviations; got"):
        token_pairs(np.eye(4), standard=standard)


def test_edges_of_a_corpus_standardise_a_text(coffee: Any, reading: mi_probe.Reading) -> None:
    texts = [TEXT, mi_probe.sample_text()]
    edges = mi_probe.calibrate(coffee, texts, Probe(layers=[0, 6, 12]))
    point = reading.token_pairs(standard=edges)["hidden_states.6"]
    frame = edges["hidden_states.6"].frame
    assert frame is not None
    own = mi_probe.token_pairs(reading.values["hidden_states.6"], standard=(frame[:, 0], frame[:, 1]))
    np.testing.assert_array_equal(point.pairs(), own.pairs())
    assert not np.array_equal(point.pairs(), reading.token_pairs()["hidden_states.6"].pairs())


def test_tokens_are_found_by_word_id_pattern_part_and_mask(reading: mi_probe.Reading) -> None:
    def found(**how: Any) -> list[str]:
        return [reading.names[k] for k in reading.select(**how)]

    assert [name.partition(" ")[2].lower() for name in found(word="coffee")] == ["coffee"] * 4
    assert [name.partition(" ")[2] for name in found(word="cup")] == ["cup", "up", "cup"]  # "Cup" is two tokens: where it ends
    words = found(word="strong coffee")
    assert words == found(pattern="strong coffee")
    assert len(words) == 1
    assert words[0] in found(word="coffee")
    coffee = found(word="coffee")[0]
    number = int(reading.ids[reading.names.index(coffee)])
    assert found(ids=number) == [name for name, k in zip(reading.names, reading.ids, strict=True) if k == number]
    assert found(ids=[number, 10**6]) == found(ids=number)
    assert found(pattern="[Cc]up") == found(word="CUP")
    part = found(part="another Cup of")
    assert [name.partition(" ")[2] for name in part][-4:] == ["another", "C", "up", "of"]
    assert found(part=slice(2, 5)) == list(reading.names[2:5])
    assert found(part=slice(-2, None)) == list(reading.names[-2:])
    mask = np.arange(len(reading.tokens)) % 5 == 1
    assert found(mask=mask) == list(reading.names[1::5])


def test_what_begins_or_ends_with_no_letter_is_found_right_beside_letters(tiny: Any) -> None:
    reading = mi_probe.read_text(tiny, "It's 5% of tea, ite\u0301 ite\u0301s", layers=[1])  # a token is a byte
    for word, ends in (("'S", ["It's"]), ("%", ["It's 5%"]), (",", ["It's 5% of tea,"]), ("it", ["It"])):
        found = [reading.text[: reading.spans[k, 1]] for k in reading.select(word)]
        assert found[:1] == ends
    assert len(reading.select("ite\u0301")) == 1  # a mark on a letter is of the word
    for word in ("ea", "o", "tea, it"):
        with pytest.raises(InputError, match=f"the word '{word}' does not occur"):
            reading.select(word)


def test_a_word_of_several_tokens_is_where_it_ends(tiny: Any) -> None:
    reading = mi_probe.read_text(tiny, "one two, twofold, two", layers=[1])  # a token is a byte
    assert reading.positions[reading.select("two")].tolist() == [6, 20]
    assert reading.text[: reading.spans[reading.select("two")[1], 1]].endswith(" two")
    umlaut = mi_probe.read_text(tiny, "süß und süß", layers=[1])  # of two bytes each, which have one place in the text
    ends = umlaut.select("süß")
    assert [umlaut.text[: umlaut.spans[k, 1]] for k in ends] == ["süß", "süß und süß"]
    assert umlaut.positions[ends].tolist() == [4, 14]  # the second byte: the first has not seen the letter


def test_a_tokenizer_that_does_not_tell_places_finds_the_same(tiny: Any) -> None:
    from mi_probe.reading import _tokenised

    class Slow:  # what a tokenizer without offsets has of the fast one
        is_fast = False
        bos_token_id = 0

        def __call__(self, words: str, **how: Any) -> Any:
            return tiny.tokenizer(words, add_special_tokens=False)

        def decode(self, ids: list[int], **how: Any) -> str:
            return str(tiny.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    for text in (
        "tea and  tea",
        "süß\r\n\tund süß",
        "\N{WOMAN} \N{HOT BEVERAGE}\N{VARIATION SELECTOR-16} $5",
        "\u05e9\u05dc\u05d5\u05dd",
        "",
    ):
        found, expected = _tokenised(text, SimpleNamespace(tokenizer=Slow())), _tokenised(text, tiny)
        assert found[:2] == expected[:2]
        np.testing.assert_array_equal(found[2], expected[2])


def test_what_is_not_there_is_named(coffee: Any, reading: mi_probe.Reading) -> None:
    for how, message in (
        ({"word": "cofee"}, "the word 'cofee' does not occur in 'text' .did you mean 'coffee'"),
        ({"pattern": "x+y"}, "no token of 'text' fits pattern = 'x[+]y'"),
        ({"pattern": "("}, "is no regular expression"),
        ({"ids": 10**6}, "no token of 'text' fits ids = 1000000"),
        ({"part": "no coffee"}, "the passage 'no coffee' does not occur in 'text'"),
        ({"mask": [True, False]}, r"for each of the \d+ tokens; got bool of shape \(2,\)"),
        ({"mask": np.zeros(len(reading.tokens))}, r"True or False for each of the \d+ tokens; got float64"),
        ({"word": 5}, "a word is text; got 5"),
        ({"pattern": 5}, "the pattern 5 is no regular expression"),
        ({}, "say which tokens by one of word, ids, pattern, part, mask; got none"),
        ({"word": "a", "part": "b"}, "got word and part"),
    ):
        with pytest.raises(InputError, match=message):
            reading.select(**how)
    once = reading.select("tea")
    with pytest.raises(InputError, match=r"takes two tokens, and 'text' has 1 of those asked for: \d+ tea"):
        reading.token_pairs(once)
    with pytest.raises(InputError, match="takes two tokens, and 'text' has 1 of those asked for: 0 coffee"):
        mi_probe.read_text(coffee, "coffee").token_pairs()
    with pytest.raises(InputError, match="a pair takes two tokens; got 1"):
        mi_probe.token_pairs(np.zeros((1, 40)))
    with pytest.raises(InputError, match="has no token: it is empty"):
        mi_probe.read_text(coffee, "")
    with pytest.raises(InputError, match=r"has 300 tokens.*room for 255.*max_tokens=255 \(--max-tokens 255\)"):
        mi_probe.read_text(coffee, " coffee" * 300)
    with pytest.raises(InputError, match="max_tokens must be at least 1"):
        mi_probe.read_text(coffee, "coffee", max_tokens=0)
    with pytest.raises(InputError, match="no token of 'text' counts: it has 1"):
        mi_probe.read_text(coffee, "coffee", Probe(skip_first=5))
    with pytest.raises(HookPointError):
        mi_probe.read_text(coffee, "coffee", hooks="blocks.99.hook_resid_pre")


def test_tokens_that_are_no_indices_of_the_text_are_refused(coffee: Any, reading: mi_probe.Reading) -> None:
    n = len(reading.tokens)
    other = mi_probe.read_text(coffee, "The glacier moves.", layers=[0, 6, 12])
    wrong = (np.arange(n) < 3, [True] * n, [0, n], [-1, 3], [3, 3], [0.5, 2.0], [[0, 1]], 3, "coffee")
    for which in wrong:
        for measure in (reading.token_pairs, reading.neighbour_pairs, lambda of: reading.unrelated([other], of)):
            with pytest.raises(InputError, match=rf"different indices of tokens, whole numbers from 0 to {n - 1}; got"):
                measure(which)
    one, same = reading.token_pairs(np.array([5, 2, 9], dtype=np.uint8)), reading.token_pairs([5, 2, 9])
    assert one["hidden_states.6"].names == tuple(reading.names[k] for k in (5, 2, 9)) == same["hidden_states.6"].names
    np.testing.assert_array_equal(one["hidden_states.6"].pairs(), same["hidden_states.6"].pairs())
    assert reading.select(ids={int(reading.ids[3])}).tolist() == reading.select(ids=int(reading.ids[3])).tolist()
    with pytest.raises(InputError, match="most must be a whole number of tokens, at least 1; got -2"):
        reading.unrelated([other], most=-2)


def test_texts_and_standards_that_do_not_fit_are_named(coffee: Any, reading: mi_probe.Reading, tiny: Any) -> None:
    for text in (None, ["a", "b"], b"tea"):
        with pytest.raises(InputError, match=f"a string or a Document; got {type(text).__name__}"):
            mi_probe.read_text(coffee, text)  # type: ignore[arg-type]
    assert list(mi_probe.read_text(coffee, "tea", layers=3).values) == ["hidden_states.3"]  # type: ignore[arg-type]
    for standard in ({}, {"hidden_states.0": "text"}, "text"):
        with pytest.raises(InputError, match=r"standard must say .* lacks 'hidden_states"):
            reading.token_pairs(standard=standard)  # type: ignore[arg-type]
    fewer, narrower = mi_probe.read_text(coffee, "tea", layers=[0]), mi_probe.read_text(tiny, "tea", layers=[0])
    for texts in ([reading, fewer], [fewer, narrower]):
        with pytest.raises(InputError, match="was read at other hook points than"):
            mi_probe.Reading.standard_of(texts)
    with pytest.raises(InputError, match=r"other hook points than 'text': hidden_states.0 \(16 dimensions\)"):
        fewer.unrelated([narrower])


def test_reading_leaves_nothing_on_the_model_and_reads_no_more_than_asked(coffee: Any) -> None:
    from .versions.kits import everything_on

    before = everything_on(coffee)
    some = mi_probe.read_text(coffee, " coffee" * 300, layers=[3], max_tokens=7)
    assert everything_on(coffee) == before
    assert some.positions.tolist() == list(range(7))
    assert some.values["hidden_states.3"].shape == (7, 128)


def test_a_table_has_the_distance_of_each_pair(reading: mi_probe.Reading) -> None:
    chosen = reading.select("coffee")
    table = reading.table(reading.token_pairs(chosen))
    assert len(table) == 3 * 6
    where = reading.positions[chosen]
    first = table[table.point == "hidden_states.0"]
    assert first.distance.tolist() == [int(where[j] - where[i]) for i in range(4) for j in range(i + 1, 4)]
    assert first.i.iloc[0] == f"{where[0]} coffee"


def test_unrelated_pairs_are_of_one_token_here_and_one_elsewhere(coffee: Any, reading: mi_probe.Reading) -> None:
    others = [mi_probe.read_text(coffee, text, layers=[0, 6, 12]) for text in ("The glacier moves.", "A tax form is due in May.")]
    result = reading.unrelated(others, most=9)
    point = result["hidden_states.6"]
    assert len(point.pairs()) == 9 * len(reading.tokens)
    i, j = point.pair_indices
    assert (i < len(reading.tokens)).all()
    assert (j >= len(reading.tokens)).all()
    assert all(name.startswith("text: ") for name in point.names[len(reading.tokens) :])
    z = mi_probe.tokenpairs.standardised
    both = np.stack([z(reading.values["hidden_states.6"])[3], z(others[1].values["hidden_states.6"])[-1]])
    expected = mi_probe.token_pairs(both, standard="none").mi[0, 1]
    assert point.names[-1].endswith(f"{others[1].names[-1]}")
    np.testing.assert_allclose(point.pairs()[(i == 3) & (j == j.max())], [expected], atol=1e-12)
    with pytest.raises(InputError, match="takes some"):
        reading.unrelated([])
    with pytest.raises(InputError, match="other hook points"):
        reading.unrelated([mi_probe.read_text(coffee, "tea", layers=[1])])
