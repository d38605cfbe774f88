"""What every cluster does: folders of this machine, three real sshd, containers, machines of Vagrant.

Vagrant itself needs virtual machines: a program prints what it does, for the same sshd.
"""

import asyncio
import functools
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tests.integration.homeservers.engine import engine_url
from tests.sshd import Sshd, running_sshd
from trafficlight.config import DockerHost
from trafficlight.errors import TrafficlightError
from trafficlight.homeservers.docker.nodes import container_nodes
from trafficlight.parameters import NodeRequest
from trafficlight.server_types import SynapseStable
from trafficlight.services.account import Account
from trafficlight.services.clusters import Cluster, open_cluster
from trafficlight.services.connections import NodeAddress, NodeError
from trafficlight.services.node import LogEntry, case_folder, note_logs
from trafficlight.services.streams import CommandError

pytestmark = pytest.mark.asyncio(loop_scope="module")

_FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"


def _list(folder: Path, servers: list[Sshd]) -> str:
    nodes = [one.node(f"n{number}") for number, one in enumerate(servers)]
    content = [node.model_dump(mode="json", exclude_unset=True) for node in nodes]
    (folder / "nodes.yml").write_text(yaml.safe_dump(content))
    return str(folder / "nodes.yml")


def _vagrant(folder: Path, servers: list[Sshd]) -> str:
    """Make a program that prints what ``vagrant ssh-config`` does."""
    text = "".join(
        f"Host n{number}\n  HostName 127.0.0.1\n  User {node.user}\n  Port {node.port}\n"
        "  UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n  PasswordAuthentication no\n"
        f'  IdentityFile "{node.key}"\n  IdentitiesOnly yes\n  LogLevel FATAL\n\n'
        for number, node in enumerate(one.node() for one in servers)
    )
    (folder / "printed").write_text(text)
    (folder / "vagrant").write_text(
        f'#!/bin/sh\n[ "$*" = ssh-config ] && echo "==> a warning" >&2 && cat {folder}/printed\n'
    )
    (folder / "vagrant").chmod(0o755)
    return f"vagrant:{folder}"


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["local", "ssh", "vagrant", pytest.param("docker", marks=pytest.mark.docker)],
)
async def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    """A cluster of each kind, opened as the lab does."""
    folder, setting, engine = tmp_path_factory.mktemp("cluster"), "local", DockerHost(url="unix:///none")
    async with AsyncExitStack() as stack:
        if request.param == "docker":
            setting, engine = f"docker:{SynapseStable.image}", DockerHost(url=engine_url())
        elif request.param != "local":
            start = stack.enter_context(running_sshd(tmp_path_factory))
            servers = [start() for _ in range(3)]
            setting = (_list if request.param == "ssh" else _vagrant)(folder, servers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(folder), prepend=":")
            containers = functools.partial(container_nodes, engine)
            opened = await stack.enter_async_context(open_cluster(setting, "", containers))
        changed = asyncio.Event()
        watching = asyncio.create_task(opened.watch(changed.set))
        try:
            async with asyncio.timeout(100):  # one that was too slow is tried again
                while opened.limited and len(opened.free) < 3:
                    await changed.wait()
                    changed.clear()
            yield opened
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def leased(cluster: Cluster, number: int, logs: Path) -> AsyncIterator[list[Account]]:
    """Lease nodes for a case; gives its account on each."""
    mark = secrets.token_hex(8)
    names = [node.name for node in cluster.free[:number]] if cluster.limited else []
    cluster.take(names)
    try:
        async with cluster.lease(NodeRequest(number), names, mark, logs) as nodes:
            accounts = [Account(node, case_folder(node, mark), mark) for node in nodes]
            try:
                yield accounts
            finally:
                await asyncio.gather(*(one.close() for one in accounts))
    finally:
        cluster.give_back(names)


