"""The drivers that come with trafficlight: clients in other languages, built when they are first used."""

import asyncio
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from trafficlight.cache import CacheFolder
from trafficlight.clock import SystemClock
from trafficlight.drivers.livekit import install_livekit, livekit
from trafficlight.errors import DeployError
from trafficlight.processes import Progress, child_environment, no_network, own_module, run_tool, showing_life
from trafficlight.version import VERSION

_SOURCES = Path(__file__).parent
_DEVELOP = "develop"
# Crates between two lines of progress.
_REPORT_EVERY = 50
_GO = "install Go 1.26 or later (https://go.dev/dl)"
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class DriverRecipe(ABC):
    """Tells how to start a driver, once what it needs is there.

    :cvar name: the ``type`` that the driver registers.
    :cvar client: the client's name in messages.
    :param cache: the folder for builds.
    :param progress: called with a line for every slow step.
    """

    name: str
    client: str

    def __init__(self, cache: CacheFolder, progress: Progress) -> None:
        self._cache = cache
        self._progress = progress

    @classmethod
    def unsupported(cls) -> str | None:
        """Return what this machine lacks to run the driver; None if nothing. Searches the PATH."""
        return None

    @abstractmethod
    async def install(self, version: str | None = None) -> list[str]:
        """Make the driver ready, and return the command that starts it.

        :param version: the client's version, or ``develop`` for the newest that is published; by default the
            one that is tested.
        :raises DeployError: it cannot be built.
        :raises ConfigError: there is no network, or the cache cannot be written.
        """

    @asynccontextmanager
    async def services(self, log: Path) -> AsyncIterator[Mapping[str, str]]:
        """Run what its clients need besides a homeserver, and yield variables for their environment.

        Comes after :meth:`install`.

        :param log: gets the services' output.
        """
        yield {}


class NioRecipe(DriverRecipe):
    """matrix-nio: as installed with trafficlight, or another version in an environment of its own."""

    name = "nio"
    client = "matrix-nio"

    async def install(self, version: str | None = None) -> list[str]:
        """Return the command that starts the driver.

        :raises ModuleNotFoundError: it is not installed.
        """
        if not await asyncio.to_thread(find_spec, "nio"):
            raise ModuleNotFoundError("No module named 'nio'", name="nio")
        python = sys.executable
        installed = await asyncio.to_thread(importlib.metadata.version, self.client)
        if version not in (None, installed):
            python = await self._other(version, installed)
        return own_module("trafficlight.adapters.nio.adapter", python)

    async def _other(self, version: str, installed: str) -> str:
        """Return an interpreter with another version of the client, and else what this one has."""
        # What homeservers need is not in an installation for adapters only.
        from trafficlight.homeservers.recipes.synapse import Environments, interpreter, works

        environments = Environments(self._cache, self.client, self._progress)
        if version == _DEVELOP:
            version = await environments.newest(fallback=installed)
            self._progress(f"{self.client} {_DEVELOP}: {version}")
        paths = "\n".join(filter(None, sys.path))

        async def build(folder: Path) -> None:
            await environments.create(folder, version, ["matrix-nio[e2e]"])
            await asyncio.to_thread(_add_paths, folder, paths)

        name = f"{environments.name(version)}-{_hash(paths.encode())}".replace("/", "-")
        return str(interpreter(await self._cache.ensure(f"drivers/{name}", build, works)))


class NetworkProxyRecipe(DriverRecipe):
    """The network proxy of trafficlight itself."""

    name = "network-proxy"
    client = "the network proxy"

    async def install(self, version: str | None = None) -> list[str]:
        """Return the command that starts the driver."""
        if version not in (None, VERSION):
            raise DeployError(f"{self.client} is that of trafficlight {VERSION}; there is no {version}")
        return own_module("trafficlight.adapters.network_proxy")


