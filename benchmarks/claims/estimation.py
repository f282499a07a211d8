"""What estimates cost beside reading the tables once, what corrections cost beside the plug-in value, and encoding."""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
import peers
from claim import Claim, Contest, Side, Table, close, correlated, equal
from numpy.typing import NDArray

from claims.counting import counted
from claims.size import Size, dependent
from mi_probe import Binning, JointCounts, kernels
from mi_probe.continuous import continuous
from mi_probe.corrections import CORRECTIONS
from mi_probe.estimators import Estimate, estimate
from mi_probe.significance import gamma_p_values


def table(size: Size) -> Table:
    """The claim."""
    x = dependent(size.long, size.variables)
    binning = Binning.fit(x, bins=8)
    threads = numba.get_num_threads()
    return Table(
        "Estimating and encoding",
        f"{size.long:,} samples of {size.variables} variables. A cost is a time in terms of the peer's.",
        (
            *(_reading(x, bins, threads, size) for bins in (8, 16)),
            _corrections(counted(binning.encode(x))),
            Contest(
                "values to codes, 8 bins",
                Side("np.searchsorted, variable by variable", partial(peers.search, x, binning.edges)),
                (Claim(Side("Binning.encode", partial(binning.encode, x)), equal, "equal codes"),),
            ),
        ),
    )


def _reading(x: NDArray[Any], bins: int, threads: int, size: Size) -> Contest:
    counts = counted(Binning.fit(x, bins=bins).encode(x), bins)
    some = np.flatnonzero(np.arange(counts.pairs) % max(1, counts.pairs // 50) == 0)  # some fifty pairs, held to the formula

    def fits(found: Estimate, total: int) -> bool:
        p = counts.tables[some] / counts.n
        independent = p.sum(axis=2, keepdims=True) * p.sum(axis=1, keepdims=True)
        formula = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, independent, 1)), 0).sum(axis=(1, 2))
        return total == int(found.n.sum()) and close(1e-10)(found.raw[some], formula)

    return Contest(
        f"estimates of every pair, from counts, {bins} bins",
        Side(f"every cell read once, {threads} threads", partial(peers.sum_in_threads, counts.tables, threads)),
        (
            Claim(
                Side("estimate: plug-in, chance level, corrected value, error", partial(estimate, counts)),
                fits,
                "samples equal the sum; plug-in values of some pairs within 1e-10 of the formula",
                kind="cost",
            ),
        ),
    )


def _corrections(counts: JointCounts) -> Contest:
    """Beside the estimate without correction."""

    sums = Claim(
        Side("sums over the tables alone", partial(kernels.pair_sums, counts.tables)),
        lambda found, plain: equal(found.n, plain.n),
        "the same samples",
        kind="cost",
    )
    corrected = [
        Claim(
            Side(f"correction {name}", partial(estimate, counts, correction=name)),
            lambda ours, plain: close(1e-12)(ours.raw, plain.raw),
            "plug-in values within 1e-12",
            kind="cost",
        )
        for name in CORRECTIONS
        if name != "none"
    ]
    p_values = Claim(
        Side("p-values, gamma", partial(gamma_p_values, counts)),
        lambda p, plain: correlated(0.9)(_ranks(-p), _ranks(plain.raw)),
        "rank correlation with the plug-in values of at least .9",
        kind="cost",
    )
    unbinned = Claim(
        Side("continuous value and its error", partial(continuous, counts.tables)),
        lambda found, plain: correlated(0.9)(found[0], plain.raw),
        "correlation with the plug-in values of at least .9",
        kind="cost",
    )
    return Contest(
        f"corrections, {counts.bins} bins",
        Side("estimate without correction", partial(estimate, counts, correction="none")),
        (sums, *corrected, p_values, unbinned),
    )


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    return values.argsort(kind="stable").argsort(kind="stable")
