"""Recordings open in developer tools, and have no secrets."""

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.network import har
from trafficlight.network.har import BODY_LIMIT, Body, Recording, entry
from trafficlight.network.http1 import parse_head

SECRET = "syt_TGllc2NoZW4_secret"


def _body(content: bytes) -> Body:
    body = Body()
    body.add(content)
    return body


def _entry(
    request: bytes, sent: bytes = b"", answer: bytes | None = None, received: bytes = b""
) -> dict[str, Any]:
    return entry(
        "http://127.0.0.1:1",
        parse_head(request),
        _body(sent),
        parse_head(answer) if answer is not None else None,
        _body(received),
        began=datetime(2026, 1, 1, tzinfo=UTC),
        waited=0.25,
        received=0.5,
        comment="",
    )


@pytest.mark.parametrize(
    "name",
    ["access_token", "client_secret", "loginToken", "new_password", "password", "refresh_token", "token"],
)
@given(before=st.text(max_size=30), cut=st.integers(0, 120), space=st.sampled_from(["", " ", "\n"]))
def test_secrets_are_masked_wherever_a_body_is_cut(name: str, before: str, cut: int, space: str) -> None:
    content = (
        json.dumps({"before": before, "auth": {name: SECRET + '"\\'}})
        .replace(": ", ":" + space)
        .encode()[:cut]
    )
    made = _entry(b"POST /login HTTP/1.1\r\n\r\n", content, b"HTTP/1.1 200 OK\r\n\r\n", content)
    assert SECRET[:5] not in json.dumps(made)


def test_secrets_in_headers_and_queries_are_masked() -> None:
    made = _entry(
        f"GET /sync?access_token={SECRET}&since=1&loginToken={SECRET} HTTP/1.1\r\n"
        f"Authorization: Bearer {SECRET}\r\n"
        f"cookie: {SECRET}\r\n\r\n".encode(),
        answer=f"HTTP/1.1 302 Found\r\nSet-Cookie: {SECRET}\r\n"
        f"Location: /?loginToken={SECRET}\r\n\r\n".encode(),
    )
    assert SECRET not in json.dumps(made)
    assert made["request"]["url"] == "http://127.0.0.1:1/sync?access_token=***&since=1&loginToken=***"


def test_a_body_is_cut() -> None:
    text = b"a" * BODY_LIMIT
    made = _entry(b"PUT / HTTP/1.1\r\nContent-Type: text/plain\r\n\r\n", text + b"b")
    assert made["request"]["bodySize"] == BODY_LIMIT + 1
    assert made["request"]["postData"]["text"] == text.decode()
    assert made["request"]["postData"]["comment"] == f"the first {BODY_LIMIT:,} bytes"


def test_images_are_not_kept() -> None:
    made = _entry(
        b"GET / HTTP/1.1\r\n\r\n",
        answer=b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n",
        received=b"\x89PNG",
    )
    assert made["response"]["content"] == {
        "size": 4,
        "mimeType": "image/png",
        "text": "",
        "comment": "not a text",
    }


def test_a_request_without_an_answer() -> None:
    made = _entry(b"GET / HTTP/1.1\r\n\r\n")
    assert made["response"]["status"] == 0
    assert made["time"] == 750


def test_a_recording_is_complete_after_every_entry(tmp_path: Path) -> None:
    path = tmp_path / "network.har"
    recording = Recording(path)
    for number in range(4):
        found = json.loads(path.read_bytes())["log"]
        assert found["version"] == "1.2"
        assert [one["number"] for one in found["entries"]] == list(range(number))
        recording.add([partial(dict, number=number)])
    recording.close()


def test_a_recording_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(har, "RECORDING_LIMIT", 400)
    recording = Recording(tmp_path / "long.har")
    for number in range(100):
        recording.add([partial(dict, number=number)])
    recording.close()

    content = (tmp_path / "long.har").read_bytes()
    assert len(content) <= 400
    log = json.loads(content)["log"]
    assert log["comment"] == "what follows was too much to keep"
    assert [one["number"] for one in log["entries"]] == list(range(len(log["entries"])))
    assert 0 < len(log["entries"]) < 100