class BuiltRecipe(DriverRecipe):
    """Builds a driver, once for each version of its client and each version of its source.

    :cvar stable: the version that the driver is built with by default.
    :cvar also: further versions that it is known to work with.
    :cvar tool: the program that builds it.
    :cvar advice: how to install that program.
    """

    stable: str
    also: tuple[str, ...] = ()
    tool: str
    advice: str
    #: The folders of its source, in this package.
    _folders: tuple[str, ...]

    @classmethod
    def unsupported(cls) -> str | None:
        """Return what this machine lacks to run the driver; None if nothing. Searches the PATH."""
        if shutil.which(cls.tool) is None:
            return cls._lacks(cls.tool, cls.advice)
        return None

    @classmethod
    def _lacks(cls, program: str, advice: str) -> str:
        return f"{cls.client} needs {program}, which is not on the PATH: {advice}"

    async def install(self, version: str | None = None) -> list[str]:
        """Build the driver, unless it is built already, and return the command that starts it."""
        if (reason := await asyncio.to_thread(self.unsupported)) is not None:
            raise DeployError(reason)
        version = await self._resolve(version or self.stable)
        title = f"{self.client} {version}"
        sources = [_SOURCES / folder for folder in self._folders]

        async def build(folder: Path) -> None:
            self._progress(f"{title}: building its driver with {self.tool} (first use)")
            for source in sources:
                await asyncio.to_thread(_copy, source, folder)
            try:
                await self._build(folder, version, title)
            except DeployError as error:
                if cause := no_network(error.log):
                    raise self._cache.missing(f"the driver of {title}", cause) from error
                if version in (self.stable, *self.also):
                    raise
                known = " and ".join((self.stable, *self.also))
                words = f"{error.message} (the driver works with {known})"
                raise DeployError(words, log=error.log) from error
            self._progress(f"{title}: built")

        digest = await asyncio.to_thread(_digest, sources)
        async with showing_life(f"{title}: its driver is still being built", self._progress, SystemClock()):
            folder = await self._cache.ensure(f"drivers/{self.name}-{version}-{digest}", build)
        return await asyncio.to_thread(self._command, folder)

    @classmethod
    def built(cls, cache: CacheFolder) -> list[str]:
        """Return the versions of the client that this driver is built with. Reads the disk."""
        before, after = f"drivers/{cls.name}-", f"-{_digest(_SOURCES / folder for folder in cls._folders)}"
        return [
            name.removeprefix(before).removesuffix(after)
            for name in cache.names("drivers")
            if name.startswith(before) and name.endswith(after)
        ]

    async def _resolve(self, version: str) -> str:
        if version != _DEVELOP:
            return version
        try:
            newest = await self._newest()
        except DeployError as error:
            self._progress(f"{self.client}: cannot query the newest version, using {self.stable}: {error}")
            return self.stable
        self._progress(f"{self.client} {_DEVELOP}: {newest}")
        return newest

    @abstractmethod
    async def _newest(self) -> str:
        """Return the newest published version of the client."""

    @abstractmethod
    async def _build(self, folder: Path, version: str, title: str) -> None:
        """Build in a folder that holds a copy of the driver's source."""

    @abstractmethod
    def _command(self, folder: Path) -> list[str]:
        """Return the command that starts what was built. Searches the PATH."""


class NpmRecipe(BuiltRecipe):
    """Builds a driver with npm.

    :cvar package: the client's package.
    """

    tool = "npm"
    advice = "install Node.js 20 or later (https://nodejs.org, or `apt-get install nodejs npm`)"
    package: str
    _options: tuple[str, ...] = ("--ignore-scripts", "--no-audit", "--no-fund")

    async def _build(self, folder: Path, version: str, title: str) -> None:
        arguments = ["ci"]
        if version != self.stable:
            await asyncio.to_thread(self._take_version, folder, version)
            arguments = ["install"]
        await self._npm(f"installing {title}", *arguments, *self._options, directory=folder)

    async def _newest(self) -> str:
        return (await self._npm(f"querying the newest {self.client}", "view", self.package, "version"))[-1]

    async def _npm(self, doing: str, *arguments: str, directory: Path | None = None) -> list[str]:
        return await run_tool(doing, [self.tool, *arguments, "--loglevel=error"], directory=directory)

    def _take_version(self, folder: Path, version: str) -> None:
        """Make npm install another version of the client than the locked one."""
        manifest = folder / "package.json"
        content = json.loads(manifest.read_text())
        content["dependencies"][self.package] = version
        manifest.write_text(json.dumps(content))
        (folder / "package-lock.json").unlink()

    def _command(self, folder: Path) -> list[str]:
        return ["node", str(folder / "driver.mjs")]


