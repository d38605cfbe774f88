"""What `match()` of a client type receives."""

from trafficlight.client_types import Candidate as Adapter

__all__ = ["Adapter"]
