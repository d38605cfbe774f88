"""Take a picture of every page at the width of a desk and of a phone, in light and dark, to look at them.

Usage: screenshots.py RESULTS FOLDER, where RESULTS has the sessions that are shown. With --docs, take the
pictures in docs/images instead.
"""

import argparse
import asyncio
import itertools
import shutil
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.async_api import Browser, async_playwright

from trafficlight.cli.runtime import lab_serving
from trafficlight.config import Settings
from trafficlight.http.pages.views import case_path, log_path
from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import read_record, session_ids

HIGHEST = 2_400  # pixels of a picture
WIDTHS = (1440, 400)
DOCS_WIDTHS = {"": 1000, "-phone": 400}
DOCS_HIGHEST = 1_600
DOCS = {"session": "#map", "case": "dl.facts", "report": "main > .trouble:not(.causes) > li:nth-child(4)"}
"""Each page that the docs show, to which part of it."""


def pages_of(root: Path) -> dict[str, str]:
    """Return the path of every page, by its name."""
    id, *before = session_ids(root)
    cases = list(read_record(root / id / "events.jsonl")[0].cases.values())
    case = next((one for one in cases if one.outcome.value in ("failure", "error")), cases[0])
    paths = {
        "session": f"/status/{id}",
        "session-tests": f"/status/{id}?map=tests#map",
        "session-filtered": f"/status/{id}?q={quote('state:failure')}#cases",
        "sessions": "/sessions",
        "case": case_path(id, case.id),
        "openapi": "/openapi",
        "error": "/status/2000-01-01--001",
        "report": f"/status/{id}/files/report.html",
    }
    if log := log_of(root / id, case):
        paths["log"] = log_path(id, [log])
    if before:
        paths["compare"] = f"/s/{before[0]}...{id}"
    return paths


def log_of(folder: Path, case: CaseRecord) -> str:
    """Return the log of a case's last attempt, below its session's folder; empty if there is none."""
    attempts = [folder / attempt.folder for attempt in reversed(case.attempts)]
    found = (one for attempt in attempts for one in sorted(attempt.rglob("*.log")) or [attempt / "log.info"])
    return next((one.relative_to(folder).as_posix() for one in found if one.is_file()), "")


async def take(browser: Browser, url: str, paths: dict[str, str], folder: Path) -> None:
    """Write a picture of each page."""
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            page = await browser.new_page(viewport={"width": width, "height": 900})
            await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            for name, path in paths.items():
                await page.goto(url + path)
                await page.wait_for_timeout(1_000)  # large tables come one after the other
                high = await page.evaluate("document.documentElement.scrollHeight")
                clip = {"x": 0, "y": 0, "width": width, "height": min(high, HIGHEST)}
                file = folder / f"{name}-{width}-{scheme}.png"
                await page.screenshot(path=file, full_page=True, clip=clip)  # type: ignore[arg-type]
            await page.close()


async def take_for_docs(browser: Browser, url: str, paths: dict[str, str], folder: Path) -> None:
    """Write the pictures that the docs show: the tops of pages, and the heat map."""
    for dark, (suffix, width) in itertools.product((False, True), DOCS_WIDTHS.items()):
        page = await browser.new_page(viewport={"width": width, "height": 900})
        await page.emulate_media(color_scheme="dark" if dark else "light")
        suffix += "-dark" * dark
        for name, end in DOCS.items():
            await page.goto(url + paths[name])
            await page.wait_for_timeout(1_000)
            high = (await page.locator(end).first.bounding_box() or {"y": 900.0})["y"] - 8
            clip = {"x": 0, "y": 0, "width": width, "height": min(high, DOCS_HIGHEST)}
            file = folder / f"{name}{suffix}.png"
            await page.screenshot(path=file, full_page=True, clip=clip)  # type: ignore[arg-type]
        await page.close()
    page = await browser.new_page(viewport={"width": DOCS_WIDTHS[""], "height": 900})
    await page.goto(f"{url}{paths['session']}?map=tests")
    await page.locator("#map").screenshot(path=folder / "heat-map.png")
    await asyncio.to_thread(shrink, folder)


def shrink(folder: Path) -> None:
    """Give pictures few colours, so that they are small."""
    for file in folder.glob("*.png"):
        picture = Image.open(file).convert("RGB")
        picture.quantize(200, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)


async def main(root: Path, folder: Path, *, docs: bool) -> None:
    """Serve the sessions, and look at their pages; once more with a token, for the login."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        settings = {"results_folder": root, "workers": 0, "adapters": {}}
        async with lab_serving(Settings.model_validate(settings)) as (_, url):
            paths = await asyncio.to_thread(pages_of, root)
            await (take_for_docs if docs else take)(browser, url, paths, folder)
        if docs:
            return
        locked = Settings.model_validate({**settings, "people_token": "secret"})
        async with lab_serving(locked) as (_, url):
            await take(browser, url, {"login": "/status"}, folder)
        await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(arguments.results, arguments.folder, docs=arguments.docs))
