"""Counts of listed pairs, where all of them would be too many. The same integers as rows picked out of all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.costs import LISTED_BY_PLANES, LISTED_BY_SCATTER
from mi_probe.kernels.threads import Counts, in_threads, jit, ranges, threads_for
from mi_probe.kernels.vectors import popcount

__all__ = ["count_listed"]

_WORD = 64


@jit
def _scatter(codes: Any, partners: Any, listed: Any, first: int, last: int, tables: Any) -> None:
    samples, bins = codes.shape[1], tables.shape[1]
    wide = bins + 1  # the last row and column take the missing ones and are thrown away
    scratch = np.zeros(wide * wide, dtype=np.int32)
    for pair in range(first, last):
        i, j = listed[pair, 0], listed[pair, 1]
        scratch[:] = 0
        for s in range(samples):
            scratch[np.intp(codes[i, s]) * wide + np.intp(partners[j, s])] += 1
        for a in range(bins):
            for b in range(bins):
                tables[pair, a, b] += scratch[a * wide + b]


@jit
def _pack(codes: Any, planes: Any) -> None:
    variables, samples = codes.shape
    for v in range(variables):
        for s in range(samples):
            if codes[v, s] < planes.shape[1]:
                planes[v, codes[v, s], s >> 6] |= np.uint64(1) << np.uint64(s & 63)


@jit
def _bit_sliced(planes: Any, partners: Any, listed: Any, first: int, last: int, tables: Any) -> None:
    _, bins, words = planes.shape
    for pair in range(first, last):
        i, j = listed[pair, 0], listed[pair, 1]
        for a in range(bins):
            for b in range(bins):
                total = np.uint64(0)
                for w in range(words):
                    total += popcount(planes[i, a, w] & partners[j, b, w])
                tables[pair, a, b] += np.int64(total)


def count_listed(
    codes: NDArray[np.uint8],
    listed: NDArray[np.intp],
    tables: Counts,
    *,
    partners: NDArray[np.uint8] | None = None,
    way: str = "auto",
) -> None:
    """Add the joint counts of listed pairs to `tables`.

    Parameters
    ----------
    codes : array, shape (samples, variables), uint8
        0 to bins - 1; any other code leaves the sample out of that variable's pairs.
    listed : array, shape (pairs, 2), intp
        Positions i, j of each pair among the variables.
    tables : array, shape (pairs, bins, bins), int32 or int64
        Changed in place. The caller makes sure that no cell can overflow.
    partners : array like `codes`, optional
        Where j's codes are taken from, while i's are from `codes`; the same array by default.
    way : {"auto", "scatter", "bit_sliced"}
        As in `mi_probe.kernels.count_pairs`.

    Examples
    --------
    >>> import numpy as np
    >>> tables = np.zeros((1, 2, 2), dtype=np.int32)
    >>> count_listed(np.array([[0, 1, 0], [1, 1, 1]], dtype=np.uint8), np.array([[0, 2]]), tables)
    >>> tables[0]
    array([[1, 0],
           [0, 1]], dtype=int32)
    """
    samples, bins = codes.shape[0], tables.shape[1]
    if samples == 0 or len(listed) == 0:
        return
    if len(tables) != len(listed) or (partners is not None and partners.shape != codes.shape):
        raise ValueError(f"{len(listed)} pairs need as many tables, and partners like the codes; got {len(tables)} tables.")
    if way == "auto":
        few = LISTED_BY_SCATTER.of(samples, bins) < LISTED_BY_PLANES.of(samples, bins)
        way = "scatter" if few else "bit_sliced"
    if way == "scatter":
        kernel, prepare, cost = _scatter, _clipped, float(len(listed) * samples)
    else:
        kernel, prepare, cost = _bit_sliced, _planes, tables.size * (3.0 + samples / 512)
    first = prepare(codes, bins)
    second = first if partners is None else prepare(partners, bins)
    threads = threads_for(cost)
    parts = ranges(len(listed), np.ones_like, threads)
    in_threads(lambda a, b: kernel(first, second, listed, a, b, tables), parts, threads)


def _clipped(codes: NDArray[np.uint8], bins: int) -> NDArray[Any]:
    return np.minimum(np.ascontiguousarray(codes.T), np.uint8(bins))


def _planes(codes: NDArray[np.uint8], bins: int) -> NDArray[Any]:
    samples, variables = codes.shape
    planes = np.zeros((variables, bins, -(-samples // _WORD)), dtype=np.uint64)
    _pack(np.ascontiguousarray(codes.T), planes)
    return planes
