"""Values of every pair of named variables, as vectors, matrices and tables: what all estimates have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import InputError, nearest
from mi_probe.units import Units, per_nat

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PairTable", "square"]


Pair = tuple[NDArray[np.intp], NDArray[np.intp]]


def square(values: NDArray[Any], diagonal: NDArray[Any], pairs: Pair | None = None) -> NDArray[Any]:
    """The symmetric matrix of values of the pairs i < j and of a diagonal.

    Parameters
    ----------
    values : array, shape (pairs,)
    diagonal : array, shape (variables,)
    pairs : (array, array), each of shape (pairs,), optional
        The two variables of each pair, where there are values of some only: all others are NaN, in a matrix of float64.

    Examples
    --------
    >>> import numpy as np
    >>> square(np.array([1, 2, 3]), np.zeros(3, dtype=int))
    array([[0, 1, 2],
           [1, 0, 3],
           [2, 3, 0]])
    """
    size = len(diagonal)
    if pairs is None:
        matrix, pairs = np.empty((size, size), dtype=np.result_type(values, diagonal)), np.triu_indices(size, 1)
    else:
        matrix = np.full((size, size), np.nan)
    first, second = pairs
    matrix[first, second] = values
    matrix[second, first] = values
    np.fill_diagonal(matrix, diagonal)
    return matrix


class PairTable(ABC):
    """Base of `PairwiseMI` and `NeighbourMI`: columns by name, tables, the strongest pairs."""

    names: tuple[str, ...]
    listed: NDArray[np.intp] | None = None
    _without_unit = ("correlation", "n", "p", "q")

    @property
    def pair_indices(self) -> Pair:
        """The first and the second variable of each pair, as positions among `names`, each of shape (pairs,).

        Of all pairs it is the order of ``numpy.triu_indices(variables, 1)``.
        """
        if self.listed is None:
            return np.triu_indices(len(self.names), 1)
        return self.listed[:, 0].copy(), self.listed[:, 1].copy()

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the values that every pair has here, in the order of the tables."""

    @abstractmethod
    def _column(self, what: str) -> NDArray[Any]:
        """The values of one of `columns`, shape (pairs,)."""

    def pairs(self, what: str = "mi") -> NDArray[Any]:
        """The values of the pairs i < j, shape (pairs,), in the order of `pair_indices`.

        Parameters
        ----------
        what : str
            One of `columns`.

        Raises
        ------
        InputError
            There is no such column here.
        """
        if what not in self.columns:
            raise InputError(f"pairs have {', '.join(self.columns)} here; not {what!r}{nearest(str(what), self.columns)}.")
        return np.asarray(self._column(what))

    def to_frame(self, *, units: Units = "nats") -> pd.DataFrame:
        """All pairs as a table: i, j, then `columns`.

        Parameters
        ----------
        units : {"nats", "bits"}
        """
        first, second = self.pair_indices
        return self._frame(first, second, np.arange(len(first)), units)

    def top_pairs(self, k: int = 10, by: str = "mi", *, units: Units = "nats") -> pd.DataFrame:
        """The k pairs of largest value in one column, largest first, as a table: i, j, then `columns`.

        Parameters
        ----------
        k : int
        by : str
            One of `columns`.
        units : {"nats", "bits"}

        Raises
        ------
        InputError
            There is no such column here, or no such unit.
        """
        if not isinstance(k, int | np.integer) or isinstance(k, bool):
            raise InputError(f"k must be a whole number of pairs; got {k!r}.")
        values = np.asarray(self.pairs(by), dtype=np.float64)
        values = np.nan_to_num(values, nan=-np.inf)
        k = max(0, min(k, len(values)))
        best = np.argpartition(-values, k - 1)[:k] if 0 < k < len(values) else np.arange(len(values))[:k]
        best = best[np.argsort(-values[best], kind="stable")]
        first, second = self.pair_indices
        return self._frame(first[best], second[best], best, units)

    def _frame(self, first: NDArray[Any], second: NDArray[Any], at: NDArray[Any], units: Units) -> pd.DataFrame:
        import pandas as pd

        scale = per_nat(units)
        names = np.array(self.names, dtype=object)
        columns = {what: self.pairs(what)[at] * (1 if what in self._without_unit else scale) for what in self.columns}
        return pd.DataFrame({"i": names[first], "j": names[second], **columns})
