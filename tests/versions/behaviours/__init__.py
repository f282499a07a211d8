"""Each thing that can happen to a probe: which tokens it counted, and which it should have. docs/hooks.md has the table of them.

A behaviour takes a fresh kit and returns (tokens counted, tokens expected). Token 0 is BOS, EOS and padding at once, as in GPT-2.
"""

from importlib import import_module

from .base import BEHAVIOURS

for _section in ("texts", "running", "generation", "whole", "others", "numbers"):  # the order of the table
    import_module(f".{_section}", __name__)

__all__ = ["BEHAVIOURS"]