async def test_three_nodes_that_reach_each_other(cluster: Cluster, tmp_path: Path) -> None:
    async with leased(cluster, 3, tmp_path) as accounts:
        nodes = [account._address for account in accounts]
        assert len({node.name for node in nodes}) == 3
        written = (one.create_file("name", one._address.name) for one in accounts)
        await asyncio.gather(*written)
        names = await asyncio.gather(*(one.read("name") for one in accounts))
        assert names == [node.name for node in nodes]  # each has a folder of its own
        port = nodes[0].ports[0] if nodes[0].ports else await _free_port(accounts[0])
        command = ["python3", "-u", "-m", "http.server", str(port), "--bind", nodes[0].host]
        async with accounts[0].monitor_log("web.log") as log:
            await accounts[0].start(command, name="web")
            await log.until("Serving HTTP", 30)
        url = f"http://{nodes[0].host}:{port}/name"
        fetched = await asyncio.gather(*(one.run(["python3", "-c", _FETCH, url]) for one in accounts[1:]))
        assert [done.stdout.strip() for done in fetched] == [nodes[0].name] * 2


async def test_commands(cluster: Cluster, tmp_path: Path) -> None:
    async with leased(cluster, 1, tmp_path) as [account]:
        done = await account.run(
            "pwd; cat; echo $NAME >&2; exit 3", check=False, input="in", env={"NAME": "a b"}
        )
        assert (done.stdout, done.stderr, done.code) == (f"{account.folder}\nin", "a b\n", 3)
        words = ["a b", "$HOME", "it's", '"', "*", "\n"]
        assert (await account.run(["printf", "%s|", *words])).stdout == "|".join(words) + "|"
        done = await account.run("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2")
        assert len(done.stdout) == len(done.stderr) == 1_000_000
        assert [line async for line in account.lines("echo one; echo two")] == ["one", "two"]
        with pytest.raises(CommandError, match=r"(?s)exit code 4.*stderr:\nbad"):
            await account.run("echo bad >&2; exit 4")
        with pytest.raises(CommandError, match=r"did not end within 0\.5 s"):
            await account.run("trap '' TERM; sleep 1000 & echo $! > child; sleep 1000", timeout=0.5)
        await _ended(account, (await account.read("child")).strip())
        done_at_once = await asyncio.gather(*(account.run(["echo", str(number)]) for number in range(12)))
        assert [int(one.stdout) for one in done_at_once] == list(range(12))


async def test_background_processes(cluster: Cluster, tmp_path: Path) -> None:
    async with leased(cluster, 1, tmp_path) as [account]:
        async with account.monitor_log("job.log") as log:
            await account.start("sleep 1000 & echo child $!; trap '' TERM; wait; sleep 1000", name="job")
            child = (await log.until("child", 20)).split()[1]
        assert account.alive("job")
        await account.signal("job", "STOP")
        await account.signal("job", "CONT")
        await account.stop("job", timeout=0.5)
        assert not account.alive("job")
        await _ended(account, child)
        await account.start("echo why; exit 7", name="bad")
        with pytest.raises(CommandError, match=r"(?s)bad ended \(exit code 7\).*why"):
            await account.wait("bad", 20)
        await account.start("kill -KILL $$", name="killed")
        with pytest.raises(CommandError, match=r"killed ended \(signal 9\)"):
            await account.wait("killed", 20)


async def test_files(cluster: Cluster, tmp_path: Path) -> None:
    source, content = tmp_path / "a tree", bytes(range(256)) * 1000
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(content)
    async with leased(cluster, 1, tmp_path) as [account]:
        await account.copy_to(source, "there/copy")
        await account.copy_from("there/copy", tmp_path / "back")
        assert (tmp_path / "back/copy/deep/file").read_bytes() == content
        await account.create_from_template("conf/x", "port = {{ port }}\n", port=7)
        assert await account.read("conf/x") == "port = 7\n"
        await account.remove("conf")
        assert not await account.exists("conf")
        async with account.monitor_log("log") as log:
            await account.run("echo one >> log")
            assert await log.until("one", 20) == "one"
            await account.run("mv log log.1; echo two > log")
            assert await log.until("two", 20) == "two"


