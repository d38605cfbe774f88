"""Suite files and expected failures: what they say, and what is wrong with them."""

import os
from pathlib import Path

import pytest

from trafficlight.errors import ConfigError, UsageError
from trafficlight.suites.selection import Selection
from trafficlight.suites.targets import SuiteList, read_suite_file
from trafficlight.suites.yaml_files import ExpectedFailure, read_expected_failures


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yml"


def test_a_suite_file_has_named_lists(file: Path) -> None:
    file.write_text(
        "smoke: [a_test.py]\nall:\n  include: .\n  excluded: ['b_test.py::B']\n", encoding="utf-8"
    )
    smoke, everything = SuiteList("smoke", ("a_test.py",)), SuiteList("all", (".",), ("b_test.py::B",))
    assert read_suite_file(file) == [smoke, everything]
    assert read_suite_file(file, "smoke") == [smoke]
    with pytest.raises(UsageError, match="no list 'nightly'; it has smoke, all"):
        read_suite_file(file, "nightly")


def test_a_byte_order_mark_is_skipped(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfsmoke: [a_test.py]\n")
    assert read_suite_file(file) == [SuiteList("smoke", ("a_test.py",))]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "mapping from names"),
        ("[a]", "mapping from names"),
        ("a: 1", "a: must be a list of strings"),
        ("a: []", "a: names no tests"),
        ("a: {exclude: [b]}", "a: names no tests"),
        ("a: {includes: [b]}", "a.includes: is unknown"),
        ("a: {", "is not YAML"),
        ("a: 2026-13-45", "is not YAML"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_a_malformed_suite_file_is_named(file: Path, text: str, complaint: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint) as raised:
        read_suite_file(file)
    assert str(file) in str(raised.value)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_expected_failures(file)


def test_a_named_pipe_is_not_waited_for(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="cannot be read: it is a named pipe"):
        read_expected_failures(file)


def test_expected_failures_mean_cases(file: Path) -> None:
    file.write_text(
        "- case: 'a_test.py::A[alice=Hydrogen*]'\n  reason: no\n   such thing\n  link: https://example.org/1\n"
        "- {case: b_test.py::B, reason: known}\n",
        encoding="utf-8",
    )
    expected = Selection(expected_failures=read_expected_failures(file))
    first = ExpectedFailure(
        case="a_test.py::A[alice=Hydrogen*]", reason="no such thing", link="https://example.org/1"
    )
    assert expected.expected("a_test.py::A[alice=HydrogenWeb,server=Dendrite]") == first
    assert expected.expected("a_test.py::A[alice=HydrogenWeb,server=Dendrite]#2") == first
    assert expected.expected("a_test.py::A[alice=Nio]") is None
    assert expected.expected("b_test.py::B[alice=Nio]") == ExpectedFailure(
        case="b_test.py::B", reason="known"
    )
    assert expected.expected("b_test.py::B") is not None
    assert expected.expected("b_test.py::B.test_x[alice=Nio]") is None
    (line,) = expected.unused(["b_test.py::B"])
    assert line == f"the expected failure {first.case} matches no case"


def test_no_expected_failures(file: Path) -> None:
    file.write_text("", encoding="utf-8")
    assert read_expected_failures(file) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("case: a", "list of entries"),
        ("- a", "entry 1: must be a mapping"),
        ("- {case: a}", "entry 1: reason: is missing"),
        ("- {case: a, reason: b, url: c}", "entry 1: url: is not known"),
        ("- {case: a, reason: b, link: [c]}", "entry 1: link: must be text"),
        ('- {case: a, reason: "  "}', "entry 1: reason: must have at least 1 char"),
    ],
)
def test_malformed_expected_failures_are_named(file: Path, text: str, complaint: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        read_expected_failures(file)
