"""Start Synapses by forking an interpreter that has already imported Synapse.

Most of a Synapse's start-up is imports. This script runs in the virtual environment of one Synapse version,
imports it once, and forks for every homeserver, as ``trafficlight/forking.py`` describes. It dies with its
parent, whose pid is its argument.
"""

import contextlib
import gc
import importlib
import importlib.util
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[2]


def _preload() -> Any:
    """Import Synapse with a proxy for Twisted's reactor: the real one must be created after the fork."""
    module = "synapse.app.complement_fork_proxied_reactor"
    if importlib.util.find_spec(module) is None:
        module = "synapse.app.complement_fork_starter"  # its name in older versions
    reactor = importlib.import_module(module).ProxiedReactor()
    importlib.import_module("twisted.internet.main").installReactor(reactor)
    importlib.import_module("synapse.app.homeserver")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            _read_configurations_faster()
    except Exception:  # noqa: BLE001 - a version that is written otherwise: it only starts more slowly
        traceback.print_exc()
    gc.collect()
    gc.freeze()  # keeps these pages shared with the children
    return reactor


def _read_configurations_faster() -> None:
    """Do ahead what every Synapse does to read its configuration, which is most of its start."""
    libraries: Any = map(importlib.import_module, ("jinja2", "jsonschema", "yaml"))
    jinja2, jsonschema, yaml = libraries
    yaml.SafeLoader = yaml.CSafeLoader
    # The schemas are Synapse's own.
    jsonschema.validators.validator_for({}).check_schema = lambda *_, **__: None
    compile_template, compiled = jinja2.Environment.compile, dict[tuple[Any, ...], Any]()

    def compile_once(self: Any, *arguments: Any, **options: Any) -> Any:
        if len(arguments) != 3 or options or self.finalize is not None:
            return compile_template(self, *arguments, **options)  # not one of Synapse's files
        if arguments not in compiled:
            compiled[arguments] = compile_template(self, *arguments)
        return compiled[arguments]

    jinja2.Environment.compile = compile_once
    sample = {
        "server_name": "localhost",
        "report_stats": False,
        "signing_key": f"ed25519 a_1 {'A' * 43}",
        "macaroon_secret_key": "none",
        "form_secret": "none",
        "trusted_key_servers": [],
    }
    config = importlib.import_module("synapse.config.homeserver").HomeServerConfig()
    with tempfile.TemporaryDirectory() as folder:
        config.parse_config_dict({**sample, "media_store_path": folder}, folder, folder)


def main() -> None:
    """Import Synapse, then serve requests until stdin is closed."""
    # This environment has no trafficlight.
    die_with = runpy.run_path(str(_PACKAGE / "pdeathsig.py"))["die_with"]
    serve = runpy.run_path(str(_PACKAGE / "forking.py"))["serve"]
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reactor = _preload()
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def become_server(args: list[str], _files: list[int]) -> None:
        sys.argv = args
        reactor._install_real_reactor(importlib.import_module("twisted.internet.epollreactor").EPollReactor())
        importlib.import_module(sys.argv[0]).main()

    serve(become_server, die_with)


if __name__ == "__main__":
    main()
