"""The homeservers of a killed coordinator die, and the next one removes their data."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from trafficlight.homeservers.local.run_folder import RunFolder

_VICTIM = """
import asyncio, sys
from pathlib import Path
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import SynapseStable

async def main(folder):
    provider = LocalProvider(data_folder=folder)
    requests = [ServerRequest("server", SynapseStable().homeservers()[0], folder / "server.log")]
    async with provider.deploy("victim", requests):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1])))
"""


def test_kill_9_leaves_no_process_and_the_next_session_removes_the_data(tmp_path: Path) -> None:
    victim = subprocess.Popen([sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE)
    assert victim.stdout is not None
    with victim.stdout:
        assert victim.stdout.readline() == b"up\n"
    children = psutil.Process(victim.pid).children(recursive=True)
    assert len(children) == 2  # the fork server and the homeserver

    victim.send_signal(signal.SIGKILL)
    victim.wait()

    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    [left_behind] = tmp_path.glob("trafficlight-servers-*")
    heir = RunFolder(tmp_path)
    heir.open()
    assert list(tmp_path.glob("trafficlight-servers-*")) == [heir.path]
    assert not left_behind.exists()
    heir.close()
