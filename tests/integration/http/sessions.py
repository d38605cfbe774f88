"""Sessions that tests of the API ask for."""

import asyncio
import json
import textwrap
from pathlib import Path
from typing import Any

from tests.integration.http.conftest import TEST_FILE, HttpHarness, ScriptedAdapter, ended
from trafficlight.coordinator.session import Session

ASKS = "await alice.perform('one')"
TWO = """

class Fails(Test):
    clients = {"alice": [Type]}

    async def run(self, alice: MatrixClient) -> None:
        assert False, "no"
"""


def a_test_file(folder: Path, body: str = "pass", *, more: str = "", name: str = "talk_test.py") -> str:
    path = folder / name
    path.write_text(TEST_FILE.format(body=textwrap.indent(body, " " * 8), client_type="nio") + more)
    return str(path)


async def submitted(site: HttpHarness, **request: Any) -> dict[str, Any]:
    answer = await site.post("/api/sessions", json=request)
    assert answer.status == 201, answer.text()
    body: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/api/sessions/{body['id']}" == body["urls"]["session"]
    return body


async def stood(site: HttpHarness, session: str) -> dict[str, Any]:
    body: dict[str, Any] = (await site.get(f"/api/sessions/{session}")).json()
    return body


def lines(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines() if line]


async def submitted_and_played(site: HttpHarness, body: str = ASKS) -> Session:
    """Run one case over the API to its end, so that it is in the history."""
    started = await submitted(site, targets=[await asyncio.to_thread(a_test_file, site.folder, body)])
    session = site.lab.engine.sessions[started["id"]]
    adapter = ScriptedAdapter(site)
    await adapter.register()
    message = await adapter.action()
    await adapter.respond({"id": message["id"]})
    return await ended(session)


async def played(site: HttpHarness, body: str = ASKS) -> Session:
    """Run one case, whose client uploads a file, to its end."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start(body)
    message = await adapter.action()
    await adapter.upload("shot.png", b"\x89PNG\r\n\x1a\n")
    await adapter.respond({"id": message["id"]})
    return await ended(session)
