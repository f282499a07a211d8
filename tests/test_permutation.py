"""The permutation null that pairs share, against real permutations and more draws."""

from __future__ import annotations

import numpy as np
import pytest

from mi_probe import permutation
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError
from mi_probe.estimators import estimate
from mi_probe.permutation import permutation_p_values
from mi_probe.significance import (
    PairMargins,
)

from .test_significance import codes_of, two


def test_permutation_p_values_are_those_of_real_permutations_of_a_pair() -> None:
    codes = codes_of(7, 60, 8, 4)
    counts = JointCounts.from_codes(codes, 4)
    raw = estimate(counts, correction="none").raw
    p = permutation_p_values(raw, PairMargins.of(counts), draws=200_000)
    rng = np.random.default_rng(0)
    for pair in (5, 12, 20, 27):
        i, j = (int(side[pair]) for side in np.triu_indices(8, 1))
        tables = np.zeros((20_000, 4, 4), dtype=np.int64)
        shuffled = rng.permuted(np.tile(codes[:, j], (len(tables), 1)), axis=1)
        for t in range(60):
            tables[np.arange(len(tables)), codes[t, i], shuffled[:, t]] += 1
        share = tables / 60
        null = np.sum(share * np.log(np.maximum(share, 1e-9)), axis=(1, 2)) + 2 * np.log(4)  # 15 samples in each bin
        direct = (null >= raw[pair] - 1e-6).mean()
        assert p[pair] == pytest.approx(direct, abs=4 * np.sqrt(p[pair] * (1 - p[pair]) / len(tables)) + 1e-3)


def test_a_discrete_null_counts_ties_in_full() -> None:
    margins = two([3, 3], [3, 3])  # the diagonal holds 0 or 3 of 3, once in ten, or 1 or 2
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [1, 1]], dtype=np.uint8)
    smallest = estimate(JointCounts.from_codes(codes, 2)).raw[0]
    values = np.array([np.log(2), np.log(2) - 1e-14, np.log(2) + 1e-14, smallest])
    four = PairMargins(margins.pool, np.zeros(4, int), np.ones(4, int))
    p = permutation_p_values(values, four, draws=100_000)
    np.testing.assert_allclose(p, [0.1, 0.1, 0.1, 1.0], atol=0.004)
    assert p[3] == 1


def test_the_fitted_tail_joins_falls_and_is_near_what_more_draws_say() -> None:
    margins = two(*[np.bincount(np.arange(94) % 5).tolist()] * 2)
    mi = np.linspace(0, 1.6, 3001)
    every = PairMargins(margins.pool, np.zeros(3001, int), np.ones(3001, int))
    few, many = (permutation_p_values(mi, every, draws=draws, seed=draws) for draws in (100_000, 1_000_000))
    for p in (few, many):
        assert (np.diff(p) <= 0).all()
        assert p[0] == 1
        assert 0 < p[-1] < 1e-30
        assert (p[:-1] / p[1:])[p[1:] > 1e-12].max() < 1.5  # no step where the tail begins
    for level in (1e-3, 1e-4, 3e-5):
        at = np.searchsorted(-many, -level)
        assert few[at] == pytest.approx(level, rel=0.35)


def test_the_same_seed_gives_the_same_p_values_whatever_else_is_asked() -> None:
    counts = [JointCounts.from_codes(codes_of(s, 94, 4, b), 5) for s, b in ((8, 5), (9, 4))]
    raw = [estimate(c, correction="none").raw for c in counts]
    margins = [PairMargins.of(c) for c in counts]
    alone = permutation_p_values(raw[0], margins[0], draws=2000)
    np.testing.assert_array_equal(alone, permutation_p_values(raw[0], margins[0], draws=2000))
    assert (alone != permutation_p_values(raw[0], margins[0], draws=2000, seed=1)).any()
    both = PairMargins(
        np.concatenate([m.pool for m in margins[::-1]]),
        np.concatenate([margins[1].first, margins[0].first + 4]),
        np.concatenate([margins[1].second, margins[0].second + 4]),
    )
    np.testing.assert_array_equal(permutation_p_values(np.concatenate(raw[::-1]), both, draws=2000)[6:], alone)


def test_many_different_margins_are_refused_with_the_way_out() -> None:
    counts = JointCounts.from_codes(np.random.default_rng(0).integers(0, 6, (200, 6)).astype(np.uint8), 6)
    raw, margins = estimate(counts, correction="none").raw, PairMargins.of(counts)
    with pytest.raises(InputError, match=f"15 distinct pairs of margins.*at most {permutation.MOST_NULLS}; use the gamma test"):
        permutation_p_values(raw, margins)
    with pytest.raises(InputError, match="at least 1,000; got 999"):
        permutation_p_values(raw, margins, draws=999)
    with pytest.raises(InputError, match="each of 15 pairs; got shape"):
        permutation_p_values(raw[:3], margins)
