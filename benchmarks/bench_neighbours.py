"""Nearest-neighbour MI of all pairs against scikit-learn's mutual_info_regression, which is called once for each target.

python benchmarks/bench_neighbours.py

One thread each: with several, scikit-learn starts processes, whose cost weighs more on the few targets timed here than on all.
"""

from __future__ import annotations

from functools import partial

import numba
import numpy as np
from compare import compare, machine, seconds
from sklearn.feature_selection import mutual_info_regression

from mi_probe.neighbours import NeighbourMI, ksg


def by_sklearn(x: np.ndarray) -> np.ndarray:
    """The pairs i < j, target by target: many columns a call is what suits it best."""
    return np.concatenate([mutual_info_regression(x[:, :j], x[:, j], random_state=0) for j in range(1, x.shape[1])])


def same(ours: NeighbourMI, theirs: np.ndarray, variables: int) -> bool:
    """Whether the pairs among the first variables are equal to 1e-12, negative ones taken as 0."""
    first = ours.mi[:variables, :variables].T[np.tril_indices(variables, -1)]
    return np.allclose(np.maximum(first, 0), theirs, rtol=0, atol=1e-12)


def main() -> None:
    numba.config.NUMBA_NUM_THREADS = 1
    print(machine())
    for samples, variables, subset in ((94, 768, 24), (1000, 96, 12)):
        x = np.random.default_rng(0).standard_normal((samples, variables))
        x += np.random.default_rng(1).standard_normal((samples, 1))
        pairs = variables * (variables - 1) // 2
        compare(
            f"nearest-neighbour MI of {pairs:,} pairs, {samples} samples, k = 3, against scikit-learn's mutual_info_regression",
            partial(ksg, x, match="sklearn"),
            partial(by_sklearn, x[:, :subset]),
            partial(same, variables=subset),
            share=subset * (subset - 1) / 2 / pairs,
        )
        ksg(x)
        print(f"    ours on normal scores, as by default: {1e3 * min(seconds(partial(ksg, x)) for _ in range(3)):.1f} ms")


if __name__ == "__main__":
    main()
