"""One test file, read: imported, and its tests expanded. All of planning that runs code of test files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

from trafficlight.errors import TestFileError
from trafficlight.suites.discovery import FileFound, classes_in, origin_of, untested_in
from trafficlight.suites.expansion import Choice, expand
from trafficlight.suites.imports import load_module
from trafficlight.suites.model import Suite
from trafficlight.suites.selection import Selection, TypeFilter
from trafficlight.suites.source import Source
from trafficlight.suites.targets import Target
from trafficlight.test import Test

# A class, told across processes and module names: the file that defines it, and its name there.
Origin = tuple[str, str]


@dataclass(frozen=True, slots=True)
class FileRequest:
    """What is asked of one test file.

    :param parts: the targets that mean it.
    :param selection: which of its cases; what concerns all files together is left to others.
    """

    file: FileFound
    parts: tuple[Target, ...]
    selection: Selection


@dataclass(slots=True)
class Reading:
    """What was found in a test file.

    :param suites: by id.
    :param met: targets that mean something, even if the selection leaves nothing of it.
    :param types: which types were met.
    :param untested: what is wrong with classes that have roles and no test, unless others derive from them.
    :param bases: the classes that its tests derive from.
    :param exhausted: whether there was not enough memory for it.
    """

    suites: dict[str, Suite] = field(default_factory=dict)
    problems: list[TestFileError] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    types: TypeFilter = field(default_factory=TypeFilter)
    untested: dict[Origin, TestFileError] = field(default_factory=dict)
    bases: set[Origin] = field(default_factory=set)
    exhausted: bool = False

    def wrong(self, problems: Iterable[TestFileError], parts: Iterable[Target]) -> None:
        """Note what is wrong, once, with what some targets mean."""
        told = {str(problem) for problem in self.problems}
        self.problems.extend(problem for problem in problems if str(problem) not in told)
        self.met.update(part.text for part in parts)


def read_file(asked: FileRequest) -> Reading:
    """Import a test file and return the cases in it, and what is wrong with it."""
    file, parts = asked.file, asked.parts
    found = Reading(types=TypeFilter(asked.selection.clients, asked.selection.servers))
    try:
        module = load_module(file.path)
    except TestFileError as error:
        found.wrong([error], parts)
        found.exhausted = isinstance(error.__cause__, MemoryError)
        return found
    source = Source(file.path)
    classes = classes_in(module, module.__name__)
    _look_for_untested(module, source, asked, found)
    if not classes and not found.untested and any(part.named and part.symbol is None for part in parts):
        hint = "a test is a subclass of trafficlight.Test with an async run()"
        found.wrong([TestFileError(file.path, None, "there is no test in it", hint)], parts)
    for name, cls in classes.items():
        found.bases.update(origin_of(base) for base in cls.__mro__[1:] if issubclass(base, Test))
        some = _asking(parts, name)
        twice = [line for repeated, line in source.repeated_classes() if repeated == name and some]
        if twice:
            problem = f"two tests with one id: there are two classes {name}"
            found.wrong([TestFileError(file.path, twice[0], problem, "name one of them otherwise")], some)
            continue
        for choice, chosen in _choices(some, name, asked.selection, found.types):
            suites, wrong = _expanded(cls, name, file, source, choice, found)
            found.wrong(wrong, chosen if wrong else ())
            for suite in suites:
                _keep(suite, chosen, found)
    return found


def _asking(parts: Sequence[Target], class_name: str) -> list[Target]:
    return [part for part in parts if part.symbol is None or part.symbol.means(class_name)]


def _look_for_untested(module: ModuleType, source: Source, asked: FileRequest, found: Reading) -> None:
    for name, cls in untested_in(module, module.__name__).items():
        if not (some := _asking(asked.parts, name)):
            continue
        problem = f"{name} has roles and no test"
        hint = "write `async def run` or `async def test_...`; as a base of other tests, name it _" + name
        found.untested[origin_of(cls)] = TestFileError(
            asked.file.path, source.class_line(name), problem, hint
        )
        found.met.update(part.text for part in some)


def _choices(
    asked: Sequence[Target], class_name: str, selection: Selection, types: TypeFilter
) -> Iterable[tuple[Choice, list[Target]]]:
    """Yield what is asked of a class; parts with parameters of their own are apart."""

    def own(part: Target) -> Mapping[str, object]:
        return part.symbol.parameters if part.symbol is not None else {}

    plain = [part for part in asked if not own(part)]
    for some in ([plain] if plain else []) + [[part] for part in asked if own(part)]:

        def methods(method: str, some: Sequence[Target] = some) -> bool:
            return any(part.symbol is None or part.symbol.means(class_name, method) for part in some)

        choice = Choice(
            methods,
            types,
            bool(selection.clients),
            bool(selection.servers),
            {**selection.parameters, **own(some[0])},
            selection.pairwise,
        )
        yield choice, list(some)


def _expanded(
    cls: type[Test], name: str, file: FileFound, source: Source, choice: Choice, found: Reading
) -> tuple[list[Suite], list[TestFileError]]:
    try:
        return expand(cls, name, file, source, choice)
    except Exception as error:
        # Test files run code of their own in here, for instance the __repr__ of a parameter.
        found.exhausted |= isinstance(error, MemoryError)
        problem = f"{name} cannot be expanded: {type(error).__name__}: {error}"
        return [], [TestFileError(file.path, source.class_line(name), problem)]


def _keep(suite: Suite, parts: Sequence[Target], found: Reading) -> None:
    kept = []
    for case in suite.cases:
        holding = [part for part in parts if part.holds(case)]
        found.met.update(part.text for part in holding)
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
