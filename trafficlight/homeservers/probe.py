"""Ask a homeserver over HTTP whether it is ready and which version it is."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from trafficlight.clock import race
from trafficlight.errors import DeployError

_REQUEST = aiohttp.ClientTimeout(total=10)
_SHORT = aiohttp.ClientTimeout(total=3)
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5
_SHOWN = 200  # characters


async def check_versions(session: aiohttp.ClientSession, cs_api: str) -> None:
    """Return if ``/_matrix/client/versions`` answers as a homeserver does.

    :raises DeployError: it does not; names what it answered.
    """
    url = f"{cs_api}/_matrix/client/versions"
    try:
        async with session.get(url, timeout=_REQUEST) as answer:
            body = await answer.text(errors="replace")
            if answer.status != 200:
                raise DeployError(f"{url} answers {answer.status} {body[:_SHOWN]}".rstrip())
            try:
                versions = (await answer.json(content_type=None))["versions"]
            except (ValueError, KeyError, TypeError):
                versions = None
            if not versions:
                raise DeployError(f"{url} does not answer as a homeserver: {body[:_SHOWN]}")
    except (aiohttp.ClientError, OSError) as error:
        raise DeployError(f"{url} is not reachable: {str(error) or type(error).__name__}") from error


async def wait_until_ready(
    session: aiohttp.ClientSession,
    cs_api: str,
    timeout: float,
    *,
    longest_pause: float = _LONGEST_PAUSE_SECONDS,
    federation_port: int | None = None,
) -> None:
    """Wait until ``/_matrix/client/versions`` answers, polling at growing intervals.

    :param timeout: how long to wait, in seconds.
    :param longest_pause: the longest interval, in seconds.
    :param federation_port: wait until this port of 127.0.0.1 accepts connections, too.
    :raises DeployError: the wait timed out; names the last answer.
    """
    last: DeployError | None = None
    pause = _FIRST_PAUSE_SECONDS
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    if federation_port is not None:  # first: a connection costs a quarter of a request
                        await _check_port(federation_port)
                    await check_versions(session, cs_api)
                    return
                except DeployError as error:
                    last = error
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest_pause)
    except TimeoutError:
        detail = f": {last.message}" if last is not None else ""
        raise DeployError(f"{cs_api} did not answer within {timeout:g} s{detail}") from None


async def wait_until_accepting(
    connect: Callable[[], Awaitable[tuple[object, asyncio.StreamWriter]]], timeout: float, name: str
) -> None:
    """Wait until connections are accepted.

    :param connect: opens one.
    :param timeout: how long to wait, in seconds.
    :param name: what accepts them, for the error.
    :raises DeployError: the wait timed out.
    """
    try:
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await connect()
                    writer.close()
                    return
                await asyncio.sleep(_FIRST_PAUSE_SECONDS)
    except TimeoutError:
        raise DeployError(f"{name} did not accept connections within {timeout:g} s") from None


async def wait_for_socket(path: Path, timeout: float) -> None:
    """Wait until a Unix socket accepts connections.

    :param timeout: how long to wait, in seconds.
    :raises DeployError: the wait timed out.
    """
    await wait_until_accepting(lambda: asyncio.open_unix_connection(path), timeout, path.name)


async def unless_exited(ready: Coroutine[Any, Any, None], exited: Coroutine[Any, Any, str]) -> None:
    """Await a homeserver's readiness, and stop when it exits first.

    :param exited: returns a description of its exit.
    :raises DeployError: it exited, whatever answers at its port.
    """
    reason = await race(exited, ready)
    if reason is not None:
        raise DeployError(f"exited while starting, {reason}")


async def title_of(session: aiohttp.ClientSession, *bases: str) -> str:
    """Return name and version, e.g. ``Synapse 1.98.0``; empty if no base URL reports them.

    :param bases: where federation may be served; certificates are not verified.
    """
    for base in bases:
        url = f"{base}/_matrix/federation/v1/version"
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
            async with session.get(url, timeout=_SHORT, ssl=False) as answer:
                if answer.status == 200:
                    server = (await answer.json(content_type=None))["server"]
                    # Synapse appends its git branch and commit: `1.98.0 (b=main,abcdef)`.
                    return f"{server['name']} {str(server['version']).split()[0]}"
    return ""


async def _check_port(port: int) -> None:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise DeployError(f"its federation port does not accept connections: {error}") from error
    writer.close()
