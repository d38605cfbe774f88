"""The door to `HomeServer` for test files that import it from here."""

from trafficlight.clients import HomeServer

__all__ = ["HomeServer"]
