"""The proxy process between homeservers: servers and clients of TLS that check each other's certificates."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from trafficlight.coordinator.network import NetworkProxy
from trafficlight.errors import LabError
from trafficlight.homeservers.certificates import Certificates
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.network.connection import CaseNetwork, FederationPort
from trafficlight.network.federation import FederationNetwork


class Server:
    """A homeserver that answers with what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<{self.name}>"

    async def start(self, certificates: Certificates, port: int) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificates.certificate, certificates.private_key)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=tls).start()
        files = certificates.certificate, certificates.private_key, certificates.authority
        self.port = FederationPort(port, self.runner.addresses[0][1], *files)
        self.server_name = f"localhost:{port}"

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/never":
            await self.ended.wait()
        return web.json_response({"path": request.path, "me": self.name})


class Federation:
    """Homeservers of one case, which ask each other through the proxy."""

    def __init__(
        self, network: CaseNetwork, servers: dict[str, Server], session: aiohttp.ClientSession
    ) -> None:
        self.network, self.servers, self.session = network, servers, session

    def of(self, role: str) -> FederationNetwork:
        return FederationNetwork(role, self.network)

    async def ask(self, asking: str, asked: str, path: str = "/x", *, signed: bool = True) -> Any:
        origin, server = self.servers[asking].server_name, self.servers[asked]
        authorization = f'X-Matrix destination="{server.server_name}",origin="{origin}",key="a",sig="b"'
        headers = {"Authorization": authorization} if signed else {}
        async with self.session.get(f"https://{server.server_name}{path}", headers=headers) as answer:
            return (await answer.json())["me"]

    async def fails(self, asking: str, asked: str, *, signed: bool = True) -> None:
        with pytest.raises((aiohttp.ClientConnectionError, aiohttp.ServerDisconnectedError)):
            await self.ask(asking, asked, signed=signed)


Opened = Callable[..., contextlib.AbstractAsyncContextManager[Federation]]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.create(tmp_path)


@pytest.fixture
async def opened(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Opened]:
    proxy, ports = NetworkProxy(), PortPicker()

    async def socket() -> Path:
        return (await proxy.running()).socket

    @contextlib.asynccontextmanager
    async def open(*roles: str, record: bool = False) -> AsyncIterator[Federation]:
        servers = {role: Server(role) for role in roles}
        for server in servers.values():
            await server.start(certificates, ports.pick())
        network = CaseNetwork(
            socket,
            record=record,
            recording=lambda role, asked: tmp_path / f"{role}-{asked}.har",
            on_change=lambda *change: changes.append(change),
        )
        changes = network.changes = []  # type: ignore[attr-defined]
        trust = ssl.create_default_context(cafile=str(certificates.authority))
        connector = aiohttp.TCPConnector(ssl=trust, force_close=False)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            try:
                await network.federate({role: (one.server_name, one.port) for role, one in servers.items()})
                yield Federation(network, servers, session)
            finally:
                await network.close()
                for server in servers.values():
                    server.ended.set()
                    await server.runner.cleanup()
                    ports.release(server.port.port)

    yield open
    await proxy.close()


def recorded(path: Path) -> list[tuple[str, str, int]]:
    entries = json.loads(path.read_bytes())["log"]["entries"]
    return [(one["request"]["method"], one["request"]["url"], one["response"]["status"]) for one in entries]


async def until_recorded(path: Path, count: int) -> list[tuple[str, str, int]]:
    async with asyncio.timeout(10):
        while len(found := recorded(path)) < count:
            await asyncio.sleep(0.01)
    return found


async def test_without_a_rule_connections_pass_encrypted(opened: Opened, tmp_path: Path) -> None:
    async with opened("here", "there") as found:
        assert await found.ask("here", "there") == "there"
        assert await found.ask("there", "here") == "here"
        name = found.servers["there"].server_name
    assert await until_recorded(tmp_path / "here-there.har", 1) == [("CONNECT", f"https://{name}/", 200)]


async def test_block_is_for_what_the_one_before_the_dot_asks(opened: Opened) -> None:
    async with opened("here", "there") as found:
        here, there = found.of("here"), found.servers["there"]
        assert await found.ask("here", "there") == "there"
        polling = asyncio.create_task(found.ask("here", "there", "/never"))
        await asyncio.sleep(0)
        async with here.block(there):
            with pytest.raises(aiohttp.ClientError):
                await polling
            await found.fails("here", "there")
            assert await found.ask("there", "here") == "here"
        assert await found.ask("here", "there") == "there"
        async with found.of("there").block(found.servers["here"]):
            await found.fails("there", "here")
            assert await found.ask("here", "there") == "there"
        assert found.network.changes == [  # type: ignore[attr-defined]
            ("here", "to there: blocked", True),
            ("here", "to there: blocked", False),
            ("there", "to here: blocked", True),
            ("there", "to here: blocked", False),
        ]


async def test_offline_is_for_both_directions(opened: Opened) -> None:
    async with opened("here", "there", "yonder") as found:
        async with found.of("here").offline():
            await found.fails("here", "there")
            await found.fails("there", "here")
            await found.fails("yonder", "here", signed=False)
            assert await found.ask("there", "yonder") == "yonder"
        assert await found.ask("here", "there") == "there"


