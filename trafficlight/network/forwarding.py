"""A client's line: its connections to the proxy, and the way of a request to the homeserver and back."""

import asyncio
import base64
import re
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from trafficlight.network.har import Body, Recording, entry
from trafficlight.network.http1 import (
    LIMIT,
    Head,
    Headers,
    ProtocolError,
    decoded,
    parse_head,
    read_body,
    read_head,
    render_request,
    render_response,
)
from trafficlight.network.rules import SOURCE, Matcher

BODY_LIMIT = 64 << 20
"""Bytes of a body about which a test can decide."""

_OWN_SOURCE = sys.platform == "linux"
# Seconds to connect to a homeserver.
_CONNECT = 30
# Seconds, and a number of exchanges, after which they are written: most cases succeed and need no recording.
_COLLECTED, _MOST_COLLECTED = 3.0, 64
# Browsers hide an answer of another origin from the page without them.
_CORS: Headers = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date"),
]


class Dropped(Exception):  # noqa: N818
    """The connection of the client is to be cut."""


@dataclass(eq=False)
class ActiveRule:
    """What a case wants to decide about.

    :ivar first: the number of the first match that counts, from 1.
    :ivar last: the number of the last one; None for all.
    """

    id: int
    name: str
    matcher: Matcher
    request: bool
    response: bool
    first: int = 1
    last: int | None = None
    seen: int = 0

    def counts(self) -> bool:
        """Count a match; return whether the rule is for it."""
        self.seen += 1
        return self.first <= self.seen <= (self.last or self.seen)


@dataclass(eq=False)
class PassingExchange:
    """A request with its answer."""

    request: Head
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    start: float = field(default_factory=time.monotonic)
    answered: float = 0.0
    sent: Body = field(default_factory=Body)
    received: Body = field(default_factory=Body)
    response: Head | None = None
    comments: list[str] = field(default_factory=list)


