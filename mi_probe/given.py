"""What comes with activations that are given by hand, or with a forward pass: arrays of the right shape, labels of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.binning import as_samples
from mi_probe.errors import InputError
from mi_probe.probe import Probe

__all__ = ["checked_labels", "fitting", "require_labels", "rows_of"]


def fitting(values: ArrayLike, shape: tuple[int, ...], what: str) -> NDArray[Any]:
    """An array of this shape, from anything array-like.

    Raises
    ------
    InputError
        It has another, or none.
    """
    given: Any = values
    try:
        array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (TypeError, ValueError) as error:  # rows of several lengths, or a type that NumPy does not have
        raise InputError(f"{what} must be an array of shape {shape}: {error}.") from error
    if array.shape != shape:
        raise InputError(f"{what} must have shape {shape}; got {array.shape}.")
    return array


def checked_labels(given: ArrayLike, shape: tuple[int, ...], probe: Probe, what: str) -> NDArray[np.int64]:
    """Labels of all tokens of a batch.

    Raises
    ------
    InputError
        Of another shape, no whole numbers, or labels that the probe has no name for.
    """
    labels = fitting(given, shape, what)
    most = len(probe.labels) - 1
    if labels.dtype.kind not in "iu" or (labels.size and not -1 <= int(labels.min()) <= int(labels.max()) <= most):
        known = ", ".join(f"{number} ({name})" for number, name in enumerate(probe.labels)) or "none: the probe has no labels"
        numbers = labels.size and labels.dtype.kind in "iufb"  # names, say, have no least one
        got = f"{labels.dtype}, {labels.min()} to {labels.max()}" if numbers else str(labels.dtype)
        raise InputError(f"{what} must be whole numbers, -1 for none or one of {known}; got {got}.")
    return labels.astype(np.int64)


def require_labels(probe: Probe, labels: NDArray[np.int64] | None) -> None:
    """Raise `InputError` where a probe counts by label and there are none."""
    if labels is None and probe.variables == "tokens" and probe.by == "label":
        raise InputError(
            "the probe counts pairs of tokens by label, and there are no labels: set probe.labels before each forward pass, or "
            "give labels= to update or accumulate."
        )


def rows_of(point: str, activations: ArrayLike) -> tuple[tuple[int, ...], NDArray[np.floating]]:
    """The shape of activations, and their rows."""
    values: Any = activations if hasattr(activations, "reshape") else np.asarray(activations)
    shape = tuple(values.shape)
    if len(shape) not in (2, 3) or not shape[-1]:
        raise InputError(
            f"activations of '{point}' must be (rows, variables) or (batch, position, variables), with at least one "
            f"variable; got shape {shape}."
        )
    return shape, as_samples(values.reshape(-1, shape[-1]))
