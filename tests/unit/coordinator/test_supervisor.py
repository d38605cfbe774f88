"""Which programs are started, and what is said of one that exits."""

from pathlib import Path

import pytest

from trafficlight.config import AdapterProgram
from trafficlight.coordinator import supervisor
from trafficlight.coordinator.supervisor import programs_of
from trafficlight.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("cd somewhere && exec node x.mjs", r"no such program: cd \(commands are not run by a shell\)"),
        ("no-such-program-anywhere", "no such program: no-such-program-anywhere"),
        ("'unclosed", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_start_is_refused(command: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"ADAPTERS.mine: .*{why}"):
        programs_of({"mine": AdapterProgram(command=command)})


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("hello\nlast\n\n", "last"),
        ("node:internal\nError: Cannot find module 'x'\n    at y\n\nNode.js v20.1.0\n", "Error: Cannot find"),
        ("Traceback:\n  File\nurllib.error.URLError: <refused>\n", "urllib.error.URLError: <refused>"),
        ("", ""),
    ],
)
def test_the_cause_of_an_exit_is_its_last_error(tmp_path: Path, output: str, cause: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"Error: of an earlier process\n{output}")
    found = supervisor._cause(log, len("Error: of an earlier process\n"))
    assert found.startswith(cause)
    assert bool(found) == bool(cause)
