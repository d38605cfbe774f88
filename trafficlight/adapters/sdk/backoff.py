"""How long to wait before the next try."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with jitter, so that many adapters do not come back in the same instant.

    :param first: seconds before the second try, at most.
    :param longest: seconds that a delay grows to.
    """

    first: float = 0.1
    longest: float = 3.0

    def delays(self) -> Iterator[float]:
        """Yield seconds to wait, for ever."""
        ceiling = self.first
        while True:
            yield random.uniform(ceiling / 2, ceiling)  # noqa: S311 - jitter, not a secret
            ceiling = min(self.longest, ceiling * 2)
