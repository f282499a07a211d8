"""Edges: the binnings of all hook points, with how they were made; files."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe import store
from mi_probe.binning import Binning
from mi_probe.coverage import origin
from mi_probe.errors import InputError, MIProbeError, PointError, StoreError, nearest, several
from mi_probe.probe import Probe
from mi_probe.state import ProbeState

__all__ = ["Edges"]

_VERSION = 1


class Edges(Mapping[str, Binning]):
    """The edges of every hook point, fitted once, for all runs that are to be added up or compared. They never change.

    A mapping of hook point -> `Binning`: what ``edges=`` of `mi_probe.attach` and `mi_probe.accumulate` takes.
    `mi_probe.calibrate` makes one from a random sample of tokens; ``Edges.of(state)`` keeps those of a run.

    Parameters
    ----------
    binnings : mapping of hook point -> Binning
    about : mapping, optional
        How they were made, as JSON can hold it: ``kind`` ("sample": random tokens of many documents; "head": the first tokens;
        "run": those of a run), ``tokens``, ``documents``, ``stretches``, ``seed``, ``corpus``.
    probe : str
        The probe that they were fitted for, as TOML; empty where there is none.
    model : mapping, optional
        Name, shape and weight processing of the model.

    Raises
    ------
    InputError
        There is no hook point, or something is of another type.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((800, 4))
    >>> edges = Edges({"layer 0": Binning.fit(x, bins=8)}, {"kind": "sample", "tokens": 800, "documents": 20})
    >>> print(edges)
    edges of 1 hook point, from a random sample of 800 tokens of 20 documents
      hook point  dimensions  bins  method
      layer 0              4     8  equal_count
    """

    def __init__(
        self,
        binnings: Mapping[str, Binning],
        about: Mapping[str, Any] | None = None,
        probe: str = "",
        model: Mapping[str, Any] | None = None,
    ) -> None:
        for key, binning in binnings.items():
            if not isinstance(key, str) or not isinstance(binning, Binning):
                raise InputError(f"edges must be a mapping of hook point -> Binning; got {key!r}: {binning!r}.")
        if not binnings:
            raise InputError("there are no edges of any hook point: edges are there once tokens were counted.")
        for name, facts in (("about", about), ("model", model)):
            if facts is not None and not isinstance(facts, Mapping):
                raise InputError(f"{name} of edges must be a table; got {facts!r}.")
        if not isinstance(probe, str):
            raise InputError(f"the probe of edges must be TOML text; got {probe!r}.")
        self._binnings = dict(binnings)
        try:
            self._about, self._model = (json.loads(json.dumps(dict(facts or {}))) for facts in (about, model))
        except (TypeError, ValueError) as error:
            raise InputError(f"about and model of edges must be what JSON can hold: {error}.") from error
        self._probe = probe

    @property
    def about(self) -> dict[str, Any]:
        """How they were made; a copy."""
        return copy.deepcopy(self._about)

    @property
    def probe(self) -> str:
        """The probe that they were fitted for, as TOML."""
        return self._probe

    @property
    def model(self) -> dict[str, Any]:
        """The model that they were fitted for; a copy."""
        return copy.deepcopy(self._model)

    def __getitem__(self, point: str) -> Binning:
        try:
            return self._binnings[point]
        except KeyError:
            raise PointError(
                f"there are no edges of '{point}'{nearest(str(point), self)}; there are {', '.join(self)}."
            ) from None

    def __contains__(self, point: object) -> bool:
        return point in self._binnings

    def __iter__(self) -> Iterator[str]:
        return iter(self._binnings)

    def __len__(self) -> int:
        return len(self._binnings)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Edges):
            return NotImplemented
        mine, theirs = self._contents(), other._contents()
        return (
            mine[0] == theirs[0]
            and mine[1].keys() == theirs[1].keys()
            and all(map(_identical, mine[1].values(), theirs[1].values()))
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value, and arrays have no hash

    def __repr__(self) -> str:
        return f"Edges({several(len(self), 'hook point')}, {', '.join(sorted({repr(b) for b in self.values()}))})"

    def __str__(self) -> str:
        """What they are for and what they were made from, in words and a table."""
        lines = [", ".join(filter(None, [f"edges of {several(len(self), 'hook point')}", origin(self._about)]))]
        head = ("hook point", "dimensions", "bins", "method")
        rows = [
            (
                key,
                f"{b.variables:,}" if b.dimensions is None else f"{b.variables:,} of {b.width:,}",
                str(b.bins),
                b.method if b.limits is None else f"{b.method}, trimmed",
            )
            for key, b in self.items()
        ]
        widths = [max(len(row[k]) for row in (head, *rows)) for k in range(4)]
        for row in (head, *rows):
            lines.append(f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}")
        return "\n".join(lines)

    # -- files -------------------------------------------------------------------------------------------------------

    def _contents(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        points: list[dict[str, Any]] = []
        arrays: dict[str, NDArray[Any]] = {}
        for k, (name, binning) in enumerate(self.items()):
            facts, parts = binning.to_arrays()
            points.append({"name": name, **facts})
            arrays |= {f"{k}.{key}": array for key, array in parts.items()}
        return {"about": self._about, "probe": self._probe, "model": self._model, "points": points}, arrays

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as a safetensors file with a JSON header (schema ``edges/1``).

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        store.write(path, f"edges/{_VERSION}", *self._contents())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Edges:
        """Read a file that `save` wrote, or take the edges of a state file.

        Raises
        ------
        StoreError
            Missing, cut off, altered, neither edges nor a state, or with edges that cannot be.
        """
        if store.look(path).kind == "state":
            state = ProbeState.load(path)
            if not state.binnings:
                raise StoreError(f"{path} holds no edges: nothing was counted there yet.")
            return cls.of(state)
        header, arrays = store.read(path, "edges", _VERSION)
        try:
            binnings: dict[str, Binning] = {}
            unused = set(arrays)
            for k, facts in enumerate(header["points"]):
                parts = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{k}.")}
                if not isinstance(facts["name"], str) or facts["name"] in binnings:
                    raise InputError(f"the name of a hook point must be text, and its own; got {facts['name']!r}")
                binnings[facts["name"]] = binning = Binning.from_arrays(facts, parts)
                unused -= {f"{k}.{name}" for name in binning.to_arrays()[1]} | {f"{k}.dimensions"}
            if unused:
                raise InputError(f"arrays that belong to nothing: {sorted(unused)}")
            if header["probe"]:
                Probe.from_toml(header["probe"], where=str(path))
            return cls(binnings, header["about"], header["probe"], header["model"])
        except (MIProbeError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise StoreError(f"{path} holds no usable edges: {error}") from error

    @classmethod
    def of(cls, state: ProbeState) -> Edges:
        """The edges of what a probe has counted.

        Raises
        ------
        InputError
            It has none yet.

        Examples
        --------
        >>> import numpy as np
        >>> state = ProbeState(Probe(bins=4))
        >>> state.update("layer 0", np.random.default_rng(0).standard_normal((80, 3)))
        >>> Edges.of(state)
        Edges(1 hook point, Binning(3 variables, 4 bins, equal_count))
        """
        binnings = state.binnings
        about = dict(getattr(state, "calibration", {}))
        if not about:
            samples = [int(b.sample.sum(axis=1).max(initial=0)) for b in binnings.values() if b.sample is not None]
            about = {"kind": "run", **({"tokens": max(samples)} if samples else {})}
        return cls(binnings, about, state.probe.to_toml(), state.model)


def _identical(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)
