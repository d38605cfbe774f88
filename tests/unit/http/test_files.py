"""Which files are found, and as what they are shown."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.http.pages.files import _headers, find, media_type_of
from trafficlight.http.responses import ApiError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    (root / "outside.txt").write_text("no")
    inside = root / "inside"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "a b.txt").write_text("yes")
    (inside / "link").symlink_to(root / "outside.txt")
    (inside / "loop").symlink_to(inside / "loop")
    return inside


def test_a_file_is_found(folder: Path) -> None:
    assert find(folder, "deep/a b.txt").read_text() == "yes"


NOTHING = ["", ".", "..", "../outside.txt", "deep/../../outside.txt", "/etc/passwd", "link", "loop", "deep"]
ODD = ["deep/", "x\0", "deep//a b.txt", "./deep/a b.txt", "\ud800", "x" * 5000]


@pytest.mark.parametrize("name", [*NOTHING, *ODD])
def test_nothing_else_is(folder: Path, name: str) -> None:
    with pytest.raises(ApiError, match="no such file"):
        find(folder, name)


@given(name=st.text() | st.lists(st.sampled_from(["..", ".", "", "deep", "link", "a b.txt"])).map("/".join))
def test_no_name_leads_out(folder: Path, name: str) -> None:
    try:
        found = find(folder, name)
    except ApiError:
        return
    assert found.is_relative_to(folder)


@pytest.mark.parametrize(
    ("name", "media_type", "kind"),
    [
        ("a.png", "image/png", "inline"),
        ("a.PNG", "image/png", "inline"),
        ("a.mp4", "video/mp4", "inline"),
        ("a.log", "text/plain; charset=utf-8", "inline"),
        ("events.jsonl", "text/plain; charset=utf-8", "inline"),
        ("a.svg", "image/svg+xml", "attachment"),
        ("a.html", "text/html; charset=utf-8", "attachment"),
        ("a.xhtml", "application/xhtml+xml", "attachment"),
        ("a.js", None, "attachment"),
        ("a.pdf", "application/pdf", "attachment"),
        ("a", "application/octet-stream", "attachment"),
    ],
)
def test_only_what_cannot_run_is_shown(name: str, media_type: str | None, kind: str) -> None:
    headers = _headers(name)
    assert media_type is None or headers["Content-Type"] == media_type
    assert headers["Content-Disposition"].startswith(kind)
    assert "sandbox" in headers["Content-Security-Policy"]


@given(name=st.text(min_size=1))
def test_every_name_makes_a_header(name: str) -> None:
    for value in _headers(name).values():
        assert value.isascii()
        assert value.isprintable()
        assert value.count('"') in (0, 2)


def test_the_type_is_told_by_the_last_suffix() -> None:
    assert media_type_of("spec.ts.mp4") == "video/mp4"
