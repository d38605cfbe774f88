"""Adapters whose clients do nothing, many in one process, for the crash test and the chaos run.

``adapters.py COUNT --delay SECONDS --acknowledged FILE --dies SHARE``. The coordinator's URL is in
TRAFFICLIGHT_URL, as for every adapter that it starts.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import aiohttp


class Client:
    """One adapter after the other, until the process ends.

    :param delay: seconds that an action takes, on average.
    :param acknowledged: gets the id of every action whose answer the coordinator has accepted.
    :param dies: the share of the actions that end the whole process, without a word.
    """

    def __init__(self, url: str, delay: float, acknowledged: TextIO | None, dies: float) -> None:
        self._url = url
        self._delay = delay
        self._acknowledged = acknowledged
        self._dies = dies

    async def loop(self) -> None:
        """Live again and again, also through restarts of the coordinator."""
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    await self._live(session, f"{self._url}/client/{uuid4()}")
                except (aiohttp.ClientError, OSError, ValueError):
                    await asyncio.sleep(random.uniform(0.02, 0.1))

    async def _live(self, session: aiohttp.ClientSession, client: str) -> None:
        body = {"type": "noop", "instance": os.environ.get("TRAFFICLIGHT_INSTANCE", "")}
        async with session.post(f"{client}/register", json=body) as answer:
            answer.raise_for_status()
        while True:
            async with session.get(f"{client}/poll") as answer:
                answer.raise_for_status()
                message = await answer.json()
            match message["action"]:
                case "exit":
                    return
                case "idle":
                    continue
                case _:
                    await self._act(session, client, message["id"])

    async def _act(self, session: aiohttp.ClientSession, client: str, id: str) -> None:
        if random.random() < self._dies:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(random.uniform(0, 2 * self._delay))
        async with session.post(f"{client}/respond", json={"id": id, "response": "done"}) as answer:
            receipt = (await answer.json()).get("receipt")
        if receipt == "accepted" and self._acknowledged is not None:
            self._acknowledged.write(f"{id}\n")
            self._acknowledged.flush()


async def _all(arguments: argparse.Namespace) -> None:
    url = os.environ["TRAFFICLIGHT_URL"]
    with contextlib.ExitStack() as stack:
        acknowledged = (
            stack.enter_context(arguments.acknowledged.open("a")) if arguments.acknowledged else None
        )
        async with asyncio.TaskGroup() as group:
            for _ in range(arguments.count):
                group.create_task(Client(url, arguments.delay, acknowledged, arguments.dies).loop())


def main() -> None:
    """Run the adapters until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--acknowledged", type=Path)
    parser.add_argument("--dies", type=float, default=0.0)
    asyncio.run(_all(parser.parse_args()))


if __name__ == "__main__":
    main()
