"""The door to the clients that `run()` receives."""

from trafficlight.clients import (
    CallData,
    Client,
    ElementCallClient,
    LobbyData,
    MatrixClient,
    NetworkProxyClient,
    VideoImage,
    VideoTile,
)

__all__ = [
    "CallData",
    "Client",
    "ElementCallClient",
    "LobbyData",
    "MatrixClient",
    "NetworkProxyClient",
    "VideoImage",
    "VideoTile",
]
