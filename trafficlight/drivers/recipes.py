"""The drivers that come with trafficlight: clients in other languages, built when they are first used."""

import asyncio
import hashlib
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from trafficlight.cache import CacheFolder
from trafficlight.clock import SystemClock
from trafficlight.errors import ConfigError, DeployError
from trafficlight.processes import Progress, child_environment, no_network, run_tool, showing_life

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
    _folder: str

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
        source = _SOURCES / self._folder

        async def build(folder: Path) -> None:
            self._progress(f"{title}: building its driver with {self.tool} (first use)")
            await asyncio.to_thread(_copy, source, folder)
            try:
                await self._build(folder, version, title)
            except DeployError as error:
                if cause := no_network(error.log):
                    raise self._cache.missing(f"the driver of {title}", cause) from error
                raise
            self._progress(f"{title}: built")

        digest = await asyncio.to_thread(_digest, source)
        async with showing_life(f"{title}: its driver is still being built", self._progress, SystemClock()):
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

    async def _build(self, folder: Path, version: str, title: str) -> None:
        arguments = ["ci"]
        if version != self.stable:
            await asyncio.to_thread(self._take_version, folder, version)
            arguments = ["install"]
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund"]
        await self._npm(f"installing {title}", folder, *arguments, *quiet)

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
    _folder = "js"


class HydrogenRecipe(NpmRecipe):
    """Hydrogen in the machine's Chromium."""

    name = "hydrogen-web"
    client = "Hydrogen"
    stable = "0.3.1"
    package = "hydrogen-view-sdk"
    _folder = "hydrogen"

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


class MautrixGoRecipe(BuiltRecipe):
    """mautrix-go, as a static program without C."""

    name = "mautrix-go"
    client = "mautrix-go"
    stable = "0.32.0"
    tool = "go"
    advice = "install Go 1.26 or later (https://go.dev/dl)"
    _folder = "go"

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
    {recipe.name: recipe for recipe in (NioRecipe, JsSdkRecipe, MautrixGoRecipe, HydrogenRecipe)}
)
"""The recipes by the names of their drivers."""


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))


def _chromium() -> str | None:
    """Return the path of the machine's Chromium. Searches the PATH."""
    return next(filter(None, map(shutil.which, _CHROMIUMS)), None)


def _digest(source: Path) -> str:
    """Return a digest of a driver's source, so that a changed driver is built again."""
    digest = hashlib.sha256()
    for path in sorted(source.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
