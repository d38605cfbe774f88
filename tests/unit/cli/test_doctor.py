"""The diagnosis lists what is installed, what is missing, and advice."""

import asyncio
from pathlib import Path

import pytest

from trafficlight.cache import CacheFolder
from trafficlight.cli.doctor import Finding, _adapters, _type, diagnose
from trafficlight.config import AdapterProgram, Settings
from trafficlight.drivers.recipes import JsSdkRecipe
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.recipes import default_recipes
from trafficlight.homeservers.recipes.synapse import Environments
from trafficlight.homeservers.registry import ProviderRegistry
from trafficlight.server_types import HomeServerSpec, SynapseStable


def _finding(findings: list[Finding], subject: str) -> Finding:
    return next(finding for finding in findings if finding.subject == subject)


def test_lists_what_is_installed(tmp_path: Path) -> None:
    assert _finding(diagnose(tmp_path), "Synapse environments").detail == "none yet"
    name = Environments(CacheFolder(tmp_path), "matrix-synapse", lambda _: None).name("1.98.0")
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dendrite" / "0.13.8").mkdir(parents=True)
    findings = diagnose(tmp_path)
    assert _finding(findings, "Synapse environments").detail == "1.98.0"
    assert _finding(findings, "Dendrite builds").detail == "0.13.8"


def test_a_missing_go_is_a_finding_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = _finding(diagnose(tmp_path), "Go")
    assert not finding.good
    assert "Dendrite" in finding.advice


def test_a_folder_that_does_not_exist_yet_is_measured_where_it_will_be(tmp_path: Path) -> None:
    finding = _finding(diagnose(tmp_path / "not" / "yet"), "Cache folder")
    assert "MiB free" in finding.detail


def test_every_problem_has_advice(tmp_path: Path) -> None:
    assert all(finding.advice for finding in diagnose(tmp_path) if not finding.good)


def test_a_driver_that_is_built_is_named_with_its_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that the driver is built on first use, also after that."""
    monkeypatch.setattr(JsSdkRecipe, "unsupported", classmethod(lambda cls: None))
    settings = Settings(adapters={"js-sdk": AdapterProgram()}, cache_folder=tmp_path)
    (finding,) = _adapters(settings)
    assert finding.detail == "its driver is built on first use"

    class Quick(JsSdkRecipe):
        async def _build(self, folder: Path, version: str, title: str) -> None: ...

    for version in ("42.4.0", "43.0.0"):
        asyncio.run(Quick(CacheFolder(tmp_path), print).install(version))
    (tmp_path / "drivers" / "js-sdk-41.0.0-of-an-older-source").mkdir()
    (finding,) = _adapters(settings)
    assert finding.detail == "its driver is built: 42.4.0, 43.0.0"


async def test_server_types_are_resolved(tmp_path: Path) -> None:
    local = LocalProvider(recipes=default_recipes(CacheFolder(tmp_path), print, synapse_version="1.140.0"))
    providers = ProviderRegistry({"local": local})
    good = await _type(providers, SynapseStable().homeservers()[0])
    bad = await _type(providers, HomeServerSpec("Odd", "odd", "stable", ""))
    assert (good.subject, good.good, good.detail) == ("SynapseStable", True, "synapse 1.140.0, local")
    assert (bad.subject, bad.good) == ("Odd", False)
    assert "no recipe 'odd': set `recipe` in the type to one of" in bad.detail
    await providers.close()
