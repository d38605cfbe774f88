"""Sessions by the name that stands in a URL."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from trafficlight.coordinator.session import Session
from trafficlight.http.errors import ApiError
from trafficlight.http.requests import current_lab
from trafficlight.results.catalog import SessionView

LATEST = "latest"
"""Names the session that started last."""


async def session_folder(name: str) -> Path:
    """Return the folder of a session; its name is the session's id.

    :param name: its id, or `latest`; any text.
    :raises ApiError: there is no such session (404).
    """
    catalog = current_lab().catalog
    latest = await catalog.latest() if name == LATEST else name
    if latest is None:
        raise ApiError(HTTPStatus.NOT_FOUND, "unknown_session", "no session has run yet")
    if (folder := await catalog.folder(latest)) is None:
        raise unknown_session()
    return folder


async def session_id(name: str) -> str:
    """Return the id of a session, see :func:`session_folder`."""
    return (await session_folder(name)).name


@asynccontextmanager
async def open_session(name: str) -> AsyncIterator[SessionView]:
    """Open a session until this is left.

    :param name: its id, or `latest`; any text.
    :raises ApiError: there is no such session (404).
    """
    async with AsyncExitStack() as stack:
        try:
            view = await stack.enter_async_context(current_lab().catalog.record(await session_id(name)))
        except OSError:
            raise unknown_session() from None
        yield view


def running(id: str) -> Session | None:
    """Return a session that this process runs; None for all others."""
    return current_lab().engine.sessions.get(id)


def unknown_session() -> ApiError:
    """Return the error for a name that no session has."""
    return ApiError(HTTPStatus.NOT_FOUND, "unknown_session", "there is no such session")
