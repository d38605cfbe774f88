"""Waiting for what an engine does when sessions have ended."""

import asyncio


async def closed() -> None:
    """Return when the engine has closed every session that has ended, and dropped what is too much."""
    closing = [task for task in asyncio.all_tasks() if task.get_name().startswith("close ")]
    if closing:
        async with asyncio.timeout(20):
            await asyncio.wait(closing)
    await asyncio.sleep(0)  # it drops in the turn after that
