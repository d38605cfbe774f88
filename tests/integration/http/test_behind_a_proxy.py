"""Behind a proxy that terminates TLS and serves the lab below a prefix."""

import asyncio
import os
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import async_playwright, expect

from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, ended
from trafficlight.homeservers.certificates import Certificates
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.http.pages.views import case_path

PEOPLE = "secret-of-people"
FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/lab/one"}
LINKS = re.compile(r"""(?:href|src|action|data-events|name="next" value)="(/[^"]*)""")


async def test_every_link_has_the_prefix(site: HttpHarness) -> None:
    path = "/status"
    first = await site.get(path, headers=FORWARDED)
    adapter = ScriptedAdapter(site)
    await adapter.register()
    session = await site.start("await alice.perform('one')")
    message = await adapter.action()
    (case,) = session.record.cases
    pages = [
        "/status",
        "/sessions",
        "/openapi",
        "/nowhere",
        case_path(session.id, case),
        "/status?q=x&page=2",
    ]
    running = [await site.get(path, headers={**FORWARDED, "Accept": "text/html"}) for path in pages]
    await adapter.upload("picture.png", b"png")
    await adapter.respond({"id": message["id"]})
    await ended(session)
    over = [await site.get(path, headers={**FORWARDED, "Accept": "text/html"}) for path in pages]
    for answer in (first, *running, *over):
        links = LINKS.findall(answer.text())
        assert len(links) > 3
        assert [link for link in links if not link.startswith("/lab/one/")] == []
    assert any('data-events="/lab/one/api/' in answer.text() for answer in running)
    for path in ("/", "/status/", f"/status/{session.id}/case?id={case}"):
        answer = await site.get(path, headers=FORWARDED)
        assert answer.headers["Location"].startswith("/lab/one/status"), path


async def test_the_api_gives_paths_with_the_prefix(site: HttpHarness) -> None:
    session = await site.start("pass")
    body = (await site.get(f"/api/sessions/{session.id}", headers=FORWARDED)).json()
    assert all(path.startswith("/lab/one/") for path in body["urls"].values())
    cases = (await site.get(f"/api/sessions/{session.id}/cases", headers=FORWARDED)).json()["cases"]
    assert cases[0]["url"].startswith("/lab/one/status/")
    document = (await site.get("/openapi.json", headers=FORWARDED)).json()
    assert document["servers"] == [{"url": "/lab/one"}]
    answer = await site.post("/api/adapters/drain", data={"reason": "x"}, headers=FORWARDED)
    assert answer.headers["Location"] == "/lab/one/status#adapters"
    adapter = ScriptedAdapter(site)
    adapter.headers = FORWARDED
    await adapter.register()
    assert (await adapter.poll(0))["action"] == "idle"


async def test_the_cookie_is_for_tls_and_the_prefix(opener: Opener) -> None:
    site = await opener(people_token=PEOPLE)
    form = {"token": PEOPLE, "next": "/lab/one/status?q=x"}
    answer = await site.post("/login", data=form, headers=FORWARDED)
    assert answer.headers["Location"] == "/lab/one/status?q=x"
    assert "; Secure" in answer.headers["Set-Cookie"]
    assert "; Path=/lab/one" in answer.headers["Set-Cookie"]
    answer = await site.post("/login", data=form | {"next": "/elsewhere"}, headers=FORWARDED)
    assert answer.headers["Location"] == "/lab/one/status"
    answer = await site.post("/login", data=form)
    assert "; Secure" not in answer.headers["Set-Cookie"]
    assert answer.headers["Set-Cookie"].endswith("; Path=/; SameSite=Lax")


@pytest.mark.parametrize(
    "prefix",
    ["//evil.example", "/a//b", "https://evil.example", "lab", "/a b", '/"><script>', "/\\x", "/", ""],
)
async def test_a_prefix_that_is_none_changes_nothing(site: HttpHarness, prefix: str) -> None:
    answer = await site.get("/", headers={"X-Forwarded-Prefix": prefix})
    assert answer.headers["Location"] == "/status"


