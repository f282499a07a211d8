"""Counts on a device are those of JointCounts, whatever comes between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_probe import Binning, JointCounts, ondevice
from mi_probe.errors import InputError, MIProbeError
from mi_probe.kernels import onehot
from mi_probe.ondevice import DeviceBinning, DeviceCounts, bytes_on

from .test_onehot import CUDA, DEVICES, Waits, codes_with, on_devices


def taken(counts: DeviceCounts) -> JointCounts:
    return JointCounts.from_arrays(**counts.take()._asdict())


@on_devices
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_counts_are_those_of_joint_counts_however_the_rows_come(device: str, data: st.DataObject) -> None:
    variables, bins = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    steps = data.draw(st.lists(st.tuples(st.sampled_from(["rows", "crossed", "flush", "take"]), st.integers(0, 150)), max_size=8))
    total, expected = JointCounts(variables, bins), JointCounts(variables, bins)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ondevice, "BUFFER_ROWS", data.draw(st.sampled_from([7, 64, 4096])))
        counts = DeviceCounts(variables, bins, device)
        for seed, (step, samples) in enumerate(steps):
            first, second = (codes_with(seed + k, samples, variables, bins, 0.1) for k in (0, 100))
            if step == "rows":
                expected.update(first)
                counts.update(torch.from_numpy(first).to(device))
            elif step == "crossed":
                expected.update_crossed(first, second)
                counts.update_crossed(torch.from_numpy(first).to(device), torch.from_numpy(second).to(device))
            elif step == "flush":
                counts.flush()
            else:
                assert counts.n == expected.n - total.n
                total += taken(counts)
                assert counts.n == 0
                assert total == expected
        total += taken(counts)
    assert total == expected


@on_devices
def test_small_updates_wait_and_large_ones_are_cut(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[int] = []
    real = onehot.count_pairs

    def watched(codes: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        products.append(len(codes))
        real(codes, *args, **kwargs)

    monkeypatch.setattr(onehot, "count_pairs", watched)
    counts = DeviceCounts(3, 4, device)
    codes = torch.from_numpy(codes_with(0, 10_000, 3, 4, 0.1)).to(device)
    for start, end in ((0, 100), (100, 4000), (4000, 4100), (4100, 10_000)):
        counts.update(codes[start:end])
    assert products == [4096, 4096]
    assert taken(counts) == JointCounts.from_codes(codes.cpu().numpy(), 4)
    assert products == [4096, 4096, 10_000 - 2 * 4096]


@on_devices
def test_what_is_buffered_is_a_copy(device: str) -> None:
    codes = torch.zeros((5, 2), dtype=torch.uint8, device=device)
    counts = DeviceCounts(2, 2, device)
    counts.update(codes)
    codes.fill_(1)
    assert counts.take().tables.tolist() == [[[5, 0], [0, 0]]]


@on_devices
def test_what_was_taken_does_not_change_when_counting_goes_on(device: str) -> None:
    counts = DeviceCounts(2, 2, device)
    codes = torch.zeros((5, 2), dtype=torch.uint8, device=device)
    counts.update(codes)
    first = taken(counts)
    counts.update(codes)
    assert taken(counts) == first


@on_devices
def test_cells_grow_to_64_bits_before_they_overflow_and_back_once_taken(device: str) -> None:
    most = 2**31 - 1
    counts = DeviceCounts(2, 2, device)
    counts._n = most  # as if so many had been counted
    counts._tables[0, 0, 0] = most
    counts._margins[:, 0] = most
    counts.update(torch.zeros((2, 2), dtype=torch.uint8, device=device))
    first = counts.take()
    assert (first.tables.dtype, first.tables[0, 0, 0]) == (np.int64, 2**31 + 1)
    counts.update(torch.zeros((2, 2), dtype=torch.uint8, device=device))
    again = counts.take()
    assert (again.tables.dtype, again.tables[0, 0, 0], again.n) == (np.int32, 2, 2)


@on_devices
@pytest.mark.parametrize("inside_first", [True, False])
def test_inference_mode_may_begin_or_end_at_any_time(inside_first: bool, device: str) -> None:
    codes = torch.zeros((5, 2), dtype=torch.uint8, device=device)
    binning = DeviceBinning(Binning(np.zeros((2, 1)), "equal_width"))
    values = torch.ones((5, 2), device=device)
    with torch.inference_mode(inside_first):
        counts = DeviceCounts(2, 2, device)
        counts.update(codes)
        counts.update(binning.encode(values))
        counts.update_crossed(codes, codes)
        counts.flush()
    with torch.inference_mode(not inside_first):
        counts.update(codes)
        counts.update(binning.encode(values))
        counts.update_crossed(codes, codes)
        assert counts.take().tables.tolist() == [[[30, 0], [0, 10]]]


@on_devices
@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros((3, 2), dtype=torch.uint8),
        torch.zeros(3, dtype=torch.uint8),
        torch.zeros((3, 3), dtype=torch.int32),
        torch.zeros((3, 3), dtype=torch.uint8, device="meta"),
    ],
)
def test_codes_that_do_not_fit_are_refused_before_anything_is_counted(codes: torch.Tensor, device: str) -> None:
    counts = DeviceCounts(3, 2, device)
    good = torch.zeros((3, 3), dtype=torch.uint8, device=device)
    codes = codes if codes.is_meta else codes.to(device)
    for call in (
        lambda: counts.update(codes),
        lambda: counts.update_crossed(good, codes),
        lambda: counts.update_crossed(codes, good),
    ):
        with pytest.raises(InputError, match="codes must be uint8"):
            call()
    with pytest.raises(InputError, match="3 and 2 rows"):
        counts.update_crossed(good, good[:2])
    assert counts.take().n == 0


def test_shapes_that_cannot_be_are_refused() -> None:
    for shape in ((0, 2), (2, 0), (2, 65)):
        with pytest.raises(InputError, match="1 to 64 bins"):
            DeviceCounts(*shape, "cpu")


@on_devices
def test_a_code_that_is_neither_a_bin_nor_missing_is_seen_when_counts_are_taken(device: str) -> None:
    counts = DeviceCounts(2, 3, device)
    counts.update(torch.tensor([[0, 3]], dtype=torch.uint8, device=device))
    for _ in range(2):
        with pytest.raises(InputError, match="neither 0 to 2"):
            counts.take()
    counts.clear()
    assert counts.take().n == 0


def test_counts_that_were_interrupted_are_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = DeviceCounts(2, 2, "cpu")
    codes = torch.zeros((5, 2), dtype=torch.uint8)
    counts.update(codes)

    def interrupted(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(onehot, "count_pairs", interrupted)
        with pytest.raises(torch.OutOfMemoryError):
            counts.take()
    for call in (counts.take, counts.flush, lambda: counts.update(codes)):
        with pytest.raises(MIProbeError, match="not whole"):
            call()
    counts.clear()
    counts.update(codes)
    assert counts.take().tables.tolist() == [[[5, 0], [0, 0]]]


def used(device: str, binning: DeviceBinning) -> DeviceCounts:
    """Counts after some of everything that happens during forward passes."""
    counts = DeviceCounts(3, 4, device)
    codes = binning.encode(torch.zeros((3000, 3), device=device))
    counts.update(codes)
    counts.update(codes)
    counts.update_crossed(codes, codes)
    counts.flush()
    return counts


@pytest.mark.parametrize("device", [*DEVICES, "meta"])
def test_no_update_waits_for_the_device(device: str) -> None:
    binning = DeviceBinning(Binning(np.ones((3, 3)), "equal_width", limits=np.array([[-1.0, 1.0]] * 3)))
    binning.encode(torch.zeros((1, 3), device=device))  # edges are copied once
    with Waits() as waits:
        assert used(device, binning).n == 12_000
    assert waits.found == []


@CUDA
def test_cuda_itself_sees_no_update_wait() -> None:
    binning = DeviceBinning(Binning(np.ones((3, 3)), "equal_width"))
    used("cuda", binning)
    torch.cuda.set_sync_debug_mode("error")
    try:
        used("cuda", binning)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_devices
def test_memory_is_what_was_said_in_advance(device: str) -> None:
    for variables, bins in ((1, 2), (50, 8)):
        counts = DeviceCounts(variables, bins, device)
        plain, crossed = (bytes_on(device, variables, bins, crossed=crossed) for crossed in (False, True))
        assert counts.nbytes == plain.tables + plain.buffer
        codes = torch.zeros((5, variables), dtype=torch.uint8, device=device)
        counts.update_crossed(codes, codes)
        assert counts.nbytes == crossed.tables + crossed.buffer
        assert crossed.total > plain.total > counts.nbytes - plain.buffer


@on_devices
def test_a_binning_encodes_on_the_device_and_refuses_what_it_was_not_fitted_for(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    x[0] = np.nan
    binning = Binning.fit(x, bins=5, trim_z=2.0)
    there = DeviceBinning(binning)
    for dtype in (torch.float32, torch.bfloat16, *([] if device == "mps" else [torch.float64])):
        values = torch.from_numpy(x).to(dtype)
        codes = there.encode(values.to(device))
        assert codes.device.type == device
        np.testing.assert_array_equal(codes.cpu().numpy(), binning.encode(values))
    for wrong in (torch.zeros((3, 5)), torch.zeros(4), torch.zeros((3, 4), dtype=torch.int64), torch.zeros((3, 4)).cfloat()):
        with pytest.raises(InputError, match="values must be floating numbers of shape"):
            there.encode(wrong.to(device))
