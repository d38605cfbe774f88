"""Misbehaving test files submitted over HTTP: clear answers, and no delay for other sessions."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.coordinator.looping import HEAD, SIX, HttpHarness, ended, open_site
from trafficlight.coordinator.session import Session
from trafficlight.results.events import State

OWN = """
import enum, os, stat

class Colour(enum.Enum):
    RED = 1

class Fits(ClientType):
    def match(self, adapter):
        return adapter.registration["type"] == "nio"

class Foreign:
    def name(self): return "Foreign"
    def match(self, adapter): return adapter.registration["type"] == "nio"

class FitsNot(ClientType):
    def match(self, adapter):
        return adapter.registration["type"] == "other"

class Exits(ClientType):
    def match(self, adapter):
        os._exit(7)

class Raises(ClientType):
    def match(self, adapter):
        raise ValueError("no idea")

class Hangs(ClientType):
    def match(self, adapter):
        while True: pass

class Speaks(ClientType):
    def match(self, adapter):
        raw = b"nonsense"
        for fd in range(3, 100):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.write(fd, len(raw).to_bytes(4, "big") + raw)
            except OSError:
                pass

class Dances(Test):
    clients = {"alice": [Fits, Foreign, FitsNot, Exits, Raises, Hangs, Speaks]}

    @matrix(n=[1], colour=[Colour.RED])
    async def run(self, alice, n, colour):
        assert colour is Colour.RED
        assert (await alice.perform("dance", n=n))["steps"] == n
"""


async def submitted(site: HttpHarness, *paths: Path) -> dict[str, Any]:
    body = {"targets": [str(path) for path in paths]}
    async with site.http.post(f"{site.url}/api/sessions", json=body) as answer:
        assert answer.status == 201, await answer.text()
        told: dict[str, Any] = await answer.json()
        return told


def written(site: HttpHarness, name: str, text: str) -> Path:
    path = site.folder / f"{name}_test.py"
    path.write_text(HEAD + "from trafficlight.client_types import ClientType\n" + text)
    return path


async def until_waiting_for(session: Session, site: HttpHarness, *words: str) -> None:
    """Wait until the reasons for which cases of a session wait hold all of these words."""
    async with asyncio.timeout(60):
        while not all(any(word in reason for reason in session.reasons()) for word in words):
            site.lab.engine.wake()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os; os._exit(0)", ": importing it ended its process: exit code 0"),
        ("time.sleep(600)", ":6: not imported within 3 s"),
        ("while True: pass", ":6: not imported within 3 s"),
    ],
)
async def test_a_bad_file_delays_no_poll(tmp_path: Path, text: str, told: str) -> None:
    async with open_site(tmp_path, 2, import_deadline=3) as site:
        for _ in range(2):
            site.start_adapter()
        bad, good = written(site, "bad", text), written(site, "good", SIX)
        asking = asyncio.create_task(submitted(site, bad, good))
        rounds = 0
        while not asking.done():
            await ended(await site.submit(f"dances{rounds}", SIX))
            rounds += 1
        body = await asking
        assert body["cases"] == 6
        assert len(body["problems"]) == 1
        assert body["problems"][0].startswith(f"{bad.name}{told}")
        if (session := site.lab.engine.sessions.get(body["id"])) is not None:
            await ended(session)
        assert rounds, "others were answered in between"


async def test_types_that_match_by_themselves(tmp_path: Path) -> None:
    async with open_site(tmp_path, 2, import_deadline=3) as site:
        body = await submitted(site, written(site, "own", OWN))
        session = site.lab.engine.sessions[body["id"]]
        assert not [name for name in sys.modules if name.endswith(".own_test")]
        site.start_adapter()
        await until_waiting_for(
            session,
            site,
            "needs 1 x FitsNot (",
            "; its match() ended its process: exit code 7)",
            "; its match() raised ValueError: no idea)",
            "; its match() did not return within 3 s)",
            "; its match() sent a message that the coordinator does not accept: not a message: b'nonsense')",
        )
        states = {
            id.partition("=")[2].partition(",")[0]: case.state for id, case in session.record.cases.items()
        }
        assert states == {
            "Fits": State.SUCCESS,
            "Foreign": State.SUCCESS,
            **dict.fromkeys(("FitsNot", "Exits", "Raises", "Hangs", "Speaks"), State.WAITING),
        }
        site.lab.engine.cancel(session, "the test is over")
        async with asyncio.timeout(60):
            await session.ended.wait()


async def test_a_case_that_is_no_longer_produced_is_an_error(tmp_path: Path) -> None:
    text = "import os\nclass A(Test):\n    @matrix(pid=[os.getpid()])\n    async def run(self, pid): ...\n"
    async with open_site(tmp_path, 1) as site:
        body = await submitted(site, written(site, "unstable", text))
        session = site.lab.engine.sessions[body["id"]]
        async with asyncio.timeout(60):
            await session.ended.wait()
        (case,) = session.record.cases.values()
        assert case.state is State.ERROR
        wrong = "the test file produced this case when it was collected and no longer does: "
        assert wrong in case.message


async def test_a_lab_that_stops_does_not_wait_for_a_plan(tmp_path: Path) -> None:
    async with open_site(tmp_path, 1) as site:
        reached = asyncio.Event()

        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            writer.close()

        async with await asyncio.start_server(met, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            text = f"import socket; socket.create_connection(('127.0.0.1', {port})); time.sleep(600)"
            body = {"targets": [str(written(site, "hangs", text))]}
            asking = asyncio.create_task(site.http.post(f"{site.url}/api/sessions", json=body).__aenter__())
            async with asyncio.timeout(60):
                await reached.wait()
                await site.lab.engine.stop("enough")
                async with await asking as answer:
                    assert answer.status == 503
                    assert (await answer.json())["error"] == {
                        "code": "stopping",
                        "message": "the coordinator is shutting down: enough",
                    }
