"""What we are compared with, each called as it is fastest. All take one array and return the pairs i < j among its columns."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "counts_by_distance",
    "course_loop",
    "ennemi_discrete",
    "ennemi_ksg",
    "expected_by_sklearn",
    "histograms_by_numpy",
    "ksg_of_pairs",
    "ksg_of_targets",
    "ksg_up_to_targets",
    "mi_of_histograms",
    "mi_of_product",
    "one_hot_product",
    "search",
    "sum_in_threads",
    "upper",
    "upper_tables",
    "widestats_histograms",
    "widestats_mi",
]

Floats = NDArray[np.float64]


def upper(matrix: NDArray[Any]) -> NDArray[Any]:
    """The pairs i < j of a square matrix."""
    return matrix[np.triu_indices(len(matrix), 1)]


def upper_tables(square: NDArray[Any], bins: int) -> NDArray[Any]:
    """The tables i < j of a matrix of (variables * bins) squared."""
    variables = len(square) // bins
    return square.reshape(variables, bins, variables, bins).transpose(0, 2, 1, 3)[np.triu_indices(variables, 1)]


def _pairs(x: NDArray[Any]) -> zip[tuple[int, int]]:
    return zip(*np.triu_indices(x.shape[1], 1), strict=True)


def course_loop(x: NDArray[Any], bins: int) -> Floats:
    """Plug-in MI as a course's exercise has it: a histogram for each pair, then the sum over its cells."""
    found = []
    for i, j in _pairs(x):
        counts = np.histogram2d(x[:, i], x[:, j], bins=bins)[0]
        p = counts / counts.sum()
        independent = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
        seen = p > 0
        found.append((p[seen] * np.log(p[seen] / independent[seen])).sum())
    return np.array(found)


def histograms_by_numpy(codes: NDArray[np.uint8], bins: int) -> Floats:
    """`numpy.histogram2d` of each pair, its edges given."""
    edges = np.arange(bins + 1) - 0.5
    return np.array([np.histogram2d(codes[:, i], codes[:, j], bins=[edges, edges])[0] for i, j in _pairs(codes)])


def one_hot_product(codes: NDArray[np.uint8], bins: int) -> NDArray[np.float32]:
    """All joint counts as one matrix product, exact up to 2**24 samples; shape (variables * bins,) squared."""
    hot = (codes[:, :, None] == np.arange(bins, dtype=np.uint8)).astype(np.float32).reshape(len(codes), -1)
    return np.asarray(hot.T @ hot)  # of one array: NumPy computes one triangle


def mi_of_histograms(codes: NDArray[np.uint8], bins: int) -> Floats:
    """Plug-in MI: a histogram of the codes of each pair, then the sum over its cells."""
    edges = np.arange(bins + 1) - 0.5
    found = []
    for i, j in _pairs(codes):
        p = np.histogram2d(codes[:, i], codes[:, j], bins=[edges, edges])[0] / len(codes)
        independent = p.sum(axis=1, keepdims=True) * p.sum(axis=0)
        seen = p > 0
        found.append((p[seen] * np.log(p[seen] / independent[seen])).sum())
    return np.array(found)


def mi_of_product(codes: NDArray[np.uint8], bins: int) -> Floats:
    """Plug-in MI: all tables by one product, and one logarithm of every cell; the margins are on the product's diagonal."""
    square, samples = one_hot_product(codes, bins).astype(np.float64), len(codes)

    def plogp(counts: NDArray[Any]) -> NDArray[Any]:
        p = counts / samples
        return p * np.log(np.where(p > 0, p, 1.0))

    variables = codes.shape[1]
    joint = upper(plogp(square).reshape(variables, bins, variables, bins).sum(axis=(1, 3)))
    single = plogp(np.diag(square)).reshape(variables, bins).sum(axis=1)
    i, j = np.triu_indices(variables, 1)
    return np.asarray(joint - single[i] - single[j])


