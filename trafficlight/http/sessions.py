"""A session by its name, whether the coordinator has it in memory or it lies in its folder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.session import Session
from trafficlight.http.context import current_lab
from trafficlight.http.errors import ApiError
from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import Standing, in_order
from trafficlight.results.record import SessionRecord

LATEST = "latest"
"""Names the session that started last."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session is.

    :ivar live: the session itself, where it is in memory.
    """

    id: str
    folder: Path
    live: Session | None

    @classmethod
    def of(cls, session: Session) -> "Place":
        """Return the place of a session that is in memory."""
        return cls(session.id, session.folder.path, session)


@dataclass(frozen=True, slots=True)
class Known:
    """A session that can be looked at.

    :ivar record: of one that is not in memory, all but what happened inside of attempts; it does not change.
    """

    place: Place
    record: SessionRecord
    standing: Standing

    @property
    def id(self) -> str:
        """The session's id."""
        return self.place.id

    @property
    def over(self) -> bool:
        """Whether nothing of it moves any more."""
        return self.standing != "running"

    @property
    def until(self) -> datetime | None:
        """When a session that was cut off was last alive; None for all others."""
        return self.record.last_time if self.standing == "abandoned" else None

    async def in_full(self, case: CaseRecord) -> CaseRecord:
        """Return a case of the session with all that happened in its attempts."""
        if self.place.live is not None:
            return case
        return await current_lab().past.case(self.id, case.id) or case


async def all_ids() -> list[str]:
    """Return the ids of all sessions, the newest first."""
    lab = current_lab()
    live = list(lab.engine.sessions)
    return await asyncio.to_thread(_ids, lab, live)


async def latest() -> Place | None:
    """Return the session that started last; None where none has run yet."""
    lab = current_lab()
    live = list(lab.engine.sessions)

    def find() -> str | None:
        readable = lab.past.archive.folder
        return next((id for id in _ids(lab, live) if id in live or readable(id) is not None), None)

    found = await asyncio.to_thread(find)
    return await locate(found) if found is not None else None


async def locate(name: str) -> Place:
    """Return where a session is.

    :param name: its id, or `latest`; as it came in a URL: anything.
    :raises Refusal: there is none (404).
    """
    if name == LATEST:
        if (found := await latest()) is None:
            raise ApiError(HTTPStatus.NOT_FOUND, "unknown_session", "no session has run yet")
        return found
    lab = current_lab()
    if (session := lab.engine.sessions.get(name)) is not None:
        return Place.of(session)
    folder = await asyncio.to_thread(lab.past.archive.folder, name)
    if folder is None:
        raise _unknown()
    return Place(name, folder, None)


@asynccontextmanager
async def opened(name: str | Place) -> AsyncIterator[Known]:
    """Give a session, until this is left.

    :param name: its id, or `latest`; or where it is, if that is known already.
    :raises Refusal: there is none (404).
    """
    place = await locate(name) if isinstance(name, str) else name
    if place.live is not None:
        record = place.live.record
        yield Known(place, record, "running" if record.ended is None else "ended")
        return
    past = current_lab().past
    async with AsyncExitStack() as stack:
        try:
            record = await stack.enter_async_context(past.record(place.id))
        except OSError:
            raise _unknown() from None
        ended = record.ended is not None
        standing = await asyncio.to_thread(past.archive.standing, place.folder, ended=ended)
        yield Known(place, record, standing)


def _unknown() -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, "unknown_session", "there is no such session")


def _ids(lab: Lab, live: list[str]) -> list[str]:
    return sorted({*live, *lab.past.archive.ids()}, key=in_order, reverse=True)
