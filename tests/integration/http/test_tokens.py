"""Who may do what, where tokens are on, and that tokens stay where they belong."""

import logging
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.http.conftest import HttpHarness, Opener, ScriptedAdapter, ended
from trafficlight.http.local_token import LocalToken

SHARED = "shared-secret-of-adapters"
PEOPLE = "secret-of-people"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def registered(site: HttpHarness, uuid: str | None = None) -> ScriptedAdapter:
    adapter = ScriptedAdapter(site, uuid)
    adapter.headers = bearer(SHARED)
    adapter.headers = bearer((await adapter.register())["token"])
    return adapter


@pytest.mark.parametrize("given", [{}, bearer("wrong"), {"Authorization": "Basic eDp5"}, bearer("é\udcff")])
async def test_registering_asks_for_the_shared_token(opener: Opener, given: dict[str, str]) -> None:
    site = await opener(adapter_token=SHARED)
    answer = await site.post("/client/a/register", json={"type": "nio"}, headers=given)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["error"]["code"] == "unauthorized"
    assert len(site.lab.engine.pool) == 0


async def test_no_adapter_acts_for_another(opener: Opener) -> None:
    site = await opener(adapter_token=SHARED)
    alice, bob = await registered(site), await registered(site)
    assert alice.headers != bob.headers
    for headers in ({}, bearer(SHARED), bob.headers):
        for method, path in (("GET", "poll"), ("POST", "respond"), ("POST", "error"), ("POST", "upload")):
            answer = await site.ask(method, f"{alice.path}/{path}?wait=0", headers=headers)
            assert answer.status == 401, (headers, path)
    assert (await alice.poll(0))["action"] == "idle"


async def test_registering_again_does_not_tell_a_token_that_is_in_use(opener: Opener) -> None:
    site = await opener(adapter_token=SHARED)
    adapter = ScriptedAdapter(site)
    adapter.headers = bearer(SHARED)
    first = await adapter.register()
    assert await adapter.register() == first  # the answer may have been lost
    adapter.headers = bearer(first["token"])
    await adapter.poll(0)
    answer = await site.post(f"{adapter.path}/register", json={"type": "nio"}, headers=bearer(SHARED))
    assert answer.status == 401
    assert await adapter.register() == first


PRIVATE = ["/", "/status", "/status/latest", "/status/junit.xml", "/status/latest/files/events.jsonl"]
OPEN = ["/health", "/openapi.json", "/openapi", "/static/pages.css"]


@pytest.mark.parametrize("path", PRIVATE)
async def test_pages_and_results_ask_for_the_peoples_token(opener: Opener, path: str) -> None:
    """Defect 31: no authentication anywhere."""
    site = await opener(people_token=PEOPLE)
    await site.start("pass")
    for headers in ({}, bearer("wrong"), {"Cookie": "trafficlight=x"}, {"Cookie": f"trafficlight={PEOPLE}"}):
        answer = await site.get(path, headers=headers)
        assert answer.status == 401, headers
        assert answer.json()["error"]["code"] == "unauthorized"
    assert (await site.get(path, headers=bearer(PEOPLE))).status < 400


@pytest.mark.parametrize("path", OPEN)
async def test_what_everybody_may_see(opener: Opener, path: str) -> None:
    site = await opener(people_token=PEOPLE)
    assert (await site.get(path)).status == 200


