"""The signature of a failure: equal for one cause, different for two."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.results.signature import signature

_NAME = st.from_regex(r"[a-z][a-z0-9._=-]{0,12}", fullmatch=True)
_HOST = st.sampled_from(["localhost:{}", "127.0.0.1:{}", "hs1.example.org", "[::1]:{}"]).flatmap(
    lambda form: st.integers(1, 65535).map(form.format)
)
_KEY = st.text("ABCXYZabcxyz0189-_", min_size=43, max_size=43)
_HEX = st.text("0123456789abcdef", min_size=12, max_size=12).map(lambda text: f"1a{text}")

# Each message is said of two values that have nothing to do with each other.
_VARYING: dict[str, tuple[st.SearchStrategy[object], Callable[[object], str]]] = {
    "number": (st.integers(0), lambda n: f"bob: expected {n} messages, shown: 'Hello'"),
    "seconds": (st.floats(0, 1e6), lambda s: f"alice: send_message did not answer within {s} s"),
    "user": (st.tuples(_NAME, _HOST), lambda u: f"@{u[0]}:{u[1]} is not in the room"),  # type: ignore[index]
    "room": (st.tuples(_NAME, _HOST), lambda r: f"bob cannot join !{r[0]}:{r[1]}: M_FORBIDDEN"),  # type: ignore[index]
    "room without a server": (_KEY, lambda r: f"bob cannot join !{r}: M_FORBIDDEN"),
    "event": (_KEY, lambda e: f"event ${e} did not arrive"),
    "url": (_HOST, lambda h: f"PUT http://{h}/_matrix/client/v3/sync: 502"),
    "uuid": (st.uuids(), lambda u: f"adapter {u} exited (signal 9)"),
    "digest": (_HEX, lambda h: f"message {h} is undecryptable"),
    "time": (st.datetimes(), lambda t: f"nothing since {t.isoformat()}Z"),  # type: ignore[attr-defined]
    "directory": (_NAME, lambda d: f"FileNotFoundError: '/tmp/{d}/run/config.json'"),
}


@pytest.mark.parametrize("what", _VARYING)
def test_what_differs_from_run_to_run_is_not_in_it(what: str) -> None:
    values, message = _VARYING[what]

    @given(values, values)
    def check(one: object, other: object) -> None:
        assert signature(message(one)) == signature(message(other))

    check()


@given(st.text(max_size=400) | st.text("@:!$#%/<>.-ABCDEFGHIJabc0123 ", max_size=80))
def test_it_is_one_short_line_without_digits_and_its_own_signature(message: str) -> None:
    found = signature(message)

    assert signature(found) == found
    assert len(found) <= 200
    assert len(found.splitlines()) <= 1
    assert not any(letter in "0123456789" for letter in found)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ""),
        ("lost; the coordinator stood still for 3 s; here exited", "lost; here exited"),
        ("\n\n  bob:  no\tmessage \nTraceback", "bob: no message"),
        (
            "called off, because the case lost its homeserver; here had ended (signal 9)",
            "called off, because the case lost its homeserver; here had ended (signal <n>)",
        ),
        (
            "the timeline of 1 ends with: undecryptable message by @bob-3:localhost:40123",
            "the timeline of <n> ends with: undecryptable message by <user>",
        ),
        ("PUT http://127.0.0.1:80/sync: M_UNKNOWN", "PUT http://<server>/sync: M_UNKNOWN"),
        ("no such file: '/tmp/lab-x/suite/hello_test.py'", "no such file: '<path>/hello_test.py'"),
        ("device QBUAZIFURK of alice is not verified", "device <id> of alice is not verified"),
    ],
)
def test_the_words_stay(message: str, expected: str) -> None:
    assert signature(message) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("AttributeError: no attribute 'send_mesage'", "AttributeError: no attribute 'verify_message'"),
        ("alice: send_message: M_FORBIDDEN", "bob: send_message: M_FORBIDDEN"),
        ("bob: expected 'Hello Alice'", "bob: expected 'Dear diary'"),
        ("GET http://localhost:80/sync: timeout", "GET http://localhost:80/keys/upload: timeout"),
    ],
)
def test_different_causes_differ(one: str, other: str) -> None:
    assert signature(one) != signature(other)


def test_a_very_long_message_costs_little() -> None:
    # Quadratic patterns would take minutes.
    for part in ("a1", "@a:", "/tmp/", "%21", "-", "1.", "A0", "!a.", "0x"):
        assert len(signature(part * 500_000)) <= 200
