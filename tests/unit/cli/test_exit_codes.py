"""Errors that no command expects: one line where the place is wrong, and never exit code 1."""

import errno

import pytest

from trafficlight.cli import main as main_module
from trafficlight.errors import ConfigError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/cache"),
            2,
            "trafficlight: /cache: Permission denied",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "trafficlight: No space left on device"),
        (
            ExceptionGroup("tasks", [OSError(errno.EROFS, "Read-only", "/x")]),
            2,
            "trafficlight: /x: Read-only",
        ),
        (RuntimeError("Symlink loop from 'a'"), 2, "trafficlight: Symlink loop from 'a'"),
        (ExceptionGroup("tasks", [ConfigError("wrong", key="PORT")]), 2, "trafficlight: PORT: wrong"),
        (ValueError("a bug"), 3, "ValueError: a bug"),
    ],
)
def test_an_unexpected_error(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(main_module.cli, "main", fail)
    with pytest.raises(SystemExit) as caught:
        main_module.main(["run"])
    assert caught.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == line
    assert (len(lines) == 1) is (code == 2), "only a bug has a traceback"
