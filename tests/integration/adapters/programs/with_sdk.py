"""An adapter on the SDK with one action."""

import asyncio
import sys

from trafficlight.adapters.sdk import Adapter, JsonObject, action, serve


class Parrot(Adapter):
    type = "parrot"

    @action()
    async def say(self, text: str) -> JsonObject:
        return {"said": text}


asyncio.run(serve(Parrot, sys.argv[1]))
