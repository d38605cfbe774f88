"""One homerunner, spoken to the way it can stand: one create at a time, and nothing left behind."""

import asyncio
import json
import logging
import re
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

_HEALTH = aiohttp.ClientTimeout(total=5)
_DESTROY = aiohttp.ClientTimeout(total=30)
_PAUSE_SECONDS = 1.0
_SHOWN = 2000
_NO_SUCH = "no deployment with name"
# A create that failed with one of these fails the same way next time.
_HOPELESS = ("no such image", "missing base image", "not json", "must be specified")
_FRACTION = re.compile(r"\.(\d+)")


class HomerunnerGoneError(DeployError):
    """A homerunner does not answer at all: another one may."""


class CreateFailedError(DeployError):
    """A homerunner refused to create something.

    :param message: what it said.
    :param hopeless: it will say so again.
    """

    def __init__(self, message: str, *, unstartable_reason: bool) -> None:
        super().__init__(message)
        self.unstartable_reason = unstartable_reason


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a create brought up.

    :param name: what destroys it.
    :param servers: what homerunner says of each homeserver, in the order that was asked for.
    :param until: when homerunner ends it, on the monotonic clock.
    """

    name: str
    servers: tuple[Mapping[str, Any], ...]
    until: float


class Homerunner:
    """One homerunner at one URL.

    :param url: where it listens.
    :param clock: tells when its servers end.
    :param create_timeout: how long a create may take, in seconds; it is synchronous and slow.
    :param settle: how long a create that was cut off may go on unseen, in seconds.
    """

    def __init__(self, url: str, clock: Clock, *, create_timeout: float = 180, settle: float = 60) -> None:
        self.url = url.rstrip("/")
        #: How many creates it has before it, kept by who chooses among several.
        self.waiting = 0
        #: Until when it is not planned with, on the monotonic clock.
        self.resting_until = 0.0
        self._clock = clock
        self._create_timeout = aiohttp.ClientTimeout(total=create_timeout)
        self._settle = settle
        self._turn = asyncio.Lock()

    def done(self) -> None:
        """Count one create less."""
        self.waiting -= 1

    async def health(self, session: aiohttp.ClientSession) -> str | None:
        """Return why it cannot be used, or None where it answers."""
        try:
            async with session.get(f"{self.url}/health", timeout=_HEALTH) as answer:
                return None if answer.status == 200 else f"{self.url}/health answers {answer.status}"
        except (aiohttp.ClientError, OSError) as error:
            return f"{self.url} is not reachable: {_reason(error)}"

    async def create(self, session: aiohttp.ClientSession, images: Sequence[str]) -> Deployed:
        """Deploy homeservers under a name that was never used. To be run to its end, never cancelled.

        :raises HomerunnerGoneError: nobody answers, or the connection was cut.
        :raises CreateFailedError: it refused.
        :raises DeployError: its answer makes no sense.
        """
        async with self._turn:  # creates in parallel remove each other's networks
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
            async with session.post(
                f"{self.url}/create", json=body, timeout=self._create_timeout
            ) as response:
                status, text = response.status, await response.text(errors="replace")
                date = response.headers.get("Date")
        except aiohttp.ClientConnectorError as error:
            raise HomerunnerGoneError(f"{self.url} is not reachable: {_reason(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            await self._settled(session, name)
            raise HomerunnerGoneError(f"{self.url} broke off: {_reason(error)}") from error
        if status != 200:
            await self.destroy(session, name)  # what it left would be found by nobody
            raise CreateFailedError(
                f"{self.url} answers {status} {text[:_SHOWN].strip()}",
                unstartable_reason=any(sign in text.lower() for sign in _HOPELESS),
            )
        try:
            answer = json.loads(text)
            servers = tuple(answer["homeservers"][server] for server in names)
            if not all(server["BaseURL"] for server in servers):
                raise ValueError("a homeserver without URL")
            lifetime = _seconds_until(answer["expires"], date)
        except (ValueError, KeyError, TypeError) as error:
            await self.destroy(session, name)
            raise DeployError(
                f"{self.url} answers 200 without what was asked for: {text[:_SHOWN]}"
            ) from error
        return Deployed(name, servers, self._clock.monotonic() + lifetime)

    async def destroy(self, session: aiohttp.ClientSession, name: str) -> bool:
        """Destroy a deployment and return whether there was one; what cannot be destroyed is logged."""
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

    async def _settled(self, session: aiohttp.ClientSession, name: str) -> None:
        """Destroy what a create may still bring up: it goes on after its client has gone."""
        deadline = self._clock.monotonic() + self._settle
        while self._clock.monotonic() < deadline:
            if await self.health(session) is not None:
                return  # it died, and removes what it left when it is started again
            if await self.destroy(session, name):
                return
            await asyncio.sleep(_PAUSE_SECONDS)  # it only tells when it is asked


def _seconds_until(expires: str, date: str | None) -> float:
    """Return how long something lives, by the clock of the machine that says so.

    :param expires: when it ends, with any number of digits after the point.
    :param date: the Date header of the answer that said so.
    """
    end = datetime.fromisoformat(_FRACTION.sub(lambda part: f".{part[1][:6]:0<6}", expires))
    now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    return (end - now).total_seconds()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
