"""The hot loops. Callers see NumPy arrays; how pairs are counted is decided here, by cost.

Counts are the same integers whatever the number of threads and whichever way was chosen; so are sums, as each is added up by one
thread. What is here is for all pairs of tables; `lagged`, `squares`, `coarse`, `copula` and `neighbours` each serve one room
alone, and `onehot` counts where a GPU has the activations.
"""

from mi_probe.kernels.cells import cell_sums, cell_sums_of_codes
from mi_probe.kernels.cpu import count_margins, count_pairs, encode, pair_index
from mi_probe.kernels.expected import expected_of_pairs, expected_xlogx
from mi_probe.kernels.listed import count_listed
from mi_probe.kernels.misfits import first_misfit
from mi_probe.kernels.relevant import relevant_bins_bias
from mi_probe.kernels.sums import PairSums, pair_sums

__all__ = [
    "PairSums",
    "cell_sums",
    "cell_sums_of_codes",
    "count_listed",
    "count_margins",
    "count_pairs",
    "encode",
    "expected_of_pairs",
    "expected_xlogx",
    "first_misfit",
    "pair_index",
    "pair_sums",
    "relevant_bins_bias",
]