async def test_a_person_logs_in(opener: Opener) -> None:
    site = await opener(people_token=PEOPLE)
    browser = {"Accept": "text/html"}
    answer = await site.get("/status?q=x", headers=browser)
    assert (answer.status, answer.content_type) == (401, "text/html")
    assert 'name="next" value="/status?q=x"' in answer.text()
    wrong = await site.post("/login", data={"token": "x", "next": "/status"}, headers=browser)
    assert (wrong.status, "Set-Cookie" in wrong.headers) == (401, False)
    answer = await site.post("/login", data={"token": PEOPLE, "next": "/status?q=x"})
    assert (answer.status, answer.headers["Location"]) == (303, "/status?q=x")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert PEOPLE not in cookie
    site.client.cookie_jar.clear()
    assert cookie.startswith(f"trafficlight-{urlsplit(site.url).port}=")
    sent = cookie.partition(";")[0]
    assert (await site.get("/status", headers={"Cookie": sent})).status == 200
    other = sent.replace(f"-{urlsplit(site.url).port}", "")  # as another lab's is called
    assert (await site.get("/status", headers={"Cookie": other})).status == 401


ELSEWHERE = ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", "", "/a\r\nX: y"]


@pytest.mark.parametrize("target", ELSEWHERE)
async def test_logging_in_leads_nowhere_else(opener: Opener, target: str) -> None:
    site = await opener(people_token=PEOPLE)
    answer = await site.post("/login", data={"token": PEOPLE, "next": target})
    assert (answer.status, answer.headers["Location"]) == (303, "/status")
    assert "X" not in answer.headers


@pytest.mark.parametrize("body", [b"\xff\xfe=&&&;;", b"token=" + b"x" * 20_000, b"a&" * 5000, b""])
async def test_forms_that_are_none(opener: Opener, body: bytes) -> None:
    site = await opener(people_token=PEOPLE)
    answer = await site.post("/login", data=body)
    assert answer.status in (400, 401, 413)
    assert set(answer.json()["error"]) == {"code", "message"}


def contents(folder: Path) -> list[str]:
    """Return what all files below a folder hold."""
    return [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]


async def test_tokens_stay_where_they_belong(
    opener: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site = await opener(adapter_token=SHARED, people_token=PEOPLE)
    adapter = await registered(site)
    session = await site.start("await alice.perform('one')\nassert False, 'no'")
    message = await adapter.action()
    await site.get(f"{adapter.path}/poll", headers=bearer("guess-" + SHARED))
    await site.post("/login", data={"token": PEOPLE})
    await adapter.respond({"id": message["id"]})
    await ended(session)
    own = adapter.headers["Authorization"].removeprefix("Bearer ")
    pages = [await site.get(path, headers=bearer(PEOPLE)) for path in (*PRIVATE[1:], "/openapi.json")]
    texts = [page.text() for page in pages] + [caplog.text]
    texts += contents(tmp_path)
    for token in (SHARED, PEOPLE, own):
        assert not any(token in text for text in texts)


@pytest.fixture
def guarded(site: HttpHarness, tmp_path: Path) -> HttpHarness:
    """A lab without tokens in its settings, as `trafficlight serve` runs it."""
    assert site.app is not None
    site.app.config["LOCAL_TOKEN"] = LocalToken(PEOPLE, tmp_path / "token")
    return site


@pytest.mark.parametrize("path", ["/api/sessions", "/api/sessions/latest/cancel", "/api/adapters/drain"])
async def test_changes_need_the_local_token(guarded: HttpHarness, tmp_path: Path, path: str) -> None:
    """Every user of the machine could run code as the coordinator's user."""
    for headers in ({}, bearer("wrong"), {"Cookie": "trafficlight=x"}):
        answer = await guarded.post(path, json={}, headers=headers)
        assert answer.status == 401
        assert str(tmp_path / "token") in answer.json()["error"]["message"]
    answer = await guarded.post(path, json={"reason": "x"}, headers=bearer(PEOPLE))
    assert answer.status != 401
    assert (await guarded.get("/status")).status == 200


CHANGES = ["/api/sessions", "/api/sessions/latest/cancel", "/api/adapters/drain", "/api/adapters/a/pause"]


@pytest.mark.parametrize("path", CHANGES)
async def test_a_cookie_only_reads(opener: Opener, path: str) -> None:
    """A browser sends it to every port of the host, where another user's program replayed it."""
    site = await opener(people_token=PEOPLE)
    await ScriptedAdapter(site, "a").register()
    await site.start("await alice.perform('one')")
    login = await site.post("/login", data={"token": PEOPLE}, headers={"Accept": "application/json"})
    assert (login.status, login.json()["next"]) == (200, "/status")
    site.client.cookie_jar.clear()
    cookie = login.headers["Set-Cookie"].partition(";")[0]
    value = cookie.partition("=")[2]
    assert (await site.get("/status", headers={"Cookie": cookie})).status == 200
    reason = {"reason": "x"}
    for headers in ({"Cookie": cookie}, bearer(value), {"Cookie": cookie, **bearer(value)}):
        assert (await site.post(path, json=reason, headers=headers)).status == 401, headers
    allowed = await site.post(path, json=reason, headers=bearer(login.json()["token"]))
    assert allowed.status != 401


async def test_a_person_logs_in_with_the_local_token(guarded: HttpHarness) -> None:
    script = {"Accept": "application/json"}
    assert (await guarded.post("/login", data={"token": "wrong"}, headers=script)).status == 401
    answer = await guarded.post("/login", data={"token": PEOPLE, "next": "//evil.example"}, headers=script)
    assert answer.json()["next"] == "/status"
    token = bearer(answer.json()["token"])
    assert (await guarded.post("/api/adapters/drain", json={"reason": "x"}, headers=token)).status == 200


async def test_run_takes_no_sessions(site: HttpHarness) -> None:
    assert site.app is not None
    await site.start("pass")
    site.app.config["SESSIONS"] = False
    for path in ("/api/sessions", "/api/sessions/latest/rerun-failed"):
        answer = await site.post(path, json={})
        assert (answer.status, answer.json()["error"]["code"]) == (403, "no_sessions")


@pytest.mark.parametrize(
    "path", ["/status", "/api/sessions/latest/events", "/client/a/poll", "/healthz", "/x"]
)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "[", "localhost.x"]
)
async def test_a_foreign_host_is_refused(site: HttpHarness, path: str, host: str) -> None:
    """A web page whose name was made to resolve to this machine read events and adapter ids."""
    answer = await site.get(path, headers={"Host": host})
    assert (answer.status, answer.json()["error"]["code"]) == (421, "unknown_host")


