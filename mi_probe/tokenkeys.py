"""By what pairs of tokens are counted: how far apart they are, where they stand, or labels of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import nearest

__all__ = ["UNRELATED", "KeyedBy", "TokenKeys", "bands"]

KeyedBy = Literal["distance", "position", "label"]

UNRELATED = "unrelated"
"""The key of pairs whose tokens are from different texts: what any two tokens share."""

_SINGLE = 16  # up to here each distance is a key of its own
_LAST_POSITION = 1 << 20  # further than any context

Index = NDArray[np.int64]


def bands(furthest: int) -> Index:
    """First and last number of each band from 1 to `furthest`, shape (bands, 2): single up to 16, then two to a doubling.

    Examples
    --------
    >>> bands(40)[-4:].tolist()
    [[16, 16], [17, 24], [25, 32], [33, 40]]
    """
    firsts = list(range(1, min(furthest, _SINGLE) + 1))
    step = _SINGLE // 2
    first = _SINGLE + 1
    while first <= furthest:
        firsts += [begin for begin in (first, first + step) if begin <= furthest]
        first, step = first + 2 * step, 2 * step
    lasts = [begin - 1 for begin in firsts[1:]] + [furthest]
    return np.stack([np.array(firsts, dtype=np.int64), np.array(lasts, dtype=np.int64)], axis=1)


@dataclass(frozen=True)
class TokenKeys:
    """Which pairs of tokens are counted together, and how their values are binned.

    A pair is of two tokens of one sequence, the earlier one first; a pair under the key `UNRELATED`, the last one, of tokens of
    different documents.

    Attributes
    ----------
    by : {"distance", "position", "label"}
        The number of tokens from one to the other; the position of the later one; or the labels of both, in their order.
    furthest : int
        Pairs further apart than this are not counted.
    labels : tuple of str
        What the labels 0, 1, 2, ... are called.
    bins : int or "auto"
        Bins of the values of one token.
    shards : int
        Sets of documents that are kept apart, for standard errors.

    Examples
    --------
    >>> TokenKeys(furthest=20).names[-3:]
    ('16', '17-20', 'unrelated')
    >>> TokenKeys("label", labels=("word", "mark")).names
    ('word, word', 'word, mark', 'mark, word', 'mark, mark', 'unrelated')
    """

    by: KeyedBy = "distance"
    furthest: int = 64
    labels: tuple[str, ...] = ()
    bins: int | Literal["auto"] = "auto"
    shards: int = 16

    def problems(self) -> list[str]:
        """Everything that is impossible, in words; nothing if it can be used. Bins and shards are the probe's to check."""
        found = []
        if self.by not in get_args(KeyedBy):
            found.append(f"by must be one of {get_args(KeyedBy)}; got {self.by!r}{nearest(str(self.by), get_args(KeyedBy))}")
        if not isinstance(self.furthest, int) or isinstance(self.furthest, bool) or not 1 <= self.furthest <= _LAST_POSITION:
            found.append(f"furthest must be a whole number of tokens from 1 to {_LAST_POSITION:,}; got {self.furthest!r}")
        labels: Any = self.labels
        if not isinstance(labels, tuple) or not all(isinstance(label, str) and label for label in labels):
            found.append(f"labels must be a list of names; got {labels!r}")
        elif len(set(labels)) < len(labels) or len(labels) > 64:
            found.append(f"labels must be at most 64 different names; got {list(labels)}")
        elif self.by == "label" and not labels:
            found.append("by = 'label' needs the names of the labels: labels = ['word', 'punctuation']")
        elif self.by != "label" and labels:
            found.append(f"labels = {list(labels)} goes with by = 'label'; got by = {self.by!r}")
        return found

    @property
    def bounds(self) -> Index | None:
        """First and last distance or position of each key but the last, shape (keys, 2); None for labels."""
        if self.by == "label":
            return None
        return bands(self.furthest if self.by == "distance" else _LAST_POSITION)

    @property
    def names(self) -> tuple[str, ...]:
        """What the keys are called, in their order."""
        bounds = self.bounds
        if bounds is None:
            named = [f"{one}, {other}" for one in self.labels for other in self.labels]
        else:
            named = [str(first) if first == last else f"{first}-{last}" for first, last in bounds.tolist()]
        return (*named, UNRELATED)

    def pairs_within(self, tokens: int, every: int = 1) -> int:
        """Pairs of one sequence that are close enough, where each token counted stands so many behind the one before.

        Examples
        --------
        >>> TokenKeys(furthest=3).pairs_within(5), TokenKeys(furthest=3).pairs_within(5, every=3)
        (9, 4)
        """
        steps = max(0, min(self.furthest // every, tokens - 1))
        return steps * tokens - steps * (steps + 1) // 2

    def of(self, distance: Index, position: Index, labels: Sequence[Index]) -> Index:
        """The key of each pair of one sequence, -1 where it has none.

        Parameters
        ----------
        distance : array, shape (pairs,)
            From the earlier token to the later one.
        position : array, shape (pairs,)
            Of the later one.
        labels : two arrays, shape (pairs,)
            Of the earlier one and of the later one; -1 is no label.

        Examples
        --------
        >>> none = np.full(3, -1)
        >>> TokenKeys(furthest=20).of(np.array([1, 18, 21]), np.array([5, 30, 40]), (none, none))
        array([ 0, 16, -1])
        """
        if self.by == "label":
            one, other = labels
            key = np.where((one < 0) | (other < 0), -1, one * len(self.labels) + other)
        else:
            bounds = self.bounds
            assert bounds is not None
            number = distance if self.by == "distance" else position
            key = np.searchsorted(bounds[:, 0], number, side="right") - 1
        return np.where(distance <= self.furthest, key, -1).astype(np.int64)
