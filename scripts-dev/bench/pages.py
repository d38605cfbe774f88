"""What a session's page costs, when opened and for each update: bytes, CPU, the browser's longest task.

Compare two versions in one run of each, one after the other. The browser's times are CPU times of its main
thread, so that other work on the machine changes them little; the last is the wall time of the longest task.
"""

import argparse
import asyncio
import gzip
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

from past import play
from playwright.async_api import Page, Response, async_playwright
from raw_http import Connection
from tables import percentile, show

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.http.app import app_of
from trafficlight.http.responses import PARTS_HEADER
from trafficlight.http.server import bind, serving
from trafficlight.suites.planning import plan

# With few types a cell of the heat map has many cases; with many, each case has its own.
TEST = """
from trafficlight import Test, matrix
from trafficlight.client_types import ClientType
from trafficlight.server_types import Dendrite, SynapseDevelop, SynapseStable

TYPES = [type(f"Client{{n}}", (ClientType,), {{"type": f"client-{{n}}"}}) for n in range({types})]


class Many(Test):
    clients = {{"alice": TYPES, "bob": TYPES}}
    servers = {{"server": [SynapseStable, SynapseDevelop, Dendrite]}}

    @matrix(n=range({repeated}))
    async def run(self, n, alice, bob, server) -> None:
        pass
"""
SERVERS = 3
OPENINGS = 3
AT_ONCE = 20  # cases that end before each update
VERSION = re.compile(r'<(?:div|section|p)[^>]* id="([^"]+)" data-live="(\w+)"')
HEAD = [
    "",
    "bytes",
    "sent",
    "server CPU (ms)",
    "browser CPU (ms)",
    "longest task, CPU (ms)",
    "wall (ms)",
]


async def measured(cases: int, types: int, updates: int) -> list[list[object]]:
    """Return what it costs to open a page with so many cases, to update it, and to open it as an ended one.

    :param types: of clients.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "many_test.py"
        file.write_text(TEST.format(types=types, repeated=round(cases / (SERVERS * types**2)) or 1))
        settings = Settings(results_folder=folder / "results", workers=0, adapters={}, queue_deadline=3600)
        lab = await stack.enter_async_context(Lab.open(settings))
        planned = plan([file], directory=folder)
        assert not planned.problems, planned.problems
        session = await lab.engine.submit(await lab.new_folder(), planned, SessionOptions())
        url = await stack.enter_async_context(serving(app_of(lab), bind("127.0.0.1", 0)))
        ids = list(session.record.cases)
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        stack.push_async_callback(browser.close)
        path = f"/status/{session.id}"
        reader = await stack.enter_async_context(Connection(url))
        versions = ""

        async def cpu_of_server() -> float:
            """Return the milliseconds of one request, without a browser and what asks it."""
            nonlocal versions
            headers = {"Accept": "text/html", "Accept-Encoding": "gzip", PARTS_HEADER: versions}
            before = time.process_time()
            _, content = await reader.request("GET", path, headers=headers)
            spent = 1000 * (time.process_time() - before)
            versions = " ".join(map("=".join, VERSION.findall(gzip.decompress(content).decode())))
            return spent

        async def cost(page: Page, begin: Awaitable[object], shown: float) -> list[float]:
            """Return what one request of a page costs.

            :param begin: makes the page request itself.
            :param shown: milliseconds that the page has to show it.
            """
            await browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
            async with page.expect_response(lambda one: one.url == url + path, timeout=120_000) as asking:
                await begin
            size = await sizes(await asking.value)
            await page.wait_for_timeout(shown)  # the page shows it meanwhile
            found = tasks(json.loads(await browser.stop_tracing()), url)
            return [*size, await cpu_of_server(), *found]

        async def opened() -> list[float]:
            """Return what it costs to open the page, in a browser that has never seen it."""
            nonlocal versions
            costs = []
            for _ in range(OPENINGS):
                versions = ""
                page = await browser.new_page()
                costs.append(await cost(page, page.goto(url + path), 2_000))
                await page.close()
            return middle(costs)

        async def end_some() -> None:
            for case in [next(left) for _ in range(AT_ONCE)]:
                play(lab.journal, session.id, case, len(ids), 2)

        left = iter(ids)
        for number in range(len(ids) // 2):
            play(lab.journal, session.id, next(left), number, 2)
        rows = {"opened": await opened()}
        page = await browser.new_page()
        await page.goto(url + path)
        await page.wait_for_timeout(2_000)
        number = min(updates, len(ids) // 2 // AT_ONCE)
        rows["update"] = middle([await cost(page, end_some(), 2_500) for _ in range(number)])
        await page.close()
        lab.engine.cancel(session, "enough")
        await session.ended.wait()
        rows["past"] = await opened()
    return [[f"{len(ids):,} cases, {types} types, {what}", *costs] for what, costs in rows.items()]


def middle(costs: list[list[float]]) -> list[float]:
    """Return the median of each number; of the server's CPU the mean, with its garbage collections."""
    columns = list(zip(*costs, strict=True))
    found = [percentile(column, 0.5) for column in columns]
    found[2] = fmean(columns[2])
    return found


async def sizes(response: Response) -> tuple[int, int]:
    """Return the bytes of a page, and those that were sent."""
    headers = await response.all_headers()
    return len(await response.body()), int(headers.get("content-length", 0))


def tasks(trace: dict[str, Any], url: str) -> tuple[float, float, float]:
    """Return the milliseconds of the main thread: all CPU, that of the longest task, its wall time.

    :param url: of the pages; the browser's own pages have other threads.
    """
    parsed = [one for one in trace["traceEvents"] if one["name"] == "ParseHTML"]
    mains = {
        (one["pid"], one["tid"])
        for one in parsed
        if one["args"].get("beginData", {}).get("url", "").startswith(url)
    }
    found = [
        one
        for one in trace["traceEvents"]
        if one["name"] == "ThreadControllerImpl::RunTask"
        and one["ph"] == "X"
        and (one["pid"], one["tid"]) in mains
    ]
    cpu = [one.get("tdur", 0) / 1000 for one in found] or [0.0]
    return sum(cpu), max(cpu), max((one["dur"] / 1000 for one in found), default=0.0)


async def main(cases: list[int], updates: int) -> None:
    """Print a table."""
    rows: list[list[object]] = []
    for number in cases:
        for types in (2, min(40, math.ceil(math.sqrt(number / SERVERS)))):
            rows += await measured(number, types, updates)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    show(f"the page of a session, on {os.cpu_count()} cores with a load of {load}", HEAD, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=[100, 5_000, 10_000])
    parser.add_argument("--updates", type=int, default=10)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.cases, arguments.updates))
