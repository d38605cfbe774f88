"""Texts for people: truncation, problems of values, masked passwords."""

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trafficlight.text import first_problem, truncate, without_credentials


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=50))
def test_short_text_is_unchanged(text: str) -> None:
    assert truncate(text, 50) == text


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=300))
def test_the_result_is_short_and_can_be_encoded(text: str) -> None:
    assert len(truncate(text, 100).encode()) <= 4 * (100 + 50)


def test_the_end_of_a_long_text_is_kept() -> None:
    assert truncate("a" * 900 + "b" * 100, 100) == (
        "a" * 75 + "\n[... 900 characters left out ...]\n" + "b" * 25
    )


def test_a_lone_surrogate_is_replaced() -> None:
    assert truncate("a \ud800 b", 100) == "a ? b"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1)] = "x"
    number: float = 1
    word: Literal["a", "b"] = "a"
    inside: "list[_Model]" = []


@pytest.mark.parametrize(
    ("value", "where", "problem"),
    [
        (["x"], "", "must be an object"),
        ({"text": 1}, "text", "must be text"),
        ({"text": ""}, "text", "must have at least 1 character"),
        ({"number": "x"}, "number", "must be a number"),
        ({"word": "c"}, "word", "must be 'a' or 'b'"),
        ({"inside": {}}, "inside", "must be a list"),
        ({"inside": [{"other": 1}]}, "inside.0.other", "is not known"),
    ],
)
def test_problems_are_told_in_plain_words(value: Any, where: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Model.model_validate(value)
    assert first_problem(caught.value) == (where, problem)


def test_credentials_in_urls_are_masked() -> None:
    assert (
        without_credentials("tcp://me:secret@host:1/a@b, http://host/")
        == "tcp://***@host:1/a@b, http://host/"
    )
    assert without_credentials("mail me@here") == "mail me@here"
