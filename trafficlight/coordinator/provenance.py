"""Where a session comes from: the commit of its tests, and the CI job that runs it."""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trafficlight.errors import DeployError
from trafficlight.processes import child_environment, run_tool
from trafficlight.suites.imports import SHIPPED

_PATIENCE = 5.0  # seconds that git may take; a session does not wait longer for what is a note
# Where git would look instead of in the directory that it is asked about; set in hooks.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a session ran, beside its tests.

    :param commit: that of the repository of its tests; empty if there is none.
    :param dirty: whether files of that repository had changes that were not committed.
    :param job: the link of the CI job; empty outside of one.
    """

    commit: str = ""
    dirty: bool = False
    job: str = ""


async def provenance_of(files: Iterable[Path], job: str = "") -> Provenance:
    """Return where a session comes from.

    :param files: its test files. The first one outside of the built-in suites decides about the repository,
        and without one the working directory.
    :param job: the link of the CI job; empty for what the environment says.
    """
    own = next((file for file in files if not file.is_relative_to(SHIPPED)), None)
    commit, dirty = await _commit_in(own.parent if own is not None else await asyncio.to_thread(Path.cwd))
    return Provenance(commit, dirty, job or job_in(os.environ))


async def _commit_in(directory: Path) -> tuple[str, bool]:
    if await asyncio.to_thread(_repository_of, directory) is None:
        return "", False
    # Neither fsmonitor nor submodules: settings of the repository must not run programs, nor take long.
    command = ["git", "-C", str(directory), "-c", "core.fsmonitor=false", "status", "--porcelain=v2"]
    command += ["--branch", "--untracked-files=no", "--ignore-submodules=dirty"]
    environment = child_environment({"GIT_OPTIONAL_LOCKS": "0"})
    for name in _ELSEWHERE:
        environment.pop(name, None)
    lines: list[str] = []
    with contextlib.suppress(DeployError, TimeoutError):  # no git, or no repository
        async with asyncio.timeout(_PATIENCE):
            lines = await run_tool("git", command, environment=environment, errors_apart=True)
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if commit == "(initial)":
        return "", False
    return commit, any(not line.startswith("#") for line in lines)


def _repository_of(directory: Path) -> Path | None:
    real = directory.resolve()
    return next((one for one in (real, *real.parents) if (one / ".git").exists()), None)


def job_in(environment: Mapping[str, str]) -> str:
    """Return the link of the job of GitHub Actions, GitLab or Jenkins with this environment; else empty."""
    server, repository, run = (
        environment.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    )
    if server and repository and run:
        link = f"{server}/{repository}/actions/runs/{run}"
    else:
        link = environment.get("CI_JOB_URL") or environment.get("BUILD_URL") or ""
    return link if link.startswith(("https://", "http://")) else ""


def source_paths(files: Mapping[str, Path]) -> dict[str, str]:
    """Return where test files are in their repository, or below the working directory. Reads the disk.

    :param files: the files by their names in case ids.
    :return: by name; without those of which the name says it, or that are in neither.
    """
    return {name: found for name, path in files.items() if (found := _source_path(path)) not in ("", name)}


def _source_path(path: Path) -> str:
    real = path.resolve()
    if real.is_relative_to(SHIPPED):
        return ""
    bases = (_repository_of(real.parent), Path.cwd().resolve())
    return next(
        (real.relative_to(one).as_posix() for one in bases if one is not None and real.is_relative_to(one)),
        "",
    )
