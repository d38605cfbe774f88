"""When to warn, and what a cookie tells."""

import time
from typing import Any

import pytest

from trafficlight.config import Settings
from trafficlight.http.security import constant_time_equal, cookie_of, is_cookie_of, warning_for

BOTH = {"adapter_token": "a", "people_token": "b"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST."])
def test_loopback_needs_no_warning(host: str) -> None:
    assert warning_for(Settings(host=host)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "lab.example", "localhost.example"])
@pytest.mark.parametrize(
    ("tokens", "missing"),
    [
        ({}, ["ADAPTER_TOKEN", "PEOPLE_TOKEN"]),
        ({"adapter_token": "a"}, ["PEOPLE_TOKEN"]),
        ({"people_token": "b"}, ["ADAPTER_TOKEN"]),
        (BOTH, []),
    ],
)
def test_others_do_without_tokens(host: str, tokens: dict[str, Any], missing: list[str]) -> None:
    warning = warning_for(Settings(host=host, **tokens))
    assert (warning is not None) == bool(missing)
    for key in ("ADAPTER_TOKEN", "PEOPLE_TOKEN"):
        assert (key in (warning or "")) == (key in missing)
    assert "\n" not in (warning or "")


def test_the_cookie_does_not_tell_the_token() -> None:
    assert "secret" not in cookie_of("secret", 1e9)
    assert cookie_of("secret", 1e9) == cookie_of("secret", 1e9) != cookie_of("other", 1e9)


def test_a_cookie_expires_and_is_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 60
    cookie = cookie_of("secret", later)
    assert is_cookie_of(cookie, "secret")
    assert not is_cookie_of(cookie, "other")
    assert not is_cookie_of(cookie_of("secret", time.time() - 1), "secret")
    _, _, proof = cookie.partition(".")
    for forged in (f"{later + 60:.0f}.{proof}", proof, "", "x.y", "9" * 5000 + f".{proof}"):
        assert not is_cookie_of(forged, "secret")
    monkeypatch.setattr("trafficlight.http.security._KEY", b"of another process")
    assert not is_cookie_of(cookie, "secret")


@pytest.mark.parametrize("given", ["", "x", "é", "\ud800", "secret "])
def test_other_secrets_are_not_the_same(given: str) -> None:
    assert not constant_time_equal(given, "secret")
    assert constant_time_equal("secret", "secret")
