"""Uploads of an adapter: whole, under their own names, tried again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from trafficlight.adapters.conformance import ScriptedAdapter, ScriptedCoordinator, Upload
from trafficlight.adapters.sdk import Adapter, JsonObject, Options, action, loop, run
from trafficlight.adapters.sdk.coordinator import Backoff


class Camera(Adapter):
    type = "camera"

    @action()
    async def shoot(self, path: Path, name: str | None = None) -> JsonObject:
        return {"snapshot": await self.context.upload(path, name)}


@asynccontextmanager
async def registered(coordinator: ScriptedCoordinator) -> AsyncIterator[ScriptedAdapter]:
    task = asyncio.create_task(run(Camera, coordinator.url, options=Options(backoff=Backoff(0.01, 0.05))))
    try:
        yield await coordinator.registered()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("name", ["my shot.png", "grüße 🚦.png", 'quo"te.png', "../up.png"])
async def test_upload_keeps_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "shot"
    path.write_bytes(b"\x89PNG" * 100_000)
    async with ScriptedCoordinator() as coordinator, registered(coordinator) as adapter:
        reply = await adapter.act("shoot", {"path": str(path), "name": name})
        assert reply is not None
        assert reply.body["snapshot"] == name
        assert adapter.uploads == [Upload("file", name, path.read_bytes())]


@pytest.mark.parametrize("name", ["two\nlines.png", "nul\0.png", "half\ud83d.png", "tab\t.png"])
async def test_a_name_that_no_header_can_contain(tmp_path: Path, name: str) -> None:
    path = tmp_path / "shot"
    path.write_bytes(b"png")
    async with ScriptedCoordinator() as coordinator, registered(coordinator) as adapter:
        reply = await adapter.act("shoot", {"path": str(path), "name": name})
        assert reply is not None
        (uploaded,) = adapter.uploads
        assert reply.body["snapshot"] == uploaded.name
        assert uploaded.name in ("two_lines.png", "nul_.png", "half_.png", "tab_.png")


async def test_upload_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    async with ScriptedCoordinator() as coordinator, registered(coordinator) as adapter:
        coordinator.refusals += [("upload", 503), ("upload", 500)]
        await adapter.act("shoot", {"path": str(path)})
        assert adapter.uploads == [Upload("file", "empty.txt", b"")]


async def test_refused_upload_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "big.mp4"
    path.write_bytes(b"x")
    async with ScriptedCoordinator() as coordinator, registered(coordinator) as adapter:
        coordinator.refusals.append(("upload", 413))
        reply = await adapter.act("shoot", {"path": str(path)})
        assert reply is not None
        assert reply.body["response"] == "shoot"
        reason = b"big.mp4 was not uploaded: 413 the script requests it\n"
        assert adapter.uploads == [Upload("file", "big.mp4.not-uploaded.txt", reason)]


async def test_the_limit_of_close_does_not_end_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Diarist(Adapter):
        type = "diarist"

        async def close(self) -> None:
            await self.context.upload(Path(__file__), "diary.txt")

    monkeypatch.setattr(loop, "_LONGEST_CLOSE", 0.02)
    options = Options(backoff=Backoff(0.1, 0.1))
    async with ScriptedCoordinator() as coordinator:
        task = asyncio.create_task(run(Diarist, coordinator.url, once=True, options=options))
        adapter = await coordinator.registered()
        coordinator.refusals += [("upload", 503), ("upload", 503)]
        await adapter.exit()
        await task
        assert [one.name for one in adapter.uploads] == ["diary.txt"]


async def test_missing_file_is_the_adapters_error(tmp_path: Path) -> None:
    async with ScriptedCoordinator() as coordinator, registered(coordinator) as adapter:
        reply = await adapter.act("shoot", {"path": str(tmp_path / "none.png")})
        assert reply is not None
        assert reply.kind == "error"
        assert "FileNotFoundError" in reply.body["error"]["details"]
