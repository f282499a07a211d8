"""The hot loops behind one face. Callers see NumPy arrays; how they are counted is decided behind it, by cost.

Every function gives the same integers whatever the number of threads and whichever way was chosen.
"""

from mi_probe.kernels.cpu import count_pairs, encode, pair_index
from mi_probe.kernels.expected import expected_of_pairs, expected_xlogx
from mi_probe.kernels.relevant import relevant_bins_bias
from mi_probe.kernels.sums import PairSums, pair_sums

__all__ = [
    "PairSums",
    "count_pairs",
    "encode",
    "expected_of_pairs",
    "expected_xlogx",
    "pair_index",
    "pair_sums",
    "relevant_bins_bias",
]
