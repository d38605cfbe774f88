"""Cases with a service on one, two and three nodes, for the faults; CASES says how many of each."""

import asyncio
import os

from trafficlight import Log, Node, Service, Test, cluster, matrix

_NUMBERS = list(range(int(os.environ.get("CASES", "4"))))


class Loop(Service):
    """Has a child, and a process that has left its group."""

    logs = {"loop.log": Log("loop.log", collect="always")}

    async def start_node(self, node: Node) -> None:
        async with node.account.monitor_log("loop.log") as log:
            await node.account.start(
                "setsid sleep 3000 & sleep 3000 & echo ready; while :; do sleep 0.2; done", name="loop"
            )
            await log.until("ready")


class Loops(Test):
    async def _loop(self, num_nodes: int) -> None:
        async with Loop(self, num_nodes=num_nodes) as loop:
            for _ in range(5):
                await asyncio.gather(*(node.account.run("sleep 0.1; echo done") for node in loop.nodes))

    @cluster(num_nodes=1)
    @matrix(number=_NUMBERS)
    async def test_one(self, number: int) -> None:
        await self._loop(1)

    @cluster(num_nodes=2)
    @matrix(number=_NUMBERS)
    async def test_two(self, number: int) -> None:
        await self._loop(2)

    @cluster(num_nodes=3)
    @matrix(number=_NUMBERS)
    async def test_three(self, number: int) -> None:
        await self._loop(3)
