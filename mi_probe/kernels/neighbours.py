"""The nearest-neighbour kernel, in numba: k-th neighbour distances and counts within them, for every pair of variables.

There are no trees. A block of queries that are neighbours in x is offered one sample after another, and the inner loop runs over
the queries, so it is vectorised; the samples offered are those of the block, then outwards in x until none nearer can come. Up to
one block of samples this is brute force. Each pair is written by one thread, hence the same bits for any number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import psi

from mi_probe.kernels.threads import in_threads, jit, ranges, threads_for

__all__ = ["Ranked", "neighbour_pairs"]

_BLOCK = 128  # up to so many samples, all are compared with all
_WALKING = 64  # beyond, queries at a time: fewer and the calls weigh, more and the walks get long (32 to 256 were measured)
_STRIDE = 32  # samples offered between two looks at how far the walk must go
_ROWS = 4  # nearest distances that one pass of the inner loop keeps in registers
_LEAST = float(np.finfo(np.float64).tiny)  # the radius where k samples coincide with a query: these are within, none besides

# Places in the scratch of a block: one array, so that the compiler need not ask whether they overlap.
_X, _Y, _LOW, _HIGH, _NEAR = 0, _BLOCK, 2 * _BLOCK, 3 * _BLOCK, 4 * _BLOCK


class Ranked(NamedTuple):
    """Variables as ranks, and the values that stand for them.

    A sample that is missing in a variable has rank -1 there, and does not occur in its order.
    """

    order: NDArray[np.int32]
    """Shape (variables, samples): the samples of each variable, ascending; only the first `present` of a row count."""
    rank: NDArray[np.int32]
    """Shape (variables, samples): the inverse of `order`."""
    present: NDArray[np.int64]
    """Shape (variables,): samples that are not missing."""
    lines: NDArray[np.float64]
    """Shape (lines, samples): ascending values of the ranks 0, 1, 2, ..."""
    line_of: NDArray[np.int64]
    """Which line: by variable if `by_variable`, else by the number of samples that a pair shares, shape (samples + 1,)."""
    group: NDArray[np.int32]
    """Shape (variables, samples): ascending numbers, the same for samples of equal value, in the order of `order`."""
    by_variable: bool
    """Whether each variable has a line of its own; then nothing may be missing, and a constant is not told from others."""


@jit
def _swap(block: Any, at: int, d: float, e: float) -> Any:
    """Leave the least of d, e and what is kept at a place; return the others. Of both pairs the lesser comes first."""
    kept = block[at]
    block[at] = d if d < kept else kept
    d = kept if d < kept else d
    return (d if d < e else e), (e if d < e else d)


@jit
def _keep(block: Any, at: int, d: float, e: float) -> Any:
    """The same at four places, a block apart."""
    d, e = _swap(block, at, d, e)
    d, e = _swap(block, at + _BLOCK, d, e)
    d, e = _swap(block, at + 2 * _BLOCK, d, e)
    return _swap(block, at + 3 * _BLOCK, d, e)


@jit
def _distance(block: Any, a: int, x_s: float, y_s: float) -> Any:
    d_x, d_y = abs(block[a + _X] - x_s), abs(block[a + _Y] - y_s)
    return d_x if d_x > d_y else d_y


@jit
def _offer_few(block: Any, lanes: int, x_s: float, y_s: float, x_t: float, y_t: float) -> None:
    """Two samples to all queries, k < 4: everything stays in registers."""
    for a in range(lanes):
        d, e = _distance(block, a, x_s, y_s), _distance(block, a, x_t, y_t)
        _keep(block, a + _NEAR, d if d < e else e, e if d < e else d)


@jit
def _offer_many(block: Any, lanes: int, x_s: float, y_s: float, x_t: float, y_t: float, k: int) -> None:
    """The same for any k, four distances at a time: what is pushed out of these comes to the next four."""
    for a in range(lanes):
        d, e = _distance(block, a, x_s, y_s), _distance(block, a, x_t, y_t)
        block[a + _LOW] = d if d < e else e
        block[a + _HIGH] = e if d < e else d
    for row in range(0, k + 1, _ROWS):
        near = block[_NEAR + row * _BLOCK :]
        for a in range(lanes):
            d, e = _keep(near, a, block[a + _LOW], block[a + _HIGH])
            block[a + _LOW] = d
            block[a + _HIGH] = e


@jit
def _offer(block: Any, lanes: int, x: Any, y: Any, begin: int, end: int, k: int) -> None:
    """Offer the samples begin to end to all queries of the block, which keeps the k + 1 least distances of each, ascending.

    Two at a time, for half the loads and stores. Every query is offered itself too: its least distance is 0.
    """
    for s in range(begin, end, 2):
        x_t, y_t = (x[s + 1], y[s + 1]) if s + 1 < end else (np.inf, np.inf)
        if k < _ROWS:
            _offer_few(block, lanes, x[s], y[s], x_t, y_t)
        else:
            _offer_many(block, lanes, x[s], y[s], x_t, y_t, k)


@jit
def _radii(x: Any, y: Any, k: int, block: Any, radius: Any) -> None:
    """Distance (largest coordinate) of each sample to its k-th neighbour; x ascends."""
    n = len(x)
    kth = _NEAR + k * _BLOCK
    length = _BLOCK if n <= _BLOCK else _WALKING
    for first in range(0, n, length):
        last = min(first + length, n)
        lanes = last - first
        block[_NEAR:] = np.inf
        for a in range(lanes):
            block[a + _X], block[a + _Y] = x[first + a], y[first + a]
        lanes = (lanes + 7) // 8 * 8  # whole vectors; what is computed past the last query is not read
        _offer(block, lanes, x, y, first, last, k)
        left, right = first, last
        while left > 0 or right < n:
            farthest = 0.0
            for a in range(last - first):
                farthest = max(farthest, block[a + kth])
            # Rounded differences still ascend with distance, so what is left out is no nearer than what was kept.
            go_left = left > 0 and x[first] - x[left - 1] < farthest
            go_right = right < n and x[right] - x[last - 1] < farthest
            if not (go_left or go_right):
                break
            if go_left:
                end, left = left, max(left - _STRIDE, 0)
                _offer(block, lanes, x, y, left, end, k)
            if go_right:
                begin, right = right, min(right + _STRIDE, n)
                _offer(block, lanes, x, y, begin, right, k)
        for a in range(last - first):
            radius[first + a] = max(block[a + kth], _LEAST)


@jit
def _compare(x: Any, values: Any, radius: Any, counts: Any) -> None:
    """Samples strictly nearer to each value than its radius, itself among them, by comparing all with all."""
    n = len(x)
    counts[:] = 0
    for s in range(0, n, 2):
        x_s, x_t = x[s], x[s + 1] if s + 1 < n else np.inf
        for a in range(len(counts)):
            counts[a] += np.int64(abs(values[a] - x_s) < radius[a]) + np.int64(abs(values[a] - x_t) < radius[a])


@jit
def _search(x: Any, values: Any, radius: Any, counts: Any) -> None:
    """The same by bisection; x ascends and holds the same values.

    What is searched for is |x[j] - value| < radius itself, which is monotone on either side. Searching for value + radius would
    not do: the k-th neighbour lies exactly on the boundary, and rounding would decide on which side. All searches take the same
    number of steps, and none branches on data.
    """
    below = np.zeros(len(values), dtype=np.int64)
    counts[:] = 0
    size = len(x)
    while size > 0:
        half = (size + 1) >> 1
        for a in range(len(values)):
            step = below[a] + half
            below[a] = step if values[a] - x[step - 1] >= radius[a] else below[a]
            step = counts[a] + half
            counts[a] = step if x[step - 1] - values[a] < radius[a] else counts[a]
        size -= half
    for a in range(len(values)):
        counts[a] -= below[a]


@jit
def _mean_digamma(x: Any, values: Any, radius: Any, counts: Any, digamma: Any) -> Any:
    """Mean of psi(number of samples within the radius of each value)."""
    n = len(x)
    if n <= _BLOCK:
        wide = (n + 7) // 8 * 8
        _compare(x, values[:wide], radius[:wide], counts[:wide])
    else:
        _search(x, values[:n], radius[:n], counts[:n])
    total = 0.0
    for a in range(n):
        total += digamma[counts[a]]
    return total / n


@jit
def _shared(ranked: Any, i: int, j: int, at: Any, renumber: Any) -> Any:
    """Samples that i and j share, ascending in i: `at` becomes their rank in j among these. Returns how many."""
    order, rank = ranked.order, ranked.rank
    samples = order.shape[1]
    if ranked.present[i] == samples and ranked.present[j] == samples:
        for a in range(samples):
            at[a] = rank[j, order[i, a]]
        return samples
    n = 0
    for b in range(ranked.present[j]):
        renumber[b] = n
        n += rank[i, order[j, b]] >= 0
    n = 0
    for a in range(ranked.present[i]):
        b = rank[j, order[i, a]]
        if b >= 0:
            at[n] = renumber[b]
            n += 1
    return n


@jit
def _is_constant(ranked: Any, i: int, j: int) -> bool:
    """Whether i has one value only in the samples that it shares with j."""
    first = -1
    for a in range(ranked.present[i]):
        if ranked.rank[j, ranked.order[i, a]] >= 0:
            if first < 0:
                first = ranked.group[i, a]
            elif ranked.group[i, a] != first:
                return False
    return True


@jit
def _pairs(ranked: Any, k: int, digamma: Any, first: int, last: int, mi: Any, shared: Any) -> None:
    variables, samples = ranked.order.shape
    at, renumber = np.empty(samples, dtype=np.int32), np.empty(samples, dtype=np.int32)
    wide = (samples + 7) // 8 * 8  # whole vectors
    values, radius, counts = np.zeros(wide), np.zeros(wide), np.empty(wide, dtype=np.int64)
    block = np.zeros(_NEAR + (k // _ROWS + 1) * _ROWS * _BLOCK)
    for i in range(first, last):
        pair = i * (2 * variables - i - 1) // 2
        for j in range(i + 1, variables):
            n = _shared(ranked, i, j, at, renumber)
            shared[pair] = n
            if n <= k:
                mi[pair] = np.nan
            elif not ranked.by_variable and (_is_constant(ranked, i, j) or _is_constant(ranked, j, i)):
                mi[pair] = 0.0
            else:
                x = ranked.lines[ranked.line_of[i if ranked.by_variable else n], :n]
                y = ranked.lines[ranked.line_of[j if ranked.by_variable else n], :n]
                for a in range(n):
                    values[a] = y[at[a]]
                _radii(x, values, k, block, radius)
                total = _mean_digamma(y, values, radius, counts, digamma)
                values[:n] = x
                total += _mean_digamma(x, values, radius, counts, digamma)
                mi[pair] = digamma[n] + digamma[k] - total
            pair += 1


def neighbour_pairs(ranked: Ranked, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The estimate psi(n) + psi(k) - mean of psi(n_x + 1) + psi(n_y + 1), and n, of every pair i < j, each of shape (pairs,).

    n_x and n_y count the samples strictly nearer in x, or in y, than the k-th neighbour in the plane. NaN where n <= k, 0 where a
    variable is constant. Kraskov, Stögbauer, Grassberger 2004, eq. 8.
    """
    variables, samples = ranked.order.shape
    pairs = variables * (variables - 1) // 2
    mi, shared = np.empty(pairs), np.empty(pairs, dtype=np.int64)
    if pairs:
        digamma = np.concatenate([[np.nan], psi(np.arange(1.0, max(samples, k) + 1))])
        threads = threads_for(float(pairs) * samples * min(samples, _BLOCK))
        parts = ranges(variables - 1, lambda i: variables - 1 - i, threads)
        in_threads(lambda a, b: _pairs(ranked, k, digamma, a, b, mi, shared), parts, threads)
    return mi, shared
