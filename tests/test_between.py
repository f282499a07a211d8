"""Every dimension of one place with every one of another: the same laws as for the pairs of one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_probe import JointCounts, kernels
from mi_probe.counts import pairs_between
from mi_probe.kernels import planes
from mi_probe.shares import Share

from .test_kernels import random_codes, slow_tables

# -- the kernels ------------------------------------------------------------------------------------------------------


def rectangle_of(tables: np.ndarray, first: int, variables: int) -> np.ndarray:
    """The tables of each of the first variables with each of the others, picked out of those of all pairs."""
    i, j = np.triu_indices(variables, 1)
    return tables[(i < first) & (j >= first)]


@pytest.mark.parametrize("way", ["scatter", "bit_sliced", "auto"])
@pytest.mark.parametrize(("first", "others"), [(1, 1), (1, 40), (40, 1), (3, 5), (32, 32), (31, 34), (4, 70), (66, 7)])
def test_a_rectangle_of_pairs_has_the_tables_that_they_have_among_all(first: int, others: int, way: str) -> None:
    rng = np.random.default_rng(first * 100 + others)
    for samples, missing in ((0, 0.0), (65, 0.1), (300, 0.0)):
        codes = random_codes(rng, samples, first + others, 5, missing)
        for partners in (None, random_codes(rng, samples, first + others, 5, missing)):
            expected = rectangle_of(slow_tables(codes, codes if partners is None else partners, 5), first, first + others)
            tables = np.full(expected.shape, 7, dtype=np.int32)
            kernels.count_pairs(codes, tables, partners=partners, way=way, apart=first)
            np.testing.assert_array_equal(tables, expected + 7)
            low, high = first // 3, max(first // 3 + 1, first - 1)
            part = np.zeros_like(expected[low * others : high * others])
            kernels.count_pairs(codes, part, partners=partners, way=way, rows=(low, high), apart=first)
            np.testing.assert_array_equal(part, expected[low * others : high * others])


def test_tiles_chunks_and_threads_of_a_rectangle_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "_CHUNK", 128)
    rng = np.random.default_rng(5)
    for first, others in ((33, 40), (70, 2), (5, 67)):
        codes = random_codes(rng, 300, first + others, 5, 0.05)
        expected = rectangle_of(slow_tables(codes, codes, 5), first, first + others)
        for threads in (1, 2, 5):
            tables = np.zeros(expected.shape, dtype=np.int32)
            planes.count_by_planes(codes, None, tables, threads, (0, first), first)
            np.testing.assert_array_equal(tables, expected)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_counts_of_a_rectangle_and_its_shares_are_rows_of_all_pairs(first: int, others: int, of: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, 200, first + others, 4, 0.05)
    expected = rectangle_of(JointCounts.from_codes(codes, 4).tables, first, first + others)
    pairs = pairs_between(first, first + others)
    whole = JointCounts(first + others, 4, pairs)
    whole.update(codes)
    np.testing.assert_array_equal(whole.tables, expected)
    np.testing.assert_array_equal(np.stack(whole.pair_indices, axis=1), pairs)
    parts = []
    for number in range(of):
        part = JointCounts(first + others, 4, pairs.copy(), Share(number, of))
        part.update(codes)
        parts.append(part.tables)
    if first + others > 2:  # of two variables it is all pairs, which are shared out by rows
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_only_whole_rectangles_are_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("count_pairs", "count_listed"):
        slow: Any = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda codes, *a, _n=name, _s=slow, **k: (taken.append(_n), _s(codes, *a, **k)))
    codes = random_codes(np.random.default_rng(0), 50, 7, 3, 0.0)
    every = pairs_between(3, 7)
    swapped = np.array([[0, 3], [0, 4], [1, 2], [1, 3]])  # as many as a rectangle of 1 and 4 would have
    for pairs, fast in ((every, True), (every[:-1], False), (swapped, False), (np.array(every, dtype=np.int32), True)):
        taken.clear()
        counts = JointCounts(7 if len(pairs) > 4 else 5, 3, pairs)
        counts.update(np.ascontiguousarray(codes[:, : counts.variables]))
        i, j = counts.pair_indices
        np.testing.assert_array_equal(
            counts.tables, slow_tables(codes, codes, 3)[[kernels.pair_index(a, b, 7) for a, b in zip(i, j, strict=True)]]
        )
        assert ("count_pairs" in taken) == fast
