"""How much information do the hidden units of a language model share?

>>> import mi_probe
>>> model = mi_probe.load_model("coffee-gpt2")
>>> with mi_probe.attach(model, "dimension_pairs") as probe:
...     _ = model(mi_probe.sample_text())
>>> result = probe.estimate()
>>> result["hidden_states.0"]
PairwiseMI(128 variables, 8,128 pairs, 112 samples, 5 equal_count bins, adjusted)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mi_probe import comparison, corpus, errors, estimators, hooks, independence, linearity, options, plots, simulated, units
    from mi_probe.accumulation import accumulate, sample_activations
    from mi_probe.binning import Binning
    from mi_probe.calibration import calibrate
    from mi_probe.corpus import documents, sample_text, sample_texts
    from mi_probe.counts import JointCounts
    from mi_probe.depth import fading
    from mi_probe.edges import Edges
    from mi_probe.errors import MIProbeError, MIProbeWarning
    from mi_probe.estimation import pairwise
    from mi_probe.hooks import attach
    from mi_probe.models import load_model
    from mi_probe.neighbours import NeighbourMI, ksg
    from mi_probe.planning import plan
    from mi_probe.pointresult import PairwiseMI
    from mi_probe.probe import Probe, load_probe
    from mi_probe.ranks import Ranks
    from mi_probe.reading import Reading, read_text
    from mi_probe.report import describe
    from mi_probe.result import MIResult
    from mi_probe.settling import convergence
    from mi_probe.sources import Corpus, open_corpus
    from mi_probe.state import ProbeState
    from mi_probe.tokenpairs import token_pairs

# Names are fetched when first used: importing mi_probe costs milliseconds, and torch is not among them.
_HOME = {
    "Binning": "binning",
    "Edges": "edges",
    "Corpus": "sources",
    "JointCounts": "counts",
    "MIProbeError": "errors",
    "MIProbeWarning": "errors",
    "MIResult": "result",
    "NeighbourMI": "neighbours",
    "PairwiseMI": "pointresult",
    "Probe": "probe",
    "ProbeState": "state",
    "Ranks": "ranks",
    "Reading": "reading",
    "accumulate": "accumulation",
    "attach": "hooks",
    "calibrate": "calibration",
    "convergence": "settling",
    "describe": "report",
    "documents": "corpus",
    "fading": "depth",
    "ksg": "neighbours",
    "load_model": "models",
    "load_probe": "probe",
    "open_corpus": "sources",
    "pairwise": "estimation",
    "plan": "planning",
    "read_text": "reading",
    "sample_activations": "accumulation",
    "sample_text": "corpus",
    "sample_texts": "corpus",
    "token_pairs": "tokenpairs",
}
_MODULES = (
    *("comparison", "corpus", "errors", "estimators", "hooks", "independence", "linearity", "options", "plots", "simulated"),
    "units",
)

__all__ = [
    "Binning",
    "Corpus",
    "Edges",
    "JointCounts",
    "MIProbeError",
    "MIProbeWarning",
    "MIResult",
    "NeighbourMI",
    "PairwiseMI",
    "Probe",
    "ProbeState",
    "Ranks",
    "Reading",
    "accumulate",
    "attach",
    "calibrate",
    "comparison",
    "convergence",
    "corpus",
    "describe",
    "documents",
    "errors",
    "estimators",
    "fading",
    "hooks",
    "independence",
    "ksg",
    "linearity",
    "load_model",
    "load_probe",
    "open_corpus",
    "options",
    "pairwise",
    "plan",
    "plots",
    "read_text",
    "sample_activations",
    "sample_text",
    "sample_texts",
    "simulated",
    "token_pairs",
    "units",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"mi_probe.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"mi_probe.{name}")
    raise AttributeError(f"module 'mi_probe' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
