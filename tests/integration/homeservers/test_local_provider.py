"""Homeservers as processes on this machine."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.homeservers.conftest import data_folders
from trafficlight.cache import CacheFolder
from trafficlight.clients.home_server import register_account
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.local.server import LocalServer
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.homeservers.recipes.synapse import SynapseRecipe
from trafficlight.server_types import HomeServerSpec, SynapseStable

pytestmark = pytest.mark.asyncio(loop_scope="session")

Ask = Callable[..., ServerRequest]


class SabotagedSynapse(SynapseRecipe):
    """A Synapse whose configuration names a database that does not exist."""

    name = "sabotaged"

    def configure(self, installation: Installation, place: Place) -> Command:
        command = super().configure(installation, place)
        file = place.directory / "homeserver.yaml"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"database": {"name": "no-such-database"}}))
        return command


class UnforkableSynapse(SynapseRecipe):
    """A Synapse whose fork server does not work."""

    async def install(self, version: str) -> Installation:
        return replace(await super().install(version), fork_server=("false",))


def _ignore(_: str) -> None:
    """Drop the progress."""


class CountedPorts(PortPicker):
    """Knows which ports are allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.allocated: set[int] = set()

    def pick(self) -> int:
        port = super().pick()
        self.allocated.add(port)
        return port

    def release(self, port: int) -> None:
        super().release(port)
        self.allocated.discard(port)


@asynccontextmanager
async def _provider_of(*recipes: SynapseRecipe, **options: object) -> AsyncIterator[LocalProvider]:
    before = data_folders()
    provider = LocalProvider(recipes=recipes, **options)  # type: ignore[arg-type]
    try:
        yield provider
    finally:
        await provider.close()
        assert data_folders() == before


@pytest.mark.parametrize(
    "recipe", [SabotagedSynapse, type("Both", (SabotagedSynapse, UnforkableSynapse), {})]
)
async def test_a_failing_deploy_reports_why_and_leaves_nothing(
    recipe: type[SynapseRecipe], tmp_path: Path, ask: Ask, descendants: Callable[[], set[int]]
) -> None:
    spec = HomeServerSpec("Sabotaged", "sabotaged", "stable", "")
    good = SynapseRecipe(CacheFolder(), _ignore)
    async with _provider_of(good, recipe(CacheFolder(), _ignore)) as provider:
        await provider.prepare([spec, *SynapseStable().homeservers()])
        before = descendants()
        bad = ServerRequest("bob", spec, tmp_path / "bob.log")
        with pytest.raises(
            DeployError, match=r"bob: Synapse .* exited while starting, exit code 1"
        ) as failure:
            async with provider.deploy("fails", [ask("alice"), bad]):
                pytest.fail("it was deployed")
        assert "no-such-database" in failure.value.log
        assert "no-such-database" in bad.log.read_text()
        assert not provider.servers
        assert descendants() == before


async def test_a_port_that_another_program_took_is_replaced(ask: Ask) -> None:
    ports = CountedPorts()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        picked = [other.getsockname()[1]]
        really_pick = ports.pick
        ports.pick = lambda: picked.pop() if picked else really_pick()  # type: ignore[method-assign]
        async with (
            _provider_of(SynapseRecipe(CacheFolder(), _ignore), ports=ports) as provider,
            provider.deploy("clash", [ask("server")]) as [server],
        ):
            assert not picked
            await register_account(server.cs_api, "alice", "a password")
    assert not ports.allocated


async def test_a_version_whose_fork_server_fails_still_starts(ask: Ask) -> None:
    async with (
        _provider_of(UnforkableSynapse(CacheFolder(), _ignore)) as provider,
        provider.deploy("plain", [ask("server")]) as [server],
    ):
        await register_account(server.cs_api, "alice", "a password")
        await server.operate("restart")
        await register_account(server.cs_api, "bob", "a password")


async def test_a_fork_server_does_ahead_what_configurations_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with _provider_of(SynapseRecipe(CacheFolder(), _ignore)) as provider:
        await provider.prepare(SynapseStable().homeservers())
        (log,) = provider._folder.path.glob("synapse-*-fork-server.log")
        assert "Traceback" not in log.read_text(), "it says what this version of Synapse does otherwise"
    assert "media_store" not in os.listdir(tmp_path)


async def test_a_version_that_is_slow_to_build_holds_up_no_other() -> None:
    begun, built = asyncio.Event(), asyncio.Event()

    class SlowSynapse(SynapseRecipe):
        async def install(self, version: str) -> Installation:
            if version == "1.2.3":
                begun.set()
                await built.wait()
            return Installation(version, Path(), version, ("false",))

    specs = [HomeServerSpec(version, "synapse", version, "") for version in ("1.2.3", "stable")]
    async with (
        asyncio.timeout(60),
        _provider_of(SlowSynapse(CacheFolder(), _ignore)) as provider,
        asyncio.TaskGroup() as group,
    ):
        slow = group.create_task(provider.prepare(specs[:1]))
        await begun.wait()
        await provider.prepare(specs[1:])
        assert not slow.done()
        built.set()


