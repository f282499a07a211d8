"""The sufficient statistic of all pairs: exact joint counts that add up over texts, batches, threads and machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import MAX_BINS, MISSING, TRIMMED
from mi_probe.errors import InputError, MergeError, MIProbeError

__all__ = ["JointCounts"]

_BUFFER_ROWS = 4096
_INT32_MAX = 2**31 - 1


class JointCounts:
    """Joint histograms of every pair of variables i < j, built incrementally.

    Codes are buffered, so that many short texts cost what one long one does; every way of reading the counts empties the buffer
    first. Cells are 32-bit until the number of samples could overflow them, then 64-bit.

    Parameters
    ----------
    variables, bins : int
        Shape of the tables.

    Attributes
    ----------
    n : int
        Samples seen.
    missing : array, shape (variables,), int64
        Samples without a bin: the value was NaN or infinite, or trimmed. They are left out of the pairs of that variable, and of
        no others.
    trimmed : array, shape (variables,), int64
        Those of them that were left out as outliers.
    margins : array, shape (variables, bins), int64
        Counts of each variable over its own present samples.
    tables : array, shape (pairs, bins, bins)
        Joint counts in the order of ``numpy.triu_indices(variables, 1)``.

    The arrays are read-only views of the counts as they go on; `copy` keeps a moment.

    Examples
    --------
    >>> import numpy as np
    >>> counts = JointCounts(variables=2, bins=2)
    >>> counts.update(np.array([[0, 0], [1, 1], [1, 0]], dtype=np.uint8))
    >>> counts.tables[0]
    array([[1, 0],
           [1, 1]], dtype=int32)
    >>> counts += counts.copy()
    >>> counts.n
    6
    """

    def __init__(self, variables: int, bins: int) -> None:
        if variables < 1 or not 1 <= bins <= MAX_BINS:
            raise InputError(f"counts need at least 1 variable and 1 to {MAX_BINS} bins; got {variables} and {bins}.")
        self.variables = variables
        self.bins = bins
        self._n = 0
        self._missing = np.zeros(variables, dtype=np.int64)
        self._trimmed = np.zeros(variables, dtype=np.int64)
        self._margins = np.zeros((variables, bins), dtype=np.int64)
        self._tables: NDArray[np.integer] = np.zeros((self.pairs, bins, bins), dtype=np.int32)
        self._buffer = np.empty((_BUFFER_ROWS, variables), dtype=np.uint8)
        self._buffered = 0
        self._broken = False

    @classmethod
    def from_codes(cls, codes: NDArray[np.uint8], bins: int) -> JointCounts:
        """Counts of one array of codes, shape (samples, variables).

        Examples
        --------
        >>> import numpy as np
        >>> JointCounts.from_codes(np.zeros((4, 3), dtype=np.uint8), bins=2)
        JointCounts(3 variables, 2 bins, 4 samples)
        """
        counts = cls(codes.shape[1], bins)
        counts.update(codes)
        return counts

    @classmethod
    def from_arrays(
        cls,
        n: int,
        missing: NDArray[np.integer],
        margins: NDArray[np.integer],
        tables: NDArray[np.integer],
        trimmed: NDArray[np.integer] | None = None,
    ) -> JointCounts:
        """Rebuild counts from their arrays, as a file stores them.

        Raises
        ------
        InputError
            The arrays contradict each other: shapes, negative counts, or margins that do not add up.
        """
        counts = cls(margins.shape[0], margins.shape[1])
        trimmed = np.zeros_like(missing) if trimmed is None else trimmed
        if not missing.shape == trimmed.shape == counts._missing.shape or tables.shape != counts._tables.shape:
            raise InputError(
                f"counts of {counts.variables} variables and {counts.bins} bins need missing and trimmed "
                f"{counts._missing.shape} and tables {counts._tables.shape}; got {missing.shape}, {trimmed.shape} and "
                f"{tables.shape}."
            )
        if any(a.dtype.kind not in "iu" for a in (missing, trimmed, margins, tables)):
            raise InputError("counts must be whole numbers.")
        if min(n, *(int(a.min(initial=0)) for a in (missing, trimmed, margins, tables))) < 0:
            raise InputError("counts must not be negative.")
        if (trimmed > missing).any():
            raise InputError("more samples were trimmed than were left out.")
        if (margins.sum(axis=1) + missing != n).any():
            raise InputError("margins and missing samples do not add up to the number of samples.")
        for start, i, block in _rows_of(counts.variables):
            part = tables[start : start + block]
            too_many = (part.sum(axis=2) > margins[i]).any() or (part.sum(axis=1) > margins[i + 1 :]).any()
            too_few = (part.sum(axis=(1, 2)) < n - missing[i] - missing[i + 1 :]).any()
            if too_many or too_few:
                raise InputError(f"the tables of variable {i} do not fit its margins.")
        counts._n = int(n)
        counts._missing[:] = missing
        counts._trimmed[:] = trimmed
        counts._margins[:] = margins
        counts._tables = np.array(tables, dtype=np.int64 if n > _INT32_MAX else np.int32)
        return counts

    def __repr__(self) -> str:
        return f"JointCounts({self.variables} variables, {self.bins} bins, {self.n:,} samples)"

    @staticmethod
    def nbytes_for(variables: int, pairs: int, bins: int, samples: int = 0) -> int:
        """Bytes of the arrays after so many samples, and of a file that holds them.

        Examples
        --------
        >>> JointCounts.nbytes_for(variables=768, pairs=294_528, bins=8)
        75460608
        """
        cell = 8 if samples > _INT32_MAX else 4
        return pairs * bins * bins * cell + variables * (bins + 2) * 8

    @staticmethod
    def buffer_nbytes_for(variables: int, bins: int) -> tuple[int, int]:
        """Bytes of the buffer, and of what counting it takes for a moment: the codes turned, and a bit a bin."""
        values = _BUFFER_ROWS * variables
        return values, values * 9 // 8 + values * bins // 8

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def pairs(self) -> int:
        """Number of pairs i < j."""
        return self.variables * (self.variables - 1) // 2

    @property
    def n(self) -> int:
        """Samples seen."""
        return self._n

    @property
    def missing(self) -> NDArray[np.int64]:
        """Samples left out of each variable, shape (variables,)."""
        self.flush()
        return _read_only(self._missing)

    @property
    def trimmed(self) -> NDArray[np.int64]:
        """Samples left out of each variable as outliers, shape (variables,); they are among `missing`."""
        self.flush()
        return _read_only(self._trimmed)

    @property
    def margins(self) -> NDArray[np.int64]:
        """Counts of each variable over its own samples, shape (variables, bins)."""
        self.flush()
        return _read_only(self._margins)

    @property
    def tables(self) -> NDArray[np.integer]:
        """Joint counts, shape (pairs, bins, bins)."""
        self.flush()
        return _read_only(self._tables)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JointCounts):
            return NotImplemented
        return (
            (self.n, self.variables, self.bins) == (other.n, other.variables, other.bins)
            and np.array_equal(self.missing, other.missing)
            and np.array_equal(self.trimmed, other.trimmed)
            and np.array_equal(self.margins, other.margins)
            and np.array_equal(self.tables, other.tables)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    # -- writing -----------------------------------------------------------------------------------------------------

    def update(self, codes: NDArray[np.uint8]) -> None:
        """Count more samples.

        Parameters
        ----------
        codes : array, shape (samples, variables), uint8
            0 to bins - 1, `mi_probe.binning.MISSING` or `TRIMMED`.

        Raises
        ------
        InputError
            Wrong shape, wrong dtype, or a code that is neither a bin nor missing. Nothing is counted then.
        """
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.variables:
            raise InputError(
                f"codes must be uint8 of shape (samples, {self.variables}); got {codes.dtype} of shape {codes.shape}."
            )
        wrong = (codes >= self.bins) & (codes < TRIMMED)
        if wrong.any():
            raise InputError(
                f"codes must be 0 to {self.bins - 1}, {MISSING} for a missing value or {TRIMMED} for an outlier; "
                f"got {int(codes[wrong][0])}."
            )
        start = 0
        while start < len(codes):
            take = min(len(codes) - start, _BUFFER_ROWS - self._buffered)
            self._buffer[self._buffered : self._buffered + take] = codes[start : start + take]
            self._buffered += take
            self._n += take
            start += take
            if self._buffered == _BUFFER_ROWS:
                self.flush()

    def update_crossed(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
        """Count the pairs i < j with i's code from one row and j's from another, both ways round.

        Parameters
        ----------
        first, second : arrays, shape (samples, variables), uint8
            Row s of one goes with row s of the other: 2 * samples samples in all. Both ways, so that each variable has the same
            margins in all of its pairs, as long as no value is missing.
        """
        self.flush()
        samples = len(first)
        n = self._n + 2 * samples
        if n > _INT32_MAX and self._tables.dtype == np.int32:
            self._tables = self._tables.astype(np.int64)
        from mi_probe import kernels

        self._broken = True  # as in flush
        kernels.count_pairs(np.concatenate([first, second]), self._tables, partners=np.concatenate([second, first]))
        for codes in (first, second):
            self._count_margins(codes)
        self._n = n
        self._broken = False

    def __iadd__(self, other: JointCounts) -> JointCounts:
        """Add another set of counts; everything is checked before anything changes.

        Raises
        ------
        MergeError
            Another number of variables or bins.
        """
        for what in ("variables", "bins"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise MergeError(f"counts differ: {mine} {what} against {theirs}.")
        tables, margins, missing, trimmed = other.tables, other.margins, other.missing, other.trimmed
        self.flush()
        n = self._n + other.n
        if n > _INT32_MAX and self._tables.dtype == np.int32:
            self._tables = self._tables.astype(np.int64)
        self._broken = True  # as in flush
        self._tables += tables
        self._margins += margins
        self._missing += missing
        self._trimmed += trimmed
        self._n = n
        self._broken = False
        return self

    def copy(self) -> JointCounts:
        """An independent copy."""
        twin = JointCounts(self.variables, self.bins)
        twin += self
        return twin

    def flush(self) -> None:
        """Count what is buffered. Every way of reading does it first."""
        if self._broken:
            raise MIProbeError("counting or merging was interrupted halfway: these counts are not whole. Start anew.")
        if self._buffered == 0:
            return
        from mi_probe import kernels

        codes = self._buffer[: self._buffered]
        if self._n > _INT32_MAX and self._tables.dtype == np.int32:
            self._tables = self._tables.astype(np.int64)
        self._broken = True  # until all of it is done: half a buffer must never pass for a whole one
        kernels.count_pairs(codes, self._tables)
        self._count_margins(codes)
        self._buffered = 0
        self._broken = False

    def _count_margins(self, codes: NDArray[np.uint8]) -> None:
        for b in range(self.bins):
            self._margins[:, b] += np.count_nonzero(codes == b, axis=0)
        trimmed = np.count_nonzero(codes == TRIMMED, axis=0)
        self._missing += np.count_nonzero(codes == MISSING, axis=0) + trimmed
        self._trimmed += trimmed


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _rows_of(variables: int) -> Iterator[tuple[int, int, int]]:
    """(first pair, variable i, number of pairs) of each variable i as the first of its pairs."""
    start = 0
    for i in range(variables - 1):
        yield start, i, variables - 1 - i
        start += variables - 1 - i
