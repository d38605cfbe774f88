"""The program: nio adapters on the coordinator of a URL."""

import logging

from trafficlight.adapters.nio.adapter import NioAdapter
from trafficlight.adapters.sdk import Options, serve


async def main(
    url: str,
    count: int = 1,
    token: str | None = None,
    *,
    once: bool = False,
    patience: float | None = None,
) -> None:
    """Run nio adapters until SIGTERM or SIGINT.

    :param url: the coordinator's base URL.
    :param count: how many clients to run at the same time in this process.
    :param token: the shared registration token; by default `ADAPTER_TOKEN` of the environment.
    :param once: end after one registration of each client instead of registering again.
    :param patience: seconds to go on trying a coordinator that does not answer; None is for ever.
    :raises LabError: the coordinator refused the registration, or did not answer for that long.
    """
    # It warns of every device at first contact, and of every message whose key is still on its way.
    logging.getLogger("nio.crypto").setLevel(logging.ERROR)
    await serve(NioAdapter, url, count=count, token=token, once=once, options=Options(patience=patience))
