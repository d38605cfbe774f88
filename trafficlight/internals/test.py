"""The door to `Test`."""

from trafficlight.test import Test

__all__ = ["Test"]
