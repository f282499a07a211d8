"""Which forward passes are left of some blocks of text, and which process runs each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from mi_probe.corpus import Window, packed

__all__ = ["ForwardPass", "as_ranges", "dealt", "of_ranges", "passes_left"]


class ForwardPass(NamedTuple):
    """Windows of one block that run together."""

    block: int
    """Its number."""
    windows: list[Window]
    places: list[int]
    """Of the windows, among all of the block in the order in which they run, which does not depend on the batch size."""
    reached: int
    """Tokens of the text in the windows of the block up to the last one of these."""

    @property
    def cost(self) -> int:
        """What it takes to run, in positions."""
        return sum(len(window.tokens) for window in self.windows)


def passes_left(block: int, found: list[Window], done: Collection[int], batch_size: int) -> list[ForwardPass]:
    """The passes of a block, but for windows that were run before.

    Parameters
    ----------
    block : int
    found : list of Window
        All windows of the block.
    done : collection of int
        Places of those that were run.
    batch_size : int

    Examples
    --------
    >>> four = [Window(0, [0] * n, n) for n in (3, 5, 5, 5)]
    >>> [(one.places, one.reached) for one in passes_left(7, four, {1}, batch_size=2)]
    [([0, 2], 15), ([3], 18)]
    """
    order = [window for (window,) in packed(found, 1)]
    upto = [0]
    for window in order:
        upto.append(upto[-1] + window.size)
    left = [place for place in range(len(order)) if place not in done]
    places = iter(left)
    passes = []
    for batch in packed([order[place] for place in left], batch_size):  # which are in order, and stay so
        of_batch = list(islice(places, len(batch)))
        passes.append(ForwardPass(block, batch, of_batch, upto[of_batch[-1] + 1]))
    return passes


def dealt(costs: Sequence[int], processes: int, first_ones: int = 0) -> list[int]:
    """Who runs each pass: the most costly first, each goes to who has least to do.

    Parameters
    ----------
    costs : sequence of int
    processes : int
    first_ones : int
        So many passes at the beginning are for the first process.

    Returns
    -------
    list of int
        The number of a process for each pass.

    Examples
    --------
    >>> dealt([5, 5, 5, 3, 2], 2), dealt([5, 5, 5, 3, 2], 2, first_ones=2)
    ([0, 1, 0, 1, 1], [0, 0, 1, 1, 1])
    """
    loads = [0] * processes
    whose = [0] * len(costs)
    loads[0] = sum(costs[:first_ones])
    for k in sorted(range(first_ones, len(costs)), key=lambda k: -costs[k]):
        whose[k] = loads.index(min(loads))
        loads[whose[k]] += costs[k]
    return whose


def as_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers as ranges, each from its first to before its last.

    Examples
    --------
    >>> as_ranges({3, 0, 1, 2, 7})
    [[0, 4], [7, 8]]
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] += 1
        else:
            ranges.append([number, number + 1])
    return ranges


def of_ranges(ranges: Iterable[Sequence[int]]) -> set[int]:
    """The numbers again.

    Examples
    --------
    >>> sorted(of_ranges([[0, 2], [7, 8]]))
    [0, 1, 7]
    """
    return {number for first, last in ranges for number in range(first, last)}
