"""From paths and wishes to a plan: which files there are to read, and what their cases come to together."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from trafficlight.errors import TestFileError, UsageError
from trafficlight.suites.case_ids import base_id
from trafficlight.suites.discovery import DEFAULT_PATTERNS, FileFound, file_found
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.model import Case, Plan
from trafficlight.suites.reading import FileRequest, Reading, read_file
from trafficlight.suites.selection import Selection, TypeFilter
from trafficlight.suites.targets import Target, read_target


def plan(
    targets: Sequence[str | Path] = (),
    selection: Selection | None = None,
    *,
    patterns: Sequence[str] = DEFAULT_PATTERNS,
    directory: Path | None = None,
) -> Plan:
    """Return the cases that targets and selection mean, and what is wrong with the test files.

    A file that is wrong costs only its own cases. Code of the test files runs in this process, which it may
    end or hold up: whoever must not end reads the files of a :class:`Planning` elsewhere.

    :param targets: files, directories, suite files and symbols in them; none stands for the suites that ship.
    :param selection: which of their cases; None for all.
    :param patterns: which files of a directory count.
    :param directory: what relative paths start from; the current directory if it is left out.
    :raises UsageError: a target does not exist, or the selection cannot be carried out.
    :raises ConfigError: a suite file is malformed.
    """
    planning = PlanBuilder(targets, selection, patterns=patterns, directory=directory)
    for asked in planning.files:
        planning.add(read_file(asked))
    return planning.plan()


class PlanBuilder:
    """A plan in the making. Runs no code of test files: those are to be read, and what is found added.

    The parameters, and what is raised, are those of :func:`plan`.

    :ivar files: what is to be read, in this order.
    """

    def __init__(
        self,
        targets: Sequence[str | Path] = (),
        selection: Selection | None = None,
        *,
        patterns: Sequence[str] = DEFAULT_PATTERNS,
        directory: Path | None = None,
    ) -> None:
        self._selection = selection or Selection()
        base = Path(os.path.abspath(directory or Path.cwd()))
        self._wanted = [
            one for target in targets or (SHIPPED,) for one in read_target(str(target), base, patterns)
        ]
        self._found = Reading(types=TypeFilter(self._selection.clients, self._selection.servers))
        self.files: list[FileRequest] = []
        known: dict[str, Path] = {}
        for file, parts in _by_file(self._wanted):
            other = known.setdefault(file.name, file.path)
            if other == file.path:
                self.files.append(FileRequest(file, tuple(parts), self._selection))
                continue
            problem = f"two tests with one id: {file.name} is also the name of {other}"
            hint = "search the directory above both"
            self._found.wrong([TestFileError(file.path, None, problem, hint)], parts)

    def add(self, reading: Reading) -> None:
        """Take in what was found in a file, or a part of it: of a suite in parts, the first comes whole."""
        found = self._found
        for id, suite in reading.suites.items():
            known = found.suites.get(id)
            found.suites[id] = suite if known is None else replace(known, cases=known.cases + suite.cases)
        found.wrong(reading.problems, ())
        found.met |= reading.met
        found.types.add(reading.types)
        found.untested |= reading.untested
        found.bases |= reading.bases

    def plan(self) -> Plan:
        """Return what all files come to.

        :raises UsageError: a target means nothing, or the selection cannot be carried out.
        """
        found = self._found
        found.wrong((one for origin, one in found.untested.items() if origin not in found.bases), ())
        for part in self._wanted:
            if part.symbol is not None and part.text not in found.met:
                raise UsageError(f"{part.text}: there is no such test or case in {part.path}")
        if not found.problems:
            found.types.check()
        return _selected(found, self._selection)


def _by_file(wanted: Iterable[Target]) -> list[tuple[FileFound, list[Target]]]:
    """Return each file once, with all that was asked for of it, under its name below the topmost root."""
    parts: dict[Path, list[Target]] = {}
    for one in wanted:
        parts.setdefault(one.path.resolve(), []).append(one)
    found = []
    for some in parts.values():
        roots = [one.root for one in some if not one.named] or [one.root for one in some]
        found.append((file_found(some[0].path, min(roots, key=lambda root: len(root.parts))), some))
    return found


def _selected(found: Reading, selection: Selection) -> Plan:
    everything = [case for suite in found.suites.values() for case in suite.cases]
    chosen: dict[str, list[Case]] = {}
    for case in selection.among(everything):
        chosen.setdefault(case.suite, []).append(case)
    suites = []
    for suite in found.suites.values():
        cases = chosen.get(suite.id, [])
        once = len(cases) if selection.repeat == 1 else len({base_id(case.id) for case in cases})
        out = suite.deselected + len(suite.cases) - once
        suites.append(replace(suite, cases=tuple(cases), deselected=out))
    return Plan(
        tuple(suite for suite in suites if suite.cases),
        tuple(found.problems),
        sum(suite.deselected for suite in suites if not suite.cases),
    )
