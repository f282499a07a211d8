"""What one hook point has seen: rows until there are edges, counts from then on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import Binning, Side, auto_bins, mean_and_sd
from mi_probe.errors import InputError
from mi_probe.places import Places
from mi_probe.pointcounts import PointCounts
from mi_probe.probe import CORPUS_BINS, Probe
from mi_probe.subset import Width, columns_of, most_variable
from mi_probe.tokencounts import OTHERS, ranks_of, require_dimensions

__all__ = ["PointStream", "Prepared", "fit_edges"]

Rows = NDArray[np.floating]


def fit_edges(
    probe: Probe,
    rows: Rows,
    width: Width,
    between: tuple[str, str] | None = None,
    documents: NDArray[np.int64] | None = None,
) -> Binning:
    """Edges as a probe asks for them, with dimensions chosen and edges fitted on rows up to the calibration's end.

    Parameters
    ----------
    probe : Probe
    rows : array, shape (rows, columns), floating
        As `PointStream.prepare` keeps them.
    width : int, or (int, int)
        Columns of the activations that they are from.
    between : (str, str), optional
        The two hook points whose activations stand side by side.
    documents : array, shape (rows,), int64, optional
        Which document each row is from; each from its own by default. It matters for pairs of tokens.

    Returns
    -------
    Binning
        With the counts of those rows in each bin.

    Examples
    --------
    >>> import numpy as np
    >>> fit_edges(Probe(bins=4), np.arange(80.0).reshape(40, 2), 2).sample
    array([[10, 10, 10, 10],
           [10, 10, 10, 10]])
    """
    sample, bins = rows[: probe.calibration_tokens], probe.bins
    if probe.variables == "tokens":
        return _edges_of_tokens(probe, sample, columns_of(width), np.arange(len(rows)) if documents is None else documents)
    if bins == "auto":
        bins = CORPUS_BINS if len(sample) >= probe.calibration_tokens else auto_bins(len(sample))
    columns = probe.subset.columns(width)
    if probe.subset.by_variance and isinstance(probe.dimensions, int):
        first = width[0] if isinstance(width, tuple) else 0
        of_each = [sample[:, :first], sample[:, first:]] if first else [sample]
        columns = np.concatenate([most_variable(part, probe.dimensions) + first * k for k, part in enumerate(of_each)])
        sample = sample.take(columns, axis=1)
    binning = Binning.fit(sample, method=probe.method, bins=bins, trim_z=probe.trim_z)
    sides = tuple(map(Side, between, width)) if between and isinstance(width, tuple) else ()
    counted = binning.counted(binning.encode(sample))
    return replace(binning, dimensions=columns, width=columns_of(width), sides=sides, sample=counted)


def _edges_of_tokens(probe: Probe, sample: Rows, width: int, documents: NDArray[np.int64]) -> Binning:
    """Of all dimensions that were asked for and vary: one that does not would stand at the same place in every token.

    With some tokens of the sample, spread evenly over it, and their documents.
    """
    if probe.subset.by_variance and isinstance(probe.dimensions, int):
        columns = most_variable(sample, probe.dimensions)
    else:
        asked = probe.subset.columns(width)
        columns = np.arange(width) if asked is None else asked
    _, sd = mean_and_sd(np.where(np.isfinite(sample), sample, sample.dtype.type(np.nan)))
    columns = columns[sd[columns] > 0]
    if not len(columns):
        raise InputError(
            f"pairs of tokens take tokens that differ: over the {len(sample):,} that edges are fitted on no dimension varies."
        )
    assert probe.extras.tokens is not None  # it is of pairs of tokens
    bins = require_dimensions(len(columns), probe.extras.tokens)
    rows = sample.take(columns, axis=1)
    binning = Binning.fit(rows, method=probe.method, bins=bins)
    whole = np.flatnonzero(np.isfinite(rows).all(axis=1))
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, OTHERS).round().astype(np.intp))] if len(whole) else whole
    assert binning.frame is not None  # it was fitted just now
    return replace(
        binning,
        dimensions=columns,
        width=width,
        sample=binning.counted(binning.encode(rows)),
        others=ranks_of(rows[chosen], *binning.frame.T),
        others_from=documents[chosen],
    )


class Prepared(NamedTuple):
    """What is kept of an activation until its forward pass has ended."""

    rows: Any
    """The values, an array or a tensor, as long as there are no edges: of all dimensions where variance is to choose."""
    codes: Any
    """Their codes, an array or a tensor where the values are, once there are edges; None before."""
    steps: NDArray[np.int16] | None
    """Standardised values, where second moments are kept."""
    width: Width
    """Columns of the activation, or of each of two."""
    tokens: NDArray[np.uint8] | None = None
    """Codes of the values of each token among themselves, where pairs of tokens are counted."""

    def __len__(self) -> int:
        return len(self.codes if self.codes is not None else self.rows if self.rows is not None else ())

    def chosen(self, index: Any) -> Prepared:
        """The same of some rows: a tensor of their indices, or None for all."""
        if index is None:
            return self
        rows, codes = (part if part is None else part.index_select(0, index.to(part.device)) for part in (self.rows, self.codes))
        return Prepared(rows, codes, None, self.width)

    def same_as(self, other: Prepared) -> bool:
        """Whether both hold the same values."""
        return all(
            a is b is None or (a is not None and b is not None and _same(a, b))
            for a, b in (
                (self.rows, other.rows),
                (self.codes, other.codes),
                (self.steps, other.steps),
                (self.tokens, other.tokens),
            )
        )


class PointStream:
    """Counts of one hook point: keeps rows until the edges can be fitted, and codes only from then on.

    Reading never changes the stream: before the calibration is complete, edges are fitted on the rows that are there, for that
    reading alone.

    Parameters
    ----------
    probe : Probe
        For the dimensions and pairs, the binning and the extras.
    between : (str, str), optional
        The two hook points that meet here. What each gives is prepared for itself, as side 0 or 1, and then `joined`.
    """

    def __init__(self, probe: Probe, between: tuple[str, str] | None = None) -> None:
        self.probe = probe
        self.between = between
        self._frozen: PointCounts | None = None
        self._waiting: list[tuple[Rows, Places]] = []
        self._width: Width = 0  # columns of the activations that those rows are from

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
        """The rows that wait for the calibration, shape (rows, variables); all columns, if variance is to choose among them."""
        return np.concatenate([rows for rows, _ in self._waiting])

    def withdraw(self) -> tuple[Rows, Places, Width]:
        """Take out the rows that wait for the calibration: someone else keeps those that matter.

        Returns
        -------
        rows : array, shape (rows, columns)
            No row, and no column, where none waits.
        places : Places
        width : int, or (int, int)
            Columns of the activations that they are from.
        """
        waiting, self._waiting = self._waiting, []
        rows = np.concatenate([rows for rows, _ in waiting]) if waiting else np.zeros((0, 0), dtype=np.float32)
        return rows, Places.joined([places for _, places in waiting]), self._width

    def prepare(self, rows: Any, side: int | None = None) -> Prepared:
        """Reduce an activation to what `commit` needs: codes once the edges are frozen, its own copy of the rows before.

        Parameters
        ----------
        rows : array or tensor, shape (rows, columns), floating
            A tensor stays where it is.
        side : {0, 1}, optional
            Of which of two hook points that meet here; what is prepared of both is to be `joined`.
        """
        width = rows.shape[1]
        known: Width
        if self._frozen is not None:
            binning = self._frozen.binning
            known = binning.width if side is None else binning.sides[side].width
        elif self._waiting:
            known = self._width[side] if side is not None and isinstance(self._width, tuple) else self._width
        else:
            known = width
        if width != known:
            of = "" if side is None or self.between is None else f" of '{self.between[side]}'"
            raise InputError(f"this point has {known} variables{of}; got rows of shape {rows.shape}.")
        if self._frozen is not None:
            return _coded(self._frozen, rows, side)
        columns = self.probe.subset.columns(width)
        if self.probe.variables == "tokens":
            columns = None  # which of those vary will be seen
        if not isinstance(rows, np.ndarray):
            own = rows.clone() if columns is None else rows[:, columns.tolist()]
        else:
            own = np.array(rows) if columns is None else rows.take(columns, axis=1)
        return Prepared(own, None, None, width)

    def joined(self, first: Prepared, second: Prepared) -> Prepared:
        """What was prepared of two hook points, side by side."""
        halves = [first, second]
        if self._frozen is not None and (first.codes is None) != (second.codes is None):
            # The calibration was completed by another thread, between the one and the other.
            halves = [half if half.rows is None else _coded(self._frozen, half.rows, k) for k, half in enumerate(halves)]
        rows, codes, steps = (
            None if any(part is None for part in parts) else np.concatenate(parts, axis=1)
            for parts in zip(*((half.rows, half.codes, half.steps) for half in halves), strict=True)
        )
        assert isinstance(first.width, int)
        assert isinstance(second.width, int)
        return Prepared(rows, codes, steps, (first.width, second.width))

    def completes_with(self, prepared: Prepared) -> bool:
        """Whether these rows complete the calibration."""
        return self._frozen is None and self.n + len(prepared) >= self.probe.calibration_tokens

    def completed_by(self, prepared: Prepared, places: Places) -> PointCounts | None:
        """Edges and counts with these rows, if they complete the calibration. Changes nothing; may run out of memory."""
        if not self.completes_with(prepared):
            return None
        assert prepared.rows is not None
        waiting = [*self._waiting, (_on_host(prepared.rows), places)]
        places = Places.joined([p for _, p in waiting])
        return self._fitted(np.concatenate([rows for rows, _ in waiting]), places, prepared.width)

    def commit(self, prepared: Prepared, places: Places, completed: PointCounts | None) -> None:
        """Count what `prepare` returned, given what `completed_by` said of it."""
        if completed is not None:
            self._frozen = completed
            self._waiting.clear()
        elif self._frozen is None:
            assert prepared.rows is not None
            self._waiting.append((_on_host(prepared.rows), places))
            self._width = prepared.width
        else:
            if prepared.codes is None:  # the calibration was completed by another thread
                assert prepared.rows is not None
                prepared = _coded(self._frozen, prepared.rows)
            assert prepared.codes is not None
            self._frozen.update(prepared.codes, places, prepared.steps, prepared.tokens)

    def commit_beside(self, prepared: Prepared, places: Places) -> NDArray[np.uint8]:
        """Count what `prepare` returned into all but the tables, of which a share is here; returns the codes, for all."""
        assert self._frozen is not None  # the pairs are divided once there are edges
        assert prepared.codes is not None
        self._frozen.count_beside(prepared.codes, places, prepared.steps, prepared.tokens)
        codes: NDArray[np.uint8] = _on_host(prepared.codes)
        return codes

    def release_device(self) -> None:
        """Bring here what was counted on a device, and give its memory back."""
        if self._frozen is not None:
            self._frozen.release_device()

    @property
    def counts(self) -> PointCounts | None:
        """The counts as they go on, once there are edges; None before."""
        return self._frozen

    @property
    def started(self) -> bool:
        """Whether there is anything to read: rows, or edges that were given."""
        return self._frozen is not None or self.n > 0

    @property
    def calibrated(self) -> bool:
        """Whether the edges are fixed."""
        return self._frozen is not None

    def read(self) -> PointCounts:
        """Edges and counts as of now."""
        if self._frozen is not None:
            return self._frozen
        return self._fitted(self.rows(), Places.joined([places for _, places in self._waiting]), self._width)

    def _fitted(self, rows: Rows, places: Places, width: Width) -> PointCounts:
        """Counts of rows, with edges fitted on those up to the calibration's end."""
        binning = fit_edges(self.probe, rows, width, self.between, places.document)
        pairs = self.probe.subset.positions(binning.dimensions, binning.variables)
        counts = PointCounts(binning, self.probe.extras, pairs)
        prepared = _coded(counts, rows)
        assert prepared.codes is not None
        counts.update(prepared.codes, places, prepared.steps, prepared.tokens)
        return counts

    def copy(self) -> PointStream:
        """An independent copy."""
        twin = PointStream(self.probe, self.between)  # probes are values: sharing one is safe
        twin._waiting, twin._width = list(self._waiting), self._width
        if self._frozen is not None:
            twin._frozen = self._frozen.copy()
        return twin

    @classmethod
    def frozen(cls, probe: Probe, counts: PointCounts) -> PointStream:
        """A stream that goes on from edges and counts."""
        first, second = counts.binning.sides or (None, None)
        stream = cls(probe, None if first is None or second is None else (first.point, second.point))
        stream._frozen = counts
        return stream


def _same(one: Any, other: Any) -> bool:
    a, b = _on_host(one), _on_host(other)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _on_host(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    values = values.cpu()
    return np.asarray(values.float() if values.is_floating_point() and values.itemsize < 4 else values)


def _coded(counts: PointCounts, rows: Any, side: int | None = None) -> Prepared:
    binning, which = counts.binning, slice(None)
    if side is not None:
        binning, which = binning.of_side(side), slice(binning.first) if side == 0 else slice(binning.first, None)
    if not isinstance(rows, np.ndarray):
        return Prepared(None, counts.on_device.encode(rows), None, binning.width)
    rows = binning.select(rows)
    codes = binning.encode(rows)
    if counts.tokens is not None:
        return Prepared(None, codes, None, binning.width, counts.tokens.codes(rows))
    if counts.moments is None:
        return Prepared(None, codes, None, binning.width)
    counted = codes < binning.bins  # what was trimmed is in no moment either
    steps = counts.moments.steps(np.where(counted, rows, rows.dtype.type(np.nan)), which)
    return Prepared(None, codes, steps, binning.width)
