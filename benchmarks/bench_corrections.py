"""What each correction costs beside the plug-in estimate, and p-values, error and continuous value beside them: all pairs of 768.

python benchmarks/bench_corrections.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from compare import machine, seconds

from mi_probe import kernels, pairwise
from mi_probe.binning import Binning
from mi_probe.continuous import continuous
from mi_probe.corrections import CORRECTIONS
from mi_probe.counts import JointCounts
from mi_probe.estimators import estimate
from mi_probe.extras import LAGS
from mi_probe.serial import count_lags, serial_p_values
from mi_probe.significance import gamma_p_values

VARIABLES = 768


def main() -> None:
    print(machine())
    for samples, bins in ((94, 5), (94, 15), (4096, 8), (4096, 16)):
        x = np.random.default_rng(0).standard_normal((samples, VARIABLES)).astype(np.float32)
        codes = Binning.fit(x, bins=bins).encode(x)
        counts = JointCounts.from_codes(codes, bins)
        counts.flush()
        lagged = np.zeros((LAGS, VARIABLES, bins, bins), dtype=np.int64)
        count_lags(codes, np.array([samples]), lagged)
        plain = estimate(counts, correction="none")
        work = {f"correction {name}": partial(estimate, counts, correction=name) for name in CORRECTIONS if name != "none"}
        for name, correct in work.items():
            if not np.array_equal(correct().raw, plain.raw):
                raise SystemExit(f"{name}: another plug-in value; nothing was timed.")
        jobs: dict[str, Callable[[], Any]] = {
            "sums over the tables alone": partial(kernels.pair_sums, counts.tables),
            **work,
            "p-values, gamma": partial(gamma_p_values, counts),
            "p-values, serial": partial(serial_p_values, counts, lagged),
            "continuous": partial(continuous, counts.tables),
            "pairwise, all of it": partial(pairwise, x, bins=bins),
        }
        reference = partial(estimate, counts, correction="none")
        times: dict[str, list[float]] = {name: [] for name in jobs}
        base: list[float] = []
        for name, job in jobs.items():
            job()  # compiled, and its tables made
            for _ in range(5):
                base.append(seconds(reference))
                times[name].append(seconds(job) / base[-1])
        plain_ms = 1e3 * statistics.median(base)
        print(f"{samples} samples, {bins} bins: plug-in with chance level and error {plain_ms:.0f} ms; in its terms")
        for name, ratios in times.items():
            print(f"    {name:32} {statistics.median(ratios):6.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
