"""The viewer of text files: over HTTP, and in a real browser."""

import re
from pathlib import Path
from urllib.parse import quote

from playwright.async_api import Page, expect

from tests.integration.http.conftest import HttpHarness, ScriptedAdapter, ended
from trafficlight.coordinator.session import Session
from trafficlight.http.pages.views import case_path

NUMBER = 400_000


async def played(site: HttpHarness, *names: str) -> tuple[Session, str]:
    """Run one case whose client uploads files; return the session, and the path of their folder in it."""
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start("await alice.perform('one')")
    message = await adapter.action()
    for name in names:
        await adapter.upload(name, b"2026-01-01T10:00:00Z begin\n")
    await adapter.respond({"id": message["id"]})
    await ended(session)
    (case,) = session.record.cases.values()
    return session, f"{case.attempts[0].folder}/clients/alice"


def write(path: Path, lines: int) -> None:
    """Write about 50 MB."""
    text = "\n".join(f"2026-01-01 10:00:00,000 INFO line {n} {'x' * 90}" for n in range(1, lines + 1))
    path.write_text(f"{text}\n\x1b[31mERROR <b>the end</b>\x1b[0m\n")


async def test_the_case_leads_to_its_logs(site: HttpHarness) -> None:
    session, folder = await played(site, "one.log", "two.log", "shot.png")
    (case,) = session.record.cases
    page = (await site.get(case_path(session.id, case))).text()
    where = f"/status/{session.id}/log?file="
    assert f'href="{where}{quote(folder, safe="")}%2Fone.log">' in page
    assert "in the order of time</a>" in page
    assert f"/log?file={quote(folder, safe='')}%2Fshot.png" not in page
    answer = await site.get(f"{where}{quote(folder)}/one.log&file={quote(folder)}/two.log")
    assert answer.text().count("begin") == 2
    assert (await site.get(answer.headers.get("Location", "/status"))).status == 200


async def test_what_is_no_file_of_the_session_is_not_shown(site: HttpHarness) -> None:
    session, folder = await played(site, "one.log")
    where = f"/status/{session.id}/log"
    assert (await site.get(where)).status == 400
    assert (await site.get(f"{where}?{'file=events.jsonl&' * 9}")).status == 400
    for name in ("../secret", "/etc/passwd", "", "%00", folder, "events.jsonl&file=/etc/passwd", ".lock"):
        assert (await site.get(f"{where}?file={name}")).status == 404, name
    assert (await site.get("/status/2020-01-01--001/log?file=events.jsonl")).status == 404


async def test_a_search_leads_from_line_to_line(site: HttpHarness) -> None:
    session, folder = await played(site, "one.log")
    (session.folder.path / folder / "one.log").write_text("a <hit>\n" + "no\n" * 1500 + "b HIT\n")
    where = f"/status/{session.id}/log?file={quote(folder, safe='')}%2Fone.log"
    for query, line in (("after=0", 1), ("after=1", 1502), ("before=1", 1502), ("before=1502", 1)):
        answer = await site.get(f"{where}&find=hit&{query}")
        assert answer.status == 302
        assert answer.headers["Location"].endswith(f"&hit={line}#L{line}")
    page = (await site.get(f"{where}&find=%3Chit&hit=1&from=1")).text()
    assert "<mark>&lt;hit</mark>" in page
    assert "No line contains" in (await site.get(f"{where}&find=nothing&after=0")).text()


async def test_a_log_of_50_megabytes(site: HttpHarness, page: Page) -> None:
    session, folder = await played(site, "one.log")
    path = session.folder.path / folder / "one.log"
    write(path, NUMBER)
    assert path.stat().st_size > 50_000_000
    url = f"{site.url}/status/{session.id}/log?file={quote(folder, safe='')}%2Fone.log"
    box = page.locator("#lines")

    await page.goto(url)
    end = page.locator(f"#L{NUMBER + 1}")
    await expect(end).to_be_in_viewport()
    await expect(end.locator(".a-red")).to_have_text("ERROR <b>the end</b>")
    # As far as the beginning of the page, and beyond it; what is far away is removed.
    for line in (NUMBER - 998, NUMBER - 1998, NUMBER - 2998):
        await page.locator(f"#L{line}").evaluate("row => row.scrollIntoView()")
        await expect(page.locator(f"#L{line - 1}")).to_be_attached()
    await expect(end).to_have_count(0)
    assert await box.evaluate("box => box.childElementCount") <= 3_000
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400

    await page.goto(f"{url}#L120-L122")
    await expect(page.locator("#L121")).to_be_in_viewport()
    await expect(page.locator(".on")).to_have_count(3)
    await page.locator("#L125 a").click()
    await page.locator("#L127 a").click(modifiers=["Shift"])
    await expect(page.locator(".on")).to_have_count(3)
    await expect(page).to_have_url(re.compile("&from=105#L125-L127$"))


async def test_a_log_is_followed_while_its_session_runs(site: HttpHarness, page: Page) -> None:
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start("await alice.perform('one')")
    message = await adapter.action()
    path = session.folder.path / "followed.log"
    path.write_text("first\nsec")
    await page.goto(f"{site.url}/status/{session.id}/log?file=followed.log")
    await page.get_by_label("follow").check()
    with path.open("a") as file:
        file.write("ond\nthird\n" + "more\n" * 2_000 + "last\n")
    await expect(page.locator("#L2004")).to_be_in_viewport()
    await expect(page.locator("#L2004 span")).to_have_text("last")
    await adapter.respond({"id": message["id"]})
    await ended(session)
    await page.reload()
    await expect(page.get_by_label("follow")).to_have_count(0)
