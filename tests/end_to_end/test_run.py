"""`trafficlight run` as it is, and what it tells when there is nothing that it could run."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import junitparser
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start


async def test_the_suites_that_ship_succeed_and_are_reported(start: "Start") -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    command = next(line for line in readme if line.startswith("$ scripts-dev/run.sh "))
    suites = command.split()[2:]
    collecting = await start("collect", "--json", *suites)
    assert await collecting.ended() == 0, collecting.errors
    ids = [case["id"] for case in json.loads("".join(collecting.output))["cases"]]

    running = await start("run", *suites)
    code = await running.ended(timeout=280)

    assert code == 0, running.output + running.errors
    assert running.output[0].startswith("trafficlight ")
    assert f" · {len(ids)} cases · http://127.0.0.1:" in running.output[0]
    # What matrix-nio cannot do is skipped, as the README shows.
    assert any(f" · {len(ids)} cases · http://" in line for line in readme)
    ending = running.output[-1].partition("   results/")[0]
    (shown,) = (line for line in readme if line.startswith(ending))
    told = [line for line in running.output if line.startswith("skipped  ")]
    assert told == [line for line in readme[: readme.index(shown)] if line.startswith("skipped  ")]
    success, skipped = map(int, re.findall(r"(\d+) (?:success|skipped)", ending))
    junit = running.junit()
    assert (junit.tests, junit.failures, junit.errors, junit.skipped) == (success + skipped, 0, 0, skipped)
    assert sorted(running.cases()) == sorted(ids)
    assert "report.html" in {path.name for path in running.session().iterdir()}
    logs = list(running.session().glob("cases/**/homeserver.log"))
    assert len(logs) >= len(ids)
    assert all(log.stat().st_size for log in logs)
    assert running.started() == []


def _result(case: junitparser.TestCase, kind: type[junitparser.junitparser.FinalResult]) -> tuple[str, str]:
    """Return message and text of the only result of a case."""
    (result,) = case.result
    assert type(result) is kind
    return str(result.message), str(result.text)


def _case(demonstration: "Running", name: str) -> junitparser.TestCase:
    (case,) = (case for case_id, case in demonstration.cases().items() if f"::{name}[" in case_id)
    return case


def test_a_wrong_expectation_is_a_failure_with_message_and_traceback(demonstration: "Running") -> None:
    message, text = _result(_case(demonstration, "WrongExpectation"), junitparser.Failure)

    assert "bob reads 'See you at noon'" in message
    assert "Traceback (most recent call last)" in text
    assert "wrong_expectation_test.py" in text
    assert 'assert last == "See you at midnight"' in text


def test_what_a_client_cannot_do_is_a_failure_that_names_the_action(demonstration: "Running") -> None:
    message, _ = _result(_case(demonstration, "ClientActionFails"), junitparser.Failure)

    assert "alice" in message
    assert "login" in message
    assert "M_FORBIDDEN" in message


def test_only_cases_that_did_not_succeed_have_their_traffic(demonstration: "Running") -> None:
    recordings = [str(path) for path in demonstration.session().glob("cases/**/network.har")]

    assert len([path for path in recordings if "WrongExpectation" in path]) == 2
    (refused,) = (path for path in recordings if "ClientActionFails" in path)
    entries = json.loads(Path(refused).read_bytes())["log"]["entries"]
    assert 403 in [one["response"]["status"] for one in entries]
    assert not [path for path in recordings if "SendMessages" in path or "ManyMessages" in path]


def test_an_adapter_that_is_killed_is_an_error_that_names_it(demonstration: "Running") -> None:
    case = _case(demonstration, "DyingAdapter")
    message, _ = _result(case, junitparser.Error)

    assert "bob" in message
    assert "signal 9" in message
    # Not the deadline for silent adapters: the end of its process is seen at once.
    assert case.time < 20


def test_other_cases_are_not_touched_by_what_fails(demonstration: "Running") -> None:
    junit = demonstration.junit()

    assert (junit.tests, junit.failures, junit.errors, junit.skipped) == (5, 2, 1, 0)
    assert not _case(demonstration, "SendMessages").result
    assert not _case(demonstration, "ManyMessages").result
    assert demonstration.output[-1].startswith("2 success · 2 failure · 1 error   results/")
    assert demonstration.started() == []


async def test_the_exit_code_tells_failures_from_errors(
    start: "Start", demonstration: "Running", demo: Path
) -> None:
    assert await demonstration.ended() == 1

    only_errors = await start("run", demo / "dying_adapter_test.py")

    assert await only_errors.ended() == 3


async def test_a_folder_without_tests_is_told_in_one_line(start: "Start", tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    running = await start("run", "empty")

    assert await running.ended() == 2
    assert running.output == []
    (line,) = running.errors
    assert "nothing to run" in line
    assert not (tmp_path / "results").exists()


async def test_a_selection_that_leaves_nothing_is_told_in_one_line(start: "Start") -> None:
    running = await start("run", "-k", "no_such_word")

    assert await running.ended() == 2
    (line,) = running.errors
    assert "nothing to run" in line


async def test_a_path_that_does_not_exist_is_named(start: "Start") -> None:
    running = await start("run", "no/such/folder")

    assert await running.ended() in (2, 3)
    assert any("no/such/folder" in line for line in running.output + running.errors)


@pytest.mark.parametrize("name", ["trafficlight.json", "instance/trafficlight.json"])
async def test_an_unknown_key_is_told_in_one_line_with_key_and_file(
    start: "Start", tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"CASE_DEADLIME": 3}), encoding="utf-8")

    running = await start("run")

    assert await running.ended() == 2
    assert running.output == []
    assert running.errors == [
        f"trafficlight: {name}: CASE_DEADLIME: unknown key; did you mean CASE_DEADLINE?"
    ]


async def test_an_unknown_flag_is_a_usage_error(start: "Start") -> None:
    running = await start("run", "--no-such-flag")

    assert await running.ended() == 2
    assert "--no-such-flag" in running.errors[-1]


async def test_what_failed_is_run_again_by_the_name_of_its_session(
    start: "Start", demonstration: "Running", demo: Path
) -> None:
    again = await start(
        "run",
        "--rerun-failed",
        demonstration.session(),
        *(demo / name for name in ("wrong_expectation_test.py", "client_action_fails_test.py")),
        demo / "dying_adapter_test.py",
    )

    assert await again.ended() == 1, again.errors
    failed = {case_id for case_id, case in demonstration.cases().items() if case.result}
    assert set(again.cases()) == failed


async def test_cases_that_share_a_homeserver_end_as_on_their_own(start: "Start", tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    running = await start(
        *(
            "run",
            "chat",
            "-k",
            "SendMessages or InvitedBeforeMessage",
            "--repeat",
            "2",
            "--share-servers",
            "-n",
            "1",
        ),
        environment={"TMPDIR": str(temporary)},
    )

    assert await running.ended(timeout=280) == 0, running.output + running.errors
    session = running.session()
    events = [json.loads(line) for line in (session / "events.jsonl").read_text().splitlines()]
    ready = [event["data"] for event in events if event["kind"] == "server_ready"]
    assert [one["shared"] for one in ready] == [True] * 4
    assert len({one["server_name"] for one in ready}) == 1
    logs = [log.read_text() for log in session.glob("cases/**/homeserver.log")]
    assert len(logs) == 4
    # One after the other, each case registers as many users, and no log has those of another case.
    registered = {log.count("/_matrix/client/v3/register HTTP") for log in logs}
    assert len(registered) == 1
    assert 0 not in registered
    assert running.started() == []
    assert list(temporary.iterdir()) == []
