"""The page about encryption names every test of the suite, and what each client gets wrong."""

import re
from pathlib import Path

import trafficlight
from trafficlight.suites.yaml_files import BUILT_IN_FAILURES

_ROOT = Path(trafficlight.__file__).parent / "tests"
_PAGE = Path(__file__).parents[3] / "docs" / "reference" / "encryption.md"
_STACKS = ("Nio", "JsSdk", "MautrixGo", "RustSdk")


def _rows() -> list[tuple[list[str], list[str]]]:
    """Return the tests of every line, and what the page says of each client."""
    cells = [
        line.strip("|\n ").split(" | ") for line in _PAGE.read_text().splitlines() if "_test.py::" in line
    ]
    return [(re.findall(r"`([^`]+_test.py::\w+)`", row[2]), row[3:]) for row in cells]


def _tests() -> set[str]:
    """Return the classes in the files of tests, with `run()`, `play()` or `remove()` of their own."""
    found = set()
    for path in _ROOT.glob("*/*_test.py"):
        for name, body in re.findall(
            r"^class (\w+)\(.*?\n(.*?)(?=^class |\Z)", path.read_text(), re.M | re.S
        ):
            if re.search(r"async def (run|play|remove)\(", body) and "raise NotImplementedError" not in body:
                found.add(f"{path.relative_to(_ROOT)}::{name}")
    return found


def test_the_page_names_tests_that_there_are_and_all_of_the_suite() -> None:
    named = {test for tests, _ in _rows() for test in tests}

    assert named <= _tests()
    assert {test for test in _tests() if test.startswith("crypto/")} <= named


def _at_fault(case: str) -> set[str]:
    """Return the clients that an entry is about: of several that it names, the last one."""
    if "=Dendrite" in case:
        return set()  # the homeserver
    named = re.findall("|".join((*_STACKS, r"\*Sdk")), case)
    if not named:
        return set() if "[" in case else set(_STACKS)
    return {"JsSdk", "RustSdk"} if named[-1] == "*Sdk" else {named[-1]}


def test_the_page_says_which_clients_fail() -> None:
    for tests, cells in _rows():
        for stack, says in zip(_STACKS, cells, strict=True):
            expected = [
                failure.case
                for failure in BUILT_IN_FAILURES
                if any(re.match(re.escape(test) + r"\b", failure.case) for test in tests)
                and stack in _at_fault(failure.case)
            ]
            assert (says == "fails") == bool(expected), f"{tests}: {stack}: {expected}"
