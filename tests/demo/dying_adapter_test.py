import os
import signal
from pathlib import Path

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable


class DyingAdapter(Test):
    """Ends in an error on purpose: it kills the driver that plays bob, in the middle of the case."""

    clients = {"alice": [Nio], "bob": [Nio]}
    servers = {"server": [SynapseStable]}

    async def run(self, alice: MatrixClient, bob: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await bob.register(server)
        await alice.create_room("A room that bob never sees")
        await alice.invite_user(bob.user_id)

        os.kill(_process_of(bob), signal.SIGKILL)
        await bob.accept_invite()


def _process_of(client: MatrixClient) -> int:
    """Return the process id of the driver that plays a client on this machine (Linux)."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = dict(
                line.split("=", 1) for line in environment.read_text().split("\0") if "=" in line
            )
            login = Path(variables["TRAFFICLIGHT_STORAGE"], "login.json").read_text()
        except (OSError, KeyError, UnicodeDecodeError):  # it has exited, is another user's, or is no driver
            continue
        if client.user_id in login:
            return int(environment.parent.name)
    raise LookupError(f"no process here plays {client.name}")
