"""From paths and wishes to a plan: the one way in for the commands."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trafficlight.errors import AuthoringError, UsageError
from trafficlight.suites.case_ids import base_id
from trafficlight.suites.discovery import DEFAULT_PATTERNS, FileFound, classes_in, file_found
from trafficlight.suites.expansion import Choice, expand
from trafficlight.suites.imports import SHIPPED, load_module
from trafficlight.suites.model import Case, Plan, Suite
from trafficlight.suites.selection import Selection, TypeFilter
from trafficlight.suites.source import Source
from trafficlight.suites.targets import Wanted, read_target
from trafficlight.test import Test

__all__ = ["plan"]


def plan(
    targets: Sequence[str | Path] = (),
    selection: Selection | None = None,
    *,
    patterns: Sequence[str] = DEFAULT_PATTERNS,
    directory: Path | None = None,
) -> Plan:
    """Return the cases that targets and selection mean, and what is wrong with the test files.

    A file that is wrong costs only its own cases.

    :param targets: files, directories, suite files and symbols in them; none stands for the suites that ship.
    :param selection: which of their cases; None for all.
    :param patterns: which files of a directory count.
    :param directory: what relative paths start from; the current directory if it is left out.
    :raises UsageError: a target does not exist, or the selection cannot be carried out.
    :raises ConfigError: a suite file is malformed.
    """
    selection = selection or Selection()
    base = Path(os.path.abspath(directory or Path.cwd()))
    wanted = [one for target in targets or (SHIPPED,) for one in read_target(str(target), base, patterns)]
    types = TypeFilter(selection.clients, selection.servers)
    found = _Found(selection, types)
    for file, parts in _by_file(wanted):
        found.read(file, parts)
    found.check_symbols(wanted)
    if not found.problems:
        types.check()
    return _selected(found, selection)


@dataclass(slots=True)
class _Found:
    """What was found so far."""

    selection: Selection
    types: TypeFilter
    suites: dict[str, Suite] = field(default_factory=dict)
    problems: list[AuthoringError] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    # Targets that mean something, even if the selection leaves nothing of it.
    met: set[str] = field(default_factory=set)

    def read(self, file: FileFound, parts: Sequence[Wanted]) -> None:
        """Read one test file."""
        other = self.files.setdefault(file.name, file.path)
        if other != file.path:
            problem = f"two tests with one id: {file.name} is also the name of {other}"
            self._wrong([AuthoringError(file.path, None, problem, "search the directory above both")], parts)
            return
        try:
            module = load_module(file.path)
        except AuthoringError as error:
            self._wrong([error], parts)
            return
        source = Source(file.path)
        classes = classes_in(module, module.__name__)
        if not classes and any(part.named and part.symbol is None for part in parts):
            hint = "a test is a subclass of trafficlight.Test with an async run()"
            self._wrong([AuthoringError(file.path, None, "there is no test in it", hint)], parts)
        for name, cls in classes.items():
            asked = [part for part in parts if part.symbol is None or part.symbol.means(name)]
            twice = [line for repeated, line in source.repeated_classes() if repeated == name and asked]
            if twice:
                problem = f"two tests with one id: there are two classes {name}"
                self._wrong(
                    [AuthoringError(file.path, twice[0], problem, "name one of them otherwise")], asked
                )
                continue
            for choice, some in self._choices(asked, name):
                suites, wrong = _expanded(cls, name, file, source, choice)
                self._wrong(wrong, some if wrong else ())
                for suite in suites:
                    self._keep(suite, some)

    def check_symbols(self, wanted: Iterable[Wanted]) -> None:
        """Complain about a symbol that means nothing.

        :raises UsageError: there is one.
        """

        for part in wanted:
            if part.symbol is not None and part.text not in self.met:
                raise UsageError(f"{part.text}: there is no such test or case in {part.path}")

    def _choices(self, asked: Sequence[Wanted], class_name: str) -> Iterable[tuple[Choice, list[Wanted]]]:
        """Yield what is asked of a class; parts with parameters of their own are apart."""

        def own(part: Wanted) -> Mapping[str, object]:
            return part.symbol.parameters if part.symbol is not None else {}

        plain = [part for part in asked if not own(part)]
        for some in ([plain] if plain else []) + [[part] for part in asked if own(part)]:

            def methods(method: str, some: Sequence[Wanted] = some) -> bool:
                return any(part.symbol is None or part.symbol.means(class_name, method) for part in some)

            choice = Choice(
                methods,
                self.types,
                bool(self.selection.clients),
                bool(self.selection.servers),
                {**self.selection.parameters, **own(some[0])},
                self.selection.pairwise,
            )
            yield choice, list(some)

    def _keep(self, suite: Suite, parts: Sequence[Wanted]) -> None:
        kept = []
        for case in suite.cases:
            holding = [part for part in parts if part.holds(case)]
            self.met.update(part.text for part in holding)
            if holding:
                kept.append(case)
        known = self.suites.get(suite.id)
        out = len(suite.cases) - len(kept)
        if known is None:
            self.suites[suite.id] = replace(suite, cases=tuple(kept), deselected=suite.deselected + out)
        else:
            ids = {case.id for case in known.cases}
            more = tuple(case for case in kept if case.id not in ids)
            self.suites[suite.id] = replace(known, cases=known.cases + more)

    def _wrong(self, problems: Iterable[AuthoringError], parts: Iterable[Wanted]) -> None:
        told = {str(problem) for problem in self.problems}
        self.problems.extend(problem for problem in problems if str(problem) not in told)
        self.met.update(part.text for part in parts)


def _expanded(
    cls: type[Test], name: str, file: FileFound, source: Source, choice: Choice
) -> tuple[list[Suite], list[AuthoringError]]:
    try:
        return expand(cls, name, file, source, choice)
    except Exception as error:
        # Test files run code of their own in here, for instance the __repr__ of a parameter.
        problem = f"{name} cannot be expanded: {type(error).__name__}: {error}"
        return [], [AuthoringError(file.path, source.class_line(name), problem)]


def _by_file(wanted: Iterable[Wanted]) -> list[tuple[FileFound, list[Wanted]]]:
    """Return each file once, with all that was asked for of it, under its name below the topmost root."""
    parts: dict[Path, list[Wanted]] = {}
    for one in wanted:
        parts.setdefault(one.path.resolve(), []).append(one)
    found = []
    for some in parts.values():
        roots = [one.root for one in some if not one.named] or [one.root for one in some]
        found.append((file_found(some[0].path, min(roots, key=lambda root: len(root.parts))), some))
    return found


def _selected(found: _Found, selection: Selection) -> Plan:
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
