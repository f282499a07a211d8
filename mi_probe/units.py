"""Nats and bits: data are in nats; what a person reads may be in either."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from mi_probe.errors import InputError, nearest

__all__ = ["Units", "logarithm", "per_nat"]

Units = Literal["nats", "bits"]


def per_nat(units: Units) -> float:
    """How many of a unit make one nat.

    Raises
    ------
    InputError
        Unknown unit.

    Examples
    --------
    >>> round(0.755 * per_nat("bits"), 2)  # "about 1"
    1.09
    """
    if units not in get_args(Units):
        raise InputError(f"units are nats or bits; not {units!r}{nearest(str(units), get_args(Units))}.")
    return 1.0 if units == "nats" else float(1 / np.log(2))


def logarithm(units: Units) -> str:
    """The logarithm whose values are in a unit, as formulas write it.

    Raises
    ------
    InputError
        Unknown unit.

    Examples
    --------
    >>> f"-½ {logarithm('bits')}(1 - r²)"
    '-½ log₂(1 - r²)'
    """
    return "ln" if per_nat(units) == 1 else "log₂"
