"""Counting and estimation in two threads against one."""

from __future__ import annotations

from functools import partial
from typing import Any

import measure
import numpy as np
from claim import Claim, Contest, Side, Table, equal

from claims.counting import BINS, counted
from claims.size import Size, dependent
from mi_probe import Binning, kernels
from mi_probe.estimators import Estimate, estimate


def _in(threads: int, work: Any) -> Any:
    with measure.threads(threads):
        return work()


def table(size: Size) -> Table:
    """The claim."""
    x = dependent(size.long, size.variables)
    codes = Binning.fit(x, bins=BINS).encode(x)
    counts = counted(codes)

    def adding(threads: int, name: str) -> Side:
        tables = np.zeros_like(counts.tables)

        def add() -> Any:
            kernels.count_pairs(codes, tables)
            return tables

        return Side(name, partial(_in, threads, add), before=lambda: tables.fill(0))

    def same_estimates(ours: Estimate, theirs: Estimate) -> bool:
        return all(equal(getattr(ours, name), getattr(theirs, name)) for name in ("raw", "chance", "mi", "se"))

    count, estimates = partial(counted, codes), partial(estimate, counts)
    return Table(
        "Two threads against one",
        f"{size.long:,} samples of {size.variables} variables, {BINS} bins.",
        (
            Contest(
                "counts of every pair, into tables that are there",
                adding(1, "one thread"),
                (
                    Claim(
                        adding(2, "two threads"),
                        lambda ours, theirs: equal(ours, theirs) and equal(ours, counts.tables),
                        "equal counts",
                        target=1.8,
                    ),
                ),
            ),
            Contest(
                "counts of every pair, with new tables from the system",
                Side("one thread", partial(_in, 1, count)),
                (
                    Claim(
                        Side("two threads", partial(_in, 2, count)),
                        lambda ours, theirs: equal(ours.tables, theirs.tables) and equal(ours.margins, theirs.margins),
                        "equal counts",
                    ),
                ),
            ),
            Contest(
                "estimates of every pair, from counts",
                Side("one thread", partial(_in, 1, estimates)),
                (Claim(Side("two threads", partial(_in, 2, estimates)), same_estimates, "equal estimates"),),
            ),
        ),
    )
