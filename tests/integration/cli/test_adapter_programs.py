"""Adapter programs that do not work: the verdict says so, and does not take long."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Runner

PROGRAM = """
import json, sys, urllib.request, uuid

mode, url = sys.argv[1:]
me = uuid.uuid4()


def call(endpoint, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/client/{me}/{endpoint}", data, headers)
    return json.load(urllib.request.urlopen(request))


if mode == "broken":
    raise RuntimeError("no browser here")
call("register", {"type": "w", "labels": None})
if mode == "report":
    call("error", {"error": {"type": "adapter", "details": "No version of Cypress is installed"}})
    sys.exit("bye")
while (message := call("poll"))["action"] == "idle":
    pass
print("about to die")
sys.exit(9)
"""

TEST = """
from trafficlight import Test
from trafficlight.client_types import ClientType


class W(ClientType):
    type = "w"


class Do(Test):
    clients = {"alice": [W]}

    async def run(self, alice):
        await alice.perform("anything")
"""


def only_case(folder: Path) -> dict[str, str]:
    (report,) = folder.glob("**/2*/report.json")
    (case,) = json.loads(report.read_text())["cases"]
    assert isinstance(case, dict)
    return case


@pytest.mark.parametrize(
    ("mode", "reasons"),
    [
        ("broken", ["the program w exited N times, last with exit code 1: RuntimeError: no browser here"]),
        (
            "report",
            ["failed while in no case: No version of Cypress is installed", "the program w exited N times"],
        ),
        ("die", ["alice: anything: its process exited (exit code 9: about to die)"]),
    ],
)
async def test_the_verdict_says_why_a_program_does_not_play(
    run: Runner, tmp_path: Path, mode: str, reasons: list[str]
) -> None:
    (tmp_path / "w.py").write_text(PROGRAM)
    # In "report", the one adapter is not enough for the case, so that it fails in none.
    test = (
        TEST.replace("W]}", "W], 'bob': [W]}").replace("alice)", "alice, bob)") if mode == "report" else TEST
    )
    (tmp_path / "w_test.py").write_text(test)
    command = f"{sys.executable} w.py {mode} {{url}}"
    (tmp_path / "trafficlight.json").write_text(json.dumps({"ADAPTERS": {"w": {"command": command}}}))
    running = await run("run", "w_test.py")
    assert await running.ended() == 3
    message = _uncounted(only_case(tmp_path)["message"])
    for reason in reasons:
        assert reason in message, message


def _uncounted(message: str) -> str:
    """Replace the number of exits: five or, where the verdict comes late, more; it may lack the last one."""
    return re.sub(r"exited ([4-9]|\d\d) times", "exited N times", message)


DRIVER = """
import json, sys

if sys.argv[1] == "broken":
    sys.exit("Error: no browser here")
print(json.dumps({"type": "w"}), flush=True)
sys.stdin.readline()
sys.exit("Error: the page crashed")
"""


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("broken", "the program w exited N times, last with exit code 2: Error: no browser here"),
        ("die", "alice: anything: the driver exited (exit code 1):\nError: the page crashed"),
    ],
)
async def test_the_verdict_says_why_a_driver_does_not_play(
    run: Runner, tmp_path: Path, mode: str, reason: str
) -> None:
    (tmp_path / "w.py").write_text(DRIVER)
    (tmp_path / "w_test.py").write_text(TEST)
    driver = f"{sys.executable} w.py {mode}"
    (tmp_path / "trafficlight.json").write_text(json.dumps({"ADAPTERS": {"w": {"driver": driver}}}))
    running = await run("run", "w_test.py")
    assert await running.ended() == 3
    assert reason in _uncounted(only_case(tmp_path)["message"])


async def test_a_program_that_cannot_start_is_refused(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "w_test.py").write_text(TEST)
    (tmp_path / "trafficlight.json").write_text(json.dumps({"ADAPTERS": {"w": {"command": "cd x"}}}))
    for command in (["run"], ["serve", "--adapters"]):
        running = await run(*command, "w_test.py")
        assert await running.ended() == 2
        assert "no such program: cd (commands are not run by a shell)" in "\n".join(running.said)


ANY = """
from trafficlight import Test
from trafficlight.client_types import AnyMatrixClient


class Do(Test):
    clients = {"alice": [AnyMatrixClient]}

    async def run(self, alice):
        pass
"""


@pytest.mark.parametrize(
    ("name", "adapters", "why"),
    [
        ("noi", '{"nio": 2, "js-sdk": 0}', "no noi, did you mean nio?; it has nio, js-sdk"),
        ("js-sdk", '{"nio": 2}', "no js-sdk; it has nio"),
        ("quux", "{}", "no quux; it has none"),
    ],
)
async def test_a_client_that_no_program_is_does_not_wait(
    run: Runner, tmp_path: Path, name: str, adapters: str, why: str
) -> None:
    (tmp_path / "any_test.py").write_text(ANY)
    running = await run("run", "--clients", name, "any_test.py", TRAFFICLIGHT_ADAPTERS=adapters)
    assert await running.ended() == 3
    assert only_case(tmp_path)["message"] == f"alice: ADAPTERS has {why}"
    assert not any("Traceback" in line for line in running.said), running.said


async def test_a_client_that_may_be_that_of_a_program_is_waited_for(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "any_test.py").write_text(ANY)
    (tmp_path / "w.py").write_text(PROGRAM.replace('"w"', '"noi"'))
    adapters = json.dumps({"mine": f"{sys.executable} w.py play {{url}}"})
    running = await run("run", "--clients", "noi", "any_test.py", TRAFFICLIGHT_ADAPTERS=adapters)
    assert await running.ended() == 0
