"""The version, and how this installation is extended by an extra."""

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution

VERSION = "0.1.0"
_DISTRIBUTION = "matrix-trafficlight"


def install_command(extra: str) -> str:
    """Return the shell command that adds an extra to the installation that is running.

    :param extra: such as ``lab`` or ``docker``.
    """
    requirement = f"{_DISTRIBUTION}[{extra}]"
    try:
        origin = json.loads(distribution(_DISTRIBUTION).read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # a source tree that was never installed
        origin = {}
    editable = origin.get("dir_info", {}).get("editable", False)
    if "vcs_info" in origin:
        source = f"{requirement} @ {origin['vcs_info']['vcs']}+{origin['url']}"
    elif "url" in origin:
        source = f"{requirement} @ {origin['url']}"
    else:
        source = requirement
    if editable:
        source = f"{origin['url'].removeprefix('file://')}[{extra}]"
    return f"{shlex.quote(sys.executable)} -m pip install {'--editable ' * editable}{shlex.quote(source)}"