@pytest.mark.parametrize(
    "host", ["localhost:1", "LOCALHOST", "a.localhost", "127.0.0.1", "[::1]:5000", "10.0.2.2", "Lab"]
)
async def test_own_hosts_are_answered(opener: Opener, host: str) -> None:
    site = await opener(allowed_hosts=["lab"])
    assert (await site.get("/healthz", headers={"Host": host})).status == 200


async def test_any_host_can_be_allowed(opener: Opener) -> None:
    site = await opener(allowed_hosts="*")
    assert (await site.get("/healthz", headers={"Host": "lab.example"})).status == 200


async def test_another_sites_page_cannot_take_an_action(site: HttpHarness) -> None:
    """An image whose address was a poll took the adapter's action away."""
    answer = await site.get("/client/a/poll", headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status, answer.json()["error"]["code"]) == (403, "cross_site")


async def test_a_registration_is_repeated_from_its_address_only(opener: Opener) -> None:
    """The shared token was enough to learn the token of an adapter that had not polled yet."""
    site = await opener(adapter_token="shared", trusted_proxies=["127.0.0.1"])
    path, body = "/client/a/register", {"type": "nio"}
    first = await site.post(path, json=body, headers={**bearer("shared"), "X-Forwarded-For": "192.0.2.1"})
    again = await site.post(path, json=body, headers={**bearer("shared"), "X-Forwarded-For": "192.0.2.1"})
    assert first.json() == again.json()
    other = await site.post(path, json=body, headers={**bearer("shared"), "X-Forwarded-For": "192.0.2.2"})
    assert (other.status, "token" in other.json()) == (409, False)
