"""What the page of a running session costs, when opened and for each update: bytes, CPU, the longest task.

Compare two versions in one run of each, one after the other; wall times are those of the machine.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from past import play
from playwright.async_api import Response, async_playwright
from tables import percentile, show

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.session import SessionOptions
from trafficlight.http.app import app_of
from trafficlight.http.server import bind, serving
from trafficlight.suites.planning import plan

TEST = """
from trafficlight import Test, matrix
from trafficlight.client_types import Nio, HydrogenWeb


class Many(Test):
    clients = {{"alice": [Nio, HydrogenWeb], "bob": [Nio, HydrogenWeb]}}

    @matrix(n=range({count}))
    async def run(self, n, alice, bob) -> None:
        pass
"""
LONGEST = """
window.longest = 0;
new PerformanceObserver((list) => {
    for (const one of list.getEntries()) window.longest = Math.max(window.longest, one.duration);
}).observe({ type: "longtask", buffered: true });
"""
AT_ONCE = 20  # cases that end before each update


async def measured(cases: int, updates: int) -> list[list[object]]:
    """Return what opening a page with so many cases costs, and the median of its updates."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "many_test.py"
        file.write_text(TEST.format(count=cases // 4))
        settings = Settings(results_folder=folder / "results", workers=0, adapters={}, queue_deadline=3600)
        lab = await stack.enter_async_context(Lab.open(settings))
        planned = plan([file], directory=folder)
        session = await lab.engine.submit(await lab.new_folder(), planned, SessionOptions())
        url = await stack.enter_async_context(serving(app_of(lab), bind("127.0.0.1", 0)))
        ids = list(session.record.cases)
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        stack.push_async_callback(browser.close)
        page = await browser.new_page()
        await page.add_init_script(LONGEST)
        path = f"/status/{session.id}"

        def is_page(response: Response) -> bool:
            return response.url == url + path

        for number, case in enumerate(ids[: cases // 2]):
            play(lab.journal, session.id, case, number, 2)
        cpu = time.process_time()
        async with page.expect_response(is_page) as opening:
            await page.goto(url + path)
        size = await sizes(await opening.value)
        opened = [*size, 1000 * (time.process_time() - cpu), await page.evaluate("window.longest")]
        costs: list[list[float]] = []
        for number in range(updates):
            await page.evaluate("window.longest = 0")
            first = cases // 2 + number * AT_ONCE
            async with page.expect_response(is_page, timeout=120_000) as updating:
                for case in ids[first : first + AT_ONCE]:
                    play(lab.journal, session.id, case, first, 2)
                cpu = time.process_time()
            size = await sizes(await updating.value)
            spent = time.process_time() - cpu
            await page.wait_for_timeout(2_500)  # the page shows it meanwhile
            costs.append([*size, 1000 * spent, await page.evaluate("window.longest")])
    middle = [percentile(column, 0.5) for column in zip(*costs, strict=True)]
    return [[f"{cases:,} cases, opened", *opened], [f"{cases:,} cases, update (median)", *middle]]


async def sizes(response: Response) -> tuple[int, int]:
    """Return the bytes of a page, and those that were sent."""
    headers = await response.all_headers()
    return len(await response.body()), int(headers.get("content-length", 0))


async def main(cases: list[int], updates: int) -> None:
    """Print a table."""
    rows: list[list[object]] = []
    for number in cases:
        rows += await measured(number, updates)
    show("the page of a running session", ["", "bytes", "sent", "server CPU (ms)", "longest task (ms)"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=[100, 5_000])
    parser.add_argument("--updates", type=int, default=5)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.cases, arguments.updates))
