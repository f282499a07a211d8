"""Every behaviour, on every kind of model that the installed TransformerLens has."""

from __future__ import annotations

import pytest

from .behaviours import BEHAVIOURS
from .kits import MAKERS, NotThereError, kit


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", BEHAVIOURS)
def test_exactly_the_expected_tokens_are_counted(name: str, kind: str) -> None:
    try:
        counted, expected = BEHAVIOURS[name][1](kit(kind))
    except NotThereError as lacks:
        pytest.skip(f"{kind} has no {lacks}")
    assert counted == expected
