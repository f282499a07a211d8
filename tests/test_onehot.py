"""The torch kernels give the integers of the CPU kernels, on every device there is, and never wait for it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mi_probe import Binning, JointCounts, kernels, serial
from mi_probe.binning import MISSING, TRIMMED
from mi_probe.kernels import onehot

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
WAYS: tuple[onehot.Way, ...] = ("int8", "float16", "float32")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

on_devices = pytest.mark.parametrize("device", DEVICES)


def ways_on(device: str) -> tuple[onehot.Way, ...]:
    return ("float32",) if device == "mps" else WAYS


def codes_with(seed: int, samples: int, variables: int, bins: int, missing: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, bins, size=(samples, variables), dtype=np.uint8)
    for code in (MISSING, TRIMMED):
        codes[rng.random(codes.shape) < missing / 2] = code
    return codes


def slow_tables(codes: np.ndarray, partners: np.ndarray, bins: int) -> np.ndarray:
    """np.histogram2d for every pair, over the samples that both variables have."""
    variables = codes.shape[1]
    edges = np.arange(bins + 1) - 0.5
    tables = np.zeros((variables * (variables - 1) // 2, bins, bins), dtype=np.int64)
    for pair, (i, j) in enumerate(zip(*np.triu_indices(variables, 1), strict=True)):
        there = (codes[:, i] < bins) & (partners[:, j] < bins)
        tables[pair] = np.histogram2d(codes[there, i], partners[there, j], bins=[edges, edges])[0]
    return tables


# -- pairs ------------------------------------------------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("bins", [2, 3, 5, 8, 15, 16, 31, 32])
@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 4095, 4097])
def test_tables_are_those_of_numpy_and_of_the_cpu_kernel(samples: int, bins: int, missing: float, device: str) -> None:
    codes = codes_with(samples + bins, samples, 4, bins, missing)
    expected = slow_tables(codes, codes, bins)
    by_cpu = np.zeros((6, bins, bins), dtype=np.int64)
    kernels.count_pairs(codes, by_cpu)
    np.testing.assert_array_equal(by_cpu, expected)
    for way in ways_on(device):
        if way == "float16" and device == "cpu" and samples * bins > 2**16:
            continue  # slow there, and nothing new
        for dtype in (torch.int32, torch.int64):
            tables = torch.zeros((6, bins, bins), dtype=dtype, device=device)
            onehot.count_pairs(torch.from_numpy(codes).to(device), tables, way=way)
            np.testing.assert_array_equal(tables.cpu().numpy(), expected)


@on_devices
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_counts_do_not_depend_on_how_the_work_is_cut(device: str, data: st.DataObject) -> None:
    samples, variables, bins = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 100)), data.draw(st.integers(1, 9))
    codes = codes_with(data.draw(st.integers(0, 99)), samples, variables, bins, data.draw(st.sampled_from([0.0, 0.1, 1.0])))
    partners = codes_with(1, samples, variables, bins, 0.1) if data.draw(st.booleans()) else None
    expected = np.full((variables * (variables - 1) // 2, bins, bins), 7, dtype=np.int32)
    kernels.count_pairs(codes, expected, partners=partners)
    tables = torch.full(expected.shape, 7, dtype=torch.int32, device=device)
    onehot.count_pairs(
        torch.from_numpy(codes).to(device),
        tables,
        partners=None if partners is None else torch.from_numpy(partners).to(device),
        way=data.draw(st.sampled_from(ways_on(device))),
        space=data.draw(st.sampled_from([0, 2**20, None])),
    )
    np.testing.assert_array_equal(tables.cpu().numpy(), expected)


@on_devices
def test_strips_and_chunks_fit_together_in_the_smallest_space(device: str) -> None:
    assert onehot.plan(300, 70, 3, way="float32", space=0)[:2] == (64, 32)  # five chunks, three strips, all of them uneven
    codes = codes_with(0, 300, 70, 3, 0.1)
    tables = torch.zeros((70 * 69 // 2, 3, 3), dtype=torch.int64, device=device)
    for way in ways_on(device):
        onehot.count_pairs(torch.from_numpy(codes).to(device), tables, way=way, space=0)
    np.testing.assert_array_equal(tables.cpu().numpy(), len(ways_on(device)) * slow_tables(codes, codes, 3))


@on_devices
def test_codes_that_are_views_are_counted_as_they_are_seen(device: str) -> None:
    codes = torch.from_numpy(codes_with(0, 90, 40, 4, 0.1)).to(device)
    tables, again = (torch.zeros((45, 4, 4), dtype=torch.int32, device=device) for _ in range(2))
    onehot.count_pairs(codes[::3, 5:25:2], tables)
    onehot.count_pairs(codes.clone()[::3, 5:25:2].contiguous(), again)
    assert torch.equal(tables, again)
    assert tables.sum() > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_full_cell_is_exact_where_its_type_would_round(way: onehot.Way) -> None:
    samples = 2 * onehot._MOST_SAMPLES["float16"] + 3  # more than a float16 or bfloat16 product could hold
    tables = torch.zeros((1, 2, 2), dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16):
        onehot.count_pairs(torch.zeros((samples, 2), dtype=torch.uint8), tables, way=way)
    assert tables.tolist() == [[[samples, 0], [0, 0]]]


@pytest.mark.parametrize("way", WAYS)
def test_a_product_never_has_more_samples_than_its_type_adds_up_exactly(way: onehot.Way) -> None:
    most = onehot.plan(2**40, 2, 2, way=way, space=2**60).samples
    if way == "int8":
        assert most < 2**31
    else:
        assert most <= 2 / torch.finfo(getattr(torch, way)).eps  # up to there whole numbers have no gap


@contextmanager
def temporary_bytes() -> Iterator[list[int]]:
    """The most that tensors made inside held at a time, in the list's only entry."""
    held: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    most = [0]

    def gone(storage: int) -> None:
        held[storage] -= 1
        if not held[storage]:
            del held[storage], sizes[storage]

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and not any(made is given for given in args) and "out" not in (kwargs or {}):
                storage = made.untyped_storage()._cdata
                sizes[storage] = made.untyped_storage().nbytes()
                held[storage] += 1
                weakref.finalize(made, gone, storage)
                most[0] = max(most[0], sum(sizes.values()))
            return made

    with Watching():
        yield most


