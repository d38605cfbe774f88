"""When to warn, and what a login proves."""

import time
from typing import Any

import pytest

from trafficlight.config import Settings
from trafficlight.http.security import constant_time_equal, is_login, login_of, warning_for

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


def test_a_login_does_not_tell_the_token() -> None:
    assert "secret" not in login_of("secret", 1e9, "read")
    assert login_of("secret", 1e9, "read") == login_of("secret", 1e9, "read")
    assert login_of("secret", 1e9, "read") != login_of("other", 1e9, "read")


def test_a_login_expires_and_is_of_one_process_and_for_one_use(monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 60
    login = login_of("secret", later, "read")
    assert is_login(login, "secret", "read")
    assert not is_login(login, "secret", "change")
    assert not is_login(login, "other", "read")
    assert not is_login(login_of("secret", time.time() - 1, "read"), "secret", "read")
    _, _, proof = login.partition(".")
    for forged in (f"{later + 60:.0f}.{proof}", proof, "", "x.y", "9" * 5000 + f".{proof}"):
        assert not is_login(forged, "secret", "read")
    monkeypatch.setattr("trafficlight.http.security._KEY", b"of another process")
    assert not is_login(login, "secret", "read")


@pytest.mark.parametrize("given", ["", "x", "é", "\ud800", "secret "])
def test_other_secrets_are_not_the_same(given: str) -> None:
    assert not constant_time_equal(given, "secret")
    assert constant_time_equal("secret", "secret")
