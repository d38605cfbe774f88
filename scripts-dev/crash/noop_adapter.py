"""Adapters whose clients do nothing, many in one process: ``noop_adapter.py COUNT``."""

import asyncio
import os
import sys

from trafficlight.adapters.sdk import Adapter, action, serve


class NoopAdapter(Adapter):
    """Answers at once."""

    type = "noop"
    reusable = True

    @action()
    async def noop(self, number: int) -> None:
        """Do nothing."""

    @action()
    async def reset(self) -> None:
        """Forget nothing."""


if __name__ == "__main__":
    asyncio.run(serve(NoopAdapter, os.environ["TRAFFICLIGHT_URL"], count=int(sys.argv[1])))
