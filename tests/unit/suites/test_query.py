"""The query language for cases, over what is known before a session."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from trafficlight.errors import UsageError
from trafficlight.suites.query import PLANNED, Field, Lookup, QueryError, parse, planned_values, quoted
from trafficlight.suites.selection import Selection

CASE = 'chat/send_test.py::Send[alice=Nio,bob=ElementWebStable,server=Dendrite(a.b="c"),size=7]'
FIELDS = {
    **PLANNED,
    "state": Field("", choices=("success", "expected failure")),
    "seconds": Field("", "number"),
    "msg": Field("", "text"),
}


def lookup(**values: Any) -> Lookup:
    """Return the values of CASE."""
    known: dict[str, list[Any]] = {"": [CASE], "id": [CASE]}
    roles = {"alice": "Nio", "bob": "ElementWebStable"}
    planned = planned_values(
        "chat/send_test.py::Send", "chat/send_test.py", roles, {"here": "Dendrite"}, {"size": 7, "on": True}
    )
    for name, value in planned:
        known.setdefault(name, []).append(value)
    known |= {name: [value] for name, value in values.items()}
    return known.get


@pytest.mark.parametrize(
    ("text", "means"),
    [
        # What expressions of -k have always meant.
        ("send", True),
        ("alice=nio and dendrite", True),
        ("alice=Nio and not Dendrite", False),
        ("Hydrogen or Dendrite", True),
        ("Hydrogen or Dendrite and Synapse", False),
        ("(Hydrogen or Dendrite) and Nio", True),
        ("not(Hydrogen or Synapse)", True),
        ("not not Nio", True),
        ('"alice=Nio,bob"', True),
        ("chat/send_test.py::Send[alice", True),
        ("android", False),
        ("__import__", False),
        # What is new.
        ("alice=Nio dendrite", True),
        ("alice=Nio android", False),
        ('"Dendrite(a.b="', True),
        (f"{CASE} or x", True),
        ("(Send)", True),
        ("send*size", True),
        ("bob:ElementWebStable", True),
        ("bob:elementweb*", True),
        ("bob:ElementWeb", False),
        ("not bob:Nio client:Nio", True),
        ("server:Dendrite here:D?ndrite", True),
        ("size:7 on:true", True),
        ("size:70", False),
        ("test:Send file:chat/*", True),
        ("id:size=7", True),
        ("state:success or state:failure*", True),
        ("state:expected-failure", False),
        ("seconds:>5 seconds:<=6.5 seconds:6.5", True),
        ("seconds:>=7", False),
        ('msg:"says \\"hi\\""', True),
    ],
)
def test_what_a_query_means(text: str, *, means: bool) -> None:
    values = lookup(state="success", seconds=6.5, msg='alice: she says "hi" twice')
    known = {**FIELDS, "state": Field("", choices=("success", "failure", "expected failure"))}
    assert parse(text, known).matches(values) is means


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, 'a word, "text in quotes", name:value or ('),
        ("and", 0, "a word"),
        ("a and and b", 6, "a word"),
        ("a or", 4, "a word"),
        ("not", 3, "a word"),
        ("()", 1, "a word"),
        ("(a", 2, "expected )"),
        ("a(b", 3, "expected )"),
        ("a)", 1, "no parenthesis is open"),
        ('a "b', 2, "a second quotation mark"),
        ("alice:", 6, 'a word or "text in quotes"'),
        ("bob: Nio", 4, 'a word or "text in quotes"'),
        ("a seconds:>soon", 11, "a number, as in seconds:>5"),
        ("state:succes", 6, "one of success, expected failure"),
        ("(" * 60 + "a", 50, "at most 50"),
    ],
)
def test_an_error_says_where_and_what_was_expected(text: str, position: int, expected: str) -> None:
    with pytest.raises(QueryError, match=f"column {position + 1}: ") as caught:
        parse(text, FIELDS)
    assert caught.value.position == position
    assert expected in caught.value.problem


def test_a_name_that_no_case_has_is_an_error_and_a_word_with_a_colon_is_none() -> None:
    values = lookup()
    assert parse("carol:Nio or send").select([1], lambda _: values) == [1]
    assert parse("bob:Cinny").select([1], lambda _: values) == []
    assert parse("carol:Nio").select([], lambda _: values) == []
    with pytest.raises(QueryError, match=r"column 6: carol is no role or parameter of these cases.*client"):
        parse("send carol:Nio").select([1], lambda _: values)
    written: Lookup = {"": ["a_test.py::A[at=12:30]"]}.get
    assert parse("at=12:30").select([1], lambda _: written) == [1]
    assert parse("t:30").select([1], lambda _: {"": ["a_test.py::A[t:30]"]}.get) == [1]


@given(some.text(alphabet=string.ascii_letters + string.punctuation + " ä\n", max_size=60))
def test_any_text_is_a_query_or_an_error_within_it(text: str) -> None:
    position = 0
    try:
        parse(text, FIELDS).matches(lookup(state="success", seconds=1.0, msg=""))
    except QueryError as error:
        position = error.position
    assert 0 <= position <= len(text)


@given(some.text(min_size=1), some.text(min_size=1))
def test_a_value_can_be_written_so_that_it_means_itself(value: str, other: str) -> None:
    query = parse(quoted("x", value))
    assert query.matches({"x": [value]}.get)
    if not set("*?") & set(value) and other.casefold() != value.casefold():
        assert not query.matches({"x": [other], "": [""]}.get)


def test_many_wildcards_cost_little() -> None:
    assert not parse("x:" + "*a" * 90).matches({"x": ["a" * 5_000 + "b"]}.get)


def test_a_selection_refuses_a_malformed_query() -> None:
    with pytest.raises(UsageError, match=r"'\(a', column 3: expected \)"):
        Selection(keyword="(a")
