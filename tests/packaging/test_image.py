"""The wheel, and the image, whose Dockerfile is executed here without an engine."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

from trafficlight.results.record import ExitCode
from trafficlight.version import VERSION

# Builds an environment from the package index.
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(600)]

_ROOT = Path(__file__).parents[2]


class _Instruction(NamedTuple):
    name: str
    value: str


def _stages() -> list[list[_Instruction]]:
    """Return the instructions of the Dockerfile, stage by stage; each begins with its FROM."""
    text = (_ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages: list[list[_Instruction]] = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, value = line.partition(" ")
            if name == "FROM":
                stages.append([])
            stages[-1].append(_Instruction(name, value.strip()))
    return stages


def _value(stage: list[_Instruction], name: str) -> str:
    (value,) = (one.value for one in stage if one.name == name)
    return value


def _ignored(path: str) -> bool:
    """Return whether .dockerignore hides a path; the last line that matches decides."""
    hidden = False
    for line in (_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!").removeprefix("**/")
        if pattern and not line.startswith("#") and any(fnmatch(part, pattern) for part in _prefixes(path)):
            hidden = not line.startswith("!")
    return hidden


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def test_the_image_has_two_stages_and_runs_as_nobody_special() -> None:
    build, final = _stages()

    assert _value(build, "FROM") == "python:3.11-slim AS build"
    assert _value(final, "FROM") == "python:3.11-slim"
    user = _value(final, "USER")
    assert user not in ("root", "0")
    created = [one for one in final if one.name == "RUN" and f" {user} " in one.value]
    assert created
    assert _value(final, "EXPOSE") == "5000"
    assert _value(final, "COPY") == "--from=build /opt/trafficlight /opt/trafficlight"


class _Image(NamedTuple):
    """What the Dockerfile makes, with its root directory elsewhere."""

    root: Path
    final: list[_Instruction]

    @property
    def bin(self) -> Path:
        return self.root / "opt" / "trafficlight" / "bin"

    @property
    def wheel(self) -> Path:
        (wheel,) = (self.root / "build" / "wheels").iterdir()
        return wheel


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> _Image:
    """Carry out the build stage: its commands as they stand, below another root, with this Python."""
    root = tmp_path_factory.mktemp("image")
    build, final = _stages()
    directory = root / _value(build, "WORKDIR").lstrip("/")
    directory.mkdir(parents=True)
    (root / "opt").mkdir()
    for name, value in build:
        if name == "COPY":
            *sources, target = shlex.split(value)
            for source in sources:
                assert not _ignored(source), f"{source} is hidden by .dockerignore"
                _copy(_ROOT / source, directory / target, into=len(sources) > 1)
        elif name == "RUN":
            command = value.replace("/opt/", f"{root}/opt/")
            command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
            done = subprocess.run(["bash", "-euc", command], cwd=directory, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return _Image(root, final)


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target = target / source.name if into else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_the_wheel_holds_the_whole_package_and_nothing_else(image: _Image) -> None:
    with zipfile.ZipFile(image.wheel) as wheel:
        packed = set(wheel.namelist())
    package = _ROOT / "trafficlight"
    files = {
        str(path.relative_to(_ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {name for name in packed if not name.partition("/")[0].endswith(".dist-info")} == files
    assert "trafficlight/py.typed" in packed
    assert any(name.endswith("/licenses/LICENSE") for name in packed)


def test_the_command_of_the_wheel_tells_its_version(image: _Image) -> None:
    told = subprocess.run([image.bin / "trafficlight", "--version"], capture_output=True, text=True, cwd="/")

    assert told.stdout.strip().endswith(VERSION), told.stderr


@pytest.fixture
def served(image: _Image, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the image's command on a free loopback port, in an empty directory; give its process and port."""
    program, *arguments = json.loads(_value(image.final, "CMD"))
    assert arguments == ["serve", "--host", "0.0.0.0", "--port", _value(image.final, "EXPOSE")]
    process = subprocess.Popen(
        [image.bin / program, "serve", "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        seen = []
        try:
            for line in process.stdout:
                seen.append(line)
                if running := re.search(r"http://127\.0\.0\.1:(\d+)/status", line):
                    yield process, int(running[1])
                    break
            else:
                pytest.fail("".join(seen))
        finally:
            process.kill()


def test_the_image_serves_and_is_healthy_and_exits_on_sigterm(
    image: _Image, served: tuple[subprocess.Popen[str], int]
) -> None:
    process, port = served

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=30) as answer:
        assert answer.status == 200

    program, *arguments = json.loads(_value(image.final, "HEALTHCHECK").partition("CMD ")[2])
    exposed = _value(image.final, "EXPOSE")
    assert exposed in arguments[-1]
    arguments[-1] = arguments[-1].replace(exposed, str(port))
    checked = subprocess.run([image.bin / program, *arguments], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == ExitCode.INTERRUPTED

    unhealthy = subprocess.run([image.bin / program, *arguments], capture_output=True)
    assert unhealthy.returncode != 0
