"""All claims against their peers, a table each: checked, then timed in turn, in one process, on the same data.

python benchmarks/run.py [--only counting threads] [--repeats 5] [--out benchmarks/RESULTS.md]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
import small_gpt2
from claim import Table, run
from claims import Size, counting, estimation, forward, neighbours, one_text, threads, token_pairs
from measure import how_memory_is_measured
from results import needs_table, section

RESULTS = Path(__file__).with_name("RESULTS.md")

TABLES: dict[str, Callable[[Size], Table]] = {
    "one_text": one_text.table,
    "neighbours": neighbours.table,
    "counting": counting.table,
    "threads": threads.table,
    "estimation": estimation.table,
    "token_pairs": token_pairs.table,
}

ABOUT = """\
# Measured against others

Written by `make bench`. In each row both sides have the same data and are first checked to agree; then they are timed in turn,
{repeats} times in one process, after one warm-up. Times are medians (lowest–highest); a ratio is the median of the repeats'
ratios (lowest–highest), the peer's time over ours (×) or, where a cost is meant, ours over the peer's (of it). A peer that would
take minutes or hours does a part of the pairs, as its cell says, and its time is scaled. Peak memory is what one call needs:
{memory}.
"""


def measured(table: Table, repeats: int) -> str:
    """The Markdown of one claim."""
    return section(table, [row for contest in table.contests for row in run(contest, repeats)])


def measured_forward(repeats: int) -> str:
    """The Markdown of the claim about forward passes."""
    shape = forward.Shape()
    with tempfile.TemporaryDirectory() as name:
        folder = small_gpt2.save(Path(name), **shape.model)
        memory = needs_table(forward.needs(folder, shape))
        time_table = measured(forward.table(folder, shape), repeats)
    about = (
        "Memory, each run in a process of its own: peak with the probe less peak without, beside the counts themselves. glibc's\n"
        "thresholds are fixed there (MALLOC_TRIM_THRESHOLD_): left to themselves they keep 300 to 600 MB of freed activations,\n"
        "with a probe or without, another amount in each run."
    )
    return f"{time_table}\n\n{about}\n\n{memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*TABLES, "forward"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these claims; nothing is written then")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help=f"where to write all claims (default {RESULTS.name} beside this script)")
    options = parser.parse_args()
    parts = [ABOUT.format(repeats=options.repeats, memory=how_memory_is_measured()), machine.heading() + "\n"]
    print("\n".join(parts), flush=True)
    for name in options.only:
        began = time.perf_counter()
        part = measured_forward(options.repeats) if name == "forward" else measured(TABLES[name](Size()), options.repeats)
        parts.append(part + "\n")
        print(f"{part}\n\n{name}: {time.perf_counter() - began:.0f} s\n", flush=True)
    if options.out is not None or options.only == names:
        (options.out or RESULTS).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
