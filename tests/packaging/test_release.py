"""`scripts-dev/release.sh --dry-run` in a repository of its own: what a release needs, and what stops one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trafficlight.version import VERSION

_ROOT = Path(__file__).parents[2]
_COPIED = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "trafficlight-sample.json",
    "docs",
    "trafficlight",
)
_NEXT = "9.8.7"


class _Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def release(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.folder / "scripts-dev" / "release.sh", *arguments],
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def repository(tmp_path: Path) -> _Repository:
    """Copy what a release is made of, with the next version in code and changelog, committed."""
    for name in _COPIED:
        source, target = _ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (tmp_path / "scripts-dev").mkdir()
    shutil.copy(_ROOT / "scripts-dev" / "release.sh", tmp_path / "scripts-dev")
    (tmp_path / ".gitignore").write_text("/dist/\n")
    repository = _Repository(tmp_path)
    repository.edit("trafficlight/version.py", f'VERSION = "{VERSION}"', f'VERSION = "{_NEXT}"')
    text = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.sub(
        r"^## Unreleased\n", f"## Unreleased\n\n## {_NEXT} (2026-12-01)\n", text, flags=re.MULTILINE
    )
    (tmp_path / "CHANGELOG.md").write_text(released, encoding="utf-8")
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=Release")
    return repository


def test_a_dry_run_checks_builds_and_makes_no_tag(repository: _Repository) -> None:
    run = repository.release("--dry-run", _NEXT)

    assert run.returncode == 0, run.stdout + run.stderr
    assert "metadata is valid" in run.stdout
    assert f"left out lint, tests and the tag v{_NEXT}" in run.stdout
    assert sorted(path.name for path in (repository.folder / "dist").iterdir()) == [
        f"matrix_trafficlight-{_NEXT}-py3-none-any.whl",
        f"matrix_trafficlight-{_NEXT}.tar.gz",
    ]
    tags = subprocess.run(["git", "tag"], cwd=repository.folder, capture_output=True, text=True, check=True)
    assert tags.stdout == ""


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("dirty", "the tree is not clean"),
        ("tagged", f"the tag v{_NEXT} exists"),
        ("unreleased", "still has entries under Unreleased"),
        ("no section", f"CHANGELOG.md has no section '## {_NEXT}'"),
        ("other version", f"says {_NEXT}, not 1.2.3"),
        ("no version", "no version of a release: 'soon'"),
    ],
)
def test_what_stops_a_release(repository: _Repository, problem: str, message: str) -> None:
    version = "1.2.3" if problem == "other version" else ""
    match problem:
        case "dirty":
            (repository.folder / "new.txt").touch()
        case "tagged":
            repository.git("tag", f"v{_NEXT}")
        case "unreleased":
            repository.edit("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- One more.\n")
        case "no section":
            repository.edit("CHANGELOG.md", f"## {_NEXT}", "## 9.8.70")
        case "no version":
            repository.edit("trafficlight/version.py", _NEXT, "soon")
        case _:
            assert version
    if problem not in ("dirty", "tagged"):
        repository.git("commit", "--all", "--quiet", "--allow-empty", "--message=Problem")

    run = repository.release("--dry-run", *filter(None, [version]))

    assert run.returncode == 1, run.stdout + run.stderr
    assert message in run.stderr
    assert not (repository.folder / "dist").exists()


def test_only_main_is_released(repository: _Repository) -> None:
    repository.git("switch", "--quiet", "--create", "other")

    run = repository.release()

    assert run.returncode == 1
    assert "on branch 'other', not on main" in run.stderr
