"""Reports a session to a web service: one POST of JSON for its start, each verdict, and its end."""

import json
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any

from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import SessionSummary
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.json_files import case_json

_EVENTS = ("session_started", "case_ended", "session_ended")
_TIMELINE = ("timeline", "timeline_left_out")  # long, and in report.json


class WebhookReporter:
    """A reporter that posts ``{"event": ..., "session": ..., "case": ...}``.

    :param url: an ``http://`` or ``https://`` URL.
    :param token: the bearer token to send, if any.
    :param events: which of `session_started`, `case_ended`, `session_ended` to post.
    :param timeout: seconds per POST.
    :raises ValueError: the URL has another scheme, or an event is unknown.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        events: Collection[str] = _EVENTS,
        timeout: float = 10.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, not {url!r}")
        if unknown := sorted(set(events) - set(_EVENTS)):
            raise ValueError(f"unknown events {unknown}; available: {list(_EVENTS)}")
        self._url = url
        self._token = token
        self._events = frozenset(events)
        self._timeout = timeout
        self._session = ""

    def session_started(self, record: SessionRecord) -> None:
        """Post the session's description."""
        self._session = record.id
        self._post("session_started", session=_session(record))

    def case_ended(self, case: CaseRecord) -> None:
        """Post a verdict."""
        content = case_json(case)
        for attempt in content["attempts"]:
            for key in _TIMELINE:
                del attempt[key]
        self._post("case_ended", session={"id": self._session}, case=content)

    def session_ended(self, record: SessionRecord) -> None:
        """Post the session's description with its counts."""
        self._post("session_ended", session=_session(record))

    def _post(self, event: str, **content: Any) -> None:
        if event not in self._events:
            return
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = json.dumps({"event": event, **content}, default=str).encode("ascii")
        # The constructor has checked the scheme.
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                response.read(1)
        except urllib.error.HTTPError as error:
            error.close()  # the error is the response, and holds its connection
            raise


def _session(record: SessionRecord) -> dict[str, Any]:
    content = SessionSummary.of(record).as_json()
    del content["configuration"]  # private to the lab
    return content
