"""A wish to stop, that a run takes note of and follows where it can save what it has."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stops"]

_ONE_WISH = 2.0  # seconds: Ctrl-C comes from the terminal, and again from torchrun


class Stops:
    """Notes that the process was asked to stop, by Ctrl-C or SIGTERM; asked again later, it stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._when = 0.0

    @contextmanager
    def noted(self) -> Iterator[Stops]:
        """Listen as long as the block runs; signals come to the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {which: signal.signal(which, self._ask) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._when = True, time.monotonic()
        elif time.monotonic() - self._when > _ONE_WISH:
            raise KeyboardInterrupt
