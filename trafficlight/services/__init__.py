"""Services on the nodes of a cluster: what a test starts besides clients and homeservers."""

from trafficlight.services.account import Account, Completed
from trafficlight.services.connections import NodeError
from trafficlight.services.faults import clock_offset, degrade, kill, partition, pause
from trafficlight.services.node import Node
from trafficlight.services.service import Log, Service, ServiceError
from trafficlight.services.streams import CommandError, Monitor

__all__ = [
    "Account",
    "CommandError",
    "Completed",
    "Log",
    "Monitor",
    "Node",
    "NodeError",
    "Service",
    "ServiceError",
    "clock_offset",
    "degrade",
    "kill",
    "partition",
    "pause",
]
