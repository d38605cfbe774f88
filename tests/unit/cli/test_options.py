"""Options that users of other test runners reach for."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from trafficlight.cli.main import _INSTEAD, main
from trafficlight.cli.options import lab_options, selection_options
from trafficlight.cli.run import command as run
from trafficlight.errors import UsageError
from trafficlight.results.journal import EventLog
from trafficlight.suites.selection import Selection

KILLED = Path(__file__).parents[1] / "results" / "old_logs" / "session-1.jsonl"


@click.command()
@lab_options
def settings(**flags: Any) -> dict[str, Any]:
    """Return what the options set."""
    return {name: value for name, value in flags.items() if value is not None}


@click.command()
@selection_options
def selected(selection: Selection) -> list[str]:
    """Return the only cases."""
    return selection.only or []


def test_the_reports_of_a_killed_session_are_written_for_a_rerun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--lf` said that there was no such folder."""
    events = tmp_path / "events.jsonl"
    lines = KILLED.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(line for line in lines if b'"session_ended"' not in line))
    again = ["--rerun-failed", str(tmp_path)]
    with closing(EventLog(events)), pytest.raises(UsageError, match="is of a session that runs"):
        selected.main(again, standalone_mode=False)
    cases = selected.main(again, standalone_mode=False)
    assert cases
    assert f"the session in {tmp_path} was killed: its reports are complete now" in capsys.readouterr().err
    assert (tmp_path / "report.html").exists()
    assert selected.main(again, standalone_mode=False) == cases
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ([], {}),
        (["-v"], {"log_level": "info"}),
        (["--log-level", "debug"], {"log_level": "debug"}),
        (["-n", "3"], {"case_limit": 3}),
        (["--timeout", "7.5"], {"case_deadline": 7.5}),
        (["--workers", "0"], {"workers": 0}),
    ],
)
def test_short_names_of_settings(arguments: list[str], flags: dict[str, Any]) -> None:
    assert settings.main(arguments, standalone_mode=False) == flags


@pytest.mark.parametrize("option", sorted(_INSTEAD))
def test_the_option_of_another_test_runner_names_ours(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name for one in run.params for name in (*one.opts, *one.secondary_opts)}
    assert option not in known
    with pytest.raises(SystemExit) as ended:
        main(["run", option, "x"])
    assert ended.value.code == 2
    assert f"No such option '{option}'. Use {_INSTEAD[option]}." in capsys.readouterr().err
    ours = [word.rstrip(";,") for word in _INSTEAD[option].split() if word.startswith("-")]
    assert known.issuperset(word for word in ours if word != "--quiet")
