"""Programs that were written for the wire years ago complete a case, as they are.

Each script does what one family of them does: no ids, a new connection for each request, no token, nothing
read but the status and the action, and every status but 200 is its end.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import aiohttp
import pytest

from tests.integration.http.conftest import HttpHarness, ended
from trafficlight.cli.runtime import adapters_running
from trafficlight.coordinator import supervisor
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.supervisor import Program
from trafficlight.results.events import State

CLOSE = {"Connection": "close"}
TALKS = """
    await alice.perform("login", username="u")
    answer = await alice.perform("get_timeline")
    assert answer == {"response": "got_timeline", "timeline": [{"user": "u", "message": "m"}]}, answer
"""


class OldAdapter:
    """What they all have in common."""

    def __init__(self, site: HttpHarness) -> None:
        self.site = site
        self.path = f"/client/{uuid4()}"
        self.polled: list[str] = []

    async def call(self, method: str, path: str, **options: Any) -> Any:
        answer = await self.site.ask(method, f"{self.path}/{path}", headers=CLOSE, **options)
        assert answer.status == 200, answer.text()
        return answer

    async def poll(self) -> Any:
        message = (await self.call("GET", "poll")).json()
        assert isinstance(message["data"], dict)
        self.polled.append(message["action"])
        return message

    async def upload(self, name: str) -> None:
        form = aiohttp.FormData()
        form.add_field("file", b"", filename=name, content_type="application/octet-stream")
        answer = await self.site.post(f"{self.path}/upload", data=form, headers=CLOSE)
        assert answer.status == 200


Script: TypeAlias = Callable[[OldAdapter], Awaitable[None]]

ANSWERS: dict[str, Any] = {
    "login": {"response": "logged_in"},
    "get_timeline": {"response": "got_timeline", "timeline": [{"user": "u", "message": "m"}]},
}


async def polls_and_responds(adapter: OldAdapter) -> None:
    """Respond to what is known; after `exit` no more polls."""
    while (message := await adapter.poll())["action"] != "exit":
        if message["action"] in ANSWERS:
            await adapter.call("POST", "respond", json=ANSWERS[message["action"]])


async def responds_with_strings(adapter: OldAdapter) -> None:
    """Send JSON without saying so, and a file before the response that names it."""
    while (message := await adapter.poll())["action"] != "exit":
        if message["action"] in ANSWERS:
            await adapter.upload("snapshot.png")
            body = aiohttp.JsonPayload(ANSWERS[message["action"]], content_type="text/plain")
            await adapter.call("POST", "respond", data=body)


async def responds_twice(adapter: OldAdapter) -> None:
    """Retry a response whose answer was lost: it must not answer the next action."""
    while (message := await adapter.poll())["action"] != "exit":
        if message["action"] in ANSWERS:
            for _ in range(2):
                await adapter.call("POST", "respond", json=ANSWERS[message["action"]])


async def fails_in_its_answer(adapter: OldAdapter) -> None:
    while (message := await adapter.poll())["action"] != "exit":
        if message["action"] != "idle":
            await adapter.call("POST", "respond", json={"response": "error"})


async def breaks_and_uploads_after(adapter: OldAdapter) -> None:
    """Report an error instead of an answer, then send log and video."""
    await adapter.poll()
    report = {"error": {"type": "unknown", "path": None, "details": "TypeError: x is undefined"}}
    await adapter.call("POST", "error", json=report)
    await adapter.upload("out.txt")
    await adapter.upload("trafficlight.spec.ts.mp4")


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (polls_and_responds, State.SUCCESS),
        (responds_with_strings, State.SUCCESS),
        (responds_twice, State.SUCCESS),
        (fails_in_its_answer, State.FAILURE),
        (breaks_and_uploads_after, State.FAILURE),
    ],
)
@pytest.mark.parametrize("kind", ["element-web", "hydrogen-web", "element-call"])
async def test_a_case_is_completed(site: HttpHarness, script: Script, state: State, kind: str) -> None:
    adapter = OldAdapter(site)
    await adapter.call("POST", "register", json={"type": kind, "version": "UNKNOWN"})
    session = await site.start(TALKS, client_type=kind)
    async with asyncio.timeout(60):
        await script(adapter)
    await ended(session)
    (case,) = session.record.cases.values()
    assert case.state is state, case.message


async def test_one_that_does_not_know_an_action_does_not_spin(site: HttpHarness) -> None:
    """Such a program polls again at once, and never responds: 40 polls in 0.12 s."""
    adapter = OldAdapter(site)
    await adapter.call("POST", "register", json={"type": "nio"})
    session = await site.start("await alice.perform('dance')")
    loop = asyncio.get_running_loop()
    while (await adapter.poll())["action"] != "dance":
        pass
    began = loop.time()
    for _ in range(2):
        assert (await adapter.poll())["action"] == "dance"
    assert loop.time() - began > 1.0
    site.lab.engine.cancel_running(session)
    await ended(session)


async def test_a_proxy_registers_with_its_address(site: HttpHarness) -> None:
    adapter = OldAdapter(site)
    body = {"type": "network-proxy", "endpoint": "http://localhost:4040/"}
    await adapter.call("POST", "register", json=body)
    assert "http://localhost:4040/" in (await site.get("/status")).text()


PROGRAM = """
import json, os, sys, time, urllib.request, uuid
BASE = f"{os.environ['trafficlightURL']}/client/{uuid.uuid4()}"
def call(path, body=None, media_type="application/json"):
    request = urllib.request.Request(f"{BASE}/{path}", body, {"Content-Type": media_type})
    return json.load(urllib.request.urlopen(request))