async def test_a_server_that_dies_reports_its_exit(local: LocalProvider, ask: Ask) -> None:
    async with local.deploy("dies", [ask("server")]) as [server]:
        assert isinstance(server, LocalServer)
        assert server.exited is None
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await _eventually(lambda: server.exited == "signal 9")
        await server.operate("start")
        assert server.exited is None
        await server.operate("kill")
        assert server.exited == "signal 9, requested by the test"


async def test_a_dead_fork_server_is_replaced_and_its_servers_die(ask: Ask) -> None:
    async with _provider_of(SynapseRecipe(CacheFolder(), _ignore)) as provider:
        async with provider.deploy("before", [ask("server")]) as [server]:
            assert isinstance(server, LocalServer)
            os.kill(_fork_server_of(server), signal.SIGKILL)
            await _eventually(lambda: server.exited == "signal 9")
        async with provider.deploy("after", [ask("server")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")


async def test_a_fork_server_that_does_not_answer_is_killed_and_started_again(
    ask: Ask, descendants: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trafficlight.homeservers.local.fork_server._ANSWER_SECONDS", 2)
    before = descendants()
    async with _provider_of(SynapseRecipe(CacheFolder(), _ignore)) as provider:
        async with provider.deploy("before", [ask("old")]) as [old]:
            assert isinstance(old, LocalServer)
            stopped = _fork_server_of(old)
            os.kill(stopped, signal.SIGSTOP)
            async with asyncio.timeout(60), provider.deploy("during", [ask("new")]) as [new]:
                assert isinstance(new, LocalServer)
                await register_account(new.cs_api, "alice", "a password")
                assert old.exited == "signal 9"
                assert _fork_server_of(new) != stopped
                os.kill(_fork_server_of(new), signal.SIGSTOP)
                await asyncio.wait_for(new.destroy(), 60)  # the signal is not delivered either
                assert new.exited == "signal 9"
    assert descendants() == before


async def test_a_server_is_paused_when_the_operation_returns(local: LocalProvider, ask: Ask) -> None:
    async with local.deploy("slow", [ask("server")]) as [server]:
        assert isinstance(server, LocalServer)
        slow = _fork_server_of(server)
        os.kill(slow, signal.SIGSTOP)  # it is this process that sends the signal
        pausing = asyncio.create_task(server.operate("pause"))
        done, _ = await asyncio.wait([pausing], timeout=0.2)
        os.kill(slow, signal.SIGCONT)
        assert not done
        await pausing
        await _eventually(lambda: _status(server)["State"].startswith("T"))


@pytest.mark.parametrize("milliseconds", [0, 2, 10, 30, 60, 100, 140, 180])
async def test_cancelled_while_entering_leaves_nothing(
    local: LocalProvider, ask: Ask, descendants: Callable[[], set[int]], milliseconds: int
) -> None:
    async with local.deploy("first", [ask("server")]):
        before = descendants()  # with the fork server, which a test before this may have killed

    async def case() -> None:
        async with local.deploy("cancelled", [ask("red"), ask("blue")]):
            await asyncio.Event().wait()

    task = asyncio.create_task(case())
    await asyncio.sleep(milliseconds / 1000)  # a different moment of the start each time
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not local.servers
    await _eventually(lambda: descendants() <= before)


async def test_twenty_deployments_leave_no_process_port_or_folder(
    local: LocalProvider, ask: Ask, descendants: Callable[[], set[int]]
) -> None:
    async with local.deploy("first", [ask("server")]) as [server]:
        assert isinstance(server, LocalServer)
        folder = server.place.directory.parent
    processes, files, sockets = descendants(), sorted(folder.iterdir()), _open_files()
    for _ in range(20):
        async with local.deploy("again", [ask("server")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")
    assert descendants() == processes
    assert sorted(folder.iterdir()) == files
    assert _open_files() <= sockets + 1  # a thread pool may have one open


async def test_closing_destroys_what_is_deployed(ask: Ask, descendants: Callable[[], set[int]]) -> None:
    before, folders = descendants(), data_folders()
    provider = LocalProvider()
    async with provider.deploy("closed", [ask("server")]) as [server]:
        await provider.close()
        assert descendants() == before
        assert data_folders() == folders
        with pytest.raises(OSError, match=r".*"):
            await _connect(server)
    with pytest.raises(DeployError, match="closed"):
        async with provider.deploy("too late", [ask("server")]):
            pytest.fail("it was deployed")
    await provider.close()


async def test_an_unknown_recipe_is_unsupported_when_deployed(local: LocalProvider, tmp_path: Path) -> None:
    request = ServerRequest("server", HomeServerSpec("Nonesuch", "nonesuch", "1", ""), tmp_path / "log")
    with pytest.raises(UnsupportedError, match="nonesuch"):
        async with local.deploy("unknown", [request]):
            pytest.fail("it was deployed")


async def _eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until a condition of another process holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.01)


async def _connect(server: RunningServer) -> None:
    host, port = server.cs_api.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()


def _fork_server_of(server: LocalServer) -> int:
    parent = int(_status(server)["PPid"])
    assert parent != os.getpid(), "it was started without a fork server"
    return parent


def _status(server: LocalServer) -> dict[str, str]:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
