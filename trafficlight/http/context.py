"""Access to the lab of the application that handles a request."""

from quart import current_app

from trafficlight.coordinator.lab import Lab


def current_lab() -> Lab:
    """Return the lab of the application that handles the current request."""
    lab: Lab = current_app.config["LAB"]
    return lab
