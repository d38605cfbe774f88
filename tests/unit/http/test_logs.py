"""The lines of text files: where they are, how they look, what is found in them."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.http.pages import logs
from trafficlight.http.pages.logs import find, page_of, styled
from trafficlight.results.reports.evidence import time_of


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of three lines, blocks of eight bytes."""
    monkeypatch.setattr(logs, "LINES", 3)
    monkeypatch.setattr(logs, "_BLOCK", 8)


def shown(path: Path, first: int | None) -> list[tuple[int, str]]:
    return [(row.number, str(row.text)) for row in page_of([path], first).rows]


def test_any_lines_of_a_file_are_found_while_it_grows(tmp_path: Path, small: None) -> None:
    path = tmp_path / "a.log"
    lines = ["", "a" * 30, "b", "", "c" * 8, "d" * 7, "e"]
    for number in range(1, len(lines) + 1):
        path.write_text("\n".join(lines[:number]) + ("\n" if number % 2 else ""))
        # The empty first line is none without its line feed.
        total = number if number % 2 or lines[number - 1] else number - 1
        assert page_of([path], None).total == total
        expected = list(enumerate(lines[:total], 1))
        for first in range(1, total + 1):
            assert shown(path, first) == expected[first - 1 : first + 2]
        assert shown(path, None) == expected[-3:]
    assert shown(path, 99) == [(7, "e")]
    path.write_text("short\n")
    assert (page_of([path], None).total, shown(path, 1)) == (1, [(1, "short")])
    path.write_text("")
    assert (page_of([path], None).total, shown(path, None)) == (0, [])


def test_a_line_and_a_page_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 1_000_000 + b"\nend\n")
    first, second = page_of([path], None).rows
    assert (len(first.text), first.cut, str(second.text)) == (4_000, 996_000, "end")
    assert len(styled("\x1b[1mx" * 800)) < 40_000
    monkeypatch.setattr(logs, "_READ", 10_000)
    assert len(page_of([path], 1).rows) == 1


def test_files_are_merged_by_time(tmp_path: Path) -> None:
    server, client = tmp_path / "server.log", tmp_path / "client.log"
    server.write_text("begin\n2026-01-01 10:00:01,500 one\n  more of it\n2026-01-01T10:00:03Z three\n")
    client.write_text('{"time": "2026-01-01T11:00:02+01:00"}\n2026-01-01 99:00:00 no time\n')
    page = page_of([server, client], 1)
    assert [(row.file, row.line) for row in page.rows] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (0, 4)]
    assert (page.total, page.size) == (6, server.stat().st_size + client.stat().st_size)
    assert find([server, client], "NO TIME", 1) == 5


def test_of_merged_files_the_ends_are_shown(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_MERGED", 1)
    paths = [tmp_path / name for name in ("a.log", "b.log")]
    for path in paths:
        path.write_text("1\n2\n3\n4\n5\n6\n7\n8\n9\n")
    page = page_of(paths, 1)
    assert page.cut
    assert [(row.line, str(row.text)) for row in page_of(paths, None).rows] == [(7, "7"), (8, "8"), (9, "9")]


@pytest.mark.parametrize("blocks", [1, 100])
def test_of_merged_files_only_what_was_appended_is_read_again(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    monkeypatch.setattr(logs, "LINES", 100)
    monkeypatch.setattr(logs, "_MERGED", blocks)
    dated = Mock(side_effect=time_of)
    monkeypatch.setattr(logs, "time_of", dated)
    paths, copies = ([tmp_path / f"{name}{n}.log" for n in "12"] for name in ("here", "there"))

    def merged(files: list[Path]) -> list[tuple[int, int, str]]:
        return [(row.file, row.line, str(row.text)) for row in page_of(files, None).rows]

    for path in paths:
        path.touch()
    for second, end in enumerate(("\n", "", " and more\n", "\n", "\n", "", "\n", "another file\n")):
        with paths[second % 2].open("w" if "file" in end else "a") as file:
            file.write(f"2026-01-01 10:00:{second:02} it{end}")
        for copy, path in zip(copies, paths, strict=True):
            copy.unlink(missing_ok=True)
            copy.write_bytes(path.read_bytes())
        dated.reset_mock()
        found = merged(paths)
        assert dated.call_count <= 3
        assert found == merged(copies)


def test_levels_are_those_of_the_usual_formats(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    lines = {
        "2026-01-01 10:00:00,000 INFO    lab: starts": "info",
        '{"level":"warn","msg":"it"}': "warning",
        "time=x level=fatal msg=it": "error",
        "console.warning: it": "warning",
        "console.log: it": "",
        "ERROR it": "error",
        "    at line 7": "error",
        "Traceback (most recent call last):": "error",
        "DEBUG it": "debug",
        "INFORMATION of no level": "",
    }
    path.write_text("\n".join(lines))
    assert [row.level for row in page_of([path], 1).rows] == list(lines.values())


def test_a_text_is_found_forwards_and_backwards(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("Hit\nno\nhIt again\nno\n")
    assert [find([path], "hit", line) for line in (0, 1, 2, 3, 4)] == [1, 3, 3, 1, 1]
    assert [find([path], "HIT", line, backwards=True) for line in (1, 2, 3, 4)] == [3, 1, 1, 3]
    assert find([path], "nothing", 0) is None


@pytest.mark.parametrize(
    ("line", "html"),
    [
        ("\x1b[1;31mred\x1b[0m <b>", '<span class="a-red a-bold">red</span> &lt;b&gt;'),
        ("\x1b[38;5;196mmany\x1b[38;2;1;31;4m colours", "many colours"),
        ("\x1b[2K\x1b[1A\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link\x1b[?25l", "textlink"),
        (
            "\x1b[92mok\x1b[39m\x1b[3m!\x1b[22m",
            '<span class="a-green">ok</span><span class="a-italic">!</span>',
        ),
        ("\x1bX \x07 \x1b[31", "#x1bX #x07 #x1b[31"),
    ],
)
def test_escape_sequences_become_classes(line: str, html: str) -> None:
    assert str(styled(line)) == html


def test_what_is_sought_is_marked() -> None:
    assert str(styled("a <B> b", "<b>")) == "a <mark>&lt;B&gt;</mark> b"
    assert str(styled("a.b", ".")) == "a<mark>.</mark>b"


@given(
    st.text(st.sampled_from("<&\"'\x1b[];0123489mK\x07\\ ax\n\r")), st.sampled_from(["", "<", "&", "a", "'"])
)
def test_nothing_of_a_line_is_markup(line: str, text: str) -> None:
    plain = str(styled(line, text))
    for ours in ('<span class="', "</span>", '">', "<mark>", "</mark>"):
        plain = plain.replace(ours, "")
    assert "<" not in plain
    assert "\x1b" not in plain
    assert "\x07" not in plain
