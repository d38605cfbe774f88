"""What `run()` receives: one object for every role, one method for every action."""

from trafficlight.clients.base import Client, ClientApi
from trafficlight.clients.element_call import CallData, ElementCallClient, LobbyData, VideoTile
from trafficlight.clients.home_server import HomeServer
from trafficlight.clients.link import Link
from trafficlight.clients.matrix import MatrixClient
from trafficlight.clients.network_proxy import NetworkProxyClient
from trafficlight.clients.video import VideoImage

__all__ = [
    "CallData",
    "Client",
    "ClientApi",
    "ElementCallClient",
    "HomeServer",
    "Link",
    "LobbyData",
    "MatrixClient",
    "NetworkProxyClient",
    "VideoImage",
    "VideoTile",
]
