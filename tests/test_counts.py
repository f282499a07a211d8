"""The laws of the state: exact, mergeable, atomic."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_probe import JointCounts, kernels
from mi_probe.binning import MISSING
from mi_probe.errors import InputError, MergeError, MIProbeError
from mi_probe.kernels import cpu


def random_codes(seed: int, samples: int, variables: int, bins: int, missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, bins, size=(samples, variables), dtype=np.uint8)
    codes[rng.random(codes.shape) < missing] = MISSING
    return codes


def slow_tables(codes: np.ndarray, bins: int) -> np.ndarray:
    """np.histogram2d for every pair, the missing samples left out."""
    variables = codes.shape[1]
    edges = np.arange(bins + 1) - 0.5
    tables = []
    for i in range(variables):
        for j in range(i + 1, variables):
            there = (codes[:, i] != MISSING) & (codes[:, j] != MISSING)
            tables.append(np.histogram2d(codes[there, i], codes[there, j], bins=[edges, edges])[0])
    return np.array(tables).reshape(-1, bins, bins)


@pytest.mark.parametrize("way", ["scatter", "bit_sliced", "auto"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("bins", [2, 3, 8, 15, 32])
@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 300])
def test_tables_are_those_of_numpy_histogram2d(samples: int, bins: int, missing: float, way: str) -> None:
    codes = random_codes(samples + bins, samples, 7, bins, missing)
    for dtype in (np.int32, np.int64):
        tables = np.zeros((21, bins, bins), dtype=dtype)
        kernels.count_pairs(codes, tables, way=way)
        np.testing.assert_array_equal(tables, slow_tables(codes, bins))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_counts_do_not_depend_on_how_the_samples_are_cut_or_ordered(data: st.DataObject) -> None:
    samples, variables, bins = data.draw(st.integers(0, 200)), data.draw(st.integers(1, 6)), data.draw(st.integers(2, 9))
    codes = random_codes(data.draw(st.integers(0, 99)), samples, variables, bins, 0.1)
    whole = JointCounts.from_codes(codes, bins)
    cuts = sorted(data.draw(st.lists(st.integers(0, samples), max_size=6)))
    parts = [JointCounts.from_codes(part, bins) for part in np.split(codes[np.random.default_rng(0).permutation(samples)], cuts)]
    merged = JointCounts(variables, bins)
    for part in data.draw(st.permutations(parts)):
        merged += part
    assert merged == whole
    streamed = JointCounts(variables, bins)
    for part in np.split(codes, cuts):
        streamed.update(part)
    assert streamed == whole


def test_counts_are_the_same_with_one_thread_and_with_several(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = random_codes(0, 4500, 60, 8, 0.01)
    many = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(cpu, "threads_for", lambda _cost, threads=threads: threads)
        many.append(JointCounts.from_codes(codes, 8).tables)
    np.testing.assert_array_equal(many[0], many[1])
    np.testing.assert_array_equal(many[0], many[2])


def test_the_empty_counts_are_the_identity() -> None:
    counts = JointCounts.from_codes(random_codes(1, 50, 4, 3), 3)
    for left, right in ((counts, JointCounts(4, 3)), (JointCounts(4, 3), counts)):
        total = left.copy()
        total += right
        assert total == counts


def test_updating_and_merging_return_nothing_to_chain_on() -> None:
    assert JointCounts(2, 2).update(np.zeros((1, 2), np.uint8)) is None


def test_many_short_texts_give_the_buffered_counts_before_they_are_flushed() -> None:
    codes = random_codes(2, 10_000, 5, 4)
    counts = JointCounts(5, 4)
    for start in range(0, len(codes), 7):
        counts.update(codes[start : start + 7])
        assert counts.n == min(start + 7, len(codes))
    np.testing.assert_array_equal(counts.tables, slow_tables(codes, 4))


def test_a_missing_value_leaves_the_other_pairs_alone() -> None:
    codes = random_codes(3, 100, 4, 3)
    codes[:10, 2] = MISSING
    counts = JointCounts.from_codes(codes, 3)
    assert counts.missing.tolist() == [0, 0, 10, 0]
    n = counts.tables.sum(axis=(1, 2))
    assert [int(n[kernels.pair_index(i, j, 4)]) for i, j in ((0, 1), (0, 2), (2, 3), (0, 3))] == [100, 90, 90, 100]
    assert counts.margins.sum(axis=1).tolist() == [100, 100, 90, 100]


def test_cells_grow_to_64_bits_before_they_overflow() -> None:
    counts = JointCounts.from_codes(np.zeros((1, 2), np.uint8), 2)
    for _ in range(33):
        counts += counts.copy()
    assert counts.n == counts.tables[0, 0, 0] == 2**33
    assert counts.tables.dtype == np.int64
    counts.update(np.ones((3, 2), np.uint8))
    assert counts.tables[0].tolist() == [[2**33, 0], [0, 3]]


def test_cells_grow_while_samples_stream_in_too() -> None:
    most = 2**31 - 1
    missing, margins = np.zeros(2, np.int64), np.array([[most, 0], [most, 0]])
    counts = JointCounts.from_arrays(most, missing, margins, np.array([[[most, 0], [0, 0]]], dtype=np.int32))
    assert counts.tables.dtype == np.int32
    counts.update(np.zeros((2, 2), np.uint8))
    assert counts.tables[0, 0, 0] == 2**31 + 1


def test_counts_cannot_be_changed_from_outside_and_a_copy_stands_alone() -> None:
    counts = JointCounts.from_codes(random_codes(8, 20, 3, 3), 3)
    for array in (counts.tables, counts.margins, counts.missing):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    before = counts.copy()
    moment = counts.copy()
    counts.update(random_codes(9, 5, 3, 3))
    assert moment == before != counts


def test_an_interrupted_count_says_so_instead_of_passing_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = JointCounts.from_codes(random_codes(10, 20, 3, 3), 3)

    def stop(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "count_pairs", stop)
    with pytest.raises(KeyboardInterrupt):
        counts.flush()
    for read in (lambda: counts.tables, lambda: counts.margins, counts.copy):
        with pytest.raises(MIProbeError, match="interrupted"):
            read()


@pytest.mark.parametrize(("variables", "bins"), [(0, 4), (3, 0), (3, 65)])
def test_impossible_shapes_are_refused(variables: int, bins: int) -> None:
    with pytest.raises(InputError, match="at least 1 variable"):
        JointCounts(variables, bins)


@pytest.mark.parametrize(
    ("other", "message"), [(JointCounts(4, 3), "4 variables|5 variables"), (JointCounts(5, 4), "3 bins against 4")]
)
def test_a_refused_merge_changes_nothing(other: JointCounts, message: str) -> None:
    counts = JointCounts.from_codes(random_codes(4, 20, 5, 3), 3)
    before = counts.copy()
    with pytest.raises(MergeError, match=message):
        counts += other
    assert counts == before


@pytest.mark.parametrize(
    "codes",
    [np.zeros((3, 4), np.uint8), np.zeros((3, 5), np.int64), np.zeros(5, np.uint8), np.full((3, 5), 3, np.uint8)],
)
def test_a_refused_update_changes_nothing(codes: np.ndarray) -> None:
    counts = JointCounts.from_codes(random_codes(5, 20, 5, 3), 3)
    before = counts.copy()
    with pytest.raises(InputError, match="codes must be"):
        counts.update(codes)
    assert counts == before


def test_counts_of_one_variable_have_no_pairs() -> None:
    counts = JointCounts.from_codes(random_codes(6, 20, 1, 3), 3)
    assert counts.pairs == 0
    assert counts.margins.sum() == 20


def test_stored_arrays_that_contradict_each_other_are_refused() -> None:
    counts = JointCounts.from_codes(random_codes(7, 30, 3, 4), 4)
    parts = {"n": counts.n, "missing": counts.missing, "margins": counts.margins, "tables": counts.tables}
    assert JointCounts.from_arrays(**parts) == counts
    for change in (
        {"n": 31},
        {"tables": counts.tables + 1},
        {"missing": counts.missing - 1},
        {"tables": counts.tables[:2]},
        {"tables": counts.tables * 0},
        {"tables": counts.tables * 1.0},
    ):
        with pytest.raises(InputError):
            JointCounts.from_arrays(**(parts | change))


@pytest.mark.parametrize("wrong", ["width", "rows", "codes", "type"])
def test_crossed_codes_that_do_not_fit_are_refused_and_nothing_is_counted(wrong: str) -> None:
    counts = JointCounts(3, 4)
    first, second = random_codes(0, 6, 3, 4), random_codes(1, 6, 3, 4)
    second = {"width": second[:, :2], "rows": second[:5], "codes": second + 9, "type": second.astype(np.int64)}[wrong]
    with pytest.raises(InputError, match=r"codes must be|each row goes with one row"):
        counts.update_crossed(first, second)
    assert counts == JointCounts(3, 4)


def test_tables_that_came_in_another_order_of_memory_go_on() -> None:
    codes = random_codes(0, 50, 4, 3)
    one = JointCounts.from_codes(codes, 3)
    two = JointCounts.from_arrays(one.n, one.missing, one.margins, np.asfortranarray(one.tables))
    two.update(codes)
    one.update(codes)
    assert one == two


def test_a_pickle_holds_what_is_buffered_and_no_more() -> None:
    counts = JointCounts.from_codes(random_codes(0, 10, 50, 4), 4)
    stored = pickle.dumps(counts)
    assert len(stored) < 10_000
    again = pickle.loads(stored)
    again.update(random_codes(1, 20, 50, 4))
    counts.update(random_codes(1, 20, 50, 4))
    assert again == counts
