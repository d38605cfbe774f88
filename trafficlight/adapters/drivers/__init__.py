"""The drivers that come with trafficlight, by the names that `adapter run` and `ADAPTERS` take."""

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from trafficlight.adapters.host import DriverCommand


def _nio() -> DriverCommand:
    # -P: a folder trafficlight in the current directory is not this package.
    return DriverCommand([sys.executable, "-P", "-m", "trafficlight.adapters.nio.adapter"])


DRIVERS: Mapping[str, Callable[[], DriverCommand]] = MappingProxyType({"nio": _nio})
"""Returns the command of each driver."""
