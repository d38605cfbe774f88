"""The application: the adapters' endpoints and people's pages over one lab."""

import asyncio
import logging
import mimetypes
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from quart import Quart

from trafficlight import config
from trafficlight.clock import cancel_all
from trafficlight.coordinator.lab import Lab
from trafficlight.http import responses
from trafficlight.http.api import adapters, cases, history, openapi, operations, sessions
from trafficlight.http.door import Door
from trafficlight.http.local_token import LocalToken, create_token, remove_token
from trafficlight.http.pages import login, routes
from trafficlight.http.requests import Bodies
from trafficlight.http.security import warning_for
from trafficlight.http.server import process_tuned
from trafficlight.http.wire.app import WireApp
from trafficlight.results.reports.parts import Versions
from trafficlight.suites.selection import SessionRequest

logger = logging.getLogger(__name__)

DEFAULT_PORT = 5000
"""Where the original listens."""


def app_of(lab: Lab, *, local_token: LocalToken | None = None, sessions: bool = True) -> Quart:
    """Return the application over a lab that the caller runs.

    :param local_token: the token for changes if the settings have no `PEOPLE_TOKEN`.
    :param sessions: whether sessions can be started over HTTP.
    """
    app = _bare()
    app.config["LAB"] = lab
    app.config["LOCAL_TOKEN"] = local_token
    app.config["SESSIONS"] = sessions
    return app


def create_app(**settings: Any) -> Quart:
    """Return an application that runs its own lab, from start-up to shutdown.

    At start-up, the lab resumes interrupted sessions, or starts the one that the settings describe.

    :param settings: settings that go before all others, by their name in lower case.
    :raises ConfigError: a setting is wrong.
    """
    loaded = config.load(settings)
    app = _bare()

    @app.while_serving
    async def lab() -> AsyncGenerator[None]:
        # Which address the server listens on is not known here.
        if (warning := warning_for(loaded, "an address that another program chose")) is not None:
            logger.warning(warning)
        async with AsyncExitStack() as stack:
            if loaded.people_token is None:
                token = create_token(loaded.host, loaded.port or DEFAULT_PORT)
                stack.callback(remove_token, token)
                app.config["LOCAL_TOKEN"] = token
                logger.warning("changes over HTTP need the token in %s", token.path)
            running = await stack.enter_async_context(Lab.open(loaded, resumable=True))
            app.config["LAB"] = running
            # Installing a homeserver takes longer than a server waits for its application to start.
            beginning = asyncio.create_task(_begin(running), name="begin")
            with process_tuned():
                yield
            await cancel_all(beginning)
            # Held polls would keep the server from ending.
            running.engine.pool.close("the coordinator is shutting down")

    return app


async def _begin(lab: Lab) -> None:
    try:
        await lab.resume_or_start(SessionRequest(), command="create_app")
    except Exception:
        logger.exception("no session was started")


def _bare() -> Quart:
    mimetypes.init()  # reads files, which is not to happen in the first request
    app = Quart("trafficlight", static_folder=None)
    app.config["LOCAL_TOKEN"], app.config["SESSIONS"] = None, True
    # Every endpoint reads its body with a limit of its own.
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None
    app.url_map.merge_slashes = False  # a redirect would make an answer of a request that is wrong
    app.url_map.strict_slashes = True
    app.config["BODIES"] = Bodies()
    app.config["VERSIONS"] = Versions()
    wire = WireApp(app.asgi_app, lambda: app.config["LAB"], app.config["BODIES"])
    app.asgi_app = Door(wire, lambda: app.config["LAB"].settings)  # type: ignore[method-assign]
    responses.install(app)
    operations.install_log_context(app)
    for room in (routes, sessions, cases, history, adapters, operations, openapi, login):
        app.register_blueprint(room.blueprint)
    app.register_blueprint(routes.assets)
    return app
