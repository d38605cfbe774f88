"""What a session was: the commit of its tests, the CI job, and where its test files are."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.provenance import job_in, provenance_of
from trafficlight.results.journal import read_events
from trafficlight.results.record import SessionRecord
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.selection import SessionRequest

TESTS = """
from trafficlight import Test

class Passes(Test):
    async def run(self):
        pass
"""


def _git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Kim", "-c", "user.email=kim@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose tests are below the folder of a configuration file."""
    monkeypatch.setattr("trafficlight.coordinator.provenance._PATIENCE", 300.0)  # on a busy machine
    if shutil.which("git") is None:
        pytest.skip("git is missing: apt install git")
    root = tmp_path / "repository"
    project = root / "services" / "chat"
    (project / "e2e").mkdir(parents=True)
    (project / "trafficlight.json").write_text("{}")
    (project / "e2e" / "login_test.py").write_text(TESTS)
    (project / "e2e" / "broken_test.py").write_text("import nowhere_at_all")
    for command in (["init"], ["add", "."], ["commit", "-m", "first"]):
        _git(root, *command)
    return root


async def test_a_session_says_what_it_ran(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = await asyncio.to_thread(_git, repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as in a hook of another repository
    settings = Settings(
        results_folder=tmp_path / "results", workers=0, adapters={}, job_url="https://ci.example/812"
    )
    async with Lab.open(settings) as lab:
        session = await lab.start(SessionRequest(targets=[str(repository / "services" / "chat")]))
        async with asyncio.timeout(600):
            await session.ended.wait()
    folder = session.folder

    def read() -> tuple[SessionRecord, ElementTree.Element, str]:
        junit = ElementTree.parse(folder.junit).getroot()
        page = (folder.path / "report.html").read_text()
        return SessionRecord.replay(read_events(folder.events)), junit, page

    record, junit, page = await asyncio.to_thread(read)
    assert (record.commit, record.dirty, record.job) == (commit, False, "https://ci.example/812")
    assert record.revision == commit[:12]
    # Ids begin at the root of the tests, and paths at that of the repository, where CI systems look.
    assert list(record.cases) == ["e2e/login_test.py::Passes"]
    files = {case.get("file"): case.get("classname") for case in junit.iter("testcase")}
    assert files == {
        "services/chat/e2e/login_test.py": "e2e.login_test.Passes",
        "services/chat/e2e/broken_test.py": "e2e.broken_test",
    }
    properties = {one.get("name"): one.get("value") for one in junit.iter("property")}
    assert (properties["commit"], properties["job"]) == (commit, "https://ci.example/812")
    assert "dirty" not in properties
    assert f'tests at <span class="mono">{commit[:12]}</span>' in page
    assert '<a href="https://ci.example/812" rel="noreferrer">CI job</a>' in page


async def test_changes_that_are_not_committed_are_said(repository: Path) -> None:
    file = repository / "services" / "chat" / "e2e" / "login_test.py"
    await asyncio.to_thread((repository / "new.txt").touch)  # of which git knows nothing
    assert not (await provenance_of([file])).dirty

    await asyncio.to_thread(file.write_text, TESTS + "\n")

    assert (await provenance_of([SHIPPED / "chat" / "x_test.py", file])).dirty


async def test_built_in_suites_have_the_commit_of_the_working_directory(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = [SHIPPED / "chat" / "send_messages_test.py"]
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))  # the temporary folder may be in one
    monkeypatch.chdir(repository)
    assert len((await provenance_of(shipped)).commit) == 40

    monkeypatch.chdir(tmp_path)

    assert (await provenance_of(shipped)).commit == ""


@pytest.mark.parametrize(
    ("environment", "link"),
    [
        (
            {"GITHUB_SERVER_URL": "https://gh", "GITHUB_REPOSITORY": "kim/chat", "GITHUB_RUN_ID": "7"},
            "https://gh/kim/chat/actions/runs/7",
        ),
        ({"GITHUB_SERVER_URL": "https://gh"}, ""),
        ({"BUILD_URL": "ftp://jenkins"}, ""),
        ({"CI_JOB_URL": "https://gl/-/jobs/7"}, "https://gl/-/jobs/7"),
        ({"BUILD_URL": "https://jenkins/job/chat/7/"}, "https://jenkins/job/chat/7/"),
    ],
)
def test_the_link_of_a_ci_job(environment: dict[str, str], link: str) -> None:
    assert job_in(environment) == link
