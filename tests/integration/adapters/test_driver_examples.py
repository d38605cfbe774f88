"""The drivers of the how-to, in every language: what the page shows, as it stands there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Runner, run

__all__ = ["run"]

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs" / "how-to" / "examples"
PAGE = ROOT / "docs" / "how-to" / "write-a-driver.md"
FILES = {
    "driver.py": [sys.executable],
    "driver.mjs": ["node"],
    "driver.sh": ["bash", "jq"],
    "driver.go": ["go"],
    "driver-rust/src/main.rs": ["cargo"],
}
TEST = """
from trafficlight import Test
from trafficlight.client_types import AnyMatrixClient


class Remembers(Test):
    clients = {"alice": AnyMatrixClient}

    async def run(self, alice):
        await alice.send_message("hello")
        await alice.suspend()
        await alice.resume()
        assert [event["message"] for event in await alice.get_timeline()] == ["hello"]
        await alice.kill()
        await alice.restart()
        assert await alice.get_timeline() == []
"""


def command(file: str, folder: Path) -> str:
    """Return the command of a driver, built where it has to be."""
    for tool in FILES[file]:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if file == "driver.go":
        subprocess.run(["go", "build", "-o", folder / "driver", EXAMPLES / file], check=True)
        return str(folder / "driver")
    if file.startswith("driver-rust"):
        build = ["cargo", "build", "--quiet", "--target-dir", str(folder / "target")]
        shutil.copytree(EXAMPLES / "driver-rust", folder / "driver-rust")
        done = subprocess.run(build, cwd=folder / "driver-rust", capture_output=True, text=True)
        if done.returncode and "registry" in done.stderr:
            pytest.skip("cargo cannot download serde_json")
        assert done.returncode == 0, done.stderr
        return str(folder / "target" / "debug" / "driver")
    return f"{shutil.which(FILES[file][0])} {EXAMPLES / file}"


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.network if "rust" in file else []) for file in FILES]
)
async def test_a_driver_plays_a_case_and_passes_the_check(run: Runner, tmp_path: Path, file: str) -> None:
    driver = command(file, tmp_path)
    (tmp_path / "my_test.py").write_text(TEST)
    settings = {"TRAFFICLIGHT_ADAPTERS": json.dumps({"mine": {"driver": driver}})}
    running = await run("run", "my_test.py", "--clients", "my-client", **settings)
    assert await running.ended() == 0, "\n".join(running.said)
    checking = await run("adapter", "check", "--hold", "0.5", "--driver", driver)
    assert await checking.ended() == 0, "\n".join(checking.said)
    assert checking.said[-1].endswith("0 wrong · 0 note")


@pytest.mark.parametrize("file", FILES)
def test_the_page_shows_the_driver(file: str) -> None:
    assert (EXAMPLES / file).read_text().strip() in PAGE.read_text()
