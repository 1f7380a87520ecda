"""When the next checkpoint of a run is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

_LARGEST_SHARE = 0.05  # of the time may go into checkpoints


class Pacer(NamedTuple):
    """Decides when the next checkpoint is due: so many rounds after the last one, or by time.

    By time, it is due after ``least_seconds``, or after the longer time of which saving takes a
    twentieth: a large state is saved less often.

    Example:
      >>> pacer = Pacer.starting(least_seconds=3600, rounds=10)
      >>> pacer.is_due(9), pacer.is_due(10), pacer.after(10, lambda: None).is_due(10)
      (False, True, False)
    """

    least_seconds: float
    rounds: int | None  # between two checkpoints; by time if None
    finished: int  # rounds at the last checkpoint
    at: float  # seconds of the clock, then
    seconds: float = 0.0  # that it took

    @classmethod
    def starting(
        cls, *, least_seconds: float, rounds: int | None = None, finished: int = 0
    ) -> Pacer:
        """The pacer of a training that goes on from ``finished`` rounds now."""
        return cls(least_seconds, rounds, finished, time.monotonic())

    def is_due(self, finished: int) -> bool:
        """Whether the state after so many rounds should be saved."""
        if self.rounds is not None:
            return finished - self.finished >= self.rounds
        pause = max(self.least_seconds, self.seconds / _LARGEST_SHARE)
        return time.monotonic() - self.at > pause

    def after(self, finished: int, save: Callable[[], None]) -> Pacer:
        """Saves the state after so many rounds, and goes on from there."""
        began = time.monotonic()
        save()
        now = time.monotonic()
        return self._replace(finished=finished, at=now, seconds=now - began)
