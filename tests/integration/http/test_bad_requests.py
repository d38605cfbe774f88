"""No request causes a 500, and every refusal has the same form."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.http.conftest import Answer, HttpHarness, ScriptedAdapter

BODIES: list[tuple[bytes, str, int, str]] = [
    (b"", "application/json", 400, "malformed_json"),
    (b"{", "application/json", 400, "malformed_json"),
    (b"\xff\xfe", "application/json", 400, "malformed_json"),
    (b"[]", "application/json", 400, "not_an_object"),
    (b"null", "application/json", 400, "not_an_object"),
    (b"7", "application/json", 400, "not_an_object"),
    (b'"nio"', "application/json", 400, "not_an_object"),
    (b'{"x": NaN}', "application/json", 400, "malformed_json"),
    (b'{"x": -Infinity}', "application/json", 400, "malformed_json"),
    (b'{"x": 1e999}', "application/json", 400, "malformed_json"),
    (b'{"x": ' + b"9" * 5000 + b"}", "application/json", 400, "malformed_json"),
    (b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "application/json", 400, "malformed_json"),
    (b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}", "application/json", 400, "malformed_json"),
    (b"type=nio", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    (b"--b--", "multipart/form-data; boundary=b", 415, "unsupported_media_type"),
    (b"<x/>", "text/xml", 415, "unsupported_media_type"),
]
REGISTRATIONS: list[Any] = [
    {},
    {"type": None},
    {"type": ""},
    {"type": 7},
    {"type": ["nio"]},
    {"type": "x" * 201},
    {"type": "nio", "labels": "a"},
    {"type": "nio", "actions": [1]},
    {"type": "nio", "version": {}},
]


def refused(answer: Answer, status: int, code: str | None = None) -> str:
    """Check the one shape, and return the message."""
    assert answer.status == status, answer.text()
    assert answer.content_type == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert code is None or body["error"]["code"] == code
    return str(body["error"]["message"])


@pytest.fixture
async def adapter(site: HttpHarness) -> ScriptedAdapter:
    adapter = ScriptedAdapter(site)
    await adapter.register()
    return adapter


@pytest.mark.parametrize("endpoint", ["register", "respond", "error"])
@pytest.mark.parametrize(("body", "media_type", "status", "code"), BODIES)
async def test_bodies_that_are_no_json_objects(
    adapter: ScriptedAdapter, endpoint: str, body: bytes, media_type: str, status: int, code: str
) -> None:
    """Defects 7 and 17: lists, nulls and numbers were 500s, or 200s that stopped the scheduler."""
    headers = {"Content-Type": media_type}
    answer = await adapter.site.post(f"{adapter.path}/{endpoint}", data=body, headers=headers)
    refused(answer, status, code)


@pytest.mark.parametrize("body", REGISTRATIONS)
async def test_registrations_that_do_not_fit(site: HttpHarness, body: Any) -> None:
    """Defect 7: without a type it was answered 200, and no case ever started again."""
    answer = await site.post("/client/new/register", json=body)
    message = refused(answer, 400, "invalid_body")
    assert any(field in message for field in ("type", "labels", "actions", "version"))
    assert len(site.lab.engine.pool) == 0


@pytest.mark.parametrize("media_type", ["text/plain", "application/octet-stream", "application/vnd.x+json"])
async def test_json_without_its_content_type_is_json(site: HttpHarness, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    answer = await site.post("/client/new/register", data=b'{"type": "nio"}', headers=headers)
    assert answer.status == 200


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00x", "\\u0000", "\\u001b[31m", "a\\ud83d"])
async def test_texts_that_nothing_can_encode(site: HttpHarness, text: str) -> None:
    """Defect 28: a case page with a lone surrogate in an error text was a 500."""
    body = f'{{"type": "nio", "version": "{text}", "{text}": ["{text}"]}}'.encode()
    headers = {"Content-Type": "application/json"}
    answer = await site.post("/client/odd/register", data=body, headers=headers)
    assert answer.status == 200
    again = await site.post("/client/odd/register", data=body, headers=headers)
    assert again.status == 200
    report = f'{{"error": {{"details": "{text}", "path": "{text}"}}}}'.encode()
    assert (await site.post("/client/odd/error", data=report, headers=headers)).status == 200
    page = await site.get("/status")
    assert page.status == 200
    assert "odd" in page.text()


@pytest.mark.parametrize("uuid", ["a b", "%00", "é", "x" * 101, "%ff", "a%2e%2e%5c", "<b>", "%0d%0a"])
async def test_ids_that_are_none(site: HttpHarness, uuid: str) -> None:
    answer = await site.post(f"/client/{uuid}/register", json={"type": "nio"})
    refused(answer, 400, "invalid_uuid")


@pytest.mark.parametrize(
    "path", ["/client/a/b/register", "/client//register", "/client/..%2fx/poll", "/nope"]
)
async def test_paths_that_lead_nowhere(site: HttpHarness, path: str) -> None:
    refused(await site.get(path), 404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "NONSENSE"])
async def test_other_methods(adapter: ScriptedAdapter, method: str) -> None:
    for path, allowed in ((f"{adapter.path}/poll", "GET"), (f"{adapter.path}/respond", "POST")):
        answer = await adapter.site.ask(method, path)
        refused(answer, 405, "method_not_allowed")
        assert allowed in answer.headers["Allow"]


async def test_a_head_takes_no_action(adapter: ScriptedAdapter) -> None:
    answer = await adapter.site.ask("HEAD", f"{adapter.path}/poll")
    assert (answer.status, answer.body) == (405, b"")
    assert (await adapter.site.ask("HEAD", "/status")).status == 200


@pytest.mark.parametrize("wait", ["", "x", "-1", "nan", "-inf", "1;2", "0x10", "%ff", "%00"])
async def test_waits_that_are_none(adapter: ScriptedAdapter, wait: str) -> None:
    refused(await adapter.site.get(f"{adapter.path}/poll?wait={wait}"), 400, "invalid_wait")


@pytest.mark.parametrize(
    ("request_line", "headers"),
    [
        (b"GET /%zz/%ff%fe HTTP/1.1", b""),
        (b"GET /status/%c0%ae%c0%ae/files/x HTTP/1.1", b""),
        (b"GET /status?q=%ff&page=%00&state=%ed%a0%80 HTTP/1.1", b""),
        (b"GET /status HTTP/1.1", b"Cookie: \xff\xfe; trafficlight=\xff\r\n"),
        (b"GET /status HTTP/1.1", b"Accept: ;;q=x,,text/html;q=nan\r\n"),
        (b"GET /status HTTP/1.1", b'If-None-Match: W/"\r\n'),
        (b"GET /status HTTP/1.1", b"Authorization: Bearer \xff\xfe\r\n"),
        (b"POST /client/a/respond HTTP/1.1", b"Content-Length: -1\r\n"),
        (b"POST /client/a/respond HTTP/1.1", b"Content-Length: 1e9\r\n"),
        (b"GET /client/a/poll HTTP/1.1", b"X-Large: " + b"x" * 100_000 + b"\r\n"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1", b""),
        (b"GET \xff HTTP/1.1", b""),
        (b"\x00\x01\x02", b""),
    ],
)
async def test_raw_nonsense(site: HttpHarness, request_line: bytes, headers: bytes) -> None:
    address = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request_line + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + headers + b"\r\n")
    try:
        async with asyncio.timeout(60):
            answer = await reader.read()
    except ConnectionResetError:
        answer = b""  # more than the server reads
    writer.close()
    status = answer.split(b" ", 2)[1:2]
    assert not status or status[0] < b"500", answer[:200]
    assert (await site.get("/health")).status == 200


async def test_a_browser_gets_the_refusal_as_a_page(site: HttpHarness) -> None:
    headers = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = await site.get("/status/<script>/case/x", headers=headers)
    assert (answer.status, answer.content_type) == (404, "text/html")
    answer = await site.post("/client/nobody/error", headers=headers, json={})
    refused(answer, 404, "unknown_adapter")
