"""How often the tests err, by simulation; most of these are slow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "simulate.py"
    spec = importlib.util.spec_from_file_location("simulate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module  # where a dataclass looks up its annotations
    spec.loader.exec_module(module)
    return module


def test_the_tests_keep_their_level_at_a_glance(simulate: ModuleType) -> None:
    """A short form of the simulations below: 4,950 pairs, twice."""
    for case in (simulate.Case("gamma", 94, 5), simulate.Case("serial", 94, 5, phi=0.9)):
        assert simulate.false_positives(case, repeats=2).share[0] == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "bins"), [(94, 5), (94, 8), (500, 5), (500, 8)])
def test_permutation_rejects_independent_pairs_as_often_as_it_says(simulate: ModuleType, samples: int, bins: int) -> None:
    rates = simulate.false_positives(simulate.Case("permutation", samples, bins), repeats=60)
    for level, share, error in zip(simulate.LEVELS, *rates, strict=True):
        assert share == pytest.approx(level, abs=4 * error + 0.01 * level)


@pytest.mark.slow
@pytest.mark.parametrize("test", ["gamma", "serial"])
@pytest.mark.parametrize(
    ("samples", "bins", "method"),
    [
        (94, 5, "equal_count"),
        (94, 8, "equal_count"),
        (500, 5, "equal_count"),
        (500, 8, "equal_count"),
        (94, 15, "equal_width"),
        (500, 15, "equal_width"),
    ],
)
def test_gamma_rejects_independent_pairs_about_as_often_as_it_says(
    simulate: ModuleType, test: str, samples: int, bins: int, method: str
) -> None:
    rates = simulate.false_positives(simulate.Case(test, samples, bins, method), repeats=60)
    tolerances = {0.05: 0.005, 0.01: 0.002, 0.001: 0.0005, 0.0001: 0.00015}
    for level, share, error in zip(simulate.LEVELS, *rates, strict=True):
        assert share == pytest.approx(level, abs=3 * error + tolerances[level])


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.8, 0.9])
@pytest.mark.parametrize(("samples", "bins", "texts"), [(94, 5, 1), (94, 8, 1), (1000, 8, 1), (30, 5, 33)])
def test_the_serial_test_is_not_bold_where_tokens_resemble_each_other(
    simulate: ModuleType, samples: int, bins: int, texts: int, phi: float
) -> None:
    case = simulate.Case("serial", samples, bins, phi=phi, texts=texts)
    rates = simulate.false_positives(case, repeats=40)
    assert 0.04 < rates.share[0] < 0.06
    assert rates.share[1] < 0.014
    assert rates.share[2] < 0.0022
    naive = simulate.false_positives(simulate.Case("gamma", samples, bins, phi=phi, texts=texts), repeats=4)
    assert naive.share[0] > 0.12


@pytest.mark.slow
@pytest.mark.parametrize("test", ["gamma", "permutation", "serial"])
@pytest.mark.parametrize(("method", "q"), [("bh", 0.05), ("bh", 0.1), ("by", 0.1)])
def test_false_discoveries_stay_below_what_was_asked(simulate: ModuleType, test: str, method: str, q: float) -> None:
    got = simulate.discoveries(simulate.Case(test, 94, 5), rho=0.6, q=q, method=method, repeats=100)
    assert got.false < q + 3 * got.error
    assert got.found > 0.3


@pytest.mark.slow
def test_false_discoveries_among_slow_series_are_controlled_by_the_serial_test_only(simulate: ModuleType) -> None:
    serial, naive = (
        simulate.discoveries(simulate.Case(t, 1000, 8, phi=0.8), rho=0.3, q=0.1, method="bh", repeats=30)
        for t in ("serial", "gamma")
    )
    assert serial.false < 0.13 + 3 * serial.error  # .127 over many repeats: its far tail is a little too short
    assert serial.found > 0.5
    assert naive.false > 0.5
