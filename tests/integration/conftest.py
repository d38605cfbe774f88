"""Test files that a test writes are those of a repository."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def repository(tmp_path: Path) -> None:
    """Make the folder of the test the root of its test files."""
    (tmp_path / ".git").mkdir()
