"""The five endpoints as one registration calls them: retries, tokens, and what each status means."""

import asyncio
import json
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from pydantic import ValidationError

from trafficlight.adapters.sdk.adapter import (
    CoordinatorUnreachableError,
    RegistrationLostError,
    RegistrationRefusedError,
)
from trafficlight.protocol import ActionMessage, ErrorBody, ErrorReport, JsonObject, Registered, Registration
from trafficlight.text import first_problem

logger = logging.getLogger(__name__)

FEW_ATTEMPTS = 6
"""How many times the last requests of a registration are tried."""

# Seconds that the answer to a response is held at most: a connection that is lost without a sign is noticed
# that much later.
_LONGEST_NEXT = 5.0
_TROUBLE = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
_TRY_AGAIN = frozenset({408, 425, 429})
_GONE = frozenset({401, 404, 410})
# Seconds that an upload may take, and the bytes of it per second that extend a usual request.
_LONGEST_UPLOAD, _SLOWEST_UPLOAD = 3600.0, 64 << 10
# What the head of a part cannot contain: a client may name its files after what it displays.
_NOT_IN_HEADERS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with jitter, so that many adapters do not retry at the same time.

    :param first: the most seconds before the first retry.
    :param longest: the most seconds before any retry.
    """

    first: float = 0.1
    longest: float = 3.0

    def delays(self) -> Iterator[float]:
        """Yield the seconds to wait before each retry, without end."""
        ceiling = self.first
        while True:
            yield random.uniform(ceiling / 2, ceiling)  # noqa: S311 - jitter, not a secret
            ceiling = min(self.longest, ceiling * 2)


@dataclass(frozen=True, slots=True)
class Options:
    """How an adapter behaves towards its coordinator.

    :param wait: seconds that a poll asks to be held; None leaves it to the coordinator.
    :param request_timeout: seconds that any other request may take, without the time that it is held.
    :param patience: seconds to go on trying a coordinator that does not answer; None is for ever.
    :param backoff: the delays between tries.
    """

    wait: float | None = 20.0
    request_timeout: float = 30.0
    patience: float | None = None
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes

    @property
    def reason(self) -> str:
        """What a refusal says, in one line."""
        try:
            return str(json.loads(self.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return self.body[:200].decode(errors="replace").strip() or "(no body)"


class Coordinator:
    """One registration's line to the coordinator.

    :param http: the session that requests go through; owned by the caller.
    :param url: the coordinator's base URL.
    :param uuid: the id to register under.
    :param options: how long to wait and how often to try.
    :param token: the shared registration token; replaced by the adapter's own once registered.
    :ivar closing: limits the adapter's `close`; stands still during uploads, which have limits of their own.
    """

    def __init__(
        self, http: aiohttp.ClientSession, url: str, uuid: str, options: Options, *, token: str | None = None
    ) -> None:
        self.uuid = uuid
        self._http = http
        self._url = url.rstrip("/")
        self._options = options
        self._token = token
        self._wait = options.wait
        self._deadlines: Mapping[str, float] = {}
        self.closing: asyncio.Timeout | None = None

    @property
    def action_deadline(self) -> float | None:
        """Seconds that the coordinator gives an action; None where it does not say."""
        return self._deadlines.get("action")

    @cached_property
    def storage(self) -> Path:
        """See :class:`Context`; created at its first use."""
        return Path(mkdtemp(prefix="trafficlight-adapter-"))

    def remove_storage(self) -> None:
        """Delete the storage. May block."""
        if "storage" in vars(self):
            shutil.rmtree(self.storage, ignore_errors=True)

    async def register(self, registration: Registration) -> None:
        """Register, however long the coordinator takes to come up.

        :raises RegistrationRefusedError: it does not want this adapter.
        :raises CoordinatorUnreachableError: it did not answer for too long.
        """
        answer = await self._request("POST", "register", body=registration.model_dump(exclude_none=True))
        if not 200 <= answer.status < 300:
            raise RegistrationRefusedError(answer.status, answer.reason)
        try:
            answered = Registered.model_validate_json(answer.body)
        except ValidationError:  # an older coordinator answers something else, and nothing in it is needed
            return
        self._token = answered.token or self._token
        self._deadlines = answered.deadlines

    async def poll(self, *, busy: bool = False) -> ActionMessage:
        """Ask what to do, and return when there is something or the poll was held long enough.

        :param busy: whether an action is performed, so that only what ends it is of interest.
        :raises RegistrationLostError: the coordinator does not know this uuid, or answers what is no action.
        """
        query = {} if self._wait is None else {"wait": f"{self._wait:g}"}
        answer = await self._request(
            "GET",
            "poll",
            query={**query, "busy": "1"} if busy else query,
            # The margin is for one that holds longer than asked; without a wait, any usual hold fits.
            timeout=90.0 if self._wait is None else self._wait + self._options.request_timeout,
            again=lambda status: status == 409,
        )
        if answer.status != 200:
            raise RegistrationLostError(f"poll answered {answer.status} {answer.reason}")
        try:
            # Not pydantic's parser: it refuses a lone surrogate, which the data of an action may contain.
            return ActionMessage.model_validate(json.loads(answer.body))
        except ValidationError as error:
            raise RegistrationLostError(f"poll answered no action: {first_problem(error)[1]}") from None
        except (ValueError, RecursionError) as error:
            raise RegistrationLostError(f"poll answered no action: {error}") from None

    async def respond(
        self,
        action_id: str | None,
        response: JsonObject,
        *,
        poll: bool = False,
        attempts: int | None = None,
    ) -> ActionMessage | None:
        """Answer the outstanding action. A late or repeated answer with an id harms nothing.

        :param poll: whether to ask what to do next as well; ignored without an id.
        :param attempts: how often to try; None is for ever. Without an id it is tried once.
        :return: what to do next; None if a poll has to ask for it.
        :raises RegistrationLostError: the coordinator does not know this uuid.
        :raises CoordinatorUnreachableError: it did not answer.
        """
        body, query, timeout = response, dict[str, str](), None
        if action_id is not None and "id" in response:
            query["action"] = action_id
        elif action_id is not None:
            body = {**response, "id": action_id}
        if poll and action_id is not None:
            hold = _LONGEST_NEXT if self._wait is None else min(self._wait, _LONGEST_NEXT)
            query["next"], timeout = f"{hold:g}", self._options.request_timeout + hold
        if action_id is None:
            attempts = 1  # a repeated answer might be taken for the next action's
        answer = await self._request(
            "POST", "respond", query=query, body=body, attempts=attempts, timeout=timeout
        )
        if answer.status in _GONE:
            raise RegistrationLostError(f"respond answered {answer.status} {answer.reason}")
        if answer.status >= 300:
            logger.warning("respond to action %s was refused: %d %s", action_id, answer.status, answer.reason)
        elif "next" in query:
            # Older coordinators send no `next`.
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                return ActionMessage.model_validate(json.loads(answer.body)["next"])
        return None

    async def report(self, error: ErrorBody) -> None:
        """Report an error, trying a few times; a refusal is only logged."""
        body = ErrorReport(error=error).model_dump()
        try:
            answer = await self._request("POST", "error", body=body, attempts=FEW_ATTEMPTS)
        except CoordinatorUnreachableError as trouble:
            logger.warning("the error report did not get through: %s", trouble)
            return
        if answer.status >= 300:
            logger.warning("the error report was refused: %d %s", answer.status, answer.reason)

    async def upload(self, path: Path, name: str | None = None) -> str:
        """Send a file, streaming from the disk, trying a few times; see :class:`Context`."""
        name = _NOT_IN_HEADERS.sub("_", name or path.name)
        with self._no_haste():
            try:
                problem = await self._send(path, name)
            except OSError as error:
                await self._note_lost(name, str(error))
                raise
            if problem:
                await self._note_lost(name, problem)
        return name

    async def _send(self, content: Path | bytes, name: str, attempts: int = 4) -> str:
        """Upload a file; return why that failed, or nothing.

        :raises OSError: it cannot be read.
        """
        size = len(content) if isinstance(content, bytes) else (await asyncio.to_thread(content.stat)).st_size
        limit = min(_LONGEST_UPLOAD, self._options.request_timeout + size / _SLOWEST_UPLOAD)
        try:
            answer = await self._request(
                "POST", "upload", file=(content, name), attempts=attempts, timeout=limit
            )
        except CoordinatorUnreachableError as error:
            return str(error)
        return "" if answer.status < 300 else f"{answer.status} {answer.reason}"

    async def _note_lost(self, name: str, problem: str) -> None:
        """Say in the case's results which file they lack, and why."""
        logger.warning("%s was not uploaded: %s", name, problem)
        note = f"{name} was not uploaded: {problem}\n".encode(errors="replace")
        await self._send(note, f"{name}.not-uploaded.txt", attempts=1)

    @contextmanager
    def _no_haste(self) -> Iterator[None]:
        limit, now = self.closing, asyncio.get_running_loop().time
        if limit is None or (due := limit.when()) is None:
            yield
            return
        left = due - now()
        limit.reschedule(None)
        try:
            yield
        finally:
            limit.reschedule(now() + left)

    async def _request(
        self,
        method: str,
        endpoint: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        file: tuple[Path | bytes, str] | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
        again: Callable[[int], bool] = lambda _: False,
    ) -> _Answer:
        url = f"{self._url}/client/{quote(self.uuid)}/{endpoint}"
        if query:
            url += f"?{urlencode(query)}"
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        started = time.monotonic()
        for attempt, delay in enumerate(self._options.backoff.delays(), start=1):
            try:
                async with AsyncExitStack() as stack:
                    payload: dict[str, Any] = {} if body is None else {"json": body}
                    if file is not None:
                        payload["data"] = await self._form(stack, *file)
                    limit = aiohttp.ClientTimeout(total=timeout or self._options.request_timeout)
                    reply = await stack.enter_async_context(
                        self._http.request(method, url, headers=headers, timeout=limit, **payload)
                    )
                    answer = _Answer(reply.status, await reply.read())
                if answer.status < 500 and answer.status not in _TRY_AGAIN and not again(answer.status):
                    return answer
                trouble = f"{answer.status} {answer.reason}"
            except _TROUBLE as error:
                trouble = str(error) or type(error).__name__
            patience, waited = self._options.patience, time.monotonic() - started
            if (attempts is not None and attempt >= attempts) or (patience is not None and waited > patience):
                raise CoordinatorUnreachableError(self._url, waited, trouble)
            if attempts is None and attempt & (attempt - 1) == 0:  # at growing intervals
                logger.warning("waiting for %s: %s", self._url, trouble)
            logger.info("%s %s: %s; again in %.1f s", method, endpoint, trouble, delay)
            await asyncio.sleep(delay)
        raise AssertionError("the delays never end")

    async def _form(self, stack: AsyncExitStack, content: Path | bytes, name: str) -> aiohttp.FormData:
        form = aiohttp.FormData(quote_fields=False)
        field: Any = content
        if isinstance(content, Path):
            # By its descriptor: a header cannot contain each file's name, which aiohttp puts into one.
            descriptor = await asyncio.to_thread(os.open, content, os.O_RDONLY | os.O_CLOEXEC)
            field = stack.enter_context(os.fdopen(descriptor, "rb"))
        form.add_field("file", field, filename=name, content_type="application/octet-stream")
        return form
