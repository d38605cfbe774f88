"""Expressions over case ids."""

import pytest

from trafficlight.errors import UsageError
from trafficlight.suites.selection import read_expression

CASE = "chat/send_test.py::Send[alice=Nio,bob=ElementWebStable,server=Dendrite]"


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("send", True),
        ("alice=Nio", True),
        ("alice=nio and dendrite", True),
        ("alice=Nio and not Dendrite", False),
        ("Hydrogen or Dendrite", True),
        ("Hydrogen or Dendrite and Synapse", False),
        ("(Hydrogen or Dendrite) and Nio", True),
        ("not (Hydrogen or Synapse)", True),
        ("not not Nio", True),
        ('"alice=Nio,bob"', True),
        ("chat/send_test.py::Send[alice", True),
        ("android", False),
    ],
)
def test_words_are_parts_of_the_id(text: str, *, means: bool) -> None:
    assert read_expression(text)(CASE) is means


@pytest.mark.parametrize("text", ["", "and", "a b", "(a", "a)", "not", "a or", '"a', "()", "a and and b"])
def test_a_malformed_expression_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-k"):
        read_expression(text)


def test_nothing_is_evaluated() -> None:
    assert read_expression("__import__")("a__import__b")
    with pytest.raises(UsageError):
        read_expression("f(1)(2)")
