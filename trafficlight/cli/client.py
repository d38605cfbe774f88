"""Client of a running coordinator's HTTP API, for the commands that use one."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import click
from pydantic import BaseModel, ValidationError

from trafficlight.cli.types import adding
from trafficlight.errors import TrafficlightError, UsageError
from trafficlight.http.api.bodies import AdapterList, SessionBody, SessionList
from trafficlight.http.local_token import find_token
from trafficlight.results.events import Event, parse_event
from trafficlight.suites.case_ids import encode_file
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.selection import SessionRequest
from trafficlight.suites.targets import located

# Time-outs in seconds. Starting a session may install homeservers.
_CONNECT, _ANSWER, _SUBMIT = 10.0, 60.0, 1800.0
# Seconds of silence after which a stream counts as broken: three heartbeats of the server.
_SILENCE = 45.0
_TROUBLE = (aiohttp.ClientConnectionError, TimeoutError)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_coordinator_options = adding(
    click.option(
        "--url",
        envvar="TRAFFICLIGHT_URL",
        default="http://127.0.0.1:5000",
        show_default=True,
        help="The coordinator's URL. Also: TRAFFICLIGHT_URL.",
    ),
    click.option(
        "--token",
        envvar="TRAFFICLIGHT_PEOPLE_TOKEN",
        help="The coordinator's PEOPLE_TOKEN. Also: TRAFFICLIGHT_PEOPLE_TOKEN. By default, the token of a "
        "coordinator on this machine that the same account runs.",
    ),
)


class CoordinatorUnreachableError(TrafficlightError):
    """The coordinator does not answer, or its answer breaks off."""

    def __init__(self, url: str, trouble: str) -> None:
        self.url = url
        super().__init__(f"the coordinator at {url} does not answer: {trouble}")


class CoordinatorRefusedError(UsageError):
    """The coordinator refused the request."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class _Nothing(BaseModel):
    """An answer of which nothing is used."""


