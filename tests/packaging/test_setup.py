"""The script that sets up a checkout."""

import shutil
import subprocess
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def test_a_checkout_that_cannot_be_written_is_one_line_of_advice(tmp_path: Path) -> None:
    (tmp_path / "scripts-dev").mkdir()
    locks = _CHECKOUT.glob("scripts-dev/*.txt")
    for file in (_CHECKOUT / "pyproject.toml", *locks, _CHECKOUT / "scripts-dev" / "setup.sh"):
        shutil.copy(file, tmp_path / file.relative_to(_CHECKOUT))
    (tmp_path / ".venv").touch()  # permissions do not stop root
    command = ["bash", str(tmp_path / "scripts-dev" / "setup.sh"), "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    advice = "use a checkout of your own, made by: git clone"
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}/.venv cannot be written: {advice} {tmp_path} DIRECTORY\n"
