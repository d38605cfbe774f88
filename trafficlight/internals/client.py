"""The door to the clients that `run()` receives."""

from trafficlight.clients import Client, ElementCallClient, MatrixClient, NetworkProxyClient, VideoImage

__all__ = ["Client", "ElementCallClient", "MatrixClient", "NetworkProxyClient", "VideoImage"]
