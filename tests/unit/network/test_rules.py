"""Which requests a rule matches."""

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trafficlight.network.rules import Matcher

parts = st.lists(st.text("abcXYZ019._~!:$-", min_size=1, max_size=6), min_size=1, max_size=6)


@given(parts, st.data())
def test_a_path_matches_where_it_contains_the_parts(path: list[str], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(path) - 1))
    end = data.draw(st.integers(begin + 1, len(path)))
    wanted = "/" + "/".join(path[begin:end])
    for written in (wanted, wanted + "/"):
        assert Matcher(written).matches("GET", "/" + "/".join(path) + "?access_token=x")


@given(parts, parts)
def test_parts_match_whole(path: list[str], wanted: list[str]) -> None:
    joined = [path[i : i + len(wanted)] for i in range(len(path))]
    assert Matcher("/" + "/".join(wanted)).matches("GET", "/" + "/".join(path)) == (wanted in joined)


@given(parts, st.text("abc*?[]()", min_size=1))
def test_any_text_is_a_path_or_refused(path: list[str], wanted: str) -> None:
    try:
        matcher = Matcher(wanted)
    except ValueError:
        assert not wanted.startswith("/") or "?" in wanted
    else:
        matcher.matches("GET", "/" + "/".join(path))


@pytest.mark.parametrize(
    ("wanted", "target", "matches"),
    [
        ("/keys/query", "/_matrix/client/v3/keys/query", True),
        ("/keys/query", "/_matrix/client/v3/keys/query/more", True),
        ("/keys/query", "/_matrix/client/v3/keys/queryx", False),
        ("/sync", "/_matrix/client/v3/sync?since=s1", True),
        ("/send/m.room.encrypted/*", "/rooms/!r:hs/send/m.room.encrypted/m1", True),
        ("/send/*/*", "/rooms/!r:hs/send/m.room.encrypted", False),
        ("/send", "/_matrix/client/v3/sendToDevice/m.room.encrypted/1", False),
        ("/sync", "//[", False),
    ],
)
def test_paths(wanted: str, target: str, matches: bool) -> None:
    assert Matcher(wanted).matches("GET", target) is matches


def test_preflights_match_only_by_their_method() -> None:
    assert not Matcher("/sync").matches("OPTIONS", "/sync")
    assert Matcher("/sync", "OPTIONS").matches("OPTIONS", "/sync")
    assert not Matcher("/sync", "PUT").matches("GET", "/sync")


def test_a_regular_expression_is_searched() -> None:
    assert Matcher(r"/send/m\.room\.(message|encrypted)/", pattern=True).matches(
        "PUT", "/a/send/m.room.message/1"
    )


def test_a_query_must_have_the_parameters() -> None:
    matcher = Matcher("/sync", query={"since": "s*", "set_presence": "offline"})
    assert matcher.matches("GET", "/sync?set_presence=offline&since=s12&timeout=3")
    assert not matcher.matches("GET", "/sync?since=s12")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4), st.data())
def test_a_body_must_contain_what_is_asked_for(body: dict[str, object], data: st.DataObject) -> None:
    content = json.dumps(body).encode()
    names = data.draw(st.sets(st.sampled_from(sorted(body)))) if body else set()
    assert Matcher("/", body={name: body[name] for name in names}).matches_body(content)
    other = data.draw(st.text(min_size=4, max_size=5))
    assume(other not in body)
    assert not Matcher("/", body={other: 1}).matches_body(content)


@pytest.mark.parametrize("content", [b"", b"no JSON", b"\xff", b"[" * 100_000, b"[1]", b"1"])
def test_a_body_that_is_no_object_does_not_match(content: bytes) -> None:
    assert not Matcher("/", body={"a": 1}).matches_body(content)
    assert Matcher("/").matches_body(content)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"path": "https://hs/sync"}, "begins with a slash, without a host"),
        ({"path": "//hs/sync"}, "begins with a slash, without a host"),
        ({"path": "http://hs/sync", "pattern": True}, "is searched in the path, without a host"),
        ({"path": "sync"}, "begins with a slash"),
        ({"path": "/sync?since=1"}, "use query="),
        ({"path": "/sync", "method": "FETCH"}, "'FETCH' is not a method; there are GET,"),
        ({"path": "(", "pattern": True}, "is not a regular expression: "),
    ],
)
def test_what_can_never_match_is_refused(arguments: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        Matcher(**arguments)  # type: ignore[arg-type]
