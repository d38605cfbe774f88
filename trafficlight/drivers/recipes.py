"""The drivers that come with trafficlight: clients in other languages, built when they are first used."""

import asyncio
import hashlib
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from trafficlight.cache import CacheFolder
from trafficlight.errors import ConfigError, DeployError
from trafficlight.processes import Progress, child_environment, no_network, run_tool

_SOURCES = Path(__file__).parent
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

        :param version: the client's version; by default the one that is tested.
        :raises DeployError: it cannot be built.
        :raises ConfigError: there is no network, or the cache cannot be written.
        """


class NioRecipe(DriverRecipe):
    """matrix-nio, which is installed with trafficlight."""

    name = "nio"
    client = "matrix-nio"

    async def install(self, version: str | None = None) -> list[str]:
        """Return the command that starts the driver.

        :raises ConfigError: a version is given.
        :raises ModuleNotFoundError: it is not installed.
        """
        if not await asyncio.to_thread(find_spec, "nio"):
            raise ModuleNotFoundError("No module named 'nio'", name="nio")
        if version is not None:
            raise ConfigError(
                "is the version that is installed with trafficlight", key="ADAPTERS.nio.version"
            )
        # -P: a folder trafficlight in the current directory is not this package.
        return [sys.executable, "-P", "-m", "trafficlight.adapters.nio.adapter"]


class BuiltRecipe(DriverRecipe):
    """Builds a driver, once for each version of its client and each version of its source.

    :cvar stable: the version that the driver is built with by default.
    :cvar tool: the program that builds it.
    :cvar advice: how to install that program.
    """

    stable: str
    tool: str
    advice: str
    #: The folders of its source, in this package.
    _folders: tuple[str, ...]

    @classmethod
    def unsupported(cls) -> str | None:
        """Return what this machine lacks to run the driver; None if nothing. Searches the PATH."""
        if shutil.which(cls.tool) is None:
            return f"{cls.client} needs {cls.tool}, which is not on the PATH: {cls.advice}"
        return None

    async def install(self, version: str | None = None) -> list[str]:
        """Build the driver, unless it is built already, and return the command that starts it."""
        if (reason := await asyncio.to_thread(self.unsupported)) is not None:
            raise DeployError(reason)
        version = version or self.stable
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
                raise
            self._progress(f"{title}: built")

        digest = await asyncio.to_thread(_digest, sources)
        folder = await self._cache.ensure(f"drivers/{self.name}-{version}-{digest}", build)
        return await asyncio.to_thread(self._command, folder)

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
        await self._npm(f"installing {title}", folder, *arguments, *self._options)

    async def _npm(self, doing: str, folder: Path, *arguments: str) -> None:
        await run_tool(
            doing,
            [self.tool, *arguments, "--loglevel=error"],
            environment=child_environment(proxies=True),
            directory=folder,
        )

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
    package = "matrix-js-sdk"
    _folders = ("js",)


class BrowserRecipe(NpmRecipe):
    """Builds the page and the driver of a client that runs in the machine's Chromium."""

    @classmethod
    def unsupported(cls) -> str | None:
        """Return what this machine lacks to run the driver; None if nothing. Searches the PATH."""
        if _chromium() is None:
            return (
                f"{cls.client} needs Chromium or Chrome, which is not on the PATH: "
                "install it (`apt-get install chromium`, or https://www.google.com/chrome)"
            )
        return super().unsupported()

    async def _build(self, folder: Path, version: str, title: str) -> None:
        await super()._build(folder, version, title)
        await self._npm(f"building {title}", folder, "run", "build")

    def _command(self, folder: Path) -> list[str]:
        return [*super()._command(folder), str(_chromium())]


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


class MautrixGoRecipe(BuiltRecipe):
    """mautrix-go, as a static program without C."""

    name = "mautrix-go"
    client = "mautrix-go"
    stable = "0.32.0"
    tool = "go"
    advice = "install Go 1.26 or later (https://go.dev/dl)"
    _folders = ("go",)

    async def _build(self, folder: Path, version: str, title: str) -> None:
        environment = child_environment({"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}, proxies=True)
        if version != self.stable:
            module = f"maunium.net/go/mautrix@v{version}"
            await run_tool(
                f"downloading {title}", [self.tool, "get", module], environment=environment, directory=folder
            )
        # Tags: encryption in Go instead of libolm in C.
        build = [self.tool, "build", "-tags", "goolm", "-trimpath", "-ldflags", "-s -w", "-o", "driver", "."]
        await run_tool(f"building {title}", build, environment=environment, directory=folder)

    def _command(self, folder: Path) -> list[str]:
        return [str(folder / "driver")]


RECIPES: Mapping[str, type[DriverRecipe]] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (NioRecipe, JsSdkRecipe, MautrixGoRecipe, HydrogenRecipe, ElementRecipe)
    }
)
"""The recipes by the names of their drivers."""


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))


def _chromium() -> str | None:
    """Return the path of the machine's Chromium. Searches the PATH."""
    return next(filter(None, map(shutil.which, _CHROMIUMS)), None)


def _digest(sources: Iterable[Path]) -> str:
    """Return a digest of a driver's source, so that a changed driver is built again."""
    digest = hashlib.sha256()
    for path in sorted(path for source in sources for path in source.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
