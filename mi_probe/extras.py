"""What can be counted beside the pairs, for errors, significance and comparison."""

from __future__ import annotations

from dataclasses import dataclass

from mi_probe.tokenkeys import TokenKeys

__all__ = ["LAGS", "MAX_LAGS", "MAX_SHARDS", "MIN_SHARDS", "Extras"]

LAGS = 12
"""Enough for tokens whose correlation falls by a fifth or more with each step: .8^24 = .005 of it is left beyond."""

MAX_LAGS = 64

MIN_SHARDS, MAX_SHARDS = 16, 256
"""Fewer shards estimate a standard error too coarsely: with 16 it is itself off by 18 % (one standard deviation)."""


@dataclass(frozen=True)
class Extras:
    """What is counted beside the pairs, at what price.

    Attributes
    ----------
    lags : int
        Lagged counts of each variable up to this many tokens apart, for p-values of autocorrelated tokens. 0: none.
    shards : int
        Keep this many separate sets of joint counts, documents dealt out among them, for standard errors of tokens that depend
        on each other. Memory and counting time as many times, and twice, respectively. 0: none.
    swap : bool
        Count pairs across documents, too: the first variable in one, the second in another, at the same positions. Twice the
        memory, three times the counting.
    moments : bool
        Second moments of the values themselves, for the linear share of the MI.
    tokens : TokenKeys, optional
        Pairs of tokens, by key. None: none.
    """

    lags: int = 0
    shards: int = 0
    swap: bool = False
    moments: bool = False
    tokens: TokenKeys | None = None
