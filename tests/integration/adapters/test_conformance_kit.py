"""The conformance kit finds what is wrong with an adapter, by name, and nothing with a good one."""

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from trafficlight.adapters.conformance import CheckOptions, Homeserver, Level, Results, check, render
from trafficlight.cli.main import cli
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import SynapseStable

PLAIN = Path(__file__).parent / "programs" / "plain.py"
SDK = Path(__file__).parent / "programs" / "with_sdk.py"
TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorial" / "examples"
QUICK = CheckOptions(action="say", hold=0.4, startup=8, grace=1.5, idle_delay=0.1, away=0.2)
PATIENT = CheckOptions(action="say", hold=0.4, grace=5, idle_delay=0.1, away=0.2)

WRONG = {
    "no-type": "registers",
    "no-body": "registers",
    "no-media-type": "registers",
    "crashes": "registers",
    "never-polls": "polls",
    "gives-up-poll": "held-poll",
    "polls-once": "held-poll",
    "never-answers": "responds",
    "no-object": "responds",
    "says-error": "responds",
    "wrong-id": "echoes-id",
    "answers-twice": "responds-once",
    "performs-again": "repeated-action",
    "polls-while-busy": "polls-after-response",
    "dies-on-409": "refused-answer",
    "blames-409": "refused-answer",
    "silent-about-unknown": "unknown-action",
    "spins-on-unknown": "unknown-action",
    "claims-unknown": "unknown-action",
    "blames-client": "unknown-action",
    "bad-report": "unknown-action",
    "never-registers-again": "coordinator-restart",
    "keeps-uuid": "fresh-uuid",
    "polls-after-exit": "exit",
    "stays-after-exit": "exit",
}
NOTED = {
    "no-id": {"echoes-id"},
    "dies-on-restart": {"coordinator-restart", "needs-supervisor"},
    "ends-on-exit": {"needs-supervisor"},
    "ignores-sigterm": {"terminates"},
}


def command(program: Path, *arguments: str) -> str:
    return " ".join([sys.executable, str(program), *arguments])


def names(results: Results, level: Level) -> set[str]:
    return {finding.check for finding in results.of(level)}


async def test_good_plain_adapter() -> None:
    results = await check(command(PLAIN), QUICK)
    assert results.ok, render(results)
    assert names(results, Level.NOTE) == set()
    assert results.exit_code == 0


async def test_good_sdk_adapter_with_token() -> None:
    options = CheckOptions(
        action="say", data={"text": "x"}, hold=0.4, grace=5, idle_delay=0.1, away=0.2, token="shared"
    )
    results = await check(command(SDK, "{url}"), options)
    assert results.ok, render(results)
    assert names(results, Level.NOTE) == {"tells-version"}
    assert len(results.of(Level.OK)) >= 15


async def test_without_an_action_a_declared_one_is_tried() -> None:
    results = await check(command(SDK, "{url}"), CheckOptions(hold=0.4, grace=5, idle_delay=0.1, away=0.2))
    assert results.ok, render(results)
    said = next(finding.text for finding in results.findings if finding.check == "responds")
    assert said.startswith("to say, sent with no data, by an error report")


async def test_a_declared_action_is_sent_with_its_example() -> None:
    options = CheckOptions(
        examples={"say": {"text": "x"}, "other": {}}, hold=0.4, grace=5, idle_delay=0.1, away=0.2
    )
    results = await check(command(SDK, "{url}"), options)
    assert results.ok, render(results)
    assert "to say" in [finding.text for finding in results.findings if finding.check == "responds"]


@pytest.mark.parametrize(
    "program", [f"{sys.executable} {TUTORIAL}/adapter.py", f"node {TUTORIAL}/adapter.mjs"]
)
def test_tutorial_adapters(program: str) -> None:
    if shutil.which(program.split()[0]) is None:
        pytest.skip("node is not installed")
    arguments = ["adapter", "check", "--hold", "0.4", "--command", f"{program} {{url}}"]
    checked = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert checked.return_value == 0, checked.output
    assert "to send_message\n" in checked.output
    assert "unknown-action        reported, with its name, as type 'unsupported'" in checked.output
    assert " 0 wrong " in checked.output


