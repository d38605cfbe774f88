"""The checks of tests/conftest.py: skips in CI, leaks, Ctrl-C; in one process and with pytest-xdist."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# pytest in pytest, twice on a busy machine.
pytestmark = pytest.mark.timeout(400)

_CONFTEST = Path(__file__).parents[1] / "conftest.py"
_TESTS = {
    "a test": "import pytest\n\ndef test_it():\n    pytest.skip('no browser here')\n",
    "a module": "import pytest\n\npytest.skip('no browser here', allow_module_level=True)\n",
    "an expected failure": "import pytest\n\n@pytest.mark.xfail\ndef test_it():\n    assert 0\n",
    "a leak": "kept = []\n\ndef test_it():\n    kept.append(open(__file__))\n",
}
_ALONE_AND_PARALLEL = pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "xdist"])
_HANGS = """
import os, time

def test_it(tmp_path):
    with open(os.environ["SEEN"], "w") as file:
        file.write("running")
        file.flush()
        time.sleep(60)
"""


def _command(folder: Path, content: str, *options: str) -> list[str]:
    shutil.copy(_CONFTEST, folder)
    (folder / "test_passing.py").write_text("def test_passing():\n    pass\n", encoding="utf-8")
    (folder / "test_it.py").write_text(content, encoding="utf-8")
    unused = ("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:cov")
    fixed = ("-m", "pytest", "--rootdir", str(folder), *unused, str(folder))
    return [sys.executable, *fixed, *options]


def _environment(**changes: str) -> dict[str, str]:
    # Not those of the pytest-xdist worker that runs this test.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, **changes}


@_ALONE_AND_PARALLEL
@pytest.mark.parametrize(
    ("what", "ci", "code"),
    [
        ("a test", "true", 1),
        ("a test", "", 0),
        ("a module", "true", 1),
        ("an expected failure", "true", 0),
    ],
)
def test_skipping_is_a_failure_in_ci(
    tmp_path: Path, what: str, ci: str, code: int, options: tuple[str, ...]
) -> None:
    command = _command(tmp_path, _TESTS[what], *options)

    done = subprocess.run(command, env=_environment(CI=ci), cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == code, done.stdout
    assert ("skipped, which is a failure in CI" in done.stdout) == bool(code)
    if code:
        assert "test_it.py" in done.stdout
        assert "no browser here" in done.stdout


@_ALONE_AND_PARALLEL
def test_a_leak_is_an_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = _command(tmp_path, _TESTS["a leak"], *options)

    done = subprocess.run(command, env=_environment(CI=""), cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 1, done.stdout
    assert "ERROR test_it.py::test_it" in done.stdout
    assert "file " in done.stdout


@_ALONE_AND_PARALLEL
def test_ctrl_c_keeps_summary_durations_and_junit(tmp_path: Path, options: tuple[str, ...]) -> None:
    seen, junit = tmp_path / "seen", tmp_path / "junit.xml"
    command = _command(tmp_path, _HANGS, *options, "--durations=5", "-vv", f"--junit-xml={junit}")
    (tmp_path / "test_it.py").rename(tmp_path / "test_that_hangs.py")  # sorts after test_passing.py
    process = subprocess.Popen(
        command,
        env=_environment(CI="", SEEN=str(seen), PYTHONUNBUFFERED="1"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        # The controller of pytest-xdist learns of a test only after the next one has started.
        output = ""
        while "PASSED" not in output and (line := process.stdout.readline()):
            output += line
        while not seen.exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        output += process.communicate(timeout=300)[0]

    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "1 passed" in output
    assert "slowest" in output
    assert "AssertionError" not in output
    assert 'name="test_passing"' in junit.read_text(encoding="utf-8")
