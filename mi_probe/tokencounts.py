"""Counts of pairs of tokens over many texts: samples are hidden dimensions, and tables are added up by key.

A token is the vector of its values. Each dimension is standardised first, by its mean and standard deviation over the
calibration tokens, or else all that two tokens share would be which dimensions are large in any token; then the values of a token
are cut into bins that hold the same number of dimensions. So all tokens have the same margins. Two things are kept of the joint
table of a pair: itself, added to that of its key, and how many of its cells hold 0, 1, 2, ... dimensions. From the latter the
mean over pairs of any estimate that is a sum over cells follows exactly, and both are whole numbers that add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe import kernels
from mi_probe.binning import MISSING, Binning, auto_bins
from mi_probe.errors import InputError, MergeError
from mi_probe.places import Places
from mi_probe.tokenkeys import TokenKeys

__all__ = ["OTHERS", "TokenCounts", "rank_codes", "ranks_of", "require_dimensions", "sizes_of_bins"]

OTHERS = 128
"""Tokens that are kept with the edges, to be compared with those of other texts."""

_ROWS = 1024  # tokens that are ranked together
_CELLS = 1 << 21  # of tables of single pairs that are there at a time


def sizes_of_bins(dimensions: int, bins: int) -> NDArray[np.int64]:
    """How many of so many values each bin holds, as equal as can be: what `Binning.fit` gives values that all differ.

    Examples
    --------
    >>> sizes_of_bins(94, 5)
    array([19, 19, 18, 19, 19])
    """
    k = np.arange(1, bins)
    lower = (2 * k * dimensions + bins) // (2 * bins)
    cuts = np.where(k <= bins // 2, lower, dimensions - lower[::-1])
    return np.diff(np.concatenate([[0], cuts, [dimensions]])).astype(np.int64)


def ranks_of(rows: NDArray[np.floating], centre: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Rank of each standardised value among those of its token, from 0; of equal ones the first dimension has the lower.

    Parameters
    ----------
    rows : array, shape (tokens, dimensions)
        Finite.
    centre, scale : arrays, shape (dimensions,)
    """
    ranks = np.empty(rows.shape, dtype=np.uint16)
    places = np.arange(rows.shape[1], dtype=np.uint16)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        order = np.argsort((rows[part].astype(np.float64) - centre) / scale, axis=1, kind="stable")
        np.put_along_axis(ranks[part], order, np.broadcast_to(places, order.shape), axis=1)
    return ranks


def rank_codes(ranks: NDArray[np.uint16], bins: int) -> NDArray[np.uint8]:
    """The bin of each rank.

    Examples
    --------
    >>> rank_codes(np.array([[3, 0, 1, 2]], dtype=np.uint16), 2)
    array([[1, 0, 0, 1]], dtype=uint8)
    """
    code = np.repeat(np.arange(bins, dtype=np.uint8), sizes_of_bins(ranks.shape[1], bins))
    return np.asarray(code[ranks])


def require_dimensions(dimensions: int, keys: TokenKeys) -> int:
    """The number of bins of so many values, if they can be cut into as many.

    Raises
    ------
    InputError
        There are fewer than two dimensions for each bin, or too many for 16 bits.
    """
    bins = auto_bins(dimensions) if keys.bins == "auto" else keys.bins
    if not 2 * bins <= dimensions < 2**16:
        raise InputError(
            f"the {dimensions:,} dimensions of a token cannot be cut into {bins} bins: pairs of tokens take two dimensions a bin "
            "at least, and fewer than 65,536. Take fewer bins, or other dimensions."
        )
    return bins


