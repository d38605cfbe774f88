"""`trafficlight prepare` and `clean`, as processes of their own."""

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trafficlight.cache import CacheFolder
from trafficlight.config import DENDRITE_VERSION, SYNAPSE_VERSION
from trafficlight.homeservers.recipes.synapse import Environments

TEST = """
from trafficlight.server_types import Synapse, SynapseStable
from trafficlight.test import Test


class Installed(Test):
    servers = {{"server": [{servers}]}}

    async def run(self, server):
        assert server.cs_api
"""
# As far as preparing the database goes.
SYNAPSE = """
import json, sqlite3, sys

config = json.load(open(sys.argv[sys.argv.index("--database-config") + 1]))
database = sqlite3.connect(config["database"]["args"]["database"])
database.execute("CREATE TABLE t (x)")
database.close()
"""
PYTHON = f"{sys.implementation.name}{sys.version_info.major}{sys.version_info.minor}"
STABLE = f"matrix-synapse/{SYNAPSE_VERSION}-{PYTHON}"


def trafficlight(
    *arguments: str, folder: Path, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> list[str]:
    """Run a command; return its lines, and its exit code as the last one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRAFFICLIGHT_")}
    command = [*prefix, sys.executable, "-m", "trafficlight", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[3]), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return [*done.stdout.splitlines(), str(done.returncode)]


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    (tmp_path / "a_test.py").write_text(TEST.format(servers='SynapseStable, Synapse("9.9.9")'))
    return tmp_path


def publish(index: Path, version: str) -> None:
    """Put a package with the name of Synapse into a folder of wheels."""
    index.mkdir(exist_ok=True)
    info = f"matrix_synapse-{version}.dist-info"
    with zipfile.ZipFile(index / f"matrix_synapse-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("synapse/_scripts/update_synapse_database.py", SYNAPSE)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: matrix-synapse\nVersion: {version}\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_what_the_tests_need_is_installed_once(tests: Path) -> None:
    index = tests / "index"
    publish(index, SYNAPSE_VERSION)
    environment = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_CONFIG_FILE": "/dev/null",
        "TRAFFICLIGHT_CACHE_FOLDER": str(tests / "cache"),
    }
    *lines, code = trafficlight("prepare", "a_test.py", folder=tests, env=environment)
    assert code == "3", lines
    assert f"  matrix-synapse {SYNAPSE_VERSION}: installed" in lines
    assert "ready    SynapseStable" in lines
    assert any("No matching distribution found for matrix-synapse==9.9.9" in line for line in lines)
    assert (tests / "cache" / STABLE / "homeserver.db").is_file()
    publish(index, "9.9.9")
    *lines, code = trafficlight("prepare", "a_test.py", folder=tests, env=environment)
    assert code == "0", lines
    assert "ready    Synapse-9.9.9" in lines
    # Nothing to install any more, so there may be no index either.
    shutil.rmtree(index)
    *lines, code = trafficlight("prepare", "a_test.py", folder=tests, env=environment)
    assert [line for line in lines if line.startswith("ready")] == [
        "ready    SynapseStable",
        "ready    Synapse-9.9.9",
    ]
    assert (code, [line for line in lines if "install" in line]) == ("0", [])
    *lines, code = trafficlight(
        "prepare", "a_test.py", "--server", "SynapseStable", folder=tests, env=environment
    )
    assert "ready    Synapse-9.9.9" not in lines


def test_what_cannot_run_here_is_named(tests: Path) -> None:
    (tests / "b_test.py").write_text(
        TEST.format(servers="Dendrite").replace("import Synapse, SynapseStable", "import Dendrite")
    )
    lines = trafficlight(
        "prepare", "b_test.py", folder=tests, env={"TRAFFICLIGHT_DENDRITE_VERSION": "0.15.2"}
    )
    assert lines[0].startswith("skipped  Dendrite: Dendrite 0.15.2 is not a release of")
    assert lines[1:] == ["0"]
    assert trafficlight("prepare", "nowhere_test.py", folder=tests)[-1] == "2"


UNSHARE, IP = (
    shutil.which("unshare"),
    shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"),
)
OFFLINE = ("unshare", "--net", "--map-root-user")
CAN_BE_OFFLINE = (
    UNSHARE is not None and IP is not None and subprocess.run([*OFFLINE, "true"], check=False).returncode == 0
)


def test_a_prepared_lab_needs_no_network(tests: Path) -> None:
    """With this machine's cache; in a network namespace with loopback only, where one can be made."""
    (tests / "a_test.py").write_text(TEST.format(servers="SynapseStable"))
    assert trafficlight("prepare", "a_test.py", folder=tests)[-1] == "0"
    inside = f'{shlex.quote(str(IP))} link set lo up && exec "$@"'
    prefix = (*OFFLINE, "sh", "-c", inside, "sh") if CAN_BE_OFFLINE else ()
    nowhere = "http://127.0.0.1:9"
    env = {"TRAFFICLIGHT_ADAPTERS": "{}", "PIP_INDEX_URL": nowhere, "https_proxy": nowhere, "GOPROXY": "off"}
    prepared = trafficlight("prepare", "a_test.py", folder=tests, prefix=prefix, env=env)
    assert prepared == ["ready    SynapseStable", "0"]
    lines = trafficlight("run", "a_test.py", folder=tests, prefix=prefix, env=env)
    assert lines[-1] == "0", lines


def test_old_installations_are_removed(tests: Path) -> None:
    cache = tests / "cache"
    old = f"matrix-synapse/1.0.0-{PYTHON}"
    kept = [STABLE, f"matrix-synapse/9.9.9-{PYTHON}", f"dendrite/{DENDRITE_VERSION}", "something/else"]
    for name in (old, *kept, "dendrite/0.1.0"):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_bytes(b"x" * 1000)
    assert Environments(CacheFolder(cache), "matrix-synapse", print).name(SYNAPSE_VERSION) == STABLE
    environment = {"TRAFFICLIGHT_CACHE_FOLDER": str(cache)}
    *lines, code = trafficlight("clean", "a_test.py", "--dry-run", folder=tests, env=environment)
    assert lines == [
        "would remove  dendrite/0.1.0  1.0 kB",
        f"would remove  {old}  1.0 kB",
        f"2.0 kB would be freed in {cache}",
    ]
    assert code == "0"
    # As a running lab holds it.
    with (cache / "dendrite" / ".0.1.0.used").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        *lines, code = trafficlight("clean", "a_test.py", folder=tests, env=environment)
    assert lines[:2] == ["in use        dendrite/0.1.0", f"removed       {old}  1.0 kB"]
    assert not (cache / old).exists()
    assert trafficlight("clean", "a_test.py", folder=tests, env=environment)[0].startswith(
        "removed       dendrite/0.1.0"
    )
    assert all((cache / name / "file").exists() for name in kept)
