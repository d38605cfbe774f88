"""The application: the adapters' endpoints and people's pages over one lab."""

from collections.abc import AsyncIterator
from typing import Any

from quart import Quart

from trafficlight import config
from trafficlight.coordinator.lab import Lab
from trafficlight.http import adapter_api, refusals

__all__ = ["app_of", "create_app"]


def app_of(lab: Lab) -> Quart:
    """Return the application over a lab that somebody else runs."""
    app = _bare()
    app.config["LAB"] = lab
    return app


def create_app(**settings: Any) -> Quart:
    """Return an application that runs its own lab, from start-up to shutdown.

    :param settings: settings that go before all others, by their name in lower case.
    :raises ConfigError: a setting is wrong.
    """
    loaded = config.load(settings)
    app = _bare()

    @app.while_serving
    async def lab() -> AsyncIterator[None]:
        async with Lab.open(loaded) as running:
            app.config["LAB"] = running
            yield
            # Held polls would keep the server from ending.
            running.engine.pool.close("the coordinator is shutting down")

    return app


def _bare() -> Quart:
    app = Quart("trafficlight")
    # Every endpoint reads its body with a limit of its own.
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None
    refusals.install(app)
    app.register_blueprint(adapter_api.blueprint)
    return app
