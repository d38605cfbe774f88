"""The recording of a client's requests, as an HTTP archive (HAR 1.2) that browsers' developer tools open."""

import json
import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from trafficlight.network.http1 import Head, decoded
from trafficlight.version import VERSION

BODY_LIMIT = 32 << 10
"""Bytes of a body that a recording keeps."""

RECORDING_LIMIT = 64 << 20
"""Bytes of a recording, which is read as a whole: a client may repeat a request without end."""

_TEXT = re.compile(r"json|text|xml|javascript|urlencoded")
_NAMES = r"access_token|refresh_token|login_token|loginToken|token|password|new_password|client_secret"
# Every name has one of these; most texts have none, and to find that out takes no expression.
_HINTS = re.compile("oken|password|secret")
_SECRET_JSON = re.compile(rf'("(?:{_NAMES})"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|\\?$)')
_SECRET_QUERY = re.compile(rf"((?:^|[?&])(?:{_NAMES})=)[^&#\s]*")
_SECRET_HEADERS = frozenset({"authorization", "cookie", "set-cookie", "proxy-authorization"})
_MASK = "***"
_TAIL, _CUT = b"\n]}}\n", b'\n],"comment":"what follows was too much to keep"}}\n'


def masked(text: str) -> str:
    """Return a text without the values of secret query parameters."""
    return _SECRET_QUERY.sub(rf"\1{_MASK}", text) if _HINTS.search(text) else text


class Recording:
    """A file that is a complete archive after every entry. Its methods block."""

    def __init__(self, path: Path) -> None:
        creator = {"name": "trafficlight", "version": VERSION}
        head = {"version": "1.2", "creator": creator, "pages": []}
        begun = path.with_name(f".{path.name}")  # so that the file is complete from its beginning
        self._file = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._end, self._separator, self._tail = 0, b"\n", _TAIL
        try:
            self._write(b'{"log":' + json.dumps(head).encode()[:-1] + b',"entries":[')
            begun.replace(path)
        except OSError:
            self.close()
            begun.unlink(missing_ok=True)
            raise

    def add(self, entries: Iterable[Callable[[], dict[str, Any]]]) -> None:
        """Append entries, which are made here, until there is no room for one."""
        for entry in entries:
            if self._tail is _CUT:
                return
            content = self._separator + json.dumps(entry(), ensure_ascii=False).encode()
            if self._end + len(content) + len(_CUT) > RECORDING_LIMIT:
                content, self._tail = b"", _CUT
            self._separator = b",\n"
            self._write(content)

    def _write(self, content: bytes) -> None:
        """Append with the end in one write, so that a process that is killed leaves a complete file."""
        os.pwrite(self._file, content + self._tail, self._end)
        self._end += len(content)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Body:
    """The beginning of a body, as it passes."""

    def __init__(self) -> None:
        self.size = 0
        self.kept = bytearray()

    def add(self, part: bytes) -> None:
        """Count a part, and keep it while there is room."""
        self.size += len(part)
        self.kept += part[: max(0, BODY_LIMIT - len(self.kept))]


def entry(
    url: str,
    request: Head,
    request_body: Body,
    response: Head | None,
    response_body: Body,
    *,
    began: datetime,
    waited: float,
    received: float,
    comment: str,
) -> dict[str, Any]:
    """Return an exchange as an entry of an archive.

    :param url: the base URL that the client was given.
    :param response: None if there was none.
    :param began: when the request arrived, UTC.
    :param waited: seconds until the head of the response.
    :param received: seconds from then to its end.
    :param comment: what a test did to it; empty if nothing.
    """
    target = masked(request.target)
    status, reason = (response.status, response.start[2]) if response is not None else (0, "")
    sent: dict[str, Any] = {
        "method": request.method,
        "url": url + target,
        "httpVersion": request.start[2],
        "headers": _headers(request),
        "queryString": [
            {"name": name, "value": value}
            for name, value in parse_qsl(urlsplit(target).query, keep_blank_values=True)
        ],
        "cookies": [],
        "headersSize": len(request.raw),
        "bodySize": request_body.size,
    }
    if request_body.size:
        sent["postData"] = {"mimeType": request.get("content-type") or "", **_text(request, request_body)}
    mime = (response and response.get("content-type")) or ""
    content = {"size": response_body.size, "mimeType": mime}
    if response is not None and response_body.size:
        content |= _text(response, response_body)
    return {
        "startedDateTime": began.isoformat(),
        "time": round(1000 * (waited + received), 3),
        "request": sent,
        "response": {
            "status": status,
            "statusText": reason,
            "httpVersion": response.start[0] if response is not None else "",
            "headers": _headers(response) if response is not None else [],
            "cookies": [],
            "content": content,
            "redirectURL": masked((response and response.get("location")) or ""),
            "headersSize": len(response.raw) if response is not None else -1,
            "bodySize": response_body.size if response is not None else -1,
        },
        "cache": {},
        "timings": {"send": 0, "wait": round(1000 * waited, 3), "receive": round(1000 * received, 3)},
        **({"comment": comment} if comment else {}),
    }


def _headers(head: Head) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "value": _MASK if name.lower() in _SECRET_HEADERS else masked(value),
        }
        for name, value in head.headers
    ]


def _text(head: Head, body: Body) -> dict[str, str]:
    """Return what a recording keeps of a body: text only, with its secrets masked."""
    if not _TEXT.search(head.get("content-type") or "application/json"):
        return {"text": "", "comment": "not a text"}
    content = decoded(bytes(body.kept), head.get("content-encoding") or "", BODY_LIMIT)
    text = content.decode(errors="replace")
    shown = _SECRET_JSON.sub(rf'\1"{_MASK}"', masked(text)) if _HINTS.search(text) else text
    cut = {"comment": f"the first {BODY_LIMIT:,} bytes"} if body.size > len(body.kept) else {}
    return {"text": shown, **cut}
