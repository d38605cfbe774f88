"""The example files of the documentation are complete: they are read, and their commands run."""

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from trafficlight.results.catalog import read_durations

_ROOT = Path(__file__).parents[2]
_EXAMPLES = _ROOT / "docs" / "how-to" / "examples"
_TEST = """
from trafficlight.server_types import SynapseStable
from trafficlight.test import Test


class Answers(Test):
    servers = {"server": [SynapseStable]}

    async def run(self, server):
        assert server.cs_api
"""


def _yaml(name: str) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load((_EXAMPLES / name).read_text())
    return loaded


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a test, and a folder with the command `trafficlight`."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "answers_test.py").write_text(_TEST)
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "trafficlight"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m trafficlight "$@"\n')
    program.chmod(0o755)
    return tmp_path


def _environment(project: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRAFFICLIGHT_")}
    path = f"{project / 'bin'}:{kept.get('PATH', '')}"
    # No clients: the test has none.
    return {**kept, "PATH": path, "PYTHONPATH": str(_ROOT), "TRAFFICLIGHT_ADAPTERS": "{}", **more}


def _shell(script: str, project: Path, **more: str) -> str:
    """Run the lines of a step as a CI service does, without those that install trafficlight."""
    lines = [line for line in script.splitlines() if "pip install" not in line]
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", "\n".join(lines)],
        cwd=project,
        env=_environment(project, **more),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_github_workflow(project: Path) -> None:
    workflow = _yaml("github-actions.yml")
    steps = workflow["jobs"]["interop"]["steps"]
    summary = project / "summary.md"
    for step in steps:
        if "run" in step:
            _shell(step["run"], project, **workflow["env"], GITHUB_STEP_SUMMARY=str(summary))
    text = summary.read_text()
    assert text.startswith("### ✓ The case succeeded\n")
    used = {step["uses"].partition("@")[0]: step for step in steps if "uses" in step}
    assert (project / used["actions/upload-artifact"]["with"]["path"] / "report.html").is_file()
    assert (project / used["mikepenz/action-junit-report"]["with"]["report_paths"]).is_file()
    # Whatever comes behind the tests is there for the case that they fail.
    run = next(index for index, step in enumerate(steps) if step.get("name") == "Run")
    assert all(step["if"] == "always()" for step in steps[run + 1 :])
    assert workflow["permissions"] == {"contents": "read"}
    assert used["actions/cache"]["with"]["path"] == "~/.cache/trafficlight"


def test_the_gitlab_file(project: Path) -> None:
    job = _yaml("gitlab-ci.yml")["interop"]
    variables = dict(job["variables"])
    assert (
        variables.pop("TRAFFICLIGHT_CACHE_FOLDER").removeprefix("$CI_PROJECT_DIR/") in job["cache"]["paths"]
    )
    # With this machine's cache of homeservers.
    _shell("\n".join([*job["before_script"], *job["script"]]), project, **variables)
    assert job["artifacts"]["when"] == "always"
    assert (project / job["artifacts"]["reports"]["junit"]).is_file()
    assert job["artifacts"]["paths"] == ["results/"]


_SHARDED = """
from trafficlight import Test, matrix


class Counts(Test):
    @matrix(number=[1, 2, 3, 4, 5])
    async def test_counts(self, number):
        assert number
"""


def _job(project: Path, name: str) -> Path:
    """Return the folder of a job: a checkout of its own."""
    shutil.copytree(project / "tests", project / name / "tests")
    shutil.copytree(project / "bin", project / name / "bin")
    return project / name


def test_the_github_workflow_with_shards(project: Path) -> None:
    """Artifacts and caches are folders here; everything else is what the file says."""
    (project / "tests" / "answers_test.py").write_text(_SHARDED)
    workflow = _yaml("github-actions-shards.yml")
    jobs, artifacts = workflow["jobs"], project / "artifacts"
    summary = project / "summary.md"
    matrix = jobs["shard"]["strategy"]["matrix"]["shard"]

    def run(name: str, shard: int | None = None) -> Path:
        job, folder = jobs[name], _job(project, f"{name}-{shard}")
        values = {"matrix.shard": shard, "strategy.job-total": len(matrix)}

        def filled(text: str) -> str:
            return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: str(values.get(found[1], "")), text)

        environment = {**workflow["env"], **job.get("env", {}), "GITHUB_STEP_SUMMARY": str(summary)}
        for step in job["steps"]:
            match step.get("uses", "").partition("@")[0]:
                case "":
                    _shell(step["run"], folder, **{key: filled(text) for key, text in environment.items()})
                case "actions/upload-artifact" if (source := folder / step["with"]["path"]).exists():
                    shutil.copytree(source, artifacts / filled(step["with"]["name"]))
                case "actions/download-artifact":
                    for found in artifacts.glob(step["with"]["pattern"]):
                        merged = step["with"].get("merge-multiple")
                        into = folder / step["with"]["path"] / ("" if merged else found.name)
                        shutil.copytree(found, into, dirs_exist_ok=True)
                case _:
                    pass
        return folder

    run("prepare")
    for shard in matrix:
        run("shard", shard)
    merged = run("merge")

    assert [path.name for path in sorted(artifacts.iterdir())] == [
        *(f"shard-{n}" for n in matrix),
        "trafficlight",
    ]
    assert "answers_test.py::Counts.test_counts` | 5 |" in summary.read_text()
    uses = {step["uses"].partition("@")[0]: step for step in jobs["merge"]["steps"] if "uses" in step}
    assert (merged / uses["mikepenz/action-junit-report"]["with"]["report_paths"]).is_file()
    assert (artifacts / "trafficlight" / "report.html").is_file()
    kept = uses["actions/cache/save"]["with"]
    assert len(read_durations(merged / kept["path"] / "events.jsonl")) == 5
    restored = next(
        one for one in jobs["prepare"]["steps"] if one.get("uses", "").startswith("actions/cache/restore")
    )
    assert restored["with"]["path"] == kept["path"]
    assert kept["key"].startswith(restored["with"]["restore-keys"])
    assert (jobs["shard"]["needs"], jobs["merge"]["needs"], jobs["merge"]["if"]) == (
        "prepare",
        "shard",
        "always()",
    )
    assert jobs["shard"]["strategy"]["fail-fast"] is False
    assert workflow["permissions"] == {"contents": "read"}


