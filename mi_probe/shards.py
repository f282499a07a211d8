"""Standard errors from shards of documents: what varies between them varies because texts do, however alike their tokens are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mi_probe.corrections import Correction
from mi_probe.counts import JointCounts
from mi_probe.estimators import estimate

__all__ = ["shard_errors"]


def shard_errors(whole: JointCounts, shards: Sequence[JointCounts], correction: Correction = "adjusted") -> NDArray[np.float64]:
    """Standard error of the MI of every pair, from what each shard's absence changes.

    With I_s the estimate from all shards but s, the jackknife over groups (Quenouille 1956; Tukey 1958):

        se^2 = (S - 1)/S sum_s (I_s - mean I)^2  (1 - chance/(2 I))

    The last factor is ours: without dependence the estimate is quadratic in the noise, and the jackknife doubles its variance.
    Batch means, the spread of the shards' own estimates over sqrt(S), come to the same where MI is large. Where it is small they
    overstate the error about sqrt(S) times, since the noise of an MI near 0 falls as 1/N and not as its root.

    Parameters
    ----------
    whole : JointCounts
        The sum of the shards.
    shards : sequence of JointCounts
        Those without a sample are left out.
    correction : str
        As for the estimate that the error is of.

    Returns
    -------
    array, shape (pairs,), nats
        NaN with fewer than two shards that have samples.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> shards = [JointCounts.from_codes(rng.integers(0, 4, (500, 2), dtype=np.uint8), 4) for _ in range(16)]
    >>> whole = JointCounts(2, 4)
    >>> for shard in shards:
    ...     whole += shard
    >>> bool(abs(shard_errors(whole, shards)[0] / estimate(whole).se[0] - 1) < 0.5)
    True
    """
    used = [shard for shard in shards if shard.n]
    if len(used) < 2:
        return np.full(whole.pairs, np.nan)
    total, squares = np.zeros(whole.pairs), np.zeros(whole.pairs)
    found = estimate(whole, correction=correction)
    for shard in used:
        rest = JointCounts.from_arrays(
            *(whole.n - shard.n, whole.missing - shard.missing, whole.margins - shard.margins, whole.tables - shard.tables),
            pairs=whole.listed,
            share=whole.share,
        )
        moved = estimate(rest, correction=correction).mi - found.mi
        total += moved
        squares += moved**2
    count = len(used)
    variance = np.maximum(squares - total**2 / count, 0) * (count - 1) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        quadratic = np.clip(np.nan_to_num(found.chance / found.raw), 0, 1)
    return np.asarray(np.sqrt(variance * (1 - quadratic / 2)))
