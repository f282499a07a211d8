"""Which dimensions of a hook point, and which of their pairs, are counted where all of them would be too many."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.binning import as_samples, mean_and_sd
from mi_probe.errors import InputError, nearest

__all__ = [
    "Between",
    "ChosenBy",
    "Dimensions",
    "Pairs",
    "Subset",
    "Width",
    "as_between",
    "as_dimensions",
    "as_pairs",
    "columns_of",
    "most_variable",
    "name_between",
]

ChosenBy = Literal["variance", "random"]
Dimensions = int | tuple[int, ...] | None
Pairs = Literal["all", "between", "none"] | int | tuple[tuple[int, int], ...]
Between = Literal["next", "first"] | tuple[tuple[str, str], ...] | None
Width = int | tuple[int, int]
"""Columns of an activation; or of each of two that stand side by side."""
Index = NDArray[np.intp]

_OF_DIMENSIONS, _OF_PAIRS = 0, 1  # streams of random numbers, so that one choice does not tell of the other


def as_dimensions(given: Any) -> Any:
    """Dimensions as a probe keeps them, a number or a sorted tuple without repetitions; as given if they are neither.

    Examples
    --------
    >>> as_dimensions([7, 3, 7]), as_dimensions(256), as_dimensions("all")
    ((3, 7), 256, 'all')
    """
    if given is None or isinstance(given, str | bool):
        return given
    if np.ndim(given) == 0 and hasattr(given, "__index__"):
        return index(given)  # NumPy's whole numbers too
    try:
        return tuple(sorted({_whole(one) for one in given}))
    except TypeError:
        return given


def as_pairs(given: Any) -> Any:
    """Pairs as a probe keeps them: "all", "none", a number, or a sorted tuple of (i, j), i below j; as given if none of these.

    A pair that occurs twice, or whose ends are equal, stays: `Subset.problems` tells of it.

    Examples
    --------
    >>> as_pairs([[5, 2], [0, 1]]), as_pairs("all")
    (((0, 1), (2, 5)), 'all')
    """
    if isinstance(given, str | bool):
        return given
    if np.ndim(given) == 0 and hasattr(given, "__index__"):
        return index(given)
    try:
        return tuple(sorted((min(i, j), max(i, j)) for i, j in ((_whole(i), _whole(j)) for i, j in given)))
    except (TypeError, ValueError):
        return given


def as_between(given: Any, pairs: Any) -> Any:
    """Which hook points meet, as a probe keeps it: "next" unless it is said; as given if it is no word or list of pairs.

    Examples
    --------
    >>> as_between(None, "between"), as_between([["mlp_out", "embed"]], "between"), as_between(None, "all")
    ('next', (('mlp_out', 'embed'),), None)
    """
    if given is None:
        return "next" if isinstance(pairs, str) and pairs == "between" else None
    if isinstance(given, str):
        return given
    try:
        return tuple(one if isinstance(one, str) else tuple(one) for one in given)
    except TypeError:
        return given


def name_between(first: str, second: str) -> str:
    """What a pair of hook points is called.

    Examples
    --------
    >>> name_between("hidden_states.0", "hidden_states.1")
    'hidden_states.0 -> hidden_states.1'
    """
    return f"{first} -> {second}"


def columns_of(width: Width) -> int:
    """Columns in all.

    Examples
    --------
    >>> columns_of(768), columns_of((768, 3072))
    (768, 3840)
    """
    return sum(width) if isinstance(width, tuple) else width


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("a truth value is no index")
    return index(value)


@dataclass(frozen=True)
class Subset:
    """Which dimensions and which pairs a probe asks for; see `mi_probe.Probe`.

    Attributes
    ----------
    dimensions : int, tuple of int, or None
        A number of them, which they are, or all.
    chosen_by : {"variance", "random"}
        How a number of them is chosen.
    seed : int
        For random dimensions and random pairs.
    pairs : "all", "between", "none", int, or tuple of (i, j)
        Every pair, each dimension of one hook point with each of another, no pair (as where pairs of tokens are counted), a
        number of random ones, or which they are.
    between : "next", "first", tuple of (name, name), or None
        Which hook points meet where pairs are between them.

    Examples
    --------
    >>> subset = Subset(pairs=((2, 7), (2, 40)))
    >>> subset.columns(768), subset.positions(subset.columns(768), 3)
    (array([ 2,  7, 40]), array([[0, 1],
           [0, 2]]))
    """

    dimensions: Dimensions = None
    chosen_by: ChosenBy = "variance"
    seed: int = 0
    pairs: Pairs = "all"
    between: Between = None

    def problems(self) -> list[str]:
        """Everything that is impossible, in words; nothing if it can be used."""
        dimensions, pairs = self.dimensions, self.pairs
        found = []
        if isinstance(dimensions, tuple):
            if len(dimensions) < 2 or dimensions[0] < 0:
                found.append(f"dimensions must be two or more indices from 0; got {_some(dimensions)}")
        elif dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 2):
            found.append(f"dimensions must be a list of indices, or how many to choose, at least 2; got {_some(dimensions)}")
        if self.chosen_by not in get_args(ChosenBy):
            hint = nearest(str(self.chosen_by), get_args(ChosenBy))
            found.append(f"chosen_by must be one of {get_args(ChosenBy)}; got {self.chosen_by!r}{hint}")
        elif self.chosen_by != "variance" and not isinstance(dimensions, int):
            found.append(f"chosen_by = {self.chosen_by!r} needs a number of dimensions to choose; got {_some(dimensions)}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            found.append(f"seed must be a whole number from 0 to 2^63 - 1; got {self.seed!r}")
        if isinstance(pairs, tuple):
            found += self._problems_of_list(pairs)
        elif pairs not in ("all", "between", "none") and (not isinstance(pairs, int) or isinstance(pairs, bool) or pairs < 1):
            hint = nearest(pairs, ("all", "between")) if isinstance(pairs, str) else ""
            found.append(
                f"pairs must be 'all', 'between', a number of random pairs, or a list of [i, j]; got {_some(pairs)}{hint}"
            )
        return found + self._problems_between()

    def _problems_between(self) -> list[str]:
        between = self.between
        if between is None:
            return []
        if self.pairs != "between":
            return [f"between says which hook points meet, and takes pairs = 'between'; pairs is {_some(self.pairs)}"]
        if between in ("next", "first"):
            return []
        words = "between must be 'next', 'first', or a list of [name, name]"
        if isinstance(between, str):
            return [f"{words}; got {between!r}{nearest(between, ('next', 'first'))}"]
        if not isinstance(between, tuple) or not between:
            return [f"{words}; got {_some(between)}"]
        found = []
        for k, two in enumerate(between):
            if not isinstance(two, tuple) or len(two) != 2 or not all(isinstance(name, str) and name for name in two):
                found.append(f"{words}; got {_some(two)} in it")
            elif two[0] == two[1]:
                found.append(f"between pairs '{two[0]}' with itself, which pairs = 'all' does: name two places")
            elif any(isinstance(other, tuple) and set(other) == set(two) for other in between[:k]):
                found.append(f"between has {list(two)} twice; [a, b] and [b, a] are the same pairs")
        return found

    def _problems_of_list(self, pairs: tuple[tuple[int, int], ...]) -> list[str]:
        if not pairs:
            return ["pairs is an empty list; leave it out, or say 'all', to count every pair"]
        if pairs[0][0] < 0:
            return [f"pairs must be of indices from 0; got {list(pairs[0])}"]
        same = next((pair for pair in pairs if pair[0] == pair[1]), None)
        if same is not None:
            return [f"pairs must be of two different dimensions; got {list(same)}"]
        twice = next((pair for pair, after in pairwise(pairs) if pair == after), None)
        if twice is not None:
            return [f"pairs has {list(twice)} twice; [i, j] and [j, i] are the same pair"]
        if isinstance(self.dimensions, int):
            return ["a list of pairs says which dimensions are counted: leave dimensions out, or list those, too"]
        if isinstance(self.dimensions, tuple):
            outside = next((p for p in pairs if not {*p} <= set(self.dimensions)), None)
            if outside is not None:
                return [f"pairs has {list(outside)}, and dimensions lacks {sorted({*outside} - set(self.dimensions))}"]
        return []

    @property
    def by_variance(self) -> bool:
        """Whether values have to be seen before dimensions are chosen."""
        return isinstance(self.dimensions, int) and self.chosen_by == "variance"

    def size(self, width: Width) -> tuple[int, int]:
        """How many variables and pairs are counted where an activation has so many columns.

        Examples
        --------
        >>> Subset(dimensions=256).size(1600), Subset(dimensions=256, pairs=1000).size(1600)
        ((256, 32640), (256, 1000))
        >>> Subset(dimensions=256, pairs="between").size((1600, 6400))
        (512, 65536)
        """
        if isinstance(width, tuple):
            first, second = (self.size(each)[0] for each in width)
            return first + second, first * second
        wanted: Any = self.dimensions
        if wanted is None and isinstance(self.pairs, tuple):
            wanted = {end for pair in self.pairs for end in pair}
        kept = width if wanted is None else min(width, wanted if isinstance(wanted, int) else len(wanted))
        pairs = kept * (kept - 1) // 2
        if isinstance(self.pairs, str):
            return kept, pairs if self.pairs == "all" else 0
        return kept, min(pairs, self.pairs if isinstance(self.pairs, int) else len(self.pairs))

    def columns(self, width: Width) -> Index | None:
        """The columns to keep of an activation of so many, ascending; None for all, and for those that only variance will tell.

        Of two side by side, those of each.

        Raises
        ------
        InputError
            There are fewer columns, or fewer pairs, than were asked for.
        """
        if isinstance(width, tuple):
            parts = [self.columns(each) for each in width]
            if all(part is None for part in parts):
                return None
            first, second = (np.arange(w) if part is None else part for part, w in zip(parts, width, strict=True))
            return np.concatenate([first, width[0] + second]).astype(np.intp)
        wanted = self.dimensions
        if wanted is None and isinstance(self.pairs, tuple):
            wanted = tuple(sorted({end for pair in self.pairs for end in pair}))
        kept = len(wanted) if isinstance(wanted, tuple) else width if wanted is None else wanted
        if isinstance(wanted, tuple) and wanted[-1] >= width:
            raise InputError(f"the probe asks for dimension {wanted[-1]}, and there are {width:,} here: 0 to {width - 1}.")
        if kept > width:
            raise InputError(f"the probe asks for {kept:,} dimensions, and there are {width:,} here.")
        if isinstance(self.pairs, int):
            self._require_pairs(self.pairs, kept)
        if kept == width or self.by_variance:
            return None
        if isinstance(wanted, tuple):
            return np.array(wanted, dtype=np.intp)
        return np.sort(np.random.default_rng([self.seed, _OF_DIMENSIONS]).permutation(width)[:kept]).astype(np.intp)

    def positions(self, columns: NDArray[np.integer] | None, variables: int) -> Index | None:
        """The pairs to count, as positions i < j among the columns that are kept, shape (pairs, 2), sorted; None for all.

        None, too, where pairs are between two hook points: edges that have two sides say so.

        Parameters
        ----------
        columns : array, shape (variables,), or None
            Which columns of the activation the variables are, ascending; None where all are kept.
        variables : int

        Raises
        ------
        InputError
            A pair has a dimension that is not kept, or there are fewer pairs than were asked for.
        """
        if isinstance(self.pairs, tuple):
            ends = np.array(self.pairs, dtype=np.intp)
            if columns is None:
                columns = np.arange(variables)
            found = np.searchsorted(columns, ends)
            absent = np.argwhere(np.append(columns, -1)[found] != ends)
            if len(absent):
                row, end = ends[absent[0][0]].tolist(), ends[tuple(absent[0])]
                raise InputError(f"the probe asks for the pair {row}, and dimension {end} is not counted here.")
            return found
        if isinstance(self.pairs, str):
            return None if self.pairs == "all" else np.zeros((0, 2), dtype=np.intp)
        self._require_pairs(self.pairs, variables)
        # Without repetition, from the ranks of all pairs in the order of numpy.triu_indices.
        starts = np.concatenate([[0], np.cumsum(variables - 1 - np.arange(variables - 1))])
        generator = np.random.default_rng([self.seed, _OF_PAIRS])
        ranks = np.sort(generator.choice(int(starts[-1]), self.pairs, replace=False, shuffle=False))
        first = np.searchsorted(starts, ranks, side="right") - 1
        return np.stack([first, ranks - starts[first] + first + 1], axis=1).astype(np.intp)

    @staticmethod
    def _require_pairs(wanted: int, variables: int) -> None:
        there = variables * (variables - 1) // 2
        if wanted > there:
            raise InputError(f"the probe asks for {wanted:,} random pairs, and {variables:,} dimensions have {there:,}.")


def most_variable(x: ArrayLike, k: int) -> Index:
    """The k columns of largest variance, ascending; of equal ones the first. Values that are not finite are left out.

    Parameters
    ----------
    x : array, shape (samples, variables)
    k : int

    Examples
    --------
    >>> most_variable([[0.0, 9.0, 1.0, 5.0], [0.0, 5.0, 2.0, 1.0]], 2)
    array([1, 3])
    """
    values = as_samples(x)
    _, sd = mean_and_sd(np.where(np.isfinite(values), values, values.dtype.type(np.nan)))
    return np.sort(np.argsort(-sd, kind="stable")[:k])


def _some(value: Any) -> str:
    """A value for a message, however long it is."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."
