"""What a test can do to the network between a client and its homeserver: ``client.network``."""

import asyncio
import base64
import contextlib
import inspect
import json as encoder
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from typing import Any, Literal, TypeAlias, TypedDict, Unpack
from urllib.parse import urlsplit

from trafficlight.errors import ActionError, LabError, Skipped
from trafficlight.network.connection import CaseNetwork, decision_of
from trafficlight.network.rules import Matcher
from trafficlight.text import count

logger = logging.getLogger(__name__)

_STATUSES, _NO_STATUS = range(200, 600), "an answer has a status from 200 to 599"


class Exchange:
    """A request that matched a rule, and its answer.

    A callback may change `method`, `target`, `headers` and `body` of the request before it is sent, and
    `status`, `headers` and `body` of the answer before the client gets it.

    :ivar stage: ``request``: the homeserver has not seen it; ``response``: it has answered.
    :ivar method: the method.
    :ivar target: the path with the query.
    :ivar status: the status of the answer; None at the stage ``request``.
    :ivar headers: names and values of the message at this stage.
    :ivar body: its content, without content encoding.
    """

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.stage: Literal["request", "response"] = message["stage"]
        self.method: str = message["method"]
        self.target: str = message["target"]
        self.status: int | None = message["status"]
        self.headers: list[tuple[str, str]] = [(name, value) for name, value in message["headers"]]
        self.body: bytes = base64.b64decode(message["body"])
        self._answer: dict[str, Any] | None = None
        self._original = self._state()

    def __repr__(self) -> str:
        answer = f" -> {self.status}" if self.status is not None else ""
        return f"<Exchange {self.method} {self.path}{answer}>"

    @property
    def path(self) -> str:
        """The path, without the query."""
        return urlsplit(self.target).path

    @property
    def json(self) -> Any:
        """The body as JSON.

        :raises ValueError: it is not JSON.
        """
        try:
            return encoder.loads(self.body)
        except ValueError:
            raise ValueError(f"the body of {self!r} is not JSON: {self.body[:100]!r}") from None

    @json.setter
    def json(self, value: Any) -> None:
        self.body = encoder.dumps(value).encode()

    def answer(
        self, status: int = 200, json: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer in place of the homeserver, which sees nothing of a request at the stage ``request``.

        :param json: the body; by default an error of Matrix for a status from 400, else ``{}``.
        :raises ValueError: there is no such status.
        """
        if status not in _STATUSES:
            raise ValueError(f"{status!r}: {_NO_STATUS}")
        if json is None:
            json = {"errcode": "M_UNKNOWN", "error": "answered by a test"} if status >= 400 else {}
        content = {"Content-Type": "application/json", **(headers or {})}
        self._answer = decision_of("answered", status, list(content.items()), encoder.dumps(json).encode())

    def drop(self) -> None:
        """Cut the connection: the client gets no answer."""
        self._answer = decision_of("dropped")

    def _state(self) -> tuple[Any, ...]:
        return self.method, self.target, self.status, list(self.headers), self.body

    def decision(self) -> dict[str, Any]:
        """Return what the proxy does with it."""
        if self._answer is not None:
            return self._answer
        if self._state() == self._original:
            return decision_of("passed")
        # The body has no content encoding any more.
        headers = [one for one in self.headers if one[0].lower() != "content-encoding"]
        changed = decision_of("changed", self.status or 0, headers, self.body)
        return changed | {"method": self.method, "target": self.target}


Callback: TypeAlias = Callable[[Exchange], Awaitable[object] | object]
"""A function of a test that looks at an exchange, changes, answers or drops it."""


class Options(TypedDict, total=False):
    """Which of the requests to a path a rule is for.

    :ivar query: parameters that the request has; ``*`` stands for any characters.
    :ivar body: what its body, as JSON, contains.
    :ivar times: how many matches the rule is for, at most.
    :ivar nth: the only match that it is for, from 1.
    """

    query: Mapping[str, str]
    body: Mapping[str, Any]
    times: int
    nth: int


class Held:
    """An exchange that waits until the test lets it go.

    :ivar exchange: what was asked, or answered.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        """Let it go on. Idempotent; also done at the end of the rule."""
        if not self._over.done():
            self._over.set_result(None)

    def answer(self, status: int = 200, json: Any = None) -> None:
        """Answer in place of the homeserver, see :meth:`Exchange.answer`."""
        self.exchange.answer(status, json)
        self.release()

    def drop(self) -> None:
        """Cut the connection: the client gets no answer."""
        self.exchange.drop()
        self.release()

    async def _wait(self) -> None:
        await self._over


class Rule:
    """A rule in effect.

    :ivar exchanges: what has matched so far, at the stage that the rule is for.
    """

    def __init__(self, role: str, name: str) -> None:
        self.role, self.name = role, name
        self.exchanges: list[Exchange] = []
        self._held: list[Held] = []
        self._arrived = asyncio.Condition()
        self._given = 0

    def __repr__(self) -> str:
        return f"<Rule {self.name}: {len(self.exchanges)} exchanges>"

    async def _add(self, exchange: Exchange, held: Held | None = None) -> None:
        async with self._arrived:
            self.exchanges.append(exchange)
            if held is not None:
                self._held.append(held)
            self._arrived.notify_all()

    async def wait(self, matches: int = 1, *, timeout: float = 30) -> Exchange:
        """Wait until this many exchanges have matched, and return the last of them.

        :param timeout: seconds.
        :raises ActionError: fewer have.
        """
        await self._until(lambda: len(self.exchanges) >= matches, timeout)
        return self.exchanges[matches - 1]

    async def next(self, *, timeout: float = 30) -> Held:
        """Return the next exchange that a ``hold`` holds.

        :param timeout: seconds.
        :raises ActionError: none has come.
        """
        await self._until(lambda: len(self._held) > self._given, timeout)
        self._given += 1
        return self._held[self._given - 1]

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(condition)
        except TimeoutError:
            found = f"only {count(len(self.exchanges), 'request')}" if self.exchanges else "no request"
            message = f"{found} matched within {seconds:g} s"
            raise ActionError(message, role=self.role, action=self.name) from None

    def _release(self) -> None:
        for held in self._held:
            held.release()


class Line:
    """The line from a client or a homeserver to one homeserver, or all, as a test sees and changes it.

    Requests are named by their path, with the method before it where that matters: ``"/keys/query"``,
    ``"PUT", "/sendToDevice"``. A path matches where it is found, whole parts only; ``*`` stands for any
    characters of one part, and a compiled regular expression is searched in the path. OPTIONS, which
    browsers send ahead of requests, matches only where it is the method.

    Every rule takes `query` (parameters that the request has), `body` (what its JSON contains), `times` (how
    many matches it is for, at most) and `nth` (the one match that it is for, from 1). It ends with its block.
    If several match, they apply in the order in which they began, until one of them answers or drops.

    :param role: the role of the client or the homeserver that asks.
    :param name: the name of the line, for the proxy.
    :param case: the network of its case; None outside of a running case.
    :param where: what precedes the names of its rules in events and errors.
    """

    def __init__(self, role: str, name: str, case: CaseNetwork | None, where: str = "") -> None:
        self._role, self._name, self._in_case, self._where = role, name, case, where
        self._active: list[tuple[Matcher, str, int, int | None]] = []

    @property
    def _case(self) -> CaseNetwork:
        if self._in_case is None:
            raise RuntimeError(f"{self._role} is not part of a running case")
        return self._in_case

    def _ensure_proxied(self) -> None:
        """Check that requests pass the proxy."""

    @asynccontextmanager
    async def intercept(
        self,
        *request: str | re.Pattern[str],
        on_request: Callback | None = None,
        on_response: Callback | None = None,
        timeout: float | None = 10,
        **options: Unpack[Options],
    ) -> AsyncIterator[Rule]:
        """Call a function with every request that matches, or with its answer.

        What a function raises ends the block at once; the request was dropped.

        :param on_request: gets it before the homeserver does.
        :param on_response: gets it before the client does.
        :param timeout: seconds that a call may take; None for no limit.
        :raises ValueError: the rule can never match.
        :raises TimeoutError: a call has taken longer; the request was dropped.
        :raises RuntimeError: another rule for the same requests is in effect, or the client was given the
            homeserver's own address.
        """
        rule = Rule(self._role, f"intercept {_name(request)}")
        callbacks = {"request": on_request, "response": on_response}

        async def decide(exchange: Exchange) -> None:
            callback = callbacks[exchange.stage]
            assert callback is not None
            await rule._add(exchange)
            late = f"{rule.name}: the function was not done with {exchange!r} in time"
            try:
                async with asyncio.timeout(timeout) as limit:
                    result = callback(exchange)
                    if inspect.isawaitable(result):
                        await result
                    # One that blocks the loop is not cancelled.
                    if (end := limit.when()) is not None and asyncio.get_running_loop().time() > end:
                        raise TimeoutError(late)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise TimeoutError(late) from error

        async with self._rule(
            rule, request, decide, on_request is not None, on_response is not None, options
        ):
            yield rule

    @asynccontextmanager
    async def block(
        self, *request: str | re.Pattern[str], status: int = 503, json: Any = None, **options: Unpack[Options]
    ) -> AsyncIterator[Rule]:
        """Answer every request that matches, in place of the homeserver.

        :param status: the status.
        :param json: the body; by default an error.
        :raises ValueError: the rule can never match.
        :raises RuntimeError: as for :meth:`intercept`.
        """
        rule = Rule(self._role, f"block {_name(request)} with {status}")
        if status not in _STATUSES:
            raise ValueError(f"{rule.name}: {_NO_STATUS}")

        async def decide(exchange: Exchange) -> None:
            exchange.answer(status, json)
            await rule._add(exchange)

        async with self._rule(rule, request, decide, True, False, options):
            yield rule

    @asynccontextmanager
    async def delay(
        self,
        *request: str | re.Pattern[str],
        seconds: float,
        on: Literal["request", "response"] = "request",
        **options: Unpack[Options],
    ) -> AsyncIterator[Rule]:
        """Delay every request that matches, or its answer.

        :param seconds: for how long, at most until the end of the rule.
        :param on: whether the request is late at the homeserver, or the answer at the client.
        :raises ValueError: the rule can never match, or the seconds are no time.
        :raises RuntimeError: as for :meth:`intercept`.
        """
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds={seconds!r} is not a time to wait")
        rule = Rule(self._role, f"delay {_name(request)} by {seconds:g} s")

        async def decide(exchange: Exchange) -> None:
            held = Held(exchange)
            await rule._add(exchange, held)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(held._wait(), seconds)

        async with self._rule(rule, request, decide, on == "request", on == "response", options):
            yield rule

    @asynccontextmanager
    async def hold(
        self,
        *request: str | re.Pattern[str],
        on: Literal["request", "response"] = "request",
        **options: Unpack[Options],
    ) -> AsyncIterator[Rule]:
        """Hold every request that matches, or its answer, until the test lets it go: see :meth:`Rule.next`.

        At the end of the rule all that are still held go on.

        :param on: whether the request waits, or the answer, after the homeserver has done what was asked.
        :raises ValueError: the rule can never match.
        :raises RuntimeError: as for :meth:`intercept`.
        """
        rule = Rule(self._role, f"hold {_name(request)}" + (" (answer)" if on == "response" else ""))

        async def decide(exchange: Exchange) -> None:
            held = Held(exchange)
            await rule._add(exchange, held)
            await held._wait()

        async with self._rule(rule, request, decide, on == "request", on == "response", options):
            yield rule

    @asynccontextmanager
    async def cut(self, name: str) -> AsyncIterator[None]:
        """Cut the line: open requests break, and new ones fail, until the end of the block.

        :param name: what it is called in events.
        """
        self._ensure_proxied()
        await self._case.call("offline", self._name, cut=True)
        self._changed(name, True)
        try:
            yield
        finally:
            self._changed(name, False)
            await self._case.call("offline", self._name, cut=False)

    def _changed(self, name: str, active: bool) -> None:
        self._case.on_change(self._role, self._where + name, active)

    async def wait_for(
        self, *request: str | re.Pattern[str], timeout: float = 30, **options: Unpack[Options]
    ) -> Exchange:
        """Wait for the next request that matches, and return it with its answer.

        One that was sent before the call does not count: where that may be, open a rule with
        :meth:`intercept` first, and wait with :meth:`Rule.wait`.

        :param timeout: seconds.
        :raises ActionError: none has come.
        :raises ValueError: the rule can never match.
        """
        async with self.intercept(*request, on_response=lambda exchange: None, **options) as rule:
            return await rule.wait(timeout=timeout)

    @asynccontextmanager
    async def _rule(
        self,
        rule: Rule,
        request: tuple[str | re.Pattern[str], ...],
        decide: Callable[[Exchange], Awaitable[None]],
        on_request: bool,
        on_response: bool,
        options: Options,
    ) -> AsyncIterator[None]:
        """Have a rule in effect."""
        matcher = _matcher(request, options)
        if not (on_request or on_response):
            raise ValueError(f"{rule.name} does nothing: give it on_request or on_response")
        self._ensure_proxied()
        nth = options.get("nth")
        first, last = nth or 1, nth or options.get("times")
        for other, name, begin, end in self._active:
            if other == matcher and begin <= (last or begin) and first <= (end or first):
                both = f"{self._where}{rule.name} collides with {name}"
                raise RuntimeError(f"{self._role}: {both}: both are for {matcher}")
        id, failure, blocks = self._case.next_number(), list[BaseException](), list[asyncio.Timeout]()

        async def decided(message: dict[str, Any]) -> dict[str, Any]:
            exchange = Exchange(message)
            try:
                await decide(exchange)
                decision = exchange.decision()
                encoder.dumps(decision)
            except (Exception, Skipped) as error:  # noqa: BLE001 - a callback of a test
                failure.append(error)
                if len(failure) == 1:  # what the test waits for may not come, or a minute later
                    for block in blocks:
                        block.reschedule(asyncio.get_running_loop().time())
                return decision_of("dropped")
            return decision

        self._case.add_rule(id, decided)
        await self._case.call(
            "rule",
            self._name,
            id=id,
            name=rule.name,
            matcher=asdict(matcher),
            request=on_request,
            response=on_response,
            first=first,
            last=last,
        )
        self._active.append(active := (matcher, rule.name, first, last))
        self._changed(rule.name, True)
        try:
            async with asyncio.timeout(0 if failure else None) as ends:
                blocks.append(ends)
                yield
        except Exception as error:
            # What a function of the test raised is why the client has failed.
            if failure:
                raise failure[0] from (None if isinstance(error, TimeoutError) else error)
            raise
        finally:
            blocks.clear()
            self._active.remove(active)
            rule._release()
            self._changed(f"{rule.name}: {len(rule.exchanges)} matched", False)
            await self._case.call("remove", self._name, id=id)
            self._case.remove_rule(id)
        if failure:
            raise failure[0]


class ClientNetwork(Line):
    """The line between one client and its homeservers, as a test sees and changes it.

    :param role: the client's role.
    """

    def __init__(self, role: str, case: CaseNetwork | None) -> None:
        super().__init__(role, role, case)
        self._used = False
        #: Of each address that the client was given, whether it is the proxy's.
        self._given: list[bool] = []

    async def url_for(self, cs_api: str) -> str:
        """Return the base URL that the client is given for a homeserver: of the proxy, if it is used."""
        case, url = self._in_case, cs_api
        if case is not None and self._used:
            url = await case.open(self._role, cs_api)
        elif case is not None and case.records(self._role, cs_api):
            try:
                url = await case.open(self._role, cs_api)
            except LabError as error:  # nothing that the test needs
                logger.warning("the requests of %s are not recorded: %s", self._role, error)
        self._given.append(url != cs_api)
        return url

    @property
    def used(self) -> bool:
        """Whether the test uses it."""
        return self._used

    @property
    def exclusive(self) -> bool:
        """Whether the client was given addresses of the proxy only."""
        return bool(self._given) and all(self._given)

    def use(self) -> None:
        """Put the proxy between this client and the homeservers that it is given from now on."""
        self._used = True

    def offline(self) -> AbstractAsyncContextManager[None]:
        """Cut the line: open requests break, and new ones fail, until the end of the block."""
        return self.cut("offline")

    def _ensure_proxied(self) -> None:
        """Put the proxy before a client that has no address yet; refuse one that has the homeserver's own."""
        if self._given[-1:] == [False]:
            raise RuntimeError(
                f"{self._role} was given the homeserver's own address: call {self._role}.network.use() before"
                " it registers or logs in"
            )
        self._used = True


def _name(request: tuple[str | re.Pattern[str], ...]) -> str:
    return " ".join(part if isinstance(part, str) else f"/{part.pattern}/" for part in request)


def _matcher(request: tuple[str | re.Pattern[str], ...], options: Options) -> Matcher:
    """Return what a rule matches.

    :raises ValueError: it can never match.
    """
    *method, path = request or ("",)
    if len(method) > 1 or not all(isinstance(part, str) for part in method):
        raise ValueError(f"{_name(request)}: name a request by its path, or by its method and its path")
    for name in ("times", "nth"):
        if (number := options.get(name)) is not None and not (isinstance(number, int) and number > 0):
            raise ValueError(f"{name}={number!r} matches nothing: it counts from 1")
    query = options.get("query", {})
    if not all(isinstance(text, str) for text in (*query, *query.values())):
        raise ValueError(f"query={query!r} matches nothing: parameters are texts")
    try:
        encoder.dumps(options.get("body"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"body={options['body']!r} matches nothing: it is not JSON ({error})") from None
    if isinstance(path, re.Pattern) and path.flags != re.UNICODE:
        raise ValueError(f"{path!r}: write a text, and flags into it, as in (?i)")
    return Matcher(
        path if isinstance(path, str) else path.pattern,
        str(method[0]) if method else "",
        pattern=not isinstance(path, str),
        query=query,
        body=options.get("body", {}),
    )
