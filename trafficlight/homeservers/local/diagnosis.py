"""Check what this machine has for local homeservers, with advice for what is missing."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trafficlight.errors import UnsupportedError
from trafficlight.homeservers.local.cache import CacheFolder
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.local.run_folder import default_base
from trafficlight.homeservers.provider import available_bytes, capacity_of_this_machine
from trafficlight.homeservers.recipes.synapse import Environments
from trafficlight.server_types import HomeServerSpec

_MIB = 2**20
_INSTALLATION_BYTES = 512 * _MIB


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    :param advice: what to do about it; may be empty.
    """

    subject: str
    good: bool
    detail: str
    advice: str = ""


def diagnose(cache_folder: Path | None = None) -> list[Finding]:
    """Check everything that local homeservers need. Blocks for milliseconds.

    :param cache_folder: the folder for installations; by default the user's cache folder.
    """
    cache = CacheFolder(cache_folder)
    return [_environments(cache), _venv(), _go(), _dendrite(cache), _disk(cache), _data(), _memory()]


async def resolutions(provider: LocalProvider, specs: Iterable[HomeServerSpec]) -> list[Finding]:
    """Return the exact version of server types. Queries the package index for the newest version."""
    findings = []
    for spec in dict.fromkeys(specs):
        try:
            detail = f"{spec.recipe} {await provider.resolve(spec)}"
        except UnsupportedError as error:
            findings.append(Finding(spec.type_name, False, str(error), "its cases are skipped"))
        else:
            findings.append(Finding(spec.type_name, True, detail))
    return findings


def _environments(cache: CacheFolder) -> Finding:
    installed = Environments(cache, "matrix-synapse", lambda _: None).installed()
    if installed:
        return Finding("Synapse environments", True, ", ".join(installed))
    return Finding(
        "Synapse environments", True, "none yet", "the first session installs one in half a minute"
    )


def _venv() -> Finding:
    if importlib.util.find_spec("ensurepip") is not None:
        return Finding("Virtual environments", True, f"made with {sys.executable}")
    advice = "install your system's package python3-venv: Synapse is installed into its own environment"
    return Finding("Virtual environments", False, "this Python has no ensurepip", advice)


def _go() -> Finding:
    go = shutil.which("go")
    return (
        Finding("Go", True, go)
        if go
        else Finding("Go", False, "not on the PATH", "needed to build Dendrite only")
    )


def _dendrite(cache: CacheFolder) -> Finding:
    folder = cache.path("dendrite")
    built = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
    return Finding("Dendrite builds", True, ", ".join(built) or "none yet")


def _disk(cache: CacheFolder) -> Finding:
    folder = cache.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    advice = (
        "" if free > _INSTALLATION_BYTES else "a Synapse takes 250 MiB; TRAFFICLIGHT_CACHE_FOLDER moves it"
    )
    if not os.access(folder, os.W_OK):
        return Finding(
            "Cache folder", False, f"{cache.root} cannot be written", "set TRAFFICLIGHT_CACHE_FOLDER"
        )
    return Finding("Cache folder", not advice, f"{cache.root}, {free // _MIB} MiB free", advice)


def _data() -> Finding:
    base = default_base()
    return Finding(
        "Data of running servers", True, f"{base}, {shutil.disk_usage(base).free // _MIB} MiB free"
    )


def _memory() -> Finding:
    detail = f"{available_bytes() // _MIB} MiB available: {capacity_of_this_machine()} homeservers at once"
    return Finding("Memory", True, detail)
