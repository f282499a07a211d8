"""The CPU kernels, in numba: encode values, count all pairs, whichever way costs less."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.kernels.costs import PLANES, SCATTER
from mi_probe.kernels.planes import count_by_planes
from mi_probe.kernels.threads import Counts, in_threads, jit, ranges, threads_for

__all__ = ["count_margins", "count_pairs", "encode", "pair_index"]

Floats = NDArray[np.floating]

_LEFT_OUT = -(2**20)  # added to any code it stays negative


def pair_index(i: int, j: int, variables: int) -> int:
    """Where the pair i < j stands among all pairs, in the order of `numpy.triu_indices(variables, 1)`.

    Examples
    --------
    >>> [pair_index(i, j, 4) for i in range(4) for j in range(i + 1, 4)]
    [0, 1, 2, 3, 4, 5]
    """
    return i * (2 * variables - i - 1) // 2 + (j - i - 1)


# --------------------------------------------------------------------------------------------------------------------
# values to codes


@jit
def _encode(x: Any, edges: Any, missing: int, largest: Any, codes: Any) -> None:
    for row in range(x.shape[0]):
        for k in range(edges.shape[0]):  # edges outside, variables inside: the inner loop is vectorised
            for v in range(x.shape[1]):
                codes[row, v] += np.uint8(x[row, v] >= edges[k, v])
        for v in range(x.shape[1]):
            codes[row, v] = codes[row, v] if abs(x[row, v]) <= largest else np.uint8(missing)


def encode(x: Floats, edges: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Number of edges <= x, or 255 where x is not finite: (samples, variables) float32 or float64 -> uint8."""
    codes = np.zeros(x.shape, dtype=np.uint8)
    x = np.ascontiguousarray(x)
    by_edge = edges_as(x.dtype, np.ascontiguousarray(edges.T))
    largest = np.finfo(x.dtype).max
    threads = threads_for(x.size * edges.shape[1] / 8)
    in_threads(lambda a, b: _encode(x[a:b], by_edge, 255, largest, codes[a:b]), ranges(len(x), np.ones_like, threads), threads)
    return codes


def edges_as(dtype: np.dtype[Any], edges: NDArray[np.float64]) -> NDArray[Any]:
    """Edges in the type of the values, with which they compare as the edges themselves do: each is rounded up.

    Examples
    --------
    >>> edges_as(np.dtype(np.float32), np.array([0.1, 0.5])) >= np.array([0.1, 0.5])
    array([ True,  True])
    """
    with np.errstate(over="ignore"):
        rounded = edges.astype(dtype)
        return np.where(rounded < edges, np.nextafter(rounded, dtype.type(np.inf)), rounded)


@jit
def _margins(codes: Any, bins: int, first: int, last: int, margins: Any) -> None:
    here = np.empty(last - first, dtype=np.uint8)
    for start in range(0, codes.shape[0], 255):  # as many as a byte can count
        for b in range(bins):
            here[:] = 0
            for s in range(start, min(start + 255, codes.shape[0])):
                for v in range(first, last):
                    here[v - first] += np.uint8(codes[s, v] == b)
            for v in range(first, last):
                margins[v, b] += here[v - first]


def count_margins(codes: NDArray[np.uint8], margins: NDArray[np.int64]) -> None:
    """Add how often each variable has each code: (samples, variables) -> (variables, codes), changed in place."""
    threads = threads_for(codes.size * margins.shape[1] / 16)
    parts = ranges(codes.shape[1], np.ones_like, threads)
    in_threads(lambda a, b: _margins(codes, margins.shape[1], a, b, margins), parts, threads)


# --------------------------------------------------------------------------------------------------------------------
# counting


@jit
def _scatter(rows: Any, columns: Any, first: int, last: int, low: int, apart: int, cells: Any, tables: Any) -> None:
    variables, samples = columns.shape
    before = low * (2 * variables - low - 1) // 2
    for i in range(first, last):
        pair = (i - low) * (variables - apart) if apart else i * (2 * variables - i - 1) // 2 - before
        for j in range(max(i + 1, apart), variables):
            start = pair * cells
            for s in range(samples):
                cell = rows[i, s] + columns[j, s]
                if cell >= 0:
                    tables[start + cell] += 1
            pair += 1


def count_pairs(
    codes: NDArray[np.uint8],
    tables: Counts,
    *,
    partners: NDArray[np.uint8] | None = None,
    way: str = "auto",
    rows: tuple[int, int] | None = None,
    apart: int = 0,
) -> None:
    """Add the joint counts of every pair i < j, or of those with i in a range, to `tables`.

    Parameters
    ----------
    codes : array, shape (samples, variables), uint8
        0 to bins - 1; any other code leaves the sample out of that variable's pairs.
    tables : array, shape (pairs, bins, bins), int32 or int64
        Changed in place; contiguous. The caller makes sure that no cell can overflow.
    partners : array like `codes`, optional
        Where j's codes are taken from, while i's are from `codes`; the same array by default.
    way : {"auto", "scatter", "bit_sliced"}
        ``scatter`` walks over the samples of a pair and increments cells; ``bit_sliced`` keeps one bit a sample for each bin and
        counts the ones of two such planes ANDed, 64 samples a word. "auto" takes the cheaper.
    rows : (int, int), optional
        Only the pairs with first <= i < last; their tables alone. All by default.
    apart : int
        Only the pairs with i < apart <= j, in the same order: each of the first so many variables with each of the others, and
        none among themselves. 0: all.
    """
    samples, variables = codes.shape
    bins = tables.shape[1]
    most = apart or variables - 1
    low, high = (0, most) if rows is None else (rows[0], min(rows[1], most))
    if samples == 0 or low >= high:
        return
    pairs = pair_index(high, high + 1, variables) - pair_index(low, low + 1, variables)
    if apart:
        pairs = (high - low) * (variables - apart)
    if tables.shape != (pairs, bins, bins) or (partners is not None and partners.shape != codes.shape):
        raise ValueError(f"{codes.shape} codes need ({pairs}, {bins}, {bins}) tables and partners like them; got {tables.shape}.")
    if not tables.flags.c_contiguous:
        raise ValueError("tables must be contiguous: counts added to a copy would be lost.")
    if way == "auto":
        way = "scatter" if SCATTER.of(samples, bins) < PLANES.of(samples, bins) else "bit_sliced"
    if way == "bit_sliced":
        count_by_planes(codes, partners, tables, threads_for(tables.size * (1.0 + samples / 512)), (low, high), apart)
        return
    shifted = _shifted(codes, bins, bins)
    columns = _shifted(codes if partners is None else partners, bins, 1)
    threads = threads_for(float(tables.shape[0] * samples))
    parts = ranges(high - low, np.ones_like if apart else lambda i: variables - 1 - low - i, threads)
    flat = tables.reshape(-1)
    in_threads(lambda a, b: _scatter(shifted, columns, low + a, low + b, low, apart, bins * bins, flat), parts, threads)


def _shifted(codes: NDArray[np.uint8], bins: int, by: int) -> NDArray[np.int32]:
    """Each variable's codes times `by`, shape (variables, samples); far below zero where they are missing."""
    shifted = np.ascontiguousarray(codes.T).astype(np.int32)
    shifted *= by
    shifted[shifted >= bins * by] = _LEFT_OUT
    return shifted
