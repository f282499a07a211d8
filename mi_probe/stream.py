"""What one hook point has seen: rows until there are edges, counts from then on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning, auto_bins
from mi_probe.errors import InputError
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.probe import CORPUS_BINS, Probe

__all__ = ["PointStream", "Prepared"]

Rows = NDArray[np.floating]


class Prepared(NamedTuple):
    """What is kept of an activation until its forward pass has ended."""

    rows: Rows | None
    """The values, as long as there are no edges."""
    codes: NDArray[np.uint8] | None
    """Their codes, once there are edges."""
    steps: NDArray[np.int16] | None
    """Standardised values, where second moments are kept."""

    def __len__(self) -> int:
        return len(self.codes if self.codes is not None else self.rows if self.rows is not None else ())

    def same_as(self, other: Prepared) -> bool:
        """Whether both hold the same values."""
        return all(
            a is b is None or (a is not None and b is not None and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
            for a, b in zip((self.rows, self.codes, self.steps), (other.rows, other.codes, other.steps), strict=True)
        )


class PointStream:
    """Counts of one hook point: keeps rows until the edges can be fitted, and codes only from then on.

    Reading never changes the stream: before the calibration is complete, edges are fitted on the rows that are there, for that
    reading alone.

    Parameters
    ----------
    probe : Probe
        For the binning and the extras.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._frozen: PointCounts | None = None
        self._waiting: list[tuple[Rows, Places]] = []

    @staticmethod
    def fitting_nbytes_for(rows: int, variables: int, itemsize: int) -> int:
        """Bytes that fitting edges on rows takes for a moment, beside the rows themselves."""
        return rows * variables * (2 * itemsize + 33)  # measured: two copies, and four arrays of float64 with their masks

    @property
    def n(self) -> int:
        """Rows seen."""
        return self._frozen.joint.n if self._frozen is not None else sum(len(rows) for rows, _ in self._waiting)

    @property
    def missing(self) -> int:
        """Values seen that were NaN or infinite."""
        if self._frozen is not None:
            return int((self._frozen.joint.missing - self._frozen.joint.trimmed).sum())
        return sum(int(np.count_nonzero(~np.isfinite(rows))) for rows, _ in self._waiting)

    def rows(self) -> Rows:
        """The rows that wait for the calibration to be complete, shape (rows, variables)."""
        return np.concatenate([rows for rows, _ in self._waiting])

    def prepare(self, rows: Rows) -> Prepared:
        """Reduce an activation to what `commit` needs: codes once the edges are frozen, its own copy of the rows before."""
        if self._frozen is not None:
            return _coded(self._frozen, rows)
        waiting = list(self._waiting)  # another thread may complete the calibration
        if waiting and rows.shape[1] != waiting[0][0].shape[1]:
            raise InputError(f"this point has {waiting[0][0].shape[1]} variables; got rows of shape {rows.shape}.")
        return Prepared(np.array(rows), None, None)

    def completes_with(self, prepared: Prepared) -> bool:
        """Whether these rows complete the calibration."""
        return self._frozen is None and self.n + len(prepared) >= self.probe.calibration_tokens

    def completed_by(self, prepared: Prepared, places: Places) -> PointCounts | None:
        """Edges and counts with these rows, if they complete the calibration. Changes nothing; may run out of memory."""
        if not self.completes_with(prepared):
            return None
        assert prepared.rows is not None
        waiting = [*self._waiting, (prepared.rows, places)]
        return self._fitted(np.concatenate([rows for rows, _ in waiting]), Places.joined([p for _, p in waiting]))

    def commit(self, prepared: Prepared, places: Places, completed: PointCounts | None) -> None:
        """Count what `prepare` returned, given what `completed_by` said of it."""
        if completed is not None:
            self._frozen = completed
            self._waiting.clear()
        elif self._frozen is None:
            assert prepared.rows is not None
            self._waiting.append((prepared.rows, places))
        else:
            if prepared.codes is None:  # the calibration was completed by another thread
                assert prepared.rows is not None
                prepared = _coded(self._frozen, prepared.rows)
            assert prepared.codes is not None
            self._frozen.update(prepared.codes, places, prepared.steps)

    @property
    def started(self) -> bool:
        """Whether there is anything to read: rows, or edges that were given."""
        return self._frozen is not None or self.n > 0

    def read(self) -> PointCounts:
        """Edges and counts as of now."""
        if self._frozen is not None:
            return self._frozen
        return self._fitted(self.rows(), Places.joined([places for _, places in self._waiting]))

    def _fitted(self, rows: Rows, places: Places) -> PointCounts:
        """Counts of rows, with edges fitted on those up to the calibration's end."""
        probe, bins = self.probe, self.probe.bins
        sample = rows[: probe.calibration_tokens]
        if bins == "auto":
            bins = CORPUS_BINS if len(sample) >= probe.calibration_tokens else auto_bins(len(sample))
        binning = Binning.fit(sample, method=probe.method, bins=bins, trim_z=probe.trim_z)
        counts = PointCounts(binning, probe.extras)
        prepared = _coded(counts, rows)
        assert prepared.codes is not None
        counts.update(prepared.codes, places, prepared.steps)
        return counts

    def copy(self) -> PointStream:
        """An independent copy."""
        twin = PointStream(self.probe)  # probes are values: sharing one is safe
        twin._waiting = list(self._waiting)
        if self._frozen is not None:
            twin._frozen = self._frozen.copy()
        return twin

    @classmethod
    def frozen(cls, probe: Probe, counts: PointCounts) -> PointStream:
        """A stream that goes on from edges and counts."""
        stream = cls(probe)
        stream._frozen = counts
        return stream


def _coded(counts: PointCounts, rows: Rows) -> Prepared:
    codes = counts.binning.encode(rows)
    if counts.moments is None:
        return Prepared(None, codes, None)
    counted = codes < counts.binning.bins  # what was trimmed is in no moment either
    return Prepared(None, codes, counts.moments.steps(np.where(counted, rows, rows.dtype.type(np.nan))))
