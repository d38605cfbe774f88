"""The objects that `run()` receives: one for every role, with a method for every action."""

from trafficlight.clients.action import Wire, action
from trafficlight.clients.base import CaseBackend, Client, ClientApi
from trafficlight.clients.element_call import CallData, ElementCallClient, LobbyData, VideoImage, VideoTile
from trafficlight.clients.home_server import HomeServer
from trafficlight.clients.matrix import MatrixClient
from trafficlight.clients.matrix_answers import RoomState, TimelineEvent
from trafficlight.clients.network_proxy import NetworkProxyClient

__all__ = [
    "CallData",
    "CaseBackend",
    "Client",
    "ClientApi",
    "ElementCallClient",
    "HomeServer",
    "LobbyData",
    "MatrixClient",
    "NetworkProxyClient",
    "RoomState",
    "TimelineEvent",
    "VideoImage",
    "VideoTile",
    "Wire",
    "action",
]
