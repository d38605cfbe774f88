"""From paths and a selection to a plan: which files to collect, and what their cases make together."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from trafficlight.client_types import client_types_of
from trafficlight.errors import NothingLeftError, TestFileError, UsageError
from trafficlight.server_types import server_types_of
from trafficlight.suites.case_ids import base_id, encode_file
from trafficlight.suites.discovery import (
    DEFAULT_PATTERNS,
    FileFound,
    classes_in,
    file_found,
    lookalikes_in,
    nested_in,
    origin_of,
    unreached_in,
    untested_in,
)
from trafficlight.suites.expansion import MatrixFilter, expand
from trafficlight.suites.imports import SHIPPED, load_module
from trafficlight.suites.model import Case, Plan, Problem, Suite
from trafficlight.suites.selection import Selection, TypeFilter
from trafficlight.suites.signatures import lone_lists, parameters_of
from trafficlight.suites.source import SourceLines
from trafficlight.suites.targets import Target, read_target
from trafficlight.test import Test
from trafficlight.text import count

# Cases in one part of a file's result: decoding one must not block the event loop.
_CASES_IN_PART = 250

# The file that defines a class, and its name there: the same under all module names.
Origin = tuple[str, str]


@dataclass(frozen=True, slots=True)
class FileRequest:
    """What to collect from one test file.

    :param targets: the targets that mean the file or a part of it.
    :param selection: which of its cases; what concerns several files is applied to the whole plan.
    """

    file: FileFound
    targets: tuple[Target, ...]
    selection: Selection


@dataclass(slots=True)
class FileResult:
    """What a test file contains: plain data, without any of its code.

    :param suites: by id.
    :param met: targets that mean something, even if the selection leaves nothing of it.
    :param types: the types that were met.
    :param untested: problems of classes with roles and no test, unless other classes derive from them.
    :param parameters: the names of the parameters that its tests take.
    :param warnings: what is probably not meant so, one line each.
    """

    suites: dict[str, Suite] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    types: TypeFilter = field(default_factory=TypeFilter)
    untested: list[tuple[Origin, Problem]] = field(default_factory=list)
    bases: set[Origin] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def add_problems(self, problems: Iterable[TestFileError], targets: Iterable[Target] = ()) -> None:
        """Add problems, each once, and mark the targets that they concern as met."""
        known = {str(problem) for problem in self.problems}
        self.problems.extend(problem for problem in problems if str(problem) not in known)
        self.met.update(target.text for target in targets)

    def parts(self) -> "Iterator[FileResult]":
        """Yield it in parts that are quick to decode; the last one has everything but the suites."""
        for id, suite in self.suites.items():
            for start in range(0, len(suite.cases) or 1, _CASES_IN_PART):
                some = suite.cases[start : start + _CASES_IN_PART]
                yield FileResult(suites={id: replace(suite, cases=some)})
        yield replace(self, suites={})


def collect_file(request: FileRequest) -> FileResult:
    """Import a test file and return its cases, and what is wrong with it."""
    file, targets = request.file, request.targets
    found = FileResult(types=TypeFilter(tuple(request.selection.clients), tuple(request.selection.servers)))
    try:
        module = load_module(file.path)
    except TestFileError as error:
        found.add_problems([error], targets)
        return found
    source = SourceLines(file.path)
    classes = classes_in(module, module.__name__)
    _find_untested(module, source, request, found)
    if not classes and not found.untested and any(one.named and one.symbol is None for one in targets):
        hint = "a test is a subclass of trafficlight.Test with an async run()"
        found.add_problems([TestFileError(file.path, None, "there is no test in it", hint)], targets)
    if classes and (beside := list(lookalikes_in(module, module.__name__))):
        hint = "tests are methods of a subclass of trafficlight.Test"
        found.warnings.append(f"{file.name}: {', '.join(beside)} will not run ({hint})")
    for inner in nested_in(module, module.__name__):
        found.warnings.append(f"{file.name}: {inner} will not run (a test is at the top level of its file)")
    for line in source.tuple_assertions():
        found.warnings.append(f"{file.name}:{line}: the assertion always holds (remove the parentheses)")
    for name, cls in classes.items():
        found.bases.update(origin_of(base) for base in cls.__mro__[1:] if issubclass(base, Test))
        some = _meaning(targets, name)
        twice = [line for repeated, line in source.repeated_classes() if repeated == name and some]
        if twice:
            problem = f"two tests with one id: there are two classes {name}"
            found.add_problems([TestFileError(file.path, twice[0], problem, "rename one of them")], some)
            continue
        found.parameters.update(parameters_of(cls))
        found.warnings += [f"{file.name}: {name}.{warning}" for warning in lone_lists(cls) if some]
        unreached = [f"{file.name}: {what}" for what in unreached_in(cls, classes.values()) if some]
        found.warnings += [warning for warning in unreached if warning not in found.warnings]
        for wanted, chosen in _filters(some, name, request.selection, found.types):
            suites, wrong = _expanded(cls, name, file, source, wanted, found)
            found.add_problems(wrong, chosen if wrong else ())
            for suite in suites:
                _keep(suite, chosen, found)
    return found


def _meaning(targets: Sequence[Target], class_name: str) -> list[Target]:
    return [one for one in targets if one.symbol is None or one.symbol.means(class_name)]


def _find_untested(module: ModuleType, source: SourceLines, request: FileRequest, found: FileResult) -> None:
    for name, cls in untested_in(module, module.__name__).items():
        if not (some := _meaning(request.targets, name)):
            continue
        problem = f"{name} has roles and no test"
        hint = "write `async def run` or `async def test_...`; as a base of other tests, name it _" + name
        error = TestFileError(request.file.path, source.class_line(name), problem, hint)
        found.untested.append((origin_of(cls), error))
        found.met.update(one.text for one in some)


def _filters(
    targets: Sequence[Target], class_name: str, selection: Selection, types: TypeFilter
) -> Iterable[tuple[MatrixFilter, list[Target]]]:
    """Yield what is wanted of a class; every target with parameters of its own is separate."""

    def own(target: Target) -> Mapping[str, object]:
        return target.symbol.parameters if target.symbol is not None else {}

    without = [one for one in targets if not own(one)]
    for some in ([without] if without else []) + [[one] for one in targets if own(one)]:

        def methods(method: str, some: Sequence[Target] = some) -> bool:
            return any(one.symbol is None or one.symbol.means(class_name, method) for one in some)

        wanted = MatrixFilter(
            methods,
            types,
            bool(selection.clients),
            bool(selection.servers),
            {**selection.parameters, **own(some[0])},
            selection.pairwise,
            (*client_types_of(selection.client_types), *server_types_of(selection.server_types)),
        )
        yield wanted, list(some)


def _expanded(
    cls: type[Test], name: str, file: FileFound, source: SourceLines, wanted: MatrixFilter, found: FileResult
) -> tuple[list[Suite], list[TestFileError]]:
    try:
        return expand(cls, name, file, source, wanted)
    except Exception as error:  # noqa: BLE001 - code of a test file
        # Expansion calls code of the test file, for instance the __repr__ of a parameter.
        problem = f"{name} cannot be expanded: {type(error).__name__}: {error}"
        return [], [TestFileError(file.path, source.class_line(name), problem)]


def _keep(suite: Suite, targets: Sequence[Target], found: FileResult) -> None:
    kept = []
    for case in suite.cases:
        holding = [one for one in targets if one.holds(case)]
        found.met.update(one.text for one in holding)
        if holding:
            kept.append(case)
    known = found.suites.get(suite.id)
    out = len(suite.cases) - len(kept)
    if known is None:
        found.suites[suite.id] = replace(suite, cases=tuple(kept), deselected=suite.deselected + out)
    else:
        ids = {case.id for case in known.cases}
        more = tuple(case for case in kept if case.id not in ids)
        found.suites[suite.id] = replace(known, cases=known.cases + more)


def plan(
    targets: Sequence[str | Path] = (),
    selection: Selection | None = None,
    *,
    patterns: Sequence[str] = DEFAULT_PATTERNS,
    directory: Path | None = None,
) -> Plan:
    """Return the cases that targets and a selection mean, and what is wrong with the test files.

    A broken file costs only its own cases. Code of the test files runs in this process, which it may end or
    block; :class:`PlanBuilder` collects them elsewhere.

    :param targets: files, directories, suite files and symbols in them; by default the built-in suites.
    :param selection: which of their cases; None for all.
    :param patterns: which files of a directory are test files.
    :param directory: the base of relative paths; the current directory by default.
    :raises UsageError: a target does not exist, or the selection cannot be applied.
    :raises ConfigError: a suite file is malformed.
    """
    builder = PlanBuilder(targets, selection, patterns=patterns, directory=directory)
    for request in builder.files:
        builder.add(collect_file(request))
    return builder.plan()


class PlanBuilder:
    """Builds a plan from the results of its files. Runs no code of test files.

    Parameters and exceptions are those of :func:`plan`.

    :ivar files: the files to collect, in this order.
    """

    def __init__(
        self,
        targets: Sequence[str | Path] = (),
        selection: Selection | None = None,
        *,
        patterns: Sequence[str] = DEFAULT_PATTERNS,
        directory: Path | None = None,
    ) -> None:
        self._selection = (selection or Selection()).with_types(["nio"], ["synapse"])
        base = Path(os.path.abspath(directory or Path.cwd()))
        read = {
            str(target): list(read_target(str(target), base, patterns)) for target in targets or (SHIPPED,)
        }
        self._targets = [one for some in read.values() for one in some]
        types = TypeFilter(tuple(self._selection.clients), tuple(self._selection.servers))
        empty = [f"there is no test in {text}" for text, some in read.items() if not some]
        self._found = FileResult(types=types, warnings=empty)
        self.files: list[FileRequest] = []
        for file, some in _by_file(self._targets, base):
            self.files.append(FileRequest(file, tuple(some), self._selection.of_one_file()))

    def add(self, result: FileResult) -> None:
        """Add what a file contains, or a part of it; the parts of a suite come one after the other."""
        found = self._found
        for id, suite in result.suites.items():
            known = found.suites.get(id)
            found.suites[id] = suite if known is None else replace(known, cases=known.cases + suite.cases)
        found.add_problems(result.problems)
        found.met |= result.met
        found.types.add(result.types)
        found.untested += result.untested
        found.bases |= result.bases
        found.parameters |= result.parameters
        found.warnings += result.warnings

    def plan(self) -> Plan:
        """Return the plan of all files.

        :raises UsageError: a target means nothing, or the selection cannot be applied.
        """
        found = self._found
        found.add_problems(problem for origin, problem in found.untested if origin not in found.bases)
        there = ", ".join(sorted(found.parameters)) or "none"
        for target in self._targets:
            if target.symbol is not None and target.text not in found.met:
                asked = {*self._selection.parameters, *target.symbol.parameters}
                if unknown := ", ".join(sorted(asked - found.parameters)):
                    raise UsageError(f"{target.text}: no test takes {unknown}; there are {there}")
                raise UsageError(f"{target.text}: there is no such test or case in {target.path}")
        if not found.problems:
            found.types.check()
            if not found.suites and (given := ", ".join(self._selection.parameters)):
                raise UsageError(f"--parameters: no test takes {given}; there are {there}")
        files = [encode_file(request.file.name) for request in self.files]
        return replace(_selected(found, self._selection, files), warnings=tuple(found.warnings))


def _by_file(targets: Iterable[Target], directory: Path) -> Iterator[tuple[FileFound, list[Target]]]:
    """Yield each file once, with all targets that mean it."""
    by_path: dict[Path, list[Target]] = {}
    for one in targets:
        by_path.setdefault(one.path.resolve(), []).append(one)
    found = [(file_found(some[0].path, directory), some) for some in by_path.values()]
    names = Counter(file.name for file, _ in found)
    for file, some in found:
        # Files of two roots may have the same name below them.
        yield (file if names[file.name] == 1 else replace(file, name=file.path.as_posix())), some


def _selected(found: FileResult, selection: Selection, files: Iterable[str]) -> Plan:
    everything = [case for suite in found.suites.values() for case in suite.cases]
    chosen: dict[str, list[Case]] = {}
    for case in selection.among(everything, files):
        chosen.setdefault(case.suite, []).append(case)
    whole = tuple(case for suite in found.suites for case in chosen.get(suite, ()))
    elsewhere = selection.elsewhere(whole)
    if selection.shard and whole and len(elsewhere) == len(whole) and not found.problems:
        part, parts = selection.shard
        empty = f"shard {part}/{parts} of {count(len(whole), 'case')} is empty"
        raise NothingLeftError(f"nothing to run: {empty}")
    suites = []
    for suite in found.suites.values():
        cases = [case for case in chosen.get(suite.id, ()) if case.id not in elsewhere]
        once = len(cases) if selection.repeat == 1 else len({base_id(case.id) for case in cases})
        out = suite.deselected + len(suite.cases) - once
        suites.append(replace(suite, cases=tuple(cases), deselected=out))
    return Plan(
        tuple(suite for suite in suites if suite.cases),
        tuple(found.problems),
        sum(suite.deselected for suite in suites if not suite.cases),
        whole=whole,
        shard=selection.shard,
        elsewhere=elsewhere,
    )
