"""Serving an application with hypercorn, in a loop that somebody else runs."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from trafficlight.errors import ConfigError

# Seconds that an idle connection stays open; longer than any poll is held.
_KEEP_ALIVE = 75.0
# Seconds that requests have to end at shutdown. Held polls are released before.
_SHUTDOWN = 3.0
# Seconds that a thread at work keeps the interpreter from the loop, which asks for it several times for one
# answer. The default is 5 ms, and 50 ms for a poll while a page is made.
_SWITCH = 0.0005


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    :param port: 0 takes a free one.
    :raises ConfigError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(4096)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening


@asynccontextmanager
async def serving(app: Any, listening: socket.socket) -> AsyncIterator[str]:
    """Serve an ASGI application on a socket until this is left; give its base URL.

    Meanwhile the threads of the process take turns more often.
    """
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.keep_alive_timeout = _KEEP_ALIVE
    config.graceful_timeout = _SHUTDOWN
    config.shutdown_timeout = _SHUTDOWN
    config.accesslog = None
    config.errorlog = None
    stop = asyncio.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    server = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait), name="http server")
    try:
        yield f"http://{shown}:{port}"
    finally:
        stop.set()
        await server
        sys.setswitchinterval(interval)
