"""How estimates settle as tokens come in: a row of numbers for each power of two, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.estimators import estimate
from mi_probe.keyed import key_values
from mi_probe.pointcounts import PointCounts
from mi_probe.shards import shard_errors
from mi_probe.state import ProbeState

if TYPE_CHECKING:
    import pandas

__all__ = ["convergence", "in_short", "measured", "values_of"]

Values = NDArray[np.float64]


def measured(state: ProbeState, text_tokens: int) -> dict[str, Any]:
    """The row of this moment: at each hook point, over its pairs, the mean MI, how far it spreads, and how large errors are.

    Parameters
    ----------
    state : ProbeState
    text_tokens : int
        Tokens of the text that were run, counted or not.

    Returns
    -------
    dict
        ``tokens`` counted, ``text_tokens``, and ``points``: for each ``mi``, ``high`` (the largest MI but those of one pair in
        twenty), ``se``, all in nats, and ``shard_se`` where the probe keeps shards.
    """
    points = {}
    for name, stream in state.streams.items():
        if not stream.n:
            continue
        counts = stream.read()
        points[name] = in_short(values_of(counts))
    return {"tokens": state.tokens_seen, "text_tokens": text_tokens, "points": points}


def values_of(counts: PointCounts) -> dict[str, Values]:
    """What a row is made of, by name, each of shape (pairs,): of all pairs, or of the share that has its tables here.

    Of pairs of tokens it is of shape (keys,), but for those of different texts.
    """
    if counts.tokens is not None:
        of_keys = key_values(counts.tokens)
        return {"mi": of_keys["mi"][:-1], "se": of_keys["se"][:-1]}
    found = estimate(counts.joint)
    assert found.se is not None
    values = {"mi": found.mi, "se": found.se}
    return values | {"shard_se": shard_errors(counts.joint, counts.shards)} if counts.shards else values


def in_short(values: Mapping[str, Values]) -> dict[str, float | None]:
    """The part of a row that tells of one hook point, from the values of all of its pairs."""
    rest = {name: _mean(array) for name, array in values.items() if name != "mi"}
    return {"mi": _mean(values["mi"]), "high": _high(values["mi"]), **rest}


def _mean(values: Values) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _high(values: Values) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, 0.95)) if len(known) else None


def convergence(state: ProbeState | Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """MI at 2^13, 2^14, ... tokens, as a run over a corpus went on: where it no longer moves, more tokens tell no more.

    Rows are measured where the block of text, or the first batch, is done that passes such a number.

    Parameters
    ----------
    state : ProbeState
        Of `mi_probe.accumulate`, at once or from a file.

    Returns
    -------
    DataFrame
        ``tokens`` counted, ``point``, ``mi`` (mean over pairs), ``high`` (95 % of the pairs lie below), ``se`` (mean standard
        error for independent samples), ``shard_se`` (from shards of documents) and ``change`` of ``mi`` since the
        row before, in nats.

    Examples
    --------
    >>> rows = [{"tokens": n, "text_tokens": n, "points": {"p": {"mi": m, "high": 2 * m, "se": s}}}
    ...         for n, m, s in ((8192, .25, .01), (16384, .26, .007))]
    >>> print(convergence(rows)[["tokens", "mi", "change"]].to_string(index=False))
     tokens   mi  change
       8192 0.25     NaN
      16384 0.26    0.01
    """
    import pandas

    rows = state.convergence if isinstance(state, ProbeState) else state
    columns = ["tokens", "point", "mi", "high", "se", "shard_se"]
    flat = [{"tokens": row["tokens"], "point": point, **values} for row in rows for point, values in row["points"].items()]
    table = pandas.DataFrame(flat, columns=columns)
    table["change"] = table.groupby("point", sort=False)["mi"].diff()
    return table
