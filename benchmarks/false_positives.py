"""How often each test of independence errs: false positives among independent pairs, false discoveries among mixed ones.

python benchmarks/false_positives.py [--share .1]
"""

from __future__ import annotations

import argparse

import numpy as np
from simulate import LEVELS, Case, discoveries, false_positives, repetition

import mi_probe
from mi_probe.significance import FalseDiscoveries

INDEPENDENT = [
    Case(test, samples, bins)
    for samples, bins in ((94, 5), (94, 8), (500, 5), (500, 8))
    for test in ("gamma", "permutation", "serial")
]
EQUAL_WIDTH = [Case("gamma", samples, 15, "equal_width") for samples in (94, 500, 5000)]
SLOW = [
    *(Case("gamma", 94, 5, phi=phi) for phi in (0.5, 0.8, 0.9)),
    *(Case("serial", 94, 5, phi=phi) for phi in (0.5, 0.8, 0.9, 0.95)),
    *(Case("serial", 94, 5, phi=phi, lags=lags) for lags in (4, 8, 24) for phi in (0.0, 0.8, 0.9)),
    *(Case("serial", 94, 8, phi=phi) for phi in (0.8, 0.9)),
    *(Case("serial", 94, 15, "equal_width", phi=phi) for phi in (0.0, 0.8)),
    *(Case("gamma", 1000, 8, phi=phi) for phi in (0.8, 0.9)),
    *(Case("serial", 1000, 8, phi=phi) for phi in (0.0, 0.5, 0.8, 0.9)),
    *(Case("serial", 1000, 8, phi=phi, lags=lags) for lags in (4, 8, 24, 48) for phi in (0.8, 0.9)),
    *(Case("serial", 30, 5, phi=phi, texts=33) for phi in (0.0, 0.8, 0.9)),
]
MIXED = [
    *((Case(test, 94, 5), 0.6) for test in ("gamma", "permutation", "serial")),
    (Case("serial", 94, 5, phi=0.8), 0.8),
    (Case("serial", 1000, 8, phi=0.8), 0.3),
    (Case("gamma", 1000, 8, phi=0.8), 0.3),
]
CONTROLS: list[tuple[FalseDiscoveries, float]] = [("bh", 0.05), ("bh", 0.1), ("by", 0.1)]


def named(case: Case) -> str:
    """The first columns of a row."""
    tokens = f"{case.samples}" if case.texts == 1 else f"{case.texts} x {case.samples}"
    lags = f"{case.lags}" if case.test == "serial" else ""
    return f"| {tokens} | {case.bins} {case.method.replace('_', '-')} | {case.phi:g} | {case.test} | {lags} "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="share of the repeats to run (default 1: some minutes)")
    share = parser.parse_args().share
    print("# Error rates of the tests of independence\n\nWritten by `benchmarks/false_positives.py`.\n")
    print("Share of independent pairs with p at or below each level (standard error in its last digits)\n")
    print(f"| samples | bins | phi | test | lags | {' | '.join(f'{level:g}' for level in LEVELS)} |")
    print("|---|---|---|---|---|" + "---|" * len(LEVELS))
    for case in (*INDEPENDENT, *EQUAL_WIDTH, *SLOW):
        rates = false_positives(case, repeats=max(2, round(share * (20 if case.lags > 12 else 60))))
        cells = (f"{r:.5f} ± {e:.5f}" for r, e in zip(*rates, strict=True))
        print(f"{named(case)}| {' | '.join(cells)} |", flush=True)
    words = np.array(mi_probe.load_model("coffee-gpt2").tokenizer(mi_probe.sample_text())["input_ids"])
    kinds = f"{len(words)} tokens of {len(np.unique(words))} kinds"
    print(f"\nThe same for the words of one paragraph, {kinds}: every word has one value in")
    print("each variable, independent of all others, and each token some noise of its own\n")
    print(f"| samples | bins | phi | test | lags | {' | '.join(f'{level:g}' for level in LEVELS)} |")
    print("|---|---|---|---|---|" + "---|" * len(LEVELS))
    for test in ("gamma", "serial"):
        case = Case(test, len(words), 5)
        rates = repetition(words, case, repeats=max(2, round(share * 60)))
        cells = (f"{r:.5f} ± {e:.5f}" for r, e in zip(*rates, strict=True))
        print(f"{named(case).replace('| 0 |', '| repeated words |')}| {' | '.join(cells)} |", flush=True)
    print("\nDiscoveries where 49 of 4,753 pairs are dependent\n")
    print("| samples | bins | phi | test | lags | correlation | control | q | false | found |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case, rho in MIXED:
        for method, q in CONTROLS:
            got = discoveries(case, rho=rho, q=q, method=method, repeats=max(2, round(60 * share)))
            print(
                f"{named(case)}| {rho} | {method.upper()} | {q} | {got.false:.4f} ± {got.error:.4f} | {got.found:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
