"""Check that actions are true: on a real homeserver, with the built-in client as the other user."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from trafficlight.adapters.conformance.results import Homeserver, Level, Results
from trafficlight.adapters.conformance.scripted import ScriptedAdapter
from trafficlight.adapters.nio.adapter import NioAdapter
from trafficlight.adapters.sdk import ActionFailed, JsonObject

# Seconds that an action on the homeserver has.
_PATIENCE = 60.0
_NEVER_SENT = "this was never sent"


class _EndedError(Exception):
    """The adapter has reported an error, or what follows would be wrong for the same reason."""


@dataclass(frozen=True)
class _Context:
    """What the built-in client needs of a registration."""

    storage: Path
    uuid: str = "check"
    action_deadline: float | None = _PATIENCE

    async def upload(self, path: object, name: str | None = None) -> str:
        """Refuse: it uploads nothing."""
        raise RuntimeError(f"the built-in client does not upload {path}")


class Truth:
    """One conversation between the adapter's client and the built-in one.

    :param homeserver: where both register.
    """

    def __init__(self, adapter: ScriptedAdapter, homeserver: Homeserver, results: Results) -> None:
        self._adapter = adapter
        self._homeserver = homeserver
        self._results = results
        self._alice, self._bob = (f"{name}-{secrets.token_hex(4)}" for name in ("alice", "bob"))
        self._other = NioAdapter()

    async def examine(self) -> bool:
        """Ask for each action that the conversation needs, and see whether the other user agrees.

        :return: whether the adapter is still registered.
        """
        folder = await asyncio.to_thread(TemporaryDirectory, prefix="trafficlight-check-")
        self._other.context = _Context(Path(folder.name))
        try:
            await self._other.perform("register", self._account(self._bob))
            await self._talk()
        except _EndedError:
            return not any(reply.kind == "error" for reply in self._adapter.replies)
        finally:
            await self._other.close()
            await asyncio.to_thread(folder.cleanup)
        return True

    async def _talk(self) -> None:
        room, first, second = (f"{what} {secrets.token_hex(4)}" for what in ("room", "hello", "answer"))
        other = self._other.perform
        await self._true("register", self._account(self._alice), lambda _: self._is_registered())
        await self._true("create_room", {"name": room})
        await self._true(
            "invite_user",
            {"userId": f"@{self._bob}:{self._homeserver.name}"},
            lambda _: other("accept_invite", {}),
        )
        await self._agrees("create_room", other("open_room", {"name": room}))
        await self._true(
            "send_message",
            {"message": first},
            lambda _: other("verify_message_in_timeline", {"message": first}),
        )
        await self._agrees("send_message", other("send_message", {"message": second}))
        await self._true("verify_message_in_timeline", {"message": second})
        await self._true("get_timeline", {}, lambda response: _shows(response, [first, second]))
        await self._false("verify_message_in_timeline", {"message": _NEVER_SENT})

    def _account(self, username: str) -> JsonObject:
        url = {"local": self._homeserver.cs_api, "local_docker": self._homeserver.cs_api}
        return {"username": username, "password": "correct horse battery staple", "homeserver_url": url}

    async def _is_registered(self) -> None:
        url = f"{self._homeserver.cs_api}/_matrix/client/v3/register/available"
        async with (
            aiohttp.ClientSession() as http,
            http.get(url, params={"username": self._alice}) as answer,
        ):
            if answer.status == 200:
                raise ActionFailed(f"the homeserver knows no user {self._alice}")

    async def _true(
        self,
        action: str,
        data: JsonObject,
        proof: Callable[[JsonObject], Awaitable[object]] | None = None,
    ) -> None:
        reply = await self._adapter.act(action, data, timeout=_PATIENCE)
        if reply is None:
            self._add(action, Level.WRONG, f"no answer within {_PATIENCE:g} s")
            raise _EndedError
        if reply.failed or not isinstance(reply.body, dict):
            body = reply.body if isinstance(reply.body, dict) else {}
            error = body.get("error", body)
            unsupported = error.get("type") == "unsupported"
            details = str(error.get("details", reply.body)).partition("\n")[0]
            self._add(
                action, Level.NOTE if unsupported else Level.WRONG, f"was answered by an error: {details}"
            )
            raise _EndedError
        if proof is not None:
            await self._agrees(action, proof(reply.body))
        self._add(action, Level.OK, "is true on the homeserver")

    async def _agrees(self, action: str, proof: Awaitable[object]) -> None:
        try:
            await proof
        except ActionFailed as error:
            self._add(action, Level.WRONG, f"was answered as done, but the other user sees: {error}")
            raise _EndedError from None

    async def _false(self, action: str, data: JsonObject) -> None:
        reply = await self._adapter.act(action, data, timeout=_PATIENCE)
        name = f"{action}-fails"
        if reply is None:
            self._add(
                name, Level.WRONG, f"no answer within {_PATIENCE:g} s; the client's own wait must be shorter"
            )
        elif not reply.failed:
            self._add(name, Level.WRONG, "was answered as done for a message that was never sent")
            return
        elif reply.kind == "error" and (kind := (reply.body or {}).get("error", {}).get("type")) != "action":
            self._add(
                name, Level.WRONG, f"a message that never comes was reported as {kind!r}, not as 'action'"
            )
        else:
            self._add(name, Level.OK, "fails for a message that was never sent")
        raise _EndedError

    def _add(self, action: str, level: Level, text: str) -> None:
        self._results.add(f"true-{action.replace('_', '-')}", level, text)


async def _shows(response: JsonObject, messages: list[str]) -> None:
    timeline = response.get("timeline")
    shown = [entry.get("message") for entry in timeline] if isinstance(timeline, list) else timeline
    if not isinstance(shown, list) or [text for text in shown if text in messages] != messages:
        raise ActionFailed(f"expected {messages} in this order, the timeline is {shown}")
