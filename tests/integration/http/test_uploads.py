"""Files that clients send: where they land, under which name, and what never happens."""

import asyncio
import hashlib
import io
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.http.conftest import Answer, HttpHarness, Opener, ScriptedAdapter, ended
from trafficlight.config import RESULTS_MARKER
from trafficlight.coordinator.session import Session
from trafficlight.results.case import AttemptRecord
from trafficlight.suites.discovery import files_below

WAITS = """
    await alice.perform("one")
    for name in {names}:
        path = await alice.uploaded(name)
        assert path.read_bytes() == name.encode(), path
"""
NAMES = [
    "my shot.png",
    "späßchen 图.txt",
    "a.b.c",
    "x" * 300 + ".png",
    "../../up.txt",
    "C:\\dir\\file.log",
    ".hidden",
]


@dataclass
class Case:
    """A running case whose client uploads."""

    adapter: ScriptedAdapter
    session: Session
    message: dict[str, Any]

    @property
    def attempt(self) -> AttemptRecord:
        (case,) = self.session.record.cases.values()
        return case.attempts[0]

    @property
    def folder(self) -> Path:
        return self.session.folder.path / self.attempt.folder / "clients" / "alice"

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    async def finish(self) -> None:
        await self.adapter.respond({"id": self.message["id"]})
        await ended(self.session)


async def begin(site: HttpHarness, names: list[str] | None = None) -> Case:
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start(WAITS.format(names=names or []))
    return Case(adapter, session, await adapter.action())


async def send(adapter: ScriptedAdapter, body: bytes, boundary: str = "b") -> Answer:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return await adapter.site.post(f"{adapter.path}/upload", data=io.BytesIO(body), headers=headers)


def part(name: str, content: bytes, field: str = "file") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


async def test_a_file_is_found_under_the_name_it_was_sent_with(site: HttpHarness) -> None:
    """Defects 22 and 23: names were changed, collapsed, or a 500."""
    case = await begin(site, NAMES)
    for name in NAMES:
        quoted = name.replace("\\", "\\\\")
        answer = await send(case.adapter, part(quoted, name.encode()) + b"--b--\r\n")
        assert answer.status == 200, answer.text()
        (file,) = answer.json()["files"]
        assert file["name"] == name
        assert file["sha256"] == hashlib.sha256(name.encode()).hexdigest()
    await case.finish()
    (record,) = case.session.record.cases.values()
    assert record.state.value == "success", record.message
    assert [upload.name for upload in case.attempt.uploads] == NAMES
    assert len(case.files()) == len(NAMES)


async def test_a_name_that_comes_again_keeps_both(site: HttpHarness) -> None:
    """Defect 22: the first was overwritten."""
    case = await begin(site)
    for content in (b"first", b"second"):
        assert (await case.adapter.upload("same.png", content)).status == 200
    assert sorted(case.files().values()) == [b"first", b"second"]
    await case.finish()


