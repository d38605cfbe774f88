"""Two-client cases that do nothing, for the crash test and the chaos run; CASES says how many."""

import asyncio
import os

from trafficlight import MatrixClient, Test, matrix
from trafficlight.client_types import ClientType


class Noop(ClientType):
    type = "noop"


class Quick(Test):
    """Two clients do nothing, three times."""

    clients = {"alice": [Noop], "bob": [Noop]}

    @matrix(number=list(range(int(os.environ.get("CASES", "200")))))
    async def run(self, alice: MatrixClient, bob: MatrixClient, number: int) -> None:
        for _ in range(3):
            await asyncio.gather(alice.perform("noop", number=number), bob.perform("noop", number=number))
