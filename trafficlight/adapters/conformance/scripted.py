"""A coordinator that does what a script says, and writes down what adapters do."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar
from uuid import uuid4

from aiohttp import BodyPartReader, web

from trafficlight.protocol import EXIT, IDLE, ActionMessage, JsonObject, Registered
from trafficlight.version import VERSION

T = TypeVar("T")


@dataclass(slots=True)
class Poll:
    """One poll: when it came, how it ended.

    :param began: monotonic seconds.
    :param wait: the `wait` parameter, as it was sent.
    :param ended: monotonic seconds; None while it is held.
    :param dropped: whether the adapter hung up before it was answered.
    :param answer: what it was answered.
    """

    began: float
    wait: str | None
    ended: float | None = None
    dropped: bool = False
    answer: ActionMessage | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An adapter's answer to an action.

    :param kind: the endpoint that it came to.
    :param body: the JSON value, or None where it was none.
    :param at: monotonic seconds.
    :param status: how it was answered.
    :param action: the id in the query, if the body has an `id` of its own.
    """

    kind: Literal["respond", "error"]
    body: Any
    at: float
    status: int
    action: str | None = None

    @property
    def id(self) -> str | None:
        """The id of the action that it answers."""
        return self.action or (self.body.get("id") if isinstance(self.body, dict) else None)

    @property
    def failed(self) -> bool:
        """Whether it says that the action failed: an error report, or a response named `error`."""
        return self.kind == "error" or (isinstance(self.body, dict) and self.body.get("response") == "error")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that an adapter sent.

    :param part: the name of its form field.
    :param name: its file name.
    :param content: what is in it.
    """

    part: str | None
    name: str | None
    content: bytes


@dataclass(slots=True, eq=False)
class ScriptedAdapter:
    """One registration, with everything that was heard of it.

    :param uuid: the id it registered under.
    :param body: the registration, as it was sent; None where it was no JSON.
    :param content_type: the registration's media type.
    :param authorization: the registration's `Authorization` header.
    """

    uuid: str
    body: Any
    content_type: str
    authorization: str | None
    coordinator: "ScriptedCoordinator"
    polls: list[Poll] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    message: ActionMessage | None = None
    delivered: bool = False

    async def say(self, message: ActionMessage) -> None:
        """Make something the answer to the polls from now on."""
        self.message, self.delivered = message, False
        await self.coordinator.notify()

    async def act(
        self, action: str, data: JsonObject | None = None, *, id: str | None = None, timeout: float = 10.0
    ) -> Reply | None:
        """Ask for an action and return the answer, or None where none came in time.

        :param action: its name.
        :param data: its parameters.
        :param id: its id; by default a new one.
        :param timeout: seconds to wait for the answer.
        """
        seen = len(self.replies)
        await self.say(ActionMessage(action=action, data=data or {}, id=id or uuid4().hex))
        return await self.coordinator.until(lambda: next(iter(self.replies[seen:]), None), timeout)

    async def exit(self, reason: str = "the script requests it") -> None:
        """Answer this and every later poll with `exit`."""
        await self.say(ActionMessage(action=EXIT, data={"reason": reason}))


class ScriptedCoordinator:
    """A coordinator on a free loopback port, to be driven from a test. An async context manager.

    :param hold: seconds that a poll is held when there is nothing to do.
    :param delay: milliseconds that an `idle` asks for.
    :param token: the shared registration token that is required.
    :param own_token: the token that a registration is given.
    """

    def __init__(
        self,
        *,
        hold: float = 20.0,
        delay: int = 0,
        token: str | None = None,
        own_token: str | None = None,
    ) -> None:
        self.hold = hold
        self.delay = delay
        self.adapters: list[ScriptedAdapter] = []
        self.refusals: list[tuple[str, int]] = []
        """Endpoint and status of the next answers that will be refusals."""
        self.deadlines: dict[str, float] = {"alive": 60.0, "action": 60.0}
        self._token = token
        self._own_token = own_token
        self._known: dict[str, ScriptedAdapter] = {}
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Its base URL; the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to answer, knowing no adapter; again after :meth:`stop`, on the same port."""
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/client/{uuid}/register", self._register)
        app.router.add_get("/client/{uuid}/poll", self._poll)
        app.router.add_post("/client/{uuid}/respond", self._respond)
        app.router.add_post("/client/{uuid}/error", self._error)
        app.router.add_post("/client/{uuid}/upload", self._upload)
        # A poll whose adapter hung up must not stay.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Go away without a word, and forget every adapter. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        self._known.clear()

    async def notify(self) -> None:
        """Wake all waiters."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, see: Callable[[], T | None], timeout: float) -> T | None:
        """Wait until something is to be seen and return it, or None where it is not there in time.

        :param see: returns what is waited for, or None or False while it is not there.
        :param timeout: seconds.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                while not (found := see()):
                    await self._changed.wait()
                return found
        return None

    async def registered(self, number: int = 1, timeout: float = 10.0) -> ScriptedAdapter:
        """Wait for the registration of that number, counted from 1, and return it.

        :raises TimeoutError: it did not come.
        """
        adapter = await self.until(lambda: next(iter(self.adapters[number - 1 :]), None), timeout)
        if adapter is None:
            raise TimeoutError(f"registration {number} did not come within {timeout:g} s")
        return adapter

    async def _register(self, request: web.Request) -> web.Response:
        uuid = request.match_info["uuid"]
        if (refusal := self._refusal("register")) is not None:
            return refusal
        authorization = request.headers.get("Authorization")
        if self._token is not None and authorization != f"Bearer {self._token}":
            return _refused(401, "no token, or a wrong one")
        adapter = ScriptedAdapter(uuid, await _json(request), request.content_type, authorization, self)
        self._known[uuid] = adapter
        self.adapters.append(adapter)
        await self.notify()
        answered = Registered(
            uuid=uuid,
            coordinator=VERSION,
            poll_hold=self.hold,
            deadlines=self.deadlines,
            token=self._own_token,
        )
        return web.json_response(answered.model_dump(exclude_none=True))

    async def _poll(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal("poll")) is not None:
            return refusal
        adapter = self._adapter(request)
        if adapter is None:
            return _refused(404, "unknown adapter")
        poll = Poll(time.monotonic(), request.query.get("wait"))
        busy = "busy" in request.query  # it performs an action, and asks for what ends that
        if not busy:
            adapter.polls.append(poll)
        await self.notify()
        hold = self.hold
        if poll.wait is not None:
            with suppress(ValueError):
                hold = min(hold, float(poll.wait))
        before = adapter.message if adapter.delivered else None
        if before is not None and not busy:
            hold = min(hold, 1.0)  # a repeat: a program that does not know the action must not spin
        try:
            await self.until(lambda: adapter.message is not None and adapter.message is not before, hold)
        except asyncio.CancelledError:
            poll.dropped = True
            raise
        finally:
            poll.ended = time.monotonic()
        if busy and (adapter.message is None or adapter.message.action != "kill"):
            return web.json_response({"action": IDLE, "data": {"delay": self.delay}})
        poll.answer = adapter.message or ActionMessage(action=IDLE, data={"delay": self.delay})
        adapter.delivered = adapter.message is not None
        await self.notify()
        return web.json_response(poll.answer.model_dump(exclude_none=True))

    async def _respond(self, request: web.Request) -> web.Response:
        return await self._reply(request, "respond")

    async def _error(self, request: web.Request) -> web.Response:
        return await self._reply(request, "error")

    async def _reply(self, request: web.Request, kind: Literal["respond", "error"]) -> web.Response:
        adapter = self._adapter(request)
        if adapter is None:
            return _refused(404, "unknown adapter")
        answer = self._refusal(kind) or web.json_response({})
        body = await _json(request)
        reply = Reply(kind, body, time.monotonic(), answer.status, request.query.get("action"))
        outstanding = adapter.message if adapter.delivered else None
        if outstanding is not None and outstanding.action != EXIT and reply.id in (None, outstanding.id):
            adapter.message, adapter.delivered = None, False
        if kind == "error" and answer.status == 200:
            adapter.message = ActionMessage(action=EXIT, data={"reason": "it reported an error"})
        adapter.replies.append(reply)
        await self.notify()
        return answer

    async def _upload(self, request: web.Request) -> web.Response:
        adapter = self._adapter(request)
        if adapter is None:
            return _refused(404, "unknown adapter")
        if (refusal := self._refusal("upload")) is not None:
            return refusal
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader):
                adapter.uploads.append(Upload(part.name, part.filename, bytes(await part.read())))
        await self.notify()
        return web.json_response({})

    def _adapter(self, request: web.Request) -> ScriptedAdapter | None:
        adapter = self._known.get(request.match_info["uuid"])
        if adapter is not None:
            adapter.authorizations.append(request.headers.get("Authorization"))
        return adapter

    def _refusal(self, endpoint: str) -> web.Response | None:
        for number, (refused, status) in enumerate(self.refusals):
            if refused == endpoint:
                del self.refusals[number]
                return _refused(status, "the script requests it")
        return None


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"code": f"E{status}", "message": message}}, status=status)


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError:
        return None