async def test_nothing_of_a_case_is_left_but_its_logs(cluster: Cluster, tmp_path: Path) -> None:
    logs, left = tmp_path / "logs", []
    async with leased(cluster, 3, logs) as accounts:

        async def leave(account: Account) -> tuple[NodeAddress, str, str]:
            # As of a test that was killed: nothing of it has been stopped or collected.
            await account.start("setsid sleep 1000 & echo $! > child; echo kept > log; wait", name="job")
            await note_logs(
                account, "S-1", [LogEntry(service="S-1", name="log", path="log", collect="always")]
            )
            async with asyncio.timeout(20):
                while not await account.exists("log"):
                    await asyncio.sleep(0.01)
            return account._address, account.folder, (await account.read("child")).strip()

        left = await asyncio.gather(*map(leave, accounts))
    for address, folder, child in left:
        assert (logs / "S-1" / address.name / "log").read_text() == "kept\n"
        if address.prefix:
            with pytest.raises(NodeError, match=f"node {address.name}: "):  # the container is gone
                await Account(address, "/", "").run("true")
            continue
        look = Account(address, "/", "")
        assert not await look.exists(folder)
        await _ended(look, child)
        await look.close()


async def _free_port(account: Account) -> int:
    script = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"
    return int((await account.run(["python3", "-c", script])).stdout)


async def _ended(account: Account, pid: str) -> None:
    async with asyncio.timeout(20):
        while True:
            state = await account.run(f"sed 's/.*) //' /proc/{pid}/stat", check=False)
            if state.code != 0 or state.stdout.startswith("Z"):
                return
            await asyncio.sleep(0.01)


_MAKE = """
import asyncio, sys
from trafficlight.config import DockerHost
from trafficlight.homeservers.docker.nodes import container_nodes
from trafficlight.parameters import NodeRequest
from pathlib import Path

async def main():
    async with container_nodes(DockerHost(url=sys.argv[1]), sys.argv[2]) as cluster:
        async with cluster.lease(NodeRequest(1), [], "mark", Path("/nonexistent")) as [node]:
            print(node.prefix[-1], flush=True)
            await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.docker
async def test_the_next_start_removes_the_containers_of_a_killed_lab(tmp_path: Path) -> None:
    url, image, pipe = engine_url(), SynapseStable.image, asyncio.subprocess.PIPE
    lab = await asyncio.create_subprocess_exec(sys.executable, "-c", _MAKE, url, image, stdout=pipe)
    assert lab.stdout is not None
    try:
        async with asyncio.timeout(60):
            container = (await lab.stdout.readline()).decode().strip()
    finally:
        lab.kill()
        await lab.wait()
    assert await _running(url, container)
    async with container_nodes(DockerHost(url=url), image) as cluster, leased(cluster, 1, tmp_path):
        assert not await _running(url, container)


@pytest.mark.docker
async def test_a_container_that_is_killed_mid_command(tmp_path: Path) -> None:
    url = engine_url()
    async with (
        container_nodes(DockerHost(url=url), SynapseStable.image) as cluster,
        leased(cluster, 1, tmp_path) as [account],
    ):
        await account.start("sleep 1000", name="job")
        running = asyncio.ensure_future(account.run("touch began; sleep 1000"))
        while not await account.exists("began"):
            await asyncio.sleep(0.01)
        await _docker(url, "kill", account._address.prefix[-1])
        with pytest.raises(TrafficlightError, match="node docker-1: "):
            await running


@pytest.mark.docker
async def test_an_image_that_there_is_not(tmp_path: Path) -> None:
    async with container_nodes(DockerHost(url=engine_url()), "no-such-image:none") as cluster:
        with pytest.raises(TrafficlightError, match="has no image no-such-image:none and cannot pull it"):
            async with leased(cluster, 1, tmp_path):
                pytest.fail("it was leased")


async def _running(url: str, container: str) -> bool:
    return (await _docker(url, "inspect", "-f", "{{.State.Running}}", container)).strip() == "true"


async def _docker(url: str, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "docker", "-H", url, *words, stdout=asyncio.subprocess.PIPE
    )
    return (await process.communicate())[0].decode()
