"""Measure what a homeserver costs a case: time to its first registration, memory, and cases in a minute.

Prints four tables. A ratio compares a row with the one that it names; above 1 is better. Run it on an idle
machine: everything here competes for the processors.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

import psutil
from tables import show

from trafficlight.cache import CacheFolder
from trafficlight.clients.home_server import register_account
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.homeservers.recipes import default_recipes
from trafficlight.server_types import (
    Dendrite,
    HomeServerSpec,
    ServerType,
    Synapse,
    SynapsePostgres,
    SynapseStable,
    SynapseWorkers,
    server_types_of,
)

_ROOT = Path(__file__).resolve().parents[2]
_MIB = 2**20
_PASSWORD = "a good password"


def main() -> None:
    """Measure, and print the tables."""
    options = _options()
    spec = _server_type(options.server).homeservers()[0]
    with tempfile.TemporaryDirectory(prefix="trafficlight-bench-") as folder:
        asyncio.run(_measure(spec, options, Path(folder)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--server",
        default="SynapseStable",
        help="a name as in case ids, or a version of Synapse such as 1.98.0 [%(default)s]",
    )
    parser.add_argument("--rounds", type=int, default=10, help="how often each time is taken [%(default)s]")
    parser.add_argument(
        "--servers", type=int, default=4, help="how many run at once to measure memory [%(default)s]"
    )
    parser.add_argument("--cases", type=int, default=40, help="cases of each session [%(default)s]")
    return parser.parse_args()


def _server_type(name: str) -> ServerType:
    return Synapse(name) if name[0].isdigit() else server_types_of([name])[0]


async def _measure(spec: HomeServerSpec, options: argparse.Namespace, folder: Path) -> None:
    # Installing is the only thing that happens once in a machine's life, and is not measured.
    async with _Provider(folder) as provider:
        await provider.prepare([spec])

    cold = [await _cold(spec, folder) for _ in range(max(3, options.rounds // 3))]
    warm = await _first_registrations(spec, folder, options.rounds)
    rows = [("cold: installed, nothing loaded", cold), ("warm: loaded, started for the case", warm)]
    base = statistics.median(cold)
    show(
        f"{options.server}: from `case may start` to the first registration answered",
        ("", "median s", "slowest s", "against cold"),
        [(name, _s(statistics.median(all_)), _s(max(all_)), _x(base / statistics.median(all_)))
         for name, all_ in rows],
    )  # fmt: skip

    starts = await _starts(folder, options.rounds)
    base = statistics.median(starts["SynapseStable"])
    show(
        "From `case may start` to the first registration answered, each type in turn",
        ("", "median s", "slowest s", "against SynapseStable"),
        [(name, _s(statistics.median(all_)), _s(max(all_)), _x(base / statistics.median(all_)))
         for name, all_ in starts.items()],
    )  # fmt: skip

    alone, each, shared = await _memory(spec, folder, options.servers)
    show(
        "Memory of one homeserver (proportional set size, after a registration)",
        ("", "MiB", "against one alone"),
        [
            ("one alone", _mib(alone), _x(1)),
            (f"one of {options.servers}", _mib(each), _x(alone / each)),
            ("what starts them, once per version", _mib(shared), ""),
        ],
    )

    rates = []
    for name, path in (
        ("one registration", _ROOT / "tests/interop/home_server_test.py::Registers"),
        ("two clients chat", _ROOT / "tests/interop/messages_test.py::SendMessages"),
    ):
        rates.append((name, f"{await _cases_per_minute(path, options, folder):.0f}"))
    show("Cases per minute", ("case", "rate"), rates)


class _Provider(LocalProvider):
    """A provider that is closed when it is left."""

    def __init__(self, folder: Path) -> None:
        super().__init__(recipes=default_recipes(CacheFolder(), lambda line: print(line, file=sys.stderr)))
        self.logs = folder

    async def __aenter__(self) -> "_Provider":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def request(self, spec: HomeServerSpec, number: int) -> ServerRequest:
        return ServerRequest(f"server{number}", spec, self.logs / f"server{number}.log")


async def _cold(spec: HomeServerSpec, folder: Path) -> float:
    """Return the seconds to the first registration of a lab that was just started."""
    async with _Provider(folder) as provider:
        return await _first_registration(provider, spec)


async def _first_registrations(spec: HomeServerSpec, folder: Path, rounds: int) -> list[float]:
    """Return the seconds to each first registration."""
    async with _Provider(folder) as provider:
        await provider.prepare([spec])
        return [await _first_registration(provider, spec) for _ in range(rounds)]


async def _starts(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds to first registrations on each type that runs here; the types take turns."""
    async with _Provider(folder) as provider:
        types = SynapseStable(), SynapsePostgres(), SynapseWorkers(), Dendrite()
        specs = [kind.homeservers()[0] for kind in types]
        specs = [spec for spec in specs if provider.unsupported(spec) is None]
        await provider.prepare(specs)
        times: dict[str, list[float]] = {spec.type_name: [] for spec in specs}
        for _ in range(rounds):
            for spec in specs:
                times[spec.type_name].append(await _first_registration(provider, spec))
        return times


async def _first_registration(provider: _Provider, spec: HomeServerSpec) -> float:
    began = time.perf_counter()
    async with provider.deploy("bench", [provider.request(spec, 0)]) as [server]:
        await register_account(server.cs_api, "alice", _PASSWORD)
        return time.perf_counter() - began


async def _memory(spec: HomeServerSpec, folder: Path, count: int) -> tuple[float, float, float]:
    """Return the bytes of one homeserver alone, of each of several, and of the process that starts them."""
    async with _Provider(folder) as provider, AsyncExitStack() as stack:
        sizes = []
        for number in range(count):
            deployment = provider.deploy("bench", [provider.request(spec, number)])
            [server] = await stack.enter_async_context(deployment)
            await register_account(server.cs_api, "alice", _PASSWORD)
            if number == 0:
                alone = statistics.mean(_server_sizes(provider))
        sizes = _server_sizes(provider)
        others = {child.pid for child in psutil.Process().children()}
        others -= {server.pid for server in provider.servers if server.pid is not None}
        return alone, statistics.mean(sizes), sum(_size(pid) for pid in others)


def _server_sizes(provider: LocalProvider) -> list[float]:
    return [_size(server.pid) for server in provider.servers if server.pid is not None]


def _size(pid: int) -> float:
    memory: float = psutil.Process(pid).memory_full_info().pss
    return memory


async def _cases_per_minute(path: Path, options: argparse.Namespace, folder: Path) -> float:
    """Run a session of the same case again and again, in a lab of its own, and return its rate."""
    environment = {**os.environ, "TRAFFICLIGHT_RESULTS_FOLDER": str(folder / "results")}
    name = _server_type(options.server).name()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trafficlight", "run", str(path), "--server", name),
        *("--repeat", str(options.cases)),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise SystemExit(output.decode())
    cases: int = options.cases
    return cases / _session_seconds(folder / "results" / "latest" / "events.jsonl") * 60


def _session_seconds(events: Path) -> float:
    """Return how long a session took from its start to its last case."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    began = next(line["time"] for line in lines if line["kind"] == "session_started")
    ended = [line["time"] for line in lines if line["kind"] == "case_ended"][-1]
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def _s(seconds: float) -> str:
    return f"{seconds:.3f}"


def _mib(size: float) -> str:
    return f"{size / _MIB:.0f}"


def _x(ratio: float) -> str:
    return f"x {ratio:.1f}"


if __name__ == "__main__":
    main()
