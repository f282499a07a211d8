"""One text of 94 tokens and 768 dimensions: all pairs, from values to corrected estimates, against scikit-learn's functions.

python benchmarks/bench_one_text.py
"""

from __future__ import annotations

from functools import partial

import numpy as np
from compare import compare, machine
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

import mi_probe

VARIABLES, SUBSET = 768, 24
PAIRS = VARIABLES * (VARIABLES - 1) // 2


def by_sklearn(x: np.ndarray, bins: int) -> np.ndarray:
    """Plug-in value and chance level of each pair, as scikit-learn computes them."""
    codes = mi_probe.Binning.fit(x, bins=bins).encode(x)
    first, second = np.triu_indices(x.shape[1], 1)
    rows = []
    for i, j in zip(first, second, strict=True):
        table = contingency_matrix(codes[:, i], codes[:, j], sparse=True).astype(np.int64)
        rows.append([mutual_info_score(None, None, contingency=table), expected_mutual_information(table, len(x))])
    return np.array(rows)


def subset(ours: mi_probe.PairwiseMI) -> np.ndarray:
    """The values of the same pairs, in the same order."""
    among = np.triu_indices(SUBSET, 1)
    return np.stack([matrix[:SUBSET, :SUBSET][among] for matrix in (ours.raw, ours.chance)], axis=1)


def main() -> None:
    x = np.random.default_rng(0).standard_normal((94, VARIABLES)).astype(np.float32)
    print(machine())
    for bins in (5, 15):
        compare(
            f"MI and chance level of {PAIRS:,} pairs, 94 samples, {bins} equal-count bins, against scikit-learn",
            partial(mi_probe.pairwise, x, bins=bins),
            partial(by_sklearn, x[:, :SUBSET], bins),
            lambda ours, theirs: np.allclose(subset(ours), theirs, atol=1e-10),
            share=SUBSET * (SUBSET - 1) / 2 / PAIRS,
        )


if __name__ == "__main__":
    main()