@dataclass(eq=False)
class ClientSide:
    """The line of one client: what it listens on, its connections and rules.

    :ivar ask: returns what the test decides about an exchange at a stage with a body.
    :ivar disk: where its recording is written.
    :ivar passthrough: whether TLS passes as it is.
    """

    ask: Callable[[ActiveRule, PassingExchange, str, bytes], Awaitable[Any]]
    disk: Executor
    recording: Recording | None = None
    rules: dict[int, ActiveRule] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    servers: list[asyncio.Server] = field(default_factory=list)
    connections: set["Connection"] = field(default_factory=set)
    offline: int = 0
    passthrough: bool = False
    _collected: list[Callable[[], dict[str, Any]]] = field(default_factory=list)
    _timer: asyncio.TimerHandle | None = None

    def cut(self) -> None:
        """Cut all connections."""
        for connection in list(self.connections):
            connection.cut()

    async def disconnect(self) -> None:
        """Cut all connections, and return when nothing of them is left."""
        tasks = [one.task for one in self.connections if one.task is not None]
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Accept no connection, cut those that there are, and let `disk` close the recording."""
        self.offline += 1  # for those that were accepted, and have not begun
        for server in self.servers:
            server.close()
        await self.disconnect()
        self.write()
        self.discard()

    def record(self, url: str, exchange: PassingExchange) -> None:
        """Collect an exchange for the recording."""
        if self.recording is None:
            return
        now = time.monotonic()
        answered = exchange.answered or now
        found = partial(
            entry,
            url,
            exchange.request,
            exchange.sent,
            exchange.response,
            exchange.received,
            began=exchange.began,
            waited=answered - exchange.start,
            received=now - answered,
            comment="; ".join(exchange.comments),
        )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_COLLECTED, self.write)
        self._collected.append(found)
        if len(self._collected) >= _MOST_COLLECTED:
            self.write()

    def write(self) -> None:
        """Let `disk` write what was collected."""
        collected, self._collected = self._collected, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.recording is not None and collected:
            self.disk.submit(self.recording.add, collected)

    def discard(self) -> None:
        """End the recording, without what was not written."""
        recording, self.recording = self.recording, None
        self.write()
        if recording is not None:
            self.disk.submit(recording.close)


class _Stream(asyncio.StreamReaderProtocol):
    """A connection whose end is known at once, also while nothing is read from it."""

    def __init__(self, connected: Callable[..., Any] | None, closed: Callable[[], None]) -> None:
        self.reader = asyncio.StreamReader(limit=LIMIT)
        super().__init__(self.reader, connected)
        self._on_end = closed

    def eof_received(self) -> bool:
        super().eof_received()
        self._on_end()
        return False  # closes the transport: HTTP has no half-closed connections

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_end()


class _Writer(asyncio.StreamWriter):
    """A writer that sends in one piece what is written in one turn of the loop.

    Heads and chunks arrive together; sent one by one they cost a system call each, here and at the receiver.
    """

    def __init__(self, transport: asyncio.WriteTransport, protocol: _Stream) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(transport, protocol, protocol.reader, loop)
        self._soon, self._pieces = loop.call_soon, list[bytes]()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pieces:
            self._soon(self._send)
        self._pieces.append(bytes(data))

    def close(self) -> None:
        self._send()
        super().close()

    def abort(self) -> None:
        """Send what was written, as far as the system takes it at once, and reset the connection."""
        self._send()
        self.transport.abort()

    def _send(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces:
            super().write(b"".join(pieces))


class Connection:
    """A connection of a client, with its own connection to the homeserver.

    :param target: the base URL of the homeserver.
    :param trust: checks its certificate; by default as a browser does.
    """

    def __init__(self, line: ClientSide, target: str, trust: ssl.SSLContext | None = None) -> None:
        self._line, self._target, self._trust = line, target, trust
        self.protocol = _Stream(self._run, self._client_disconnected)
        self.task: asyncio.Task[Any] | None = None
        self._reader: asyncio.StreamReader
        self._writer: _Writer
        self._up: tuple[asyncio.StreamReader, _Writer] | None = None
        #: What the connection waits for: a request, a decision of the test, or the homeserver.
        self._waits_for = ""

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.task = reader, asyncio.current_task()
        self._writer = _Writer(writer.transport, self.protocol)
        self._line.connections.add(self)
        clean = False
        try:
            while not self._line.offline:
                self._waits_for = "request"
                request = await read_head(reader)
                if request is None or not await self._exchange(request):
                    clean = True
                    break
        except (Dropped, ProtocolError, OSError, asyncio.CancelledError):
            pass  # what a client sees of a homeserver that is not there, or is cut off
        finally:
            self._line.connections.discard(self)
            self._waits_for = ""
            for one in (self._writer, self._up[1] if self._up is not None else None):
                if one is not None:
                    one.close() if clean else one.abort()

    def cut(self) -> None:
        """Cut the line: both sides get a reset."""
        if self.task is not None:
            self.task.cancel()

    def _client_disconnected(self) -> None:
        if self._waits_for == "homeserver" and self._up is not None:
            self._up[1].abort()
        elif self._waits_for == "test":
            self.cut()

    def _homeserver_disconnected(self) -> None:
        if self._waits_for == "request":
            self._writer.close()

    async def _upstream(self) -> tuple[asyncio.StreamReader, _Writer]:
        if self._up is not None and (self._up[0].at_eof() or self._up[1].is_closing()):
            self._up[1].close()
            self._up = None
        if self._up is None:
            tls = None
            if urlsplit(self._target).scheme == "https":
                tls = self._trust or ssl.create_default_context()
            self._up = await self._connected(tls)
        return self._up

    async def _connected(self, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, _Writer]:
        """Connect to the homeserver."""
        loop, url = asyncio.get_running_loop(), urlsplit(self._target)
        async with asyncio.timeout(_CONNECT):
            transport, protocol = await loop.create_connection(
                lambda: _Stream(None, self._homeserver_disconnected),
                url.hostname or "",
                url.port or (443 if tls is not None else 80),
                ssl=tls,
                local_addr=(SOURCE, 0) if _OWN_SOURCE and url.hostname == "127.0.0.1" else None,
            )
        return protocol.reader, _Writer(transport, protocol)

    async def _exchange(self, request: Head) -> bool:
        """Pass one request on, and its answer back; return whether another request may follow."""
        self._waits_for = ""
        exchange = PassingExchange(request)
        candidates = [
            rule for rule in self._line.rules.values() if rule.matcher.matches(request.method, request.target)
        ]
        try:
            if not candidates:
                return await self._pass_on(exchange)
            return await self._decide(exchange, candidates)
        finally:
            self._line.record(self._line.urls[self._target], exchange)

    async def _pass_on(self, exchange: PassingExchange) -> bool:
        """Pass a request on as it arrives."""
        request = exchange.request
        _, writer = await self._upstream()
        writer.write(self._for_target(request.raw))
        # An answer may come before the end of a long body, or be needed for its beginning.
        if request.chunked or (request.length or 0) > LIMIT or request.get("expect"):
            sending = asyncio.create_task(self._send_body(exchange, writer))
            try:
                goes_on = await self._pass_back(exchange)
                return goes_on and sending.done() and not sending.exception()
            finally:
                sending.cancel()
                await asyncio.wait([sending])
        await self._send_body(exchange, writer)
        return await self._pass_back(exchange)

    async def _send_body(self, exchange: PassingExchange, writer: asyncio.StreamWriter) -> None:
        async for raw, content in read_body(self._reader, exchange.request):
            exchange.sent.add(content)
            writer.write(raw)
            await writer.drain()

    async def _pass_back(self, exchange: PassingExchange) -> bool:
        """Pass the answer back as it arrives; return whether another request may follow."""
        head = await self._answer_of(exchange, self._writer.write)
        assert self._up is not None
        reader, writer = self._up
        self._writer.write(head.raw)
        if head.status == 101:
            await joined((self._reader, writer, exchange.sent), (reader, self._writer, exchange.received))
            return False
        to_the_end = False
        if head.has_body(exchange.request.method):
            to_the_end = head.length is None and not head.chunked
            async for raw, content in read_body(reader, head, to_the_end=True):
                exchange.received.add(content)
                self._writer.write(raw)
                await self._writer.drain()
        await self._writer.drain()
        return not (to_the_end or _closes(exchange.request) or _closes(head))

    async def _answer_of(self, exchange: PassingExchange, interim: Callable[[bytes], None] | None) -> Head:
        """Return the head of the final answer.

        :param interim: called with the bytes of those before it, such as 100 Continue.
        """
        assert self._up is not None
        self._waits_for = "homeserver"
        while (head := await read_head(self._up[0])) is not None:
            if head.status >= 200 or head.status == 101:
                exchange.response, exchange.answered = head, time.monotonic()
                return head
            if interim is not None:
                interim(head.raw)
        raise Dropped  # the homeserver closed the connection

    async def _decide(self, exchange: PassingExchange, candidates: list[ActiveRule]) -> bool:
        """Let the test decide about a request that matches, and about its answer."""
        request = exchange.request
        if request.get("expect"):
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw, body = await _whole(self._reader, request, exchange.sent)
        content = decoded(body, request.get("content-encoding") or "", BODY_LIMIT)
        rules = [rule for rule in candidates if rule.matcher.matches_body(content) and rule.counts()]
        sent = request.raw + raw
        for rule in rules:
            if not rule.request:
                continue
            self._waits_for = "test"
            decision = await self._line.ask(rule, exchange, "request", content)
            exchange.comments.append(f"{rule.name}: {decision['what']}")
            if decision["what"] == "answered":
                return await self._answer(exchange, decision)
            if decision["what"] == "dropped":
                raise Dropped
            if decision["what"] == "changed":
                content = _body(decision)
                start = decision["method"], decision["target"]
                sent = render_request(*start, _headers(decision), content)
                exchange.request = _head_of(sent, content)
        _, writer = await self._upstream()
        writer.write(self._for_target(sent))
        await writer.drain()
        if wanted := [rule for rule in rules if rule.response]:
            return await self._decide_back(exchange, wanted)
        return await self._pass_back(exchange)

    async def _decide_back(self, exchange: PassingExchange, rules: list[ActiveRule]) -> bool:
        """Let the test decide about an answer."""
        request = exchange.request
        head = await self._answer_of(exchange, None)
        assert self._up is not None
        raw = body = b""
        if head.has_body(request.method):
            raw, body = await _whole(self._up[0], head, exchange.received, to_the_end=True)
        framed = head.length is not None or head.chunked or not head.has_body(request.method)
        content = decoded(body, head.get("content-encoding") or "", BODY_LIMIT)
        sent = head.raw + raw
        for rule in rules:
            self._waits_for = "test"
            decision = await self._line.ask(rule, exchange, "response", content)
            exchange.comments.append(f"{rule.name}: answer {decision['what']}")
            if decision["what"] == "answered":
                return await self._answer(exchange, decision)
            if decision["what"] == "dropped":
                raise Dropped
            if decision["what"] == "changed":
                content, framed = _body(decision), True
                sent = render_response(decision["status"], _headers(decision), content)
                exchange.response, exchange.received = _head_of(sent, content), Body()
                exchange.received.add(content)
        self._writer.write(sent)
        await self._writer.drain()
        return framed and not (_closes(request) or _closes(head))

    async def _answer(self, exchange: PassingExchange, decision: dict[str, Any]) -> bool:
        """Answer in place of the homeserver."""
        given = _headers(decision)
        names = {name.lower() for name, _ in given}
        headers = given + [(name, value) for name, value in _CORS if name.lower() not in names]
        content = _body(decision)
        answer = render_response(decision["status"], headers, content)
        exchange.response, exchange.received = _head_of(answer, content), Body()
        exchange.answered = time.monotonic()
        exchange.received.add(content)
        self._writer.write(answer)
        await self._writer.drain()
        return not _closes(exchange.request)

    def _for_target(self, raw: bytes) -> bytes:
        """Return a request with the host that a homeserver on another machine expects."""
        url = urlsplit(self._target)
        if url.hostname in ("127.0.0.1", "localhost", "::1"):
            return raw
        head, end, body = raw.partition(b"\r\n\r\n")
        return _HOST.sub(b"\\g<1>" + url.netloc.encode(), head, count=1) + end + body


_HOST = re.compile(rb"(\r\nhost:[ \t]*)[^\r]*", re.IGNORECASE)


def _head_of(message: bytes, content: bytes) -> Head:
    return parse_head(message[: len(message) - len(content)])


def _closes(head: Head) -> bool:
    """Return whether a message is the last one of its connection."""
    wanted = (head.get("connection") or "").lower()
    old = "HTTP/1.0" in (head.start[0], head.start[2])
    return "close" in wanted or (old and "keep-alive" not in wanted)


async def _whole(
    reader: asyncio.StreamReader, head: Head, into: Body, *, to_the_end: bool = False
) -> tuple[bytes, bytes]:
    """Return a whole body: its bytes on the wire, and its content."""
    raw, content = bytearray(), bytearray()
    async for part, inside in read_body(reader, head, to_the_end=to_the_end):
        raw += part
        content += inside
        into.add(inside)
        if len(content) > BODY_LIMIT:
            raise ProtocolError(f"a body on which a test decides has more than {BODY_LIMIT:,} bytes")
    return bytes(raw), bytes(content)


async def joined(*ways: tuple[asyncio.StreamReader, asyncio.StreamWriter, Body]) -> None:
    """Copy between two connections until one of them ends, and count the bytes."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, into: Body) -> None:
        while part := await reader.read(LIMIT):
            into.size += len(part)
            writer.write(part)
            await writer.drain()

    copies = [asyncio.create_task(copy(*way)) for way in ways]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in copies:
            one.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


def _headers(decision: dict[str, Any]) -> Headers:
    return [(name, value) for name, value in decision["headers"]]


def _body(decision: dict[str, Any]) -> bytes:
    return base64.b64decode(decision["body"])
