"""Which p-values a result has, what it says of them, and how many pairs are called dependent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import mi_probe
from mi_probe import MIResult, Probe, ProbeState, describe, pairwise
from mi_probe.binning import Binning
from mi_probe.errors import InputError
from mi_probe.independence import MOST_TOKENS, p_values
from mi_probe.pointcounts import PointCounts
from mi_probe.significance import false_discovery


def some(n: int = 300, variables: int = 12, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, variables))
    x[:, 1] += x[:, 0]
    return x


@pytest.mark.parametrize(("test", "words"), [("auto", "resemblance"), ("serial", "12 samples apart"), ("gamma", "exact moments")])
def test_every_test_finds_the_pair_and_says_which_it_is(test: Any, words: str) -> None:
    found = pairwise(some(), p_values=test)
    assert found.pairs("p").argmin() == 0
    assert words in found.notes[0]
    np.testing.assert_array_equal(found.pairs("q"), false_discovery(found.pairs("p")))
    assert found.discoveries().nonzero()[0].tolist() == [0]
    assert found.discoveries(method="by").nonzero()[0].tolist() == [0]


def test_the_permutation_test_agrees_with_the_gamma_test_on_independent_samples() -> None:
    x = some(94, 8)
    one, two = (pairwise(x, p_values=test).pairs("p") for test in ("permutation", "gamma"))
    assert spearmanr(one, two).statistic > 0.85  # of MI and of X^2: alike, and not the same
    assert one[0] < 1e-4


def test_no_p_values_when_none_are_asked_for() -> None:
    found = pairwise(some(), p_values="none")
    assert not {"p", "q"} & set(found.columns)
    with pytest.raises(InputError, match="not 'p'"):
        found.discoveries()


def test_a_large_sample_has_no_p_values_unless_asked_for_and_says_why() -> None:
    x = some(MOST_TOKENS + 1, 3)
    plain = pairwise(x, bins=4)
    assert "p" not in plain.columns
    assert "100,001 samples" in plain.notes[0]
    assert "read mi with its error" in describe(MIResult({"many": plain}))
    assert "p" in pairwise(x, bins=4, p_values="gamma").columns
    assert "p" in pairwise(x[:-1], bins=4).columns


def test_a_test_that_the_counts_do_not_allow_is_refused_with_the_way_out() -> None:
    counts = PointCounts(Binning(np.zeros((2, 1)), "equal_count"))
    with pytest.raises(InputError, match=r"Probe\(lags=12\)"):
        p_values(counts, np.zeros(1), "serial")
    with pytest.raises(InputError, match="did you mean 'gamma'"):
        p_values(counts, np.zeros(1), "gama")  # type: ignore[arg-type]
    state = ProbeState(Probe(bins=3, lags=0))
    state.update("a", some())
    assert "exact moments" in state.estimate()["a"].notes[0]
    with pytest.raises(InputError, match="lagged counts"):
        state.estimate(p_values="serial")


def test_autocorrelated_series_are_not_called_dependent() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 40))
    for t in range(1, 400):
        x[t] = 0.9 * x[t - 1] + np.sqrt(1 - 0.81) * x[t]
    naive, serial = (pairwise(x, p_values=test) for test in ("gamma", "serial"))
    assert naive.discoveries().sum() > 100
    assert serial.discoveries().sum() <= 3


def test_discoveries_over_all_hook_points_share_one_correction() -> None:
    result = MIResult({"a": pairwise(some()), "b": pairwise(some(seed=1)), "c": pairwise(np.zeros((30, 2)))})
    together = np.concatenate([result[name].pairs("p") for name in result])
    found = result.discoveries(0.05)
    np.testing.assert_array_equal(np.concatenate(list(found.values())), false_discovery(together) <= 0.05)
    assert [len(part) for part in found.values()] == [66, 66, 1]
    assert result.summary().discoveries.tolist() == [1, 1, 0]


def test_pairs_without_samples_have_no_p_value_and_do_not_count() -> None:
    x = some()
    x[:, 5] = np.nan
    found = pairwise(x)
    assert np.isnan(found.pairs("p")).sum() == 11
    whole = pairwise(np.delete(x, 5, axis=1))
    assert np.nanmin(found.pairs("q")) == pytest.approx(np.nanmin(whole.pairs("q")), rel=1e-9)


def test_a_probe_in_a_model_has_serial_p_values_without_being_asked(coffee: Any) -> None:
    with mi_probe.attach(coffee, Probe(hooks="resid_post", layers=[3])) as probe:
        coffee(mi_probe.sample_text())
    point = probe.estimate()["resid_post.3"]
    assert "12 samples apart" in point.notes[0]
    assert 0 < point.discoveries().mean() < 1
