"""Values to small integer codes: the edges of every variable, fitted once and then frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.errors import BinningError, InputError, MergeError

__all__ = ["MAX_BINS", "MISSING", "TRIMMED", "Binning", "BinningMethod", "Side", "auto_bins", "mean_and_sd"]

BinningMethod = Literal["equal_count", "equal_width"]

MISSING = 255
"""The code of a NaN or an infinity: it never lands in a bin."""

TRIMMED = 254
"""The code of a value that was left out as an outlier: it lands in no bin either, and is counted apart."""

_OPTIONAL = ("limits", "frame", "dimensions", "sample", "others", "others_from")  # arrays of a binning that a file may lack

MAX_BINS = 64
"""Tables hold bins * bins cells a pair; beyond this, codes of one byte would still do but no sample would."""


def auto_bins(n: int) -> int:
    """Number of bins for one short sample: about four samples a cell at independence, at least 3 and at most 16.

    Examples
    --------
    >>> auto_bins(94), auto_bins(768), auto_bins(10**6)
    (5, 14, 16)
    """
    return int(np.clip(round(float(np.sqrt(n / 4))), 3, 16))


def as_samples(x: ArrayLike) -> NDArray[np.floating]:
    """A 2-D float array, samples x variables, from anything array-like (a torch tensor on any device included)."""
    values: Any = x
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().to("cpu")
        if str(values.dtype) in ("torch.bfloat16", "torch.float16"):
            values = values.float()
        values = values.numpy()
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    array = np.asarray(values)
    if array.ndim != 2:
        raise InputError(f"x must be a 2-D array of samples x variables; got shape {array.shape}.")
    if array.dtype.kind not in "fiub":
        raise InputError(f"x must hold real numbers; got dtype {array.dtype}.")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    return array


class Side(NamedTuple):
    """One of two hook points whose activations stand side by side."""

    point: str
    width: int
    """Columns of its activation; in a result, variables."""


@dataclass(frozen=True, eq=False)
class Binning:
    """The inner edges of every variable. A value x gets the code ``number of edges <= x``.

    Equal values share a bin: an edge that would part them moves to the nearer end of their run.

    Parameters
    ----------
    edges : array, shape (variables, bins - 1), float64
        Ascending inner edges, in the units of the data. ``inf`` marks an edge that no value reaches.
    method : {"equal_count", "equal_width"}
        How the edges were fitted; for the record only.
    limits : array, shape (variables, 2), float64, optional
        Lowest and highest value of each variable that counts; values beyond are left out, as outliers. None: all count.
    frame : array, shape (variables, 2), float64, optional
        Mean and standard deviation of each variable over the values that the edges were fitted on, for second moments. None where
        the edges came from elsewhere.
    dimensions : array, shape (variables,), int, optional
        Which columns of an activation the edges are for, ascending. None: all of them, in order.
    width : int, optional
        Columns of such an activation; must be given with `dimensions`.
    sample : array, shape (variables, bins), int64, optional
        How many values of the sample that the edges were fitted on are in each bin: the shares that were intended. A label: edges
        with other samples, or none, are the same edges.
    others : array, shape (tokens, variables), uint16, optional
        Some tokens of that sample, for pairs of tokens of different texts: the rank of each standardised value within its token.
    others_from : array, shape (tokens,), int64, optional
        Their documents; must be given with `others`.
    sides : (Side, Side), optional
        Two hook points whose activations, side by side, the rows are: first the columns of the one, then those of the other. None
        by default: rows are of one hook point.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> binning = Binning.fit(x, method="equal_count", bins=3)
    >>> binning.encode(x)[:, 0]
    array([0, 0, 1, 1, 2, 2], dtype=uint8)
    """

    edges: NDArray[np.float64]
    method: BinningMethod
    limits: NDArray[np.float64] | None = None
    frame: NDArray[np.float64] | None = None
    dimensions: NDArray[np.intp] | None = None
    width: int = 0
    sample: NDArray[np.int64] | None = None
    others: NDArray[np.uint16] | None = None
    others_from: NDArray[np.int64] | None = None
    sides: tuple[Side, ...] = ()

    def __post_init__(self) -> None:
        edges = np.array(self.edges, dtype=np.float64, order="C")  # a copy: nobody else may change frozen edges
        if edges.ndim != 2 or not 1 <= edges.shape[1] < MAX_BINS:
            raise BinningError(f"edges must have shape (variables, bins - 1) with 2 to {MAX_BINS} bins; got shape {edges.shape}.")
        if np.isnan(edges).any() or (edges[:, 1:] < edges[:, :-1]).any():
            raise BinningError("edges must ascend within each variable and hold no NaN.")
        edges.flags.writeable = False
        object.__setattr__(self, "edges", edges)
        if self.limits is not None:
            limits = np.array(self.limits, dtype=np.float64)
            if limits.shape != (len(edges), 2) or not (limits[:, 0] <= limits[:, 1]).all():
                raise BinningError(f"limits must be ({len(edges)}, 2), the lower first; got shape {limits.shape}.")
            limits.flags.writeable = False
            object.__setattr__(self, "limits", limits)
        if self.frame is not None:
            frame = np.array(self.frame, dtype=np.float64)
            if frame.shape != (len(edges), 2) or not (np.isfinite(frame).all() and (frame[:, 1] > 0).all()):
                raise BinningError(
                    f"frame must be ({len(edges)}, 2), finite means and standard deviations above 0; got shape {frame.shape}."
                )
            frame.flags.writeable = False
            object.__setattr__(self, "frame", frame)
        if self.sample is not None:
            object.__setattr__(self, "sample", self._checked_sample(np.asarray(self.sample)))
        self._check_columns()
        self._check_others()
        self._check_sides()

    def _check_others(self) -> None:
        if self.others is None and self.others_from is None:
            return
        others, documents = np.array(self.others), np.array(self.others_from)
        if (
            others.dtype != np.uint16
            or others.ndim != 2
            or not np.array_equal(np.sort(others, axis=1), np.broadcast_to(np.arange(self.variables), others.shape))
            or documents.shape != (len(others),)
            or documents.dtype != np.int64
        ):
            raise InputError(
                f"others must be ranks from 0 of {self.variables} values of each token, uint16, with the document of each, "
                f"int64; got {others.dtype} of shape {others.shape} and {documents.dtype} of shape {documents.shape}."
            )
        for name, array in (("others", others), ("others_from", documents)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def _checked_sample(self, given: NDArray[Any]) -> NDArray[np.int64]:
        if given.shape != (self.variables, self.bins) or given.dtype.kind not in "iu" or given.min(initial=0) < 0:
            raise InputError(
                f"sample must be counts from 0 of each bin, whole numbers of shape ({self.variables}, {self.bins}); got "
                f"{given.dtype} of shape {given.shape}."
            )
        sample = given.astype(np.int64)  # a copy
        sample.flags.writeable = False
        return sample

    def _check_columns(self) -> None:
        if self.dimensions is None:
            if self.width not in (0, self.variables):
                raise BinningError(f"edges of {self.variables} of {self.width} columns must say which, in dimensions.")
            object.__setattr__(self, "width", self.variables)
            return
        dimensions = np.array(self.dimensions)
        if (
            dimensions.shape != (self.variables,)
            or dimensions.dtype.kind not in "iu"
            or (np.diff(dimensions.astype(np.int64)) <= 0).any()
            or not 0 <= dimensions.min(initial=0) <= dimensions.max(initial=0) < self.width
        ):
            raise BinningError(
                f"dimensions must be {self.variables} ascending columns below the width, {self.width}; got {dimensions}."
            )
        dimensions = dimensions.astype(np.intp)
        dimensions.flags.writeable = False
        object.__setattr__(self, "width", int(self.width))
        object.__setattr__(self, "dimensions", None if len(dimensions) == self.width else dimensions)

    def _check_sides(self) -> None:
        sides = tuple(Side(str(point), int(width)) for point, width in self.sides)
        object.__setattr__(self, "sides", sides)
        if sides and (
            len(sides) != 2
            or min(side.width for side in sides) < 1
            or sum(side.width for side in sides) != self.width
            or not 0 < self.first < self.variables
        ):
            raise BinningError(
                f"sides must be two hook points with {self.width} columns together, and variables of each; got {list(sides)}."
            )

    @property
    def first(self) -> int:
        """Variables of the first of two sides; 0 where rows are of one hook point."""
        if not self.sides:
            return 0
        width = self.sides[0].width
        return width if self.dimensions is None else int(np.searchsorted(self.dimensions, width))

    def of_side(self, which: int) -> Binning:
        """The edges of one of two sides, for its activations alone.

        Examples
        --------
        >>> both = Binning(np.array([[0.0], [1.0], [2.0]]), "equal_count", width=3, sides=(Side("a", 1), Side("b", 2)))
        >>> both.names, both.of_side(1).edges.ravel().tolist()
        (('a:0', 'b:0', 'b:1'), [1.0, 2.0])
        """
        part = slice(self.first) if which == 0 else slice(self.first, None)
        limits, frame = (None if a is None else a[part] for a in (self.limits, self.frame))
        sample = None if self.sample is None else self.sample[part]
        offset, width = which * self.sides[0].width, self.sides[which].width
        dimensions = None if self.dimensions is None else self.dimensions[part] - offset
        return Binning(self.edges[part], self.method, limits, frame, dimensions, width, sample)

    @property
    def variables(self) -> int:
        """Number of variables."""
        return int(self.edges.shape[0])

    @property
    def bins(self) -> int:
        """Number of bins, the same for every variable."""
        return int(self.edges.shape[1]) + 1

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Which variables had more than one value in what the edges were fitted on, shape (variables,): the others tell nothing.

        Examples
        --------
        >>> import numpy as np
        >>> Binning.fit(np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]]), bins=2).varies
        array([ True, False])
        """
        if self.method == "equal_count":  # parts any two values
            return np.asarray(np.isfinite(self.edges).any(axis=1))
        if self.sample is not None:  # the least of several values is in the first bin, the largest in the last
            return np.asarray((self.sample > 0).sum(axis=1) > 1)
        if self.frame is None:
            return np.asarray(np.isfinite(self.edges).any(axis=1))
        # What `fit` gives to a constant: a range of 1 around it, and a deviation that stands for none.
        mean, sd = self.frame.T
        alone = np.linspace(mean - 0.5, mean + 0.5, self.bins + 1, axis=1)[:, 1:-1]
        constant = np.isclose(self.edges, alone, rtol=1e-6, atol=1e-6).all(axis=1) & (sd == _instead_of_0(mean))
        return np.asarray(np.isfinite(self.edges).any(axis=1) & ~constant)

    @property
    def names(self) -> tuple[str, ...]:
        """What the variables are called: the columns of the activation, behind the hook point's name if there are two."""
        if self.sides:
            return tuple(f"{side.point}:{name}" for k, side in enumerate(self.sides) for name in self.of_side(k).names)
        return tuple(map(str, range(self.variables) if self.dimensions is None else self.dimensions))

    def __repr__(self) -> str:
        trimmed = "" if self.limits is None else ", trimmed"
        chosen = "" if self.dimensions is None else f" of {self.width:,}"
        variables = f"{self.first} + {self.variables - self.first}" if self.sides else str(self.variables)
        return f"Binning({variables}{chosen} variables, {self.bins} bins, {self.method}{trimmed})"

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        *,
        method: BinningMethod = "equal_count",
        bins: int | Literal["auto"] = "auto",
        trim_z: float | None = None,
    ) -> Binning:
        """Fit the edges of every variable on a sample.

        Parameters
        ----------
        x : array, shape (samples, variables)
            Values that are not finite are left out, variable by variable.
        method : {"equal_count", "equal_width"}
            ``equal_count`` puts (nearly) the same number of samples into each bin, whatever the shape of the distribution.
            ``equal_width`` cuts [minimum, maximum] into bins of one width: the edges of `numpy.histogram2d`.
        bins : int or "auto"
            2 to 64; "auto" is `auto_bins` of the number of samples.
        trim_z : float, optional
            Leave out values further than this many standard deviations from the mean of their variable; both are taken over all
            values of `x`, outliers included, and the edges are fitted on what is left. All values count by default.

        Returns
        -------
        Binning
            A variable without a finite value gets edges that no value reaches: one bin.

        Raises
        ------
        BinningError
            Unknown method, or a number of bins or a `trim_z` out of range.
        InputError
            `x` is not samples x variables.
        """
        x = as_samples(x)
        if method not in get_args(BinningMethod):
            raise BinningError(f"binning method {method!r} is not known; choose one of {get_args(BinningMethod)}.")
        if bins == "auto":
            bins = auto_bins(x.shape[0])
        if not isinstance(bins, int | np.integer) or isinstance(bins, bool) or not 2 <= bins <= MAX_BINS:
            raise BinningError(f"bins must be 'auto' or a whole number from 2 to {MAX_BINS}; got {bins!r}.")
        bins = int(bins)
        values = np.where(np.isfinite(x), x, x.dtype.type(np.nan))
        limits = None
        if trim_z is not None:
            limits = _limits(values, trim_z)
            beyond = (values < limits[:, 0]) | (values > limits[:, 1])
            values = np.where(beyond, x.dtype.type(np.nan), values)
        edges = np.full((x.shape[1], bins - 1), np.inf)
        if x.shape[0] and x.shape[1]:
            fitted = _equal_count(values, bins) if method == "equal_count" else _equal_width(values, bins)
            edges = np.where(np.isnan(fitted), np.inf, fitted)
        mean, sd = mean_and_sd(values)
        frame = np.stack([mean, np.where(sd > 0, sd, _instead_of_0(mean))], axis=1)
        return cls(edges, method, limits, frame)

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What a file needs: facts that JSON can hold, and arrays by name."""
        arrays: dict[str, NDArray[Any]] = {"edges": self.edges}
        arrays |= {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None}
        sides = {"sides": [list(side) for side in self.sides]} if self.sides else {}
        return {"method": self.method, "width": self.width, **sides}, arrays

    @classmethod
    def from_arrays(cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Binning:
        """Rebuild what `to_arrays` gave, from among other facts and arrays.

        Raises
        ------
        InputError
            The method is not known, or the sample is no counts of these bins.
        BinningError
            Edges, limits, frame or dimensions are none.
        KeyError
            There are no edges or no method.

        Examples
        --------
        >>> import numpy as np
        >>> binning = Binning(np.zeros((2, 1)), "equal_count", sample=np.full((2, 2), 50))
        >>> Binning.from_arrays(*binning.to_arrays()).sample
        array([[50, 50],
               [50, 50]])
        """
        if facts["method"] not in get_args(BinningMethod):
            raise InputError(f"binning method {facts['method']!r} is not known.")
        optional = {name: arrays[name] for name in _OPTIONAL if name in arrays}
        return cls(arrays["edges"], facts["method"], width=facts.get("width", 0), sides=facts.get("sides", ()), **optional)

    def counted(self, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """How many of these codes are in each bin, for each variable.

        Parameters
        ----------
        codes : array, shape (samples, variables), uint8
            As `encode` gives them; missing and trimmed ones are in no bin.

        Returns
        -------
        array, shape (variables, bins), int64
        """
        return np.stack([np.count_nonzero(codes == code, axis=0) for code in range(self.bins)], axis=1).astype(np.int64)

    def select(self, x: ArrayLike) -> NDArray[np.floating]:
        """The columns of an array that the edges are for.

        Parameters
        ----------
        x : array, shape (samples, width) or (samples, variables)
            Whole rows, or these columns of them.

        Returns
        -------
        array, shape (samples, variables)

        Raises
        ------
        InputError
            `x` has another number of columns.

        Examples
        --------
        >>> import numpy as np
        >>> Binning(np.zeros((2, 1)), "equal_count", dimensions=[1, 4], width=5).select(np.arange(10.0).reshape(2, 5))
        array([[1., 4.],
               [6., 9.]])
        """
        x = as_samples(x)
        if x.shape[1] == self.variables:
            return x
        if self.dimensions is None or x.shape[1] != self.width:
            among = "" if self.dimensions is None else f" of {self.width}"
            raise InputError(f"the edges were fitted for {self.variables}{among} variables; got an array of shape {x.shape}.")
        return x.take(self.dimensions, axis=1)

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Codes of new samples.

        Parameters
        ----------
        x : array, shape (samples, variables) or (samples, width)
            Of whole rows, `select` takes the columns. float32 is compared as it is, without loss. Values beyond the outer edges
            fall into the outer bins.

        Returns
        -------
        array, shape (samples, variables), uint8
            0 to bins - 1, `MISSING` where the value is NaN or infinite, or `TRIMMED` where it is beyond the limits.

        Raises
        ------
        InputError
            `x` has another number of variables.
        """
        from mi_probe.kernels import encode

        x = self.select(x)
        codes = encode(x, self.edges)
        if self.limits is not None:
            beyond = (x < self.limits[:, 0]) | (x > self.limits[:, 1])
            codes[beyond & (codes != MISSING)] = TRIMMED
        return codes

    def require_same(self, other: Binning) -> None:
        """Raise `MergeError`, naming the first difference, unless both have the same edges."""
        if self.edges.shape != other.edges.shape or self.width != other.width:
            raise MergeError(f"binnings differ: {self!r} against {other!r}.")
        if self.sides != other.sides:
            one, two = (" and ".join(f"{s.point} ({s.width:,})" for s in b.sides) or "one hook point" for b in (self, other))
            raise MergeError(f"binnings differ: they are of {one} against {two}.")
        mine, theirs = (np.arange(b.width) if b.dimensions is None else b.dimensions for b in (self, other))
        if not np.array_equal(mine, theirs):
            v = int(np.argmax(mine != theirs))
            raise MergeError(
                f"binnings differ: variable {v} is dimension {mine[v]} against {theirs[v]} "
                f"({np.count_nonzero(~np.isin(mine, theirs))} dimensions differ in all). Use one binning for both."
            )
        different = np.argwhere(self.edges != other.edges)
        if len(different):
            v, k = different[0]
            raise MergeError(
                f"binnings differ: edge {k} of variable {self.names[v]} is {self.edges[v, k]!r} against {other.edges[v, k]!r} "
                f"({len(different)} edges differ in all). Fit one binning and use it for both."
            )
        if (self.limits is None) != (other.limits is None):
            raise MergeError("binnings differ: one leaves outliers out, the other does not.")
        if self.limits is not None and other.limits is not None and not np.array_equal(self.limits, other.limits):
            v = int(np.argwhere(self.limits != other.limits)[0, 0])
            raise MergeError(
                f"binnings differ: the limits of variable {self.names[v]} are {self.limits[v]} against {other.limits[v]}."
            )
        for name in ("others", "others_from"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if (mine is None) != (theirs is None) or (mine is not None and not np.array_equal(mine, theirs)):
                raise MergeError(
                    "binnings differ: the tokens of other texts that pairs of tokens are compared with are not the same. Use one "
                    "binning for both."
                )


def _instead_of_0(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard deviation of a frame where there is none."""
    return np.asarray(np.where(mean == 0, 1.0, np.abs(mean)))


def _limits(values: NDArray[np.floating], trim_z: float) -> NDArray[np.float64]:
    if isinstance(trim_z, bool) or not isinstance(trim_z, int | float | np.number) or not trim_z > 0:
        raise BinningError(f"trim_z must be a number of standard deviations above 0, or None; got {trim_z!r}.")
    mean, sd = mean_and_sd(values)
    limits = np.stack([mean - trim_z * sd, mean + trim_z * sd], axis=1)
    limits[sd == 0] = [-np.inf, np.inf]
    return limits


def mean_and_sd(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each column's values that are not NaN; 0 and 0 where there is none, and sd exactly 0 for a constant."""
    present = ~np.isnan(values)
    count = np.maximum(present.sum(axis=0), 1)
    largest = np.abs(values).max(axis=0, where=present, initial=0.0).astype(np.float64)
    unit = np.where(largest > 0, largest, 1.0)  # so that nothing overflows
    scaled = np.where(present, values, 0.0) / unit
    # Less one of the values, so that a small spread around a large mean keeps its digits.
    one = np.take_along_axis(scaled, present.argmax(axis=0)[None], axis=0)[0] if len(scaled) else np.zeros(len(unit))
    rest = np.where(present, scaled - one, 0.0)
    mean = rest.sum(axis=0) / count
    sd = np.sqrt(np.where(present, (rest - mean) ** 2, 0.0).sum(axis=0) / count)
    return (one + mean) * unit, sd * unit


def _equal_count(values: NDArray[np.floating], bins: int) -> NDArray[np.float64]:
    ordered = np.sort(values, axis=0)  # NaN last
    present = np.isfinite(ordered).sum(axis=0)
    top = np.maximum(present - 1, 0)
    # round(k n / bins) samples below edge k, and as many above its mirror image: a decreasing map does not change the bins, but
    # for the middle edge of an even number of bins where it has to choose a side.
    k = np.arange(1, bins)[:, None]
    lower = (2 * k * present + bins) // (2 * bins)
    ranks = np.where(k <= bins // 2, lower, present - lower[::-1])
    edges = np.empty((bins - 1, values.shape[1]))
    for row, rank in enumerate(ranks):
        upper_half = row >= bins // 2
        value = np.take_along_axis(ordered, np.minimum(rank, top)[None], axis=0)[0]
        # A cut inside a run of equal values moves to the run's nearer end, but not to where nothing would be on one side.
        begin, end = (ordered < value).sum(axis=0), (ordered <= value).sum(axis=0)
        nearer_up = (end - rank < rank - begin) | (upper_half & (end - rank == rank - begin))
        move_up = (begin == 0) | ((end < present) & nearer_up)
        cut = np.where(move_up, end, begin)
        # An edge is a value of the sample itself, so that float32 data are compared exactly.
        edge = np.take_along_axis(ordered, np.minimum(cut, top)[None], axis=0)[0]
        edges[row] = np.where(cut < present, edge, np.inf)
    return np.ascontiguousarray(np.maximum.accumulate(edges, axis=0).T)


def _equal_width(values: NDArray[np.floating], bins: int) -> NDArray[np.float64]:
    # In the dtype of the data, as numpy.histogram2d has it: its edges for float32 are float32.
    missing = np.isnan(values)
    low = np.where(missing, np.inf, values).min(axis=0)
    high = np.where(missing, -np.inf, values).max(axis=0)
    low, high = np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)
    same = low == high  # numpy.histogram2d widens a constant by one half each way
    low, high = np.where(same, low - low.dtype.type(0.5), low), np.where(same, high + high.dtype.type(0.5), high)
    return np.linspace(low, high, bins + 1, axis=1)[:, 1:-1].astype(np.float64)
