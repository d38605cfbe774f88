"""Drivers are built once for each version and source, and what a machine lacks is said."""

import asyncio
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from trafficlight.cache import CacheFolder
from trafficlight.config import AdapterProgram, Settings
from trafficlight.coordinator.supervisor import programs_of, unsupported_of
from trafficlight.drivers.recipes import (
    RECIPES,
    BrowserRecipe,
    BuiltRecipe,
    ElementCallRecipe,
    ElementRecipe,
    HydrogenRecipe,
    JsSdkRecipe,
    MautrixGoRecipe,
    NioRecipe,
    RustSdkRecipe,
)
from trafficlight.errors import DeployError


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with some of the system's programs, but no compilers; what is put there is found."""
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
    ("recipe", "words"),
    [
        (JsSdkRecipe, "install Node.js"),
        (MautrixGoRecipe, "install Go"),
        (RustSdkRecipe, "install Rust 1.93 or later"),
    ],
)
async def test_missing_tool_is_named_with_what_to_install(
    recipe: type[BuiltRecipe], words: str, tmp_path: Path
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


async def test_a_build_that_takes_long_shows_signs_of_life(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trafficlight.processes._HEARTBEAT", 0.01)
    _tool(tools, "npm", f"until [ -e {tmp_path}/go ]; do /bin/sleep 0.01; done")
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if len(lines) > 1 and "still" in line:
            (tmp_path / "go").touch()

    await JsSdkRecipe(CacheFolder(tmp_path), progress).install()

    title = f"matrix-js-sdk {JsSdkRecipe.stable}"
    assert f"{title}: building its driver with npm (first use)" in lines
    assert any(line.startswith(f"{title}: its driver is still being built after ") for line in lines)


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


async def test_element_call_needs_go_for_livekit_which_is_compiled_once(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "chromium", "exit 1")
    _tool(tools, "npm", "exit 0")
    recipe = ElementCallRecipe(CacheFolder(tmp_path), lambda _: None)
    with pytest.raises(DeployError, match=r"Element Call needs LiveKit, and that go.*: install Go"):
        await recipe.install()
    _tool(tools, "go", f'echo "$@" >> {tmp_path}/calls')

    assert await recipe.install() == await recipe.install("0.26.1")

    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("install ")
    assert call.endswith("github.com/livekit/livekit-server/cmd/server@v1.9.12")


async def test_old_rust_is_named_with_what_to_run(tools: Path) -> None:
    _tool(tools, "cargo", "echo 'cargo 1.92.0 (abc 2026-01-01)'")
    assert "needs cc, which is not on the PATH: install a C compiler" in (RustSdkRecipe.unsupported() or "")
    _tool(tools, "cc", "")
    reason = RustSdkRecipe.unsupported() or ""
    assert "needs Rust 1.93 or later, not cargo 1.92.0 (abc 2026-01-01): run `rustup update`" in reason
    _tool(tools, "cargo", "exit 1")
    assert "not a cargo that does not start: run" in (RustSdkRecipe.unsupported() or "")
    _tool(tools, "cargo", "echo 'cargo 1.93.0'")
    assert RustSdkRecipe.unsupported() is None


async def test_rust_driver_shares_what_it_depends_on(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "cc", "")
    _tool(
        tools,
        "cargo",
        f"""
[ "$1" = --version ] && echo "cargo 1.95.0" && exit
echo "$* ${{CARGO_BUILD_BUILD_DIR##*/}} $CARGO_TARGET_DIR" >> {tmp_path}/calls
n=0; while [ $n -lt 120 ]; do echo "   Compiling crate v$n" >&2; n=$((n+1)); done""",
    )
    lines: list[str] = []
    recipe = RustSdkRecipe(CacheFolder(tmp_path), lines.append)

    (driver,) = await recipe.install()
    (other,) = await recipe.install("0.17.0")

    folder = tmp_path / "drivers"
    assert Path(driver).parents[2] == folder / Path(driver).parts[-4]
    calls = [call.split()[:-1] for call in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [["build", "--locked", "rust-sdk-target"], ["build", "rust-sdk-target"]]
    assert '"=0.17.0"' in (Path(other).parents[2] / "Cargo.toml").read_text()
    assert [line for line in lines if "0.18.0" in line] == [
        "matrix-rust-sdk 0.18.0: building its driver with cargo (first use)",
        "matrix-rust-sdk 0.18.0: 50 crates compiled",
        "matrix-rust-sdk 0.18.0: 100 crates compiled",
        "matrix-rust-sdk 0.18.0: built",
    ]


@pytest.mark.parametrize(
    ("recipe", "answer"),
    [
        (JsSdkRecipe, "44.0.0"),
        (MautrixGoRecipe, "v44.0.0"),
        (RustSdkRecipe, "cargo 1.95.0\nversion: 44.0.0 (latest 45.0.0)"),
    ],
)
async def test_develop_is_the_newest_version(
    recipe: type[BuiltRecipe], answer: str, tools: Path, tmp_path: Path
) -> None:
    _tool(tools, "cc", "")
    _tool(tools, recipe.tool, f"echo '{answer}'")
    lines: list[str] = []
    command = await recipe(CacheFolder(tmp_path), lines.append).install("develop")
    assert f"{recipe.name}-44.0.0-" in " ".join(command)
    assert f"{recipe.client} develop: 44.0.0" in lines


async def test_without_network_develop_is_the_tested_version(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "npm", '[ "$1" != view ] || { echo "error: getaddrinfo EAI_AGAIN"; exit 1; }')
    lines: list[str] = []
    command = await JsSdkRecipe(CacheFolder(tmp_path), lines.append).install("develop")
    assert f"js-sdk-{JsSdkRecipe.stable}-" in command[1]
    assert "cannot query the newest version, using 43.0.0" in lines[0]


async def test_version_that_does_not_build_names_those_that_do(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "go", '[ "$1" = get ] || { echo "error: undefined: x"; exit 1; }')
    recipe = MautrixGoRecipe(CacheFolder(tmp_path), lambda _: None)
    with pytest.raises(DeployError) as raised:
        await recipe.install("0.20.0")
    assert raised.value.message.endswith("undefined: x (the driver works with 0.32.0 and 0.31.0)")
    assert str(raised.value).count("undefined: x") == 2, "in the message and in the log"
    with pytest.raises(DeployError, match=r"undefined: x$"):
        await recipe.install()


async def test_installed_nio_is_used_if_it_is_the_version(tmp_path: Path) -> None:
    recipe = NioRecipe(CacheFolder(tmp_path), lambda _: None)
    assert await recipe.install(version("matrix-nio")) == await recipe.install()


async def test_failed_build_leaves_nothing_and_says_why(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "go", "echo 'main.go:3: undefined: nothing' >&2; exit 1")
    recipe = MautrixGoRecipe(CacheFolder(tmp_path), lambda _: None)
    with pytest.raises(DeployError, match="undefined: nothing"):
        await recipe.install()
    assert [path.name for path in (tmp_path / "drivers").iterdir() if not path.name.startswith(".")] == []


def test_manifests_pin_the_stable_versions() -> None:
    folder = Path(__file__).parents[3] / "trafficlight" / "drivers"
    for place, recipe in (
        ("js", JsSdkRecipe),
        ("hydrogen", HydrogenRecipe),
        ("element", ElementRecipe),
        ("call", ElementCallRecipe),
    ):
        manifest = json.loads((folder / place / "package.json").read_text())
        assert manifest["dependencies"][recipe.package] == recipe.stable
        assert '"resolved"' not in (folder / place / "package-lock.json").read_text()
    rust = folder / "rust"
    assert f'"={RustSdkRecipe.stable}"' in (rust / "Cargo.toml").read_text()
    locked = f'name = "matrix-sdk"\nversion = "{RustSdkRecipe.stable}"\n'
    assert locked in (rust / "Cargo.lock").read_text()
    assert f"maunium.net/go/mautrix v{MautrixGoRecipe.stable}\n" in (folder / "go" / "go.mod").read_text()


@pytest.mark.usefixtures("tools")
def test_clients_that_come_along_are_programs_by_default() -> None:
    programs = programs_of(Settings().adapters)
    assert {program.name for program in programs} == set(RECIPES)
    assert set(unsupported_of(programs)) == {
        "js-sdk",
        "mautrix-go",
        "rust-sdk",
        "hydrogen-web",
        "element-web",
        "element-call",
    }
    (old,) = programs_of({"js-sdk": AdapterProgram(version="42.0.0")})
    assert (old.recipe, old.version) == (JsSdkRecipe, "42.0.0")