@pytest.mark.parametrize("way", ["int8", "float32"])
@pytest.mark.parametrize("space", [0, 2**22, 2**28])
@pytest.mark.parametrize("crossed", [False, True])
def test_no_more_memory_is_taken_than_the_plan_says(space: int, way: onehot.Way, crossed: bool) -> None:
    codes = torch.zeros((300, 150), dtype=torch.uint8)
    partners = codes.clone() if crossed else None
    tables = torch.zeros((150 * 149 // 2, 5, 5), dtype=torch.int32)
    inputs = tables.untyped_storage().nbytes() + 2 * codes.untyped_storage().nbytes()  # seen as bases of views
    plan = onehot.plan(300, 150, 5, way=way, space=space, crossed=crossed)
    assert plan.nbytes <= max(space, onehot.plan(300, 150, 5, way=way, space=0, crossed=crossed).nbytes)
    with temporary_bytes() as most:
        onehot.count_pairs(codes, tables, partners=partners, way=way, space=space)
    assert 0.4 * plan.nbytes < most[0] <= plan.nbytes + inputs


# -- lags and margins -------------------------------------------------------------------------------------------------


def slow_lags(codes: np.ndarray, lengths: list[int], lags: int, bins: int) -> np.ndarray:
    out = np.zeros((lags, codes.shape[1], bins, bins), dtype=np.int64)
    for text in np.split(codes, np.cumsum(lengths)[:-1]):
        for k in range(1, lags + 1):
            for v in range(codes.shape[1]):
                for a, b in zip(text[:-k, v], text[k:, v], strict=True):
                    if a < bins and b < bins:
                        out[k - 1, v, a, b] += 1
    return out


@on_devices
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("space", [0, 2**12, None])
@pytest.mark.parametrize("lengths", [[60], [1], [0, 5, 1, 1, 30, 3, 0, 20], [0]])
def test_lagged_counts_are_those_of_a_loop_and_of_the_cpu_kernel(
    lengths: list[int], space: int | None, dtype: torch.dtype, device: str
) -> None:
    for lags, bins in ((1, 2), (4, 5), (40, 3), (0, 3)):
        codes = codes_with(lags, sum(lengths), 3, bins, 0.2)
        expected = slow_lags(codes, lengths, lags, bins)
        by_cpu = np.zeros_like(expected)
        serial.count_lags(codes, np.array(lengths), by_cpu)
        np.testing.assert_array_equal(by_cpu, expected)
        out = torch.ones(expected.shape, dtype=dtype, device=device)
        onehot.count_lags(torch.from_numpy(codes).to(device), lengths, out, space=space)
        np.testing.assert_array_equal(out.cpu().numpy(), expected + 1)


@on_devices
@pytest.mark.parametrize("samples", [0, 1, 5000])
def test_margins_are_those_of_joint_counts(samples: int, device: str) -> None:
    codes = codes_with(3, samples, 6, 5, 0.3)
    counts = JointCounts.from_codes(codes, 5)
    margins, missing, trimmed = (t.cpu().numpy() for t in onehot.count_margins(torch.from_numpy(codes).to(device), 5))
    for mine, theirs in ((margins, counts.margins), (missing, counts.missing), (trimmed, counts.trimmed)):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


# -- codes ------------------------------------------------------------------------------------------------------------


def awkward(edges: np.ndarray, limits: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Values at the edges and limits, next to them on both sides, and whatever is no ordinary number; a column a variable."""
    near = torch.from_numpy(np.concatenate([edges, limits], axis=1).T.copy()).to(dtype)
    up, down = (torch.nextafter(near, torch.full_like(near, side)) for side in (torch.inf, -torch.inf))
    info = torch.finfo(dtype)
    odd = [
        0.0,
        -0.0,
        info.tiny,
        -info.tiny,
        info.smallest_normal * info.eps,
        info.max,
        info.min,
        torch.inf,
        -torch.inf,
        torch.nan,
    ]
    return torch.cat([near, up, down, torch.tensor(odd, dtype=dtype)[:, None].expand(-1, len(edges))])


@on_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bins", [2, 3, 8, 32, 64])
@pytest.mark.parametrize("limited", [False, True])
def test_codes_are_those_of_the_binning(limited: bool, bins: int, dtype: torch.dtype, device: str) -> None:
    if device == "mps" and dtype == torch.float64:
        pytest.skip("MPS has no float64")
    rng = np.random.default_rng(bins)
    edges = np.sort(rng.standard_normal((6, bins - 1)), axis=1)
    edges[1] = np.sort(rng.standard_normal(bins - 1).astype(np.float32))
    edges[2] = 0.0
    edges[3] = np.linspace(-1e-45, 1e-45, bins - 1)
    edges[4] = np.linspace(-3.5e38, 3.5e38, bins - 1)  # beyond float32 at both ends
    edges[5, bins // 2 :] = np.inf
    limits = np.stack([-rng.random(6) - 0.5, rng.random(6) + 0.5], axis=1) * np.array([1, 1, 1, 1e-45, 1e39, 1])[:, None]
    binning = Binning(edges, "equal_width", limits if limited else None)
    values = torch.cat([torch.from_numpy(rng.standard_normal((500, 6))).to(dtype), awkward(edges, limits, dtype)])
    there = onehot.edges_on(device, binning.edges, binning.limits, double=dtype == torch.float64)
    codes = onehot.encode(values.to(device).requires_grad_(), there)
    assert codes.dtype == torch.uint8
    np.testing.assert_array_equal(codes.cpu().numpy(), binning.encode(values))


@settings(deadline=None, max_examples=300)
@given(edge=st.floats(allow_nan=False), value=st.floats(width=32, allow_nan=False))
def test_a_float32_edge_compares_as_the_float64_edge_it_stands_for(edge: float, value: float) -> None:
    up, down = (onehot._float32(np.array([edge]), side)[0] for side in (np.inf, -np.inf))
    # The smallest float32 that is not below the edge and the largest that is not above it: hence the same comparisons.
    with np.errstate(over="ignore"):
        assert up >= edge
        assert up == -np.inf or float(np.nextafter(up, np.float32(-np.inf))) < edge
        assert down <= edge
        assert down == np.inf or float(np.nextafter(down, np.float32(np.inf))) > edge
        nearest = np.float32(edge)
        for x in (np.float32(value), nearest, *(np.nextafter(nearest, np.float32(side)) for side in (np.inf, -np.inf))):
            assert (x >= up) == (float(x) >= edge)
            assert (x < up) == (float(x) < edge)
            assert (x > down) == (float(x) > edge)


# -- never waiting ----------------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Lists the operations that would make the host wait for a device."""

    NAMES = frozenset(
        f"aten::{name}"
        for name in (
            *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "argwhere", "masked_select"),
            *("_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "histc", "_assert_async"),
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        made = func(*args, **kwargs)
        tensors = [a for a in (*args, *kwargs.values(), made) if isinstance(a, torch.Tensor)]
        indices = [i for a in args if isinstance(a, list | tuple) for i in a if isinstance(i, torch.Tensor)]
        between = {t.device.type for t in tensors if t.dim()}
        if (
            name in self.NAMES
            or (name.startswith("aten::index") and any(i.dtype == torch.bool for i in indices))
            or (name == "aten::repeat_interleave" and kwargs.get("output_size") is None)
            or len(between) > 1  # a copy between the host and a device
        ):
            self.found.append(name)
        return made


@pytest.mark.parametrize(
    "reading",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 1),
        lambda x: x.unique(),
        lambda x: x.bincount(),
        lambda x: torch.equal(x, x),
        lambda x: x.repeat_interleave(x),
        lambda x: x.to("meta"),
    ],
)  # fmt: skip
def test_what_waits_is_found_out(reading: Any) -> None:
    with Waits() as waits:
        reading(torch.arange(4))
    assert waits.found


def everything(device: str, ways: tuple[onehot.Way, ...], edges: onehot.DeviceEdges) -> None:
    """Each kernel once, on more than one strip and chunk."""
    codes = onehot.encode(torch.zeros((200, 70), device=device), edges)
    tables = torch.zeros((70 * 69 // 2, 4, 4), dtype=torch.int32, device=device)
    for way in ways:
        onehot.count_pairs(codes, tables, way=way, space=0)
        onehot.count_pairs(codes, tables, partners=codes.clone(), way=way)
    onehot.count_lags(codes, [50, 1, 149], torch.zeros((3, 70, 4, 4), dtype=torch.int64, device=device), space=0)
    onehot.count_margins(codes, 4)


@pytest.mark.parametrize("device", [*DEVICES, "meta"])
def test_no_kernel_waits_for_the_device(device: str) -> None:
    """On the meta device there is no value that could be read: whatever asks for one fails."""
    ones = np.ones((70, 3))
    edges = onehot.edges_on(device, ones, np.stack([-ones[:, 0], ones[:, 0]], axis=1))
    with Waits() as waits:
        everything(device, ways_on(device), edges)
    assert waits.found == []


@CUDA
def test_cuda_itself_sees_no_waiting() -> None:
    edges = onehot.edges_on("cuda", np.ones((70, 3)))
    everything("cuda", WAYS, edges)  # what is asked of a device once is asked now
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything("cuda", WAYS, edges)
        onehot.count_pairs(torch.zeros((9, 4), dtype=torch.uint8, device="cuda"), torch.zeros((6, 2, 2), device="cuda").int())
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- choices ----------------------------------------------------------------------------------------------------------


def test_the_space_is_a_part_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 2**20
    assert onehot.working_space(torch.device("cpu")) == onehot.working_space(torch.device("mps")) == 256 * mib
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 300 * mib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 100 * mib)
    for free, space in ((200, 100), (10, 64), (70_000, 1024)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device, free=free: (free * mib, 80_000 * mib))
        assert onehot.working_space(torch.device("cuda", 0)) == space * mib


def test_the_type_is_the_fastest_exact_one_that_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 7)
    for hip, multiplies, capability, way in (
        (None, True, (8, 0), "int8"),
        (None, False, (7, 0), "float16"),
        ("6.2", True, (9, 4), "float16"),
        (None, False, (6, 1), "float32"),
    ):
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(onehot, "_multiplies_int8", lambda _device, answer=multiplies: answer)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, capability=capability: capability)
        assert onehot.way_for(device) == way
    assert onehot.way_for(torch.device("mps")) == "float32"
    for capability, way in (("AVX512", "int8"), ("AVX2", "int8"), ("DEFAULT", "float32")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert onehot.way_for(torch.device("cpu")) == way


def test_a_device_that_refuses_the_int8_product_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    ask = onehot._multiplies_int8.__wrapped__  # without its memory
    assert ask(torch.device("cpu"))
    monkeypatch.setattr(torch, "_int_mm", refuse)
    assert not ask(torch.device("cpu"))