class JsSdkRecipe(NpmRecipe):
    """matrix-js-sdk on Node."""

    name = "js-sdk"
    client = "matrix-js-sdk"
    stable = "43.0.0"
    also = ("42.4.0",)
    package = "matrix-js-sdk"
    _folders = ("js",)


class BrowserRecipe(NpmRecipe):
    """Builds the page and the driver of a client that runs in the machine's Chromium."""

    @classmethod
    def unsupported(cls) -> str | None:
        """Return what this machine lacks to run the driver; None if nothing. Searches the PATH."""
        if chromium() is None:
            advice = "install it (`apt-get install chromium`, or https://www.google.com/chrome)"
            return cls._lacks("Chromium or Chrome", advice)
        return super().unsupported()

    async def _build(self, folder: Path, version: str, title: str) -> None:
        await super()._build(folder, version, title)
        await self._npm(f"building {title}", "run", "build", directory=folder)

    def _command(self, folder: Path) -> list[str]:
        return [*super()._command(folder), str(chromium())]


class HydrogenRecipe(BrowserRecipe):
    """Hydrogen."""

    name = "hydrogen-web"
    client = "Hydrogen"
    stable = "0.3.1"
    package = "hydrogen-view-sdk"
    _folders = ("browser", "hydrogen")


class ElementRecipe(BrowserRecipe):
    """Element's user interface. Its licence is the AGPL or the GPL: it is built on the user's machine."""

    name = "element-web"
    client = "Element"
    stable = "3.114.0"
    package = "matrix-react-sdk"
    _folders = ("browser", "element")
    # Its packages ask for several versions of React.
    _options = (*NpmRecipe._options, "--legacy-peer-deps")


class ElementCallRecipe(BrowserRecipe):
    """Element Call as a widget, and LiveKit. Its licence is the AGPL: the user's machine installs it."""

    name = "element-call"
    client = "Element Call"
    stable = "0.26.1"
    package = "@element-hq/element-call-embedded"
    _folders = ("browser", "call")

    @classmethod
    def unsupported(cls) -> str | None:
        """Return what this machine lacks to run the driver; None if nothing. Searches the PATH."""
        if shutil.which("go") is None:
            return cls._lacks("LiveKit, and that go", _GO)
        return super().unsupported()

    async def install(self, version: str | None = None) -> list[str]:
        """Build the driver and LiveKit, unless they are built, and return the driver's command."""
        command = await super().install(version)
        async with showing_life("LiveKit: it is still being compiled", self._progress, SystemClock()):
            self._livekit = await install_livekit(self._cache, self._progress)
        return command

    @asynccontextmanager
    async def services(self, log: Path) -> AsyncIterator[Mapping[str, str]]:
        """Run LiveKit, and yield the variable with the URL of its authorisation service."""
        async with livekit(self._livekit, log) as url:
            yield {"TRAFFICLIGHT_LIVEKIT": url}


