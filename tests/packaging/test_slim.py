"""The slim install: a wheel without extras, in an environment that has nothing else."""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from trafficlight.cli.main import cli

# Installs from the package index.
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(600)]

_ROOT = Path(__file__).parents[2]
_WORK_SLIM = {"adapter", "actions"}


class _Slim(NamedTuple):
    bin: Path
    folder: Path

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        program = [str(self.bin / command[0]), *command[1:]]
        return subprocess.run(program, capture_output=True, text=True, cwd=self.folder)


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> _Slim:
    """Install the wheel without extras, in the locked versions."""
    folder = tmp_path_factory.mktemp("slim")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels, environment = folder / "wheels", folder / "environment"
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, _ROOT],
        check=True,
    )
    (wheel,) = wheels.iterdir()
    lock = (_ROOT / "scripts-dev" / "requirements.txt").read_text(encoding="utf-8")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"^[\w.-]+==\S+", lock, re.MULTILINE)), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    done = subprocess.run(
        [environment / "bin" / "pip", "install", "--quiet", "--constraint", constraints, wheel],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return _Slim(environment / "bin", folder)


def test_only_the_base_is_installed(slim: _Slim) -> None:
    listed = slim.run("pip", "list", "--format=freeze").stdout

    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert {"matrix-trafficlight", "aiohttp", "pydantic"} <= names
    assert not names & {
        "quart",
        "hypercorn",
        "matrix-nio",
        "pillow",
        "sqlalchemy",
        "cryptography",
        "rich",
        "jinja2",
    }


def test_the_adapter_of_the_how_to_passes_the_check(slim: _Slim) -> None:
    text = (_ROOT / "docs" / "how-to" / "write-an-adapter-with-the-sdk.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    (slim.folder / "thermometer.py").write_text(block[1], encoding="utf-8")
    program = f"{slim.bin / 'python'} thermometer.py {{url}}"

    checked = slim.run(
        "trafficlight", "adapter", "check", "--command", program, "--action", "heat", "--hold", "0.4"
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert " 0 wrong" in checked.stdout


def test_what_test_files_import_is_there(slim: _Slim) -> None:
    imports = (
        "import trafficlight, trafficlight.client_types, trafficlight.server_types, trafficlight.parameters"
    )

    imported = slim.run("python", "-c", imports)

    assert imported.returncode == 0, imported.stderr


@pytest.mark.parametrize("command", sorted(set(cli.list_commands(None)) - _WORK_SLIM))  # type: ignore[arg-type]
def test_a_command_of_the_lab_says_in_one_line_what_to_install(slim: _Slim, command: str) -> None:
    run = slim.run("trafficlight", command, "--help")

    assert run.returncode == 2, run.stdout + run.stderr
    (line,) = run.stderr.splitlines()
    assert re.fullmatch(
        r"trafficlight: the slim install has no \w+; add it with: \S+ -m pip install .*\[lab\].*", line
    )


def test_the_adapter_on_nio_says_what_to_install(slim: _Slim) -> None:
    run = slim.run("trafficlight", "adapter", "nio", "--url", "http://127.0.0.1:9")

    assert run.returncode == 2, run.stdout + run.stderr
    assert "the slim install has no nio; add it with:" in run.stderr
    assert "matrix-trafficlight[nio]" in run.stderr
