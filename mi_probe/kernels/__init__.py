"""The hot loops behind one face. Callers see NumPy arrays; how they are counted is decided behind it, by cost.

Every function gives the same integers whatever the number of threads and whichever way was chosen.
"""

from mi_probe.kernels.cpu import (
    PairSums,
    count_pairs,
    encode,
    expected_of_pairs,
    expected_xlogx,
    pair_index,
    pair_sums,
)

__all__ = ["PairSums", "count_pairs", "encode", "expected_of_pairs", "expected_xlogx", "pair_index", "pair_sums"]
