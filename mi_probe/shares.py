"""Which pairs each of several processes counts, where their tables are divided among them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Share"]


class Share(NamedTuple):
    """One of several shares of the pairs: those between two places in their order, so that the shares follow each other.

    Examples
    --------
    >>> [Share(number, 3).rows(6) for number in range(3)]  # of 15 pairs: 5, 4 and 6
    [(0, 1), (1, 2), (2, 5)]
    >>> str(Share(0, 3))
    'share 1 of 3'
    """

    number: int
    """From 0."""
    of: int

    def __str__(self) -> str:
        return f"share {self.number + 1} of {self.of}"

    def rows(self, variables: int) -> tuple[int, int]:
        """The first variables i of the pairs i < j of this share, from the first to before the last; as equal in pairs as can be.

        Parameters
        ----------
        variables : int
        """
        row = np.arange(variables, dtype=np.int64)
        starts = row * (2 * variables - row - 1) // 2  # pairs before each row; the last one has none of its own
        first, last = (self._nearest(starts, k) for k in (self.number, self.number + 1))
        return first, last

    def _nearest(self, starts: np.ndarray, k: int) -> int:
        """The row at which k of the shares end."""
        wanted = int(starts[-1]) * k / self.of
        after = min(int(np.searchsorted(starts, wanted)), len(starts) - 1)
        before = max(after - 1, 0)
        return before if wanted - starts[before] < starts[after] - wanted else after

    def places(self, variables: int, listed: int | None = None) -> tuple[int, int]:
        """Where this share begins and ends in the order of the pairs.

        Parameters
        ----------
        variables : int
        listed : int, optional
            How many pairs there are, where these are not all pairs of the variables.

        Examples
        --------
        >>> [Share(number, 3).places(6) for number in range(3)], Share(1, 3).places(6, listed=8)
        ([(0, 5), (5, 9), (9, 15)], (2, 5))
        """
        if listed is not None:
            return listed * self.number // self.of, listed * (self.number + 1) // self.of
        first, last = (row * (2 * variables - row - 1) // 2 for row in self.rows(variables))
        return first, last

    def largest(self, variables: int, listed: int | None = None) -> int:
        """Pairs of the largest of all shares.

        Examples
        --------
        >>> Share(0, 3).largest(6)
        6
        """
        places = (Share(number, self.of).places(variables, listed) for number in range(self.of))
        return max(last - first for first, last in places)
