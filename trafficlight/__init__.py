"""The interop lab for Matrix: real clients, real homeservers, every combination.

What test authors need is here; the rest has its own rooms.
"""

from typing import TYPE_CHECKING, Any

from trafficlight.clients import ElementCallClient, HomeServer, MatrixClient, NetworkProxyClient, VideoImage
from trafficlight.parameters import cluster, defaults, ignore, matrix, parametrize, time_limit
from trafficlight.services import Log, Node, Service
from trafficlight.test import Test
from trafficlight.version import VERSION

if TYPE_CHECKING:
    from quart import Quart

__all__ = [
    "ElementCallClient",
    "HomeServer",
    "Log",
    "MatrixClient",
    "NetworkProxyClient",
    "Node",
    "Service",
    "Test",
    "VideoImage",
    "__version__",
    "cluster",
    "create_app",
    "defaults",
    "ignore",
    "matrix",
    "parametrize",
    "time_limit",
]

__version__ = VERSION


def create_app(**settings: Any) -> "Quart":
    """Return the application for any ASGI server, configured from the environment and the configuration file.

    :param settings: settings that go before all others, by their name in lower case.
    :raises ConfigError: a setting is wrong.
    """
    # Here, because test files import this package and need no server.
    from trafficlight.http.app import create_app as create

    return create(**settings)
