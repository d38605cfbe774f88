import os
import signal
from pathlib import Path

from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable


class DyingAdapter(Test):
    """Ends in an error on purpose: it kills the adapter that plays bob, in the middle of the case."""

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
    """Return the process id of an adapter that the lab started itself on this machine (Linux)."""
    variable = f"TRAFFICLIGHT_INSTANCE={client.registration['instance']}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes().split(b"\0")
        except OSError:  # it has just ended, or is another user's
            continue
        if variable in variables:
            return int(environment.parent.name)
    raise LookupError(f"no process here plays {client.name}")
