"""Lagged counts and the serial test, against the obvious loop and the covariance written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mi_probe.binning import MISSING
from mi_probe.counts import JointCounts
from mi_probe.errors import InputError
from mi_probe.estimators import estimate
from mi_probe.extras import LAGS
from mi_probe.serial import autocovariances, count_lags, inflation, serial_p_values
from mi_probe.significance import (
    gamma_p_values,
)

from .test_significance import codes_of, lagged_of


def obvious_lags(codes: np.ndarray, lengths: list[int], bins: int, lags: int) -> np.ndarray:
    out = np.zeros((lags, codes.shape[1], bins, bins), dtype=np.int64)
    for text in np.split(codes, np.cumsum(lengths)[:-1]):
        for k in range(1, min(lags, len(text) - 1) + 1):
            for v in range(codes.shape[1]):
                a, b = text[:-k, v].astype(int), text[k:, v].astype(int)
                kept = (a < bins) & (b < bins)
                np.add.at(out[k - 1, v], (a[kept], b[kept]), 1)
    return out


@pytest.mark.parametrize("lengths", [[40], [1] * 40, [0, 3, 20, 1, 0, 16], [13, 27]])
def test_lagged_counts_are_those_of_the_obvious_loop(lengths: list[int]) -> None:
    codes = codes_of(10, 40, 5, 4, missing=0.15)
    codes[7, 2] = 254  # any code beyond the bins
    np.testing.assert_array_equal(lagged_of(codes, lengths, 4), obvious_lags(codes, lengths, 4, LAGS))


def test_lagged_counts_add_up_over_texts_and_threads() -> None:
    codes = codes_of(11, 4000, 60, 6, missing=0.05)
    lengths = [1000, 500, 2000, 500]
    together = lagged_of(codes, lengths, 6)
    np.testing.assert_array_equal(together, obvious_lags(codes, lengths, 6, LAGS))
    apart = np.zeros_like(together)
    for text in np.split(codes, np.cumsum(lengths)[:-1]):
        count_lags(text, np.array([len(text)]), apart)
    np.testing.assert_array_equal(apart, together)


def test_lagged_counts_refuse_what_does_not_fit() -> None:
    codes = codes_of(12, 20, 3, 4)
    out = np.zeros((2, 3, 4, 4), dtype=np.int64)
    for lengths in ([19], [21], [30, -10], [20.0], [[20]]):
        with pytest.raises(InputError, match="add up to 20 tokens"):
            count_lags(codes, np.array(lengths), out)
    with pytest.raises(InputError, match="codes must be uint8"):
        count_lags(codes.astype(np.int64), np.array([20]), out)
    for wrong in (out.astype(np.int32), out[:, :2], out[:, :, :3], out[0]):
        with pytest.raises(InputError, match=r"out must be int64 of shape \(lags, 3, bins, bins\)"):
            count_lags(codes, np.array([20]), wrong)
    assert not out.any()
    with pytest.raises(InputError, match="lagged counts must have shape"):
        serial_p_values(JointCounts.from_codes(codes, 4), out[:, :2])


def scores_of(codes: np.ndarray, bins: int) -> np.ndarray:
    """z of the definition, (variables, tokens, bins); 0 where a token is missing."""
    one = codes.T[:, :, None] == np.arange(bins)
    p = one.sum(axis=1, keepdims=True) / one.sum(axis=(1, 2), keepdims=True)
    z = np.divide(one - p, np.sqrt(p), out=np.zeros(one.shape), where=p > 0)
    z[codes.T == MISSING] = 0
    return z


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_autocovariances_from_counts_are_those_of_the_definition(missing: float) -> None:
    codes = codes_of(13, 94, 4, 5, missing=missing, phi=0.7)
    codes[codes[:, 3] == 1, 3] = 2  # an empty bin
    lagged = lagged_of(codes, [94], 5)
    margins = JointCounts.from_codes(codes, 5).margins
    found, z, there = autocovariances(lagged, margins), scores_of(codes, 5), codes.T < 5
    np.testing.assert_allclose(found[:, 0], np.einsum("vta,vtb->vab", z, z) / margins.sum(1)[:, None, None], atol=1e-12)
    for k in range(1, LAGS + 1):
        products = np.einsum("vta,vtb->vab", z[:, :-k], z[:, k:])
        places = (there[:, :-k] & there[:, k:]).sum(axis=1)
        np.testing.assert_allclose(found[:, k], products / places[:, None, None], rtol=0, atol=1e-12)
        if not missing:  # R(k) of the definition divides by N
            np.testing.assert_allclose(found[:, k] * (94 - k) / 94, products / 94, rtol=0, atol=1e-12)


def test_the_inflation_is_that_of_the_covariance_written_out() -> None:
    bins, lags, n = 4, 3, 400
    codes = codes_of(14, n, 3, bins, phi=0.8)
    lagged, margins = lagged_of(codes, [n], bins, lags), JointCounts.from_codes(codes, bins).margins
    found = inflation(lagged, margins, n)
    c = autocovariances(lagged, margins)
    for pair, (i, j) in enumerate(itertools.combinations(range(3), 2)):
        sigma = np.kron(c[i, 0], c[j, 0])
        noise_of_squares = noise_of_cubes = 0.0
        for k in range(1, lags + 1):
            w = (n - k) / n
            sigma = sigma + w * np.kron(c[i, k], c[j, k]) + w * np.kron(c[i, k].T, c[j, k].T)

            def cleaned(product: float, other: float, noise: float) -> float:  # what is subtracted of a product of two traces
                return product * other - (product - noise) * (other - noise)

            squares = [(c[v, k] ** 2).sum() for v in (i, j)]
            crossed = [np.trace(c[v, k] @ c[v, k]) for v in (i, j)]
            noise = w * w * (cleaned(*squares, 9 / (n - k)) + cleaned(*crossed, 3 / (n - k)))
            noise_of_squares += 2 * noise
            # {0, k, -k} in six orders, {0, k, k} in three and {0, -k, -k} in three
            noise_of_cubes += w * w * 6 * (cleaned(*squares, 9 / (n - k)) + cleaned(*crossed, 3 / (n - k)))
        assert found.mean[pair] == pytest.approx(np.trace(sigma) / 9, rel=1e-10)
        square = np.trace(sigma @ sigma) - noise_of_squares
        assert found.variance[pair] == pytest.approx(square / 9, rel=1e-10)
        cube = np.trace(sigma @ sigma @ sigma) - noise_of_cubes
        assert found.third[pair] == pytest.approx(cube / 9, rel=1e-10)


def test_without_lags_the_serial_test_is_the_gamma_test() -> None:
    codes = codes_of(15, 94, 6, 5, missing=0.05)
    counts = JointCounts.from_codes(codes, 5)
    np.testing.assert_allclose(serial_p_values(counts, lagged_of(codes, [94], 5, 0)), gamma_p_values(counts), rtol=1e-9)
    np.testing.assert_allclose(serial_p_values(counts, lagged_of(codes, [1] * 94, 5)), gamma_p_values(counts), rtol=1e-9)


def test_more_lags_than_tokens_and_sparse_bins_are_no_trouble() -> None:
    for samples, bins in ((5, 3), (9, 8), (20, 15)):
        codes = codes_of(16, samples, 6, bins)
        counts, lagged = JointCounts.from_codes(codes, bins), lagged_of(codes, [samples], bins, 30)
        assert all(np.isfinite(part).all() for part in inflation(lagged, counts.margins, counts.n))
        p = serial_p_values(counts, lagged)
        assert ((p > 0) & (p <= 1)).all()


@pytest.mark.parametrize("one_is_whole", [False, True])
def test_values_left_out_at_random_thin_the_inflation_of_a_pair(one_is_whole: bool) -> None:
    whole, holed = (codes_of(17, 3000, 12, 5, phi=0.8, missing=m) for m in (0.0, 0.1))
    if one_is_whole:
        holed[:, 5] = whole[:, 5]
    mean = [inflation(lagged_of(c, [3000], 5), JointCounts.from_codes(c, 5).margins, 3000).mean for c in (whole, holed)]
    kept = (mean[1] - 1) / (mean[0] - 1)  # a pair keeps .9 * .9 of its places
    assert np.median(kept) == pytest.approx(0.81, abs=0.03)


def test_the_serial_chance_level_is_the_mean_mi_of_independent_slow_series() -> None:
    raw, level = [], []
    for seed in range(4):
        codes = codes_of(100 + seed, 1000, 30, 8, phi=0.8)[:, 2:]
        counts = JointCounts.from_codes(codes, 8)
        found = estimate(counts)
        raw.append(found.raw.mean())
        level.append((found.chance * inflation(lagged_of(codes, [1000], 8), counts.margins, 1000).mean).mean())
        assert raw[-1] > 1.1 * found.chance.mean()
    assert np.mean(level) == pytest.approx(np.mean(raw), rel=0.03)
