"""What every request can reach: the lab that the application stands over."""

from quart import current_app

from trafficlight.coordinator.lab import Lab

__all__ = ["current_lab"]


def current_lab() -> Lab:
    """Return the lab of the application that handles the request."""
    lab: Lab = current_app.config["LAB"]
    return lab
