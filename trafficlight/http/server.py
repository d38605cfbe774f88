"""The HTTP server: hypercorn's protocols in a running loop, and the set-up of the process for it."""

import asyncio
import errno
import gc
import logging
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.typing import LifespanState
from hypercorn.utils import wrap_app
from quart import Quart

from trafficlight.clock import cancel_all
from trafficlight.errors import ConfigError

logger = logging.getLogger(__name__)

KEEP_ALIVE = 75.0
"""Seconds that an idle connection and the head of a request have; more than a poll is held."""

# Seconds that requests have to end at shutdown. Held polls are released before.
_SHUTDOWN = 3.0
# Seconds after which a busy thread hands the interpreter to the loop, which needs it several times for one
# response. With the default of 5 ms, a poll takes 50 ms while a page is rendered.
_SWITCH = 0.0005
# Open files that the process asks for. Each connection is one.
_FILES = 65_536
# Open files that connections leave to the rest of the process: at most, and as a share of the limit.
_SPARE, _SPARE_SHARE = 256, 4
# Seconds that a connection has for its first authorized request before it may be closed at the limit.
_FIRST_REQUEST = 5.0
_LOOK = 1.0  # seconds between two looks for such connections
# Share of the connections that are closed at the limit, if they have not been authorized: the oldest.
_CLOSED_SHARE = 8
# Share of the limit of connections below which new ones are accepted again.
_RESUME = 0.9
# Seconds between two attempts to accept when the system has no resources.
_RETRY = 0.5
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_READ = 64 << 10
_UNREACHABLE = frozenset({errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH})
# The libraries whose errors are about what a peer sent.
_PROTOCOLS = frozenset({"h11", "h2", "hpack", "hyperframe", "priority", "wsproto"})


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    :param port: 0 takes a free one.
    :raises ConfigError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it, responses take 40 ms longer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(4096)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening


@contextmanager
def process_tuned() -> Iterator[None]:
    """Prepare the process for many connections, whichever server runs it: enter this when the lab is ready.

    Raises the limit of open files, lets threads take turns more often, and exempts what exists from garbage
    collection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    # About 100,000 objects, which every full collection would traverse for 50 ms.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@asynccontextmanager
async def serving(app: Quart, listening: socket.socket) -> AsyncIterator[str]:
    """Serve an application on a socket until this is left, and yield its base URL."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server = Server(app, listening)
    app.config["SERVER"] = server
    await app.startup()
    accepting = asyncio.create_task(server.accept(), name="http server")
    try:
        yield f"http://{shown}:{port}"
    finally:
        await cancel_all(accepting)
        listening.close()
        await server.close()
        await app.shutdown()


class Server:
    """Accepts connections, as long as the limit of open files leaves room for the rest of the process.

    asyncio's own server logs thousands of tracebacks when a process runs out of file descriptors.

    :ivar blocked: why no connection is accepted at the moment; empty if they are.
    """

    def __init__(self, app: Quart, listening: socket.socket) -> None:
        self._app = wrap_app(cast("Any", _Draining(app)), 0, "asgi")
        self._listening = listening
        self._config = Config()
        self._config.keep_alive_timeout = KEEP_ALIVE
        self._config.accesslog = self._config.errorlog = None
        self._context = WorkerContext(None)
        self._connections: dict[asyncio.Task[None], _Trust] = {}
        self._closed = asyncio.Event()
        self.blocked = ""

    async def accept(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            limit = _connection_limit()
            if len(self._connections) >= limit:
                await self._close_strangers()
            if len(self._connections) >= limit:
                self._block(f"{limit} connections are open, which is all that the limit of open files allows")
                while len(self._connections) > limit * _RESUME:
                    self._closed.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK):
                            await self._closed.wait()
                    await self._close_strangers()
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    self._block(error.strerror or str(error))
                    await asyncio.sleep(_RETRY)
                continue  # otherwise the client has closed it already
            if self.blocked:
                self.blocked = ""
                logger.warning("new connections are accepted again")
            trust = _Trust(loop.time())
            task = asyncio.create_task(self._serve(connection, trust), name="http connection")
            self._connections[task] = trust
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Close all connections: idle ones at once, others when their requests have ended, or soon."""
        await self._context.terminated.set()
        if self._connections:
            await asyncio.wait(self._connections, timeout=_SHUTDOWN)
        await cancel_all(*self._connections)

    async def _close_strangers(self) -> None:
        """Close the oldest connections that have not sent an authorized request."""
        latest = asyncio.get_running_loop().time() - _FIRST_REQUEST
        strangers = [
            task for task, trust in self._connections.items() if not trust.trusted and trust.since <= latest
        ]
        closed = strangers[: max(1, len(self._connections) // _CLOSED_SHARE)]
        await cancel_all(*closed)
        await asyncio.sleep(0)  # `_ended` is called

    def _block(self, reason: str) -> None:
        if not self.blocked:
            logger.warning("no new connections are accepted: %s", reason)
        self.blocked = reason

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._connections.pop(task, None)
        self._closed.set()

    async def _serve(self, connection: socket.socket, trust: "_Trust") -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_READ, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        close = connection.close
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
            close = transport.abort
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            state = LifespanState(connection=trust)  # becomes part of the scope of its requests
            await _Connection(self._app, loop, self._config, self._context, state, reader, writer)
        except Exception as error:
            if _is_of_peer(error):
                logger.debug("a peer broke off, or broke the protocol: %.200r", error)
            else:
                logger.exception("a connection failed")
            close()


@dataclass(slots=True)
class _Trust:
    """Whether a request of a connection was authorized.

    :param since: the loop's time when it was accepted.
    """

    since: float
    trusted: bool = False


class _Draining:
    """An ASGI application that reads what is left of a request's body while the response ends.

    hypercorn queues a few pieces of a body. If the application refuses the request and takes no more of them,
    it neither reads on nor closes the connection, and the next request on it would wait for ever.
    """

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._application(scope, receive, send)
            return
        complete = False

        async def receiving() -> Any:
            nonlocal complete
            message = await receive()
            complete = complete or not message.get("more_body", False)
            return message

        async def sending(message: Any) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if complete or not last:
                await send(message)
                return
            draining = asyncio.create_task(_drain(receive), name="drain a request")
            try:
                await send(message)
            finally:
                await cancel_all(draining)

        await self._application(scope, receiving, sending)


def _has_body(scope: Any) -> bool:
    framing = (b"content-length", b"transfer-encoding")
    return scope.get("http_version") == "2" or any(name in framing for name, _ in scope["headers"])


async def _drain(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Connection(TCPServer):
    """One connection.

    hypercorn keeps a connection that the client has closed until the keep-alive timeout, because the task of
    that timeout holds the connection's task group; and HTTP/2 has no timeout before its first request.
    """

    async def _read_data(self) -> None:
        http2 = False
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(_READ)
            except OSError:
                break
            await self.protocol.handle(RawData(data))
            if not http2 and isinstance(self.protocol.protocol, H2Protocol):
                http2 = True
                if self.protocol.protocol.idle:
                    await self.idle_task.restart(self._task_group, self._idle_timeout)
        await self.protocol.handle(Closed())
        await self.idle_task.stop()


def _is_of_peer(error: BaseException) -> bool:
    """Whether the peer closed the connection, or a library of a protocol refuses what it sent."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_peer, error.exceptions))
    if isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
        return True
    if isinstance(error, OSError):
        return error.errno in _UNREACHABLE
    return type(error).__module__.partition(".")[0] in _PROTOCOLS


def _connection_limit() -> int:
    """Return how many connections may be open at the same time."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, files - min(_SPARE, files // _SPARE_SHARE))
