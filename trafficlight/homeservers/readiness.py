"""Wait until a homeserver answers."""

import asyncio

import aiohttp

from trafficlight.clock import race
from trafficlight.errors import DeployError
from trafficlight.homeservers.processes import ServerProcess
from trafficlight.homeservers.recipes.recipe import Place

_ASK_AGAIN_SECONDS = 0.01
_REQUEST = aiohttp.ClientTimeout(total=10)


async def wait_until_ready(place: Place, process: ServerProcess, timeout: float) -> None:
    """Return when ``/_matrix/client/versions`` answers 200 and federation accepts connections.

    :param timeout: how long to wait, in seconds.
    :raises DeployError: the process ended first, or the time is up.
    """
    try:
        async with asyncio.timeout(timeout):
            # The exit comes first: another program may answer at the port.
            exited = await race(process.wait(), _ask_until_it_answers(place))
    except TimeoutError:
        raise DeployError(f"did not answer within {timeout:g} s") from None
    if exited is not None:
        raise DeployError(f"ended while starting, {exited}")


async def _ask_until_it_answers(place: Place) -> None:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=_REQUEST, connector=connector) as session:
        while not await _answers(session, f"{place.cs_api}/_matrix/client/versions"):
            await asyncio.sleep(_ASK_AGAIN_SECONDS)  # its readiness is only seen by asking
    while not await _accepts(place.federation_port):
        await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
