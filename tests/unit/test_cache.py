"""What is built once is whole or not there."""

import asyncio
import gc
import sys
from pathlib import Path

import platformdirs
import pytest

from trafficlight.cache import CacheFolder
from trafficlight.errors import ConfigError


async def test_is_built_once(tmp_path: Path) -> None:
    cache, built = CacheFolder(tmp_path), []

    async def build(folder: Path) -> None:
        built.append(folder)
        (folder / "made").write_text("yes")
        await asyncio.sleep(0)

    folders = await asyncio.gather(*(cache.ensure("synapse/1", build) for _ in range(5)))
    assert set(folders) == {tmp_path / "synapse" / "1"}
    assert (folders[0] / "made").read_text() == "yes"
    assert len(built) == 1
    assert await CacheFolder(tmp_path).ensure("synapse/1", build) == folders[0]
    assert len(built) == 1


async def test_a_folder_that_does_not_work_is_built_again(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path)

    async def build(folder: Path) -> None:
        (folder / "made").write_text("yes")

    folder = await cache.ensure("synapse", build)
    (folder / "made").unlink()

    def usable(folder: Path) -> bool:
        return (folder / "made").exists()

    assert await cache.ensure("synapse", build, usable) == folder
    assert usable(folder)


async def test_a_failed_build_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path)

    async def fail(folder: Path) -> None:
        (folder / "half").write_text("made")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await cache.ensure("synapse", fail)
    assert _visible(tmp_path) == []

    assert (await cache.ensure("synapse", _expect_empty)).is_dir()


async def test_a_cancelled_build_leaves_nothing(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def build(folder: Path) -> None:
        (folder / "half").write_text("made")
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(CacheFolder(tmp_path).ensure("synapse", build))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _visible(tmp_path) == []
    assert not (tmp_path / ".synapse.partial").exists()


async def test_what_a_killed_process_left_is_not_used(tmp_path: Path) -> None:
    script = """
import asyncio, os, signal, sys
from pathlib import Path
from trafficlight.errors import ConfigError
from trafficlight.cache import CacheFolder

async def build(folder):
    (folder / "half").write_text("made")
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(CacheFolder(Path(sys.argv[1])).ensure("synapse", build))
"""
    victim = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path))
    await victim.wait()
    assert (tmp_path / ".synapse.partial" / "half").exists()
    folder = await CacheFolder(tmp_path).ensure("synapse", _expect_empty)
    assert not (folder / "half").exists()


async def test_another_process_waits_for_the_builder(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from trafficlight.errors import ConfigError
from trafficlight.cache import CacheFolder

async def build(folder):
    print("building", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    (folder / "made").write_text("by the other")

asyncio.run(CacheFolder(Path(sys.argv[1])).ensure("synapse", build))
"""
    builder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(tmp_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert builder.stdin is not None
    assert builder.stdout is not None
    assert await builder.stdout.readline() == b"building\n"

    async def build(_: Path) -> None:
        pytest.fail("built twice")

    waiting = asyncio.create_task(CacheFolder(tmp_path).ensure("synapse", build))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    builder.stdin.write(b"go on\n")
    assert ((await waiting) / "made").read_text() == "by the other"
    await builder.communicate()


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRAFFICLIGHT_CACHE_FOLDER", str(tmp_path))
    assert CacheFolder().root == tmp_path
    assert CacheFolder(tmp_path / "argument").root == tmp_path / "argument"
    monkeypatch.delenv("TRAFFICLIGHT_CACHE_FOLDER")
    assert CacheFolder().root == platformdirs.user_cache_path("trafficlight")


async def _expect_empty(folder: Path) -> None:
    assert _visible(folder) == []


def _visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


async def test_what_a_process_uses_is_not_removed(tmp_path: Path) -> None:
    async def build(folder: Path) -> None:
        (folder / "made").write_text("yes")

    user, cleaner = CacheFolder(tmp_path), CacheFolder(tmp_path)
    folder = await user.ensure("synapse/1", build)
    await user.ensure("synapse/1", build)
    assert (cleaner.names("synapse"), cleaner.names("nothing")) == (["synapse/1"], [])
    assert cleaner.size("synapse/1") == 3
    assert not await cleaner.remove("synapse/1")
    assert (folder / "made").exists()
    del user  # as if its process had ended
    gc.collect()
    assert await cleaner.remove("synapse/1")
    assert (folder.exists(), _visible(folder.parent)) == (False, [])
    assert await cleaner.ensure("synapse/1", build) == folder


async def test_a_cache_that_is_read_only_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "synapse").mkdir()

    def denied(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("trafficlight.cache._open_lock", denied)
    assert await CacheFolder(tmp_path).ensure("synapse", _expect_empty) == tmp_path / "synapse"
    with pytest.raises(ConfigError, match="cannot be written"):
        await CacheFolder(tmp_path).remove("synapse")
