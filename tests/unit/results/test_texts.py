"""Texts of tests in a form that every report can hold."""

from hypothesis import given
from hypothesis import strategies as st

from trafficlight.results.texts import truncate


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=50))
def test_what_is_short_and_sound_stays_as_it_is(text: str) -> None:
    assert truncate(text, 50) == text


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=300))
def test_everything_can_be_encoded_and_is_short(text: str) -> None:
    assert len(truncate(text, 100).encode()) <= 4 * (100 + 50)


def test_the_end_of_a_long_one_is_kept() -> None:
    assert truncate("a" * 900 + "b" * 100, 100) == (
        "a" * 75 + "\n[... 900 characters left out ...]\n" + "b" * 25
    )


def test_half_a_character_is_replaced() -> None:
    assert truncate("a \ud800 b", 100) == "a ? b"
