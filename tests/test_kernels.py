"""All kernels against the slow, obvious reference, and against each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_probe import JointCounts, kernels
from mi_probe.binning import MISSING, TRIMMED
from mi_probe.kernels import cells, costs, cpu, lagged, onehot, planes, threads, vectors

WAYS = ("scatter", "bit_sliced", "auto", "listed by scatter", "listed by planes", "torch")


def random_codes(rng: np.random.Generator, samples: int, variables: int, bins: int, missing: float) -> np.ndarray:
    codes = rng.integers(0, bins, size=(samples, variables), dtype=np.uint8)
    gone = rng.random(codes.shape)
    codes[gone < missing] = MISSING
    codes[gone < missing / 3] = TRIMMED
    return codes


def slow_tables(codes: np.ndarray, partners: np.ndarray, bins: int) -> np.ndarray:
    """One pair after the other, by numpy.bincount."""
    tables = []
    for i, j in zip(*np.triu_indices(codes.shape[1], 1), strict=True):
        a, b = codes[:, i].astype(int), partners[:, j].astype(int)
        there = (a < bins) & (b < bins)
        tables.append(np.bincount(a[there] * bins + b[there], minlength=bins * bins))
    return np.array(tables, dtype=np.int64).reshape(-1, bins, bins)


def count(codes: np.ndarray, partners: np.ndarray | None, tables: np.ndarray, way: str) -> np.ndarray:
    """Add the counts to a copy of the tables."""
    tables = tables.copy()
    if way == "torch":
        given = torch.from_numpy(codes), None if partners is None else torch.from_numpy(partners)
        onehot.count_pairs(given[0], torch.from_numpy(tables), partners=given[1])
    elif way.startswith("listed"):
        pairs = np.stack(np.triu_indices(codes.shape[1], 1), axis=1)
        by = "scatter" if way.endswith("scatter") else "bit_sliced"
        kernels.count_listed(codes, pairs, tables, partners=partners, way=by)
    else:
        kernels.count_pairs(codes, tables, partners=partners, way=way)
    return tables


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("bins", [2, 3, 5, 8, 9, 15, 16, 31, 32])
@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 4095, 4097])
def test_every_kernel_gives_the_tables_of_the_slow_reference(samples: int, bins: int, missing: float) -> None:
    rng = np.random.default_rng(samples * 100 + bins)
    variables = 6 if samples > 1000 else 37  # beyond a tile of 32, and no multiple of 4
    codes = random_codes(rng, samples, variables, bins, missing)
    expected = slow_tables(codes, codes, bins)
    for way in WAYS:
        for dtype in (np.int32, np.int64):
            before = np.full(expected.shape, 7, dtype=dtype)  # added to, not written over
            np.testing.assert_array_equal(count(codes, None, before, way), expected + 7, err_msg=f"{way} {dtype}")


@settings(deadline=None, max_examples=1000)
@given(st.data())
def test_a_thousand_random_cases_show_no_difference_between_kernels(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    samples, variables, bins = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 12)), data.draw(st.integers(2, 32))
    missing = data.draw(st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]))
    codes = random_codes(rng, samples, variables, bins, missing)
    partners = random_codes(rng, samples, variables, bins, missing) if data.draw(st.booleans()) else None
    expected = slow_tables(codes, codes if partners is None else partners, bins)
    before = np.zeros(expected.shape, dtype=data.draw(st.sampled_from([np.int32, np.int64])))
    for way in WAYS:
        np.testing.assert_array_equal(count(codes, partners, before, way), expected, err_msg=way)


@pytest.mark.parametrize("variables", [2, 3, 4, 31, 32, 33, 36, 64, 70])
def test_tiles_chunks_and_threads_fit_together(variables: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "_CHUNK", 128)
    rng = np.random.default_rng(variables)
    codes, partners = (random_codes(rng, 300, variables, 5, missing) for missing in (0.0, 0.1))
    for other in (None, partners, codes[::-1]):
        expected = slow_tables(codes, codes if other is None else other, 5)
        for number in (1, 2, 5):
            tables = np.zeros(expected.shape, dtype=np.int32)
            planes.count_by_planes(codes, other, tables, number)
            np.testing.assert_array_equal(tables, expected)


def test_code_for_a_plain_processor_counts_and_adds_up_the_same(tmp_path: Path) -> None:
    code = """
