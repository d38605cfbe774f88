"""What every request can reach: the lab that the application stands over."""

from quart import current_app

from trafficlight.coordinator.adapter import Adapter
from trafficlight.coordinator.lab import Lab
from trafficlight.logs import LogContext


def current_lab() -> Lab:
    """Return the lab of the application that handles the request."""
    lab: Lab = current_app.config["LAB"]
    return lab


def log_context_of(adapter: Adapter) -> LogContext:
    """Return what records are about while a request of an adapter is handled."""
    lease = adapter.held_by
    if lease is None:
        return LogContext(adapter=adapter.uuid)
    return LogContext(lease.session, lease.case, adapter.role or "", adapter.uuid)
