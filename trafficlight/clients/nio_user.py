"""matrix-nio clients in the test's own process, without an adapter."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from trafficlight.errors import LabError

if TYPE_CHECKING:
    import nio  # type: ignore[import-untyped,unused-ignore]


# Seconds for one response, in addition to the timeout of a sync.
_REQUEST_TIMEOUT = 20
# Retries of nio, a second apart, while there is no connection: enough for a restart of the homeserver.
_TRIES = 30
# Seconds for the login, including retries.
_LOGIN_TIMEOUT = 40


async def log_in(cs_api: str, user_id: str, password: str, store: Path | None) -> "nio.AsyncClient":
    """Log in on a new device and return the client.

    :param cs_api: the base URL of the client-server API.
    :param store: an existing folder for its keys; without one it does not encrypt.
    :raises LabError: the homeserver refuses, or does not answer.
    """
    import aiohttp  # both here, because they are slow to import
    import nio

    config = nio.AsyncClientConfig(
        encryption_enabled=store is not None,
        max_timeouts=_TRIES,
        max_timeout_retry_wait_time=1,
        request_timeout=_REQUEST_TIMEOUT,
    )
    client = nio.AsyncClient(cs_api, user_id, store_path=str(store) if store else "", config=config)
    try:
        async with asyncio.timeout(_LOGIN_TIMEOUT):
            answer = await client.login(password, "trafficlight")
        if isinstance(answer, nio.ErrorResponse):
            raise LabError(f"logging {user_id} in at {cs_api}: {answer.status_code} {answer.message}")
    except (aiohttp.ClientError, TimeoutError) as error:
        await close_nio_client(client)
        reason = str(error) or type(error).__name__
        raise LabError(f"logging {user_id} in at {cs_api}: {reason}") from error
    except BaseException:
        await close_nio_client(client)
        raise
    return client


async def close_nio_client(client: "nio.AsyncClient") -> None:
    """Close its connections and its store; the account stays logged in. Idempotent."""
    try:
        await client.close()
    finally:
        if client.store is not None:
            client.store.database.close()