class MautrixGoRecipe(BuiltRecipe):
    """mautrix-go, as a static program without C."""

    name = "mautrix-go"
    client = "mautrix-go"
    stable = "0.32.0"
    also = ("0.31.0",)
    tool = "go"
    advice = _GO
    _folders = ("go",)
    _module = "maunium.net/go/mautrix"

    async def _newest(self) -> str:
        newest = ["list", "-m", "-f", "{{.Version}}", f"{self._module}@latest"]
        return (await self._go(f"querying the newest {self.client}", *newest))[-1].removeprefix("v")

    async def _build(self, folder: Path, version: str, title: str) -> None:
        if version != self.stable:
            await self._go(f"downloading {title}", "get", f"{self._module}@v{version}", directory=folder)
        # Tags: encryption in Go instead of libolm in C.
        build = ["build", "-tags", "goolm", "-trimpath", "-ldflags", "-s -w", "-o", "driver", "."]
        await self._go(f"building {title}", *build, directory=folder)

    async def _go(self, doing: str, *arguments: str, directory: Path | None = None) -> list[str]:
        environment = child_environment({"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}, proxies=True)
        return await run_tool(doing, [self.tool, *arguments], environment=environment, directory=directory)

    def _command(self, folder: Path) -> list[str]:
        return [str(folder / "driver")]


class RustSdkRecipe(BuiltRecipe):
    """matrix-rust-sdk, with what it depends on compiled once for all versions of the driver."""

    name = "rust-sdk"
    client = "matrix-rust-sdk"
    stable = "0.18.0"
    also = ("0.17.0",)
    tool = "cargo"
    advice = "install Rust 1.93 or later (https://rustup.rs)"
    _oldest = (1, 93)
    _folders = ("rust",)

    @classmethod
    def unsupported(cls) -> str | None:
        """Return what this machine lacks to run the driver; None if nothing. Runs cargo."""
        if (reason := super().unsupported()) is not None:
            return reason
        if shutil.which("cc") is None:
            return cls._lacks("cc", "install a C compiler (`apt-get install gcc`)")
        said = subprocess.run([cls.tool, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"cargo (\d+)\.(\d+)", said)
        if version is None or tuple(map(int, version.groups())) < cls._oldest:
            found = said.strip() or "a cargo that does not start"
            return f"{cls.client} needs Rust 1.93 or later, not {found}: run `rustup update`, or {cls.advice}"
        return None

    async def _newest(self) -> str:
        asked = await run_tool(f"querying the newest {self.client}", [self.tool, "info", "matrix-sdk"])
        # Of those for this version of Rust.
        return next(line.split()[1] for line in asked if line.startswith("version:"))

    async def _build(self, folder: Path, version: str, title: str) -> None:
        build = [self.tool, "build", "--locked"]
        if version != self.stable:
            await asyncio.to_thread(self._take_version, folder, version)
            build.remove("--locked")
        shared = await self._cache.ensure(f"drivers/{self.name}-target", _nothing)
        places = {"CARGO_BUILD_BUILD_DIR": str(shared), "CARGO_TARGET_DIR": str(folder / "target")}
        compiled = 0

        def report(line: str) -> None:
            nonlocal compiled
            if not line.lstrip().startswith("Compiling "):
                return
            compiled += 1
            if compiled % _REPORT_EVERY == 0:
                self._progress(f"{title}: {compiled} crates compiled")

        environment = child_environment(places, proxies=True)
        await run_tool(f"building {title}", build, environment=environment, directory=folder, on_line=report)

    def _take_version(self, folder: Path, version: str) -> None:
        manifest = folder / "Cargo.toml"
        manifest.write_text(manifest.read_text().replace(f'"={self.stable}"', f'"={version}"'))

    def _command(self, folder: Path) -> list[str]:
        return [str(folder / "target" / "debug" / "driver")]


RECIPES: Mapping[str, type[DriverRecipe]] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            NioRecipe,
            JsSdkRecipe,
            MautrixGoRecipe,
            RustSdkRecipe,
            HydrogenRecipe,
            ElementRecipe,
            ElementCallRecipe,
            NetworkProxyRecipe,
        )
    }
)
"""The recipes by the names of their drivers."""


def _add_paths(environment: Path, paths: str) -> None:
    """Have an environment search further paths for packages, after its own."""
    (packages,) = environment.glob("venv/lib/python*/site-packages")
    (packages / "trafficlight.pth").write_text(paths)


async def _nothing(folder: Path) -> None:
    """Leave a new folder empty."""


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(
        source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "target")
    )


def chromium() -> str | None:
    """Return the path of the machine's Chromium. Searches the PATH."""
    return next(filter(None, map(shutil.which, _CHROMIUMS)), None)


def _digest(sources: Iterable[Path]) -> str:
    """Return a digest of a driver's source, so that a changed driver is built again."""
    digest = hashlib.sha256()
    for path in sorted(path for source in sources for path in source.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