call("register", b'{"type": "nio"}')
while (action := call("poll")["action"]) != "exit":
    if action != "idle":
        call("respond", b'{"response": "done"}')
if "uploads" in sys.argv:
    time.sleep(0.5)
    head = b'--x\\r\\nContent-Disposition: form-data; name="file"; filename="last.webm"\\r\\n\\r\\n'
    part = head + b"film\\r\\n--x--\\r\\n"
    call("upload", part, "multipart/form-data; boundary=x")
    sys.exit()
time.sleep(1000)
"""


def one_program(site: HttpHarness, *arguments: str) -> list[Program]:
    """Return a program, which sends no instance."""
    program = site.folder / "program.py"
    program.write_text(PROGRAM)
    return [Program("old", [sys.executable, str(program), *arguments])]


def with_exit_deadline(lab: Lab, seconds: float) -> Lab:
    """Return a lab with another setting."""
    return replace(lab, settings=lab.settings.model_copy(update={"exit_deadline": seconds}))


async def test_a_program_that_stays_after_exit_is_restarted(
    site: HttpHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second case waited until its deadline."""
    monkeypatch.setattr(supervisor, "_LOOK", 0.05)
    lab = with_exit_deadline(site.lab, 0.2)
    async with adapters_running(lab, site.url, one_program(site), tmp_path / "adapters"):
        for _ in range(2):
            session = await ended(await site.start("await alice.perform('one')"))
            assert session.record.counts[State.SUCCESS] == 1


async def test_what_is_uploaded_after_the_last_exit_arrives(site: HttpHarness, tmp_path: Path) -> None:
    async with adapters_running(site.lab, site.url, one_program(site, "uploads"), tmp_path / "adapters"):
        session = await ended(await site.start("await alice.perform('one')"))
    assert [path.read_text() for path in session.folder.path.rglob("last.webm")] == ["film"]


async def test_a_signal_ends_the_wait_for_the_last_uploads(site: HttpHarness, tmp_path: Path) -> None:
    lab = with_exit_deadline(site.lab, 3600)
    async with asyncio.timeout(60):
        async with adapters_running(lab, site.url, one_program(site), tmp_path / "adapters"):
            await ended(await site.start("await alice.perform('one')"))
            asyncio.get_running_loop().call_later(0.5, setattr, lab.engine, "stopping", "SIGINT")


async def test_cases_do_not_wait_for_a_program_that_keeps_exiting(
    site: HttpHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `serve`, too: they waited for the whole deadline."""
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE", 0.01)
    programs = [Program("old", ["/bin/false"])]
    async with adapters_running(site.lab, site.url, programs, tmp_path / "adapters"):
        session = await ended(await site.start("await alice.perform('one')"))
    (case,) = session.record.cases.values()
    assert case.state is State.ERROR
    assert "the program old exited" in case.message
