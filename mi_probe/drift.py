"""Do the bins hold the shares of the counts that their edges were fitted for?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import MIProbeWarning
from mi_probe.state import ProbeState

__all__ = ["Drift", "drift", "warn_of_drift"]

# Beyond what sampling alone gives. On 706,054 tokens of nine English books at three hook points of the bundled model, edges from
# 64 random stretches are at most 0.005 above it on average over variables, and 0.03 in the worst of 128; from 16 stretches, 0.022
# and 0.06. Edges from the first 4,096 tokens of one book are 0.035 to 0.104 above it, and 0.11 to 0.36, behind blocks.
_MEAN, _WORST = 0.035, 0.12
_ENOUGH = 4096  # tokens; a few pages are about something, and their bins never hold what those of a corpus do


@dataclass(frozen=True, eq=False)
class Drift:
    """How far the realised shares of bins are from the intended ones, at one hook point.

    The distance of a variable is the total variation between the two: the share of the tokens that would have to be in other
    bins, from 0 to 1. It does not make estimates wrong, since these take the shares as they are; it makes them coarser.
    Equal-count bins that hold unequal shares have less entropy than so many bins could have, as if there were fewer of them: what
    two variables share within a crowded bin is not seen, and hook points that drift differently compare less well.

    Attributes
    ----------
    point : str
        The hook point.
    names : tuple of str
        What the variables are called.
    intended : array, shape (variables, bins)
        Shares in the sample that the edges were fitted on.
    realised : array, shape (variables, bins)
        Shares in what was counted.
    noise : float
        The distance that sampling alone gives on average, if tokens were independent.
    """

    point: str
    names: tuple[str, ...]
    intended: NDArray[np.float64]
    realised: NDArray[np.float64]
    noise: float

    @property
    def distances(self) -> NDArray[np.float64]:
        """Of each variable, shape (variables,)."""
        distances: NDArray[np.float64] = 0.5 * np.abs(self.realised - self.intended).sum(axis=1)
        return distances

    @property
    def mean(self) -> float:
        """Over variables."""
        return float(self.distances.mean())

    @property
    def worst(self) -> int:
        """Index of the variable with the largest distance."""
        return int(self.distances.argmax())

    @property
    def drifted(self) -> bool:
        """Whether it is worth new edges: far more than sampling explains, on average or in the worst variable."""
        return self.mean > self.noise + _MEAN or float(self.distances.max()) > 2 * self.noise + _WORST

    def __str__(self) -> str:
        v = self.worst
        b = int(np.abs(self.realised[v] - self.intended[v]).argmax())
        return (
            f"{self.point}: {100 * self.mean:.1f} % of the tokens are in other bins than intended, on average over variables "
            f"({100 * self.noise:.1f} % by chance); most in {self.names[v]}, {100 * self.distances[v]:.1f} %, where bin {b} "
            f"holds {100 * self.realised[v, b]:.1f} % and not {100 * self.intended[v, b]:.1f} %"
        )


def drift(state: ProbeState) -> dict[str, Drift]:
    """Compare realised and intended shares of bins, by hook point.

    Parameters
    ----------
    state : ProbeState

    Returns
    -------
    dict of hook point -> Drift
        Without hook points whose edges are not fixed yet, or came without the counts of their sample, or that counted nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from mi_probe import Probe
    >>> x = np.random.default_rng(0).standard_normal((4000, 3))
    >>> state = ProbeState(Probe(calibration_tokens=1000))
    >>> state.update("layer 0", x[:1000])
    >>> state.update("layer 0", x[1000:] + [0, 0, 1.5])
    >>> drift(state)["layer 0"].distances.round(2)
    array([0.05, 0.03, 0.42])
    """
    found = {}
    for point, stream in state.streams.items():
        if not stream.calibrated:
            continue
        counts = stream.read()
        sample, margins = counts.binning.sample, counts.joint.margins
        if sample is None or not sample.any() or not margins.any():
            continue
        there = np.minimum(sample.sum(axis=1), margins.sum(axis=1)) > 0  # a variable without a value has no shares
        intended, realised = (_shares(np.where(there[:, None], part, 1)) for part in (sample, margins))
        sizes = 1 / sample.sum(axis=1)[there] + 1 / margins.sum(axis=1)[there] if there.any() else np.zeros(0)
        spread = np.sqrt(intended[there] * (1 - intended[there])).sum(axis=1)
        noise = float((np.sqrt(sizes / (2 * np.pi)) * spread).mean()) if there.any() else 0.0
        found[point] = Drift(point, counts.binning.names, intended, realised, noise)
    return found


def warn_of_drift(state: ProbeState, *, stacklevel: int = 2) -> None:
    """Warn once, naming the worst hook point, where bins do not hold the shares that their edges were fitted for.

    Counts of fewer than 4,096 tokens are let pass: a short text is never like a corpus.

    Parameters
    ----------
    state : ProbeState
    stacklevel : int
        As for `warnings.warn`.

    Warns
    -----
    MIProbeWarning
    """
    every = drift(state)
    found = sorted((one for one in every.values() if one.drifted and state.tokens_seen >= _ENOUGH), key=lambda one: -one.mean)
    if found:
        where = f"at {len(found)} of {len(every)} hook points" if len(every) > 1 else "at the hook point"
        warnings.warn(
            f"the edges do not represent what was counted {where}: {found[0]}. Estimates stay valid, with less resolution. Fit "
            "edges on a random sample of the corpus: calibration='sample' (--calibration sample), or once for several runs with "
            "mi_probe.calibrate (mi-probe calibrate).",
            MIProbeWarning,
            stacklevel=stacklevel + 1,
        )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares
