"""The counts of the CPU kernels where the activations are: all pairs at once, as products of one-hot matrices, in torch.

A code becomes a column with a single 1, in the row of its bin, or none where it is missing; the product of such matrices of two
variables is their joint table. The integers are those of the CPU kernels, bit for bit, on any device: each type multiplies no
more samples at a time than it adds up exactly. No function reads a value back to the host, so that no forward pass waits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = [
    "DeviceEdges",
    "Plan",
    "Way",
    "count_lags",
    "count_margins",
    "count_pairs",
    "edges_on",
    "encode",
    "plan",
    "way_for",
    "working_space",
]

Way = Literal["int8", "float16", "float32"]

MISSING, TRIMMED = 255, 254

_MIB = 2**20

# Sums of ones are whole numbers up to the number of samples. int32 holds them up to 2^31 - 1, float32 up to 2^24, float16 up to
# 2^11, and so every partial sum too: the order of adding, tensor cores, TF32 and half-precision accumulators change nothing.
_MOST_SAMPLES: dict[Way, int] = {"int8": 2**30, "float16": 2**11, "float32": 2**24}
_ITEM: dict[Way, int] = {"int8": 1, "float16": 2, "float32": 4}  # bytes

_STRIP = 32  # variables; sizes in multiples of it suit the int8 product: over 16 rows, and all dimensions multiples of 8
_ROUND = 16  # samples
_LEAST_SAMPLES = 64


# --------------------------------------------------------------------------------------------------------------------
# values to codes


class DeviceEdges(NamedTuple):
    """Edges on a device, in the type that values are compared in."""

    by_edge: torch.Tensor
    """(bins - 1, variables)."""
    lower: torch.Tensor | None
    """(variables,), or None if no value is left out as an outlier."""
    upper: torch.Tensor | None


def edges_on(
    device: torch.device | str, edges: NDArray[np.float64], limits: NDArray[np.float64] | None = None, *, double: bool = False
) -> DeviceEdges:
    """Edges and limits as a device compares them; the one function here that copies from the host.

    Parameters
    ----------
    device : torch.device or str
    edges : array, shape (variables, bins - 1), float64
    limits : array, shape (variables, 2), float64, optional
    double : bool
        Whether the values to come are float64; all narrower ones are compared in float32. For a float32 x, ``x >= edge`` says the
        same of an edge and of the smallest float32 that is not below it, so nothing is lost where there is no float64 (MPS).
    """
    import torch

    def there(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.array(array, order="C")).to(device)

    def narrowed(array: NDArray[np.float64], towards: float) -> NDArray[np.floating]:
        return array if double else _float32(array, towards)

    by_edge = there(narrowed(edges, np.inf).T)
    if limits is None:
        return DeviceEdges(by_edge, None, None)
    return DeviceEdges(by_edge, there(narrowed(limits[:, 0], np.inf)), there(narrowed(limits[:, 1], -np.inf)))


def _float32(values: NDArray[np.float64], towards: float) -> NDArray[np.float32]:
    """Rounded to float32 towards inf or -inf."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
        beyond = np.nextafter(nearest, np.float32(towards))
    return np.where(nearest < values if towards > 0 else nearest > values, beyond, nearest)


def encode(values: torch.Tensor, edges: DeviceEdges) -> torch.Tensor:
    """What `Binning.encode` does, on the values' own device.

    Parameters
    ----------
    values : tensor, shape (samples, variables), floating
        float16 and bfloat16 are widened to float32, without loss.
    edges : DeviceEdges
        Of `edges_on`, with ``double`` where `values` are float64.

    Returns
    -------
    tensor, shape (samples, variables), uint8
        0 to bins - 1, 255 where the value is NaN or infinite, 254 where it is beyond the limits.

    Examples
    --------
    >>> import torch
    >>> edges = edges_on("cpu", np.array([[0.1, 2.0]]), limits=np.array([[-5.0, 5.0]]))
    >>> encode(torch.tensor([[0.0], [0.1], [2.0], [torch.inf], [7.0]]), edges)[:, 0]
    tensor([  0,   1,   2, 255, 254], dtype=torch.uint8)
    """
    import torch

    values = values.detach()
    if values.dtype != torch.float64:
        values = values.float()
    codes = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for edge in edges.by_edge:
        codes += values >= edge
    if edges.lower is not None and edges.upper is not None:
        codes.masked_fill_((values < edges.lower) | (values > edges.upper), TRIMMED)
    return codes.masked_fill_((values.abs() < torch.inf).logical_not_(), MISSING)