async def test_only_trusted_proxies_count(opener: Opener) -> None:
    site = await opener(trusted_proxies=["10.0.0.0/8"], people_token=PEOPLE)
    answer = await site.post("/login", data={"token": PEOPLE}, headers=FORWARDED)
    assert answer.headers["Location"] == "/status"
    assert "; Secure" not in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("chain", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("203.0.113.1, 192.0.2.7, 127.0.0.2", "192.0.2.7"),  # what comes first may be forged
        ("2001:db8::1", "2001:db8::1"),
        ("192.0.2.7:5678", "192.0.2.7"),
        ("[2001:db8::1]:5678", "2001:db8::1"),
        ("192.0.2.7, unknown", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
async def test_the_address_of_an_adapter_is_that_of_the_client(
    site: HttpHarness, chain: str, address: str
) -> None:
    adapter = ScriptedAdapter(site)
    adapter.headers = {"X-Forwarded-For": chain}
    await adapter.register()
    (known,) = site.lab.engine.pool
    assert known.program == f"nio at {address}"


CHROMIUM = shutil.which("chromium")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
EXAMPLE = Path(__file__).parents[3] / "docs" / "how-to" / "examples" / "nginx.conf"


@asynccontextmanager
async def nginx(folder: Path, lab: str) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """Run nginx with the example, in front of a lab; yield the URL of the lab there and who to trust."""
    assert NGINX is not None
    certificates = Certificates.create(folder)
    ports = PortPicker()
    port = ports.pick()
    text = EXAMPLE.read_text()
    for old, new in (
        ("server 127.0.0.1:5000;", f"server {lab.removeprefix('http://')};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/lab.example.org/fullchain.pem", str(certificates.certificate)),
        ("/etc/ssl/lab.example.org/privkey.pem", str(certificates.private_key)),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;"
        f"events {{}} http {{ access_log off; {temporary} include {folder}/site.conf; }}"
    )
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), stderr=asyncio.subprocess.PIPE
    )
    trust = ssl.create_default_context(cafile=str(certificates.authority))
    url = f"https://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as client:
            while process.returncode is None:
                try:
                    async with client.get(f"{url}/trafficlight/healthz", ssl=trust) as answer:
                        assert answer.status == 200
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)
        assert process.stderr is not None
        assert process.returncode is None, await process.stderr.read()
        yield f"{url}/trafficlight", trust
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        ports.release(port)


@pytest.mark.skipif(NGINX is None, reason="there is no nginx here")
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
async def test_a_browser_behind_the_nginx_of_the_documentation(opener: Opener, tmp_path: Path) -> None:
    site = await opener(people_token=PEOPLE)
    folder = tmp_path / "nginx"
    folder.mkdir()
    complaints: list[str] = []
    async with nginx(folder, site.url) as (url, trust), async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("response", lambda got: complaints.append(got.url) if got.status == 404 else None)
        await page.goto(url)
        await page.get_by_label("Token").fill(PEOPLE)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("h1")).to_have_text("No session has run yet")
        assert page.url == f"{url}/status"
        (cookie,) = await context.cookies()
        assert (cookie["secure"], cookie["path"]) == (True, "/trafficlight")
        # An adapter behind the same proxy.
        adapter = ScriptedAdapter(HttpHarness(url, site.lab, site.client, site.folder))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client:
            adapter.site.client = client
            await adapter.register()
            await expect(page.locator("#adapters")).to_contain_text("nio")
            session = await site.start("await alice.perform('one')")
            message = await adapter.action()
            await expect(page.locator("#list .badge")).to_have_text("running")
            await page.get_by_role("button", name="Drain all adapters").click()
            await page.get_by_role("button", name="Undrain").click()
            await expect(page.get_by_role("button", name="Drain all adapters")).to_be_visible()
            assert page.url == f"{url}/status/{session.id}"
            await adapter.upload("notes.txt", b"read me")
            await adapter.respond({"id": message["id"]})
            # The case runs in this loop, and takes what is begun here before its end for its own.
            await ended(session)
        # Over the event stream, without a reload.
        await expect(page.locator("#list .badge")).to_have_text("success")
        await page.locator(".line").click()
        await expect(page.locator("h1")).to_contain_text("alice=Type")
        await page.locator(".files").get_by_role("link", name="notes.txt").click()
        await expect(page.locator("#L1 span")).to_have_text("read me")
        await page.goto(f"{url}/status")
        await page.get_by_role("link", name="all sessions").first.click()
        await expect(page.locator("h1")).to_have_text("1 session")
        await browser.close()
    assert complaints == []
