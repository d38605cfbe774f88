"""An adapter that says that everything is done, and does nothing."""

import asyncio
import sys

from trafficlight.adapters.sdk import Adapter, serve
from trafficlight.protocol import JsonObject


class Liar(Adapter):
    type = "liar"
    version = "1"

    async def perform(self, name: str, data: JsonObject) -> JsonObject:
        return {"response": name}


asyncio.run(serve(Liar, sys.argv[1]))
