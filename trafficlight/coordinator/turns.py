"""Long work in the coordinator's loop, in turns with everything else."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

# Items that are worked on in one turn of the loop: a few milliseconds for what is recorded of a case.
_IN_ONE_TURN = 50


async def cooperative(items: Iterable[T]) -> AsyncIterator[T]:
    """Give every item, and the loop to others again and again in between: polls are not held up."""
    for number, item in enumerate(items):
        if number % _IN_ONE_TURN == _IN_ONE_TURN - 1:
            await asyncio.sleep(0)
        yield item
