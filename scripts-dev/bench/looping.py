"""Adapters that do nothing, as fast as they can: register, answer every action, exit, start again.

``looping.py URL COUNT`` runs until it is ended. The time between two lives is as short as it gets.
"""

import asyncio
import contextlib
import sys
from uuid import uuid4

from raw_http import Connection


async def _loop(url: str) -> None:
    async with Connection(url) as connection:
        while True:
            path = f"/client/{uuid4()}"
            await connection.json("POST", f"{path}/register", {"type": "nio", "version": "0"})
            while (message := await connection.json("GET", f"{path}/poll"))["action"] != "exit":
                if message["action"] != "idle":
                    body = {"id": message["id"], "response": "done"}
                    await connection.json("POST", f"{path}/respond", body)


async def _all(url: str, count: int) -> None:
    # The coordinator ends first.
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(_loop(url))


if __name__ == "__main__":
    asyncio.run(_all(sys.argv[1], int(sys.argv[2])))
