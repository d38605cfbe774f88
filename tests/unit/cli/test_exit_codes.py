"""Errors that no command expects: one line where the place is wrong, and never exit code 1."""

import errno
import io
from pathlib import Path

import click
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


def test_a_current_directory_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as caught:
        main_module.main(["collect", "."])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "trafficlight: the current directory has been deleted\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (["::error::x\n"], ": :error::x\n"),
        (["a_test.py::T\n", "  ::warning::x\r::x"], "a_test.py::T\n  : :warning::x\r: :x"),
        (["a_test.py", "::T", "\n", "::T"], "a_test.py::T\n: :T"),
        (["  ", "::x", "\n\n ::x"], "  : :x\n\n : :x"),
        (["so: ##[error]x"], "so: # #[error]x"),
    ],
)
def test_no_line_is_a_command_to_github(written: list[str], shown: str) -> None:
    stream = io.StringIO()
    write = main_module.without_commands(stream.write)
    assert [write(text) for text in written] == [len(text) for text in written]
    assert stream.getvalue() == shown


def test_output_is_changed_on_github_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for expected in ("::x\n", ": :x\n"):
        monkeypatch.setattr(main_module.cli, "main", lambda **_: click.echo("::x"))
        with pytest.raises(SystemExit):
            main_module.main(["run"])
        assert capsys.readouterr().out == expected
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
