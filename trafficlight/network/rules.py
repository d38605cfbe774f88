"""Which requests a rule is for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MESSAGE_LIMIT = 128 << 20
"""Bytes of a line between a case and the proxy."""

SOURCE = "127.0.0.2"
"""The address from which the proxy asks homeservers on this machine: their logs tell what came through it.

All of 127.0.0.0/8 is this machine on Linux; elsewhere it has the usual address.
"""

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Matcher:
    """What a request must be like.

    :param path: parts of the path, with their slashes: ``/keys/query`` is anywhere in it, whole parts only;
        ``*`` stands for any characters of one part.
    :param method: the method; empty for any but OPTIONS, which browsers send ahead of requests.
    :param pattern: whether `path` is a regular expression that must be found in the path, instead.
    :param query: parameters that the request must have, with ``*`` in their values for any characters.
    :param body: what its body, as JSON, must contain.
    """

    path: str
    method: str = ""
    pattern: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method and self.method not in METHODS:
            raise ValueError(f"{self.method!r} is not a method; there are {', '.join(METHODS)}")
        if self.pattern:
            try:
                re.compile(self.path)
            except re.error as error:
                raise ValueError(f"{self.path!r} is not a regular expression: {error}") from None
            if "://" in self.path:
                raise ValueError(f"{self.path!r} matches nothing: it is searched in the path, without a host")
        elif not self.path.startswith("/") or self.path.startswith("//"):
            raise ValueError(f"{self.path!r} matches nothing: a path begins with a slash, without a host")
        elif "?" in self.path:
            raise ValueError(f"{self.path!r} matches nothing: what follows ? is not in the path; use query=")

    def __str__(self) -> str:
        return f"{self.method} {self.path}".strip()

    def matches(self, method: str, target: str) -> bool:
        """Return whether a request matches, as far as its head says."""
        if method != self.method and (self.method or method == "OPTIONS"):
            return False
        try:
            url = urlsplit(target)
        except ValueError:
            return False
        sent = dict(parse_qsl(url.query, keep_blank_values=True))
        if not all(name in sent and fnmatchcase(sent[name], value) for name, value in self.query.items()):
            return False
        if self.pattern:
            return re.search(self.path, url.path) is not None
        wanted, parts = self.path.strip("/").split("/"), url.path.strip("/").split("/")
        return any(
            all(fnmatchcase(part, glob) for part, glob in zip(parts[start:], wanted, strict=False))
            for start in range(len(parts) - len(wanted) + 1)
        )

    def matches_body(self, content: bytes) -> bool:
        """Return whether the body of a request matches."""
        if not self.body:
            return True
        try:
            return _contains(json.loads(content), self.body)
        except (ValueError, RecursionError):
            return False


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            name in found and _contains(found[name], value) for name, value in wanted.items()
        )
    return bool(found == wanted)
