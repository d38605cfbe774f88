"""Truncation of text that tests and clients wrote."""

from hypothesis import given
from hypothesis import strategies as st

from trafficlight.text import truncate


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
