"""`trafficlight collect`: list the cases that would run, and problems of test files."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from trafficlight.cli.options import selection_options, warn_of_unread
from trafficlight.cli.types import config_option
from trafficlight.config import Settings, load
from trafficlight.coordinator.workers.planner import WorkerPlanner
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.errors import TestFileError
from trafficlight.suites.discovery import DEFAULT_PATTERNS, file_found
from trafficlight.suites.model import Case, Plan, Suite
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import Selection
from trafficlight.text import count as counted

# The exit codes that a session of these files would have.
_NOTHING = 2
_PROBLEMS = 3


@click.command(name="collect")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@selection_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", "-q", is_flag=True, help="Print counts only.")
@config_option
def command(
    paths: tuple[str, ...],
    selection: Selection,
    *,
    as_json: bool,
    quiet: bool,
    config: Path | None,
) -> int:
    """List the cases that would run.

    PATH is a directory, a test file, a suite file (YAML), or a part of a test file: FILE::Class,
    FILE::Class.method, FILE::Class[alice=Nio,...], FILE::Class.method@{"size": 10}. Default: the built-in
    suites.

    Exit code: 0, 2 if there is nothing to run, 3 if a test file has a problem.
    """
    warn_of_unread(config, paths)
    return list_cases(paths, selection, load(file=config), as_json=as_json, quiet=quiet)


def list_cases(
    paths: tuple[str, ...],
    selection: Selection,
    settings: Settings,
    *,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Print the cases that would run, and return the exit code."""
    found = asyncio.run(planned(paths, selection, settings))
    lines = [_as_json(found, selection)] if as_json else _as_text(found, selection, quiet=quiet)
    # A character that cannot be encoded must not lose the rest.
    click.echo("\n".join(lines).encode("utf-8", "backslashreplace").decode())
    for problem in found.problems:
        click.echo(f"error: {_shown(problem)}", err=True)
    if not found.cases:
        click.echo(found.emptiness, err=True)
    return _NOTHING if not found.cases else _PROBLEMS if found.problems else 0


async def planned(paths: tuple[str, ...], selection: Selection, settings: Settings) -> Plan:
    """Return the plan; workers make it, because importing a test file runs its code."""
    patterns = settings.test_patterns or DEFAULT_PATTERNS
    selection = selection.with_types(settings.clients, settings.servers)
    if settings.workers == 0:
        return plan(paths, selection, patterns=patterns)
    async with WorkerPool(0, memory=settings.worker_memory) as pool:
        planner = WorkerPlanner(pool, settings.import_deadline, printed=partial(click.echo, err=True))
        return await planner.plan(paths, selection, patterns=patterns)


def _as_text(found: Plan, selection: Selection, *, quiet: bool) -> Iterator[str]:
    for suite in found.suites:
        yield f"{suite.id}  {', '.join([counted(len(suite.cases), 'case'), *_left_out([suite])])}"
        if quiet:
            continue
        if suite.documentation:
            yield f"    {suite.documentation}"
        for case in suite.cases:
            yield f"  {case.id}{_remark(case, selection)}"
        yield ""
    parts = [f"{counted(len(found.cases), 'case')} in {counted(len(found.suites), 'test')}"]
    parts += _left_out(found.suites, found.deselected)
    if found.problems:
        parts.append(counted(len(found.problems), "problem"))
    if selection.sample is not None:
        parts.append(f"--seed {selection.seed}")
    yield " · ".join(parts)
    yield from found.warnings
    yield from selection.unused(case.id for case in found.whole)


def _left_out(suites: Sequence[Suite], deselected: int = 0) -> Iterator[str]:
    """Say how many cases of tests do not run.

    :param deselected: cases of other tests that are not selected.
    """
    for number, what in (
        (sum(case.skip is not None for suite in suites for case in suite.cases), "skipped"),
        (sum(suite.pruned for suite in suites), "mirrored left out"),
        (sum(suite.unpaired for suite in suites), "left out by --pairwise"),
        (sum(suite.deselected for suite in suites) + deselected, "not selected"),
    ):
        if number:
            yield f"{number} {what}"


def _remark(case: Case, selection: Selection) -> str:
    if case.skip is not None:
        return f"  skipped: {case.skip}"
    expected = selection.expected(case.id)
    return f"  expected to fail: {expected.reason}" if expected else ""


def _as_json(found: Plan, selection: Selection) -> str:
    def read(case: Case) -> dict[str, Any]:
        expected = selection.expected(case.id)
        return {
            "id": case.id,
            "suite": case.suite,
            "file": case.file,
            "line": case.line,
            "roles": case.roles,
            "parameters": dict(case.parameters),
            "skipped": case.skip,
            "expected_failure": expected.model_dump(exclude={"case"}) if expected else None,
        }

    suites = [
        {
            "id": suite.id,
            "documentation": suite.documentation,
            "cases": len(suite.cases),
            "skipped": sum(case.skip is not None for case in suite.cases),
            "pruned": suite.pruned,
            "unpaired": suite.unpaired,
            "deselected": suite.deselected,
        }
        for suite in found.suites
    ]
    problems = [
        {"path": str(one.path), "line": one.line, "problem": one.problem, "hint": one.hint}
        for one in found.problems
    ]
    seed = selection.seed if selection.sample is not None else None
    cases = [read(case) for case in found.cases]
    warnings = [*found.warnings, *selection.unused(case.id for case in found.whole)]
    whole = {"cases": cases, "suites": suites, "problems": problems, "warnings": warnings, "seed": seed}
    return json.dumps(whole | {"deselected": found.deselected}, indent=2, allow_nan=False)


def _shown(problem: TestFileError) -> str:
    """Return a problem with the name of its file in case ids."""
    return str(problem).replace(str(problem.path), file_found(problem.path, Path.cwd()).name, 1)
