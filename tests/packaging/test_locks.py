"""The locks fit the project, and the scripts stop at the first failure."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_LOCKS = ("requirements.txt", "requirements-dev.txt")
_WRITE_LOCKS = "update the locks: scripts-dev/lock.sh"
_SCRIPTS = [".ci/run", ".ci/packages"]
_SCRIPTS += sorted(str(path.relative_to(_ROOT)) for path in (_ROOT / "scripts-dev").glob("*.sh"))


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _locked(name: str) -> dict[str, list[Requirement]]:
    """Return the requirements of a lock by name: a package may have one version for each Python."""
    text = (_ROOT / "scripts-dev" / name).read_text(encoding="utf-8")
    found: dict[str, list[Requirement]] = {}
    for entry in text.replace("\\\n", "").splitlines():
        if not entry.startswith("#"):
            requirement = Requirement(entry.partition("--hash")[0].strip())
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def _version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("name", _LOCKS)
def test_a_lock_has_exact_versions_with_hashes_and_names_no_host(name: str) -> None:
    text = (_ROOT / "scripts-dev" / name).read_text(encoding="utf-8")
    assert "://" not in text
    entries = [line for line in text.replace("\\\n", "").splitlines() if not line.startswith("#")]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.!+-]+ .*--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("name", _LOCKS)
def test_a_lock_fits_the_project(name: str) -> None:
    project = _pyproject()
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    extras = project["project"]["optional-dependencies"]
    wanted += [*extras["lab"], *extras["compat"]]
    if name == "requirements-dev.txt":
        wanted += project["dependency-groups"]["dev"]
    locked = _locked(name)

    for requirement in map(Requirement, wanted):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in {name}; {_WRITE_LOCKS}"
        for one in versions:
            assert _version(one) in requirement.specifier, f"{one} in {name}; {_WRITE_LOCKS}"


def test_what_runs_is_what_is_tested() -> None:
    run, dev = (_locked(name) for name in _LOCKS)

    assert {name: list(map(str, run[name])) for name in run} == {
        name: list(map(str, dev.get(name, []))) for name in run
    }, _WRITE_LOCKS


@pytest.mark.parametrize("script", _SCRIPTS)
def test_a_script_can_be_run_and_stops_at_the_first_failure(script: str) -> None:
    path = _ROOT / script

    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", path], check=True)