async def test_many_files_of_one_name(site: HttpHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free number was looked for from 1 each time: 1,000 of them blocked all requests for seconds."""
    looks = 0
    exists = Path.exists

    def counted(path: Path) -> bool:
        nonlocal looks
        looks += 1
        return exists(path)

    case = await begin(site)
    monkeypatch.setattr(Path, "exists", counted)
    for _ in range(2):
        answer = await send(case.adapter, part("same.png", b"x") * 500 + b"--b--\r\n")
        assert answer.status == 200
    assert looks < 1000 * 25
    assert set(case.files()) == {"same.png", *(f"same-{number}.png" for number in range(2, 1001))}
    await case.finish()


async def test_parts_with_one_field_name_are_all_kept(site: HttpHarness) -> None:
    """Defect 22: one of them was lost."""
    case = await begin(site)
    body = part("a", b"1") + part("b", b"2") + part("", b"3") + part("c", b"", field="other") + b"--b--\r\n"
    answer = await send(case.adapter, body)
    assert answer.status == 200
    assert sorted(case.files().items()) == [("a", b"1"), ("b", b"2"), ("c", b""), ("unnamed", b"3")]
    await case.finish()


async def test_chunked_as_node_sends_it(site: HttpHarness) -> None:
    case = await begin(site)
    content = bytes(range(256)) * 3000

    async def pieces() -> AsyncIterator[bytes]:
        body = part("video.mp4", content) + b"--b--\r\n"
        for start in range(0, len(body), 1009):
            yield body[start : start + 1009]

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await case.adapter.site.post(f"{case.adapter.path}/upload", data=pieces(), headers=headers)
    assert answer.status == 200, answer.text()
    assert case.files() == {"video.mp4": content}
    await case.finish()


async def test_a_large_file_is_no_matter(site: HttpHarness) -> None:
    """Defect 24: 16 MiB was the limit."""
    case = await begin(site)
    content = b"\r\n--not-the-boundary" * 1_500_000
    answer = await send(case.adapter, part("large.bin", content) + b"--b--\r\n")
    assert answer.status == 200, answer.text()
    assert answer.json()["files"][0]["size"] == len(content)
    assert case.files()["large.bin"] == content
    await case.finish()


BROKEN = {
    "no end": part("a", b"1"),
    "in the middle of a file": part("a", b"1" * 100_000)[:-50],
    "in the middle of a head": b"--b\r\nContent-Dispo",
    "empty": b"",
    "no part": b"--b--\r\n",
    "no file": b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
    "no disposition": b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
    "an undecodable name": b'--b\r\nContent-Disposition: form-data; filename="\xff"\r\n\r\nx\r\n--b--\r\n',
    "another boundary": part("a", b"1").replace(b"--b", b"--c") + b"--c--\r\n",
    "no multipart at all": b'{"file": "x"}',
    "a good file and half of another": part("a", b"1") + part("b", b"2")[:-5],
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_broken_bodies_leave_nothing(site: HttpHarness, body: bytes) -> None:
    """Defect 17: a multipart body that failed left its file on the disk."""
    case = await begin(site)
    answer = await send(case.adapter, body)
    assert answer.status == 400, answer.text()
    assert answer.json()["error"]["code"] == "malformed_multipart"
    assert case.files() == {}
    await case.finish()


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 415),
        ("multipart/form-data", 415),
        ("multipart/form-data; boundary=" + "x" * 71, 400),
        ('multipart/form-data; boundary="é"', 400),
    ],
)
async def test_bodies_of_another_type(site: HttpHarness, media_type: str, status: int) -> None:
    case = await begin(site)
    headers = {"Content-Type": media_type}
    answer = await site.post(f"{case.adapter.path}/upload", data=b"x", headers=headers)
    assert answer.status == status
    assert set(answer.json()["error"]) == {"code", "message"}
    await case.finish()


async def test_limits_hold_and_leave_nothing(opener: Opener) -> None:
    site = await opener(upload_file_limit=1000, upload_case_limit=2500)
    case = await begin(site)
    assert (await case.adapter.upload("fits", b"x" * 1000)).status == 200
    answer = await case.adapter.upload("large", b"x" * 1001)
    assert answer.status == 413
    assert answer.json()["error"]["code"] == "too_large"
    assert (await case.adapter.upload("fits too", b"x" * 1000)).status == 200
    assert (await case.adapter.upload("no room", b"x" * 501)).status == 413
    answer = await send(case.adapter, part("a", b"x" * 400) + part("b", b"x" * 400) + b"--b--\r\n")
    assert answer.status == 413
    assert (await case.adapter.upload("room", b"x" * 500)).status == 200
    assert sorted(case.files()) == ["fits", "fits too", "room"]
    await case.finish()


@pytest.mark.parametrize(("total", "needed"), [(40 << 20, 2 << 20), (1 << 40, 1 << 30)])
async def test_uploads_leave_room_for_events(
    site: HttpHarness, monkeypatch: pytest.MonkeyPatch, total: int, needed: int
) -> None:
    case = await begin(site)
    disk = SimpleNamespace(total=total, free=needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    answer = await case.adapter.upload("too much", b"x")
    assert (answer.status, answer.json()["error"]["code"]) == (507, "disk_full")
    assert case.files() == {}
    disk.free += 1000
    assert (await case.adapter.upload("fits", b"x")).status == 200
    await case.finish()


async def test_too_many_parts_are_refused(site: HttpHarness) -> None:
    body = b"".join(part(f"f{number}", b"") for number in range(1001)) + b"--b--\r\n"
    case = await begin(site)
    answer = await send(case.adapter, body)
    assert answer.status == 413, answer.text()
    assert answer.json()["error"]["code"] == "too_large"
    assert case.files() == {}
    await case.finish()


async def test_limits_hold_for_uploads_at_once(opener: Opener) -> None:
    site = await opener(upload_case_limit=1000)
    case = await begin(site)
    answers = await asyncio.gather(*(case.adapter.upload(f"f{n}", b"x" * 600) for n in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 413, 413, 413]
    assert len(case.files()) == 1
    await case.finish()


async def test_one_adapter_cannot_reach_anothers_files(site: HttpHarness) -> None:
    """Defect 21: uuid `a` with `bc.txt` overwrote uuid `ab` with `c.txt`."""
    for uuid, name in (("a", "bc.txt"), ("ab", "c.txt"), (".d", "d.txt"), ("ab", "../a/bc.txt")):
        adapter = ScriptedAdapter(site, uuid)
        await adapter.register()
        assert (await adapter.upload(name, f"{uuid} {name}".encode())).status == 200
    root = site.lab.settings.results_root / "adapters"
    kept = [path for path in root.rglob("*") if path.is_file() and path != root / RESULTS_MARKER]
    assert {path.read_text() for path in kept} == {"a bc.txt", "ab c.txt", ".d d.txt", "ab ../a/bc.txt"}
    assert {path.parent.parent for path in kept} == {root}


async def test_uploads_of_all_adapters_without_a_case_have_one_limit(opener: Opener) -> None:
    """Each new uuid had another 16 GiB."""
    site = await opener(upload_case_limit=20_000)
    statuses = []
    for number in range(4):
        adapter = ScriptedAdapter(site)
        await adapter.register()
        statuses.append((await adapter.upload(f"{number}.txt", b"x" * 8000)).status)
    root = site.lab.settings.results_root / "adapters"
    assert statuses == [200, 200, 413, 413]
    assert len([*root.glob("*/*")]) == 2
    shutil.rmtree(root)
    assert (await adapter.upload("again.txt", b"x")).status == 200


async def test_a_client_that_breaks_off_leaves_nothing(site: HttpHarness) -> None:
    case = await begin(site)
    stopped = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield part("half.mp4", b"x" * 200_000)[:-100]
        stopped.set()
        await asyncio.Event().wait()

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    sending = asyncio.create_task(site.post(f"{case.adapter.path}/upload", data=half(), headers=headers))
    await stopped.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await case.finish()
    async with asyncio.timeout(60):
        while case.files():
            await asyncio.sleep(0.01)  # the server learns of it a moment later


async def test_an_upload_after_the_end_is_shown(site: HttpHarness) -> None:
    """Defect 26: it was not shown anywhere."""
    case = await begin(site)
    await case.finish()
    assert (await case.adapter.upload("late log.txt", b"the end")).status == 200
    page = await site.get("/status/latest/case?id=" + next(iter(case.session.record.cases)))
    text = (await site.get(page.headers["Location"])).text()
    assert "late log.txt" in text


async def test_an_upload_without_a_case_is_kept_and_limited(opener: Opener) -> None:
    """Defect 26: it was a 500, and yet on the disk."""
    site = await opener(upload_case_limit=1000)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    assert (await adapter.upload("early.txt", b"x" * 600)).status == 200
    assert (await adapter.upload("more.txt", b"x" * 600)).status == 413
    assert [path.name for path in site.lab.unclaimed.folder(adapter.uuid).iterdir()] == ["early.txt"]


async def test_parallel_uploads_without_a_case_share_the_limit(opener: Opener) -> None:
    site = await opener(upload_case_limit=1000)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    uploads = (adapter.upload(f"{number}.txt", b"x" * 400) for number in range(10))
    statuses = [answer.status for answer in await asyncio.gather(*uploads)]
    assert sorted(statuses) == [200] * 2 + [413] * 8
    assert len(list(site.lab.unclaimed.folder(adapter.uuid).iterdir())) == 2


async def test_an_upload_that_is_stored_is_counted_once(opener: Opener) -> None:
    """One that began between its rename and its bookkeeping was refused, though there was room."""
    site = await opener(upload_case_limit=1000)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    async with site.lab.unclaimed.receive("first", 1) as folder:
        (folder / "stored").write_bytes(b"x" * 400)
        async with site.lab.unclaimed.receive("second", 1):
            assert site.lab.unclaimed.size == 0
    assert (await adapter.upload("more.txt", b"x" * 601)).status == 413
    assert (await adapter.upload("more.txt", b"x" * 500)).status == 200


async def test_empty_files_take_of_the_limit(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only bytes counted: one adapter stored files without end."""
    monkeypatch.setattr("trafficlight.http.wire.app._FILES", 3)
    case = await begin(await opener(upload_case_limit=3000))
    three = b"".join(part(f"{number}.txt", b"") for number in range(3))
    assert (await send(case.adapter, three + part("4.txt", b"") + b"--b--\r\n")).status == 413
    assert case.files() == {}
    assert (await send(case.adapter, three + b"--b--\r\n")).status == 200
    assert (await case.adapter.upload("5.txt", b"")).status == 413
    await case.finish()


async def test_a_long_name_is_cut(site: HttpHarness) -> None:
    case = await begin(site)
    answer = await case.adapter.upload("x" * 5000, b"x")
    assert [len(file["name"]) for file in answer.json()["files"]] == [1000]
    await case.finish()


async def test_an_upload_does_not_create_deleted_results_again(site: HttpHarness) -> None:
    """The new folder had no marker: what was uploaded as `x_test.py` was collected, and ran."""
    case = await begin(site)
    await case.finish()
    shutil.rmtree(case.session.folder.path)
    answer = await case.adapter.upload("x_test.py", b"raise SystemExit")
    assert (answer.status, answer.json()["error"]["code"]) == (410, "results_deleted")
    assert not case.session.folder.path.exists()


async def test_uploads_are_not_collected_without_the_sessions_marker(site: HttpHarness) -> None:
    case = await begin(site)
    await case.adapter.upload("x_test.py", b"raise SystemExit")
    (case.session.folder.path / RESULTS_MARKER).unlink()
    assert list(files_below(site.lab.root)) == []
    await case.finish()