def counts_by_distance(codes: NDArray[np.uint8], bins: int, key: NDArray[Any], shards: int) -> NDArray[np.int64]:
    """Tables of all pairs of tokens of a text, added up by the key of their distance, and sizes of the cells of single ones.

    Codes are of shape (texts, tokens, dimensions); `key` is by distance, up to the furthest. Tables come first, then how many
    cells hold 0, 1, 2, ... dimensions by key and set of texts, in one row.
    """
    most = int(np.bincount(codes[0, 0], minlength=bins).max())
    tables = np.zeros((key.max() + 1, bins * bins), dtype=np.int64)
    cells = np.zeros((key.max() + 1, shards, most + 1), dtype=np.int64)
    later = codes.astype(np.intp)
    earlier = later * bins
    for text in range(len(codes)):
        for distance in range(1, min(len(key), codes.shape[1])):
            k = key[distance]
            for first in range(codes.shape[1] - distance):
                one = np.bincount(earlier[text, first] + later[text, first + distance], minlength=bins * bins)
                tables[k] += one
                cells[k, text % shards] += np.bincount(one, minlength=most + 1)
    return np.concatenate([tables.ravel(), cells.ravel()])


def search(x: NDArray[Any], edges: Floats) -> NDArray[np.uint8]:
    """`numpy.searchsorted` of each column."""
    codes = np.empty(x.shape, dtype=np.uint8)
    for v, own in enumerate(edges.astype(x.dtype)):
        codes[:, v] = np.searchsorted(own, x[:, v], side="right")
    return codes


def sum_in_threads(tables: NDArray[Any], threads: int) -> int:
    """Every cell read once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return int(sum(pool.map(lambda part: part.sum(dtype=np.int64), np.array_split(tables, threads))))


# -- scikit-learn -----------------------------------------------------------------------------------------------------


def expected_by_sklearn(codes: NDArray[np.uint8]) -> Floats:
    """Plug-in value and chance level of each pair, shape (pairs, 2)."""
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    rows = []
    for i, j in _pairs(codes):
        table = contingency_matrix(codes[:, i], codes[:, j], sparse=True).astype(np.int64)
        rows.append([mutual_info_score(None, None, contingency=table), expected_mutual_information(table, len(codes))])
    return np.array(rows)


def _regression(x: NDArray[Any], y: NDArray[Any], jobs: int | None = None) -> Floats:
    from sklearn.feature_selection import mutual_info_regression

    return np.asarray(mutual_info_regression(x, y, random_state=0, n_jobs=jobs))


def ksg_of_targets(x: NDArray[Any], targets: list[int]) -> Floats:
    """One call for each target, of all columns, in as many processes as there are cores; shape (targets, columns)."""
    return np.array([_regression(x, x[:, t], os.cpu_count()) for t in targets])


def ksg_up_to_targets(x: NDArray[Any], targets: list[int]) -> Floats:
    """One call for each target, of the columns before it only: every pair once."""
    return np.concatenate([_regression(x[:, :t], x[:, t], os.cpu_count()) for t in targets])


def ksg_of_pairs(x: NDArray[Any]) -> Floats:
    """One call for each pair."""
    return np.concatenate([_regression(x[:, [i]], x[:, j]) for i, j in _pairs(x)])


# -- widestats and ennemi ---------------------------------------------------------------------------------------------


def widestats_mi(x: NDArray[Any], bins: int, order: int) -> Floats:
    """Its estimate in nats, in float32 (its default and its fastest); order 1 is a plain histogram of equal-width bins."""
    import widestats

    return np.asarray(upper(widestats.mutual_info(x, bins=bins, order=order, device="cpu")) * np.log(2))


def widestats_histograms(codes: NDArray[np.uint8], bins: int) -> NDArray[np.float32]:
    """The joint counts alone, by its own weights and its tiles, without its estimate; shape (variables * bins,) squared."""
    import torch
    from widestats.mi import _bspline_weights

    samples, variables = codes.shape
    x = torch.from_numpy(codes.astype(np.float64))
    weights = _bspline_weights(x, bins, 1, torch.float32).reshape(samples, variables * bins)
    joint = torch.empty((variables * bins, variables * bins))
    tile = bins * max(1, int(np.sqrt((1 << 24) / bins**2)))
    for i in range(0, variables * bins, tile):
        for j in range(0, variables * bins, tile):
            joint[i : i + tile, j : j + tile] = weights[:, i : i + tile].T @ weights[:, j : j + tile]
    return np.asarray(joint.numpy())


def ennemi_discrete(codes: NDArray[np.uint8]) -> Floats:
    """Its estimate for discrete variables, the plug-in value; in threads, as it decides."""
    import ennemi

    return np.asarray(upper(ennemi.pairwise_mi(codes, discrete=True)))


def ennemi_ksg(x: NDArray[Any]) -> Floats:
    """Its default: the nearest-neighbour estimate, k = 3; in threads, as it decides."""
    import ennemi

    return np.asarray(upper(ennemi.pairwise_mi(np.asarray(x, dtype=np.float64))))