# --------------------------------------------------------------------------------------------------------------------
# how much at a time


class Plan(NamedTuple):
    """How `count_pairs` cuts its work."""

    samples: int
    """In one product, a multiple of 16."""
    strip: int
    """Variables whose tables one product gives, each with all variables after it; a multiple of 32."""
    nbytes: int
    """The most that temporary tensors take at a time."""


def plan(samples: int, variables: int, bins: int, *, way: Way, space: int, crossed: bool = False) -> Plan:
    """The largest pieces that fit into `space` bytes; never less than 64 samples and 32 variables, whatever the space.

    Examples
    --------
    >>> plan(4096, 768, 8, way="int8", space=2**28)
    Plan(samples=4096, strip=96, nbytes=86114304)
    >>> plan(4096, 768, 8, way="int8", space=2**25)
    Plan(samples=2064, strip=32, nbytes=33533952)
    """
    wide = _up(variables, _STRIP)
    # A strip counts its own square whole, of which half is thrown away: few variables a strip waste less, many multiply faster.
    most = max(_STRIP, _down(min(1024 // bins, variables // 8), _STRIP))
    for_one = wide * (3 * 4 * bins * bins + 2 * 8)  # three stages of a table; i and j
    strip = min(max(_STRIP, _down(space // 2 // for_one, _STRIP)), most)
    for_sample = wide * (1 + bins * (1 if way == "int8" else 1 + _ITEM[way])) * (2 if crossed else 1)
    fitting = max(_LEAST_SAMPLES, _down((space - strip * for_one) // for_sample, _ROUND))
    chunk = min(_up(max(samples, 1), _ROUND), fitting, _MOST_SAMPLES[way])
    return Plan(chunk, strip, strip * for_one + chunk * for_sample)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _down(number: int, step: int) -> int:
    return number // step * step


def working_space(device: torch.device) -> int:
    """Bytes that temporary tensors may take: on CUDA a quarter of what is free, 64 MiB to 1 GiB; elsewhere 256 MiB."""
    if device.type != "cuda":
        return 256 * _MIB
    import torch

    in_cache = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    return max(64 * _MIB, min(1024 * _MIB, (free + in_cache) // 4))


def way_for(device: torch.device) -> Way:
    """The type that multiplies one-hot matrices fastest among those that are exact on this device."""
    import torch

    if device.type == "cuda":
        if torch.version.hip is None and _multiplies_int8(device):
            return "int8"
        return "float16" if torch.cuda.get_device_capability(device) >= (7, 0) else "float32"
    # Off x86, torch multiplies int8 on the CPU in plain loops.
    return "int8" if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else "float32"


@functools.cache
def _multiplies_int8(device: torch.device) -> bool:
    """Whether this GPU, driver and torch have the int8 product: cuBLAS says so by refusing it."""
    import torch

    ones = torch.ones((_STRIP, _STRIP), dtype=torch.int8, device=device)  # if there is no memory left, that says nothing
    try:
        torch._int_mm(ones, ones.T)
    except (AttributeError, RuntimeError):
        return False
    return True


# --------------------------------------------------------------------------------------------------------------------
# counting


def count_pairs(
    codes: torch.Tensor,
    tables: torch.Tensor,
    *,
    partners: torch.Tensor | None = None,
    way: Way | Literal["auto"] = "auto",
    space: int | None = None,
) -> None:
    """Add the joint counts of every pair i < j to `tables`, as `mi_probe.kernels.count_pairs` does.

    Parameters
    ----------
    codes : tensor, shape (samples, variables), uint8
        0 to bins - 1; any other code leaves the sample out of that variable's pairs.
    tables : tensor, shape (pairs, bins, bins), int32 or int64
        Changed in place. On the same device. The caller makes sure that no cell can overflow.
    partners : tensor like `codes`, optional
        Where j's codes are taken from, while i's are from `codes`; the same tensor by default.
    way : {"auto", "int8", "float16", "float32"}
        What one-hot matrices are made of; "auto" asks `way_for`.
    space : int, optional
        Bytes for temporary tensors (`plan`); by default `working_space` of the device.

    Examples
    --------
    >>> import torch
    >>> tables = torch.zeros((1, 2, 2), dtype=torch.int32)
    >>> count_pairs(torch.tensor([[0, 0], [1, 1], [1, 0], [1, 255]], dtype=torch.uint8), tables)
    >>> tables[0]
    tensor([[1, 0],
            [1, 1]], dtype=torch.int32)
    """
    samples, variables = codes.shape
    bins = tables.shape[1]
    if samples == 0 or variables < 2:
        return
    chosen = way_for(codes.device) if way == "auto" else way
    space = working_space(codes.device) if space is None else space
    cut = plan(samples, variables, bins, way=chosen, space=space, crossed=partners is not None)
    for start in range(0, samples, cut.samples):
        chunk = slice(start, start + cut.samples)
        _count_chunk(codes[chunk], None if partners is None else partners[chunk], chosen, cut.strip, tables)


# Each of these is a function of its own so that its temporary tensors are gone before the next ones are made.


def _count_chunk(
    codes: torch.Tensor, partners: torch.Tensor | None, way: Way, strip: int, tables: torch.Tensor
) -> None:  # fmt: skip
    variables, bins = codes.shape[1], tables.shape[1]
    first = _one_hot(codes, bins, way)
    second = first if partners is None else _one_hot(partners, bins, way)
    begin = 0
    for start in range(0, variables, strip):
        left, right = first[start * bins : (start + strip) * bins], second[start * bins :]
        begin += _add_strip(left, right, variables - start, tables[begin:])


def _one_hot(codes: torch.Tensor, bins: int, way: Way) -> torch.Tensor:
    """(variables * bins, samples) of 0 and 1, both filled up to round sizes with what is in no bin."""
    import torch

    samples, variables = codes.shape
    by_variable = torch.full(
        (_up(variables, _STRIP), _up(samples, _ROUND)), MISSING, dtype=torch.uint8, device=codes.device
    )  # fmt: skip
    by_variable[:variables, :samples].copy_(codes.T)
    bin_numbers = torch.arange(bins, dtype=torch.uint8, device=codes.device)
    ones = (by_variable[:, None, :] == bin_numbers[None, :, None]).reshape(-1, by_variable.shape[1])
    return ones.view(torch.int8) if way == "int8" else ones.to(torch.float16 if way == "float16" else torch.float32)


def _add_strip(left: torch.Tensor, right: torch.Tensor, variables: int, tables: torch.Tensor) -> int:
    """Add a strip of variables times all from its first on; its pairs are the first of `tables`, without a gap. Their number."""
    import torch

    bins = tables.shape[1]
    rows, columns = len(left) // bins, len(right) // bins
    product = _product(left, right).view(rows, bins, columns, bins)
    ordered = torch.empty((rows, columns, bins, bins), dtype=torch.int32, device=tables.device)
    ordered.copy_(product.permute(0, 2, 1, 3))
    # Rows and columns beyond `variables` only fill up.
    i, j = torch.triu_indices(min(rows, variables), variables, offset=1, device=tables.device)
    chosen = ordered.view(-1, bins, bins).index_select(0, i.mul_(columns).add_(j))
    tables[: len(chosen)].add_(chosen)
    return len(chosen)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    import torch

    if left.dtype == torch.int8:
        return torch._int_mm(left, right.T)
    out = torch.empty((len(left), len(right)), dtype=left.dtype, device=left.device)
    return torch.mm(left, right.T, out=out)  # into a tensor of a given type, which autocast leaves alone


def count_lags(
    codes: torch.Tensor, lengths: Sequence[int] | NDArray[np.integer], out: torch.Tensor, *, space: int | None = None
) -> None:
    """Add the lagged counts of every variable to `out`, as `mi_probe.serial.count_lags` does.

    Parameters
    ----------
    codes : tensor, shape (tokens, variables), uint8
        Texts one after the other. 0 to bins - 1; any other code is a token left out of that variable, which keeps its place.
    lengths : sequence of int
        Tokens of each text, in order, on the host.
    out : tensor, shape (lags, variables, bins, bins), int32 or int64
        Changed in place: ``out[k - 1, v, a, b]`` grows by the number of t with code a at t and code b at t + k in one text.
    space : int, optional
        Bytes for temporary tensors, beside a copy of the codes; by default `working_space` of the device.

    Examples
    --------
    >>> import torch
    >>> out = torch.zeros((1, 1, 2, 2), dtype=torch.int64)
    >>> count_lags(torch.tensor([[0], [1], [1], [0]], dtype=torch.uint8), [2, 2], out)  # 0 1 | 1 0
    >>> out[0, 0]
    tensor([[0, 1],
            [1, 0]])
    """
    import torch

    lags, variables, bins, _ = out.shape
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64)).tolist()
    texts = [(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True) if end - begin > 1]
    if not texts or out.numel() == 0:
        return
    # As many missing tokens after each text as there are lags: no lag reaches over them into the next.
    gap = codes.new_full((lags, variables), MISSING)
    spread = torch.cat([part for begin, end in texts for part in (codes[begin:end], gap)])
    wide = bins + 1  # the last row and column take the missing ones and are thrown away
    counted = torch.zeros((lags, variables * wide * wide), dtype=torch.int32, device=codes.device)
    one = torch.ones(1, dtype=torch.int32, device=codes.device)
    where = torch.arange(variables, device=codes.device) * wide
    space = working_space(codes.device) if space is None else space
    step = max(1, space // (4 * 8 * variables) - lags)
    for start in range(0, len(spread), step):
        part = spread[start : start + step + lags].clamp(max=bins).to(torch.int64)
        cells = (where + part) * wide
        for k in range(1, lags + 1):
            firsts = min(step, len(part) - k)
            if firsts > 0:
                index = (cells[:firsts] + part[k : k + firsts]).reshape(-1)
                counted[k - 1].scatter_add_(0, index, one.expand(len(index)))
    out.add_(counted.view(lags, variables, wide, wide)[:, :, :bins, :bins])


def count_margins(codes: torch.Tensor, bins: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts of each variable by itself.

    Parameters
    ----------
    codes : tensor, shape (samples, variables), uint8
    bins : int

    Returns
    -------
    margins : tensor, shape (variables, bins), int64
    missing : tensor, shape (variables,), int64
        Samples without a bin, those left out as outliers among them.
    trimmed : tensor, shape (variables,), int64
        Samples left out as outliers.

    Examples
    --------
    >>> import torch
    >>> count_margins(torch.tensor([[0], [1], [1], [255], [254]], dtype=torch.uint8), 2)
    (tensor([[1, 2]]), tensor([2]), tensor([1]))
    """
    import torch

    def number(code: int) -> torch.Tensor:
        return (codes == code).sum(dim=0, dtype=torch.int64)

    trimmed = number(TRIMMED)
    return torch.stack([number(b) for b in range(bins)], dim=1), number(MISSING) + trimmed, trimmed
