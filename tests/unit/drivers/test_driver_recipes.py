"""Drivers are built once for each version and source, and what a machine lacks is said."""

import asyncio
import json
from pathlib import Path

import pytest

from trafficlight.cache import CacheFolder
from trafficlight.config import AdapterProgram, Settings
from trafficlight.coordinator.supervisor import programs_of, unsupported_of
from trafficlight.drivers.recipes import (
    RECIPES,
    BrowserRecipe,
    ElementRecipe,
    HydrogenRecipe,
    JsSdkRecipe,
    MautrixGoRecipe,
)
from trafficlight.errors import DeployError


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with the system's programs, but neither npm nor go; what is put there is found."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/sbin")
    return folder


def _tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("recipe", "words"), [(JsSdkRecipe, "install Node.js"), (MautrixGoRecipe, "install Go")]
)
async def test_missing_tool_is_named_with_what_to_install(
    recipe: type[JsSdkRecipe | MautrixGoRecipe], words: str, tmp_path: Path
) -> None:
    reason = await asyncio.to_thread(recipe.unsupported)
    assert reason is not None
    assert f"needs {recipe.tool}, which is not on the PATH: {words}" in reason
    with pytest.raises(DeployError, match=words):
        await recipe(CacheFolder(tmp_path), lambda _: None).install()


async def test_driver_is_built_once_for_each_version(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "npm", f'echo "$@" >> {tmp_path}/calls')
    lines: list[str] = []
    recipe = JsSdkRecipe(CacheFolder(tmp_path), lines.append)

    node, driver = await recipe.install()
    assert (node, Path(driver).name) == ("node", "driver.mjs")
    assert await recipe.install() == [node, driver]
    other = Path((await recipe.install("42.0.0"))[1]).parent

    assert [call.split()[0] for call in (tmp_path / "calls").read_text().splitlines()] == ["ci", "install"]
    manifest = json.loads((other / "package.json").read_text())
    assert manifest["dependencies"]["matrix-js-sdk"] == "42.0.0"
    assert not (other / "package-lock.json").exists()
    assert [line for line in lines if "42.0.0" in line] == [
        "matrix-js-sdk 42.0.0: building its driver with npm (first use)",
        "matrix-js-sdk 42.0.0: built",
    ]


@pytest.mark.parametrize("kind", [HydrogenRecipe, ElementRecipe])
async def test_client_in_a_browser_needs_npm_and_a_chromium_and_starts_with_it(
    kind: type[BrowserRecipe], tools: Path, tmp_path: Path
) -> None:
    recipe = kind(CacheFolder(tmp_path), lambda _: None)
    with pytest.raises(DeployError, match=r"needs Chromium or Chrome.*: install it"):
        await recipe.install()
    _tool(tools, "google-chrome", "exit 1")
    with pytest.raises(DeployError, match=r"needs npm.*: install Node"):
        await recipe.install()
    _tool(tools, "npm", f'echo "$@" >> {tmp_path}/calls')

    node, driver, chromium = await recipe.install()

    assert (node, Path(driver).name, chromium) == ("node", "driver.mjs", str(tools / "google-chrome"))
    assert {"driver.mjs", "client.mjs", "page.js"} <= {one.name for one in Path(driver).parent.iterdir()}
    calls = [call.split()[:2] for call in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [["ci", "--ignore-scripts"], ["run", "build"]]


async def test_failed_build_leaves_nothing_and_says_why(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "go", "echo 'main.go:3: undefined: nothing' >&2; exit 1")
    recipe = MautrixGoRecipe(CacheFolder(tmp_path), lambda _: None)
    with pytest.raises(DeployError, match="undefined: nothing"):
        await recipe.install()
    assert [path.name for path in (tmp_path / "drivers").iterdir() if not path.name.startswith(".")] == []


def test_manifests_pin_the_stable_versions() -> None:
    folder = Path(__file__).parents[3] / "trafficlight" / "drivers"
    for place, recipe in (("js", JsSdkRecipe), ("hydrogen", HydrogenRecipe), ("element", ElementRecipe)):
        manifest = json.loads((folder / place / "package.json").read_text())
        assert manifest["dependencies"][recipe.package] == recipe.stable
        assert '"resolved"' not in (folder / place / "package-lock.json").read_text()
    assert f"maunium.net/go/mautrix v{MautrixGoRecipe.stable}\n" in (folder / "go" / "go.mod").read_text()


@pytest.mark.usefixtures("tools")
def test_clients_that_come_along_are_programs_by_default() -> None:
    programs = programs_of(Settings().adapters)
    assert {program.name for program in programs} == set(RECIPES)
    assert set(unsupported_of(programs)) == {"js-sdk", "mautrix-go", "hydrogen-web", "element-web"}
    (old,) = programs_of({"js-sdk": AdapterProgram(version="42.0.0")})
    assert (old.recipe, old.version) == (JsSdkRecipe, "42.0.0")
