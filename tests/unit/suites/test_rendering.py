"""Values and names in case ids."""

import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.suites.rendering import render_name, render_value


class Colour(enum.StrEnum):
    RED = "red"


class Plain:
    pass


@pytest.mark.parametrize(
    ("value", "rendered"),
    [
        (10, "10"),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        ("word", "word"),
        ("größe-2", "größe-2"),
        ("True", '"True"'),
        ("10", '"10"'),
        ("", '""'),
        ("a,b]", '"a,b]"'),
        ('say "x"', r'"say \"x\""'),
        ("\x07\u202e\ud800", r'"\u0007\u202e\ud800"'),
        ([1, "a"], "[1,a]"),
        ((1,), "(1)"),
        ({"b": 1, "a": [2]}, "{a:[2],b:1}"),
        ({2, 1}, "set{1,2}"),
        (Colour.RED, "<Colour.RED>"),
        (Plain, "<Plain>"),
        (Plain(), "<Plain>"),
        (b"x", "<\"b'x'\">"),
    ],
)
def test_a_value_stands_as_one_would_write_it(value: Any, rendered: str) -> None:
    assert render_value(value) == rendered


def test_long_values_are_cut_and_stay_different() -> None:
    one, other = render_value("a" * 1000), render_value("a" * 1001)
    assert one != other
    assert len(one) < 100
    assert one.startswith("<aaa")


def test_a_number_that_python_refuses_to_print() -> None:
    assert len(render_value(10**5000)) < 100


@pytest.mark.parametrize("name", ["Nio", "Nio(version>=0.26,<1)", "Synapse-1.98.0", "Nio(labels=a+b)"])
def test_names_of_types_stand_as_they_are(name: str) -> None:
    assert render_name(name) == name


@pytest.mark.parametrize("name", ["", "a,b", "a]", "a(", "a)(", 'a"', " a", "a\nb"])
def test_names_that_could_be_misread_are_quoted(name: str) -> None:
    assert render_name(name).startswith('"')


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(values)
def test_what_is_rendered_prints_on_one_line(value: Any) -> None:
    rendered = render_value(value)
    assert rendered
    assert rendered.isprintable()
    rendered.encode("utf-8")


@given(st.text(), st.text())
def test_different_texts_are_rendered_differently(one: str, other: str) -> None:
    assert (render_value(one) == render_value(other)) == (one == other)