async def test_a_rule_looks_inside(opened: Opened, tmp_path: Path) -> None:
    async with opened("here", "there") as found:
        line = found.of("here").to(found.servers["there"])
        assert await found.ask("here", "there") == "there"
        async with line.intercept("/x", on_response=lambda exchange: None) as rule, line.block("/y"):
            assert await found.ask("here", "there") == "there"
            assert rule.exchanges[0].json == {"path": "/x", "me": "there"}
            with pytest.raises((KeyError, aiohttp.ClientError)):
                await found.ask("here", "there", "/y")
        assert await found.ask("here", "there", "/y") == "there"
        assert await found.ask("there", "here") == "here"
        url = f"https://{found.servers['there'].server_name}"
        expected = [("CONNECT", f"{url}/", 200), ("GET", f"{url}/x", 200), ("GET", f"{url}/y", 503)]
        assert (await until_recorded(tmp_path / "here-there.har", 4))[:3] == expected


async def test_delay_ends_with_its_block(opened: Opened) -> None:
    async with opened("here", "there") as found:
        async with found.of("here").delay(found.servers["there"], seconds=3600) as late:
            asking = asyncio.create_task(found.ask("here", "there"))
            await late.wait()
            assert not asking.done()
        assert await asking == "there"


async def test_recordings_have_requests(opened: Opened, tmp_path: Path) -> None:
    async with opened("here", "there", record=True) as found:
        await found.ask("here", "there")
        url = f"https://{found.servers['there'].server_name}/x"
        assert await until_recorded(tmp_path / "here-there.har", 1) == [("GET", url, 200)]
        assert "sig=" not in (tmp_path / "here-there.har").read_text()


async def test_of_three_who_asks_is_whose_signature_a_request_has(opened: Opened) -> None:
    async with opened("here", "there", "yonder") as found:
        async with found.of("here").block(found.servers["yonder"]):
            await found.fails("here", "yonder")
            assert await found.ask("there", "yonder") == "yonder"
            assert await found.ask("here", "there") == "there"
            assert await found.ask("here", "yonder", signed=False) == "yonder", "no one knows who asks"


async def test_rules_end_with_the_connection_of_their_case(opened: Opened) -> None:
    async with opened("here", "there") as found:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(found.of("here").block(found.servers["there"]))
            await found.fails("here", "there")
            assert found.network._connection is not None
            found.network._connection[1].transport.abort()  # as if the test was killed
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(aiohttp.ClientConnectionError):
                        assert await found.ask("here", "there") == "there"
                        break
            with pytest.raises(LabError, match="the lab's network proxy ended"):
                await stack.aclose()


async def test_a_homeserver_that_is_not_there_is_not_there(opened: Opened) -> None:
    async with opened("here", "there") as found:
        await found.servers["there"].runner.cleanup()
        await found.fails("here", "there")


async def test_what_is_not_tls_is_cut_off(opened: Opened) -> None:
    async with opened("here", "there", record=True) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.servers["there"].port.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        assert await found.ask("here", "there") == "there"


async def test_a_connection_whose_handshake_does_not_end_is_cut(opened: Opened) -> None:
    async with opened("here", "there", record=True) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.servers["there"].port.port)
        assert await found.ask("here", "there") == "there", "the proxy has accepted both"
        async with found.of("here").block(found.servers["there"]), asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


async def test_a_port_that_is_taken_is_named(opened: Opened) -> None:
    async with opened("here", "there") as found:
        servers = {role: (one.server_name, one.port) for role, one in found.servers.items()}
        with pytest.raises(LabError, match=r"^the network proxy cannot serve here: .*address already in use"):
            await found.network.federate(servers)


async def test_wrong_uses_are_refused(opened: Opened) -> None:
    async with opened("here", "there") as found:
        here, there = found.servers["here"], found.servers["there"]
        federation = found.of("here")
        problem = "^here.federation: <here> is not another homeserver of the case, only there is$"
        with pytest.raises(ValueError, match=problem):
            federation.block(here)
        with pytest.raises(ValueError, match="'there' is not another homeserver"):
            federation.delay("there", seconds=1)  # type: ignore[arg-type]
        for seconds in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"^seconds={seconds} is not a time to wait$"):
                async with federation.delay(there, seconds=seconds):
                    pass
        with pytest.raises(ValueError, match="begins with a slash, without a host"):
            async with federation.to(there).block("https://there/send"):
                pass
        async with federation.delay(there, seconds=1):
            with pytest.raises(
                RuntimeError, match=r"^here: to there: delay /\* by 2 s collides with delay /\*"
            ):
                async with federation.delay(there, seconds=2):
                    pass

        def broken(exchange: object) -> None:
            raise KeyError("of the test")

        with pytest.raises(KeyError, match="of the test"):
            async with federation.to(there).intercept("/x", on_request=broken):
                await found.fails("here", "there")


async def test_a_case_without_the_declaration_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^here is not part of a running case$"):
        FederationNetwork("here", None).block(Server("there"))
    network = CaseNetwork(
        lambda: asyncio.sleep(0, tmp_path),
        record=False,
        recording=lambda *_: tmp_path,
        on_change=lambda *_: None,
    )
    with pytest.raises(RuntimeError, match=r"needs breaks_federation = True$"):
        async with FederationNetwork("here", network).offline():
            pass
