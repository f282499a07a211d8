"""Codes and counts that stay where the activations are until someone asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import MAX_BINS, Binning
from mi_probe.errors import InputError, MIProbeError

if TYPE_CHECKING:
    import torch

    from mi_probe.kernels.onehot import DeviceEdges

__all__ = ["DeviceBinning", "DeviceBytes", "DeviceCounts", "Taken", "bytes_on"]

BUFFER_ROWS = 4096
_INT32_MAX = 2**31 - 1


class DeviceBinning:
    """A binning whose edges lie on the devices where there are values to encode.

    Parameters
    ----------
    binning : Binning

    Examples
    --------
    >>> import numpy as np, torch
    >>> x = np.array([[0.0], [1.0], [2.0], [3.0], [np.nan]], dtype=np.float32)
    >>> DeviceBinning(Binning.fit(x, bins=2)).encode(torch.from_numpy(x))[:, 0]
    tensor([  0,   0,   1,   1, 255], dtype=torch.uint8)
    """

    def __init__(self, binning: Binning) -> None:
        self.binning = binning
        self._edges: dict[tuple[torch.device, bool], DeviceEdges] = {}
        self._columns: dict[torch.device, torch.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"binning": self.binning, "_edges": {}, "_columns": {}}  # the devices of others may be other ones

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """What `Binning.encode` gives, on the values' own device; edges are copied there once.

        Parameters
        ----------
        values : tensor, shape (samples, variables) or (samples, width), floating

        Returns
        -------
        tensor, shape (samples, variables), uint8

        Raises
        ------
        InputError
            `values` has another number of variables, or another kind of numbers.
        """
        import torch

        from mi_probe.kernels import onehot

        wide = {self.binning.variables, self.binning.width}
        if values.ndim != 2 or values.shape[1] not in wide or not values.is_floating_point():
            raise InputError(
                f"values must be floating numbers of shape (samples, {self.binning.variables}), as the edges were fitted for; "
                f"got {values.dtype} of shape {tuple(values.shape)}."
            )
        if values.shape[1] != self.binning.variables:
            values = values.index_select(1, self._columns_on(values.device))
        key = (values.device, values.dtype == torch.float64)
        if key not in self._edges:
            with torch.inference_mode(False):
                self._edges[key] = onehot.edges_on(values.device, self.binning.edges, self.binning.limits, double=key[1])
        return onehot.encode(values, self._edges[key])

    def _columns_on(self, device: torch.device) -> torch.Tensor:
        import torch

        if device not in self._columns:
            with torch.inference_mode(False):
                self._columns[device] = torch.tensor(self.binning.dimensions, device=device)
        return self._columns[device]


class DeviceBytes(NamedTuple):
    """What counting on a device takes there."""

    tables: int
    """Tables and margins, as long as the counts live. Twice the tables from 2^31 samples on without a `take`."""
    buffer: int
    """Codes that wait, as long as the counts live."""
    working: int
    """At most, while counting; counts that are updated one after the other share it."""

    @property
    def total(self) -> int:
        """All of it together."""
        return sum(self)


def bytes_on(device: torch.device | str, variables: int, bins: int, *, crossed: bool = False) -> DeviceBytes:
    """What `DeviceCounts` will take, before anything is taken.

    Parameters
    ----------
    device : torch.device or str
    variables, bins : int
    crossed : bool
        Whether `DeviceCounts.update_crossed` will be called.

    Examples
    --------
    >>> bytes_on("cpu", variables=768, bins=8).tables / 1e6  # MB
    75.460608
    """
    import torch

    from mi_probe.kernels import onehot

    device = torch.device(device)
    work = onehot.plan(
        BUFFER_ROWS, variables, bins, way=onehot.way_for(device), space=onehot.working_space(device), crossed=crossed
    )  # fmt: skip
    tables = variables * (variables - 1) // 2 * bins * bins * 4 + variables * (bins + 2) * 8
    return DeviceBytes(tables, BUFFER_ROWS * variables * (2 if crossed else 1), work.nbytes)


class Taken(NamedTuple):
    """Counts as NumPy arrays, in the shapes and types of `JointCounts`: ``JointCounts.from_arrays(**taken._asdict())``."""

    n: int
    missing: NDArray[np.int64]
    trimmed: NDArray[np.int64]
    margins: NDArray[np.int64]
    tables: NDArray[np.integer]


class DeviceCounts:
    """Joint histograms of every pair of variables i < j on a device, the integers of `JointCounts`.

    Codes wait in a buffer until there are enough of them for a large product. No update waits for the device; `take` does.

    Parameters
    ----------
    variables, bins : int
        Shape of the tables.
    device : torch.device or str

    Examples
    --------
    >>> import torch
    >>> counts = DeviceCounts(variables=2, bins=2, device="cpu")
    >>> counts.update(torch.tensor([[0, 0], [1, 1], [1, 0]], dtype=torch.uint8))
    >>> counts.take().tables[0]
    array([[1, 0],
           [1, 1]], dtype=int32)
    >>> counts.n
    0
    """

    def __init__(self, variables: int, bins: int, device: torch.device | str) -> None:
        import torch

        from mi_probe.kernels import onehot

        if variables < 1 or not 1 <= bins <= MAX_BINS:
            raise InputError(f"counts need at least 1 variable and 1 to {MAX_BINS} bins; got {variables} and {bins}.")
        self.variables = variables
        self.bins = bins
        pairs = variables * (variables - 1) // 2
        # Tensors made in inference mode, where hooks may run, could not be changed outside of it.
        with torch.inference_mode(False):
            self._tables = torch.zeros((pairs, bins, bins), dtype=torch.int32, device=device)
            self._margins = torch.zeros((variables, bins), dtype=torch.int64, device=device)
            self._missing = torch.zeros(variables, dtype=torch.int64, device=device)
            self._trimmed = torch.zeros(variables, dtype=torch.int64, device=device)
            # One buffer, or two if i's codes and j's come from different rows.
            self._buffers = [torch.empty((BUFFER_ROWS, variables), dtype=torch.uint8, device=device)]
        self.device = self._tables.device  # with its number
        self._space = onehot.working_space(self.device)
        self._crossed = False
        self._buffered = 0
        self._n = 0
        self._broken = False

    def __repr__(self) -> str:
        return f"DeviceCounts({self.variables} variables, {self.bins} bins, {self.n:,} samples, on {self.device})"

    @property
    def n(self) -> int:
        """Samples since the last `take`."""
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes held on the device; `bytes_on` says them in advance, and what counting takes for a moment."""
        held = [self._tables, self._margins, self._missing, self._trimmed, *self._buffers]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def update(self, codes: torch.Tensor) -> None:
        """Count more samples.

        Parameters
        ----------
        codes : tensor, shape (samples, variables), uint8
            On this device; 0 to bins - 1, `mi_probe.binning.MISSING` or `TRIMMED`. That they are is seen at `take`.

        Raises
        ------
        InputError
            Wrong shape, type or device. Nothing is counted then.
        """
        self._require(codes)
        self._append([codes])

    def update_crossed(self, first: torch.Tensor, second: torch.Tensor) -> None:
        """Count the pairs i < j with i's code from one row and j's from another, both ways round.

        Parameters
        ----------
        first, second : tensors, shape (samples, variables), uint8
            Row s of one goes with row s of the other: 2 * samples samples in all, as in `JointCounts.update_crossed`.

        Raises
        ------
        InputError
            Wrong shape, type or device, or not as many rows in both. Nothing is counted then.
        """
        self._require(first)
        self._require(second)
        if len(first) != len(second):
            raise InputError(f"each row goes with one row of the other; got {len(first)} and {len(second)} rows.")
        self._append([first, second])
        self._append([second, first])

    def flush(self) -> None:
        """Count what is buffered."""
        self._require_whole()
        if self._buffered:
            self._count([buffer[: self._buffered] for buffer in self._buffers[: 2 if self._crossed else 1]])
            self._buffered = 0

    def take(self) -> Taken:
        """What `read` gives; the counts start from zero again."""
        taken = self.read()
        self.clear()
        return taken

    def read(self) -> Taken:
        """The counts since the last `take`, copied to the host. Waits for the device.

        Raises
        ------
        InputError
            Some codes were neither bins nor missing. The counts stay as they are.
        """
        self.flush()
        missing, trimmed, margins = (_on_host(tensor) for tensor in (self._missing, self._trimmed, self._margins))
        if (margins.sum(axis=1) + missing != self._n).any():
            raise InputError(f"some codes were neither 0 to {self.bins - 1} nor those of missing values.")
        return Taken(self._n, missing, trimmed, margins, _on_host(self._tables))

    def clear(self) -> None:
        """Start from zero, whatever was counted or interrupted before."""
        import torch

        with torch.inference_mode(False):
            if self._tables.dtype == torch.int32:
                self._tables.zero_()
            else:
                self._tables = torch.zeros(self._tables.shape, dtype=torch.int32, device=self.device)
        for tensor in (self._margins, self._missing, self._trimmed):
            tensor.zero_()
        self._n = self._buffered = 0
        self._broken = False

    # -- inside ------------------------------------------------------------------------------------------------------

    def _require(self, codes: torch.Tensor) -> None:
        import torch

        if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] != self.variables or codes.device != self.device:
            raise InputError(
                f"codes must be uint8 of shape (samples, {self.variables}) on {self.device}; "
                f"got {codes.dtype} of shape {tuple(codes.shape)} on {codes.device}."
            )

    def _require_whole(self) -> None:
        if self._broken:
            raise MIProbeError("counting was interrupted halfway: these counts are not whole. Start anew, with clear().")

    def _append(self, parts: list[torch.Tensor]) -> None:
        """Buffer rows, i's codes first and j's second where they differ; count whenever the buffer is full."""
        import torch

        self._require_whole()
        crossed = len(parts) == 2
        if crossed != self._crossed:
            self.flush()
            self._crossed = crossed
        if len(self._buffers) < len(parts):
            with torch.inference_mode(False):
                self._buffers.append(torch.empty_like(self._buffers[0]))
        start, end = 0, len(parts[0])
        while start < end:
            if not self._buffered and end - start >= BUFFER_ROWS:  # nothing to wait for
                self._n += BUFFER_ROWS
                self._count([part[start : start + BUFFER_ROWS] for part in parts])
                start += BUFFER_ROWS
                continue
            take = min(end - start, BUFFER_ROWS - self._buffered)
            for buffer, part in zip(self._buffers, parts, strict=False):
                buffer[self._buffered : self._buffered + take].copy_(part[start : start + take])
            self._buffered += take
            self._n += take
            start += take
            if self._buffered == BUFFER_ROWS:
                self.flush()

    def _count(self, parts: list[torch.Tensor]) -> None:
        import torch

        from mi_probe.kernels import onehot

        self._broken = True  # until all of it is done
        if self._n > _INT32_MAX and self._tables.dtype == torch.int32:
            with torch.inference_mode(False):
                self._tables = self._tables.to(torch.int64)
        space = min(self._space, onehot.working_space(self.device))  # what was said in advance, or what is left of it
        onehot.count_pairs(parts[0], self._tables, partners=parts[1] if len(parts) == 2 else None, space=space)
        totals = (self._margins, self._missing, self._trimmed)
        for total, more in zip(totals, onehot.count_margins(parts[0], self.bins), strict=True):
            total += more
        self._broken = False


def _on_host(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.to("cpu", copy=True).numpy()
    return array
