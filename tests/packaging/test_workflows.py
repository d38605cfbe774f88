"""The workflows, the hooks and the templates name only what there is."""

import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_WORKFLOWS = sorted((_ROOT / ".github" / "workflows").glob("*.yml"))
_TEMPLATES = sorted((_ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
_NAMES = [path.name for path in _WORKFLOWS]


def _yaml(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def _steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in _yaml(workflow)["jobs"].values() for step in job["steps"]]


def _modes(script: Path) -> set[str]:
    """Return the words that the usage of a script allows as its first argument."""
    usage = re.search(r"^# Usage: \S+ \[?([\w-]+(?:(?: \| |\|)[\w-]+)+)", script.read_text(), re.MULTILINE)
    return set(re.split(r" ?\| ?", usage[1])) if usage else set()


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=_NAMES)
def test_every_command_exists(workflow: Path) -> None:
    commands = [line for step in _steps(workflow) if "run" in step for line in step["run"].splitlines()]

    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        if "/" not in program:
            assert program == "docker", command
            continue
        assert os.access(_ROOT / program, os.X_OK), command
        modes = _modes(_ROOT / program)
        if modes and arguments:
            assert arguments[0] in modes, command


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=_NAMES)
def test_jobs_are_bounded_and_have_few_rights(workflow: Path) -> None:
    loaded = _yaml(workflow)

    assert loaded["permissions"] == {"contents": "read"}
    assert True in loaded, "`on` is YAML's word for true"
    for name, job in loaded["jobs"].items():
        assert job["timeout-minutes"] <= 45, name
        assert {job.get("needs", name)} <= set(loaded["jobs"])
    for step in _steps(workflow):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", step["uses"])


def test_actions_that_publish_are_pinned_to_commits() -> None:
    text = (_ROOT / ".github" / "workflows" / "release.yml").read_text()

    assert re.findall(r"uses: (\S+@(?![0-9a-f]{40} # v\d+\.\d+\.\d+$).*)", text, re.MULTILINE) == []


def test_the_classifiers_are_what_the_workflow_tests() -> None:
    jobs = _yaml(_ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    classifiers = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    claimed = [found[1] for one in classifiers if (found := re.search(r"Python :: (3\.\d+)$", one))]

    assert jobs["unit"]["strategy"]["matrix"]["python"] == claimed
    assert set(jobs["integration"]["strategy"]["matrix"]["python"]) <= set(claimed)


def test_only_publishing_may_publish() -> None:
    jobs = _yaml(_ROOT / ".github" / "workflows" / "release.yml")["jobs"]

    rights = {name: job.get("permissions", {}) for name, job in jobs.items()}
    assert rights == {
        "build": {},
        "package": {"id-token": "write"},
        "image": {"contents": "read", "packages": "write"},
    }
    assert all(jobs[name]["needs"] == "build" for name in ("package", "image"))
    assert "secrets." not in (_ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_hooks_run_programs_of_the_lock() -> None:
    (local,) = _yaml(_ROOT / ".pre-commit-config.yaml")["repos"]
    locked = (_ROOT / "scripts-dev" / "requirements-dev.txt").read_text()

    assert local["repo"] == "local"
    for hook in local["hooks"]:
        program, *arguments = shlex.split(hook["entry"])
        name = program.removeprefix(".venv/bin/")
        if name == "python":
            assert (_ROOT / arguments[0]).is_file()
        else:
            package = {"lint-imports": "import-linter"}.get(name, name)
            assert re.search(rf"^{package}==", locked, re.MULTILINE), hook


@pytest.mark.parametrize("template", _TEMPLATES, ids=[path.name for path in _TEMPLATES])
def test_issue_templates_have_what_forms_need(template: Path) -> None:
    loaded = _yaml(template)
    if template.name == "config.yml":
        return
    assert loaded["name"]
    assert loaded["description"]
    assert all(part["attributes"]["label"] for part in loaded["body"])


def test_a_bug_comes_with_what_is_needed_to_understand_it() -> None:
    text = (_ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()

    assert "trafficlight doctor" in text
    assert "events.jsonl" in text


def test_ci_calls_lint_and_test() -> None:
    lines = (_ROOT / ".ci" / "run").read_text().splitlines()

    assert [line.split()[0] for line in lines if line.startswith(("scripts-dev/", ".ci/"))] == [
        ".ci/packages",
        "scripts-dev/lint.sh",
        "scripts-dev/test.sh",
    ]
