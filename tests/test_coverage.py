"""Which documents some counts hold, and that none is counted twice."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mi_probe
from mi_probe import Probe, ProbeState, store
from mi_probe.coverage import Part, described, parts_from, together
from mi_probe.errors import InputError, MergeError, OverlapError, StoreError

from .test_state import fed


def part(shard: int = 1, of: int = 1, source: str = "c0ffee", order: str = "as it comes", complete: bool = True) -> Part:
    return Part(source, "books", order, shard, of, complete)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_shards_overlap_exactly_if_they_share_a_block(of: int, others: int, data: st.DataObject) -> None:
    one, two = part(data.draw(st.integers(1, of)), of), part(data.draw(st.integers(1, others)), others)
    blocks = np.arange(12 * of * others)
    shared = (blocks % of == one.shard - 1) & (blocks % others == two.shard - 1)
    assert one.overlaps(two) == two.overlaps(one) == bool(shared.any())


def test_another_order_overlaps_and_another_corpus_does_not() -> None:
    assert part(1, 4).overlaps(part(2, 4, order="shuffled, seed 3"))
    assert not part(1, 4).overlaps(part(1, 4, source="beef"))
    assert part(1, 4).overlaps(Part("c0ffee", "another name", "as it comes", 1, 4, False))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "a part is a table of source"),
        ({"source": "c0"}, "a part is a table of source"),
        ({**part().to_dict(), "more": 1}, "a part is a table of source"),
        ({**part().to_dict(), "source": "café"}, "fingerprint"),
        ({**part().to_dict(), "source": 7}, "source must be text"),
        ({**part().to_dict(), "order": ""}, "order must say"),
        ({**part().to_dict(), "shard": 0}, "1 to the number of shards; got 0 of 1"),
        ({**part().to_dict(), "shard": 2}, "got 2 of 1"),
        ({**part().to_dict(), "of": 1.0}, "of must be a whole number"),
        ({**part().to_dict(), "of": True}, "of must be a whole number"),
        ({**part().to_dict(), "complete": 1}, "complete must be true or false"),
    ],
)
def test_a_part_that_means_nothing_is_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Part.from_dict(values)


def test_a_part_comes_back_as_it_was() -> None:
    assert Part.from_dict(part(2, 3).to_dict()) == part(2, 3)
    assert parts_from([part(k, 3).to_dict() for k in (1, 2, 3)]) == [part(k, 3) for k in (1, 2, 3)]
    for wrong, message in ((5, "must be a list"), ([part(1, 2).to_dict(), part(3, 4).to_dict()], "which overlap")):
        with pytest.raises(InputError, match=message):
            parts_from(wrong)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], []),
        ([part()], ["books, as it comes: the whole"]),
        ([part(complete=False)], ["books, as it comes: not finished"]),
        ([part(2, 4)], ["books, as it comes: shard 2 of 4"]),
        ([part(k, 3) for k in (3, 1, 2)], ["books, as it comes: shards 1, 2, 3 of 3, the whole"]),
        ([part(k, 9, complete=k != 3) for k in range(2, 8)], ["books, as it comes: shards 2 to 7 of 9; not finished: 3 of 9"]),
        ([part(1, 2), part(2, 4), part(4, 4)], ["books, as it comes: shard 1 of 2 and shards 2, 4 of 4, the whole"]),
        ([part(), part(source="beef")], ["books, as it comes: the whole"] * 2),
    ],
)
def test_parts_are_said_in_words(parts: list[Part], words: list[str]) -> None:
    assert described(parts) == words


# -- in states --------------------------------------------------------------------------------------------------------


def holding(seed: int, *parts: Part, **facts: Any) -> ProbeState:
    state = fed(seed)
    state.parts = list(parts)
    for name, value in facts.items():
        setattr(state, name, value)
    return state


def test_no_document_is_counted_twice() -> None:
    for mine, theirs in ((part(), part()), (part(1, 2), part(3, 4)), (part(2, 3), part(1, 3, order="shuffled, seed 1"))):
        one, two = holding(1, mine), holding(2, theirs)
        before = one.counts["p"].copy()
        with pytest.raises(OverlapError, match="same documents") as raised:
            one += two
        assert str(mine) in str(raised.value)
        assert str(theirs) in str(raised.value)
        assert one.counts["p"] == before
        assert one.parts == [mine]
    one = holding(1, part())
    with pytest.raises(OverlapError):
        one += one
    with pytest.raises(MergeError, match="of two files of one run the later"):
        together([part(2, 3, complete=False)], [part(2, 3)])


def test_parts_of_a_sum_are_those_of_both_in_any_order() -> None:
    shards = [holding(k, part(k, 3), convergence=[{"tokens": 5}]) for k in (1, 2, 3)]
    sums = []
    for order in ((0, 1, 2), (2, 0, 1)):
        total = ProbeState(shards[0].probe)
        for k in order:
            total += shards[k]
        sums.append(total)
    assert sums[0].parts == sums[1].parts == [part(k, 3) for k in (1, 2, 3)]
    assert sums[0].counts["p"] == sums[1].counts["p"]
    assert sums[0].convergence == []


def test_a_shard_without_a_document_is_a_part_all_the_same() -> None:
    one, empty = holding(1, part(1, 2)), ProbeState(fed(1).probe, parts=[part(2, 2)])
    one += empty
    assert one.parts == [part(1, 2), part(2, 2)]
    empty += holding(2, part(1, 2))
    assert empty.parts == one.parts


def test_a_sum_says_of_its_run_what_is_true_of_both() -> None:
    mine = {"weights": "a1", "position": 7, "tokenizer": "x", "window": 64, "totals": {"documents": 3, "seconds": 0.5}}
    theirs = {"weights": "a1", "position": 7, "tokenizer": "y", "window": 64, "totals": {"documents": 4}}
    one = holding(1, run=mine, calibration={"tokens": 9})
    one += holding(2, run=theirs, calibration={"tokens": 9})
    assert one.run == {"weights": "a1", "window": 64, "totals": {"documents": 7, "seconds": 0.5}}
    assert one.calibration == {"tokens": 9}


def test_nothing_added_to_something_leaves_all_it_says() -> None:
    facts: dict[str, Any] = {"run": {"position": 3}, "calibration": {"from": "x"}, "convergence": [{"tokens": 1}]}
    for one, two in ((fed(1), ProbeState(fed(1).probe)), (ProbeState(fed(1).probe), fed(1))):
        full = one if one.streams else two
        full.parts = [part()]
        for name, value in facts.items():
            setattr(full, name, value)
        one += two
        assert one.parts == [part()]
        assert {name: getattr(one, name) for name in facts} == facts


def test_counts_of_other_weights_do_not_add_up_and_unknown_ones_stay_apart_from_none() -> None:
    one, two, unknown = holding(1, run={"weights": "a1"}), holding(2, run={"weights": "b2"}), holding(3)
    with pytest.raises(MergeError, match="fingerprints a1 and b2"):
        one += two
    unknown += one
    with pytest.raises(MergeError, match="fingerprints a1 and b2"):
        unknown += two


def test_equal_edges_that_are_said_to_be_from_elsewhere_keep_all_that_is_said() -> None:
    sums = []
    for order in ((1, 2, 3), (3, 2, 1)):
        total = holding(order[0], calibration={"seed": order[0] % 3})
        for k in order[1:]:
            total += holding(k, calibration={"seed": k % 3})
        sums.append(total.calibration)
    assert sums[0] == sums[1] == {"equal edges, made in several ways": [{"seed": 0}, {"seed": 1}, {"seed": 2}]}
    one = holding(1)
    one += holding(2, calibration={"seed": 5})
    assert one.calibration == {"seed": 5}


def test_what_is_known_of_a_state_comes_back_from_a_file_and_a_copy(tmp_path: Path) -> None:
    state = holding(1, part(2, 4), run={"position": [1, 2]}, calibration={"a": None}, convergence=[{"tokens": 5, "mi": 0.25}])
    state.save(tmp_path / "s.safetensors")
    for twin in (ProbeState.load(tmp_path / "s.safetensors"), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert twin.parts == [part(2, 4)]
        assert (twin.run, twin.calibration, twin.convergence) == (state.run, state.calibration, state.convergence)


def test_a_copy_of_an_attached_probe_says_what_the_probe_says(tiny: Any) -> None:
    with mi_probe.attach(tiny, Probe(calibration_tokens=4, bins=2)) as probe:
        tiny("a cup of tea")
        probe.run, probe.parts = {"position": 3}, [part()]
        probe.calibration, probe.convergence = {"a": 1}, [{"tokens": 2}]
        twin = copy.deepcopy(probe)
    assert (twin.run, twin.parts) == (probe.run, probe.parts)
    assert (twin.calibration, twin.convergence) == (probe.calibration, probe.convergence)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": []}, "run must be a dict"),
        ({"run": {"totals": {"documents": "many"}}}, "totals of a run"),
        ({"parts": {}}, "parts must be a list"),
        ({"parts": [{}]}, "a part is a table"),
        ({"calibration": 3}, "calibration must be a dict"),
        ({"convergence": {}}, "convergence must be a list"),
        ({"convergence": [3]}, "list of tables"),
    ],
)
def test_a_file_that_says_something_else_of_its_run_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "s.safetensors"
    fed(1).save(path)
    header, arrays = store.read(path, "state", 4)
    rest = {key: value for key, value in header.items() if key not in ("schema", "writer")}
    store.write(path, "state/4", rest | change, arrays)
    with pytest.raises(StoreError, match=message):
        ProbeState.load(path)
