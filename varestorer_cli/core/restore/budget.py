"""Bounds the pixels that are in memory at once, across the stages of a batch."""

import threading
from collections.abc import Callable


class PixelBudget:
    """Pixels that may be decoded and not yet written.

    Pictures must take their share in the order in which they are worked on (one thread decodes, in order), then no
    one waits for a later one. A picture larger than the budget passes alone.

    Args:
        limit: pixels.
        cancelled: asked while waiting.
    """

    def __init__(self, limit: int, cancelled: Callable[[], bool]) -> None:
        self._limit = limit
        self._cancelled = cancelled
        self._used = 0
        self._closed = False
        self._change = threading.Condition()

    def take(self, pixels: int) -> int:
        """Wait for room and take it.

        Returns:
            What is to be given back.
        """
        with self._change:
            while self._used and self._used + pixels > self._limit and not (self._closed or self._cancelled()):
                self._change.wait(0.2)
            self._used += pixels
        return pixels

    def give(self, pixels: int) -> None:
        """Give back what was taken."""
        with self._change:
            self._used -= pixels
            self._change.notify_all()

    def close(self) -> None:
        """Let everyone through: the run is over."""
        with self._change:
            self._closed = True
            self._change.notify_all()
