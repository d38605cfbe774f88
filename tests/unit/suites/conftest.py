"""Test files to order."""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# One line, so that the lines of a test file are easy to count.
PRELUDE = (
    "from trafficlight.test import Test; from trafficlight.client_types import *; "
    "from trafficlight.server_types import *; from trafficlight.parameters import *\n"
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a test file of a repository, whose second line is the first one given; return its path."""
    (tmp_path / ".git").mkdir()

    def write_file(name: str, text: str, *, prelude: bool = True) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((PRELUDE if prelude else "") + textwrap.dedent(text), encoding="utf-8")
        return path

    return write_file


@pytest.fixture(autouse=True)
def imports_left_as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what test files do to the search for modules."""
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("trafficlight_test_") or "helper" in name:
            del sys.modules[name]