class TokenCounts:
    """Counts of pairs of tokens at one hook point, by key.

    Parameters
    ----------
    keys : TokenKeys
    binning : Binning
        Of the dimensions: its `frame` standardises them, and its `others` are the tokens of other texts.

    Attributes
    ----------
    tables : array, shape (keys, bins, bins), int64
        Joint counts of all pairs of a key together; rows are the earlier token.
    cells : array, shape (keys, shards, most + 1), int64
        How many cells of the tables of single pairs hold 0, 1, 2, ... dimensions; document d is in shard d modulo their number.
    by_other : array, shape (shards, shards, most + 1), int64
        The cells of pairs of different texts once more, by shard and by the token of the calibration that each has: other number
        k is in group k modulo the number of shards. For the error that comes from there being few of those.
    tokens : array, shape (2,), int64
        Tokens seen, and those of them that were left out since a value was not finite.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((20, 64))
    >>> counts = TokenCounts(TokenKeys(furthest=3), Binning.fit(x))
    >>> counts.update(counts.codes(x), Places.of_one_text(20))
    >>> counts.pairs
    array([19, 18, 17,  0])
    """

    SUMS = ("tables", "cells", "by_other", "tokens")

    def __init__(self, keys: TokenKeys, binning: Binning) -> None:
        if binning.frame is None:
            raise InputError(
                "pairs of tokens need the mean and standard deviation that Binning.fit keeps with its edges, and these edges "
                "have none: fit them on a sample."
            )
        self.centre, self.scale = (np.array(column) for column in binning.frame.T)
        self.variables = binning.variables
        self.bins = require_dimensions(self.variables, keys)
        self.keys = replace(keys, bins=self.bins)
        self.margins = sizes_of_bins(self.variables, self.bins)
        others = np.zeros((0, self.variables), np.uint16) if binning.others is None else binning.others
        self.others = rank_codes(others, self.bins)
        self.others_from = np.zeros(0, np.int64) if binning.others_from is None else np.array(binning.others_from)
        names = len(keys.names)
        self.tables = np.zeros((names, self.bins, self.bins), dtype=np.int64)
        self.cells = np.zeros((names, keys.shards, int(self.margins.max()) + 1), dtype=np.int64)
        self.by_other = np.zeros((keys.shards, *self.cells.shape[1:]), dtype=np.int64)
        self.tokens = np.zeros(2, dtype=np.int64)

    @staticmethod
    def nbytes_for(keys: TokenKeys, variables: int) -> int:
        """Bytes of the counts, and of a file that holds them.

        Examples
        --------
        >>> TokenCounts.nbytes_for(TokenKeys(), 768)
        298160
        """
        bins = auto_bins(variables) if keys.bins == "auto" else keys.bins
        most = int(sizes_of_bins(variables, bins).max())
        names = len(keys.names)
        return 8 * (names * bins**2 + (names + keys.shards) * keys.shards * (most + 1) + 2)

    @staticmethod
    def moment_nbytes_for(keys: TokenKeys, variables: int, tokens: int, pairs: int, itemsize: int) -> int:
        """Bytes that coding and counting so many tokens, and pairs of them, take for a moment, beside the values themselves.

        Examples
        --------
        >>> TokenCounts.moment_nbytes_for(TokenKeys(), variables=768, tokens=1024, pairs=1024 * 64, itemsize=4)
        35592192
        """
        bins = auto_bins(variables) if keys.bins == "auto" else keys.bins
        values = tokens * variables
        coding = values * (2 * itemsize + 5) + 20 * min(tokens, _ROWS) * variables  # two copies, ranks, codes; and sorting
        tables = 12 * min(_CELLS, pairs * bins**2)  # of single pairs, and their copy while sizes are counted
        planes = (tokens + OTHERS) * (variables + bins * (variables // 8 + 8))  # and the codes that they are made of
        listing = 90 * pairs  # measured: rows and keys of both tokens, with the steps that lead to them
        return max(coding, values * (itemsize + 2) + max(listing, 48 * pairs + tables + planes))

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Pairs of tokens by key, shape (keys,)."""
        return np.asarray(self.cells.sum(axis=(1, 2)) // self.bins**2)

    def codes(self, rows: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The bin of each value among those of its token, shape (tokens, dimensions); `MISSING` for a token with one that is not
        finite.

        Parameters
        ----------
        rows : array, shape (tokens, dimensions)
        """
        finite = np.isfinite(rows).all(axis=1)
        codes = np.full(rows.shape, MISSING, dtype=np.uint8)
        codes[finite] = rank_codes(ranks_of(rows[finite], self.centre, self.scale), self.bins)
        return codes

    def update(self, codes: NDArray[np.uint8], places: Places) -> None:
        """Count the pairs within each sequence, and each token with one of another text.

        Parameters
        ----------
        codes : array, shape (tokens, dimensions), uint8
            As `codes` gives them.
        places : Places
        """
        whole = np.flatnonzero(codes[:, 0] != MISSING) if len(codes) else np.zeros(0, np.intp)
        seen = np.array([len(codes), len(codes) - len(whole)], dtype=np.int64)
        tables, cells, by_other = (np.zeros_like(each) for each in (self.tables, self.cells, self.by_other))
        first, second, key = self._pairs(places, whole)
        shards, unrelated = self.keys.shards, len(self.keys.names) - 1
        stacked = np.concatenate([codes, self.others]).T
        shard = places.document[first] % shards
        group = np.where(key == unrelated, (second - len(places)) % shards, 0)  # of the other token
        row = (key * shards + shard) * shards + group
        order = np.argsort(row, kind="stable")
        most = max(1, min(_CELLS // self.bins**2, (2**31 - 1) // int(self.margins.max())))  # so that no sum below overflows
        for start in range(0, len(order), most):
            part = order[start : start + most]
            single = np.zeros((len(part), self.bins**2), dtype=np.int32)
            listed = np.stack([first[part], second[part]], axis=1)
            kernels.count_listed(stacked, listed, single.reshape(-1, self.bins, self.bins))
            begins = np.flatnonzero(np.diff(row[part], prepend=-1))
            for begin, end in pairwise([*begins.tolist(), len(part)]):  # pairs of one key, shard and group
                one = part[begin]
                tables[key[one]] += single[begin:end].sum(axis=0, dtype=np.int32).reshape(self.bins, self.bins)
                sizes = np.bincount(single[begin:end].ravel(), minlength=cells.shape[2])
                cells[key[one], shard[one]] += sizes
                if key[one] == unrelated:
                    by_other[shard[one], group[one]] += sizes
        self.tables += tables
        self.cells += cells
        self.by_other += by_other
        self.tokens += seen

    def _pairs(self, places: Places, whole: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
        """Rows of the first and the second token of each pair that counts, and its key; behind all rows are the others."""
        firsts, seconds = [], []
        begins = np.flatnonzero(np.diff(places.sequence[whole], prepend=-1))
        for rows in np.split(whole, begins[1:]):
            position = places.position[rows]
            # Positions ascend: those up to `furthest` behind each one are a stretch.
            end = np.searchsorted(position, position + self.keys.furthest, side="right")
            follow = end - np.arange(len(rows)) - 1
            one = np.repeat(np.arange(len(rows)), follow)
            firsts.append(rows[one])
            seconds.append(rows[one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(follow) - follow, follow)])
        first = np.concatenate([*firsts, np.zeros(0, np.intp)])
        second = np.concatenate([*seconds, np.zeros(0, np.intp)])
        label = places.labels
        key = self.keys.of(
            places.position[second] - places.position[first], places.position[second], (label[first], label[second])
        )
        counts = key >= 0
        mine, theirs = self._unrelated(places, whole)
        return (
            np.concatenate([first[counts], mine]),
            np.concatenate([second[counts], len(places) + theirs]),
            np.concatenate([key[counts], np.full(len(mine), len(self.keys.names) - 1)]),
        )

    def _unrelated(self, places: Places, whole: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """A partner of another document for each token, by where it stands alone: the same however texts are batched."""
        mine, theirs = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
        for document in np.unique(places.document[whole]):
            rows = whole[places.document[whole] == document]
            allowed = np.flatnonzero(self.others_from != document)
            if len(allowed):
                mine.append(rows)
                theirs.append(allowed[_mixed(places.position[rows], int(document)) % len(allowed)])
        return np.concatenate(mine), np.concatenate(theirs)

    def require_same(self, other: TokenCounts) -> None:
        """Raise `MergeError` unless both standardise alike and have the same keys, bins and tokens of other texts."""
        if self.keys != other.keys:
            raise MergeError(f"pairs of tokens are counted by other keys or bins: {self.keys} against {other.keys}.")
        for mine, theirs in ((self.centre, other.centre), (self.scale, other.scale)):
            if not np.array_equal(mine, theirs):
                raise MergeError("pairs of tokens differ: their dimensions were standardised by other means or deviations.")
        if not (np.array_equal(self.others, other.others) and np.array_equal(self.others_from, other.others_from)):
            raise MergeError("pairs of tokens differ: the tokens of other texts that all are compared with are not the same.")

    def __iadd__(self, other: TokenCounts) -> TokenCounts:
        """Add other counts of the same keys."""
        self.require_same(other)
        for name in self.SUMS:
            getattr(self, name).__iadd__(getattr(other, name))
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenCounts) or self.keys != other.keys:
            return False
        return all(np.array_equal(getattr(self, k), getattr(other, k)) for k in (*self.SUMS, "centre", "scale", "others"))

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take sums from a file.

        Raises
        ------
        InputError
            Of another shape, or they contradict each other.
        """
        for name in self.SUMS:
            mine, theirs = getattr(self, name), arrays[name]
            if theirs.shape != mine.shape or theirs.dtype != np.int64 or theirs.min(initial=0) < 0:
                raise InputError(
                    f"'{name}' of pairs of tokens must be counts, int64 of {mine.shape}; got {theirs.dtype} of {theirs.shape}."
                )
        tables, cells, by_other, tokens = (arrays[name] for name in self.SUMS)
        if max(int(a.max(initial=0)) for a in (tables, cells, by_other, tokens)) >= 2**50 or tokens[1] > tokens[0]:
            raise InputError("pairs of tokens have more counts than there can be.")
        by_size = cells.sum(axis=1)
        pairs = by_size.sum(axis=1) // self.bins**2
        dimensions = (by_size * np.arange(cells.shape[2])).sum(axis=1)
        if (
            (by_size.sum(axis=1) % self.bins**2).any()
            or (dimensions != pairs * self.variables).any()
            or (by_other.sum(axis=1) != cells[-1]).any()
            or any((tables.sum(axis=axis) != pairs[:, None] * self.margins).any() for axis in (1, 2))
        ):
            raise InputError("the counts of pairs of tokens contradict each other.")
        for name in self.SUMS:
            getattr(self, name)[:] = arrays[name]


def _mixed(position: NDArray[np.int64], document: int) -> NDArray[np.intp]:
    """Numbers that hang on document and position alone and are spread evenly (the mixing of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.uint64(document + 1) * np.uint64(0x9E3779B97F4A7C15) + position.astype(np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.intp)
