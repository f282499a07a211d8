"""The only room that touches a model: hook points by name, attaching, and which tokens of a forward pass count."""

from __future__ import annotations

from mi_probe.hooks.attached import AttachedProbe
from mi_probe.hooks.batch import CountOn
from mi_probe.hooks.entry import attach
from mi_probe.hooks.facts import hash_of_weights
from mi_probe.hooks.names import HookedModel, Point, couples, points, resolve

__all__ = [
    "AttachedProbe",
    "CountOn",
    "HookedModel",
    "Point",
    "attach",
    "couples",
    "hash_of_weights",
    "points",
    "resolve",
]
