"""Whatever text comes in, a page comes out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.results.reports.parts import Parts
from trafficlight.results.reports.presentation import _code, _environment, render


@given(message=st.text(st.characters()) | st.just("\ud800\x00\x1b<b>"))
def test_any_text_makes_a_page(message: str) -> None:
    page = render("error.html", live=Parts(), root="", status=404, message=message).decode()
    assert "<b>" not in page
    assert not any(ord(letter) < 32 and letter not in "\n\t\r" for letter in page)


@given(target=st.text(st.characters()))
def test_any_text_stays_within_its_attribute(target: str) -> None:
    page = render("login.html", live=Parts(), root="", status=401, message="", target=target).decode()
    assert re.search(r'<input type="hidden" name="next" value="[^"<>]*">\n<', page)


@pytest.mark.parametrize("name", _environment().list_templates(["html"]))
def test_every_template_compiles(name: str) -> None:
    _environment().get_template(name)


def test_backticks_become_code() -> None:
    assert _code("say `<b>` now") == "say <code>&lt;b&gt;</code> now"
