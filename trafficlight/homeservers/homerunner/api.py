"""Client of one homerunner: one create at a time, because it cannot do several, and nothing left behind."""

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from trafficlight.clock import Clock
from trafficlight.errors import DeployError

logger = logging.getLogger(__name__)

_CREATE = aiohttp.ClientTimeout(total=180)  # synchronous and slow
_HEALTH = aiohttp.ClientTimeout(total=5)
_DESTROY = aiohttp.ClientTimeout(total=30)
_PAUSE_SECONDS = 1.0
_SHOWN = 2000
_NO_SUCH = "no deployment with name"
# Messages of creates that fail every time.
_PERMANENT = ("no such image", "missing base image", "not json", "must be specified")


class HomerunnerUnreachableError(DeployError):
    """A homerunner is not reachable, or its connection broke: another one may work."""


class CreateFailedError(DeployError):
    """A homerunner rejected a create.

    :param message: its answer.
    :param permanent: whether the same create fails every time.
    """

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment that homerunner created.

    :param name: its name, for destroying it.
    :param servers: homerunner's description of each homeserver, in the order of the images.
    :param until: when homerunner destroys it by itself, on the monotonic clock.
    """

    name: str
    servers: tuple[Mapping[str, Any], ...]
    until: float


class Homerunner:
    """One homerunner at one URL.

    :param url: where it listens.
    :param settle: how long a create may go on after its connection broke, in seconds.
    """

    def __init__(self, url: str, clock: Clock, *, settle: float) -> None:
        self.url = url.rstrip("/")
        #: How many deployments it has or creates, maintained by the provider.
        self.load = 0
        #: Until when the provider does not use it, on the monotonic clock.
        self.resting_until = 0.0
        self._clock = clock
        self._settle = settle
        self._turn = asyncio.Lock()

    async def health(self, session: aiohttp.ClientSession) -> str | None:
        """Return why it cannot be used; None if it answers."""
        try:
            async with session.get(f"{self.url}/health", timeout=_HEALTH) as answer:
                return None if answer.status == 200 else f"{self.url}/health answers {answer.status}"
        except (aiohttp.ClientError, OSError) as error:
            return f"{self.url} is not reachable: {_reason(error)}"

    async def create(self, session: aiohttp.ClientSession, images: Sequence[str]) -> Deployed:
        """Deploy homeservers under a new name. Must not be cancelled.

        :raises HomerunnerUnreachableError: it is not reachable, or the connection broke.
        :raises CreateFailedError: it rejected the create.
        :raises DeployError: its answer is invalid.
        """
        async with self._turn:  # concurrent creates remove each other's networks
            return await self._create(session, images)

    async def _create(self, session: aiohttp.ClientSession, images: Sequence[str]) -> Deployed:
        name = f"trafficlight_{secrets.token_hex(8)}"
        names = [f"hs{number}" for number, _ in enumerate(images, 1)]
        homeservers = [
            {"Name": server, "BaseImageURI": image} for server, image in zip(names, images, strict=True)
        ]
        body = {
            "base_image_uri": images[0],
            "blueprint_name": "",
            "blueprint": {"Name": name, "Homeservers": homeservers},
        }
        try:
            async with session.post(f"{self.url}/create", json=body, timeout=_CREATE) as response:
                status, text = response.status, await response.text(errors="replace")
                date = response.headers.get("Date")
        except aiohttp.ClientConnectorError as error:
            raise HomerunnerUnreachableError(f"{self.url} is not reachable: {_reason(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            await self._clean_up(session, name)
            raise HomerunnerUnreachableError(f"{self.url} closed the connection: {_reason(error)}") from error
        if status != 200:
            await self.destroy(session, name)  # or its leftovers would stay
            raise CreateFailedError(
                f"{self.url} answers {status} {text[:_SHOWN].strip()}",
                permanent=any(sign in text.lower() for sign in _PERMANENT),
            )
        try:
            answer = json.loads(text)
            servers = tuple(answer["homeservers"][server] for server in names)
            if not all(server["BaseURL"] for server in servers):
                raise ValueError("a homeserver without URL")
            lifetime = _seconds_until(answer["expires"], date)
        except (ValueError, KeyError, TypeError) as error:
            await self.destroy(session, name)
            raise DeployError(f"{self.url} answers 200 without the homeservers: {text[:_SHOWN]}") from error
        return Deployed(name, servers, self._clock.monotonic() + lifetime)

    async def destroy(self, session: aiohttp.ClientSession, name: str) -> bool:
        """Destroy a deployment and return whether it existed; failures are logged."""
        try:
            async with session.post(
                f"{self.url}/destroy", json={"blueprint_name": name}, timeout=_DESTROY
            ) as answer:
                if answer.status == 200:
                    return True
                text = await answer.text(errors="replace")
        except (aiohttp.ClientError, OSError) as error:
            logger.warning("%s: cannot destroy %s: %s", self.url, name, _reason(error))
            return False
        if _NO_SUCH not in text:
            logger.warning("%s: cannot destroy %s: %s %s", self.url, name, answer.status, text[:_SHOWN])
        return False

    async def _clean_up(self, session: aiohttp.ClientSession, name: str) -> None:
        """Destroy what a create may still deploy: it continues after its connection broke."""
        deadline = self._clock.monotonic() + self._settle
        while self._clock.monotonic() < deadline:
            if await self.health(session) is not None:
                return  # it exited, and removes its leftovers when it is started again
            if await self.destroy(session, name):
                return
            await asyncio.sleep(_PAUSE_SECONDS)


def _seconds_until(expires: str, date: str | None) -> float:
    """Return the remaining lifetime in seconds, by homerunner's own clock.

    :param expires: when the lifetime is over.
    :param date: the Date header of the same answer.
    """
    end = datetime.fromisoformat(expires)
    now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    return (end - now).total_seconds()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
