"""A claim: ours against a peer. First both must agree, then they are timed in turn, in one process, on the same data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import measure
import numpy as np
from measure import Spread
from numpy.typing import ArrayLike, NDArray

__all__ = ["Claim", "Contest", "Row", "Side", "Table", "agreeing", "close", "correlated", "equal", "run"]


@dataclass(frozen=True)
class Side:
    """One way to do it.

    Attributes
    ----------
    name : str
    work : callable
        What is timed.
    before, after : callables, optional
        What has to be done around it and is not timed.
    """

    name: str
    work: Callable[[], Any]
    before: Callable[[], Any] | None = None
    after: Callable[[], Any] | None = None

    def around(self, measured: Callable[[Callable[[], Any]], Any]) -> Any:
        """`measured` of the work, with `before` and `after` around it."""
        if self.before is not None:
            self.before()
        try:
            return measured(self.work)
        finally:
            if self.after is not None:
                self.after()


@dataclass(frozen=True)
class Claim:
    """One row: ours against the peer of its contest.

    Attributes
    ----------
    ours : Side
    agree : callable (ours, theirs) -> bool
        Whether the two results are what they should be.
    checked : str
        The same in words.
    target : float, optional
        The ratio's median must be at least that much ("faster") or at most ("cost"). None: the row only informs.
    kind : {"faster", "cost"}
        ``faster``: the ratio is the peer's time over ours. ``cost``: ours over the peer's.
    """

    ours: Side
    agree: Callable[[Any, Any], bool]
    checked: str
    target: float | None = None
    kind: Literal["faster", "cost"] = "faster"


@dataclass(frozen=True)
class Contest:
    """Claims against one peer, timed in turn with it.

    Attributes
    ----------
    what : str
        What is done, in words.
    peer : Side
    claims : tuple of Claim
    share : float
        The part of the work that the peer does: its times are divided by it.
    part : str
        That part in words.
    """

    what: str
    peer: Side
    claims: tuple[Claim, ...]
    share: float = 1.0
    part: str = ""


@dataclass(frozen=True)
class Table:
    """What is claimed, and the contests that show it."""

    title: str
    about: str
    contests: tuple[Contest, ...]


@dataclass(frozen=True)
class Row:
    """What one claim came to: seconds of every repeat, the peer's scaled to the whole work, and peak bytes."""

    contest: Contest
    claim: Claim
    ours: list[float]
    peer: list[float]
    ours_bytes: int
    peer_bytes: int

    @property
    def ratio(self) -> Spread:
        """Of the ratios of the repeats."""
        pairs = zip(self.ours, self.peer, strict=True)
        return Spread.of([b / a if self.claim.kind == "faster" else a / b for a, b in pairs])

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None where there is none."""
        if self.claim.target is None:
            return None
        median = self.ratio.median
        return median >= self.claim.target if self.claim.kind == "faster" else median <= self.claim.target


def run(contest: Contest, repeats: int) -> list[Row]:
    """Check, then time A B A B ..., then measure memory in calls of their own.

    The check is the warm-up: each side's first call.

    Raises
    ------
    SystemExit
        The two sides differ; nothing was timed.
    """
    theirs = contest.peer.around(lambda work: work())
    for claim in contest.claims:
        if not claim.agree(claim.ours.around(lambda work: work()), theirs):
            raise SystemExit(f"{contest.what}: {claim.ours.name} and {contest.peer.name} differ; nothing was timed.")
    del theirs
    ours: list[list[float]] = [[] for _ in contest.claims]
    peer: list[float] = []
    for _ in range(repeats):
        for claim, times in zip(contest.claims, ours, strict=True):
            times.append(claim.ours.around(measure.seconds))
        peer.append(contest.peer.around(measure.seconds) / contest.share)
    peer_bytes = contest.peer.around(measure.peak_memory)
    return [
        Row(contest, claim, times, peer, claim.ours.around(measure.peak_memory), peer_bytes)
        for claim, times in zip(contest.claims, ours, strict=True)
    ]


# -- what it means to agree -------------------------------------------------------------------------------------------


def equal(ours: ArrayLike, theirs: ArrayLike) -> bool:
    """Every number the same."""
    return np.array_equal(np.asarray(ours), np.asarray(theirs))


def close(tolerance: float) -> Callable[[ArrayLike, ArrayLike], bool]:
    """Of one shape, and every number within the tolerance."""

    def agree(ours: ArrayLike, theirs: ArrayLike) -> bool:
        a, b = np.asarray(ours), np.asarray(theirs)
        return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance)

    return agree


def correlated(least: float) -> Callable[[ArrayLike, ArrayLike], bool]:
    """Over pairs, for estimates that are defined differently."""

    def agree(ours: ArrayLike, theirs: ArrayLike) -> bool:
        a, b = (np.asarray(v, dtype=np.float64) for v in (ours, theirs))
        return a.shape == b.shape and bool(np.corrcoef(a.ravel(), b.ravel())[0, 1] >= least)

    return agree


def agreeing(
    test: Callable[[NDArray[Any], NDArray[Any]], bool], of_ours: Callable[[Any], NDArray[Any]]
) -> Callable[[Any, Any], bool]:
    """`test`, where the numbers that the peer gives are `of_ours` of our result."""
    return lambda ours, theirs: test(of_ours(ours), theirs)
