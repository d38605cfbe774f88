"""Case ids can be read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.suites.case_ids import CaseId, Cell, base_id, encode_file, parse_case_id
from trafficlight.suites.rendering import render_name, render_value

identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
scalars = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
rendered = st.text().map(render_name) | (scalars | st.lists(scalars, max_size=3)).map(render_value)
cells = st.builds(Cell, st.lists(identifiers, min_size=1, max_size=2).map("+".join), rendered)
files = st.text(st.characters(exclude_characters="\0/"), min_size=1).filter(
    lambda name: name not in {".", ".."}
)
case_ids = st.builds(
    CaseId,
    files,
    identifiers,
    st.just("run") | identifiers.map(lambda name: f"test_{name}"),
    st.lists(cells, max_size=4).map(tuple),
    st.integers(1, 3),
)


@given(case_ids)
def test_an_id_reads_back_to_the_same_case(case_id: CaseId) -> None:
    text = str(case_id)
    assert parse_case_id(text) == case_id
    assert text.isprintable()


@given(case_ids, case_ids)
def test_ids_are_the_same_only_for_the_same_case(one: CaseId, other: CaseId) -> None:
    assert (str(one) == str(other)) == (one == other)


def test_an_id_is_what_people_would_write() -> None:
    cells = (Cell("alice", "Nio"), Cell("server1+server2", "TwoSynapseFederation"), Cell("size", "10"))
    case_id = CaseId("chat/a_test.py", "A", "test_x", cells, 2)
    assert (
        str(case_id) == "chat/a_test.py::A.test_x[alice=Nio,server1+server2=TwoSynapseFederation,size=10]#2"
    )
    assert case_id.suite == "chat/a_test.py::A.test_x"
    assert str(CaseId("a_test.py", "A")) == "a_test.py::A"


def test_the_base_of_a_repetition() -> None:
    assert base_id('a.py::A[x="#2"]#13') == 'a.py::A[x="#2"]'
    assert base_id('a.py::A[x="#2"]') == 'a.py::A[x="#2"]'


@pytest.mark.parametrize(
    "text", ["", "a.py", "::A", "a.py::", "a.py::A[", "a.py::A[x]", "a.py::A[=1]", "a.py::1"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        parse_case_id(text)


def test_files_keep_their_names_where_they_can() -> None:
    assert encode_file("größe [1]/a_test.py") == "größe [1]/a_test.py"
    assert encode_file("a::b%\n") == "a%3A%3Ab%25%0A"