@pytest.mark.parametrize("name", ["nio", "network-proxy"])
async def test_shipped_adapter(name: str) -> None:
    options = CheckOptions(hold=0.4, grace=60, idle_delay=0.1, away=0.2)
    results = await check(f"{sys.executable} -m trafficlight adapter {name} --url {{url}}", options)
    assert {finding.level for finding in results.findings} == {Level.OK}, render(results)


async def test_further_registration_may_take_as_long_as_the_first() -> None:
    results = await check(command(PLAIN, "starts-slowly"), QUICK)
    assert results.ok, render(results)


@pytest.mark.parametrize(("defect", "name"), WRONG.items())
async def test_defect_is_found(defect: str, name: str) -> None:
    results = await check(command(PLAIN, defect), QUICK)
    assert name in names(results, Level.WRONG), render(results)
    assert results.exit_code == 1
    if defect == "never-answers":
        assert any("does a driver buffer its input" in finding.text for finding in results.findings)


@pytest.mark.parametrize(("habit", "noted"), NOTED.items())
async def test_habit_is_only_noted(habit: str, noted: set[str]) -> None:
    results = await check(command(PLAIN, habit), PATIENT if habit == "dies-on-restart" else QUICK)
    assert names(results, Level.WRONG) == set(), render(results)
    assert names(results, Level.NOTE) == noted


async def test_adapter_as_they_were_written_years_ago() -> None:
    results = await check(command(PLAIN, "old"), QUICK)
    assert names(results, Level.WRONG) == {"unknown-action"}, render(results)
    assert names(results, Level.NOTE) == {"echoes-id", "refused-answer", "needs-supervisor"}


@pytest.mark.parametrize(
    "missing", ["/no/such/program {url}", "unbalanced ' quote"], ids=["no such program", "no command line"]
)
async def test_command_that_cannot_be_started(missing: str) -> None:
    results = await check(missing, QUICK)
    assert names(results, Level.WRONG) == {"starts"}


async def test_rendered_for_people() -> None:
    results = await check(command(PLAIN, "crashes"), QUICK)
    text = render(results, width=80)
    assert "  wrong  registers  expected POST /client/<uuid>/register; its process ended" in text
    assert "  | no display" in text
    assert text.endswith("0 ok · 1 wrong · 0 note")
    assert all(len(line) <= 80 for line in text.splitlines()[2:])


async def _against(program: str, tmp_path: Path) -> Results:
    provider = LocalProvider()
    request = ServerRequest("server", SynapseStable().homeservers()[0], tmp_path / "server.log")
    try:
        async with provider.deploy("check", [request]) as [server]:
            homeserver = Homeserver(server.cs_api, server.server_name)
            options = CheckOptions(hold=0.4, grace=10, idle_delay=0.1, away=0.2, homeserver=homeserver)
            return await check(program, options)
    finally:
        await provider.close()


async def test_true_actions(tmp_path: Path) -> None:
    results = await _against(f"{sys.executable} -m trafficlight adapter nio --url {{url}}", tmp_path)
    assert results.ok, render(results)
    assert {name for name in names(results, Level.OK) if name.startswith("true-")} == {
        "true-register",
        "true-create-room",
        "true-invite-user",
        "true-send-message",
        "true-verify-message-in-timeline",
        "true-get-timeline",
        "true-verify-message-in-timeline-fails",
    }


async def test_untrue_actions(tmp_path: Path) -> None:
    results = await _against(command(PLAIN.parent / "liar.py", "{url}"), tmp_path)
    wrong = {finding.check: finding.text for finding in results.of(Level.WRONG)}
    assert "the homeserver knows no user" in wrong["true-register"]
