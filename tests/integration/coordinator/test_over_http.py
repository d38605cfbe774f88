"""The whole way: test code in a worker, the coordinator, HTTP, and adapters that loop."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.coordinator.looping import SIX, ended, open_site

BLOCKS = """
class Blocks(Test):
    async def run(self):
        self.logger.info("running")
        while not pathlib.Path(__file__).with_name("released").exists():
            time.sleep(0.05)
"""


@pytest.mark.parametrize("workers", [0, 1])
async def test_one_looping_adapter_plays_six_cases(tmp_path: Path, workers: int) -> None:
    async with open_site(tmp_path, workers) as site:
        session = await site.submit("dances", SIX)
        site.start_adapter()
        await ended(session)
        assert len(session.record.cases) == 6


async def test_a_test_that_blocks_delays_no_request(tmp_path: Path) -> None:
    async with open_site(tmp_path, 2) as site:
        blocking = await site.submit("blocks", BLOCKS)
        while not blocking.running:
            await asyncio.sleep(0.01)
        for _ in range(2):
            site.start_adapter()
        for number in range(3):
            await ended(await site.submit(f"dances{number}", SIX))
        assert not blocking.ended.is_set()
        (tmp_path / "released").touch()
        await ended(blocking)