def test_the_gitlab_file_with_shards(project: Path) -> None:
    (project / "tests" / "answers_test.py").write_text(_SHARDED)
    pipeline = _yaml("gitlab-ci-shards.yml")
    assert pipeline["shard"]["parallel"] > 1
    # Two do here. They write into one folder, as the artifacts of all jobs do in that of the last one.
    for name, number in (("prepare", 1), ("shard", 1), ("shard", 2), ("merge", 1)):
        job = pipeline[name]
        script = [*pipeline["default"]["before_script"], *job["script"], *job.get("after_script", ())]
        _shell("\n".join(script), project, CI_NODE_INDEX=str(number), CI_NODE_TOTAL="2")
        assert all((project / path).exists() for path in job["artifacts"]["paths"])
    assert [pipeline["stages"].index(pipeline[name]["stage"]) for name in ("prepare", "shard", "merge")] == [
        0,
        1,
        2,
    ]
    junit = (project / pipeline["merge"]["artifacts"]["reports"]["junit"]).read_text()
    assert junit.count("<testcase ") == 5
    (restored,) = (one for one in pipeline["prepare"]["cache"] if one.get("policy") == "pull")
    assert pipeline["merge"]["cache"]["key"] == restored["key"]
    assert len(read_durations(project / restored["paths"][0] / "events.jsonl")) == 5
    assert all(pipeline[name]["artifacts"].get("when") == "always" for name in ("shard", "merge"))


def test_the_page_on_splitting_a_run(project: Path) -> None:
    (project / "tests" / "answers_test.py").write_text(_SHARDED)
    page = (_EXAMPLES.parent / "split-a-run.md").read_text()
    first, second = re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)

    assert _shell(first, project).splitlines()[-1].startswith("5 success · 0 failure · 0 error")
    assert " success · 0 failure" in _shell(second, project)
    listed = next(line for line in re.findall(r"`(trafficlight collect .*?)`", page))
    assert "not selected" in _shell(listed, project)


@pytest.mark.parametrize("name", sorted(path.name for path in _EXAMPLES.glob("git*.yml")))
def test_the_distribution_is_installed_by_its_own_name(name: str) -> None:
    installed = re.findall(r'pip install "([\w-]+)\[(\w+)\] @ ', (_EXAMPLES / name).read_text())
    assert set(installed) == {("matrix-trafficlight", "lab")}


def _unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(_EXAMPLES / "trafficlight.service")
    return parser


def test_the_command_of_the_systemd_unit(project: Path) -> None:
    """It starts, is ready, and ends after SIGTERM with the exit code that the unit counts as a success."""
    service = _unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == "/opt/trafficlight/bin/trafficlight"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments[arguments.index("--port") + 1] = str(port)
    environment = _environment(project, TRAFFICLIGHT_PEOPLE_TOKEN="a", TRAFFICLIGHT_ADAPTER_TOKEN="b")
    environment["TRAFFICLIGHT_TESTS"] = "tests"
    command = [str(project / "bin" / "trafficlight"), *arguments]
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any(f"http://127.0.0.1:{port}/status" in line for line in process.stdout)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=float(service["TimeoutStopSec"]))
        code = process.returncode
    finally:
        process.kill()
        process.communicate()
    assert code in (0, int(service["SuccessExitStatus"]))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (_EXAMPLES / "trafficlight.service").read_text()
    unit = tmp_path / "trafficlight.service"
    # It checks that the program exists.
    unit.write_text(text.replace("/opt/trafficlight/bin/trafficlight", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "trafficlight.service" not in done.stderr
