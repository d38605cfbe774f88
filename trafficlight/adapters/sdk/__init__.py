"""Write an adapter: declare actions as typed async functions, and leave the wire to this package.

::

    class Echo(Adapter):
        type = "echo"

        @action()
        async def say(self, text: str) -> JsonObject:
            return {"said": text}

    asyncio.run(serve(Echo, "http://127.0.0.1:5000"))
"""

from trafficlight.adapters.sdk.adapter import (
    ActionFailed,
    Adapter,
    Context,
    CoordinatorUnreachableError,
    RegistrationRefusedError,
    UnsupportedActionError,
    action,
)
from trafficlight.adapters.sdk.coordinator import Options
from trafficlight.adapters.sdk.driver import drive
from trafficlight.adapters.sdk.loop import run, serve
from trafficlight.protocol import JsonObject

__all__ = [
    "ActionFailed",
    "Adapter",
    "Context",
    "CoordinatorUnreachableError",
    "JsonObject",
    "Options",
    "RegistrationRefusedError",
    "UnsupportedActionError",
    "action",
    "drive",
    "run",
    "serve",
]
