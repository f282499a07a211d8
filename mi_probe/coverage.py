"""Which shards of which corpora some counts hold, so that no document is counted twice; what edges were made from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import combinations
from math import gcd
from typing import Any

from mi_probe.errors import InputError, OverlapError

__all__ = [
    "SEVERAL",
    "Part",
    "absent",
    "calibration_of_both",
    "described",
    "newer",
    "origin",
    "parts_from",
    "run_of_both",
    "together",
    "totals_of",
]

SEVERAL = "equal edges, made in several ways"
"""Under this name the calibration of a sum holds those of its parts, where they say different things."""


_MOST_LISTED = 10_000  # shards that are looked through one by one


@dataclass(frozen=True, order=True)
class Part:
    """One shard of one corpus in one order; the whole of it is shard 1 of 1.

    Shard k of N holds the blocks b, numbered from 0, with ``b % N == k - 1``.

    Attributes
    ----------
    source : str
        Fingerprint of the corpus as it came: digits and letters a to f.
    name : str
        What people call it. A label: parts with other names may overlap.
    order : str
        The order of its documents, in words: ``"as it comes"``, ``"shuffled, seed 3"``.
    shard, of : int
        From 1 to `of`.
    complete : bool
        Whether all of the shard was counted. Of one that was not, nobody knows here which documents were.

    Raises
    ------
    InputError
        A value that means nothing.

    Examples
    --------
    >>> first, second = (Part("c0ffee", "books", "as it comes", k, 4, True) for k in (1, 2))
    >>> print(first)
    shard 1 of 4 of books (as it comes)
    >>> first.overlaps(second)
    False
    """

    source: str
    name: str
    order: str
    shard: int
    of: int
    complete: bool

    def __post_init__(self) -> None:
        for what in ("source", "name", "order"):
            if not isinstance(getattr(self, what), str):
                raise InputError(f"a part's {what} must be text; got {getattr(self, what)!r}.")
        if not self.source or set(self.source) - set("0123456789abcdef"):
            raise InputError(f"a part's source must be a fingerprint, digits and letters a to f; got {self.source!r}.")
        if not self.order:
            raise InputError("a part's order must say in words how its documents are ordered, such as 'as it comes'; got ''.")
        for what in ("shard", "of"):
            if not isinstance(getattr(self, what), int) or isinstance(getattr(self, what), bool):
                raise InputError(f"a part's {what} must be a whole number; got {getattr(self, what)!r}.")
        if not 1 <= self.shard <= self.of:
            raise InputError(f"a shard must be 1 to the number of shards; got {self.shard} of {self.of}.")
        if not isinstance(self.complete, bool):
            raise InputError(f"a part's complete must be true or false; got {self.complete!r}.")

    def __str__(self) -> str:
        which = "all" if self.of == 1 else f"shard {self.shard} of {self.of}"
        return f"{which} of {self.name or self.source} ({self.order}{'' if self.complete else ', not finished'})"

    def overlaps(self, other: Part) -> bool:
        """Whether both may hold the same document.

        In the same order, shards k of N and j of M share blocks exactly if k - j is a multiple of the greatest common divisor of
        N and M. In another order the blocks are others, and any two shards may share documents.
        """
        if self.source != other.source:
            return False
        return self.order != other.order or (self.shard - other.shard) % gcd(self.of, other.of) == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Any) -> Part:
        """What `to_dict` gave.

        Raises
        ------
        InputError
            Not a table of these keys, or a value that means nothing.
        """
        needed = [field.name for field in fields(Part)]
        if not isinstance(values, Mapping) or sorted(values) != sorted(needed):
            got = ", ".join(map(str, values)) if isinstance(values, Mapping) else repr(values)
            raise InputError(f"a part is a table of {', '.join(needed)}; got {got}.")
        return Part(**values)


def parts_from(values: Any) -> list[Part]:
    """Parts from a file's header.

    Raises
    ------
    InputError
        Not a list of them, or two that overlap: nothing that adds up holds them both.
    """
    if not isinstance(values, list):
        raise InputError(f"parts must be a list; got {values!r}.")
    parts = [Part.from_dict(one) for one in values]
    by_source: dict[str, list[Part]] = {}
    for part in parts:
        by_source.setdefault(part.source, []).append(part)
    for group in by_source.values():  # no others can overlap
        for one, two in combinations(group, 2):
            if one.overlaps(two):
                raise InputError(f"these counts say that they hold both {one} and {two}, which overlap.")
    return parts


def together(mine: Sequence[Part], theirs: Sequence[Part]) -> list[Part]:
    """The parts of a sum, sorted.

    Raises
    ------
    OverlapError
        A document may be in both; the first two parts that overlap are named.

    Examples
    --------
    >>> books = [Part("c0ffee", "books", "as it comes", k, 2, True) for k in (1, 2)]
    >>> [part.shard for part in together(books[1:], books[:1])]
    [1, 2]
    """
    for one in mine:
        for two in theirs:
            if one.overlaps(two):
                same = "it" if one == two else "documents of it"
                raise OverlapError(
                    f"both hold counts of the same documents: one has {one}, the other {two}. Adding them would count {same} "
                    f"twice; merge shards of one order, each once{newer(one, two)}."
                )
    return sorted([*mine, *theirs])


def newer(one: Part, two: Part) -> str:
    """More advice on two that overlap, for the end of a message: they may be the same run, earlier and later."""
    where = ("source", "order", "shard", "of")
    same = all(getattr(one, what) == getattr(two, what) for what in where)
    return ", and of two files of one run the later" if same else ""


def described(parts: Sequence[Part]) -> list[str]:
    """What some parts are together: a line for each corpus and order.

    Examples
    --------
    >>> described([Part("c0ffee", "books", "as it comes", k, 3, k < 3) for k in (1, 2, 3)])
    ['books, as it comes: shards 1, 2, 3 of 3, the whole but for what is not finished: 3 of 3']
    """
    groups: dict[tuple[str, str, str], list[Part]] = {}
    for part in sorted(parts):
        groups.setdefault((part.source, part.name, part.order), []).append(part)
    return [f"{name or source}, {order}: {_said(group)}" for (source, name, order), group in groups.items()]


def absent(parts: Sequence[Part]) -> list[str]:
    """What lacks beside some parts for the whole, as far as it can be told: a line for each corpus and order.

    Examples
    --------
    >>> absent([Part("c0ffee", "books", "as it comes", k, 4, True) for k in (1, 4)])
    ['shards 2, 3 of 4 of books (as it comes)']
    """
    groups: dict[tuple[str, str, str], list[Part]] = {}
    for part in sorted(parts):
        groups.setdefault((part.source, part.name, part.order), []).append(part)
    lines = []
    for (source, name, order), group in groups.items():
        of = group[0].of
        there = {part.shard for part in group}
        if {part.of for part in group} == {of} and len(there) < of <= _MOST_LISTED:
            lacking = [Part(source, name, order, shard, of, True) for shard in range(1, of + 1) if shard not in there]
            lines.append(f"{_shards(lacking)} of {name or source} ({order})")
    return lines


def origin(about: Mapping[str, Any]) -> str:
    """What edges were made from, in words; empty where nothing is known.

    Parameters
    ----------
    about : mapping
        As `mi_probe.Edges` has it, or ``calibration`` of a state.

    Examples
    --------
    >>> origin({"kind": "sample", "tokens": 20_000, "documents": 310, "corpus": "books", "seed": 0})
    'from a random sample of 20,000 tokens of 310 documents (books)'
    """
    several = about.get(SEVERAL)
    if isinstance(several, list):
        said = [origin(each) if isinstance(each, Mapping) else "" for each in several]
        return "equal ones, " + " and ".join(dict.fromkeys(each or "of unknown origin" for each in said))
    kind, tokens, documents, corpus = (about.get(name) for name in ("kind", "tokens", "documents", "corpus"))
    if kind == "given":
        return "given as arrays"
    kinds = {"sample": "from all" if about.get("whole") else "from a random sample of"}
    kinds |= {"head": "from the first", "run": "from a run's first"}
    words = []
    if str(kind) in kinds and isinstance(tokens, int):
        words.append(f"{kinds[str(kind)]} {tokens:,} tokens")
        words += [f"of {documents:,} document{'' if documents == 1 else 's'}"] if isinstance(documents, int) else []
    words += [f"({corpus})"] if corpus else []
    return " ".join(words)


def _said(parts: list[Part]) -> str:
    shares = sum(Fraction(1, part.of) for part in parts)  # they do not overlap, so this is what of the corpus they hold
    unfinished = [part for part in parts if not part.complete]
    if parts[0].of == 1:
        return "not finished" if unfinished else "the whole"
    text = _shards(parts)
    if shares == 1:
        text += ", the whole"
        if unfinished:
            text += f" but for what is not finished: {_shards(unfinished).removeprefix('shards ').removeprefix('shard ')}"
    elif len(unfinished) == len(parts):
        text += ", not finished"
    elif unfinished:
        text += f"; not finished: {_shards(unfinished).removeprefix('shards ').removeprefix('shard ')}"
    return text


def _shards(parts: list[Part]) -> str:
    """In words: shards 1 to 3, 7 of 8."""
    said = []
    for of in sorted({part.of for part in parts}):
        numbers = sorted(part.shard for part in parts if part.of == of)
        runs: list[list[int]] = []
        for number in numbers:
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        words = [f"{run[0]} to {run[-1]}" if len(run) > 3 else ", ".join(map(str, run)) for run in runs]
        said.append(f"{'shard' if len(numbers) == 1 else 'shards'} {', '.join(words)} of {of}")
    return " and ".join(said)


def run_of_both(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What the run of a sum says: what both say alike, numbers in totals added up, and the fingerprint of the weights."""
    both = {
        name: value
        for name, value in mine.items()
        if name not in ("position", "totals", "weights") and name in theirs and _as_json(value) == _as_json(theirs[name])
    }
    weights = mine.get("weights", theirs.get("weights"))  # no part of the sum is known to be of others
    if weights is not None:
        both["weights"] = weights
    totals = Counter(totals_of(mine))
    totals.update(totals_of(theirs))
    if totals:
        both["totals"] = dict(totals)
    return both


def totals_of(run: dict[str, Any]) -> dict[str, float]:
    """The numbers of a run that add up, by name.

    Raises
    ------
    InputError
        What is there is something else.
    """
    totals = run.get("totals", {})
    if not isinstance(totals, dict) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < float("inf")
        for number in totals.values()
    ):
        raise InputError(f"the totals of a run must be a table of numbers from 0; got {totals!r}.")
    return totals


def calibration_of_both(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Both describe the same edges, or they would not add up: all that is said of them stays."""
    said: dict[str, Any] = {}
    for one in (mine, theirs):
        for each in one[SEVERAL] if set(one) == {SEVERAL} else [one]:
            if each:
                said[_as_json(each)] = each
    several = [said[key] for key in sorted(said)]
    return {SEVERAL: several} if len(several) > 1 else several[0] if several else {}


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
