"""Ask a homeserver whether it answers and what it is, over HTTP only."""

import asyncio
import contextlib

import aiohttp

from trafficlight.errors import DeployError

_REQUEST = aiohttp.ClientTimeout(total=10)
_SHORT = aiohttp.ClientTimeout(total=3)
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_SHOWN = 200


async def check_versions(session: aiohttp.ClientSession, cs_api: str) -> None:
    """Return if ``/_matrix/client/versions`` answers as a homeserver does.

    :raises DeployError: it does not; says what came instead.
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


async def wait_for_versions(session: aiohttp.ClientSession, cs_api: str, timeout: float) -> None:
    """Return when a homeserver that should answer does; asks ever less often.

    :param timeout: how long to wait, in seconds.
    :raises DeployError: the time is up; says what came last.
    """
    last: DeployError | None = None
    pause = _FIRST_PAUSE_SECONDS
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await check_versions(session, cs_api)
                except DeployError as error:
                    last = error
                await asyncio.sleep(pause)  # nothing but asking tells
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    except TimeoutError:
        detail = f": {last.message}" if last is not None else ""
        raise DeployError(f"{cs_api} did not answer within {timeout:g} s{detail}") from None


async def title_of(session: aiohttp.ClientSession, *bases: str) -> str:
    """Return what runs, e.g. ``Synapse 1.163.2``; empty where none of the base URLs tells.

    :param bases: where federation may be served; certificates are not checked.
    """
    for base in bases:
        url = f"{base}/_matrix/federation/v1/version"
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
            async with session.get(url, timeout=_SHORT, ssl=False) as answer:
                if answer.status == 200:
                    server = (await answer.json(content_type=None))["server"]
                    # Synapse adds what it knows of its source: `1.163.2 (b=main,abcdef)`.
                    return f"{server['name']} {str(server['version']).split()[0]}"
    return ""
