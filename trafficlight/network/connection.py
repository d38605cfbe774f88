"""The connection between a case and the network proxy."""

import asyncio
import base64
import contextlib
import itertools
import json as encoder
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trafficlight.errors import LabError
from trafficlight.network.rules import MESSAGE_LIMIT
from trafficlight.text import is_loopback

logger = logging.getLogger(__name__)

# Seconds in which a proxy writes what it has recorded.
_WRITE = 3.0

PROXY_ENDED = "the lab's network proxy ended"
"""The verdict of the cases that used a proxy process which died."""


def decision_of(
    what: str, status: int = 0, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> dict[str, Any]:
    """Return what the proxy does with an exchange.

    :param what: ``passed``, ``changed``, ``answered`` or ``dropped``.
    """
    return {"what": what, "status": status, "headers": headers, "body": base64.b64encode(body).decode()}


@dataclass(frozen=True, slots=True)
class FederationPort:
    """How the network proxy gets between a homeserver and the others.

    :param port: where others look for it on loopback, as in its server name.
    :param target: where it listens.
    :param certificate: its certificate, PEM.
    :param private_key: the key of its certificate, PEM.
    :param authority: the certificate authority that homeservers trust, PEM.
    """

    port: int
    target: int
    certificate: Path
    private_key: Path
    authority: Path


def line_between(asking: str, asked: str) -> str:
    """Return the name of the line from one homeserver to another, for the proxy."""
    return f"{asking} to {asked}"


class CaseNetwork:
    """The network of one case: its connection to the proxy process.

    :param socket: returns the proxy's control socket; starts the proxy if need be.
    :param record: whether clients are recorded also where the test does not use their network.
    :param unrecorded: roles of clients and base URLs of homeservers of which that is not true.
    :param recording: returns the file for the recording of what a role's client asks, or what a role's
        homeserver asks of that of another role.
    :param on_change: called with a role, the name of a rule, and whether it is in effect now.
    :ivar recordings: the role of each recording.
    :ivar homeservers: the roles of the homeservers that ask each other through the proxy.
    """

    def __init__(
        self,
        socket: Callable[[], Awaitable[Path]],
        *,
        record: bool,
        unrecorded: Iterable[str] = (),
        recording: Callable[..., Path],
        on_change: Callable[[str, str, bool], None],
    ) -> None:
        self.record, self._unrecorded = record, frozenset(unrecorded)
        self.recordings: dict[Path, str] = {}
        self.homeservers: list[str] = []
        self._socket, self._recording, self.on_change = socket, recording, on_change
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._connecting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._rules: dict[int, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    def next_number(self) -> int:
        """Return a number for a rule."""
        return next(self._numbers)

    def records(self, role: str, target: str) -> bool:
        """Return whether what a client asks a homeserver is recorded also if the test does not need it.

        Of homeservers on this machine only, and without TLS, for whose certificates the client may have a
        trust of its own.
        """
        url = urlsplit(target)
        local = url.scheme == "http" and is_loopback(url.hostname or "")
        return self.record and local and self._unrecorded.isdisjoint((role, target))

    async def open(self, role: str, target: str) -> str:
        """Return the base URL under which a client reaches a homeserver through the proxy."""
        recording = await self._new_recording(role)
        answer = await self.call("open", role, target=target, recording=recording)
        return str(answer["url"])

    async def federate(self, servers: Mapping[str, tuple[str, FederationPort]]) -> None:
        """Put the proxy between homeservers, before they ask each other for anything.

        :param servers: the server name and the port of every role.
        """
        for asked, (_, port) in servers.items():
            asking = {
                name: (line_between(role, asked), await self._new_recording(role, asked))
                for role, (name, _) in servers.items()
                if role != asked
            }
            files = {name: str(value) for name, value in asdict(port).items()}
            await self.call("federate", asked, asking=asking, intercept=self.record, **files)
        self.homeservers = list(servers)

    async def _new_recording(self, role: str, *asked: str) -> str:
        path = await asyncio.to_thread(self._recording, role, *asked)
        self.recordings[path] = role
        return str(path)

    async def end_recordings(self, *, keep: bool) -> None:
        """Let the proxy write what it has recorded, or leave it out; it may have ended."""
        if self.recordings and self._connection is not None:
            try:
                async with asyncio.timeout(_WRITE):
                    await self.call("recordings", "", keep=keep)
            except TimeoutError:
                logger.warning("the network proxy did not write its recordings within %g s", _WRITE)
            except LabError as error:
                logger.info("the recordings are as they are: %s", error)

    async def call(self, do: str, role: str, **arguments: Any) -> dict[str, Any]:
        """Ask the proxy for something and return its answer.

        :raises LabError: it cannot, or has ended.
        """
        async with self._connecting:
            if self._connection is None:
                await self._connect()
        number = next(self._numbers)
        done = self._calls[number] = asyncio.get_running_loop().create_future()
        if self._listening is None or self._listening.done():
            raise LabError(PROXY_ENDED)
        self._send({"do": do, "call": number, "role": role, **arguments})
        try:
            answer: dict[str, Any] = await done
        finally:
            self._calls.pop(number, None)
        if (error := answer.get("error")) is not None:
            raise LabError(str(error))
        return answer

    def add_rule(self, id: int, decide: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        """Have a rule decided by a function."""
        self._rules[id] = decide

    def remove_rule(self, id: int) -> None:
        """Forget a rule: what still matches it passes."""
        self._rules.pop(id, None)

    async def _connect(self) -> None:
        socket = await self._socket()
        try:
            self._connection = await asyncio.open_unix_connection(socket, limit=MESSAGE_LIMIT)
        except OSError as error:
            raise LabError(f"{PROXY_ENDED}: {error}") from None
        self._listening = asyncio.create_task(self._listen(), name="network")

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._connection is not None
        self._connection[1].write(encoder.dumps(message).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._connection is not None
        with contextlib.suppress(ConnectionError):
            while line := await self._connection[0].readline():
                message = encoder.loads(line)
                if "ask" in message:
                    task = asyncio.create_task(self._decide(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif (call := self._calls.get(message["call"])) is not None and not call.done():
                    call.set_result(message)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(LabError(PROXY_ENDED))

    async def _decide(self, message: dict[str, Any]) -> None:
        decide = self._rules.get(message["rule"])
        decision = await decide(message) if decide is not None else decision_of("passed")
        self._send({"do": "decide", "call": 0, "role": "", "number": message["ask"], **decision})

    async def close(self) -> None:
        """Close the connection: with it, all rules end. Idempotent."""
        tasks = [*self._tasks, *([self._listening] if self._listening is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._connection is not None:
            self._connection[1].close()
