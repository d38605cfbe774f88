"""Virtual environments: made with a real pip from a package that is made here."""

import asyncio
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trafficlight.cache import CacheFolder
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.recipes.synapse import Environments, interpreter, version_key


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with wheels as the only package index of pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def _publish(index: Path, version: str) -> None:
    """Put an empty package into the index."""
    info = f"fakeserver-{version}.dist-info"
    with zipfile.ZipFile(index / f"fakeserver-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("fakeserver.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fakeserver\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def _environments(tmp_path: Path, lines: list[str] | None = None) -> Environments:
    return Environments(
        CacheFolder(tmp_path / "cache"), "fakeserver", ([] if lines is None else lines).append
    )


async def test_installs_an_exact_version_with_progress(tmp_path: Path, index: Path) -> None:
    _publish(index, "1.0")
    _publish(index, "2.0")
    lines: list[str] = []
    folder = tmp_path / "environment"
    await _environments(tmp_path, lines).create(folder, "1.0")
    moved = folder.rename(tmp_path / "elsewhere")
    command = [str(interpreter(moved)), "-c", "import fakeserver; print(fakeserver.version)"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"
    assert lines[0].startswith("fakeserver 1.0: installing")
    assert lines[-1] == "fakeserver 1.0: installed"


async def test_the_output_of_pip_is_in_the_error(tmp_path: Path, index: Path) -> None:
    _publish(index, "1.0")
    with pytest.raises(DeployError, match=r"installing fakeserver 9\.9: exit code 1") as failure:
        await _environments(tmp_path).create(tmp_path / "environment", "9.9")
    assert "No matching distribution found for fakeserver==9.9" in failure.value.log


async def test_without_a_network_pip_is_not_waited_for(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(ConfigError) as failure:
        await _environments(tmp_path).create(tmp_path / "environment", "1.0")
    cache = tmp_path / "cache"
    expected = f"CACHE_FOLDER: fakeserver 1.0 is not in {cache}, and there is no network: Connection refused"
    assert str(failure.value) == expected


@pytest.mark.parametrize(("published", "newest"), [(["1.0", "1.1rc1"], "1.1rc1"), (["1.1rc1", "1.1"], "1.1")])
async def test_the_newest_may_be_a_pre_release(
    tmp_path: Path, index: Path, published: list[str], newest: str
) -> None:
    for version in published:
        _publish(index, version)
    assert await _environments(tmp_path).newest(fallback="0.1") == newest


async def test_the_newest_installed_is_used_without_an_index(tmp_path: Path, index: Path) -> None:
    environments = _environments(tmp_path)
    assert await environments.newest(fallback="0.1") == "0.1"
    for version in ("1.98.0", "1.163.2", "1.163.0rc1"):
        (tmp_path / "cache" / environments.name(version)).mkdir(parents=True)
    (tmp_path / "cache" / "fakeserver" / ".2.0.partial").mkdir()
    assert environments.installed() == ["1.98.0", "1.163.0rc1", "1.163.2"]
    assert await environments.newest(fallback="0.1") == "1.163.2"


def test_another_python_has_another_environment(tmp_path: Path) -> None:
    python = f"cpython{sys.version_info.major}{sys.version_info.minor}"
    assert _environments(tmp_path).name("1.0") == f"fakeserver/1.0-{python}"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.98.0", "1.140.0"),
        ("1.164.0rc3", "1.164.0"),
        ("1.164.0rc1", "1.164.0rc3"),
        ("1.163.2", "1.164.0rc1"),
    ],
)
def test_versions_are_sorted_by_release(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)