class Coordinator:
    """The API of one coordinator.

    :param http: owned by the caller.
    :param url: its base URL.
    :param token: its PEOPLE_TOKEN, if it has one.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = http
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, token: str | None) -> AsyncIterator["Coordinator"]:
        """Connect to the coordinator at a URL.

        :raises UsageError: it is not a URL.
        """
        if not _is_url(url):
            raise UsageError(f"--url {url}: write http://host:port")
        async with aiohttp.ClientSession() as http:
            if not token and (found := find_token(url)) is not None:
                token, url = found
            yield cls(http, url, token)

    async def submit(self, asked: SessionRequest) -> SessionBody:
        """Start a session.

        :raises CoordinatorRefusedError: the request is refused; the message says why.
        :raises CoordinatorUnreachableError: it does not answer.
        """
        body = asked.model_dump(mode="json")
        return await self._ask(SessionBody, "POST", "/sessions", json=body, total=_SUBMIT)

    async def session(self, name: str) -> SessionBody:
        """Return the state of a session.

        :raises CoordinatorRefusedError: it does not exist, or access is denied.
        :raises CoordinatorUnreachableError: it does not answer.
        """
        return await self._ask(SessionBody, "GET", _session(name))

    async def sessions(self, limit: int) -> tuple[list[SessionBody], int]:
        """Return the newest sessions, and the number of all.

        :raises CoordinatorRefusedError: access is denied.
        :raises CoordinatorUnreachableError: it does not answer.
        """
        listed = await self._ask(SessionList, "GET", f"/sessions?limit={limit}")
        return listed.sessions, listed.total

    async def cancel(self, name: str, case: str | None = None) -> SessionBody:
        """Cancel a session, or one of its cases.

        :raises CoordinatorRefusedError: it does not exist or has ended, or access is denied.
        :raises CoordinatorUnreachableError: it does not answer.
        """
        if case is None:
            return await self._ask(SessionBody, "POST", f"{_session(name)}/cancel")
        named = {"case": case, "reason": "trafficlight cancel"}
        return await self._ask(SessionBody, "POST", f"{_session(name)}/cases/cancel", json=named)

    async def adapters(self) -> AdapterList:
        """Return the adapters that are there.

        :raises CoordinatorRefusedError: access is denied.
        :raises CoordinatorUnreachableError: it does not answer.
        """
        return await self._ask(AdapterList, "GET", "/adapters")

    async def change_adapters(self, change: str, body: dict[str, str], program: str | None = None) -> None:
        """Pause or resume a program, or drain or undrain all adapters.

        :param change: ``pause``, ``resume``, ``drain`` or ``undrain``.
        :raises CoordinatorRefusedError: there is no such program, or access is denied.
        :raises CoordinatorUnreachableError: it does not answer.
        """
        which = "" if program is None else f"/{quote(program, safe='')}"
        await self._ask(_Nothing, "POST", f"/adapters{which}/{change}", json=body)

    async def events(self, name: str, after: int) -> AsyncIterator[Event]:
        """Yield the events of a session as they happen, until it ends.

        :param after: the sequence number of the last known event.
        :raises CoordinatorRefusedError: the session does not exist, or access is denied.
        :raises CoordinatorUnreachableError: the stream broke.
        """
        async with self._asking("GET", f"{_session(name)}/events?after={after}") as answer:
            begun: list[bytes] = []
            async for piece in answer.content.iter_any():
                first, *more = piece.split(b"\n")
                begun.append(first)
                for following in more:
                    if event := parse_event(b"".join(begun)):
                        yield event
                    begun = [following]

    async def _ask(
        self, model: type[M], method: str, path: str, *, total: float = _ANSWER, **options: Any
    ) -> M:
        async with self._asking(method, path, total=total, **options) as answer:
            try:
                return model.model_validate_json(await answer.read())
            except ValidationError:
                message = f"{self.url} is not a trafficlight coordinator, or one of another version"
                raise CoordinatorRefusedError(answer.status, message) from None

    @asynccontextmanager
    async def _asking(
        self, method: str, path: str, *, total: float | None = None, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        limits = aiohttp.ClientTimeout(
            total=total, connect=_CONNECT, sock_read=_SILENCE if total is None else None
        )
        url = f"{self.url}/api{path}"
        try:
            async with self._http.request(
                method, url, headers=self._headers, timeout=limits, **options
            ) as answer:
                if answer.status >= 400:
                    raise CoordinatorRefusedError(answer.status, await _refusal(answer))
                yield answer
        except aiohttp.ClientPayloadError:
            raise CoordinatorUnreachableError(self.url, "its answer broke off") from None
        except _TROUBLE as error:
            raise CoordinatorUnreachableError(self.url, str(error) or type(error).__name__) from None
        except aiohttp.ClientError as error:
            raise UsageError(f"--url {self.url}: {error}") from None


def with_coordinator(command: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Add the options that choose a coordinator; the command is a coroutine and receives the coordinator."""

    @functools.wraps(command)
    def connected(*args: Any, url: str, token: str | None, **options: Any) -> T:
        async def run() -> T:
            async with Coordinator.at(url, token) as coordinator:
                return await command(*args, coordinator=coordinator, **options)

        return asyncio.run(run())

    return _coordinator_options(connected)


def as_seen_there(targets: tuple[str, ...], url: str) -> tuple[str, ...]:
    """Return paths as the coordinator resolves them: absolute if it runs on this machine and they exist."""
    if urlsplit(url).hostname not in _LOOPBACK:
        return targets
    return tuple(map(_absolute, targets))


def _absolute(target: str) -> str:
    place, symbol = located(target, Path.cwd())
    if place is None or place.is_relative_to(SHIPPED):
        return target
    return encode_file(str(place)) + (f"::{symbol}" if symbol else "")


def _session(name: str) -> str:
    return f"/sessions/{quote(name, safe='')}"


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no such port, no such address
        return False


async def _refusal(answer: aiohttp.ClientResponse) -> str:
    raw = await answer.read()
    try:
        said = str(json.loads(raw)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"{answer.status} {answer.reason}"
    if answer.status == 401:
        return f"{said} (option --token)"
    return said
