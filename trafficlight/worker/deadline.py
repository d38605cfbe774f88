"""A point in time that one can ask."""

from trafficlight.clock import Clock


class Deadline:
    """A point in time, told by a monotonic clock.

    :param clock: where time comes from.
    :param seconds: how far away it is now.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds until it; zero when it has passed."""
        return max(0.0, self._at - self._clock.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining <= 0
