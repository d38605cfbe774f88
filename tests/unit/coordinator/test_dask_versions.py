"""What must be the same on all machines of a Dask cluster."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from trafficlight.coordinator.dask.plugin import difference, versions_here


def test_two_checkouts_of_one_version_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = versions_here()()
    assert difference("tcp://far:1", here, versions_here()()) == ""
    (tmp_path / "__init__.py").write_text("VERSION = 1\n")
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    there = versions_here()()
    mine, theirs = (one["code of trafficlight"] for one in (here, there))
    assert difference("tcp://far:1", there, here) == (
        f"the Dask worker tcp://far:1 has code of trafficlight {theirs}, the coordinator"
        f" has {mine}: install the same versions everywhere"
    )