import numpy as np
from mi_probe import kernels
from mi_probe.kernels import vectors
assert vectors.TALL == 2
codes = np.random.default_rng(0).integers(0, 7, (200, 40), dtype=np.uint8)
one, other = np.zeros((2, 780, 7, 7), dtype=np.int32)
kernels.count_pairs(codes, one, way="bit_sliced")
kernels.count_pairs(codes, other, way="scatter")
assert (one == other).all() and one.sum() == 780 * 200
margins = np.stack([(codes == b).sum(axis=0) for b in range(7)], axis=1)
joint, _ = kernels.cell_sums(one, np.triu_indices(40, 1), margins, 200)
assert np.allclose(joint, kernels.pair_sums(one).joint, rtol=1e-13)
"""
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_tables_that_are_not_contiguous_are_refused() -> None:
    tables = np.zeros((6, 3, 3), dtype=np.int32)[::2]
    with pytest.raises(ValueError, match="contiguous"):
        kernels.count_pairs(np.zeros((5, 3), dtype=np.uint8), tables)


@pytest.mark.parametrize("bins", [2, 5, 8, 15])
@pytest.mark.parametrize("samples", [1, 30, 300])
def test_sums_of_cells_are_those_of_the_general_kernel_from_tables_and_from_codes(samples: int, bins: int) -> None:
    codes = random_codes(np.random.default_rng(bins), samples, 9, bins, 0.0)
    counts = JointCounts.from_codes(codes, bins)
    for tables in (counts.tables, counts.tables.astype(np.int64)):
        general = kernels.pair_sums(tables)
        found = {"tables": kernels.cell_sums(tables, counts.pair_indices, counts.margins, samples)}
        found["codes"] = kernels.cell_sums_of_codes(codes, counts.pair_indices, counts.margins)
        for what, (joint, spread) in found.items():
            np.testing.assert_allclose(joint, general.joint, rtol=1e-13, atol=1e-13, err_msg=what)
            np.testing.assert_allclose(spread, general.spread, rtol=1e-12, atol=1e-12, err_msg=what)


def test_the_logarithm_is_right_to_the_last_digits_from_one_to_a_billion() -> None:
    n = np.unique(np.concatenate([np.arange(1, 5000), np.geomspace(5000, 2**31 - 1, 5000).astype(np.int64)]))
    tables = np.zeros((len(n), 2, 2), dtype=np.int64)
    tables[:, 0, 0] = n
    pairs = np.zeros(len(n), dtype=np.intp), np.ones(len(n), dtype=np.intp)
    joint, _ = cells.cell_sums(tables, pairs, np.ones((2, 2), dtype=np.int64), 1)
    np.testing.assert_allclose(joint, n * np.log(n), rtol=4e-16 * 2)


@pytest.mark.parametrize("lags", [1, 12, 63, 64])
@pytest.mark.parametrize("bins", [2, 5, 16])
def test_lagged_counts_by_planes_are_those_by_tokens(bins: int, lags: int) -> None:
    codes = random_codes(np.random.default_rng(lags), 700, 5, bins, 0.05)
    lengths = np.array([0, 130, 1, 69, 500])
    found = {}
    for way in ("by_tokens", "by_planes"):
        found[way] = np.zeros((lags, 5, bins, bins), dtype=np.int64)
        lagged.count_lags(codes, lengths, found[way], way=way)
    assert found["by_tokens"].sum() > 0
    np.testing.assert_array_equal(*found.values())


@pytest.mark.parametrize("samples", [0, 1, 255, 256, 700])
def test_margins_count_each_code(samples: int) -> None:
    codes = random_codes(np.random.default_rng(0), samples, 7, 6, 0.1)
    margins = np.ones((7, 6), dtype=np.int64)
    cpu.count_margins(codes, margins)
    np.testing.assert_array_equal(margins - 1, np.stack([(codes == b).sum(axis=0) for b in range(6)], axis=1))


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_an_edge_in_the_type_of_the_values_compares_as_the_edge_itself(edge: float, value: float) -> None:
    rounded = cpu.edges_as(np.dtype(np.float32), np.array([edge]))
    assert (np.float32(value) >= rounded[0]) == (value >= edge)


def test_threads_are_the_fewer_of_those_that_numba_and_torch_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 6)
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    for of_numba, of_torch in ((4, 3), (2, 3), (1, 8)):
        monkeypatch.setattr(numba, "get_num_threads", lambda n=of_numba: n)
        monkeypatch.setattr(torch, "get_num_threads", lambda n=of_torch: n)
        assert threads.threads_allowed() == min(of_numba, of_torch)

    def not_started() -> str:
        raise ValueError("Threading layer is not initialized.")

    monkeypatch.setattr(numba, "threading_layer", not_started)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert threads.threads_allowed() == 6


@pytest.mark.parametrize(("said", "most"), [("1", 1), ("2,4", 2), ("", 6), ("many", 6), ("0", 1), ("64", 6)])
def test_openmp_says_how_many_threads_before_torch_is_there(monkeypatch: pytest.MonkeyPatch, said: str, most: int) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    monkeypatch.setattr(numba, "get_num_threads", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads.threads_allowed() == most


def test_a_table_read_in_parts_is_the_table_read_at_once() -> None:
    codes = random_codes(np.random.default_rng(1), 90, 20, 5, 0.0)
    short = JointCounts.from_codes(codes, 5)
    assert short.codes is not None  # no tables yet
    from_codes = short.of_tables(lambda tables, pairs: tables.reshape(len(tables), -1).T.copy())
    assert short.codes is not None
    np.testing.assert_array_equal(from_codes.T.reshape(-1, 5, 5), short.tables)
    assert short.codes is None
    np.testing.assert_array_equal(short.of_tables(lambda tables, pairs: np.stack(pairs)), np.triu_indices(20, 1))


def test_a_tile_is_whole_in_calls_of_any_shape() -> None:
    assert vectors.ROWS % vectors.TALL == 0
    assert vectors.LANES % vectors.BROAD == 0


def test_costs_are_those_that_were_measured() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "measured" / "counting.md").read_text(encoding="utf-8")
    names = [name for name in costs.__all__ if isinstance(getattr(costs, name), costs.Cost)]
    assert len(names) == 6
    for name in names:
        assert f"| {name} | {' | '.join(f'{value:g}' for value in getattr(costs, name))} |" in page


def test_the_cheaper_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(cpu, "count_by_planes", lambda *_: taken.append("planes"))
    monkeypatch.setattr(cpu, "_scatter", lambda *_: taken.append("scatter"))
    for samples, bins in ((16, 15), (4096, 8)):
        kernels.count_pairs(np.zeros((samples, 2), dtype=np.uint8), np.zeros((1, bins, bins), dtype=np.int32))
    assert taken == ["scatter", "planes"]
