"""The sufficient statistic of all pairs: exact joint counts that add up over texts, batches, threads and machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.binning import MAX_BINS, MISSING, TRIMMED
from mi_probe.errors import InputError, MergeError, MIProbeError
from mi_probe.shares import Share

if TYPE_CHECKING:
    import torch

    from mi_probe.ondevice import DeviceCounts

__all__ = ["JointCounts", "PairIndices", "all_pairs", "checked_pairs", "pairs_between", "tables_in_a_block"]

_BUFFER_ROWS = 4096
PairIndices = tuple[NDArray[np.intp], NDArray[np.intp]]

_INT32_MAX = 2**31 - 1
_FEW_A_CELL = 4
_MOST_KEPT = 2048
_BLOCK_BYTES = 2**24  # tables that are looked at together, where a function takes some at a time
_MOST_SAMPLES = 2**50  # of one set of counts from a file: sums of a table's cells stay far from overflowing


class JointCounts:
    """Joint histograms of every pair of variables i < j, or of some of them, built incrementally.

    Codes are buffered, so that many short texts cost what one long one does; reading the tables empties the buffer first. There
    are no tables before that: a short text is estimated from its codes. Cells are 32-bit until the number of samples could
    overflow them, then 64-bit.

    Parameters
    ----------
    variables, bins : int
        Shape of the tables.
    pairs : array, shape (pairs, 2), int, optional
        The pairs to count, as positions i < j among the variables, sorted and without repetition. All by default.
    share : Share, optional
        Keep the tables of this share of those pairs alone, where other processes keep the others. Margins are of all variables.

    Attributes
    ----------
    listed : array, shape (pairs, 2), or None
        The pairs that are counted, by whichever process; None if all of them are.
    share : Share or None
        Which of them have their tables here; None if all of them have.
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
        Joint counts in the order of `pair_indices`.

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

    def __init__(self, variables: int, bins: int, pairs: ArrayLike | None = None, share: Share | None = None) -> None:
        if variables < 1 or not 1 <= bins <= MAX_BINS:
            raise InputError(f"counts need at least 1 variable and 1 to {MAX_BINS} bins; got {variables} and {bins}.")
        self.variables = variables
        self.bins = bins
        self._listed = None if pairs is None else checked_pairs(pairs, variables)
        self._apart = _apart(self._listed, variables)
        self.share = None if share is None or share.of == 1 else share
        self._n = 0
        self._missing = np.zeros(variables, dtype=np.int64)
        self._trimmed = np.zeros(variables, dtype=np.int64)
        self._margins = np.zeros((variables, bins), dtype=np.int64)
        self._tables: NDArray[np.integer] | None = None
        self._buffer = np.empty((_BUFFER_ROWS, variables), dtype=np.uint8)
        self._buffered = 0
        self._settled = 0  # rows of the buffer that the margins have already
        self._device: DeviceCounts | None = None
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
        pairs: ArrayLike | None = None,
        *,
        share: Share | None = None,
        copy: bool = True,
    ) -> JointCounts:
        """Rebuild counts from their arrays, as a file stores them.

        Parameters
        ----------
        n, missing, margins, tables, trimmed, pairs, share
            As the attributes; of a share, its tables alone.
        copy : bool
            False: the tables go on counting where they are, and must not be used by others any more.

        Raises
        ------
        InputError
            The arrays contradict each other: shapes, negative counts, or margins that do not add up.
        """
        from mi_probe import kernels

        if not isinstance(n, int | np.integer) or isinstance(n, bool) or not 0 <= n <= _MOST_SAMPLES:
            raise InputError(f"the number of samples must be a whole number from 0 to 2^50; got {n!r}.")
        if margins.ndim != 2:
            raise InputError(f"margins must be of shape (variables, bins); got {margins.shape}.")
        counts = cls(margins.shape[0], margins.shape[1], pairs, share)
        trimmed = np.zeros_like(missing) if trimmed is None else trimmed
        shape = (counts.pairs, counts.bins, counts.bins)
        if not missing.shape == trimmed.shape == counts._missing.shape or tables.shape != shape:
            raise InputError(
                f"counts of {counts.variables} variables and {counts.bins} bins need missing and trimmed "
                f"{counts._missing.shape} and tables {shape}; got {missing.shape}, {trimmed.shape} and "
                f"{tables.shape}."
            )
        if any(a.dtype.kind not in "iu" for a in (missing, trimmed, margins, tables)):
            raise InputError("counts must be whole numbers.")
        few = (missing, trimmed, margins)
        if min(int(a.min(initial=0)) for a in few) < 0:
            raise InputError("counts must not be negative.")
        if max(int(a.max(initial=0)) for a in few) > n:  # so that no sum below overflows
            raise InputError("a variable has more samples than there are.")
        if (trimmed > missing).any():
            raise InputError("more samples were trimmed than were left out.")
        if (margins.sum(axis=1) + missing != n).any():
            raise InputError("margins and missing samples do not add up to the number of samples.")
        kept = np.dtype(np.int64 if n > _INT32_MAX else np.int32)
        if tables.dtype != kept:
            if min(int(tables.min(initial=0)), n - int(tables.max(initial=0))) < 0:
                raise InputError("the tables hold negative counts, or more samples than there are.")
            tables, copy = tables.astype(kept), False
        given = np.array(tables, order="C") if copy else np.require(tables, requirements=["C", "W"])
        counts._n = int(n)
        counts._missing[:] = missing
        counts._trimmed[:] = trimmed
        counts._margins[:] = margins
        misfit = kernels.first_misfit(given, counts._margins, counts._missing, int(n), counts.pair_indices)
        if misfit is not None:
            one, two = (int(which[misfit]) for which in counts.pair_indices)
            raise InputError(f"the table of variables {one} and {two} does not fit their margins.")
        counts._tables = given
        return counts

    def __repr__(self) -> str:
        of = "" if self.share is None else f"{self.share} of the pairs, "
        return f"JointCounts({self.variables} variables, {self.bins} bins, {of}{self.n:,} samples)"

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
        """Bytes of the buffer, and of what counting it takes for a moment: a bit a bin, for either variable of a pair."""
        values = _BUFFER_ROWS * variables
        return values, values * bins // 4

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def pairs(self) -> int:
        """Number of pairs i < j that have their tables here."""
        first, last = self.places
        return last - first

    @property
    def pairs_everywhere(self) -> int:
        """Number of pairs i < j that are counted, by whichever process."""
        return self.variables * (self.variables - 1) // 2 if self._listed is None else len(self._listed)

    @property
    def places(self) -> tuple[int, int]:
        """Where the pairs that have their tables here begin and end in the order of all that are counted."""
        listed = None if self._listed is None else len(self._listed)
        return (0, self.pairs_everywhere) if self.share is None else self.share.places(self.variables, listed)

    @property
    def listed(self) -> NDArray[np.intp] | None:
        """The pairs that are counted, by whichever process, shape (pairs, 2); None if all of them are."""
        return None if self._listed is None else _read_only(self._listed)

    @property
    def pair_indices(self) -> PairIndices:
        """The first and the second variable of each pair, each of shape (pairs,), in the order of `tables`; read-only.

        Of all pairs it is the order of ``numpy.triu_indices(variables, 1)``.

        Examples
        --------
        >>> JointCounts(4, 2, pairs=[[0, 3], [1, 2]]).pair_indices
        (array([0, 1]), array([3, 2]))
        """
        if self._listed is not None:
            mine = self._listed[slice(*self.places)]
            return _read_only(mine[:, 0]), _read_only(mine[:, 1])
        return (
            all_pairs(self.variables) if self.share is None else _pairs_of_rows(self.variables, *self.share.rows(self.variables))
        )

    @property
    def n(self) -> int:
        """Samples seen."""
        return self._n + (0 if self._device is None else self._device.n)

    @property
    def missing(self) -> NDArray[np.int64]:
        """Samples left out of each variable, shape (variables,)."""
        self._settle()
        return _read_only(self._missing)

    @property
    def trimmed(self) -> NDArray[np.int64]:
        """Samples left out of each variable as outliers, shape (variables,); they are among `missing`."""
        self._settle()
        return _read_only(self._trimmed)

    @property
    def margins(self) -> NDArray[np.int64]:
        """Counts of each variable over its own samples, shape (variables, bins)."""
        self._settle()
        return _read_only(self._margins)

    @property
    def tables(self) -> NDArray[np.integer]:
        """Joint counts, shape (pairs, bins, bins)."""
        self.flush()
        return _read_only(self._allocated())

    @property
    def codes(self) -> NDArray[np.uint8] | None:
        """The codes themselves, shape (n, variables), where there are no tables and so few samples that none are needed.

        None otherwise. Few are 4 a cell: counting them anew, in the cache, costs less than tables do that are written and read.
        """
        self._require_whole()
        few = self._tables is None and self._buffered == self.n <= _FEW_A_CELL * self.bins**2
        return _read_only(self._buffer[: self._buffered]) if few else None

    def of_tables(self, function: Callable[[NDArray[np.integer], PairIndices], NDArray[Any]]) -> NDArray[Any]:
        """What a function says of all tables, given some of them at a time: its values, shape (..., pairs), one after the other.

        Parameters
        ----------
        function : callable
            Takes tables, shape (some, bins, bins), and their variables, as `pair_indices`; returns an array of shape (..., some).
            The tables are its own only while it runs.

        Examples
        --------
        >>> counts = JointCounts.from_codes(np.eye(3, dtype=np.uint8), bins=2)
        >>> counts.of_tables(lambda tables, pairs: tables[:, 1, 1])
        array([0, 0, 0], dtype=int32)
        """
        (first, second), codes = self.pair_indices, self.codes
        parts = []
        size = tables_in_a_block(self.bins)
        for start in range(0, max(self.pairs, 1), size):
            some = first[start : start + size], second[start : start + size]
            if codes is None:
                tables = self.tables[start : start + size]
            else:
                from mi_probe import kernels

                tables = np.zeros((len(some[0]), self.bins, self.bins), dtype=np.int32)
                kernels.count_listed(codes, np.stack(some, axis=1), tables)
            parts.append(function(tables, some))
        return np.concatenate(parts, axis=-1)

    def _allocated(self, n: int | None = None) -> NDArray[np.integer]:
        """The tables, made if there are none, wide enough for n samples."""
        wide = (self._n if n is None else n) > _INT32_MAX
        if self._tables is None:
            self._tables = np.zeros((self.pairs, self.bins, self.bins), dtype=np.int64 if wide else np.int32)
        elif wide and self._tables.dtype == np.int32:
            self._tables = self._tables.astype(np.int64, order="C")
        return self._tables

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JointCounts):
            return NotImplemented
        return (
            (self.n, self.variables, self.bins, self.share) == (other.n, other.variables, other.bins, other.share)
            and _same_pairs(self._listed, other._listed)
            and np.array_equal(self.missing, other.missing)
            and np.array_equal(self.trimmed, other.trimmed)
            and np.array_equal(self.margins, other.margins)
            and (not self.n or np.array_equal(self.tables, other.tables))
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
        self._require_whole()
        self._require_codes(codes)
        if self._buffered + len(codes) >= _BUFFER_ROWS:
            self._allocated(self._n + len(codes))  # what may fail comes before anything changes
        start = 0
        while start < len(codes):
            take = min(len(codes) - start, _BUFFER_ROWS - self._buffered)
            self._buffer[self._buffered : self._buffered + take] = codes[start : start + take]
            self._buffered += take
            self._n += take
            start += take
            if self._buffered == _BUFFER_ROWS:
                self.flush()

    def _require_codes(self, codes: NDArray[np.uint8]) -> None:
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.variables:
            raise InputError(
                f"codes must be uint8 of shape (samples, {self.variables}); got {codes.dtype} of shape {codes.shape}."
            )
        if codes.max(initial=0) >= self.bins and ((codes >= self.bins) & (codes < TRIMMED)).any():
            wrong = (codes >= self.bins) & (codes < TRIMMED)
            raise InputError(
                f"codes must be 0 to {self.bins - 1}, {MISSING} for a missing value or {TRIMMED} for an outlier; "
                f"got {int(codes[wrong][0])}."
            )

    def update_on_device(self, codes: torch.Tensor) -> None:
        """Count more samples where their codes are, a GPU as a rule, by torch. What is counted stays there until it is read.

        Listed pairs, and shares of pairs, are counted on the CPU.

        Parameters
        ----------
        codes : tensor, shape (samples, variables), uint8
            As for `update`.

        Raises
        ------
        InputError
            Wrong shape or type. A wrong code is found out when the counts are read.
        """
        if not self._counts_all:
            self.update(codes.cpu().numpy())
            return
        self._require_whole()
        self._counts_on(codes.device).update(codes)

    @property
    def _counts_all(self) -> bool:
        return self._listed is None and self.share is None

    def _counts_on(self, device: torch.device) -> DeviceCounts:
        from mi_probe.ondevice import DeviceCounts

        if self._device is None or self._device.device != device:
            self._fetch()
            self._device = DeviceCounts(self.variables, self.bins, device)
        return self._device

    def _fetch(self) -> None:
        """Bring here what was counted on a device."""
        if self._device is None or not self._device.n:
            return
        tables = self._allocated(self.n)
        taken = self._device.read()
        self._broken = True  # as in flush
        tables += taken.tables
        self._margins += taken.margins
        self._missing += taken.missing
        self._trimmed += taken.trimmed
        self._n += taken.n
        self._device.clear()
        self._broken = False

    def release_device(self) -> None:
        """Bring here what was counted on a device, and give its memory back."""
        self._require_whole()
        self._fetch()
        self._device = None

    def __getstate__(self) -> dict[str, Any]:
        if not self._broken:
            self._fetch()  # tensors of a device may mean nothing elsewhere
        return {**vars(self), "_device": None, "_buffer": self._buffer[: self._buffered].copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._buffer = np.empty((_BUFFER_ROWS, self.variables), dtype=np.uint8)
        self._buffer[: self._buffered] = state["_buffer"]

    def update_crossed(self, first: Any, second: Any) -> None:
        """Count the pairs i < j with i's code from one row and j's from another, both ways round.

        Parameters
        ----------
        first, second : arrays, or tensors on one device, shape (samples, variables), uint8
            Row s of one goes with row s of the other: 2 * samples samples in all. Both ways, so that each variable has the same
            margins in all of its pairs, as long as no value is missing.
        """
        if not isinstance(first, np.ndarray) and self._counts_all:
            self._require_whole()
            self._counts_on(first.device).update_crossed(first, second)
            return
        first, second = (part if isinstance(part, np.ndarray) else part.cpu().numpy() for part in (first, second))
        self._require_codes(first)
        self._require_codes(second)
        if len(first) != len(second):
            raise InputError(f"each row goes with one row of the other; got {len(first)} and {len(second)} rows.")
        self.flush()
        n = self._n + 2 * len(first)
        tables = self._allocated(n)
        both = np.concatenate([first, second])
        self._broken = True  # as in flush
        self._count_pairs(both, tables, partners=np.concatenate([second, first]))
        self._count_margins(both)
        self._n = n
        self._broken = False

    def __iadd__(self, other: JointCounts) -> JointCounts:
        """Add another set of counts; everything is checked before anything changes.

        Raises
        ------
        MergeError
            Another number of variables or bins, other pairs, or another share of them.
        """
        self.require_same(other)
        other._require_whole()
        self._require_whole()
        n = self.n + other.n
        if not other.n:
            return self
        other._fetch()
        if other._tables is None:
            self.update(other._buffer[: other._buffered].copy())  # a copy, for when it is added to itself
            return self
        tables, margins, missing, trimmed = other.tables, other.margins, other.missing, other.trimmed
        self.flush()
        mine = self._allocated(n)
        self._broken = True  # as in flush
        mine += tables
        self._margins += margins
        self._missing += missing
        self._trimmed += trimmed
        self._n = n
        self._broken = False
        return self

    def require_same(self, other: JointCounts, names: Sequence[str] | None = None) -> None:
        """Raise `MergeError`, naming the first difference, unless both count the same pairs in the same bins.

        Parameters
        ----------
        other : JointCounts
        names : sequence of str, optional
            What the variables are called; 0, 1, 2, ... by default.
        """
        if self.share != other.share:
            mine, theirs = (str(counts.share or "all") for counts in (self, other))
            raise MergeError(f"counts differ: {mine} of the pairs have their tables here, against {theirs}.")
        for what in ("variables", "bins", "pairs"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise MergeError(f"counts differ: {mine} {what} against {theirs}.")
        if not _same_pairs(self._listed, other._listed):
            one, two = (np.stack(counts.pair_indices, axis=1) for counts in (self, other))
            k = int((one != two).any(axis=1).argmax())
            mine, theirs = (" and ".join(str(v) if names is None else names[v] for v in pairs[k]) for pairs in (one, two))
            raise MergeError(f"counts differ: pair {k} is of {mine} against {theirs}.")

    def copy(self) -> JointCounts:
        """An independent copy."""
        twin = JointCounts(self.variables, self.bins, self._listed, self.share)
        twin += self
        return twin

    # -- moving between processes ------------------------------------------------------------------------------------

    def reserve(self, n: int) -> np.dtype[Any] | None:
        """Make the tables, wide enough for n samples, so that nothing fails for lack of memory later.

        Returns
        -------
        dtype or None
            Of the tables; None where n is 0 and there are none.
        """
        self.flush()
        return None if self._tables is None and not n else self._allocated(max(n, self._n)).dtype

    def give(self, send: Callable[[NDArray[Any]], None]) -> None:
        """Hand the counts over: `send` is called with missing, trimmed, margins and tables. What was handed over is zero then.

        Edges stay, and so does the memory. If `send` raises, some may have it and some not: these counts are not whole then.
        """
        self.flush()
        self._broken = True  # as in flush
        for array in self._sums(self._n):
            send(array)
        self._clear()
        self._broken = False

    def take_in(self, n: int, dtype: np.dtype[Any], add: Callable[[NDArray[Any], np.dtype[Any]], None]) -> None:
        """Add n samples that another has counted of the same pairs in the same bins.

        Parameters
        ----------
        n : int
        dtype : dtype
            Of the other's tables.
        add : callable
            Is called with each array in the order of `give`, and the type of the other's; it adds to the array in place.
        """
        self.flush()
        sums = self._sums(self._n + n)
        self._broken = True  # as in flush
        for array in sums:
            add(array, dtype if array is self._tables else array.dtype)
        self._n += n
        self._broken = False

    def _sums(self, n: int) -> tuple[NDArray[Any], ...]:
        """What adds up, with room for n samples."""
        return self._missing, self._trimmed, self._margins, self._allocated(n)

    def _clear(self) -> None:
        if self._tables is not None and self._tables.dtype != np.int32:
            self._tables = None  # as narrow as it begins
        for array in (self._missing, self._trimmed, self._margins, self._tables):
            if array is not None:
                array[:] = 0
        self._n = self._buffered = self._settled = 0

    # -- inside ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Count what is buffered into the tables. Reading these does it first."""
        self._settle()
        if self._buffered == 0:
            return
        tables = self._allocated()
        self._broken = True  # until all of it is done: half a buffer must never pass for a whole one
        self._count_pairs(self._buffer[: self._buffered], tables)
        self._buffered = self._settled = 0
        self._broken = False

    def _count_pairs(self, codes: NDArray[np.uint8], tables: NDArray[np.integer], **options: Any) -> None:
        from mi_probe import kernels

        if self._listed is None:
            if self.share is not None:
                options["rows"] = self.share.rows(self.variables)
            kernels.count_pairs(codes, tables, **options)
            return
        first, last = self.places
        begin, end = first, first
        if self._apart:  # whole rows of the rectangle at once, which is several times as fast; a share may cut one
            others = self.variables - self._apart
            rows = -(-first // others), last // others
            if rows[0] < rows[1]:
                begin, end = rows[0] * others, rows[1] * others
                inside = tables[begin - first : end - first]
                kernels.count_pairs(codes, inside, rows=rows, apart=self._apart, **options)
        for some in (slice(first, begin), slice(end, last)):
            part = tables[some.start - first : some.stop - first]
            kernels.count_listed(codes, self._listed[some], part, **options)

    def _require_whole(self) -> None:
        if self._broken:
            raise MIProbeError("counting or merging was interrupted halfway: these counts are not whole. Start anew.")

    def _settle(self) -> None:
        """Bring the margins up to what is buffered, and all of them here."""
        self._require_whole()
        self._fetch()
        if self._settled < self._buffered:
            self._broken = True
            self._count_margins(self._buffer[self._settled : self._buffered])
            self._settled = self._buffered
            self._broken = False

    def _count_margins(self, codes: NDArray[np.uint8]) -> None:
        from mi_probe import kernels

        before = self._margins.sum(axis=1)
        kernels.count_margins(codes, self._margins)
        absent = len(codes) - (self._margins.sum(axis=1) - before)
        if absent.any():
            self._missing += absent
            self._trimmed += np.count_nonzero(codes == TRIMMED, axis=0)


def tables_in_a_block(bins: int) -> int:
    """How many tables `JointCounts.of_tables` gives a function at a time."""
    return max(1, _BLOCK_BYTES // (4 * bins**2))


def all_pairs(variables: int) -> PairIndices:
    """What ``numpy.triu_indices(variables, 1)`` gives, read-only; of up to 2,048 variables (33 MB) kept for the next call.

    Examples
    --------
    >>> all_pairs(3)
    (array([0, 0, 1]), array([1, 2, 2]))
    """
    return (_kept_pairs if variables <= _MOST_KEPT else _kept_pairs.__wrapped__)(variables)


@lru_cache(maxsize=4)
def pairs_between(first: int, variables: int) -> NDArray[np.intp]:
    """The pairs of each of the first so many variables with each of the others, shape (pairs, 2), read-only.

    Kept for the next call.

    Examples
    --------
    >>> pairs_between(2, 4).tolist()
    [[0, 2], [0, 3], [1, 2], [1, 3]]
    """
    i, j = np.divmod(np.arange(first * (variables - first), dtype=np.intp), max(1, variables - first))
    return _read_only(np.stack([i, j + first], axis=1))


def _apart(listed: NDArray[np.intp] | None, variables: int) -> int:
    """How many of the first variables are paired with each of the others, and none among themselves; 0 if it is not so."""
    if listed is None or not len(listed) or listed.shape[1] != 2:
        return 0
    first = int(listed[0, 1])
    if len(listed) != first * (variables - first):
        return 0
    every = pairs_between(first, variables)
    return first if listed is every or np.array_equal(listed, every) else 0


@lru_cache(maxsize=2)
def _kept_pairs(variables: int) -> PairIndices:
    first, second = map(_read_only, np.triu_indices(variables, 1))
    return first, second


def _pairs_of_rows(variables: int, first: int, last: int) -> PairIndices:
    """The pairs i < j with first <= i < last, in the order of `all_pairs`."""
    rows = np.arange(first, last)
    each = variables - 1 - rows
    one = np.repeat(rows, each)
    two = np.arange(len(one)) - np.repeat(np.cumsum(each) - each, each) + one + 1
    return _read_only(one), _read_only(two)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def checked_pairs(pairs: ArrayLike, variables: int) -> NDArray[np.intp] | None:
    """Pairs in an array that nobody changes; None if they are all there are.

    Raises
    ------
    InputError
        They are not positions i < j among the variables, sorted and without repetition.
    """
    if isinstance(pairs, np.ndarray) and pairs.ndim == 2 and pairs.dtype == np.intp and _apart(pairs, variables):
        return None if variables == 2 else pairs_between(int(pairs[0, 1]), variables)  # one array for all who have them
    listed = np.array(pairs)
    if listed.ndim != 2 or listed.shape[1] != 2 or listed.dtype.kind not in "iu":
        raise InputError(f"pairs must be whole numbers of shape (pairs, 2); got {listed.dtype} of shape {listed.shape}.")
    listed = np.ascontiguousarray(listed, dtype=np.intp)
    i, j = listed.T
    wrong = (i < 0) | (i >= j) | (j >= variables)
    if wrong.any():
        raise InputError(f"pairs must be positions i < j among {variables} variables; got {listed[wrong.argmax()].tolist()}.")
    wrong = np.diff(i * variables + j, prepend=-1) <= 0
    if wrong.any():
        raise InputError(f"pairs must be sorted, each once; {listed[wrong.argmax()].tolist()} comes too late.")
    return None if len(listed) == variables * (variables - 1) // 2 else listed


def _same_pairs(one: NDArray[np.intp] | None, two: NDArray[np.intp] | None) -> bool:
    return one is two or (one is not None and two is not None and np.array_equal(one, two))
