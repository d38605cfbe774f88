"""In CI a skipped test makes the run fail, and is listed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_CONFTEST = Path(__file__).parents[1] / "conftest.py"
_TESTS = {
    "a test": "import pytest\n\ndef test_it():\n    pytest.skip('no browser here')\n",
    "a module": "import pytest\n\npytest.skip('no browser here', allow_module_level=True)\n",
    "an expected failure": "import pytest\n\n@pytest.mark.xfail\ndef test_it():\n    assert 0\n",
}


def _run(folder: Path, content: str, ci: str) -> "subprocess.CompletedProcess[str]":
    shutil.copy(_CONFTEST, folder)
    (folder / "test_passing.py").write_text("def test_passing():\n    pass\n", encoding="utf-8")
    (folder / "test_it.py").write_text(content, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--rootdir",
        str(folder),
        "-p",
        "no:cacheprovider",
        str(folder),
    ]
    environment = {**os.environ, "CI": ci}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("what", "ci", "code"),
    [
        ("a test", "true", 1),
        ("a test", "", 0),
        ("a module", "true", 1),
        ("a module", "", 0),
        ("an expected failure", "true", 0),
    ],
)
def test_skipping_is_a_failure_in_ci(tmp_path: Path, what: str, ci: str, code: int) -> None:
    done = _run(tmp_path, _TESTS[what], ci)

    assert done.returncode == code, done.stdout
    assert ("skipped, which is a failure in CI" in done.stdout) == bool(code)
    if code:
        assert "test_it.py" in done.stdout
        assert "no browser here" in done.stdout
